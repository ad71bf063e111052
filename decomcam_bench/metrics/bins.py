"""Deletion and insertion by the accuracy of the class: the DecomCAM authors' protocol.

The accuracy of each class is that of the same run: the share of its pairs whose top class, over
all prompts, is the pair's own. Classes fall into ten bins of accuracy, [0, 0.1), ..., [0.9, 1].
Pairs that the model classifies wrongly count towards the accuracy and take no part in the rest. Each bin reports
the mean over its other pairs of insertion, deletion and overall = insertion - deletion. Pairs without a usable map
count towards the accuracy under every failure policy, since the accuracy of a class must not depend on the method.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.core.reasons import Failure, Reason
from decomcam_bench.metrics.aggregation import ImageSums, Totals, class_columns, ratio, side_by_side, sum_by_image
from decomcam_bench.metrics.base import Column, Direction, Fail, Outcome, PairBatch
from decomcam_bench.metrics.causal import Causal

BINS = 10
_CURVES = ("insertion", "deletion", "overall")


def accuracy_bin(correct: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Bin 0..9 of an accuracy correct / count; -1 where count is 0."""
    place = np.floor(BINS * ratio(correct, count))
    return np.where(count > 0, np.minimum(np.nan_to_num(place), BINS - 1), -1).astype(np.int64)


@dataclass
class AccuracyBins(Causal):
    """Deletion, insertion and overall in bins of class accuracy; always of correct pairs alone."""

    id = "accuracy_bins"

    version: ClassVar[int] = 4
    undefined: ClassVar[frozenset[str]] = frozenset(_CURVES)
    census: ClassVar[str] = "correct"

    def __post_init__(self) -> None:
        if self.only_correct is False:
            raise ConfigError("metric.only_correct=false: the accuracy-binned protocol excludes wrong predictions")
        if self.curves != "both":
            raise ConfigError(f"metric.curves={self.curves}: the accuracy-binned protocol draws both curves")
        self.only_correct = True
        super().__post_init__()

    @property
    def columns(self) -> Sequence[Column]:
        name = self.name or "accuracy_bins"
        low, high = (-1.0, 1.0) if self.score == "cosine" else (0.0, 1.0)
        bounds = {"insertion": (low, high), "deletion": (low, high), "overall": (low - high, high - low)}
        main = [
            Column(f"{name}_accuracy", value="correct", detail=True),
            *(Column(f"{name}_{curve}", _direction(curve), *bounds[curve], "score", curve) for curve in _CURVES),
        ]
        binned = [
            Column(f"{name}_{curve}_{place}", _direction(curve), *bounds[curve], "score", curve, detail=True)
            for curve in _CURVES
            for place in range(BINS)
        ]
        return (*main, *binned)

    def evaluate_batch(self, batch: PairBatch) -> list[Outcome]:
        """As deletion and insertion; ``correct`` is known of every pair whose image has finite scores.

        Skipped: ``misclassified``. Failed: ``non_finite_score``, those of the image; ``no_map`` and
        ``non_finite_map``, with the values of a map of zeros.
        """
        outcomes: list[Outcome] = []
        known, correct = (flags.tolist() for flags in self.predicted(batch))
        for outcome, is_known, right in zip(super().evaluate_batch(batch), known, correct, strict=True):
            if not is_known:
                outcomes.append(Fail(Reason.NON_FINITE_SCORE))
            elif isinstance(outcome, dict) and not np.isfinite(outcome["overall"]):
                outcomes.append(Fail(Failure(Reason.NON_FINITE_VALUE, "overall"), {"correct": right}))
            elif isinstance(outcome, dict):
                outcomes.append({"correct": right, **outcome})
            else:
                outcomes.append(dataclasses.replace(outcome, values={**outcome.values, "correct": right}))
        return outcomes

    def image_sums(self, records: pd.DataFrame) -> ImageSums:
        """Of each class: pairs, correct pairs, those with a usable map, and sums of the three values over the last."""
        records = _complete(records)
        correct = records["correct"].to_numpy(dtype=np.float64)
        scored = _scored(records)
        values = [np.ones(len(correct)), correct, scored.astype(np.float64)]
        values += [np.where(scored, records[curve].to_numpy(dtype=np.float64), 0.0) for curve in _CURVES]
        blocks = [class_columns(records, value)[0] for value in values]
        name = self.name or "accuracy_bins"

        def combine(totals: Totals) -> dict[str, np.ndarray]:
            count, right, drawn, *sums = np.split(totals, len(values), axis=1)
            place = accuracy_bin(right, count)
            whole = {f"{name}_accuracy": ratio(right.sum(axis=1), count.sum(axis=1))}
            for curve, value in zip(_CURVES, sums, strict=True):
                whole[f"{name}_{curve}"] = ratio(value.sum(axis=1), drawn.sum(axis=1))
            for curve, value in zip(_CURVES, sums, strict=True):
                for index in range(BINS):
                    member = place == index
                    whole[f"{name}_{curve}_{index}"] = ratio(
                        np.where(member, value, 0.0).sum(axis=1), np.where(member, drawn, 0.0).sum(axis=1)
                    )
            return whole

        plain = (f"{name}_accuracy", *(f"{name}_{curve}" for curve in _CURVES))
        return sum_by_image(records, side_by_side(blocks), combine, dict.fromkeys(plain, "linear"))


def bin_table(records: pd.DataFrame) -> pd.DataFrame:
    """One row a bin of class accuracy, ready to be drawn.

    Args:
        records: of :class:`AccuracyBins`.

    Returns:
        ``low``, ``high``, ``centre`` of the bin, ``classes``, ``pairs``, ``correct`` (pairs
        with a usable map, which the rest is the mean of), ``insertion``, ``deletion``, ``overall``
        (NaN in an empty bin).
    """
    records = _complete(records)
    classes = records.groupby("class_id").agg(pairs=("correct", "size"), correct=("correct", "sum"))
    place = accuracy_bin(classes["correct"].to_numpy(np.float64), classes["pairs"].to_numpy(np.float64))
    own = pd.Series(place, index=classes.index).reindex(records["class_id"]).to_numpy()
    scored = _scored(records)
    rows = []
    for index in range(BINS):
        inside, right = records[own == index], records[(own == index) & scored]
        row = {
            "low": index / BINS,
            "high": (index + 1) / BINS,
            "centre": (index + 0.5) / BINS,
            "classes": int((place == index).sum()),
            "pairs": len(inside),
            "correct": len(right),
        }
        rows.append({**row, **{curve: float(right[curve].astype(np.float64).mean()) for curve in _CURVES}})
    return pd.DataFrame(rows)


def _complete(records: pd.DataFrame) -> pd.DataFrame:
    """Records of which perhaps none has a value, with all columns."""
    empty = {curve: np.nan for curve in _CURVES if curve not in records}
    return records.assign(correct=records["correct"].astype(bool), **empty)


def _scored(records: pd.DataFrame) -> np.ndarray:
    """Whether each pair is predicted right and has a usable map, bool (records,)."""
    found: np.ndarray = records["correct"].to_numpy() & records["overall"].notna().to_numpy()
    return found


def _direction(curve: str) -> Direction:
    return "lower" if curve == "deletion" else "higher"
