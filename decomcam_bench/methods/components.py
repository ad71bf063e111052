"""Decompositions to compare DecomCAM's with: each gives component maps that are scored as OSSMs are.

What DecomCAM does with its components (mask the image, score it, weigh, sum up) is done to all of
them alike, so that what differs between their rows is the decomposition alone.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from decomcam_bench.core.validation import check_at_least, check_choice
from decomcam_bench.methods.base import Components, Cost, Evidence, Explanation, Method
from decomcam_bench.methods.decomcam import CHANNEL_WEIGHTS, WEIGHTINGS, component_scores, component_weights
from decomcam_bench.methods.gradient import leading_class_maps
from decomcam_bench.methods.ops.clustering import cluster
from decomcam_bench.methods.ops.factorization import factorize
from decomcam_bench.methods.ops.masking import Masker, blur_width, check_masking
from decomcam_bench.methods.ops.validity import NO_COMPONENTS, NON_FINITE_SCORE, Failures, finish, inspect

NEGATIVES = ("relu", "shift")


@dataclass
class ScoredComponents(Method):
    """Base of decompositions whose components are scored and summed up as DecomCAM's are.

    Components beyond what a matrix of M positions and C channels can have, min(M, C), and those that
    are zero everywhere are not scored and weigh 0.

    Attributes:
        blur_sigma, scale_blur, truncate, composition: of the masked images, see
            :class:`~decomcam_bench.methods.decomcam.DecomCAM`.
        weighting, threshold: from scores to weights, see the same.
    """

    blur_sigma: float = 10.0
    scale_blur: bool = True
    truncate: float = 4.0
    composition: str = "max"
    weighting: str = "minmax"
    threshold: float = 0.0

    needs: ClassVar[frozenset[str]] = frozenset({"score"})
    ranked: ClassVar[bool] = True
    default_rank: ClassVar[int] = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_masking(self.composition, "pixel", self.blur_sigma, self.truncate)
        check_choice("method.weighting", self.weighting, WEIGHTINGS)
        check_at_least("method.threshold", self.threshold, 0)

    def explain(self, evidence: Evidence, ranks: Sequence[int | None]) -> dict[int | None, Explanation]:
        """See :meth:`Method.explain`; None stands for :attr:`default_rank`.

        Raises:
            ConfigError: for a rank below 1.
        """
        if not self.nested:
            return {rank: self._explained(evidence, [rank])[rank] for rank in ranks}
        return self._explained(evidence, ranks)

    def _explained(self, evidence: Evidence, ranks: Sequence[int | None]) -> dict[int | None, Explanation]:
        """Explanations of ranks whose components are the first of those of the largest rank."""
        largest = max(self.resolved(rank) for rank in ranks)
        failures = inspect(evidence, gradients="gradients" in self.needs)
        native = self.component_maps(evidence, failures, largest)
        present = native.flatten(2).any(2)
        failures.add(~present.any(1), NO_COMPONENTS)
        present = present & failures.usable[:, None]
        sigma = blur_width(self.blur_sigma, self.scale_blur, evidence.input_size[0])
        masker = Masker(evidence, sigma, self.truncate, self.composition)
        scores, scored = component_scores(evidence, masker, native, present), present
        failures.add(~scores.isfinite().all(1), NON_FINITE_SCORE)
        scores, present = failures.clean(scores), present & failures.usable[:, None]
        answers: dict[int | None, Explanation] = {}
        for rank in ranks:
            kept = slice(0, self.resolved(rank))
            weights = component_weights(scores[:, kept], present[:, kept], self.weighting, self.threshold)
            components = Components(native[:, kept], weights, scores[:, kept])
            total = (weights[..., None, None] * components.native).sum(1)
            answers[rank] = finish(total, components.mode, failures, components, scored[:, kept].sum(1))
        return answers

    @abc.abstractmethod
    def component_maps(self, evidence: Evidence, failures: Failures, rank: int) -> Tensor:
        """Component maps, float32 (P, rank, h, w), non-negative; 0 where there is none."""

    def cost(self, rank: int | None, channels: int) -> Cost:
        """An upper bound of the scored images: components that are zero are left out."""
        return Cost(backward=int("gradients" in self.needs), scored=min(self.resolved(rank), channels))


@dataclass
class DeepFeatureFactorization(ScoredComponents):
    """Non-negative matrix factorisation of the activations (Collins et al. 2018), one image at a time.

    X of positions by channels is W H, both non-negative; the columns of W are the components. The
    paper factorises sets of images; here, as in pytorch-grad-cam, one. It does not read the text:
    the weights of the components do. A factorisation leaves the scale of a component open: each row
    of H is scaled to length 1 and components are ordered by the length of their map.

    Attributes:
        iterations: of coordinate descent, see
            :func:`~decomcam_bench.methods.ops.factorization.factorize`.
        negative: activations below zero (the tokens of a ViT) are cut (``relu``; the paper's layers
            have none), or each channel is shifted to minimum 0 (``shift``, as pytorch-grad-cam).
    """

    id = "dff"

    iterations: int = 200
    negative: str = "relu"

    nested: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("method.iterations", self.iterations, 1)
        check_choice("method.negative", self.negative, NEGATIVES)

    def component_maps(self, evidence: Evidence, failures: Failures, rank: int) -> Tensor:
        images = evidence.image_activations.float()
        finite = images.isfinite().flatten(1).all(1)
        A = torch.where(finite[:, None, None, None], images, 0.0).flatten(2).mT
        matrices = A.relu() if self.negative == "relu" else A - A.amin(1, keepdim=True)
        maps, loadings = factorize(matrices, min(rank, *matrices.shape[1:]), self.iterations)
        maps = maps * loadings.norm(dim=2)[:, None]
        order = maps.norm(dim=1).argsort(dim=1, descending=True, stable=True)
        maps = maps.gather(2, order[:, None].expand_as(maps)).mT.unflatten(2, images.shape[2:])
        return failures.clean(_padded(maps.float(), rank)[evidence.image_of])

    def cost(self, rank: int | None, channels: int) -> Cost:
        return Cost(scored=min(self.resolved(rank), channels))


@dataclass
class ClassMapComponents(ScoredComponents):
    """Base of decompositions of the class maps S_k = a_k A_k, as DecomCAM's.

    Attributes:
        channel_weights: a_k, ``gradcam`` (mean gradient) or ``gradcam++``.
    """

    channel_weights: str = "gradcam"

    needs: ClassVar[frozenset[str]] = frozenset({"gradients", "score"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("method.channel_weights", self.channel_weights, CHANNEL_WEIGHTS)

    def class_maps(self, evidence: Evidence, failures: Failures, count: int) -> Tensor:
        """The class maps of the ``count`` channels of largest weight, in that order: (P, count, h, w)."""
        A, G = failures.clean(evidence.activations), failures.clean(evidence.gradients)
        return leading_class_maps(A, G, self.channel_weights, count, torch.float32).unflatten(2, A.shape[2:])


@dataclass
class TopChannels(ClassMapComponents):
    """No decomposition at all: the class maps of the channels of largest weight, each a component.

    The ReLU of a class map is the component; that of a channel of negative weight on activations
    behind a ReLU is zero and not scored.
    """

    id = "topchannels"

    def component_maps(self, evidence: Evidence, failures: Failures, rank: int) -> Tensor:
        return _padded(self.class_maps(evidence, failures, rank).relu(), rank)


@dataclass
class ChannelClusters(ClassMapComponents):
    """k-means of channels: the class maps of a cluster, summed up, are a component.

    Channels are clustered by the shape of their class map (scaled to length 1; a class map that is
    zero has none and takes no part), by
    :func:`~decomcam_bench.methods.ops.clustering.cluster`; the ReLU of the sum of a cluster's class maps
    (not scaled) is a component, ordered by its length.

    Attributes:
        channels: class maps kept, those of largest channel weight; all if the layer has fewer.
        iterations: of Lloyd's algorithm at most.
    """

    id = "kmeans"

    channels: int = 100
    iterations: int = 100

    nested: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("method.channels", self.channels, 1)
        check_at_least("method.iterations", self.iterations, 1)

    def component_maps(self, evidence: Evidence, failures: Failures, rank: int) -> Tensor:
        maps = self.class_maps(evidence, failures, self.channels)
        flat = maps.flatten(2).double()
        lengths = flat.norm(dim=2, keepdim=True)
        shapes = torch.where(lengths > 0, flat / lengths.clamp_min(torch.finfo(flat.dtype).tiny), 0.0)
        count = min(rank, flat.shape[1])
        labels = cluster(shapes, count, self.iterations, lengths[..., 0] > 0)
        members = torch.nn.functional.one_hot(labels, count).to(flat.dtype)
        sums = (members.mT @ flat).relu().float()
        order = sums.norm(dim=2).argsort(dim=1, descending=True, stable=True)
        sums = sums.gather(1, order[..., None].expand_as(sums))
        return _padded(sums.unflatten(2, maps.shape[2:]), rank)

    def cost(self, rank: int | None, channels: int) -> Cost:
        """An upper bound, as above."""
        return Cost(backward=1, scored=min(self.resolved(rank), self.channels, channels))


def _padded(maps: Tensor, rank: int) -> Tensor:
    """``maps`` (P, q, h, w) with zero maps behind them, up to ``rank``."""
    full = maps.new_zeros(len(maps), rank, *maps.shape[2:])
    full[:, : maps.shape[1]] = maps
    return full
