"""The figure of the accuracy-binned protocol: insertion, deletion and overall against class accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANELS = (("insertion", "Insertion (higher is better)"), ("deletion", "Deletion (lower is better)"))


def draw_bins(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Three panels, one line a method, a point at the centre of each bin that holds a correct pair.

    Args:
        tables: for each method its :func:`decomcam_bench.metrics.bins.bin_table`.
    """
    # The object-oriented interface leaves the process-wide state of pyplot alone.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = (*_PANELS, ("overall", "Overall (insertion - deletion)"))
    for axes, (curve, title) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for method, table in tables.items():
            filled = table[table["correct"] > 0]
            axes.plot(filled["centre"], filled[curve], marker="o", label=method)
        axes.set(title=title, xlabel="class accuracy", ylabel=curve, xlim=(0, 1))
        axes.grid(alpha=0.3)
    if tables:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center")
    return figure
