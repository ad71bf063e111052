"""Simulate how often the intervals hold and the tests reject, and write the tables into docs/statistics.md.

    python scripts/bench_coverage.py [--trials 2000] [--write]

Data are drawn from known distributions, so that the true number is known: intervals of 95 % should hold it in 95 % of
the trials, and a test of two methods that are equally good should have p below 0.05 in 5 % of them.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import numpy as np
import pandas as pd

from decomcam_bench.metrics.base import Metric
from decomcam_bench.metrics.boxes import MaxBoxAcc
from decomcam_bench.metrics.energy import Energy
from decomcam_bench.metrics.pointing import PointingGame
from decomcam_bench.stats.comparison import compare
from decomcam_bench.stats.intervals import intervals

SIZES = (5, 12, 30, 100, 1000)
PAGE = Path(__file__).resolve().parents[1] / "docs" / "statistics.md"
Drawn = tuple[pd.DataFrame, float]


def frame(images: np.ndarray, classes: np.ndarray, **values: object) -> pd.DataFrame:
    return pd.DataFrame({"image_id": [f"{i:05d}" for i in images], "class_id": classes, **values})


def hits(random: np.random.Generator, n: int, chance: float, clustered: bool = False) -> Drawn:
    """A share of pairs; with ``clustered`` three pairs per image that tend to hit together."""
    pairs = 3 if clustered else 1
    own = random.beta(4 * chance, 4 * (1 - chance), n) if clustered else np.full(n, chance)
    hit = random.random((n, pairs)) < own[:, None]
    images = np.arange(n).repeat(pairs)
    return frame(images, np.tile(np.arange(pairs), n), hit=hit.ravel().astype(float), difficult=False), chance


def class_hits(random: np.random.Generator, n: int, classes: int, mean: float) -> Drawn:
    """A mean over classes that differ, with the same number of images each."""
    chance = np.random.default_rng(classes).beta(3 * mean, 3 * (1 - mean), classes)
    of = np.arange(n) % classes
    hit = random.random(n) < chance[of]
    return frame(np.arange(n), of, hit=hit.astype(float), difficult=False), float(chance.mean())


def shares(random: np.random.Generator, n: int, mean: float) -> Drawn:
    """A mean of skewed values in [0, 1], as energies are."""
    return frame(np.arange(n), np.zeros(n), energy=random.beta(3 * mean, 3 * (1 - mean), n)), mean


CUTS = np.arange(0, 1, 0.01)


def best_iou(
    random: np.random.Generator, n: int, peak: float, height: tuple[float, float], common: np.ndarray | None
) -> np.ndarray:
    """IoU at each threshold: every image has a threshold of its own at which its box is best."""
    top = random.uniform(*height, n) if common is None else 0.5 * common + 0.5 * random.uniform(*height, n)
    centre = peak + random.normal(0, 0.12, n)
    return np.asarray(top[:, None] * np.exp(-(((CUTS - centre[:, None]) / 0.25) ** 2)))


@lru_cache(maxsize=8)
def best_share(peak: float, height: tuple[float, float]) -> float:
    return float((best_iou(np.random.default_rng(99), 100_000, peak, height, None) >= 0.5).mean(axis=0).max())


def boxes(random: np.random.Generator, n: int, height: tuple[float, float]) -> Drawn:
    """The best of 100 thresholds."""
    best = best_iou(random, n, 0.4, height, None)
    return frame(np.arange(n), np.zeros(n), best_iou=list(best)), best_share(0.4, height)


Draw = Callable[[np.random.Generator, int], Drawn]
PAIRS = PointingGame(name="m", aggregate_by="pair_mean")
CASES: list[tuple[str, Metric, Draw]] = [
    ("share of pairs, 0.5", PAIRS, lambda r, n: hits(r, n, 0.5)),
    ("share of pairs, 0.9", PAIRS, lambda r, n: hits(r, n, 0.9)),
    ("share of pairs, 0.98", PAIRS, lambda r, n: hits(r, n, 0.98)),
    ("share of pairs, 0.8, 3 an image", PAIRS, lambda r, n: hits(r, n, 0.8, clustered=True)),
    ("class mean, 1 image a class, 0.5", PointingGame(name="m"), lambda r, n: class_hits(r, n, n, 0.5)),
    ("class mean, 1 image a class, 0.8", PointingGame(name="m"), lambda r, n: class_hits(r, n, n, 0.8)),
    ("class mean, 3 images a class, 0.8", PointingGame(name="m"), lambda r, n: class_hits(r, n, max(1, n // 3), 0.8)),
    ("class mean, 4 classes, 0.8", PointingGame(name="m"), lambda r, n: class_hits(r, n, 4, 0.8)),
    ("mean of values in 0..1, 0.5", Energy(name="m"), lambda r, n: shares(r, n, 0.5)),
    ("mean of values in 0..1, 0.1", Energy(name="m"), lambda r, n: shares(r, n, 0.1)),
    ("best threshold, 0.65", MaxBoxAcc(name="m"), lambda r, n: boxes(r, n, (0.45, 0.95))),
    ("best threshold, 0.11", MaxBoxAcc(name="m"), lambda r, n: boxes(r, n, (0.2, 0.6))),
    ("best threshold, 0.95", MaxBoxAcc(name="m"), lambda r, n: boxes(r, n, (0.75, 1.0))),
]


def coverage(metric: Metric, draw: Draw, n: int, trials: int) -> float:
    bounds = {column.name: (column.low, column.high) for column in metric.columns}
    held = 0
    for trial in range(trials):
        records, truth = draw(np.random.default_rng([n, trial]), n)
        found = intervals(metric.image_sums(records), bounds, 200, trial)["m"]
        held += found.low - 1e-12 <= truth <= found.high + 1e-12
    return held / trials


def sizes_of_tests(n: int, trials: int) -> list[tuple[str, float]]:
    """How often equally good methods have p below 0.05."""
    rejected = {"mean of values": 0, "best thresholds 0.4 and 0.4": 0, "best thresholds 0.3 and 0.6": 0}
    for trial in range(trials):
        random = np.random.default_rng([n, trial, 1])
        hard = random.random(n)
        pair = [shares(random, n, 0.4)[0] for _ in range(2)]
        for one in pair:
            one["energy"] = 0.5 * one["energy"] + 0.5 * hard
        rejected["mean of values"] += compare(Energy(name="m"), *pair, 999, trial)["m"].p < 0.05
        for peaks in ((0.4, 0.4), (0.3, 0.6)):
            common = random.uniform(0.3, 0.95, n)
            made = [best_iou(random, n, peak, (0.3, 0.95), common) for peak in peaks]
            both = [frame(np.arange(n), np.zeros(n), best_iou=list(best)) for best in made]
            found = compare(MaxBoxAcc(name="m"), *both, 200, trial, permutations=1)["m"]
            rejected[f"best thresholds {peaks[0]} and {peaks[1]}"] += found.p < 0.05
    return [(name, count / trials) for name, count in rejected.items()]


def tables(trials: int) -> str:
    lines = ["| 95 % interval of | " + " | ".join(f"n = {n:,}" for n in SIZES) + " |", "|---|" + "---|" * len(SIZES)]
    for title, metric, draw in CASES:
        row = []
        for n in SIZES:
            own = trials if n < 1000 else max(trials // 4, 1)
            row.append(coverage(metric, draw, n, own))
        lines.append(f"| {title} | " + " | ".join(f"{value:.3f}" for value in row) + " |")
        print(lines[-1], file=sys.stderr)
    lines += ["", "| p < 0.05 for equally good methods | n = 30 | n = 100 | n = 300 |", "|---|---|---|---|"]
    found = [sizes_of_tests(n, trials) for n in (30, 100, 300)]
    for place, (title, _) in enumerate(found[0]):
        lines.append(f"| {title} | " + " | ".join(f"{own[place][1]:.3f}" for own in found) + " |")
        print(lines[-1], file=sys.stderr)
    error = (0.95 * 0.05 / trials) ** 0.5
    lines += ["", f"{trials:,} trials each (a quarter at n = 1,000): a standard error of {error:.3f}."]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/statistics.md")
    arguments = parser.parse_args()
    text = tables(arguments.trials)
    print(text)
    if arguments.write:
        page = PAGE.read_text(encoding="utf-8")
        marked = re.compile(r"(<!-- coverage -->\n).*?(\n<!-- /coverage -->)", re.DOTALL)
        PAGE.write_text(marked.sub(lambda found: found[1] + text + found[2], page), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
