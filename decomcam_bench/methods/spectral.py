"""Methods that read the first principal component of a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from decomcam_bench.core.validation import check_choice
from decomcam_bench.methods.base import Cost, Evidence, Explanation, MapMethod
from decomcam_bench.methods.ops.decomposition import decompose
from decomcam_bench.methods.ops.validity import NO_COMPONENTS, NON_FINITE_MAP, finish, inspect

SIGNS = ("spatial", "channel", "library")


def first_component(maps: Tensor, sign: str) -> tuple[Tensor, Tensor]:
    """Project each position on the first principal axis of the channels.

    Args:
        maps: (M, C, h, w), finite.
        sign: one of :data:`SIGNS`; for ``spatial`` and ``channel`` see
            :func:`~decomcam_bench.methods.ops.decomposition.decompose`.

    Returns:
        Projections (M, h, w), and bool (M,), whether there is a component at all.
    """
    matrices = maps.flatten(2).mT
    parts = decompose(matrices, 1, centred=True, sign="spatial" if sign == "library" else sign)
    first = parts.maps[:, 0]
    if sign == "library":
        first = first * _library_signs(matrices, first)[:, None]
    return first.reshape(len(first), *maps.shape[-2:]), parts.exists[:, 0]


def _library_signs(matrices: Tensor, first: Tensor) -> Tensor:
    """Return +1 or -1 (M,): whether NumPy's decomposition of (M, positions, channels) points as ``first`` does."""
    signs = []
    for matrix, ours in zip(matrices.float().cpu().numpy(), first.cpu().numpy(), strict=True):
        centred = matrix - matrix.mean(axis=0)
        axis = np.linalg.svd(centred, full_matrices=True)[2][0]
        signs.append(-1.0 if float(ours @ (centred @ axis)) < 0 else 1.0)
    return torch.tensor(signs, device=first.device)


@dataclass
class EigenCAM(MapMethod):
    """First principal component of A over positions (Muhammad and Yeasin 2020); blind to the text.

    The sign of a component is arbitrary; reference implementations take whichever the linear
    algebra library returns. Here a rule decides. ``spatial`` is the correction of Seg-Eigen-CAM
    (Chung and Ying 2025, equation 13).

    Attributes:
        sign: ``spatial``: the position of largest magnitude is positive; ``channel``: the channel
            of largest magnitude is; ``library``: as NumPy's SVD returns it, which is what
            pytorch-grad-cam shows. That one is slow, and may differ from machine to machine.
    """

    id = "eigencam"

    sign: str = "spatial"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("method.sign", self.sign, SIGNS)

    def map(self, evidence: Evidence) -> Explanation:
        failures = inspect(evidence)
        images = evidence.image_activations.float()
        finite = images.isfinite().flatten(1).all(1)
        maps, exists = first_component(torch.where(finite[:, None, None, None], images, 0.0), self.sign)
        failures.add(~exists[evidence.image_of], NO_COMPONENTS)
        return finish(maps[evidence.image_of].relu(), "bilinear", failures)

    def cost(self, rank: int | None, channels: int) -> Cost:
        return Cost()


@dataclass
class EigenGradCAM(EigenCAM):
    """First principal component of G A, element by element (pytorch-grad-cam)."""

    id = "eigengradcam"
    full_precision: ClassVar[bool] = True

    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})

    def map(self, evidence: Evidence) -> Explanation:
        failures = inspect(evidence, gradients=True)
        A, G = failures.clean(evidence.activations), failures.clean(evidence.gradients)
        products = G * A
        failures.add(~products.isfinite().flatten(1).all(1), NON_FINITE_MAP)
        maps, exists = first_component(failures.clean(products), self.sign)
        failures.add(~exists, NO_COMPONENTS)
        return finish(maps.relu(), "bilinear", failures)

    def cost(self, rank: int | None, channels: int) -> Cost:
        return Cost(backward=1)
