"""Methods, metrics and data sets that are objects of a Python session."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import decomcam_bench as bench
from decomcam_bench.core.errors import UserError
from decomcam_bench.datasets.toybox.dataset import ToyBox
from decomcam_bench.methods.base import Cost, Evidence, Explanation, MapMethod
from decomcam_bench.metrics.energy import Energy

FAST = {"limit": 3, "workers": 0, "device": "cpu"}


@dataclass
class Power(MapMethod):
    """Activations to a power."""

    alpha: float = 1.0

    def map(self, evidence: Evidence) -> Explanation:
        return Explanation(evidence.activations.relu().pow(self.alpha).sum(dim=1))

    def cost(self, rank: int | None, channels: int) -> Cost:
        return Cost()


def corner(seen: object, image: np.ndarray, text: str) -> np.ndarray:
    assert image.dtype == np.uint8
    assert image.shape == (160, 160, 3)
    assert text.startswith("a photo of a")
    found = np.zeros((4, 4))
    found[0, 0] = 1
    return found


def test_objects_functions_and_names_stand_next_to_one_another() -> None:
    methods = {"one": Power(), "two": Power(alpha=3), "corner": corner, "middle": "center"}
    with pytest.raises(UserError, match="are the same method"):
        bench.evaluate({"a": "center", "b": "center"}, metrics=["energy"], **FAST)
    table = bench.evaluate(methods, metrics=["energy", Energy(objects="single")], intervals=True, **FAST)
    assert list(table["method"]) == list(methods)
    values = table.set_index("method")["energy"]
    assert values["one"] != values["two"]
    assert values["corner"] < values["middle"]
    assert "energy_low" in table


def test_a_function_sees_model_and_scores() -> None:
    found = []

    def look(seen, image, text):  # type: ignore[no-untyped-def]
        found.append((seen.layer, float(seen.score(seen.image[None])[0])))
        return seen.image.sum(dim=0).abs()

    table = bench.evaluate(look, metrics="energy", **FAST)
    assert list(table["method"]) == ["look"]
    assert {layer for layer, _ in found} == {"layer4"}
    assert all(np.isfinite(score) for _, score in found)


def test_a_data_set_can_be_an_object_and_results_can_be_kept(tmp_path: Path) -> None:
    table = bench.evaluate(Power(alpha=2), ToyBox(split="val", size=4), "energy", results=tmp_path, workers=0)
    assert int(table["n_expected"].iloc[0]) > 0
    again = bench.evaluate([Power(alpha=2)], ToyBox(split="val", size=4), ["energy"], results=tmp_path, workers=0)
    assert list(again["key"]) == list(table["key"])
    other = bench.evaluate([Power(alpha=3)], ToyBox(split="val", size=4), ["energy"], results=tmp_path, workers=0)
    assert list(other["key"]) != list(table["key"])


def test_the_reference_goes_by_the_callers_name() -> None:
    table = bench.evaluate({"mine": Power(), "base": "center"}, metrics=["energy"], reference="base", **FAST)
    assert np.isnan(table.set_index("method")["energy_diff"]["base"])
    with pytest.raises(UserError, match=r"unknown reference 'bse' .did you mean 'base'"):
        bench.evaluate({"mine": Power(), "base": "center"}, metrics=["energy"], reference="bse", **FAST)


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ({}, "give at least one"),
        ([Power(), Power(alpha=2)], "several are called Power; give a dict of names"),
        ({"x": Energy()}, "no subclass of decomcam_bench.methods.base.Method"),
        ({"x": 3}, "int is no dataclass"),
        ({"x": lambda seen, image, text: "map"}, "instead of a map"),
        ({"x": lambda seen, image, text: np.zeros(3)}, r"shape \(3,\) instead of a map"),
        ({"x": "nothing"}, "unknown method 'nothing'"),
    ],
)
def test_what_is_no_method_is_one_line(methods: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        bench.evaluate(methods, metrics=["energy"], **FAST)


def test_what_has_no_source_is_not_kept(tmp_path: Path) -> None:
    code = f"""
import decomcam_bench as bench
exec('def bare(seen, image, text): return image.sum(axis=2)')
table = bench.evaluate(bare, metrics=['energy'], results={str(tmp_path / "s")!r}, limit=1, workers=0)
print(list(table['method']))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "['bare']" in done.stdout
    assert "has no source that could identify it, so its results are not kept" in done.stderr
    assert not (tmp_path / "s").exists()
