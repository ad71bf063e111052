"""Attributions to pixels by gradients of the score with respect to the input.

An attribution of the three channels of a pixel becomes one number of the map as ``channels`` says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from decomcam_bench.core.validation import check_at_least, check_choice
from decomcam_bench.methods.base import Cost, Evidence, Explanation, MapMethod, steps
from decomcam_bench.methods.ops.validity import NON_FINITE_GRADIENTS, ZERO_GRADIENTS, Failures, finish

CHANNELS = ("absolute", "positive")
BASELINES = ("mean", "black")


@dataclass
class InputGradientMethod(MapMethod):
    """Base of methods that read gradients with respect to the normalised input.

    Attributes:
        channels: how the channels of a pixel are summed: ``absolute``, the sum of magnitudes, or
            ``positive``, the positive part of the signed sum.
    """

    channels: str = "absolute"

    needs: ClassVar[frozenset[str]] = frozenset({"image_gradients"})
    uses_layer: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("method.channels", self.channels, CHANNELS)

    def finished(self, evidence: Evidence, attributions: Tensor) -> Explanation:
        """Return the maps of attributions (P, 3, H, W)."""
        failures = Failures(len(evidence), evidence.device)
        failures.add(~attributions.isfinite().flatten(1).all(1), NON_FINITE_GRADIENTS)
        failures.add(attributions.eq(0).flatten(1).all(1), ZERO_GRADIENTS)
        maps = attributions.abs().sum(1) if self.channels == "absolute" else attributions.sum(1).relu()
        return finish(failures.clean(maps), "none", failures)

    def mean_gradient(self, evidence: Evidence, count: int, made: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Return the mean gradient over ``count`` images per pair, float32 (P, 3, H, W).

        Args:
            made: from pairs (m,) and numbers 0..count-1 (m,) to images (m, 3, H, W).
        """
        total = torch.zeros(len(evidence), *evidence.images.shape[1:], device=evidence.device)
        for some in steps(evidence, len(evidence) * count):
            pair, number = some // count, some % count
            slopes = evidence.extras["image_gradients"](made(pair, number), pair).float()
            total.index_add_(0, pair, slopes)
        return total / count


@dataclass
class InputTimesGradient(InputGradientMethod):
    """Input times gradient (Shrikumar et al. 2016), on the normalised input."""

    id = "input_x_gradient"

    def map(self, evidence: Evidence) -> Explanation:
        images = evidence.images.float()[evidence.image_of]
        return self.finished(evidence, images * self.mean_gradient(evidence, 1, lambda pair, _: images[pair]))

    def cost(self, rank: int | None, channels: int) -> Cost:
        return Cost(backward=1)


@dataclass
class IntegratedGradients(InputGradientMethod):
    """Integrated gradients (Sundararajan et al. 2017): (x - x') times the mean gradient between x' and x.

    The integral is a Gauss-Legendre sum, as in captum.

    Attributes:
        steps: number of gradients per pair.
        baseline: x': the ``mean`` colour of the normalisation (0 in the input), or ``black``.
    """

    id = "integrated_gradients"

    steps: int = 50
    baseline: str = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("method.steps", self.steps, 1)
        check_choice("method.baseline", self.baseline, BASELINES)

    def map(self, evidence: Evidence) -> Explanation:
        images = evidence.images.float()
        black = evidence.normalise(torch.zeros_like(images)).float()
        start = torch.zeros_like(images) if self.baseline == "mean" else black
        places, weights = gauss_legendre(self.steps)
        places, weights = places.to(evidence.device), weights.to(evidence.device)
        total = torch.zeros(len(evidence), *images.shape[1:], device=evidence.device)
        for some in steps(evidence, len(evidence) * self.steps):
            pair, number = some // self.steps, some % self.steps
            image, origin = images[evidence.image_of[pair]], start[evidence.image_of[pair]]
            between = origin + places[number].view(-1, 1, 1, 1) * (image - origin)
            slopes = evidence.extras["image_gradients"](between, pair).float()
            total.index_add_(0, pair, slopes * weights[number].view(-1, 1, 1, 1))
        return self.finished(evidence, total * (images - start)[evidence.image_of])

    def cost(self, rank: int | None, channels: int) -> Cost:
        return Cost(backward=self.steps)


@dataclass
class SmoothGrad(InputGradientMethod):
    """SmoothGrad (Smilkov et al. 2017): the mean gradient of noisy copies of the image.

    The noise is drawn on the CPU from each pair's seed.

    Attributes:
        samples: number of noisy copies per pair.
        noise: standard deviation of the noise, as a share of the range of the image's normalised values.
    """

    id = "smoothgrad"

    samples: int = 50
    noise: float = 0.15

    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("method.samples", self.samples, 1)
        check_at_least("method.noise", self.noise, 0)

    def map(self, evidence: Evidence) -> Explanation:
        if len(evidence.seeds) != len(evidence):
            raise ValueError(f"{len(evidence.seeds)} seeds for {len(evidence)} pairs; each pair needs one")
        images = evidence.images.float()
        spread = self.noise * (images.flatten(1).amax(1) - images.flatten(1).amin(1)).view(-1, 1, 1, 1)

        def noisy(pair: Tensor, number: Tensor) -> Tensor:
            drawn = [
                self.noise_of(evidence.seeds[p], n, tuple(images.shape[1:]))
                for p, n in zip(pair.tolist(), number.tolist(), strict=True)
            ]
            image = evidence.image_of[pair]
            return images[image] + spread[image] * torch.stack(drawn).to(evidence.device)

        return self.finished(evidence, self.mean_gradient(evidence, self.samples, noisy))

    @staticmethod
    def noise_of(seed: int, number: int, shape: tuple[int, ...]) -> Tensor:
        """Return the noise of one copy, standard normal of a shape (3, H, W)."""
        generator = torch.Generator().manual_seed((int(seed) * 1_000_003 + number) % 2**63)
        return torch.randn(shape, generator=generator)

    def cost(self, rank: int | None, channels: int) -> Cost:
        return Cost(backward=self.samples)


def gauss_legendre(steps: int) -> tuple[Tensor, Tensor]:
    """Return places and weights of a Gauss-Legendre sum over [0, 1], float32 (steps,) each."""
    places, weights = np.polynomial.legendre.leggauss(steps)
    return torch.tensor((1 + places) / 2).float(), torch.tensor(weights / 2).float()
