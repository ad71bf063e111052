"""Figures show the values of their tables."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pandas as pd

from decomcam_bench.reports import figures


def test_accuracy_bins_have_three_panels_with_one_line_per_method() -> None:
    table = pd.DataFrame({"centre": [0.25, 0.35, 0.45], "correct": [3, 0, 5]})
    for shift, curve in enumerate(("insertion", "deletion", "overall")):
        table[curve] = [0.1 + shift, np.nan, 0.3 + shift]
    figure = figures.bins({"decomcam": table, "gradcam": table + 0.0})
    assert len(figure.axes) == 3
    for shift, axes in enumerate(figure.axes):
        assert [line.get_label() for line in axes.get_lines()] == ["decomcam", "gradcam"]
        np.testing.assert_allclose(axes.get_lines()[0].get_xydata(), [[0.25, 0.1 + shift], [0.45, 0.3 + shift]])
    image = BytesIO()
    figure.savefig(image, format="png")
    assert image.getvalue().startswith(b"\x89PNG")
