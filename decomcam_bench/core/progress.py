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
        if self._due() or self.done >= self.total:
            rate = self.done / max(time.monotonic() - self.began, 1e-9)
            left = (self.total - self.done) / rate if rate > 0 else 0.0
            self._print(f"{rate:.2f} {self.unit}s/s, {left:.0f} s left")

    def set_postfix_str(self, text: str) -> None:
        """What is done now, as tqdm shows it behind the bar; a batch of a slow method takes minutes."""
        if self._due():
            self._print(text)

    def _due(self) -> bool:
        return time.monotonic() - self.last >= 10

    def _print(self, text: str) -> None:
        self.last = time.monotonic()
        print(f"{self.label}: {self.done}/{self.total} {self.unit}s, {text}", file=sys.stderr, flush=True)


@contextmanager
def progress(total: int, label: str, unit: str = "image") -> Iterator[Any]:
    """A tqdm bar with rate and ETA on a terminal, lines in a log.

    Yields:
        Something with ``update(count)`` and ``set_postfix_str(text)``, what is done now.
    """
    if sys.stderr.isatty():
        with tqdm(total=total, desc=label, unit=unit, dynamic_ncols=True) as bar:
            yield bar
    else:
        yield _Lines(total, label, unit)
