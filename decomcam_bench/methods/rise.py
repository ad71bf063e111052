"""RISE: the average score of the image when a random mask shows a pixel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.core.validation import check_at_least
from decomcam_bench.methods.base import Cost, Evidence, Explanation, MapMethod, distinct, shared_scores
from decomcam_bench.methods.ops.validity import NON_FINITE_SCORE, Failures, finish
from decomcam_bench.methods.perturbation import product_with_input

#: Maximum number of cells along each side of RISE's grid, far more than needed at any input size.
MAX_GRID = 1_000


@dataclass
class RISE(MapMethod):
    """1 / (N p) times the sum of s_i M_i over N random masks M_i (Petsiuk, Das and Saenko 2018).

    s_i is the score of the normalised image times M_i, so that hidden pixels take the mean colour. A
    mask is a grid of cells, each shown with probability p, upsampled bilinearly to one cell more than
    the input on each side and cropped at a random offset. Beyond the centres of the outermost cells the
    grid is mirrored, as by the authors' code (``skimage.transform.resize`` with ``mode="reflect"``).

    Each image has masks of its own, drawn on the CPU from its seed and scored once for all its texts:
    the same on every device and in every batch. (The authors' code draws one set of masks and keeps it
    for all images.) Masks are made as they are scored: one batch of them is in memory at a time.

    Attributes:
        masks: N. The paper uses 4,000 to 8,000.
        grid: number of cells along each side.
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
    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("method.masks", self.masks, 1)
        check_at_least("method.grid", self.grid, 1)
        if self.grid > MAX_GRID:
            raise ConfigError(f"method.grid={self.grid}: must be at most {MAX_GRID} cells a side")
        if not 0 < self.probability <= 1:
            raise ConfigError(f"method.probability={self.probability}: must lie in (0, 1]")

    def map(self, evidence: Evidence) -> Explanation:
        if len(evidence.image_seeds) != len(evidence.images):
            raise ValueError(
                f"{len(evidence.image_seeds)} image seeds for {len(evidence.images)} images; each image needs one"
            )
        compose = product_with_input(evidence)
        sums = torch.zeros(len(evidence), *evidence.input_size, device=evidence.device)
        broken = torch.zeros(len(evidence), dtype=torch.bool, device=evidence.device)
        for number in distinct(evidence.image_of).tolist():
            own = evidence.image_of == number
            for masks in self.batches(evidence.image_seeds[number], evidence.input_size, max(1, evidence.batch_size)):
                masks = masks.to(evidence.device)
                image = torch.full((len(masks),), number, dtype=torch.int64, device=evidence.device)

                def masked(i: Tensor, masks: Tensor = masks, image: Tensor = image) -> Tensor:
                    return compose(masks[i], image[i])

                scores = shared_scores(evidence, masked, image)[:, own]
                broken[own] |= ~scores.isfinite().all(0)
                sums[own] += torch.einsum("mp,mhw->phw", scores, masks)
        failures = Failures(len(evidence), evidence.device)
        failures.add(broken, NON_FINITE_SCORE)
        return finish(failures.clean(sums / self.masks / self.probability), "none", failures)

    def batches(self, seed: int, size: tuple[int, int], count: int) -> Iterator[Tensor]:
        """Yield the masks of a seed, ``count`` at a time, float32 (m, H, W) in [0, 1].

        They do not depend on ``count``.
        """
        generator = torch.Generator().manual_seed(int(seed) % 2**63)
        grids = (torch.rand(self.masks, self.grid, self.grid, generator=generator) < self.probability).float()
        cells = [-(-side // self.grid) for side in size]
        shifts = torch.stack([torch.randint(0, cell, (self.masks,), generator=generator) for cell in cells], 1)
        for start in range(0, self.masks, count):
            yield self.upsampled(grids[start : start + count], shifts[start : start + count], size)

    @staticmethod
    def upsampled(grids: Tensor, shifts: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the masks of grids (m, s, s) cropped at shifts (m, 2) to a size (H, W): float32 (m, H, W)."""
        count = grids.shape[-1]
        lines = [_upsampling(count, (count + 1) * -(-side // count)) for side in size]
        rows, columns = (
            line[shift[:, None] + torch.arange(side)]
            for line, shift, side in zip(lines, shifts.unbind(1), size, strict=True)
        )
        return rows @ grids @ columns.mT

    def cost(self, rank: int | None, channels: int) -> Cost:
        return Cost(scored=self.masks, shared=self.masks)


def _upsampling(cells: int, size: int) -> Tensor:
    """Return the (size, cells) matrix of linear upsampling with half-pixel centres.

    Positions beyond the centre of the first or last cell are mirrored about it.
    """
    position = ((torch.arange(size, dtype=torch.float64) + 0.5) * cells / size - 0.5).abs()
    position = torch.minimum(position, 2 * (cells - 1) - position).clamp_min(0)
    lower = position.long().clamp_max(max(cells - 2, 0))
    upper = (lower + 1).clamp_max(cells - 1)
    weight = (position - lower)[:, None]
    matrix = torch.zeros(size, cells, dtype=torch.float64)
    matrix.scatter_add_(1, lower[:, None], 1 - weight)
    matrix.scatter_add_(1, upper[:, None], weight)
    return matrix.float()
