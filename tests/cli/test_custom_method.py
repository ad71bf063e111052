"""The README's method of one's own, run as the README says."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from decomcam_bench.cli import main

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The README's code in the file that it names, and its command."""
    text = README.read_text(encoding="utf-8")
    found = re.search(r"<!-- example:custom-method -->\n```python\n# (\w+)\.py\n(.*?)```\n\n    (.*?)\n", text, re.S)
    assert found, "README.md has no block marked example:custom-method"
    module, code, command = found.groups()
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, module, raising=False)
    words = command.split()
    assert words[:3] == ["PYTHONPATH=.", "decomcam-bench", "run"]
    yield words[2:]
    sys.modules.pop(module, None)


def test_the_example_runs_and_its_parameter_comes_from_the_command_line(example, tmp_path, capsys) -> None:
    fast = ["limit=3", "metric=pointing", "workers=0", "device=cpu", f"results={tmp_path / 'store'}", "--format=csv"]
    words = [word for word in example if not word.startswith("limit=")]
    assert main([*words, *fast]) == 0
    out = capsys.readouterr().out
    assert "MyCAM[alpha=2]" in out
    plain = [word for word in words if not word.startswith("method.alpha")]
    assert main([*plain, *fast]) == 0
    again = capsys.readouterr().out
    assert "MyCAM," in again
    assert again.splitlines()[1].split(",")[-1] != out.splitlines()[1].split(",")[-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method.beta=2"], "alpha"),
        (["method.alpha=much"], "method.alpha=much"),
        (["method.impl=no_such_module_here:MyCAM"], "cannot import 'no_such_module_here'"),
        (["method.impl=math:MyCAM"], "no such class"),
    ],
)
def test_what_is_wrong_with_it_is_one_line(example, words, message: str, tmp_path, capsys) -> None:
    base = [word for word in example if "impl" in word or word == "run"]
    assert main([*base, *words, "limit=1", f"results={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_custom_needs_an_implementation(capsys, tmp_path) -> None:
    assert main(["run", "method=custom", "limit=1", f"results={tmp_path}"]) == 2
    assert "method.impl=package.module:Class" in capsys.readouterr().err
