"""The Python API is there without being paid for, and its examples hold (doctests of the module)."""

from __future__ import annotations

import doctest
import pkgutil
import subprocess
import sys

import decomcam_bench
from decomcam_bench import api


def test_importing_costs_nothing_heavy() -> None:
    code = "import sys, decomcam_bench; assert not {'torch', 'pandas', 'hydra'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_function_of_the_api_is_in_the_package() -> None:
    own = {name for name, item in vars(api).items() if callable(item) and item.__module__ == api.__name__}
    assert own == set(decomcam_bench._API)
    assert set(decomcam_bench._API) <= set(dir(decomcam_bench))
    assert decomcam_bench.load_table is api.load_table
    # Once imported, a module hides the function of its name.
    assert not {module.name for module in pkgutil.iter_modules(decomcam_bench.__path__)} & own


def test_every_function_has_an_example_or_names_one() -> None:
    for name in decomcam_bench._API:
        text = getattr(api, name).__doc__ or ""
        assert doctest.DocTestParser().get_examples(text) or "See :func:" in text, name
