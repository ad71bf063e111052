"""The benchmark script of large stores writes stores that the program reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_small_store_is_written_and_read() -> None:
    words = ["--cells", "2", "--images", "60", "--resamples", "20"]
    command = [sys.executable, str(ROOT / "scripts" / "bench_results.py"), *words]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "240 pairs, 480 values in 2 cells of 60 images" in done.stdout
