"""A trained model through every adapter: the same scenes give the same numbers as through toybox."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from decomcam_bench.cli import main
from decomcam_bench.datasets.toybox_scenes import CLASS_NAMES
from tests.datasets import layouts

CLASSES = f"dataset.classes=[{','.join(CLASS_NAMES)}]"
CASES = {
    "voc": (layouts.write_voc, {}, "box", ["dataset.year=2012", "dataset.split=val", CLASSES]),
    "coco": (layouts.write_coco, {}, "mask", []),
    "imagenet": (layouts.write_imagenet, {"one_class": True}, "box", [CLASSES]),
    "imagenetv2": (layouts.write_imagenetv2, {"one_class": True}, "box", [CLASSES]),
    "partimagenet": (layouts.write_partimagenet, {"one_object": True}, "mask", []),
    "cub": (layouts.write_cub, {"one_class": True, "one_object": True}, "box", ["dataset.templates=photo"]),
}


def _run(tmp_path: Path, region: str, *words: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Numbers and counts of one run of Grad-CAM, from the table of its own store."""
    common = ["model=toyclip", "method=gradcam", "metric=pointing_exact,energy", f"metric.region={region}", "workers=0"]
    store = str(tmp_path / words[0].removeprefix("dataset="))
    assert main(["run", *words, *common, f"results={store}"]) == 0
    capsys.readouterr()
    assert main(["table", "--results", store, "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    counts = {key: row[key] for key in ("n_expected", "n_evaluated", "n_skipped", "n_failed", "reasons")}
    return {**counts, **{key: value for metric in row["metrics"].values() for key, value in metric["values"].items()}}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_same_numbers_as_toybox(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    write, kinds, region, options = CASES[name]
    drawn = layouts.scenes(5, **kinds)
    root = write(tmp_path / "data", drawn)
    ids = f"dataset.ids=[{','.join(f'test_{number:06d}' for number in drawn)}]"
    ours = _run(tmp_path, region, f"dataset={name}", f"dataset.root={root}", *options, capsys=capsys)
    reference = _run(tmp_path, region, "dataset=toybox", ids, capsys=capsys)
    # Images come in another order, and a sum of floats knows its order in the last bit.
    assert ours.keys() == reference.keys()
    for key, expected in reference.items():
        exact = not isinstance(expected, float)
        assert ours[key] == (expected if exact else pytest.approx(expected, rel=1e-12)), key
    assert ours["n_evaluated"] >= 4
