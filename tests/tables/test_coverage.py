"""A run says in one line which numbers are over fewer pairs than there are maps, and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from decomcam_bench.cli import main
from decomcam_bench.datasets.toybox.scenes import CLASS_NAMES
from decomcam_bench.tables.coverage import fewer_pairs
from tests.datasets import layouts


def test_pairs_that_a_metric_skips_are_counted_with_their_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = layouts.write_voc(tmp_path / "data", layouts.scenes(4))
    for number, file in enumerate(sorted((root / "VOC2012" / "Annotations").iterdir())):
        flag = int(number < 2)
        file.write_text(layouts.voc_xml([("house", (1, 1, 60, 60))], difficult=flag))
    words = ["run", "dataset=voc", f"dataset.root={root}", "dataset.year=2012", "dataset.split=val", "model=toyclip"]
    words += [
        f"dataset.classes=[{','.join(CLASS_NAMES)}]",
        "method=center,random",
        "metric=pointing,energy",
        "workers=0",
    ]
    assert main([*words, f"results={tmp_path / 'store'}"]) == 0
    shown = capsys.readouterr()
    lines = [line for line in shown.err.splitlines() if "fewer pairs" in line]
    assert lines == [
        "some numbers are over fewer pairs than there are maps: pointing is over 2 of 4 pairs (2 difficult_only)"
    ]
    assert "pointing_n" in shown.out
    assert main([*words[:-2], "metric=energy", "workers=0", f"results={tmp_path / 'other'}"]) == 0
    assert "fewer pairs" not in capsys.readouterr().err
    assert fewer_pairs(str(tmp_path / "store"), []) == []
