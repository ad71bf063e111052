"""Explanations by the attention of a ViT: as it is, and weighted by gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.core.validation import check_at_least, check_choice
from decomcam_bench.methods.base import Cost, Evidence, Explanation, MapMethod, min_max
from decomcam_bench.methods.ops.validity import (
    NON_FINITE_ACTIVATIONS,
    NON_FINITE_GRADIENTS,
    ZERO_GRADIENTS,
    Failures,
    finish,
    inspect,
)

HEADS = ("single", "model")


@dataclass
class AttentionRelevance(MapMethod):
    """Generic attention explainability, "GAE" (Chefer, Gur and Wolf 2021b), of the image tower.

    R starts as the identity over the tokens; each block in turn adds mean_heads(ReLU(A * dA)) R, with A
    its attention and dA the gradient of the score. The map is the class token's row of R over the
    patches. ``layer`` names the first block that counts: only the last one by default, as in the
    authors' notebook for CLIP; ``layer=block0`` is all of them, as in the paper.
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
        return finish(row[:, 1:].reshape(len(row), *evidence.image_activations.shape[-2:]), "bilinear", failures)

    def cost(self, rank: int | None, channels: int) -> Cost:
        return Cost(backward=1)


def class_token_row(attentions: Tensor) -> Tensor:
    """Return the first row of (I + A_B) ... (I + A_1): (P, T) from (P, B, T, T).

    Only that row is needed, so it is carried from the last block to the first instead of multiplying
    whole matrices from the first to the last.
    """
    row = torch.zeros(len(attentions), 1, attentions.shape[-1], device=attentions.device)
    row[..., 0] = 1
    for block in reversed(range(attentions.shape[1])):
        row = row + row @ attentions[:, block]
    return row[:, 0]


@dataclass
class RawAttention(MapMethod):
    """The attention of the class token to the patches in one block, averaged over heads; blind to the text.

    Attributes:
        block: which block, negative from the last.
    """

    id = "raw_attention"

    block: int = -1

    needs: ClassVar[frozenset[str]] = frozenset({"attention_weights"})
    uses_layer: ClassVar[bool] = False

    def map(self, evidence: Evidence) -> Explanation:
        weights, grid, failures = _attention(evidence)
        if not -weights.shape[1] <= self.block < weights.shape[1]:
            raise ConfigError(f"method.block={self.block}: the tower has {weights.shape[1]} blocks")
        row = weights[:, self.block, 0, 1:][evidence.image_of]
        return finish(failures.clean(row.reshape(len(row), *grid)), "bilinear", failures)

    @property
    def backbone_pass(self) -> tuple[object, ...]:
        return ("attention_weights",)

    def cost(self, rank: int | None, channels: int) -> Cost:
        return Cost(backbone=1)


@dataclass
class AttentionRollout(MapMethod):
    """Attention rollout (Abnar and Zuidema 2020); blind to the text.

    The product over blocks of (A + I) with rows scaled to sum 1, A the mean over heads; the map is the
    class token's row over the patches.

    Attributes:
        first: the first block that counts.
    """

    id = "rollout"

    first: int = 0

    needs: ClassVar[frozenset[str]] = frozenset({"attention_weights"})
    uses_layer: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("method.first", self.first, 0)

    def map(self, evidence: Evidence) -> Explanation:
        weights, grid, failures = _attention(evidence)
        if self.first >= weights.shape[1]:
            raise ConfigError(f"method.first={self.first}: the tower has {weights.shape[1]} blocks, counted from 0")
        eye = torch.eye(weights.shape[-1], device=weights.device)
        row = eye[:1].expand(len(weights), 1, -1)
        for block in reversed(range(self.first, weights.shape[1])):
            mixed = weights[:, block] + eye
            row = row @ (mixed / mixed.sum(-1, keepdim=True))
        maps = row[evidence.image_of, 0, 1:].reshape(len(evidence), *grid)
        return finish(failures.clean(maps), "bilinear", failures)

    @property
    def backbone_pass(self) -> tuple[object, ...]:
        return ("attention_weights",)

    def cost(self, rank: int | None, channels: int) -> Cost:
        return Cost(backbone=1)


@dataclass
class LeGrad(MapMethod):
    """LeGrad (Bousselham et al. 2025): how the score of each block's output changes with its attention.

    The sum over the last blocks of the gradients that
    :func:`~decomcam_bench.models.vit_internals.legrad_gradients` describes, min-maxed, as in the authors'
    code for CLIP.

    Attributes:
        blocks: number of last blocks; all if the tower has fewer.
    """

    id = "legrad"

    score: str = "cosine"
    blocks: int = 2

    needs: ClassVar[frozenset[str]] = frozenset({"legrad_gradients"})
    uses_layer: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("method.blocks", self.blocks, 1)

    def map(self, evidence: Evidence) -> Explanation:
        gradients = evidence.extras["legrad_gradients"](self.blocks).float()
        failures = Failures(len(evidence), evidence.device)
        failures.add(~gradients.isfinite().flatten(1).all(1), NON_FINITE_GRADIENTS)
        failures.add(gradients.eq(0).flatten(1).all(1), ZERO_GRADIENTS)
        return finish(min_max(failures.clean(gradients).sum(1), (1, 2)), "bilinear", failures)

    def cost(self, rank: int | None, channels: int) -> Cost:
        return Cost(backward=1, backbone=1)


@dataclass
class GradEclip(MapMethod):
    """Grad-ECLIP (Zhao et al. 2024): ReLU(sum_c g_c v_c s) of each patch, from the last block.

    g is the gradient of the score at the attention's output of the class token, v the patch's value, and s
    the similarity of the class token's query with the patch's key, min-maxed over the patches.

    Attributes:
        similarity: whether s is used; otherwise it is 1.
        heads: ``single``: the last block attends with one head of full width, as in the authors' code, which
            changes what is differentiated; ``model``: with the model's own heads.
    """

    id = "grad_eclip"

    score: str = "cosine"
    similarity: bool = True
    heads: str = "single"

    needs: ClassVar[frozenset[str]] = frozenset({"class_token_gradients"})
    uses_layer: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("method.heads", self.heads, HEADS)

    def map(self, evidence: Evidence) -> Explanation:
        slopes, values, cosine = evidence.extras["class_token_gradients"](self.heads == "single")
        failures = Failures(len(evidence), evidence.device)
        finite = values.isfinite().flatten(1).all(1) & cosine.isfinite().flatten(1).all(1)
        failures.add(~finite[evidence.image_of], NON_FINITE_ACTIVATIONS)
        failures.add(~slopes.isfinite().all(1), NON_FINITE_GRADIENTS)
        failures.add(slopes.eq(0).all(1), ZERO_GRADIENTS)
        maps = torch.einsum("pd,pdhw->phw", failures.clean(slopes), failures.clean(values[evidence.image_of]))
        if self.similarity:
            maps = maps * failures.clean(min_max(cosine, (1, 2))[evidence.image_of])
        return finish(maps.relu(), "bilinear", failures)

    def cost(self, rank: int | None, channels: int) -> Cost:
        return Cost(backward=1, backbone=1)


def _attention(evidence: Evidence) -> tuple[Tensor, tuple[int, int], Failures]:
    """Return the attention of each image (N, B, T, T), its grid, and the pairs for which it is not finite."""
    weights, grid = evidence.extras["attention_weights"]()
    failures = Failures(len(evidence), evidence.device)
    failures.add(~weights.isfinite().flatten(1).all(1)[evidence.image_of], NON_FINITE_ACTIVATIONS)
    return weights.float(), grid, failures
