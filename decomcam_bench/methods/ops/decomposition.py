"""Exact singular value decomposition of class maps, batched over pairs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SIGNS = ("spatial", "channel", "both")


@dataclass
class Decomposition:
    """The leading components of P matrices.

    Attributes:
        maps: float32 (P, q, M): component k at each position, u_k times its singular value (the
            scores of a principal component analysis), signed.
        singular_values: float32 (P, q), descending, 0 where the matrix has no such component.
        explained: float32 (P, q), share of the sum of all squared singular values.
        exists: bool (P, q), whether the matrix has that component.
    """

    maps: Tensor
    singular_values: Tensor
    explained: Tensor
    exists: Tensor


def decompose(matrices: Tensor, rank: int, centred: bool = True, sign: str = "spatial") -> Decomposition:
    """Return the first ``rank`` components of each matrix, exactly, from the smaller Gram matrix.

    With X = U S V^T, the eigenvectors of X X^T (M, M) are U and those of X^T X (C, C) are V; the
    eigenvalues of both are S squared. The smaller of the two is decomposed, in double precision
    (squaring halves the digits that single precision has).

    **What limits the rank.** A matrix of M positions and C channels has at most min(M, C)
    components, and at most M - 1 when the mean over positions is taken off. It may have fewer:
    components whose singular value is below max(M, C) times the single-precision epsilon times the
    largest one (the usual numerical rank of float32 data) do not exist. Asking for more gives
    components that are zero, with ``exists`` false; nothing is raised.

    Args:
        matrices: (P, M, C), rows are positions; finite.
        rank: components wanted, at least 1.
        centred: take off each channel's mean over positions first (principal components).
        sign: the sign of a component is arbitrary. ``spatial`` makes the entry of largest magnitude
            of u_k positive, as scikit-learn before 1.5 (which the official code ran on);
            ``channel`` that of v_k, as scikit-learn from 1.5 on. ``both`` is ``spatial`` here; the
            caller takes both halves. The first of equal magnitudes decides.

    Returns:
        The components; arrays have exactly ``rank`` entries along their second axis.
    """
    device, (pairs, positions, channels) = matrices.device, matrices.shape
    # Apple's MPS has no double precision.
    X = matrices.to("cpu" if device.type == "mps" else device).double()
    if centred:
        X = X - X.mean(1, keepdim=True)
    by_position = positions <= channels
    gram = X @ X.mT if by_position else X.mT @ X
    eigenvalues, vectors = torch.linalg.eigh(gram)
    found = min(rank, positions, channels)
    eigenvalues = eigenvalues.flip(-1).clamp_min(0)
    vectors = vectors.flip(-1)
    singular = eigenvalues[:, :found].sqrt()

    largest = eigenvalues[:, :1].sqrt()
    tolerance = largest * max(positions, channels) * torch.finfo(torch.float32).eps
    exists = singular > tolerance
    # Products are taken with all vectors, so that their rounding does not depend on the rank.
    if by_position:
        maps = vectors[..., :found] * singular[:, None]
        decisive = (X.mT @ vectors)[..., :found] if sign == "channel" else maps
    else:
        maps = (X @ vectors)[..., :found]
        decisive = vectors[..., :found] if sign == "channel" else maps
    maps = maps * _signs(decisive)[:, None] * exists[:, None]
    singular = singular * exists
    total = eigenvalues.sum(1, keepdim=True)
    explained = torch.where(total > 0, singular.square() / total.clamp_min(torch.finfo(total.dtype).tiny), 0.0)

    def padded(values: Tensor) -> Tensor:
        full = torch.zeros(pairs, rank, *values.shape[2:], dtype=torch.float32, device=values.device)
        full[:, :found] = values.float()
        return full.to(device)

    return Decomposition(
        maps=padded(maps.mT),
        singular_values=padded(singular),
        explained=padded(explained),
        exists=padded(exists) > 0,
    )


def _signs(vectors: Tensor) -> Tensor:
    """Return +1 or -1 (P, q), the sign of the entry of largest magnitude of each column of (P, n, q)."""
    decisive = vectors.gather(1, vectors.abs().argmax(1, keepdim=True)).squeeze(1)
    return torch.where(decisive < 0, -1.0, 1.0).to(vectors.dtype)
