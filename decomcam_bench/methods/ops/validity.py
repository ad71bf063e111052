"""Pairs whose map cannot be computed: found before and after the formula, one reason per pair.

A failed pair gets a map of zeros and a reason; it never touches the other pairs of its batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from decomcam_bench.core.reasons import Reason, Why
from decomcam_bench.methods.base import Components, Evidence, Explanation

NON_FINITE_ACTIVATIONS = Reason.NON_FINITE_ACTIVATIONS
NON_FINITE_GRADIENTS = Reason.NON_FINITE_GRADIENTS
ZERO_GRADIENTS = Reason.ZERO_GRADIENTS
NON_FINITE_SCORE = Reason.NON_FINITE_SCORE
ZERO_SCORE = Reason.ZERO_SCORE
EMPTY_REGION = Reason.EMPTY_REGION
NON_FINITE_MAP = Reason.NON_FINITE_MAP
ZERO_MAP = Reason.ZERO_MAP
ROUNDING_ONLY = Reason.ROUNDING_ONLY
NO_COMPONENTS = Reason.NO_COMPONENTS


class Failures:
    """Collect the reason of each failed pair; the first one found stays.

    Args:
        pairs: P.
        device: where the batch lives.
    """

    def __init__(self, pairs: int, device: torch.device) -> None:
        self.reasons: dict[int, Why] = {}
        self.usable = torch.ones(pairs, dtype=torch.bool, device=device)

    def add(self, bad: Tensor, reason: Why) -> None:
        """Mark the pairs where ``bad`` (bool (P,)) holds."""
        for pair in (bad & self.usable).nonzero().flatten().tolist():
            self.reasons[pair] = reason
        self.usable = self.usable & ~bad

    def clean(self, values: Tensor) -> Tensor:
        """Return ``values`` (P, ...) with those of failed pairs replaced by zeros."""
        return torch.where(self.usable.view(-1, *[1] * (values.dim() - 1)), values, 0.0)


def inspect(evidence: Evidence, gradients: bool = False) -> Failures:
    """Find failures that already show in the evidence: NaN, infinity, or a gradient that is zero everywhere.

    Args:
        gradients: whether the method reads them.
    """
    failures = Failures(len(evidence), evidence.device)
    finite = evidence.image_activations.isfinite().flatten(1).all(1)
    failures.add(~finite[evidence.image_of], NON_FINITE_ACTIVATIONS)
    if gradients:
        of_pair = evidence.gradients.flatten(1)
        failures.add(~of_pair.isfinite().all(1), NON_FINITE_GRADIENTS)
        failures.add(of_pair.eq(0).all(1), ZERO_GRADIENTS)
    return failures


def finish(
    native: Tensor,
    mode: str,
    failures: Failures,
    components: Components | None = None,
    scored: Tensor | None = None,
) -> Explanation:
    """Return an explanation whose maps are finite, with a reason for each pair that has none.

    Args:
        native: (P, h', w'), see :class:`~decomcam_bench.methods.base.Explanation`.
        failures: found so far; kept as they are, since explanations of several ranks share them.
        scored: see the same class.
    """
    found = Failures(len(native), native.device)
    found.reasons, found.usable = dict(failures.reasons), failures.usable
    flat = native.flatten(1)
    found.add(~flat.isfinite().all(1), NON_FINITE_MAP)
    # Bicubic upsampling overshoots, so a map without positive entries may have some afterwards.
    nothing = flat.eq(0).all(1) if mode == "bicubic" else (flat <= 0).all(1)
    found.add(nothing, ZERO_MAP)
    return Explanation(found.clean(native.float()), mode, components, found.reasons, scored)
