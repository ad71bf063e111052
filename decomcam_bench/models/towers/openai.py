"""OpenAI's two image towers as open_clip builds them: ModifiedResNet and VisionTransformer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from decomcam_bench.models.surgery import open_block, surgery_of_blocks, surgery_of_pool
from decomcam_bench.models.towers import blocks as names
from decomcam_bench.models.towers.base import LayerState, Tower


class ResNetTower(Tower):
    """Layers ``layer1`` to ``layer4``, the outputs of the stages, and ``layerL.B``, the output of block B in one."""

    kind: ClassVar[str] = "ResNet"
    default_layer = "layer4"

    def __init__(self, visual: ModifiedResNet) -> None:
        self.visual: Any = visual
        self._blocks: dict[str, nn.Module] = {}
        self._last: dict[str, str] = {}
        for number in range(1, 5):
            for position, block in enumerate(getattr(visual, f"layer{number}")):
                self._blocks[f"layer{number}.{position}"] = block
                self._last[f"layer{number}"] = f"layer{number}.{position}"

    @property
    def layers(self) -> tuple[str, ...]:
        aliases = {block: layer for layer, block in self._last.items()}
        return tuple(aliases.get(name, name) for name in self._blocks)

    def canonical(self, name: str) -> str:
        match = re.fullmatch(r"(layer[1-4])(?:\.(-?\d+))?", name)
        if match is None:
            raise self._refuse(name)
        layer, block = match.groups()
        count = int(self._last[layer].rpartition(".")[2]) + 1
        position = count - 1 if block is None else int(block)
        if not -count <= position < count:
            raise self._refuse(name)
        position %= count
        return str(layer) if position == count - 1 else f"{layer}.{position}"

    def forward(self, images: Tensor, layers: Sequence[str]) -> tuple[Tensor, dict[str, LayerState]]:
        wanted = {self._last.get(layer, layer): layer for layer in layers}
        states: dict[str, LayerState] = {}
        x = self.visual.stem(images)
        for name, block in self._blocks.items():
            x = block(x)
            if name in wanted:
                states[wanted[name]] = LayerState(x)
        return self.visual.attnpool(x), states

    def head(self, layer: str, activations: Tensor, context: tuple[Tensor, ...]) -> Tensor:
        start = list(self._blocks).index(self._last.get(layer, layer)) + 1
        x = activations
        for block in list(self._blocks.values())[start:]:
            x = block(x)
        features: Tensor = self.visual.attnpool(x)
        return features

    def surgery(self, images: Tensor, blocks: int, values: str) -> tuple[Tensor, Tensor]:
        x = self.visual.stem(images)
        for block in self._blocks.values():
            x = block(x)
        return surgery_of_pool(self.visual.attnpool, x, values)

    def lacks(self, extra: str, layer: str) -> str:
        return "its image tower is a ResNet without attention between patches" if extra == "attentions" else ""


class ViTTower(Tower):
    """Layers ``block0`` to ``blockN`` (negative numbers count from the end), each at a point.

    Points: ``ln_1`` (default: the tokens that the block's attention reads), ``ln_2`` (those that its MLP reads) and
    ``out`` (the residual stream after the block). After the last block, and at its ``ln_2``, only the class token
    reaches the output: patches have no gradient there.
    """

    kind: ClassVar[str] = "ViT"
    default_layer = "block-1"
    points = names.POINTS

    def __init__(self, visual: VisionTransformer) -> None:
        self.visual: Any = visual
        self.blocks: list[Any] = list(visual.transformer.resblocks)
        side = visual.grid_size
        self.grid: tuple[int, int] = (side[0], side[1])

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(f"block{number}" for number in range(len(self.blocks)))

    def canonical(self, name: str) -> str:
        found = names.canonical(name, len(self.blocks))
        if found is None:
            raise self._refuse(name)
        return found

    def forward(self, images: Tensor, layers: Sequence[str]) -> tuple[Tensor, dict[str, LayerState]]:
        wanted = {names.parse(layer): layer for layer in layers}
        states: dict[str, LayerState] = {}

        def keep(number: int, point: str, tokens: Tensor, *context: Tensor) -> None:
            if (number, point) in wanted:
                activations = names.to_map(tokens, 1, self.grid)
                states[wanted[number, point]] = LayerState(activations, (tokens[:, :1], *context))

        x = self.visual._embeds(images)
        for number, block in enumerate(self.blocks):
            read = block.ln_1(x)
            keep(number, "ln_1", read, x)
            x = x + block.ls_1(block.attention(q_x=read))
            read = block.ln_2(x)
            keep(number, "ln_2", read, x)
            x = x + block.ls_2(block.mlp(read))
            keep(number, "out", x)
        return self._pool(x), states

    def head(self, layer: str, activations: Tensor, context: tuple[Tensor, ...]) -> Tensor:
        number, point = names.parse(layer)
        block = self.blocks[number]
        x = names.to_tokens(context[0], activations)
        if point == "ln_1":
            x = context[1] + block.ls_1(block.attention(q_x=x))
            x = x + block.ls_2(block.mlp(block.ln_2(x)))
        elif point == "ln_2":
            x = context[1] + block.ls_2(block.mlp(x))
        for later in self.blocks[number + 1 :]:
            x = later(x)
        return self._pool(x)

    def surgery(self, images: Tensor, blocks: int, values: str) -> tuple[Tensor, Tensor]:
        if self.lacks("surgery_features", ""):
            return super().surgery(images, blocks, values)
        x = self.visual._embeds(images)
        first = max(0, len(self.blocks) - blocks)
        for block in self.blocks[:first]:
            x = block(x)
        x, second = surgery_of_blocks(x, self.blocks[first:], values)
        patches = self.visual.ln_post(second[:, 1:])
        if self.visual.proj is not None:
            patches = patches @ self.visual.proj
        return self._pool(x), names.to_map(patches, 0, self.grid)

    def lacks(self, extra: str, layer: str) -> str:
        if extra == "attentions":
            if self.visual.pool_type != "tok":
                return "its image tower does not pool by a class token"
            number, point = names.parse(layer)
            if point != "ln_1" and number + 1 == len(self.blocks):
                return f"no attention follows {layer}"
        return ""

    def attended(self, layer: str, activations: Tensor, context: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor]]:
        number, point = names.parse(layer)
        block = self.blocks[number]
        x = names.to_tokens(context[0], activations)
        seen = []
        if point == "ln_1":
            x, weights = open_block(block, x, context[1])
            seen.append(weights)
        elif point == "ln_2":
            x = context[1] + block.ls_2(block.mlp(x))
        for later in self.blocks[number + 1 :]:
            x, weights = open_block(later, later.ln_1(x), x)
            seen.append(weights)
        return self._pool(x), seen

    def _pool(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.visual._pool(x)[0]
        return pooled @ self.visual.proj if self.visual.proj is not None else pooled
