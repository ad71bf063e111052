"""A week of a user: things of one's own from another folder, scripts and clusters."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from decomcam_bench.cli import main

METHOD = """
from dataclasses import dataclass
from week_helper import power
from decomcam_bench.methods.base import Cost, Explanation, MapMethod

@dataclass
class WeekCAM(MapMethod):
    alpha: float = 1.0
    def map(self, evidence):
        return Explanation(power(evidence.activations.relu(), self.alpha).sum(dim=1))
    def cost(self, rank, channels):
        return Cost()
"""
METRIC = """
from dataclasses import dataclass
from decomcam_bench.metrics.base import Column
from decomcam_bench.metrics.energy import Energy

@dataclass
class WeekMetric(Energy):
    id = "week_metric"
    factor: float = 2.0
    @property
    def columns(self):
        return (Column("week", high=2.0, value="week"),)
    def evaluate(self, pair):
        found = super().evaluate(pair)
        return {"week": self.factor * found["energy"]} if isinstance(found, dict) else found
"""
DATA = """
from dataclasses import dataclass
from decomcam_bench.datasets.toybox.dataset import ToyBox

@dataclass
class WeekData(ToyBox):
    id = "week_data"
    default_model = "toyclip"
    metrics = ("energy",)
"""
EXPERIMENT = """
description: mine against gradcam
datasets: [toybox]
overrides: [method=WeekCAM, metric=energy, limit=2]
columns: [energy]
"""


def command(*words: str, **more: object) -> subprocess.CompletedProcess[str]:
    code = "import sys; from decomcam_bench.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        timeout=120,
        **more,  # type: ignore[call-overload]
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    own = tmp_path / "own things"
    own.mkdir()
    for name, text in (("week_cam", METHOD), ("week_metric", METRIC), ("week_data", DATA)):
        (own / f"{name}.py").write_text(text)
    (own / "week_helper.py").write_text("def power(x, a): return x**a\n")
    (own / "mine.yaml").write_text(EXPERIMENT)
    return own


def test_things_of_ones_own_run_from_their_folder_and_from_elsewhere(folder: Path, tmp_path: Path) -> None:
    words = ["method=gradcam,week_cam:WeekCAM", "week_cam.alpha=2", "metric=energy,week_metric:WeekMetric"]
    words += ["dataset=week_data:WeekData", "limit=2", "workers=0", "device=cpu"]
    done = command("run", "--json", "--log-file", "log.txt", *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["table"]
    assert [row["method"] for row in rows] == ["gradcam", "WeekCAM[alpha=2]"]
    assert all(abs(row["week"] - 2 * row["energy"]) < 1e-6 for row in rows)
    assert " INFO 2 images in " in (folder / "log.txt").read_text()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    again = ["method=WeekCAM", "WeekCAM.alpha=2", "metric=energy", "dataset=WeekData", "limit=2", "workers=0"]
    more = command("run", "--quiet", "--include", str(folder), *again, f"results={folder}/results", cwd=elsewhere)
    assert more.returncode == 0, more.stderr
    assert more.stderr == ""
    assert rows[1]["key"] in more.stdout
    shown = command("results", "show", rows[1]["key"][:6], cwd=folder)
    repeat = json.loads(shown.stdout)["repeat"]
    assert any("method=week_cam:WeekCAM" in line for line in repeat)


def test_an_experiment_of_ones_own(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = command("reproduce", "./mine.yaml", "--quiet", "--include", ".", "workers=0", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "WeekCAM" in done.stdout
    assert (folder / "results" / "experiments" / "mine" / "figure.png").is_file()
    assert main(["reproduce", "localization", "dataset=toybox", "limit=2", "--dry-run", f"results={tmp_path}"]) == 0
    assert "in all: " in capsys.readouterr().out


def test_an_ascii_locale_is_no_error(tmp_path: Path) -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = command("run", "method=ünknown", env=environment, cwd=tmp_path)
    assert done.returncode == 2
    assert "UnicodeEncodeError" not in done.stderr
    assert "unknown method" in done.stderr


def test_sigterm_ends_a_run_as_ctrl_c_does(tmp_path: Path) -> None:
    code = "import sys; from decomcam_bench.cli import main; sys.exit(main())"
    words = ["run", "method=scorecam", "metric=energy", "limit=64", "workers=1", "batch_size=4"]
    run = subprocess.Popen([sys.executable, "-c", code, *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "results").is_dir() and time.monotonic() < deadline:
        time.sleep(0.1)
    run.send_signal(signal.SIGTERM)
    _, error = run.communicate(timeout=60)
    assert run.returncode == 143
    assert "terminated; finished shards are kept, run the same command to go on" in error
    assert "Traceback" not in error


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are looked for in /proc")
def test_a_killed_run_leaves_no_decoders(tmp_path: Path) -> None:
    code = "import sys; from decomcam_bench.cli import main; sys.exit(main())"
    words = ["run", "--quiet", "method=scorecam", "metric=energy", "limit=64", "workers=2", "batch_size=4"]
    run = subprocess.Popen([sys.executable, "-c", code, *words], cwd=tmp_path)
    task = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    deadline = time.monotonic() + 60
    while len(children := task.read_text().split()) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(children) == 2
    time.sleep(1)  # the decoders' own start
    run.kill()
    run.wait()
    deadline = time.monotonic() + 20
    while any(_runs(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_runs(child) for child in children)


def _runs(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_completion_knows_groups_names_options_and_layers() -> None:
    from argparse import Namespace

    from decomcam_bench.cli.completion import override_words

    def words(prefix: str, *given: str) -> list[str]:
        return override_words(prefix, Namespace(overrides=list(given)))

    assert {"method=", "rank="} <= set(words("m"))
    assert "method=decomcam,gradcam" in words("method=decomcam,gr")
    assert "method.channels=" in words("method.", "method=decomcam")
    assert "layer=layer3" in words("layer=", "model=toyclip")


def test_the_completion_script_names_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    assert "decomcam-bench" in capsys.readouterr().out
