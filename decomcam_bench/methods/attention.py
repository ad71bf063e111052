"""Relevance through the attention of a ViT, weighted by gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from decomcam_bench.methods.base import Cost, Evidence, Explanation, MapMethod
from decomcam_bench.methods.ops.validity import NON_FINITE_GRADIENTS, ZERO_GRADIENTS, finish, inspect


@dataclass
class AttentionRelevance(MapMethod):
    """Generic attention explainability, "GAE" (Chefer, Gur and Wolf 2021b), of the image tower.

    R starts as the identity over the tokens; each block in turn adds mean_heads(ReLU(A * dA)) R, A
    its attention and dA the gradient of the score. The map is the class token's row of R over the
    patches. ``layer`` names the first block that counts: the last one alone by default, as the
    authors' notebook for CLIP; ``layer=block0`` is all of them, as the paper.
    """

    id = "gae"

    needs: ClassVar[frozenset[str]] = frozenset({"attentions"})

    def map(self, evidence: Evidence) -> Explanation:
        failures = inspect(evidence)
        attentions = evidence.extras["attentions"]().float()
        finite = attentions.isfinite().flatten(1).all(1)
        failures.add(~finite, NON_FINITE_GRADIENTS)
        failures.add(attentions.eq(0).flatten(1).all(1), ZERO_GRADIENTS)
        row = class_token_row(failures.clean(attentions))
        return finish(row[:, 1:].unflatten(1, evidence.image_activations.shape[-2:]), "bilinear", failures)

    def cost(self, rank: int | None, channels: int) -> Cost:
        return Cost(backward=1)


def class_token_row(attentions: Tensor) -> Tensor:
    """The first row of (I + A_B) ... (I + A_1): (P, T) of (P, B, T, T).

    Only that row is wanted, so it is carried from the last block to the first instead of whole
    matrices from the first to the last.
    """
    row = torch.zeros(len(attentions), 1, attentions.shape[-1], device=attentions.device)
    row[..., 0] = 1
    for block in reversed(range(attentions.shape[1])):
        row = row + row @ attentions[:, block]
    return row[:, 0]
