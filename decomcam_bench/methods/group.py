"""Group-CAM: groups of channels, each weighted by the score that it wins over a blurred image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.core.validation import check_at_least, check_positive
from decomcam_bench.methods.base import Cost, Evidence, Explanation, MapMethod, score_in_batches
from decomcam_bench.methods.gradient import channel_weights
from decomcam_bench.methods.ops.validity import NON_FINITE_SCORE, finish, inspect
from decomcam_bench.methods.perturbation import bilinear


@dataclass
class GroupCAM(MapMethod):
    """Group-CAM (Zhang, Rao and Yang 2021), as the authors' repository.

    1. The class maps a_k A_k, a_k the mean gradient, are cut into groups of neighbouring channels
       (as ``torch.chunk``: with C channels ceil(C / groups) in each but the last) and summed up.
    2. Of the ReLU of each sum, values at or below its percentile become 0; it is upsampled and
       min-maxed to m. Groups that are the same everywhere are left out.
    3. The normalised image is composed with its blur, x m + blur(x) (1 - m); the group's weight is
       its score less that of the blurred image.
    4. The map is the ReLU of the weighted sum of the min-maxed groups.

    Attributes:
        groups: at most so many.
        percentile: of the values of a group, interpolated linearly.
        blur_size, blur_sigma: of the Gaussian in pixels of the input, whatever its size; the image is
            mirrored at its border without repeating the border itself.
    """

    id = "groupcam"

    score: str = "softmax"
    groups: int = 32
    percentile: float = 70.0
    blur_size: int = 51
    blur_sigma: float = 50.0

    needs: ClassVar[frozenset[str]] = frozenset({"gradients", "score"})

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
        # Upsampling is linear and keeps constants: scaling before it is the same as behind it.
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
        usable = failures.usable.nonzero().flatten()
        baseline = torch.zeros(pairs, 1, device=groups.device)
        baseline[usable, 0] = score_in_batches(
            evidence, lambda i: blurred[evidence.image_of[usable[i]]].to(evidence.images.dtype), usable
        )
        failures.add(~(scores.isfinite().all(1) & baseline[:, 0].isfinite()), NON_FINITE_SCORE)
        weights = failures.clean(torch.where(wanted, scores - baseline, 0.0))
        return finish((weights[..., None, None] * scaled).sum(1), "bilinear", failures)

    def group_maps(self, A: Tensor, G: Tensor) -> Tensor:  # noqa: N803
        """The cut sums of each group, (P, groups, h, w), non-negative."""
        maps = channel_weights(A, G, "gradcam")[..., None, None] * A
        sums = torch.stack([part.sum(1) for part in maps.chunk(self.groups, 1)], 1).relu()
        return torch.where(sums > _percentile(sums.flatten(2), self.percentile)[..., None], sums, 0.0)

    def cost(self, rank: int | None, channels: int) -> Cost:
        """An upper bound of the scored images: groups that are the same everywhere are left out."""
        size = max(1, math.ceil(channels / self.groups))
        return Cost(backward=1, scored=math.ceil(channels / size) + 1)


def _percentile(values: Tensor, percentile: float) -> Tensor:
    """Percentile of the last axis, interpolated linearly, (..., 1); of any number of elements."""
    ordered = values.sort(-1).values
    place = percentile / 100 * (values.shape[-1] - 1)
    lower = math.floor(place)
    low, high = ordered[..., lower, None], ordered[..., min(lower + 1, values.shape[-1] - 1), None]
    return low + (high - low) * (place - lower)


def mirrored_blur(images: Tensor, size: int, sigma: float) -> Tensor:
    """Gaussian blur (..., H, W) with a kernel of ``size`` taps; mirrored borders (``c b | a b c``).

    An image smaller than the kernel is mirrored as often as it takes.
    """
    height, width = images.shape[-2:]
    rows, columns = (_matrix(size, sigma, side).to(images.device) for side in (height, width))
    return rows @ images @ columns.T


@lru_cache(maxsize=16)
def _matrix(size: int, sigma: float, side: int) -> Tensor:
    """The (side, side) matrix that blurs a mirrored line of ``side`` pixels."""
    offsets = torch.arange(size, dtype=torch.float64) - size // 2
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    period = max(1, 2 * (side - 1))
    source = (torch.arange(side)[:, None] + offsets.long()) % period
    source = torch.minimum(source, period - source) if side > 1 else source
    matrix = torch.zeros(side, side, dtype=torch.float64)
    return matrix.scatter_add_(1, source, kernel.expand(side, -1).contiguous()).float()
