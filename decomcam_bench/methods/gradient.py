"""Methods that combine activations A and gradients G of the score in one step.

Each is the sum over channels, before the final ReLU and bilinear upsampling; P pairs, C channels,
(h, w) grid.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from decomcam_bench.methods.base import Cost, Evidence, Explanation, MapMethod
from decomcam_bench.methods.validity import finish, inspect


def channel_weights(A: Tensor, G: Tensor, kind: str) -> Tensor:  # noqa: N803
    """One weight a channel (P, C).

    Args:
        kind: ``gradcam``, the mean of G over positions, or ``gradcam++``: the sum over positions
            of ReLU(G) G^2 / (2 G^2 + sum(A) G^3 + 1e-6), the sum of A being that of the channel
            (Chattopadhay et al. 2018, equation 19, for a score passed through an exponential).
    """
    if kind == "gradcam":
        return G.mean((2, 3))
    squares, cubes = G.square(), G.pow(3)
    ratios = squares / (2 * squares + A.sum((2, 3), keepdim=True) * cubes + 1e-6)
    return (G.relu() * torch.where(G == 0, 0.0, ratios)).sum((2, 3))


def weighted_sum(weights: Tensor, A: Tensor) -> Tensor:  # noqa: N803
    """sum_k w_k A_k: (P, C) and (P, C, h, w) to (P, h, w)."""
    return torch.einsum("pc,pchw->phw", weights, A)


@dataclass
class GradientMethod(MapMethod):
    """Base of methods whose map is a function of A and G alone."""

    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})

    def map(self, evidence: Evidence) -> Explanation:
        failures = inspect(evidence, gradients=True)
        A, G = failures.clean(evidence.activations), failures.clean(evidence.gradients)
        return finish(self.combine(A, G), "bilinear", failures)

    def cost(self, rank: int | None, channels: int) -> Cost:
        return Cost(backward=1)

    @abc.abstractmethod
    def combine(self, A: Tensor, G: Tensor) -> Tensor:  # noqa: N803
        """Maps (P, h, w) of activations and gradients (P, C, h, w)."""


@dataclass
class GradCAM(GradientMethod):
    """sum_k mean(G_k) A_k (Selvaraju et al. 2017, equations 1 and 2)."""

    def combine(self, A: Tensor, G: Tensor) -> Tensor:  # noqa: N803
        return weighted_sum(channel_weights(A, G, "gradcam"), A)


@dataclass
class HiResCAM(GradientMethod):
    """sum_k G_k * A_k, element by element (Draelos and Carin 2020)."""

    def combine(self, A: Tensor, G: Tensor) -> Tensor:  # noqa: N803
        return (G * A).sum(1)
