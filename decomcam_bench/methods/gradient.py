"""Methods that combine activations A and gradients G of the score in one step.

P pairs, C channels, (h, w) grid. Each formula ends in a sum over channels; the ReLU is applied on the
layer's grid, before upsampling, as in the reference implementations.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from decomcam_bench.methods.base import Cost, Evidence, Explanation, MapMethod, min_max
from decomcam_bench.methods.ops.validity import ROUNDING_ONLY, finish, inspect

#: A sum below this share of its terms is treated as rounding noise. Float32 leaves about 1e-6 of them, the
#: epsilon of a layer norm about 1e-5.
CANCELLED = 1e-4


def channel_weights(A: Tensor, G: Tensor, kind: str) -> Tensor:  # noqa: N803
    """Return one weight per channel, (P, C).

    Args:
        A, G: activations and gradients (P, C, h, w).
        kind: ``gradcam``, the mean of G over positions, or ``gradcam++``: the sum over positions
            of ReLU(G) G^2 / (2 G^2 + sum(A) G^3 + 1e-6), the sum of A being that of the channel
            (Chattopadhay et al. 2018, equation 19, for a score that passes through an exponential;
            the factor of the exponential itself, one per pair, is left out). The 1e-6 makes it depend
            on the scale of the score.
    """
    if kind == "gradcam":
        return G.mean((2, 3))
    squares, cubes = G.square(), G.pow(3)
    ratios = squares / (2 * squares + A.sum((2, 3), keepdim=True) * cubes + 1e-6)
    return (G.relu() * torch.where(G == 0, 0.0, ratios)).sum((2, 3))


def leading_class_maps(A: Tensor, G: Tensor, kind: str, count: int, dtype: torch.dtype) -> Tensor:  # noqa: N803
    """Return the class maps a_k A_k of the ``count`` channels of largest (signed) weight, in that order.

    Args:
        A, G: activations and gradients, float32 (P, C, h, w).
        kind: of the weights a_k, see :func:`channel_weights`.
        dtype: of the product.

    Returns:
        (P, min(count, C), h w).
    """
    weights = channel_weights(A, G, kind).to(dtype)
    kept = weights.argsort(dim=1, descending=True, stable=True)[:, :count]
    chosen = A.flatten(2).gather(1, kept[..., None].expand(-1, -1, math.prod(A.shape[2:]))).to(dtype)
    return chosen * weights.gather(1, kept)[..., None]


def weighted_sum(weights: Tensor, A: Tensor) -> Tensor:  # noqa: N803
    """Return sum_k w_k A_k, (P, h, w), from (P, C) and (P, C, h, w)."""
    return torch.einsum("pc,pchw->phw", weights, A)


@dataclass
class GradientMethod(MapMethod):
    """Base of methods whose map is a function of A and G only."""

    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})
    mode: ClassVar[str] = "bilinear"

    def map(self, evidence: Evidence) -> Explanation:
        failures = inspect(evidence, gradients=True)
        A, G = failures.clean(evidence.activations), failures.clean(evidence.gradients)
        return finish(self.combine(A, G).relu(), self.mode, failures)

    def cost(self, rank: int | None, channels: int) -> Cost:
        return Cost(backward=1)

    @abc.abstractmethod
    def combine(self, A: Tensor, G: Tensor) -> Tensor:  # noqa: N803
        """Return maps (P, h, w), before the ReLU, from activations and gradients (P, C, h, w)."""


@dataclass
class GradCAM(GradientMethod):
    """sum_k mean(G_k) A_k (Selvaraju et al. 2017, equations 1 and 2)."""

    id = "gradcam"

    def combine(self, A: Tensor, G: Tensor) -> Tensor:  # noqa: N803
        return weighted_sum(channel_weights(A, G, "gradcam"), A)


@dataclass
class GradCAMPlusPlus(GradientMethod):
    """sum_k w_k A_k with the weights of Chattopadhay et al. 2018, see :func:`channel_weights`."""

    id = "gradcam_pp"
    full_precision: ClassVar[bool] = True

    def combine(self, A: Tensor, G: Tensor) -> Tensor:  # noqa: N803
        return weighted_sum(channel_weights(A, G, "gradcam++"), A)


@dataclass
class XGradCAM(GradientMethod):
    """sum_k w_k A_k, w_k = sum(G_k A_k) / (sum(A_k) + 1e-7) (Fu et al. 2020, equation 9).

    Meant for activations that follow a ReLU: if they may be negative, like the tokens of a ViT, the sum
    in the denominator may come near zero.
    """

    id = "xgradcam"
    full_precision: ClassVar[bool] = True

    def combine(self, A: Tensor, G: Tensor) -> Tensor:  # noqa: N803
        weights = (G * A / (A.sum((2, 3), keepdim=True) + 1e-7)).sum((2, 3))
        return weighted_sum(weights, A)


@dataclass
class HiResCAM(GradientMethod):
    """sum_k G_k A_k, element by element (Draelos and Carin 2020).

    Where tokens reach the score only through a layer norm (the residual stream of a ViT before its last
    block), the score does not depend on their scale, and the sum is 0 except for rounding and the norm's
    epsilon. A map whose largest value is below :data:`CANCELLED` of its terms (for half-precision
    evidence, below half an epsilon) fails.
    """

    id = "hirescam"

    version: ClassVar[int] = 2

    def map(self, evidence: Evidence) -> Explanation:
        explanation = super().map(evidence)
        terms = evidence.gradients * evidence.activations
        largest = terms.sum(1).abs().flatten(1).amax(1)
        cancelled = max(CANCELLED, torch.finfo(evidence.image_activations.dtype).eps / 2)
        nothing = largest < cancelled * terms.abs().sum(1).flatten(1).amax(1)
        for pair in nothing.nonzero().flatten().tolist():
            explanation.failures.setdefault(pair, ROUNDING_ONLY)
        return explanation

    def combine(self, A: Tensor, G: Tensor) -> Tensor:  # noqa: N803
        return (G * A).sum(1)


@dataclass
class LayerCAM(GradientMethod):
    """sum_k ReLU(G_k) A_k, element by element (Jiang et al. 2021)."""

    id = "layercam"

    def combine(self, A: Tensor, G: Tensor) -> Tensor:  # noqa: N803
        return (G.relu() * A).sum(1)


@dataclass
class ElementWiseGradCAM(GradientMethod):
    """sum_k ReLU(G_k A_k), element by element (``GradCAMElementWise`` of pytorch-grad-cam)."""

    id = "gradcam_elementwise"

    def combine(self, A: Tensor, G: Tensor) -> Tensor:  # noqa: N803
        return (G * A).relu().sum(1)


@dataclass
class WGradCAM(GradientMethod):
    """sum_k w_k A_k, w the means of G_k A_k, min-maxed over the channels (DecomCAM's repository).

    Upsampled bicubically, as there. If all means are equal, all weights are 0, where the code divides
    0 by 0.
    """

    id = "wgradcam"

    mode: ClassVar[str] = "bicubic"

    def combine(self, A: Tensor, G: Tensor) -> Tensor:  # noqa: N803
        return weighted_sum(min_max((G * A).mean((2, 3)), (1,)), A)
