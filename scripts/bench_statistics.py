"""Times the statistics: 10,000 resamples of 50,000 records, for each shape of aggregate.

python scripts/bench_statistics.py [--records 50000] [--resamples 10000]
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import pandas as pd

from decomcam_bench.metrics.base import Metric
from decomcam_bench.metrics.boxes import MaxBoxAcc
from decomcam_bench.metrics.energy import Energy
from decomcam_bench.metrics.pointing import PointingGame
from decomcam_bench.metrics.pxap import PxAP
from decomcam_bench.stats.comparison import compare
from decomcam_bench.stats.intervals import intervals as intervals_of


def simulated(count: int, images: int, classes: int, seed: int) -> pd.DataFrame:
    """Records of ``count`` pairs with the values that the metrics below read."""
    random = np.random.default_rng(seed)
    image = np.sort(random.integers(0, images, count))
    return pd.DataFrame(
        {
            "image_id": [f"{place:06d}" for place in image],
            "class_id": (np.arange(count) if classes >= count else random.integers(0, classes, count)) % classes,
            "hit": random.random(count) < 0.6,
            "difficult": random.random(count) < 0.3,
            "energy": random.random(count),
            "best_iou": list(random.random((count, 100))),
            "object": list(random.integers(0, 400, (count, 101))),
            "background": list(random.integers(0, 400, (count, 101))),
        }
    ).drop_duplicates(["image_id", "class_id"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=50_000)
    parser.add_argument("--resamples", type=int, default=10_000)
    arguments = parser.parse_args()
    cases: list[tuple[str, Metric, int, int]] = [
        ("energy, 1 pair an image", Energy(), 10**9, 1000),
        ("pointing, 80 classes, 3 pairs an image", PointingGame(), arguments.records // 3, 80),
        ("pointing, 1000 classes, 1 pair an image", PointingGame(), 10**9, 1000),
        ("MaxBoxAcc, 100 thresholds, 1 pair an image", MaxBoxAcc(), 10**9, 1000),
        ("PxAP, 1 pair an image", PxAP(), 10**9, 1000),
    ]
    for title, metric, images, classes in cases:
        records = simulated(arguments.records, images, classes, 0)
        started = time.perf_counter()
        sums = metric.image_sums(records)
        prepared, busy = time.perf_counter(), time.process_time()
        intervals = intervals_of(sums, None, arguments.resamples)
        done, spent = time.perf_counter(), time.process_time() - busy
        column, interval = next(iter(intervals.items()))
        print(
            f"{title}: {len(records)} records, {len(sums.image_ids)} images, sums {prepared - started:.2f} s, "
            f"{arguments.resamples} resamples {done - prepared:.2f} s (CPU {spent:.2f} s), "
            f"{column} {interval.estimate:.4f} [{interval.low:.4f}, {interval.high:.4f}]",
            flush=True,
        )
    records = simulated(arguments.records, 10**9, 80, 0)
    started = time.perf_counter()
    result = compare(Energy(), records, simulated(arguments.records, 10**9, 80, 0), arguments.resamples)
    print(f"comparison of energy: {time.perf_counter() - started:.2f} s, p {result['energy'].p:.3f}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
