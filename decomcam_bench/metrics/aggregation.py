"""Sums over images from which a metric's number of the data set follows.

A metric that is a function of sums over images (of hits and counts a class, say, or of hits a
threshold) can be resampled as one matrix product of image weights and sums; see
:mod:`decomcam_bench.stats.intervals`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import sparse

#: Weighted sums over images, float64 (r, k): one row a weighting.
Totals = np.ndarray
Combine = Callable[[Totals], dict[str, np.ndarray]]


#: How a column follows from totals, which decides how its interval and its test are made.
KINDS = ("linear", "smooth", "threshold", "rough")


@dataclass(frozen=True)
class ImageSums:
    """Hold what the images add to a metric.

    Attributes:
        image_ids: (n,), sorted, unique.
        sums: float64 (n, k), the sum over the pairs of each image; sparse where mostly zero.
        combine: from totals (r, k), each row a weighted sum of ``sums`` over images, to the metric's columns, each
            (r,); NaN where a row holds no pair.
        kinds: of each column one of :data:`KINDS`. ``linear``: a mean over pairs or over classes; ``smooth``: another
            smooth function of the totals; ``threshold``: the best of many thresholds, which ``held`` holds; ``rough``,
            where nothing is said: a function that may jump.
        held: as ``combine``, with the thresholds that are best for all images together; None if there are none.
        counted: images that hold a pair of a column, where these are not all.
    """

    image_ids: np.ndarray
    sums: np.ndarray | sparse.csr_matrix
    combine: Combine
    kinds: Mapping[str, str] = field(default_factory=dict)
    held: Combine | None = None
    counted: Mapping[str, int] = field(default_factory=dict)

    def kind(self, name: str) -> str:
        """Return the kind of a column."""
        return self.kinds.get(name, "rough")

    def aggregate(self) -> dict[str, float]:
        """Return the columns with every image counted once."""
        totals = np.asarray(self.sums.sum(axis=0)).reshape(1, -1)
        return {name: float(values[0]) for name, values in self.combine(totals).items()}


def sum_by_image(
    records: pd.DataFrame,
    values: np.ndarray | sparse.csr_matrix,
    combine: Combine,
    kinds: Mapping[str, str] | None = None,
    held: Combine | None = None,
    counted: Mapping[str, np.ndarray] | None = None,
) -> ImageSums:
    """Add the rows of ``values`` (one per record) over the records of each image.

    Args:
        records: with ``image_id``.
        values: (records, k).
        combine: see :class:`ImageSums`.
        kinds: see :class:`ImageSums`.
        held: see :class:`ImageSums`.
        counted: for a column, bool (records,): which records hold a value of it.
    """
    codes, image_ids = pd.factorize(records["image_id"], sort=True)
    places = (np.ones(len(codes)), (codes, np.arange(len(codes))))
    members = sparse.csr_matrix(places, shape=(len(image_ids), len(codes)))
    return ImageSums(
        np.asarray(image_ids),
        sparse.csr_matrix(members @ values) if sparse.issparse(values) else members @ values,
        combine,
        kinds or {},
        held,
        {name: len(np.unique(codes[mine])) for name, mine in (counted or {}).items()},
    )


def mean_sums(records: pd.DataFrame, value_of: Mapping[str, str]) -> ImageSums:
    """Means over pairs. A pair whose value is NaN takes no part in that column.

    Args:
        value_of: for each column the name of its value in ``records``.
    """
    names = list(value_of)
    unknown = pd.Series(np.nan, index=records.index)
    values = np.stack([records.get(value_of[name], unknown).to_numpy(dtype=np.float64) for name in names], axis=1)
    known = ~np.isnan(values)

    def combine(totals: Totals) -> dict[str, np.ndarray]:
        sums, counts = totals[:, : len(names)], totals[:, len(names) :]
        return dict(zip(names, ratio(sums, counts).T, strict=True))

    return sum_by_image(
        records,
        np.concatenate([np.where(known, values, 0.0), known], axis=1),
        combine,
        dict.fromkeys(names, "linear"),
        counted={name: known[:, place] for place, name in enumerate(names) if not known[:, place].all()},
    )


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Quotient, NaN where the denominator is 0."""
    found: np.ndarray = np.divide(
        numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator > 0
    )
    return found


def class_columns(records: pd.DataFrame, values: np.ndarray) -> tuple[sparse.csr_matrix, int]:
    """Spreads one value a record over one column a class.

    Returns:
        (records, classes) with ``values`` in the column of each record's class, and the number of
        classes that occur.
    """
    codes, classes = pd.factorize(records["class_id"], sort=True)
    places = (values.astype(np.float64), (np.arange(len(codes)), codes))
    return sparse.csr_matrix(places, shape=(len(codes), len(classes))), len(classes)


def side_by_side(blocks: Sequence[sparse.csr_matrix]) -> sparse.csr_matrix:
    """Blocks with the same rows, next to each other."""
    return sparse.hstack(blocks, format="csr")


def class_mean(hits: np.ndarray, counts: np.ndarray, all_classes: int | None) -> np.ndarray:
    """Mean over classes of hits / counts.

    Args:
        hits, counts: (r, classes).
        all_classes: a class without a count counts 0 and the mean is over this many classes
            (TorchRay); or None: such a class is left out.

    Returns:
        (r,); NaN where no class has a count.
    """
    share = np.divide(hits, counts, out=np.zeros(np.shape(hits)), where=counts > 0)
    present = (counts > 0).sum(axis=1)
    mean = ratio(share.sum(axis=1), present if all_classes is None else np.full(len(share), all_classes))
    return np.where(present > 0, mean, np.nan)
