"""The README's method of one's own, run as the README says."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from decomcam_bench.cli import main
from decomcam_bench.engine.plan import label

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
    assert words[:2] == ["decomcam-bench", "run"]
    yield words[1:]
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
    own = any("impl" in word for word in words)
    base = [word for word in example if ("impl" in word and not own) or word == "run"]
    assert main([*base, *words, "limit=1", f"results={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_method_whose_code_is_replaced_is_told_from_the_original() -> None:
    assert label("decomcam", {"impl": "weak:Weak"}) == "decomcam[impl=weak:Weak]"
    assert label("decomcam", {"impl": "weak:Weak", "channels": 3}) == "decomcam[channels=3,impl=weak:Weak]"
    assert label("MyCAM", {"impl": "pkg.own:MyCAM", "alpha": 2}) == "MyCAM[alpha=2]"


OWN = """
from dataclasses import dataclass
import torch
from decomcam_bench.methods.base import Cost, Explanation, MapMethod

@dataclass
class Mine(MapMethod):
    what: str = ""
    def __post_init__(self):
        if self.what == "init":
            raise ValueError("what is wrong")
    def map(self, evidence):
        maps = evidence.activations.sum(dim=1)
        return {
            "raise": lambda: 1 / 0,
            "tensor": lambda: maps,
            "array": lambda: Explanation(maps.numpy()),
            "channels": lambda: Explanation(evidence.activations),
            "pairs": lambda: Explanation(maps[:1]),
            "mode": lambda: Explanation(maps, mode="cubic"),
            "size": lambda: Explanation(maps, mode="none"),
            "grad": lambda: Explanation(torch.enable_grad()(torch.mul)(maps, torch.ones(1, requires_grad=True))),
        }[self.what]()
    def cost(self, rank, channels):
        return Cost()

@dataclass
class NoMethod:
    what: str = ""

class NoCost(MapMethod):
    def map(self, evidence):
        return None

def function():
    pass
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Modules ``own`` and ``broken`` to import, and the words of a small run."""
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "broken.py").write_text("def x(:")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield ["limit=3", "metric=pointing", "workers=0", "device=cpu", f"results={tmp_path / 'store'}"]
    for name in ("own", "broken"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["own:Mine", "method.what=init"], 2, "method.impl=own:Mine: what is wrong"),
        (["own:Mine", "method.what=raise"], 1, "method Mine: ZeroDivisionError: division by zero;"),
        (["own:Mine", "method.what=tensor"], 1, "Tensor instead of an Explanation"),
        (["own:Mine", "method.what=array"], 1, "ndarray instead of a torch tensor"),
        (["own:Mine", "method.what=channels"], 1, "shape (4, 512, 5, 5) instead of (4, h, w)"),
        (["own:Mine", "method.what=pairs"], 1, "shape (1, 5, 5) instead of (4, h, w)"),
        (["own:Mine", "method.what=mode"], 1, "unknown mode 'cubic'"),
        (["own:Mine", "method.what=size"], 1, "mode='none' is for maps of 160 x 160"),
        (["own:Mine", "method.wat=1"], 2, "own:Mine has no option 'wat' (did you mean 'what'?); valid: score, what"),
        (["own:NoMethod"], 2, "no subclass of decomcam_bench.methods.base.Method"),
        (["own:NoCost"], 2, "method.impl=own:NoCost: Can't instantiate"),
        (["own:function"], 2, "method.impl=own:function: not a dataclass"),
        (["broken:Mine"], 2, "method.impl=broken:Mine: 'broken' raises SyntaxError"),
    ],
)
def test_errors_of_the_users_code_name_it(own, words, status: int, message: str, capsys) -> None:
    impl, *options = words
    assert main(["run", f"method.impl={impl}", *options, *own]) == status
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("decomcam-bench: ")
    assert message in error.splitlines()[-1]
    assert "Traceback" not in error


def test_maps_that_carry_a_gradient_are_taken(own) -> None:
    assert main(["run", "method.impl=own:Mine", "method.what=grad", *own]) == 0


def test_custom_needs_an_implementation(capsys, tmp_path) -> None:
    assert main(["run", "method=custom", "limit=1", f"results={tmp_path}"]) == 2
    assert "method.impl=package.module:Class" in capsys.readouterr().err
