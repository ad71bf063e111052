"""Group-CAM: groups of channels, each weighted by the score it gains over a blurred image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.core.validation import check_at_least, check_positive
from decomcam_bench.methods.base import (
    Cost,
    Evidence,
    Explanation,
    MapMethod,
    distinct,
    score_in_batches,
    shared_scores,
)
from decomcam_bench.methods.gradient import channel_weights
from decomcam_bench.methods.ops.validity import NON_FINITE_SCORE, finish, inspect
from decomcam_bench.methods.perturbation import bilinear


@dataclass
class GroupCAM(MapMethod):
    """Group-CAM (Zhang, Rao and Yang 2021), as the authors' repository was in June 2021 (cc85ed2).

    Since August 2021 that repository holds another method: no percentile, the groups not min-maxed, and
    weights ReLU(score).

    1. The class maps a_k A_k, with a_k the mean gradient of ``gradient_score`` (the logit), are split
       into groups of neighbouring channels (as by ``torch.chunk``: ceil(C / groups) of C channels in
       each but the last) and summed up.
    2. In the ReLU of each sum, values at or below its percentile become 0; it is upsampled and min-maxed
       to m. Constant groups are left out.
    3. The normalised image is blended with its blur, x m + blur(x) (1 - m); the group's weight is its
       ``score`` (the class probability) minus that of the blurred image.
    4. The map is the ReLU of the weighted sum of the min-maxed groups.

    Attributes:
        gradient_score: what is differentiated for the a_k.
        groups: maximum number of groups.
        percentile: of the values of a group, interpolated linearly.
        blur_size, blur_sigma: of the Gaussian in pixels of the input, whatever its size; the image is
            mirrored at its border without repeating the border pixels.
    """

    id = "groupcam"

    score: str = "softmax"
    gradient_score: str = "logits"
    groups: int = 32
    percentile: float = 70.0
    blur_size: int = 51
    blur_sigma: float = 50.0

    needs: ClassVar[frozenset[str]] = frozenset({"gradients", "score"})
    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("method.groups", self.groups, 1)
        check_at_least("method.blur_size", self.blur_size, 1)
        check_positive("method.blur_sigma", self.blur_sigma)
        if self.blur_size % 2 == 0:
            raise ConfigError(f"method.blur_size={self.blur_size}: must be odd")
        if not 0 <= self.percentile < 100:
            raise ConfigError(f"method.percentile={self.percentile}: must lie in 0..100, 100 excluded")

    def map(self, evidence: Evidence) -> Explanation:
        failures = inspect(evidence, gradients=True)
        groups = self.group_maps(failures.clean(evidence.activations), failures.clean(evidence.gradients))
        pairs, count = groups.shape[:2]
        low, high = torch.zeros(2, pairs, count, device=groups.device).unbind()
        for g in range(count):
            upsampled = bilinear(groups[:, g], evidence.input_size).flatten(1)
            low[:, g], high[:, g] = upsampled.amin(1), upsampled.amax(1)
        wanted = (high > low) & failures.usable[:, None]
        spread = torch.where(wanted, high - low, 1.0)
        # Upsampling is linear and keeps constants, so that scaling may come before it.
        scaled = torch.where(wanted[..., None, None], (groups - low[..., None, None]) / spread[..., None, None], 0.0)
        images = evidence.images.float()
        blurred = mirrored_blur(images, self.blur_size, self.blur_sigma)
        pair, group = wanted.nonzero(as_tuple=True)

        def composed(i: Tensor) -> Tensor:
            masks = bilinear(scaled[pair[i], group[i]], evidence.input_size)[:, None]
            image = evidence.image_of[pair[i]]
            return (images[image] * masks + blurred[image] * (1 - masks)).to(evidence.images.dtype)

        scores = torch.zeros(pairs, count, device=groups.device)
        scores[pair, group] = score_in_batches(evidence, composed, pair)
        image = distinct(evidence.image_of[failures.usable])
        baseline = shared_scores(evidence, lambda i: blurred[image[i]].to(evidence.images.dtype), image).sum(0)
        failures.add(~(scores.isfinite().all(1) & baseline.isfinite()), NON_FINITE_SCORE)
        weights = failures.clean(torch.where(wanted, scores - baseline[:, None], 0.0))
        return finish((weights[..., None, None] * scaled).sum(1), "bilinear", failures)

    def group_maps(self, A: Tensor, G: Tensor) -> Tensor:  # noqa: N803
        """Return the sums of each group above their percentile, (P, groups, h, w), non-negative."""
        maps = channel_weights(A, G, "gradcam")[..., None, None] * A
        sums = torch.stack([part.sum(1) for part in maps.chunk(self.groups, 1)], 1).relu()
        return torch.where(sums > _percentile(sums.flatten(2), self.percentile)[..., None], sums, 0.0)

    def cost(self, rank: int | None, channels: int) -> Cost:
        """Return an upper bound: constant groups are not scored."""
        size = max(1, math.ceil(channels / self.groups))
        return Cost(backward=1, scored=math.ceil(channels / size) + 1, shared=1)


def _percentile(values: Tensor, percentile: float) -> Tensor:
    """Return the percentile over the last axis, interpolated linearly, (..., 1)."""
    ordered = values.sort(-1).values
    place = percentile / 100 * (values.shape[-1] - 1)
    lower = math.floor(place)
    low, high = ordered[..., lower, None], ordered[..., min(lower + 1, values.shape[-1] - 1), None]
    return low + (high - low) * (place - lower)


def mirrored_blur(images: Tensor, size: int, sigma: float) -> Tensor:
    """Blur images (..., H, W) with a Gaussian kernel of ``size`` taps and mirrored borders (``c b | a b c``).

    An image smaller than the kernel is mirrored repeatedly.
    """
    height, width = images.shape[-2:]
    rows, columns = (_matrix(size, sigma, side).to(images.device) for side in (height, width))
    return rows @ images @ columns.T


@lru_cache(maxsize=16)
def _matrix(size: int, sigma: float, side: int) -> Tensor:
    """Return the (side, side) matrix that blurs a mirrored line of ``side`` pixels."""
    offsets = torch.arange(size, dtype=torch.float64) - size // 2
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    period = max(1, 2 * (side - 1))
    source = (torch.arange(side)[:, None] + offsets.long()) % period
    source = torch.minimum(source, period - source) if side > 1 else source
    matrix = torch.zeros(side, side, dtype=torch.float64)
    return matrix.scatter_add_(1, source, kernel.expand(side, -1).contiguous()).float()
