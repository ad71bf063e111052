"""DecomCAM (Yang et al., arXiv 2405.18882): decompose class maps, score the components, sum them up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.core.validation import check_at_least, check_choice
from decomcam_bench.methods.base import (
    Components,
    Cost,
    Evidence,
    Explanation,
    Method,
    score_in_batches,
)
from decomcam_bench.methods.gradient import leading_class_maps
from decomcam_bench.methods.ops.decomposition import SIGNS, Decomposition, decompose
from decomcam_bench.methods.ops.masking import Masker, blur_width, check_masking
from decomcam_bench.methods.ops.validity import (
    NO_COMPONENTS,
    NON_FINITE_MAP,
    NON_FINITE_SCORE,
    Failures,
    finish,
    inspect,
)

WEIGHTINGS = ("minmax", "softmax", "threshold")
CHANNEL_WEIGHTS = ("gradcam", "gradcam++")
#: Share of its singular value up to which the largest entry of a component map is rounding.
_ROUNDING = 1e-6
#: Share of the largest score up to which scores are the same.
_SAME_SCORE = 1e-5


@dataclass
class DecomCAM(Method):
    """Orthogonal sub-saliency maps (OSSMs), each weighted by what the model sees through it.

    1. Class maps S_k = a_k A_k, a_k the channel weight; the ``channels`` channels of largest
       (signed) a_k form a matrix X of positions by channels.
    2. The leading components of X, each u_k s_k, as maps; the ReLU of one is an OSSM. They are
       upsampled bicubically; the overshoot below zero stays, as in the official code.
    3. Each min-maxed OSSM masks the image, the rest of which is blurred; the model scores it.
    4. The map is the ReLU of the weighted sum of the OSSMs, not min-maxed ones. Upsampling is
       linear, so the sum is taken on the layer's grid.

    The rank is limited by the matrix, see :func:`~decomcam_bench.methods.ops.decomposition.decompose`:
    components beyond it are zero, are not scored, and have weight 0. Component k of all pairs is
    scored in batches of its own, so that a map of rank r is the same, bit by bit, whichever larger
    ranks were asked for with it, and all ranks cost what the largest costs.

    The published forms differ (arXiv 2405.18882 and its repository); each is a choice by name, so that
    a table names it. The defaults of the fields are those of the first:

    - ``decomcam``: the paper's figure: min-max weights. The score of the blurred image would be
      taken off all scores alike, so it is not taken.
    - ``decomcam_v1``: the code of 2023: d = score - score of the blurred image (cosine), weights
      d softmax(d); masked pixels are cut to 8 bits.
    - ``decomcam_notebook``: d as in v1, weights 0 below 0.01 and d / max(d) elsewhere; wide kernel.
    - ``decomcam_v25``: the fork of pytorch-grad-cam of 2024: 500 channels, masking of the normalised
      input, no blurred image, weights 0 below 0.001 and s / max(s) elsewhere. The fork scores with
      4.6 times the dot product of features that are not normalised; here :attr:`score` does.
    - ``decomcam_pp``: the first with the channel weights of Grad-CAM++, which depend on the scale of
      the score; its code differentiates the cosine (``score=cosine``).

    Attributes:
        channels: class maps kept, all if the layer has fewer.
        channel_weights: ``gradcam`` (mean gradient) or ``gradcam++``.
        centring: take off each channel's mean over positions before the decomposition.
        sign: ``spatial``, ``channel``, or ``both``: the positive and the negative half of each
            component are OSSMs of their own (in this order), twice as many as the rank. An OSSM without
            a positive entry (without centring a component may have one sign) is left out, as one that
            does not exist.
        blur_sigma: standard deviation of the blur, in pixels.
        scale_blur: ``blur_sigma`` is meant at an input of 224 pixels and scales with its height.
        truncate: radius of the blur kernel in sigmas.
        space: mask ``pixel`` values or the ``normalised`` input.
        composition: ``max`` of masked and blurred image, or their ``convex`` sum.
        quantise: cut masked pixels to 8 bits.
        weighting: ``minmax`` over the components of a pair (1 for all when their scores are equal up
            to rounding, as for a single one), ``softmax`` (d softmax(d)), or ``threshold`` (0 below it, else
            divided by the largest).
        threshold: of that weighting, in units of the score.
        baseline: score the blurred image, and take its score off the others.
    """

    id = "decomcam"

    channels: int = 100
    channel_weights: str = "gradcam"
    centring: bool = True
    sign: str = "spatial"
    blur_sigma: float = 10.0
    scale_blur: bool = True
    truncate: float = 4.0
    space: str = "pixel"
    composition: str = "max"
    quantise: bool = False
    weighting: str = "minmax"
    threshold: float = 0.0
    baseline: bool = False

    needs: ClassVar[frozenset[str]] = frozenset({"gradients", "score"})
    ranked: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("method.channels", self.channels, 1)
        check_choice("method.channel_weights", self.channel_weights, CHANNEL_WEIGHTS)
        check_choice("method.sign", self.sign, SIGNS)
        check_choice("method.weighting", self.weighting, WEIGHTINGS)
        check_masking(self.composition, self.space, self.blur_sigma, self.truncate)
        check_at_least("method.threshold", self.threshold, 0)
        if self.quantise and self.space == "normalised":
            raise ConfigError("method.quantise=true: only pixels have 8 bits; use it with method.space=pixel")

    def cost(self, rank: int | None, channels: int) -> Cost:
        """An upper bound of the scored images: components that a matrix does not have are left out."""
        components = min(self.resolved(rank), self.channels, channels)
        return Cost(backward=1, scored=components * self._halves + int(self.baseline))

    def explain(self, evidence: Evidence, ranks: Sequence[int | None]) -> dict[int | None, Explanation]:
        """See :meth:`Method.explain`; None stands for :attr:`default_rank`.

        Raises:
            ConfigError: for a rank below 1.
        """
        largest = max(self.resolved(rank) for rank in ranks)
        failures = inspect(evidence, gradients=True)
        X = self.class_maps(evidence, failures)
        failures.add(~X.isfinite().flatten(1).all(1), NON_FINITE_MAP)
        parts = decompose(failures.clean(X), largest, self.centring, self.sign)
        failures.add(~parts.exists.any(1), NO_COMPONENTS)
        ossms = self._ossms(parts, evidence)
        present = ossms.native.flatten(2).any(2) & failures.usable[:, None]

        masker = Masker(
            evidence,
            blur_width(self.blur_sigma, self.scale_blur, evidence.input_size[0]),
            self.truncate,
            self.composition,
            self.space,
            self.quantise,
        )
        scores, scored = component_scores(evidence, masker, ossms.native, present), present.cumsum(1)
        failures.add(~scores.isfinite().all(1), NON_FINITE_SCORE)
        baseline = torch.zeros_like(scores[:, :1])
        if self.baseline:
            pair = failures.usable.nonzero().flatten()
            baseline[pair, 0] = score_in_batches(evidence, lambda i: masker.all_blurred(pair[i]), pair)
            scored = scored + failures.usable[:, None]
            failures.add(~baseline.isfinite().all(1), NON_FINITE_SCORE)
        ossms.scores, baseline = failures.clean(scores), failures.clean(baseline)
        present = present & failures.usable[:, None]
        return {
            rank: self._integrate(ossms, baseline, present, scored, self.resolved(rank), failures) for rank in ranks
        }

    def class_maps(self, evidence: Evidence, failures: Failures) -> Tensor:
        """X, float64 (P, h w, C'): the class maps kept, by descending channel weight; 0 for failed pairs."""
        A, G = failures.clean(evidence.activations), failures.clean(evidence.gradients)
        return leading_class_maps(A, G, self.channel_weights, self.channels, torch.float64).mT

    @property
    def _halves(self) -> int:
        return 2 if self.sign == "both" else 1

    def _ossms(self, parts: Decomposition, evidence: Evidence) -> Components:
        """The OSSMs on the layer's grid, with weights still to come."""
        maps = parts.maps
        singular_values, explained = parts.singular_values, parts.explained
        if self.sign == "both":
            maps = torch.stack((maps, -maps), 2).flatten(1, 2)
            singular_values, explained = (x.repeat_interleave(2, 1) for x in (singular_values, explained))
        # Of a component of one sign the other half is zero, but for rounding.
        seen = maps.amax(2) > _ROUNDING * singular_values
        maps = (maps.relu() * seen[..., None]).unflatten(2, evidence.image_activations.shape[-2:])
        return Components(
            native=maps,
            weights=torch.zeros_like(singular_values),
            singular_values=singular_values,
            explained=explained,
        )

    def _integrate(
        self, ossms: Components, baseline: Tensor, present: Tensor, scored: Tensor, rank: int, failures: Failures
    ) -> Explanation:
        """The explanation of a rank; ``scored`` (P, q): images scored up to each OSSM."""
        kept = slice(0, rank * self._halves)
        assert ossms.scores is not None
        assert ossms.singular_values is not None
        assert ossms.explained is not None
        weights = component_weights(ossms.scores[:, kept] - baseline, present[:, kept], self.weighting, self.threshold)
        components = Components(
            native=ossms.native[:, kept],
            weights=weights,
            scores=ossms.scores[:, kept],
            singular_values=ossms.singular_values[:, kept],
            explained=ossms.explained[:, kept],
        )
        native = (weights[..., None, None] * components.native).sum(1)
        return finish(native, components.mode, failures, components, scored[:, kept.stop - 1])


def component_scores(evidence: Evidence, masker: Masker, native: Tensor, present: Tensor) -> Tensor:
    """Scores of the image masked with each component; those of component k in batches of their own.

    Args:
        native: (P, q, h, w), component maps on the layer's grid.
        present: bool (P, q), the ones to score.

    Returns:
        float32 (P, q); 0 where there is none.
    """
    scores = torch.zeros(present.shape, device=native.device)
    for k in present.any(0).nonzero().flatten().tolist():
        pair = present[:, k].nonzero().flatten()

        def masked(i: Tensor, k: int = k, pair: Tensor = pair) -> Tensor:
            return masker.masked(native[pair[i], k], pair[i])

        scores[pair, k] = score_in_batches(evidence, masked, pair)
    return scores


def component_weights(differences: Tensor, present: Tensor, weighting: str, threshold: float = 0.0) -> Tensor:
    """What each component counts in the final map.

    Args:
        differences: d (P, q), scores, or scores less that of the blurred image.
        present: bool (P, q), components that exist; the others weigh 0 and are not looked at.
        weighting: ``minmax``: (d - min) / (max - min), 1 for all if max = min up to rounding (1e-5 of
            the largest |d|); ``softmax``: d softmax(d); ``threshold``: 0 where d < threshold, else d / max(d).

    Returns:
        (P, q). All are 0 where no component reaches the threshold, or none is above 0.
    """
    if weighting == "minmax":
        low = differences.masked_fill(~present, torch.inf).amin(1, keepdim=True)
        high = differences.masked_fill(~present, -torch.inf).amax(1, keepdim=True)
        differ = high - low > _SAME_SCORE * torch.maximum(high.abs(), low.abs())
        weights = torch.where(differ, (differences - low) / (high - low), 1.0)
    elif weighting == "softmax":
        weights = differences * differences.masked_fill(~present, -torch.inf).softmax(1)
    else:
        high = differences.masked_fill(~present, -torch.inf).amax(1, keepdim=True)
        weights = torch.where((differences < threshold) | (high <= 0), 0.0, differences / high)
    return torch.where(present, weights, 0.0)
