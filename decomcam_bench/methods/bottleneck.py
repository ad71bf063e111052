"""Multi-modal information bottleneck (M2IB): which tokens must pass for the image to match the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.core.validation import check_at_least, check_positive
from decomcam_bench.methods.base import Cost, Evidence, Explanation, MapMethod, min_max
from decomcam_bench.methods.ops.validity import NON_FINITE_MAP, Failures, finish


@dataclass
class InformationBottleneck(MapMethod):
    """M2IB (Wang, Rudner and Wilson 2023) of the image tower, min-maxed as in the authors' code.

    See :func:`~decomcam_bench.models.vit_internals.bottleneck_capacity`. Noise is drawn from each pair's seed.

    Attributes:
        block: the bottleneck comes after this block, negative from the last; the authors take block 9 of 12.
        beta: weight of compression against fit.
        steps: number of optimisation steps.
        samples: number of noisy copies per step.
    """

    id = "m2ib"

    block: int = -3
    beta: float = 0.1
    steps: int = 10
    samples: int = 10

    needs: ClassVar[frozenset[str]] = frozenset({"bottleneck_capacity"})
    uses_layer: ClassVar[bool] = False
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("method.beta", self.beta)
        check_at_least("method.steps", self.steps, 1)
        check_at_least("method.samples", self.samples, 1)
        if self.block == -1:
            raise ConfigError(
                "method.block=-1: after the last block patches no longer reach the score; valid: -2 or less"
            )

    def map(self, evidence: Evidence) -> Explanation:
        if len(evidence.seeds) != len(evidence):
            raise ValueError(f"{len(evidence.seeds)} seeds for {len(evidence)} pairs; each pair needs one")
        found = evidence.extras["bottleneck_capacity"](self.block, self.beta, self.steps, self.samples, evidence.seeds)
        failures = Failures(len(evidence), evidence.device)
        failures.add(~found.isfinite().flatten(1).all(1), NON_FINITE_MAP)
        return finish(min_max(failures.clean(found), (1, 2)), "bilinear", failures)

    def cost(self, rank: int | None, channels: int) -> Cost:
        return Cost(backward=self.steps * self.samples, backbone=1)
