"""Image towers made of a timm transformer: SigLIP, EVA, PE, ViTamin, MobileCLIP-B and others.

timm's ``VisionTransformer`` and ``Eva`` cover them: blocks that normalise first or last, layer scale, rotary positions,
no class token or one, and features pooled from the class token, from an average, or by an attention of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from timm.layers.attention import Attention, AttentionRope
from timm.models.eva import Eva, EvaAttention, EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer
from torch import Tensor, nn

from decomcam_bench.models.surgery import heads_of, value_attention
from decomcam_bench.models.towers import blocks as names
from decomcam_bench.models.towers.base import LayerState, Tower

#: Blocks that this view can take apart.
_PRE_NORM = (Block, EvaBlock)
_POST_NORM = (ResPostBlock, EvaBlockPostNorm)
_ATTENTIONS = (Attention, AttentionRope, EvaAttention)


def is_timm_vit(trunk: nn.Module) -> bool:
    """Return whether a trunk is a transformer whose blocks can be taken apart."""
    return isinstance(trunk, VisionTransformer | Eva) and all(
        type(block) in (*_PRE_NORM, *_POST_NORM) and isinstance(block.attn, _ATTENTIONS) for block in trunk.blocks
    )


class TimmViTTower(Tower):
    """Layers ``block0`` to ``blockN``, each at a point, as for OpenAI's ViT.

    Points: ``ln_1`` (default: the tokens that the block's attention reads), ``ln_2`` (those that its MLP reads) and
    ``out`` (the residual stream after the block). In blocks that normalise last (EVA-E) the attention and the MLP read
    the residual stream itself; a changed ``ln_1`` changes what they read and leaves the stream as it was.

    After the last block, and at its ``ln_2``, towers that pool by the class token (EVA, MobileCLIP-B) have no gradient
    at patches; towers that pool over patches (SigLIP, PE, ViTamin) do. The default, ``block-1`` at ``ln_1``, has a
    gradient that differs between patches in all of them.
    """

    kind: ClassVar[str] = "timm ViT"
    default_layer = "block-1"
    points = names.POINTS

    def __init__(self, visual: Any, name: str) -> None:
        self.visual = visual
        self.trunk: Any = visual.trunk
        self.name = name
        self.blocks: list[Any] = list(self.trunk.blocks)
        self.prefix = int(self.trunk.num_prefix_tokens)
        embed = self.trunk.patch_embed
        # open_clip may feed another size than the trunk was made for (ViTamin-XL-384: 256)
        sides = zip(embed.grid_size, visual.image_size, embed.img_size, strict=True)
        height, width = (grid * size // made_for for grid, size, made_for in sides)
        self.grid: tuple[int, int] = (int(height), int(width))

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
                activations = names.to_map(tokens, self.prefix, self.grid)
                states[wanted[number, point]] = LayerState(activations, (tokens[:, : self.prefix], *context))

        x = self._embed(images)
        for number, block in enumerate(self.blocks):
            read = _attention_input(block, x)
            keep(number, "ln_1", read, x)
            x = x + _attention_branch(block, read, self._rope(number))
            read = _mlp_input(block, x)
            keep(number, "ln_2", read, x)
            x = x + _mlp_branch(block, read)
            keep(number, "out", x)
        return self._pool(x), states

    def head(self, layer: str, activations: Tensor, context: tuple[Tensor, ...]) -> Tensor:
        number, point = names.parse(layer)
        x = self._resume(number, point, names.to_tokens(context[0], activations), context)
        for later in range(number + 1, len(self.blocks)):
            x = self._run(later, x)
        return self._pool(x)

    def _resume(self, number: int, point: str, x: Tensor, context: tuple[Tensor, ...]) -> Tensor:
        """Return the residual stream after a block, from tokens ``x`` at a point in it."""
        block = self.blocks[number]
        if point == "ln_1":
            x = context[1] + _attention_branch(block, x, self._rope(number))
            return x + _mlp_branch(block, _mlp_input(block, x))
        return context[1] + _mlp_branch(block, x) if point == "ln_2" else x

    def _run(self, number: int, x: Tensor) -> Tensor:
        block = self.blocks[number]
        x = x + _attention_branch(block, _attention_input(block, x), self._rope(number))
        return x + _mlp_branch(block, _mlp_input(block, x))

    def _embed(self, images: Tensor) -> Tensor:
        """Return the tokens (N, T, C) that the first block reads."""
        trunk = self.trunk
        x = trunk._pos_embed(trunk.patch_embed(images))
        x = x[0] if isinstance(x, tuple) else trunk.patch_drop(x)
        tokens: Tensor = trunk.norm_pre(x)
        return tokens

    def _rope(self, number: int) -> Tensor | None:
        """Return the rotary positions of a block; None in towers without them."""
        rope = getattr(self.trunk, "rope", None)
        if rope is None:
            return None
        fixed = not self.trunk.dynamic_img_size and hasattr(rope, "feat_shape")
        embedding: Tensor = rope.get_embed() if fixed else rope.get_embed(shape=self.grid)
        return embedding[number] if getattr(self.trunk, "rope_mixed", False) else embedding

    def _pool(self, x: Tensor) -> Tensor:
        features: Tensor = self.visual.head(self.trunk.forward_head(self.trunk.norm(x)))
        return features

    @property
    def _by_class_token(self) -> bool:
        return self.prefix == 1 and self.trunk.global_pool == "token" and self.trunk.attn_pool is None

    def lacks(self, extra: str, layer: str) -> str:
        if extra not in ("attentions", "surgery_features"):
            return ""
        if not self._by_class_token:
            how = "by an attention of its own" if self.trunk.attn_pool is not None else "over its patches"
            return f"its image tower pools {how}, not by a class token"
        if extra == "attentions" and names.parse(layer)[1] != "ln_1" and names.parse(layer)[0] + 1 == len(self.blocks):
            return f"no attention follows {layer}"
        return ""

    def remark(self, layer: str) -> str:
        averaged = self.trunk.global_pool == "avg" and isinstance(self.trunk.norm, nn.Identity)
        if not averaged or layer != names.layer_name(len(self.blocks) - 1, "out"):
            return ""
        return (
            f"layer={layer} of {self.name}: its positions are averaged right away, so the gradient is the same at "
            f"every position and HiResCAM equals Grad-CAM; layer={self.layers[-1]} tells them apart"
        )

    def attended(self, layer: str, activations: Tensor, context: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor]]:
        number, point = names.parse(layer)
        first = number if point == "ln_1" else number + 1
        with _opened([block.attn for block in self.blocks[first:]]) as weights:
            features = self.head(layer, activations, context)
        return features, weights

    def surgery(self, images: Tensor, blocks: int, values: str) -> tuple[Tensor, Tensor]:
        if not self._by_class_token:
            return super().surgery(images, blocks, values)
        x = self._embed(images)
        first = max(0, len(self.blocks) - blocks)
        for number in range(first):
            x = self._run(number, x)
        second = x
        for number in range(first, len(self.blocks)):
            block = self.blocks[number]
            second = second + _value_branch(block, _attention_input(block, x), values)
            x = self._run(number, x)
        patches = self.trunk.norm(second)[:, self.prefix :]
        patches = self.visual.head(self.trunk.head(self.trunk.fc_norm(patches)))
        return self._pool(x), patches.mT.reshape(len(x), -1, *self.grid)


def _attention_input(block: Any, x: Tensor) -> Tensor:
    read: Tensor = block.norm1(x) if isinstance(block, _PRE_NORM) else x
    return read


def _mlp_input(block: Any, x: Tensor) -> Tensor:
    read: Tensor = block.norm2(x) if isinstance(block, _PRE_NORM) else x
    return read


def _attention_branch(block: Any, read: Tensor, rope: Tensor | None) -> Tensor:
    attended = block.attn(read) if isinstance(block, Block | ResPostBlock) else block.attn(read, rope=rope)
    return _scaled(block, attended, 1)


def _mlp_branch(block: Any, read: Tensor) -> Tensor:
    return _scaled(block, block.mlp(read), 2)


def _scaled(block: Any, branch: Tensor, number: int) -> Tensor:
    """Return what a block adds to the residual stream: a branch after its layer scale or its norm."""
    if isinstance(block, Block):
        scaled: Tensor = getattr(block, f"ls{number}")(branch)
        return scaled
    if isinstance(block, EvaBlock):
        gamma: Tensor | None = getattr(block, f"gamma_{number}")
        return branch if gamma is None else gamma * branch
    normed: Tensor = getattr(block, f"norm{number}")(branch)
    return normed


def _value_branch(block: Any, read: Tensor, values: str) -> Tensor:
    """Return what a block adds to CLIP Surgery's second stream: its attention by the similarity of values."""
    attention = block.attn
    v = heads_of(_values(attention, read), attention.num_heads)
    mixed = (value_attention(v, values) @ v).transpose(1, 2).flatten(2)
    return _scaled(block, attention.proj(attention.norm(mixed)), 1)


def _values(attention: Any, read: Tensor) -> Tensor:
    """Return the values (N, T, d) of tokens (N, T, C)."""
    if attention.qkv is None:
        found: Tensor = attention.v_proj(read)
        return found
    weight = attention.qkv.weight.chunk(3)[2]
    bias = attention.v_bias if getattr(attention, "v_bias", None) is not None else attention.qkv.bias
    if bias is not None and len(bias) != len(weight):
        bias = bias.chunk(3)[2]
    return nn.functional.linear(read, weight, bias)


@contextmanager
def _opened(attentions: Sequence[Any]) -> Iterator[list[Tensor]]:
    """Compute attentions step by step and collect their weights (N, heads, T, T), in order of use.

    timm's modules do both: where the fused kernel is off, the weights pass through ``attn_drop``.
    """
    weights: list[Tensor] = []
    fused = [attention.fused_attn for attention in attentions]

    def collect(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        weights.append(output)

    handles = [attention.attn_drop.register_forward_hook(collect) for attention in attentions]
    try:
        for attention in attentions:
            attention.fused_attn = False
        yield weights
    finally:
        for attention, value, handle in zip(attentions, fused, handles, strict=True):
            attention.fused_attn = value
            handle.remove()
