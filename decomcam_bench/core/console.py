"""Show messages to the user: notes, warnings and progress, on the terminal and in a log file.

Library code logs to :data:`log` and configures nothing; the command line decides what is shown where.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from decomcam_bench.core.errors import ConfigError

log = logging.getLogger("decomcam_bench")
#: Lines of progress, which a bar replaces on a terminal.
progress_log = log.getChild("progress")


class _Stderr(logging.StreamHandler[TextIO]):
    """Write to whatever ``sys.stderr`` is at the time; leave progress to the bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == progress_log.name and sys.stderr.isatty():
            return
        self.setStream(sys.stderr)
        super().emit(record)


@contextlib.contextmanager
def console(level: int, log_file: str | None = None) -> Iterator[None]:
    """Show messages on stderr, and write them to a file with time and level.

    Args:
        level: the lowest level shown on stderr; the file has notes and progress too.
        log_file: appended to.

    Raises:
        ConfigError: when the file cannot be written.
    """
    shown = _Stderr()
    shown.setLevel(level)
    handlers: list[logging.Handler] = [shown]
    if log_file is not None:
        try:
            written = logging.FileHandler(Path(log_file).expanduser(), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--log-file {log_file}: cannot be written ({error.strerror})") from error
        written.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        written.setLevel(min(level, logging.INFO))
        handlers.append(written)
    before, propagated = log.level, log.propagate
    log.setLevel(min(handler.level for handler in handlers))
    log.propagate = False
    for handler in handlers:
        log.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()
        log.setLevel(before)
        log.propagate = propagated


def configured() -> bool:
    """Return True inside :func:`console`, where somebody decides what is shown."""
    return any(isinstance(handler, _Stderr) for handler in log.handlers)


def bars_wanted() -> bool:
    """Return True where a progress bar can be drawn and is not silenced."""
    quiet = any(isinstance(handler, _Stderr) and handler.level > logging.INFO for handler in log.handlers)
    return not quiet and (sys.stderr.isatty() or in_notebook())


def in_notebook() -> bool:
    """Return True inside a Jupyter kernel."""
    shell = sys.modules.get("IPython")
    kernel = shell.get_ipython() if shell is not None else None
    return type(kernel).__name__ == "ZMQInteractiveShell"
