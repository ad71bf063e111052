"""The gate on real photographs: photoclip on those that ship against results/baselines/photographs.json.

After a change that is meant to move numbers: `scripts/gate --update`, and commit the file.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from decomcam_bench.config.settings import load_config
from decomcam_bench.engine.engine import run
from decomcam_bench.gate.baseline import read_baseline
from decomcam_bench.gate.findings import as_text
from decomcam_bench.gate.regression import exit_status, judge, read_tolerances
from decomcam_bench.models.photoclip import packaged_trunk

REPOSITORY = Path(__file__).resolve().parents[2]
BASELINE = REPOSITORY / "results" / "baselines" / "photographs.json"

pytestmark = pytest.mark.skipif(packaged_trunk() is None, reason="needs the extra 'photo'")


def test_photographs_are_as_good_as_their_baseline(tmp_path: Path) -> None:
    (overrides,) = re.findall(r'^PHOTOS="(.*)"$', (REPOSITORY / "scripts" / "gate").read_text(), re.MULTILINE)
    run(load_config([*overrides.split(), "workers=0", f"results={tmp_path}"]))
    findings = judge(read_baseline(BASELINE), tmp_path, read_tolerances())
    assert exit_status(findings) == 0, "\n" + as_text(findings)


def test_the_baseline_says_that_methods_find_what_noise_does_not() -> None:
    values = {
        (cell["display"]["method"], column["name"]): column["value"]
        for cell in read_baseline(BASELINE)["cells"]
        for metric in cell["metrics"]
        for column in metric["columns"]
    }
    assert values["decomcam", "pointing_exact"] > values["random", "pointing_exact"] + 0.4
    for method in ("decomcam", "gradcam"):
        assert values[method, "energy"] > values["center", "energy"]
