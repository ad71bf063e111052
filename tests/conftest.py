"""Small runs of the whole program, shared by tests."""

import pytest
import torch

from decomcam_bench.config.settings import load_config
from decomcam_bench.engine.engine import run
from decomcam_bench.tables.tables import load_table


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session")
def bench():
    """Runs overrides into a store, in this process; returns the result and the table of its cells."""

    def call(store, *overrides):
        result = run(load_config([f"results={store}", "workers=0", *overrides]))
        return result, load_table(store, result.keys)

    return call


def pytest_collection_modifyitems(items):
    """Tests that need a CUDA device are skipped, visibly, where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
