"""The Python API is there without being paid for, and its examples hold (doctests of the module)."""

from __future__ import annotations

import doctest
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import decomcam_bench
from decomcam_bench import api
from decomcam_bench.core.errors import UserError


def test_importing_costs_nothing_heavy() -> None:
    code = "import sys, decomcam_bench; assert not {'torch', 'pandas', 'hydra'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_function_of_the_api_is_in_the_package() -> None:
    own = {name for name, item in vars(api).items() if callable(item) and item.__module__ == api.__name__}
    assert own == {name for name, home in decomcam_bench._HOMES.items() if home == "api"}
    assert set(decomcam_bench._HOMES) <= set(dir(decomcam_bench))
    assert all(callable(getattr(decomcam_bench, name)) for name in decomcam_bench._HOMES)
    assert set(decomcam_bench._HOMES) <= set(re.findall(r"(?<=[`.])\w+(?=`)", api.__doc__)) | own
    # Once imported, a module hides the function of its name.
    assert not {module.name for module in pkgutil.iter_modules(decomcam_bench.__path__)} & set(decomcam_bench._HOMES)


def test_every_function_has_an_example_or_names_one() -> None:
    for name in set(decomcam_bench._HOMES) - {"explain", "update_baseline"}:  # drawn in tests; see check
        text = getattr(decomcam_bench, name).__doc__ or ""
        assert doctest.DocTestParser().get_examples(text), name


def test_the_store_is_named_once(tmp_path: Path) -> None:
    words = ("method=center", "metric=energy", "limit=2", "workers=0")
    folder = tmp_path / "it's [a] store=1, ünder"
    assert decomcam_bench.run(*words, results=folder).computed_images == 2
    assert decomcam_bench.run(*words, f"results={folder}").computed_images == 0
    with pytest.raises(UserError, match="name one store"):
        decomcam_bench.run(*words, "results=r1", results=folder)


def test_a_store_that_does_not_exist_has_no_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no results there; `decomcam-bench run` makes some"):
        decomcam_bench.load_table(tmp_path / "none")
