"""Controls: maps that do not look at the model, the floor and the ceiling for a method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from decomcam_bench.core.reasons import Failure, Reason
from decomcam_bench.core.validation import check_positive
from decomcam_bench.methods.base import Cost, Evidence, Explanation, MapMethod
from decomcam_bench.methods.ops.validity import EMPTY_REGION, Failures, finish


@dataclass
class Control(MapMethod):
    """Base of maps that need neither layer nor passes."""

    uses_layer: ClassVar[bool] = False

    def cost(self, rank: int | None, channels: int) -> Cost:
        return Cost()


@dataclass
class Random(Control):
    """Independent uniform noise at input resolution, drawn from the pair's seed; the same on every device."""

    id = "random"

    random: ClassVar[bool] = True

    def map(self, evidence: Evidence) -> Explanation:
        if len(evidence.seeds) != len(evidence):
            raise ValueError(f"{len(evidence.seeds)} seeds for {len(evidence)} pairs; each pair needs one")
        maps = torch.zeros(len(evidence), *evidence.input_size)
        for pair, seed in enumerate(evidence.seeds):
            generator = torch.Generator().manual_seed(int(seed) % 2**63)
            maps[pair] = torch.rand(evidence.input_size, generator=generator)
        return Explanation(maps.to(evidence.device), "none")


@dataclass
class Center(Control):
    """A Gaussian at the centre of the input.

    Attributes:
        sigma: its standard deviation as a share of each side.
    """

    id = "center"

    sigma: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("method.sigma", self.sigma)

    def map(self, evidence: Evidence) -> Explanation:
        profiles = [
            torch.exp(-0.5 * (((torch.arange(side, device=evidence.device) + 0.5) / side - 0.5) / self.sigma) ** 2)
            for side in evidence.input_size
        ]
        blob = profiles[0][:, None] * profiles[1]
        return Explanation(blob.expand(len(evidence), -1, -1).clone(), "none")


@dataclass
class Edges(Control):
    """Magnitude of the Sobel gradient (3 x 3) of the luminance (ITU-R 601); mirrored borders."""

    id = "edges"

    def map(self, evidence: Evidence) -> Explanation:
        pixels = evidence.pixels()
        luminance = (pixels * torch.tensor([0.299, 0.587, 0.114], device=pixels.device).view(1, 3, 1, 1)).sum(1)
        across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=pixels.device)
        padded = F.pad(luminance[:, None], (1, 1, 1, 1), mode="reflect")
        slopes = F.conv2d(padded, torch.stack((across, across.T))[:, None])
        # Rounding leaves traces of slope on a uniform image.
        slopes = torch.where(slopes.abs() < 1e-5, 0.0, slopes)
        maps = slopes.square().sum(1).sqrt()[evidence.image_of]
        return finish(maps, "none", Failures(len(evidence), evidence.device))


class BadMaskError(ValueError):
    """Raised by ``Evidence.object_masks`` when the annotated regions of some pairs cannot be decoded.

    Attributes:
        masks: bool (P, H, W), empty for these pairs.
        reasons: why, by pair.
    """

    def __init__(self, masks: Tensor, reasons: Mapping[int, str]) -> None:
        super().__init__(next(iter(reasons.values())))
        self.masks, self.reasons = masks, reasons


@dataclass
class Oracle(Control):
    """The annotated region itself, 1 inside and 0 outside: the ceiling of localisation.

    A pair whose region cannot be decoded fails with the reason ``bad_mask``, as in the metrics.
    """

    id = "oracle"

    needs: ClassVar[frozenset[str]] = frozenset({"object_masks"})

    def map(self, evidence: Evidence) -> Explanation:
        failures = Failures(len(evidence), evidence.device)
        try:
            masks = evidence.object_masks()
        except BadMaskError as error:
            masks = error.masks
            for pair, reason in error.reasons.items():
                failures.add(evidence.all_pairs == pair, Failure(Reason.BAD_MASK, reason))
        failures.add(~masks.flatten(1).any(1), EMPTY_REGION)
        return finish(masks.float(), "none", failures)
