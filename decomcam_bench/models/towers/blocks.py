"""Names of layers in a transformer: a block, and a place inside it."""

from __future__ import annotations

import re

import torch
from torch import Tensor

#: Where a block can be read: the tokens that its attention reads (after the first norm, in blocks that normalise
#: first), those that its MLP reads, and the residual stream after the block. The first is the default.
POINTS = ("ln_1", "ln_2", "out")


def canonical(name: str, count: int) -> str | None:
    """Return the canonical name of a layer of ``count`` blocks, or None if there is no such layer.

    >>> canonical("block-1", 12), canonical("block3.ln_1", 12), canonical("block-2.out", 12), canonical("block12", 12)
    ('block11', 'block3', 'block10.out', None)
    """
    match = re.fullmatch(r"block(-?\d+)(?:\.(\w+))?", name)
    if match is None or not -count <= int(match.group(1)) < count or (match.group(2) or "ln_1") not in POINTS:
        return None
    return layer_name(int(match.group(1)) % count, match.group(2) or "ln_1")


def layer_name(number: int, point: str) -> str:
    """Return the canonical name of a point in a block."""
    return f"block{number}" if point == POINTS[0] else f"block{number}.{point}"


def parse(layer: str) -> tuple[int, str]:
    """Return the number of the block and the point of a canonical name."""
    number, _, point = layer.removeprefix("block").partition(".")
    return int(number), point or POINTS[0]


def to_map(tokens: Tensor, prefix: int, grid: tuple[int, int]) -> Tensor:
    """Return the patches of tokens (N, prefix + h w, C) as activations (N, C, h, w)."""
    patches = tokens[:, prefix:].transpose(1, 2)
    return patches.reshape(*patches.shape[:2], *grid)


def to_tokens(prefix: Tensor, activations: Tensor) -> Tensor:
    """Return tokens (N, P + h w, C) from prefix tokens (N, P, C) and activations (N, C, h, w)."""
    return torch.cat([prefix, activations.flatten(2).transpose(1, 2).to(prefix.dtype)], dim=1)
