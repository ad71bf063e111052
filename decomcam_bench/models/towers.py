"""One view of CLIP's two image towers: read a layer, and run what follows it.

A tower is a sequence of steps. :meth:`Tower.forward` runs them once and keeps the activations of
the layers that were asked for; :meth:`Tower.head` continues from a layer with other activations in
its place. So a gradient with respect to a layer costs the head alone, not the whole network.
"""

from __future__ import annotations

import abc
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from decomcam_bench.core.errors import ModelError, did_you_mean
from decomcam_bench.models.surgery import open_block, surgery_of_blocks, surgery_of_pool


@dataclass
class LayerState:
    """A layer's activations and what the head needs beside them.

    Attributes:
        activations: (N, C, h, w).
        context: tensors of leading size N that stay as they were (the residual stream and the
            class token of a ViT).
    """

    activations: Tensor
    context: tuple[Tensor, ...] = ()


class Tower(abc.ABC):
    """An image tower of CLIP, split at named layers."""

    default_layer: str

    @property
    @abc.abstractmethod
    def layers(self) -> tuple[str, ...]:
        """Canonical names of all layers, from input to output."""

    @abc.abstractmethod
    def canonical(self, name: str) -> str:
        """The canonical name of a layer: aliases and negative numbers resolved.

        Raises:
            ModelError: when the tower has no such layer; the message lists those it has.
        """

    @abc.abstractmethod
    def forward(self, images: Tensor, layers: Sequence[str]) -> tuple[Tensor, dict[str, LayerState]]:
        """Image features (N, d), not normalised, and the states of canonical ``layers``."""

    @abc.abstractmethod
    def head(self, layer: str, activations: Tensor, context: tuple[Tensor, ...]) -> Tensor:
        """Image features (M, d) with ``activations`` (M, C, h, w) in place of the layer's own."""

    @abc.abstractmethod
    def surgery(self, images: Tensor, blocks: int, values: str) -> tuple[Tensor, Tensor]:
        """Features by CLIP Surgery's path, not normalised: class token (N, d) and grid (N, d, h, w).

        Args:
            blocks: blocks of a ViT, from the last, with a second path; a ResNet has one attention.
            values: see :data:`decomcam_bench.models.surgery.VALUES`.
        """

    def lacks(self, extra: str, layer: str) -> str:
        """Why the tower cannot give an extra (:data:`decomcam_bench.methods.base.EXTRAS`), or ''."""
        return ""

    def attended(self, layer: str, activations: Tensor, context: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor]]:
        """As :meth:`head`, with the attention weights (M, heads, T, T) of the blocks passed, in order.

        Raises:
            ModelError: for a tower that lacks ``attentions``.
        """
        raise ModelError(f"layer={layer}: there is no attention to read: {self.lacks('attentions', layer)}")

    def _refuse(self, name: str) -> ModelError:
        shown = ", ".join(self.layers if len(self.layers) <= 16 else (*self.layers[:6], "...", *self.layers[-6:]))
        return ModelError(f"layer={name}: no such layer{did_you_mean(name, self.layers)}; valid: {shown}")


class ResNetTower(Tower):
    """Layers ``layer1`` .. ``layer4`` (the output of their last block) and ``layerL.B``."""

    default_layer = "layer4"

    def __init__(self, visual: ModifiedResNet) -> None:
        self.visual = visual
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
        return layer if position == count - 1 else f"{layer}.{position}"

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
        return self.visual.attnpool(x)

    def surgery(self, images: Tensor, blocks: int, values: str) -> tuple[Tensor, Tensor]:
        x = self.visual.stem(images)
        for block in self._blocks.values():
            x = block(x)
        return self.visual.attnpool(x), surgery_of_pool(self.visual.attnpool, x, values)

    def lacks(self, extra: str, layer: str) -> str:
        return "its image tower is a ResNet without attention between patches" if extra == "attentions" else ""


class ViTTower(Tower):
    """Layers ``block0`` .. ``blockN`` (negative numbers count from the end), each at a point.

    Points: ``ln_1`` (default: the tokens that the block's attention reads), ``ln_2`` (those that
    its MLP reads) and ``out`` (the residual stream behind the block). Behind the last block, and at
    its ``ln_2``, only the class token reaches the output: patch tokens have no gradient there.
    """

    default_layer = "block-1"
    points = ("ln_1", "ln_2", "out")

    def __init__(self, visual: VisionTransformer) -> None:
        self.visual = visual
        self.blocks = list(visual.transformer.resblocks)
        side = visual.grid_size
        self.grid: tuple[int, int] = (side[0], side[1])

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(f"block{number}" for number in range(len(self.blocks)))

    def canonical(self, name: str) -> str:
        match = re.fullmatch(r"block(-?\d+)(?:\.(\w+))?", name)
        if match is None:
            raise self._refuse(name)
        number, point = int(match.group(1)), match.group(2) or "ln_1"
        if not -len(self.blocks) <= number < len(self.blocks):
            raise self._refuse(name)
        if point not in self.points:
            raise ModelError(f"layer={name}: no point '{point}' in a block; valid: {', '.join(self.points)}")
        number %= len(self.blocks)
        return f"block{number}" if point == "ln_1" else f"block{number}.{point}"

    def _parse(self, layer: str) -> tuple[int, str]:
        number, _, point = layer.removeprefix("block").partition(".")
        return int(number), point or "ln_1"

    def _grid_of(self, tokens: Tensor) -> Tensor:
        return tokens[:, 1:].transpose(1, 2).unflatten(2, self.grid)

    @staticmethod
    def _tokens_of(first: Tensor, activations: Tensor) -> Tensor:
        return torch.cat([first, activations.flatten(2).transpose(1, 2).to(first.dtype)], dim=1)

    def forward(self, images: Tensor, layers: Sequence[str]) -> tuple[Tensor, dict[str, LayerState]]:
        wanted = {self._parse(layer): layer for layer in layers}
        states: dict[str, LayerState] = {}

        def keep(number: int, point: str, tokens: Tensor, *context: Tensor) -> None:
            if (number, point) in wanted:
                states[wanted[number, point]] = LayerState(self._grid_of(tokens), (tokens[:, :1], *context))

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
        number, point = self._parse(layer)
        block = self.blocks[number]
        x = self._tokens_of(context[0], activations)
        if point == "ln_1":
            x = context[1] + block.ls_1(block.attention(q_x=x))
            x = x + block.ls_2(block.mlp(block.ln_2(x)))
        elif point == "ln_2":
            x = context[1] + block.ls_2(block.mlp(x))
        for later in self.blocks[number + 1 :]:
            x = later(x)
        return self._pool(x)

    def surgery(self, images: Tensor, blocks: int, values: str) -> tuple[Tensor, Tensor]:
        x = self.visual._embeds(images)
        first = max(0, len(self.blocks) - blocks)
        for block in self.blocks[:first]:
            x = block(x)
        x, second = surgery_of_blocks(x, self.blocks[first:], values)
        patches = self.visual.ln_post(second[:, 1:])
        if self.visual.proj is not None:
            patches = patches @ self.visual.proj
        return self._pool(x), patches.mT.unflatten(2, self.grid)

    def lacks(self, extra: str, layer: str) -> str:
        if extra in ("attentions", "surgery_features") and self.visual.attn_pool is not None:
            return "its image tower pools by an attention of its own"
        if extra == "attentions":
            if self.visual.pool_type != "tok":
                return "its image tower does not pool by a class token"
            number, point = self._parse(layer)
            if point != "ln_1" and number + 1 == len(self.blocks):
                return f"no attention follows {layer}"
        return ""

    def attended(self, layer: str, activations: Tensor, context: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor]]:
        number, point = self._parse(layer)
        block = self.blocks[number]
        x = self._tokens_of(context[0], activations)
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
        pooled, _ = self.visual._pool(x)
        return pooled @ self.visual.proj if self.visual.proj is not None else pooled


def tower_of(visual: nn.Module, name: str) -> Tower:
    """The view of an image tower.

    Raises:
        ModelError: for towers other than ModifiedResNet and VisionTransformer with plain blocks.
    """
    if isinstance(visual, ModifiedResNet):
        return ResNetTower(visual)
    if isinstance(visual, VisionTransformer) and all(
        type(block) is ResidualAttentionBlock for block in visual.transformer.resblocks
    ):
        return ViTTower(visual)
    raise unsupported_tower(name, type(visual).__name__)


def unsupported_tower(name: str, kind: str) -> ModelError:
    """The one line that refuses an image tower."""
    return ModelError(
        f"model {name}: image tower '{kind}' is not supported; choose an architecture with a ModifiedResNet "
        f"(RN50, ...) or a VisionTransformer (ViT-B-32, ...) tower"
    )
