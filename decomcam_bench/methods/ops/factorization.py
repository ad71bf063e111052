"""Non-negative matrix factorisation, batched, without a random start."""

from __future__ import annotations

import torch
from torch import Tensor


def factorize(matrices: Tensor, rank: int, iterations: int) -> tuple[Tensor, Tensor]:
    """Factorise X = W H with W, H >= 0 and small squared error, from a start that is not random.

    The start is NNDSVD (Boutsidis and Gallopoulos 2008); then each column of W, then each row of H,
    is set to its best value while all else stays (hierarchical alternating least squares, Cichocki
    and Phan 2009: the coordinate descent of scikit-learn without shuffling). A fixed number of
    iterations makes the result of a matrix independent of its batch.

    Args:
        matrices: (B, M, C), finite, non-negative.
        rank: number of components, at least 1 and at most min(M, C).

    Returns:
        W (B, M, rank) and H (B, rank, C), float64. A component that dies out is zero.
    """
    # Apple's MPS has no double precision.
    X = matrices.to("cpu" if matrices.device.type == "mps" else matrices.device).double()
    W, H = nndsvd(X, rank)
    down, flipped = W.mT.contiguous(), X.mT.contiguous()
    for _ in range(iterations):
        down = _improved(flipped, down, H)
        H = _improved(X, H, down)
    return down.mT.to(matrices.device), H.to(matrices.device)


def _improved(X: Tensor, H: Tensor, W: Tensor) -> Tensor:  # noqa: N803
    """Return H (B, q, C) with each row in turn set to its best value for X = W^T H and fixed W (B, q, M)."""
    products, gram = W @ X, W @ W.mT
    H = H.clone()
    for k in range(H.shape[1]):
        curvature = gram[:, k, k, None]
        gradient = (gram[:, k, None] @ H).squeeze(1) - products[:, k]
        step = torch.where(curvature > 0, gradient / curvature.clamp_min(torch.finfo(X.dtype).tiny), 0.0)
        H[:, k] = (H[:, k] - step).clamp_min(0)
    return H


def nndsvd(X: Tensor, rank: int) -> tuple[Tensor, Tensor]:  # noqa: N803
    """Return a non-negative start from the singular value decomposition (Boutsidis and Gallopoulos 2008).

    Args:
        X: (B, M, C) float64, non-negative.

    Returns:
        W (B, M, rank) and H (B, rank, C). The first component is the leading one; of each later one
        the positive or the negative parts are taken, whichever pair has the larger product of lengths.
    """
    U, S, Vh = torch.linalg.svd(X, full_matrices=False)
    # What rounding leaves of a matrix of lower rank is no component.
    tolerance = S[:, :1] * max(X.shape[1:]) * torch.finfo(torch.float32).eps
    S = torch.where(tolerance < S, S, 0.0)
    u, v = U[..., :rank], Vh[:, :rank].mT
    u_side, v_side = _parts(u), _parts(v)
    u_length, v_length = u_side.norm(dim=1), v_side.norm(dim=1)
    product = u_length * v_length
    side = product.argmax(-1, keepdim=True)
    # Leading vectors of a non-negative matrix have one sign, but for zeros that rounding signs at random.
    u_best = torch.where(_first(rank, X.device), u.abs(), _pick(u_side, side))
    v_best = torch.where(_first(rank, X.device), v.abs(), _pick(v_side, side))
    tiny = torch.finfo(X.dtype).tiny
    scale = (S[:, :rank] * u_best.norm(dim=1) * v_best.norm(dim=1)).sqrt()
    W = u_best / u_best.norm(dim=1, keepdim=True).clamp_min(tiny) * scale[:, None]
    H = v_best / v_best.norm(dim=1, keepdim=True).clamp_min(tiny) * scale[:, None]
    return W, H.mT


def _parts(vectors: Tensor) -> Tensor:
    """Return the positive and negative parts of (B, n, q) as (B, n, q, 2)."""
    return torch.stack((vectors.relu(), (-vectors).relu()), -1)


def _pick(parts: Tensor, side: Tensor) -> Tensor:
    """Return the chosen part of each vector, (B, n, q), from (B, n, q, 2) and (B, q, 1)."""
    return parts.gather(3, side[:, None].expand(-1, parts.shape[1], -1, -1)).squeeze(3)


def _first(rank: int, device: torch.device) -> Tensor:
    return torch.arange(rank, device=device) == 0
