"""Times the metrics that run no model: milliseconds a map on one core, images of 500 x 375 pixels.

    python scripts/bench_metrics.py [--maps 40] [--repeats 5] [--limit 5.0]

The maps are of the kind that methods give: 7 x 7 values after a ReLU, upsampled to 224 x 224. Every
map is seen afresh, so that what metrics share (the map in original pixels, contours) is paid once,
by the first that asks, as in a run. CPU time is reported; the exit status is 1 where the metrics of
the map take longer than the limit together. Metrics of component maps are listed apart.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import cv2
import numpy as np

from decomcam_bench.config import registry
from decomcam_bench.datasets.base import ArrayMask, Part, Target
from decomcam_bench.metrics.base import MapMetric, PairMap, Work

HEIGHT, WIDTH = 375, 500


def to_original(saliency: np.ndarray) -> np.ndarray:
    return cv2.resize(saliency, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)


def upsampled(random: np.random.Generator, count: int) -> np.ndarray:
    coarse = np.maximum(random.normal(size=(count, 7, 7)), 0).astype(np.float32)
    maps = [cv2.resize(one, (224, 224), interpolation=cv2.INTER_CUBIC) for one in coarse]
    return np.maximum(np.stack(maps), 0)


def views(count: int, whole_image: bool) -> list[PairMap]:
    """Pairs with three boxes, three masks, four parts and ten component maps."""
    random = np.random.default_rng(0)
    made = []
    for saliency in upsampled(random, count):
        corners = random.integers(0, (WIDTH - 200, HEIGHT - 200), (3, 2))
        boxes = np.concatenate([corners, corners + random.integers(60, 200, (3, 2))], axis=1).astype(float)
        masks = [np.zeros((HEIGHT, WIDTH), dtype=bool) for _ in boxes]
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.astype(int), strict=True):
            mask[y0:y1, x0:x1] = True
        parts = tuple(Part(f"part {i}", ArrayMask(np.roll(masks[0], 40 * i, axis=1))) for i in range(4))
        target = Target.of(0, "thing", boxes, masks=tuple(ArrayMask(mask) for mask in masks), parts=parts)
        own = PairMap(saliency, to_original, target, WIDTH, HEIGHT, (0, 1), upsampled(random, 10))
        own.whole_image, own.work = whole_image, Work(forward=11)
        made.append(own)
    return made


def milliseconds(metrics: dict[str, MapMetric], count: int, whole_image: bool, repeats: int) -> dict[str, float]:
    """Mean over maps of the CPU time of each metric, of each map the fastest of some repetitions,
    since other processes on the machine can only slow a metric down."""
    spent = {name: np.full(count, np.inf) for name in metrics}
    for _ in range(repeats):
        for place, pair in enumerate(views(count, whole_image)):
            for name, metric in metrics.items():
                started = time.process_time()
                outcome = metric.evaluate(pair)
                spent[name][place] = min(spent[name][place], time.process_time() - started)
                assert isinstance(outcome, dict), f"{name}: {outcome}"
    return {name: 1000 * float(times.mean()) for name, times in spent.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=40)
    parser.add_argument("--limit", type=float, default=5.0)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    of_map: dict[str, MapMetric] = {}
    of_components: dict[str, MapMetric] = {}
    for name in registry.names("metric"):
        metric = registry.build("metric", registry.read("metric", name))
        if isinstance(metric, MapMetric) and name != "energy_single":
            (of_components if "components" in metric.needs else of_map)[name] = metric
    slow = False
    for title, whole_image in (("input is the whole image, squashed", True), ("input is a centre crop", False)):
        spent = milliseconds(of_map, arguments.maps, whole_image, arguments.repeats)
        print(f"{title}: {arguments.maps} maps, {WIDTH} x {HEIGHT} pixels, one core")
        for name, value in spent.items():
            print(f"  {name:<16} {value:7.3f} ms")
        print(f"  {'all':<16} {sum(spent.values()):7.3f} ms (limit {arguments.limit:g} ms)")
        slow = slow or sum(spent.values()) > arguments.limit
    spent = milliseconds(of_components, max(3, arguments.maps // 4), True, arguments.repeats)
    print("component maps: 10 a pair, 4 parts, with their floor")
    for name, value in spent.items():
        print(f"  {name:<16} {value:7.3f} ms")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
