"""Make records: one row per pair, from what a metric answers to the table that is sealed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from decomcam_bench.core.reasons import Failure, Reason, failure
from decomcam_bench.datasets.base import Target, printable
from decomcam_bench.metrics.base import Fail, MapMetric, Metric, Outcome, PairMap, Skip, Work
from decomcam_bench.models.geometry import Geometry

Row = dict[str, Any]
#: Columns of every record.
PAIR = ("position", "image_id", "class_id", "class_name", "status", "reason", "detail")


def pair_row(position: int, image_id: str, class_id: int, class_name: str, failed: Failure | None = None) -> Row:
    """Return what every record says of its pair.

    Args:
        position: of the image in the run.
        image_id: of the data set.
        class_id: of the class.
        class_name: of the class.
        failed: why there is no map, or None.
    """
    return {
        "position": position,
        "image_id": printable(image_id),
        "class_id": class_id,
        "class_name": printable(class_name),
        **_status("failed" if failed else "ok", failed),
    }


def _status(status: str, why: Failure | None) -> Row:
    code, detail = (str(why.code), printable(" ".join(why.detail.split()))) if why else ("", "")
    return {"status": status, "reason": code, "detail": detail}


def record(outcome: Outcome, metric: Metric) -> Row:
    """Return status, reason and values of an outcome; a value that is not finite is a failure.

    NaN is none where the metric says that it may be (``undefined``).
    """
    if isinstance(outcome, Skip):
        return {**_status("skipped", failure(outcome.reason)), **outcome.values}
    if isinstance(outcome, Fail):
        return {**_status("failed", failure(outcome.reason)), **outcome.values}
    bad = [
        name
        for name, value in outcome.items()
        if isinstance(value, float) and not np.isfinite(value) and not (np.isnan(value) and name in metric.undefined)
    ]
    if bad:
        known = {metric.census: outcome[metric.census]} if metric.census in outcome else {}
        return {**_status("failed", Failure(Reason.NON_FINITE_VALUE, ", ".join(bad))), **known}
    return {**_status("ok", None), **outcome}


def judged(metric: MapMetric, view: PairMap, failed: Failure | None) -> Outcome:
    """Return what a metric says of a pair, whose map may have failed.

    A pair that the protocol leaves out is left out whether it has a map or not. A pair that a metric cannot digest
    is a record, not the end of the run. A pair whose map failed keeps what it scores under ``failure: worst``.
    """
    try:
        outcome = metric.evaluate(view)
    except (ValueError, LookupError, ArithmeticError, OSError) as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        why = Failure(Reason.METRIC_ERROR, kind + " ".join(str(error).split()))
        outcome = Fail(why, metric.worst() if failed else {})
    if not failed or isinstance(outcome, Skip):
        return outcome
    return Fail(failed, outcome.values if isinstance(outcome, Fail) else metric.missed(outcome))


def frame(rows: list[Row]) -> pd.DataFrame:
    """Return records as a table, sorted by image position and class; values absent from a row are null."""
    table = pd.DataFrame(rows, columns=None if rows else list(PAIR))
    if rows:
        table = table.sort_values(["position", "class_id"], kind="stable").reset_index(drop=True)
    texts = dict.fromkeys(("image_id", "class_name", "status", "reason", "detail"), "str")
    return table.astype({"position": "int32", "class_id": "int32", **texts})


def view_of(
    geometry: Geometry,
    saliency: np.ndarray,
    target: Target,
    classes: tuple[int, ...],
    work: Work | None,
    native: np.ndarray | None = None,
    mode: str = "none",
) -> PairMap:
    """Return one pair as the metrics of its map see it.

    Args:
        geometry: of its image.
        saliency: float32 (H, W) at the model's input; zeros for a pair whose map failed.
        target: the annotated class.
        classes: class ids of all targets of the image.
        work: what the map took.
        native: float32 (h, w), the map on the method's own grid.
        mode: how ``native`` is upsampled; ``none``: it is at the model's input already.
    """
    return PairMap(
        saliency,
        geometry.to_original,
        target,
        geometry.width,
        geometry.height,
        classes,
        whole_image=geometry.mode == "squash",
        work=work,
        native=native if mode != "none" and saliency.any() else None,
        mode=mode,
    )
