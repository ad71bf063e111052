"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm


class _Lines:
    """Prints a line about every ten seconds, and one at the end."""

    def __init__(self, total: int, label: str, unit: str) -> None:
        self.total, self.label, self.unit = total, label, unit
        self.done = 0
        self.began = self.last = time.monotonic()

    def update(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.last >= 10 or self.done >= self.total:
            self.last = now
            rate = self.done / max(now - self.began, 1e-9)
            left = (self.total - self.done) / rate if rate > 0 else 0.0
            print(
                f"{self.label}: {self.done}/{self.total} {self.unit}s, {rate:.2f} {self.unit}s/s, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )


@contextmanager
def progress(total: int, label: str, unit: str = "image") -> Iterator[Any]:
    """Something with ``update(count)``: a tqdm bar with rate and ETA on a terminal, lines in a log."""
    if sys.stderr.isatty():
        with tqdm(total=total, desc=label, unit=unit, dynamic_ncols=True) as bar:
            yield bar
    else:
        yield _Lines(total, label, unit)
