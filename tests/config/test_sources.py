"""Choices of one's own come from outside the package."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from decomcam_bench.config import registry, sources
from decomcam_bench.config.settings import load_config
from decomcam_bench.core.errors import ConfigError

METHOD = """
from dataclasses import dataclass
from {helper} import power
from decomcam_bench.methods.base import Cost, Explanation, MapMethod

@dataclass
class Mine{n}(MapMethod):
    '''Activations to a power.'''
    alpha: float = 1.0
    def map(self, evidence):
        return Explanation(power(evidence.activations, self.alpha).sum(dim=1))
    def cost(self, rank, channels):
        return Cost()

class _Hidden(MapMethod):
    pass

class Unrelated:
    pass
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Path]:
    monkeypatch.setattr(sources, "_folders", [])
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    name = f"m{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(METHOD.format(helper=f"{name}_helper", n=""))
    (tmp_path / f"{name}_helper.py").write_text("def power(x, a): return x**a\n")
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "strong.yaml").write_text(f"impl: {name}:Mine\nalpha: 3\ndescription: to the third\n")
    yield tmp_path
    for module in set(sys.modules) - before:
        del sys.modules[module]


def test_an_included_folder_adds_yamls_and_classes(folder: Path) -> None:
    assert "strong" not in registry.names("method")
    sources.include(folder)
    assert {"strong", "Mine", "decomcam"} <= set(registry.names("method"))
    assert not {"_Hidden", "Unrelated"} & set(registry.names("method"))
    assert "Mine" not in registry.names("metric")
    strong, mine = load_config(["method=strong,Mine", "method.Mine.alpha=2"]).settings
    assert (strong.method["alpha"], strong.changed["method"]) == (3, {})
    assert (mine.method["alpha"], mine.changed["method"]) == (2, {"alpha": 2})


def test_the_environment_names_folders_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(sources.VARIABLE, str(folder))
    assert "strong" in registry.names("method")
    monkeypatch.setattr(sources, "_folders", [])
    monkeypatch.setenv(sources.VARIABLE, f"{folder}/nowhere")
    with pytest.raises(ConfigError, match=r"DECOMCAM_BENCH_INCLUDE=.*no such folder; correct or unset"):
        registry.names("method")


def test_entry_points_of_installed_packages_are_choices(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources.reach(folder)
    (module,) = (file.stem for file in folder.glob("*.py") if not file.stem.endswith("_helper"))
    points = {"decomcam_bench.method": [EntryPoint("theirs", f"{module}:Mine", "decomcam_bench.method")]}
    monkeypatch.setattr(sources, "entry_points", lambda group: points.get(group, []))
    sources._entry_points.cache_clear()
    try:
        (setting,) = load_config(["method=theirs", "theirs.alpha=4"]).settings
        assert (setting.method["name"], setting.method["alpha"]) == ("theirs", 4)
    finally:
        sources._entry_points.cache_clear()


def test_a_class_is_a_choice_of_its_own_in_every_group(folder: Path) -> None:
    sources.reach(folder)
    (module,) = (file.stem for file in folder.glob("*.py") if not file.stem.endswith("_helper"))
    found = load_config(
        [
            f"method=decomcam,{module}:Mine",
            f"{module}.alpha=2",
            "metric=decomcam_bench.metrics.energy:Energy",
            "dataset=decomcam_bench.datasets.toybox.dataset:ToyBox",
            "model=decomcam_bench.models.toyclip:ToyClip",
        ]
    )
    assert [setting.method["name"] for setting in found.settings] == ["decomcam", "Mine"]
    assert found.settings[1].method["alpha"] == 2
    assert found.settings[0].dataset["name"] == "ToyBox"
    assert found.settings[0].model["name"] == "ToyClip"


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("method/decomcam.yaml", "impl: a:B\n", "the package has a method 'decomcam' already; rename the file"),
        ("method/bad.yaml", "impl: [\n", "bad.yaml: cannot be read as YAML"),
        ("method/bad.yaml", "- a\n", "bad.yaml: holds no mapping"),
        ("method/bad.yaml", "alpha: 3\n", "method=bad: its YAML names no class; add impl: package.module:Class"),
        ("method/bad.yaml", "impl: nowhere_at_all:Class\n", "cannot import 'nowhere_at_all'"),
    ],
)
def test_a_bad_included_file_is_one_line(folder: Path, file: str, text: str, said: str) -> None:
    (folder / file).write_text(text)
    sources.include(folder)
    with pytest.raises(ConfigError) as caught:
        load_config(["method=bad"])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="--include nowhere: no such folder"):
        sources.include("nowhere")
