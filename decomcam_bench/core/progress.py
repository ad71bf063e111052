"""Report the progress of long work: a bar on a terminal, a widget in a notebook, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from decomcam_bench.core.console import bars_wanted, configured, progress_log

#: Seconds between two lines of progress.
INTERVAL = 10.0


class _Progress:
    """Report to a bar, where there is one, and in lines about every ten seconds."""

    def __init__(self, total: int, label: str, unit: str, bar: Any = None) -> None:
        self.total, self.label, self.unit, self.bar = total, label, unit, bar
        self.done = 0
        self.began = self.last = time.monotonic()

    def update(self, count: int) -> None:
        self.done += count
        if self.bar is not None:
            self.bar.update(count)
        if self._due() or self.done >= self.total:
            rate = self.done / max(time.monotonic() - self.began, 1e-9)
            left = (self.total - self.done) / rate if rate > 0 else 0.0
            self._line(f"{rate:.2f} {self.unit}s/s, {left:.0f} s left")

    def set_postfix_str(self, text: str) -> None:
        """Say what is being done now; a batch of a slow method takes minutes."""
        if self.bar is not None:
            self.bar.set_postfix_str(text)
        if self._due():
            self._line(text)

    def _due(self) -> bool:
        return time.monotonic() - self.last >= INTERVAL

    def _line(self, text: str) -> None:
        self.last = time.monotonic()
        line = f"{self.label}: {self.done}/{self.total} {self.unit}s, {text}"
        if configured():
            progress_log.info(line)
        elif self.bar is None:
            print(line, file=sys.stderr, flush=True)


@contextmanager
def progress(total: int, label: str, unit: str = "image") -> Iterator[Any]:
    """Report progress: a bar with rate and time left on a terminal, a widget in a notebook, lines in a log.

    Yields:
        Something with ``update(count)`` and ``set_postfix_str(text)``, which says what is being done.
    """
    if not bars_wanted():
        yield _Progress(total, label, unit)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a notebook without ipywidgets gets a bar of text
        from tqdm.auto import tqdm
    with tqdm(total=total, desc=label, unit=unit, dynamic_ncols=True) as bar:
        yield _Progress(total, label, unit, bar)
