"""Methods that decompose, mask the image with each component, and add the components up by their scores.

DecomCAM and the decompositions to compare it with share everything but the decomposition itself
(masking, scoring, weighting, summing), so that their rows differ in nothing else.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    distinct,
    score_in_batches,
    shared_scores,
)
from decomcam_bench.methods.gradient import leading_class_maps
from decomcam_bench.methods.ops.clustering import cluster
from decomcam_bench.methods.ops.factorization import factorize
from decomcam_bench.methods.ops.masking import Masker, blur_width, check_masking
from decomcam_bench.methods.ops.validity import NO_COMPONENTS, NON_FINITE_SCORE, Failures, finish, inspect

WEIGHTINGS = ("minmax", "softmax", "threshold", "difference")
CHANNEL_WEIGHTS = ("gradcam", "gradcam++")
NEGATIVES = ("relu", "shift")
#: Scores that differ by less than this share of the largest one are equal.
_SAME_SCORE = 1e-5


@dataclass
class ScoredComponents(Method):
    """Base of decompositions whose components are scored and added up.

    1. :meth:`decomposition` finds non-negative component maps on the layer's grid. They are upsampled
       bicubically; the overshoot below zero stays, as in DecomCAM's official code.
    2. Each min-maxed component masks the image, the rest of which is blurred; the model scores it.
    3. The map is the ReLU of the weighted sum of the components (not of the min-maxed ones). Upsampling
       is linear, so the sum is taken on the layer's grid.

    Components that are zero everywhere, and those beyond what the matrix can have, are not scored and
    have weight 0. Component k of all pairs is scored in batches of its own, so that a map of rank r is
    the same, bit by bit, whichever larger ranks are computed with it.

    Attributes:
        blur_sigma: standard deviation of the blur, in pixels.
        scale_blur: whether ``blur_sigma`` is meant at an input of 224 pixels and scales with its height.
        truncate: radius of the blur kernel in sigmas.
        space: mask ``pixel`` values or the ``normalised`` input.
        composition: ``max`` of masked and blurred image, or their ``convex`` sum.
        quantise: whether masked pixels are cut to 8 bits.
        weighting: from scores to weights, see :func:`component_weights`.
        threshold: of the weighting ``threshold``, in units of the score.
        baseline: whether the fully blurred image is scored too, and its score subtracted from the others.
            The weighting ``difference`` always does; ``minmax`` weights do not depend on it.
    """

    blur_sigma: float = 10.0
    scale_blur: bool = True
    truncate: float = 4.0
    space: str = "pixel"
    composition: str = "max"
    quantise: bool = False
    weighting: str = "minmax"
    threshold: float = 0.0
    baseline: bool = False

    needs: ClassVar[frozenset[str]] = frozenset({"score"})
    ranked: ClassVar[bool] = True
    #: Whether the components do not depend on the text, so that masked images serve all texts.
    text_free: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_masking(self.composition, self.space, self.blur_sigma, self.truncate)
        check_choice("method.weighting", self.weighting, WEIGHTINGS)
        check_at_least("method.threshold", self.threshold, 0)
        if self.quantise and self.space == "normalised":
            raise ConfigError("method.quantise=true: only pixels have 8 bits; use it with method.space=pixel")

    @abc.abstractmethod
    def decomposition(self, evidence: Evidence, failures: Failures, rank: int) -> Components:
        """Return the components of each pair at ``rank``, in order, zero where there are none; weights are zero.

        Args:
            failures: of the pairs so far; components of failed pairs do not matter.
        """

    def count(self, rank: int, channels: int) -> int:
        """Return the largest number of components at a rank and a layer of ``channels`` channels."""
        return min(rank, channels)

    @property
    def components_per_rank(self) -> int:
        """Number of components that each rank adds."""
        return 1

    @property
    def scores_blur(self) -> bool:
        """Whether the fully blurred image is scored."""
        return self.baseline or self.weighting == "difference"

    def reporting(self) -> Method:
        return replace(self, baseline=True) if self.weighting == "minmax" else self

    def cost(self, rank: int | None, channels: int) -> Cost:
        """Return an upper bound: components that are zero or do not exist are not scored."""
        masked, blurred = self.count(self.resolved(rank), channels), int(self.scores_blur)
        shared = blurred + (masked if self.text_free else 0)
        return Cost(backward=int("gradients" in self.needs), scored=masked + blurred, shared=shared)

    def explain(self, evidence: Evidence, ranks: Sequence[int | None]) -> dict[int | None, Explanation]:
        """Return the explanation at each rank; None stands for :attr:`default_rank`.

        Raises:
            ConfigError: for a rank below 1.
        """
        if not self.nested:
            return {rank: self._explained(evidence, [rank])[rank] for rank in ranks}
        return self._explained(evidence, ranks)

    def _explained(self, evidence: Evidence, ranks: Sequence[int | None]) -> dict[int | None, Explanation]:
        """Return the explanations of ranks whose components are the first of those of the largest rank."""
        largest = max(self.resolved(rank) for rank in ranks)
        failures = inspect(evidence, gradients="gradients" in self.needs)
        found = self.decomposition(evidence, failures, largest)
        present = found.native.flatten(2).any(2)
        failures.add(~present.any(1), NO_COMPONENTS)
        present = present & failures.usable[:, None]
        sigma = blur_width(self.blur_sigma, self.scale_blur, evidence.input_size[0])
        masker = Masker(evidence, sigma, self.truncate, self.composition, self.space, self.quantise)
        scorer = shared_component_scores if self.text_free else component_scores
        scores, scored = scorer(evidence, masker, found.native, present), present.cumsum(1)
        failures.add(~scores.isfinite().all(1), NON_FINITE_SCORE)
        if self.scores_blur:
            blurred = blurred_scores(evidence, masker, failures.usable)
            scored = scored + failures.usable[:, None]
            failures.add(~blurred.isfinite(), NON_FINITE_SCORE)
            found.differences = failures.clean(torch.where(present, scores - blurred[:, None], 0.0))
        found.scores, present = failures.clean(scores), present & failures.usable[:, None]
        return {rank: self._summed(found, present, scored, self.resolved(rank), failures) for rank in ranks}

    def _summed(self, found: Components, present: Tensor, scored: Tensor, rank: int, failures: Failures) -> Explanation:
        """Return the explanation of a rank; ``scored`` (P, q) counts the images scored up to each component."""
        kept = slice(0, rank * self.components_per_rank)
        parts = found.first(kept.stop)
        # Min-max cancels the blurred image, so that scoring it changes no bit of the map.
        compared = parts.scores if parts.differences is None or self.weighting == "minmax" else parts.differences
        assert compared is not None
        parts.weights = component_weights(compared, present[:, kept], self.weighting, self.threshold)
        total = (parts.weights[..., None, None] * parts.native).sum(1)
        return finish(total, parts.mode, failures, parts, scored[:, kept.stop - 1])


def component_scores(evidence: Evidence, masker: Masker, native: Tensor, present: Tensor) -> Tensor:
    """Score the image masked with each component; component k of all pairs in batches of its own.

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


def shared_component_scores(evidence: Evidence, masker: Masker, native: Tensor, present: Tensor) -> Tensor:
    """As :func:`component_scores`, for components that are the same for all pairs of an image."""
    scores = torch.zeros(present.shape, device=native.device)
    for k in present.any(0).nonzero().flatten().tolist():
        pair = present[:, k].nonzero().flatten()
        image, first = _one_per_image(evidence, pair)

        def masked(i: Tensor, k: int = k, first: Tensor = first) -> Tensor:
            return masker.masked(native[first[i], k], first[i])

        scores[pair, k] = shared_scores(evidence, masked, image).sum(0)[pair]
    return scores


def blurred_scores(evidence: Evidence, masker: Masker, usable: Tensor) -> Tensor:
    """Score each fully blurred image once for all its texts, float32 (P,); 0 where not ``usable`` (bool (P,))."""
    image, first = _one_per_image(evidence, usable.nonzero().flatten())
    scores = shared_scores(evidence, lambda i: masker.all_blurred(first[i]), image).sum(0)
    return torch.where(usable, scores, 0.0)


def _one_per_image(evidence: Evidence, pair: Tensor) -> tuple[Tensor, Tensor]:
    """Return the images of some pairs, each once and in order, and one of the pairs of each."""
    image = distinct(evidence.image_of[pair])
    first = (evidence.image_of[pair] == image[:, None]).int().argmax(1) if len(pair) else pair
    return image, pair[first]


def component_weights(values: Tensor, present: Tensor, weighting: str, threshold: float = 0.0) -> Tensor:
    """Return the weight of each component in the final map.

    Args:
        values: d (P, q), scores, or scores minus that of the blurred image.
        present: bool (P, q), components that exist; the others have weight 0 and are ignored.
        weighting: ``minmax``: (d - min) / (max - min), 1 for all if max = min up to rounding (1e-5 of
            the largest |d|); ``softmax``: d softmax(d); ``threshold``: 0 where d < threshold, otherwise
            d / max(d); ``difference``: max(0, d), d being relative to the blurred image.

    Returns:
        (P, q). All are 0 if no component reaches the threshold, or none is above 0.
    """
    if weighting == "minmax":
        low = values.masked_fill(~present, torch.inf).amin(1, keepdim=True)
        high = values.masked_fill(~present, -torch.inf).amax(1, keepdim=True)
        differ = high - low > _SAME_SCORE * torch.maximum(high.abs(), low.abs())
        weights = torch.where(differ, (values - low) / (high - low), 1.0)
    elif weighting == "softmax":
        weights = values * values.masked_fill(~present, -torch.inf).softmax(1)
    elif weighting == "difference":
        weights = values.relu()
    else:
        high = values.masked_fill(~present, -torch.inf).amax(1, keepdim=True)
        weights = torch.where((values < threshold) | (high <= 0), 0.0, values / high)
    return torch.where(present, weights, 0.0)


@dataclass
class DeepFeatureFactorization(ScoredComponents):
    """Non-negative matrix factorisation of the activations (Collins et al. 2018), one image at a time.

    The matrix of positions by channels is factorised as W H with both non-negative; the columns of W
    are the components. The paper factorises sets of images; this method, like pytorch-grad-cam, a
    single one. The factorisation does not read the text, the weights of the components do. It leaves
    the scale of a component open: each row of H is scaled to length 1 and components are ordered by
    the length of their map.

    Attributes:
        iterations: of coordinate descent, see
            :func:`~decomcam_bench.methods.ops.factorization.factorize`.
        negative: negative activations (ViT tokens) are set to zero (``relu``; the paper's layers have
            none), or each channel is shifted to minimum 0 (``shift``, as in pytorch-grad-cam).
    """

    id = "dff"

    iterations: int = 200
    negative: str = "relu"

    nested: ClassVar[bool] = False
    text_free: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("method.iterations", self.iterations, 1)
        check_choice("method.negative", self.negative, NEGATIVES)

    def decomposition(self, evidence: Evidence, failures: Failures, rank: int) -> Components:
        images = evidence.image_activations.float()
        finite = images.isfinite().flatten(1).all(1)
        A = torch.where(finite[:, None, None, None], images, 0.0).flatten(2).mT
        matrices = A.relu() if self.negative == "relu" else A - A.amin(1, keepdim=True)
        maps, loadings = factorize(matrices, min(rank, *matrices.shape[1:]), self.iterations)
        maps = maps * loadings.norm(dim=2)[:, None]
        order = maps.norm(dim=1).argsort(dim=1, descending=True, stable=True)
        maps = maps.gather(2, order[:, None].expand_as(maps)).mT.unflatten(2, images.shape[2:])
        return _padded(failures.clean(maps.float()[evidence.image_of]), rank)


@dataclass
class ClassMapComponents(ScoredComponents):
    """Base of decompositions of the class maps S_k = a_k A_k.

    Attributes:
        gradient_score: what is differentiated for the a_k.
        channel_weights: a_k, ``gradcam`` (mean gradient) or ``gradcam++``.
    """

    gradient_score: str = "logits"
    channel_weights: str = "gradcam"

    full_precision: ClassVar[bool] = True

    needs: ClassVar[frozenset[str]] = frozenset({"gradients", "score"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("method.channel_weights", self.channel_weights, CHANNEL_WEIGHTS)

    def class_maps(self, evidence: Evidence, failures: Failures, count: int, dtype: torch.dtype) -> Tensor:
        """Return the class maps of the ``count`` channels of largest weight, in that order: (P, count, h w)."""
        A, G = failures.clean(evidence.activations), failures.clean(evidence.gradients)
        return leading_class_maps(A, G, self.channel_weights, count, dtype)


@dataclass
class TopChannels(ClassMapComponents):
    """No decomposition: the class maps of the channels of largest weight are the components.

    A component is the ReLU of a class map; that of a channel of negative weight is zero for
    activations that follow a ReLU, and is not scored.
    """

    id = "topchannels"

    def decomposition(self, evidence: Evidence, failures: Failures, rank: int) -> Components:
        maps = self.class_maps(evidence, failures, rank, torch.float32).relu()
        return _padded(maps.reshape(*maps.shape[:2], *evidence.image_activations.shape[2:]), rank)


@dataclass
class ChannelClusters(ClassMapComponents):
    """k-means over channels: the sum of the class maps of a cluster is a component.

    Channels are clustered by the shape of their class map (scaled to length 1; zero maps have no shape
    and are ignored), see :func:`~decomcam_bench.methods.ops.clustering.cluster`. A component is the ReLU
    of the sum of a cluster's unscaled class maps; components are ordered by length.

    Attributes:
        channels: number of class maps, those of largest channel weight; all if the layer has fewer.
        iterations: maximum number of iterations of Lloyd's algorithm.
    """

    id = "kmeans"

    channels: int = 100
    iterations: int = 100

    nested: ClassVar[bool] = False
    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("method.channels", self.channels, 1)
        check_at_least("method.iterations", self.iterations, 1)

    def decomposition(self, evidence: Evidence, failures: Failures, rank: int) -> Components:
        flat = self.class_maps(evidence, failures, self.channels, torch.float64)
        lengths = flat.norm(dim=2, keepdim=True)
        shapes = torch.where(lengths > 0, flat / lengths.clamp_min(torch.finfo(flat.dtype).tiny), 0.0)
        count = min(rank, flat.shape[1])
        labels = cluster(shapes, count, self.iterations, lengths[..., 0] > 0)
        members = torch.nn.functional.one_hot(labels, count).to(flat.dtype)
        sums = (members.mT @ flat).relu().float()
        order = sums.norm(dim=2).argsort(dim=1, descending=True, stable=True)
        sums = sums.gather(1, order[..., None].expand_as(sums))
        return _padded(sums.reshape(*sums.shape[:2], *evidence.image_activations.shape[2:]), rank)

    def count(self, rank: int, channels: int) -> int:
        return min(rank, self.channels, channels)


def _padded(maps: Tensor, rank: int) -> Components:
    """Return ``maps`` (P, q, h, w) as components, followed by zero maps up to ``rank``."""
    full = maps.new_zeros(len(maps), rank, *maps.shape[2:])
    full[:, : maps.shape[1]] = maps
    return Components(full, full.new_zeros(full.shape[:2]))
