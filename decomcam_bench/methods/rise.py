"""RISE: how high the score is, on average, where a random mask shows a pixel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.core.validation import check_at_least
from decomcam_bench.methods.base import Cost, Evidence, Explanation, MapMethod
from decomcam_bench.methods.ops.validity import NON_FINITE_SCORE, Failures, finish
from decomcam_bench.methods.perturbation import product_with_input

#: Most cells along each side of RISE's grid; far more than any input has pixels to tell apart.
MAX_GRID = 1_000


@dataclass
class RISE(MapMethod):
    """1 / (N p) times the sum of s_i M_i over N random masks M_i (Petsiuk, Das and Saenko 2018).

    s_i is the score of the normalised image times M_i: what is hidden takes the mean colour. A mask
    is a grid of cells, each shown with probability p, upsampled bilinearly to one cell more than the
    input on each side and cut out at a random offset.

    Each pair has masks of its own, drawn on the CPU from its seed: the same on every device and in
    every batch. (The authors' code draws one set of masks and keeps it for all images.) Masks are
    made as they are scored: a batch of them is alive at a time.

    Attributes:
        masks: N. The paper takes 4,000 to 8,000.
        grid: cells along each side.
        probability: p.
    """

    id = "rise"

    score: str = "softmax"
    masks: int = 4000
    grid: int = 7
    probability: float = 0.5

    needs: ClassVar[frozenset[str]] = frozenset({"score"})
    uses_layer: ClassVar[bool] = False
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("method.masks", self.masks, 1)
        check_at_least("method.grid", self.grid, 1)
        if self.grid > MAX_GRID:
            raise ConfigError(f"method.grid={self.grid}: must be at most {MAX_GRID} cells a side")
        if not 0 < self.probability <= 1:
            raise ConfigError(f"method.probability={self.probability}: must lie in (0, 1]")

    def map(self, evidence: Evidence) -> Explanation:
        if len(evidence.seeds) != len(evidence):
            raise ValueError(f"{len(evidence.seeds)} seeds for {len(evidence)} pairs; each pair needs one")
        compose = product_with_input(evidence)
        sums = torch.zeros(len(evidence), *evidence.input_size, device=evidence.device)
        broken = torch.zeros(len(evidence), dtype=torch.bool, device=evidence.device)
        for number, seed in enumerate(evidence.seeds):
            for masks in self.batches(seed, evidence.input_size, max(1, evidence.batch_size)):
                masks = masks.to(evidence.device)
                pair = torch.full((len(masks),), number, dtype=torch.int64, device=evidence.device)
                scores = evidence.score(compose(masks, pair), pair).float()
                broken[number] |= ~scores.isfinite().all()
                sums[number] += torch.einsum("m,mhw->hw", scores, masks)
        failures = Failures(len(evidence), evidence.device)
        failures.add(broken, NON_FINITE_SCORE)
        return finish(failures.clean(sums / self.masks / self.probability), "none", failures)

    def batches(self, seed: int, size: tuple[int, int], count: int) -> Iterator[Tensor]:
        """The masks of a seed, ``count`` at a time: float32 (m, H, W) in [0, 1].

        They do not depend on ``count``.
        """
        generator = torch.Generator().manual_seed(int(seed) % 2**63)
        grids = (torch.rand(self.masks, self.grid, self.grid, generator=generator) < self.probability).float()
        cells = [-(-side // self.grid) for side in size]
        shifts = [torch.randint(0, cell, (self.masks,), generator=generator) for cell in cells]
        lines = [_upsampling(self.grid, (self.grid + 1) * cell) for cell in cells]
        for start in range(0, self.masks, count):
            rows, columns = (
                line[shift[start : start + count, None] + torch.arange(side)]
                for line, shift, side in zip(lines, shifts, size, strict=True)
            )
            yield rows @ grids[start : start + count] @ columns.mT

    def cost(self, rank: int | None, channels: int) -> Cost:
        return Cost(scored=self.masks)


def _upsampling(cells: int, size: int) -> Tensor:
    """The (size, cells) matrix of bilinear upsampling with half-pixel centres."""
    position = ((torch.arange(size, dtype=torch.float64) + 0.5) * cells / size - 0.5).clamp(0, cells - 1)
    lower = position.long().clamp_max(max(cells - 2, 0))
    upper = (lower + 1).clamp_max(cells - 1)
    weight = (position - lower)[:, None]
    matrix = torch.zeros(size, cells, dtype=torch.float64)
    matrix.scatter_add_(1, lower[:, None], 1 - weight)
    matrix.scatter_add_(1, upper[:, None], weight)
    return matrix.float()
