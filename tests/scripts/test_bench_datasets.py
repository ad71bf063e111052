"""The benchmark script runs, and its limits hold on this machine."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "images"), [("coco", "5,000 images, 36,781 boxes"), ("imagenet", "50,000 images")])
def test_limits(case: str, images: str) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "bench_datasets.py"), case, "--check"]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert images in done.stdout
    assert float(re.findall(r"opened in ([\d.]+) s", done.stdout)[0]) > 0
    assert float(re.findall(r"with (\d+) MiB", done.stdout)[0]) > 10
