"""The gate of the repository: the suite run on toybox against results/baselines/toybox.json.

After a change that is meant to move numbers: `scripts/gate --update`, and commit the file.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from decomcam_bench.config.settings import load_config
from decomcam_bench.engine.engine import run
from decomcam_bench.gate.baseline import read_baseline
from decomcam_bench.gate.findings import as_text
from decomcam_bench.gate.regression import exit_status, judge, read_tolerances
from decomcam_bench.methods.base import Explanation
from decomcam_bench.methods.decomcam import DecomCAM

REPOSITORY = Path(__file__).resolve().parents[2]
BASELINE = REPOSITORY / "results" / "baselines" / "toybox.json"
SETTINGS = ["limit=24", "workers=0", "device=cpu"]


def test_toybox_is_as_good_as_its_baseline(tmp_path: Path) -> None:
    line = next(line for line in (REPOSITORY / "scripts" / "gate").read_text().splitlines() if line.startswith("RUN="))
    run(load_config([*line[5:-1].split(), "workers=0", f"results={tmp_path}"]))
    findings = judge(read_baseline(BASELINE), tmp_path, read_tolerances())
    assert exit_status(findings) == 0, "\n" + as_text(findings)


def test_a_wrong_sign_turns_the_gate_red(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    explain = DecomCAM.explain

    def wrong(self: DecomCAM, *arguments: object) -> dict[int | None, Explanation]:
        found = explain(self, *arguments)  # type: ignore[arg-type]
        for explanation in found.values():
            high = explanation.native.amax((1, 2), keepdim=True)
            explanation.native = high - explanation.native
        return found

    monkeypatch.setattr(DecomCAM, "explain", wrong)
    run(load_config([*SETTINGS, "method=decomcam", "metric=pointing_exact,energy", f"results={tmp_path}"]))
    findings = judge(read_baseline(BASELINE), tmp_path, read_tolerances())
    assert exit_status(findings) == 1
    red = {finding.column: finding for finding in findings if finding.state == "regressed"}
    assert {"pointing_exact", "energy"} <= set(red)
    assert len(red["energy"].worst) == 10
    assert all(image["change"] < 0 for image in red["energy"].worst)
