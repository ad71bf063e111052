"""Controls: maps that know nothing of the model, between which a method must place itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from decomcam_bench.methods.base import Cost, Evidence, Explanation, MapMethod
from decomcam_bench.methods.options import check_positive


@dataclass
class Control(MapMethod):
    """Base of maps that need neither layer nor passes."""

    uses_layer: ClassVar[bool] = False

    def cost(self, rank: int | None, channels: int) -> Cost:
        return Cost()


@dataclass
class Random(Control):
    """Independent uniform noise at input resolution, from the pair's seed; the same on every device."""

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
    """A Gaussian in the middle of the input.

    Attributes:
        sigma: its standard deviation as a share of each side.
    """

    sigma: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("sigma", self.sigma)

    def map(self, evidence: Evidence) -> Explanation:
        profiles = [
            torch.exp(-0.5 * (((torch.arange(side, device=evidence.device) + 0.5) / side - 0.5) / self.sigma) ** 2)
            for side in evidence.input_size
        ]
        blob = profiles[0][:, None] * profiles[1]
        return Explanation(blob.expand(len(evidence), -1, -1).clone(), "none")
