"""Prints how long a store of a million records takes to load, to aggregate with intervals, and to
print as a table, and the memory at its peak. The target: under 20 s and 3 GiB.

    python scripts/bench_results.py [--cells 20] [--images 25000] [--pairs 2] [--resamples 10000]
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from decomcam_bench.config import registry
from decomcam_bench.store.schema import CellInfo, MetricInfo, shard_size
from decomcam_bench.store.store import RECORDS, Shard, Store, seal
from decomcam_bench.tables.tables import load_table, render


def main() -> None:
    parser = argparse.ArgumentParser(description="Times loading, aggregating and printing a large store.")
    parser.add_argument("--cells", type=int, default=20)
    parser.add_argument("--images", type=int, default=25_000)
    parser.add_argument("--pairs", type=int, default=2, help="of each image")
    parser.add_argument("--resamples", type=int, default=2_000)
    options = parser.parse_args()
    records = options.cells * options.images * options.pairs
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.cells):
            write_cell(Path(folder), number, options.images, options.pairs)
        began = time.monotonic()
        table = load_table(folder)
        loaded = time.monotonic()
        table = load_table(folder, intervals=True, resamples=options.resamples)
        text = render(table, "md", folder)
        done = time.monotonic()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(text.splitlines()[2])
    print(f"{records} pairs, {2 * records} values in {options.cells} cells of {options.images} images")
    print(f"load and aggregate: {loaded - began:.1f} s")
    print(f"load, aggregate with {options.resamples} resamples, print: {done - loaded:.1f} s")
    print(f"peak memory: {peak:.2f} GiB")


def write_cell(root: Path, number: int, images: int, pairs: int) -> None:
    """A complete cell with a pointing game over 20 classes and energy."""
    random = np.random.default_rng(number)
    rows = images * pairs
    position = np.repeat(np.arange(images, dtype=np.int32), pairs)
    classes = random.integers(0, 20, rows).astype(np.int32)
    frame = pd.DataFrame(
        {
            "position": position,
            "image_id": np.char.add("image", position.astype(str)),
            "class_id": classes,
            "class_name": np.char.add("class", classes.astype(str)),
            "status": "ok",
            "reason": "",
            "detail": "",
        }
    )
    store = Store(root)
    labels = {"dataset": "drawn", "model": "m", "layer": "", "method": f"m{number}", "rank": None}
    size = shard_size(images)
    identity = {"number": number, "method": {"id": f"m{number}"}}
    cell = store.create(CellInfo(identity, labels, (), {}, images, shard_images=size))
    streams = {RECORDS: frame}
    for place, (name, values) in enumerate(
        (
            ("pointing_exact", {"hit": random.uniform(size=rows) < 0.7, "difficult": random.uniform(size=rows) < 0.2}),
            ("energy", {"energy": random.uniform(size=rows)}),
        )
    ):
        metric = registry.build("metric", registry.read("metric", name))
        info = MetricInfo.of(metric, name, position=place)
        store.describe_metric(cell, info)
        streams[info.key] = frame.assign(**values)
    for shard in range(cell.shards):
        inside = slice(shard * size * pairs, (shard + 1) * size * pairs)
        seal([Shard(cell, name, shard, own.iloc[inside].reset_index(drop=True)) for name, own in streams.items()])


if __name__ == "__main__":
    main()
