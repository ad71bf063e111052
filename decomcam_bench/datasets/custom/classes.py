"""Read the class names that ``dataset.classes`` gives for a user's own data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.datasets.text import read_text


def read_classes(given: Any, base: Path) -> Mapping[int, str] | Sequence[str] | None:
    """Return names by number, or in order, or None where none are given.

    Args:
        given: None, a list of names, a mapping from numbers to names, or the path of a text file
            with one name per line, or a number and a name (``7 traffic light``, ``7: traffic light``).
        base: the root folder, under which the file may lie.

    Raises:
        ConfigError: for anything else, an empty name, or one that occurs twice.
    """
    if given is None:
        return None
    if isinstance(given, str):
        given = _of_file(given, base)
    if isinstance(given, Mapping):
        try:
            found: Mapping[int, str] | Sequence[str] = {int(key): str(name).strip() for key, name in given.items()}
        except (TypeError, ValueError):
            raise ConfigError(f"dataset.classes={given}: the keys are no whole numbers") from None
        names = list(found.values()) if isinstance(found, Mapping) else []
    elif isinstance(given, (list, tuple)):
        found = names = [str(name).strip() for name in given]
    else:
        raise ConfigError(f"dataset.classes={given}: give a list of names, a mapping from numbers, or a text file")
    if not names or not all(names) or len(set(names)) < len(names):
        raise ConfigError(f"dataset.classes={names[:8]}: give at least one name, each once and none empty")
    return found


def _of_file(name: str, base: Path) -> Mapping[int, str] | Sequence[str]:
    path = Path(name).expanduser()
    path = path if path.is_file() else base / path
    try:
        text, _ = read_text(path)
    except ValueError as error:
        raise ConfigError(f"dataset.classes={name}: {error}; give a list, or a file with a name per line") from error
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    numbered = [re.fullmatch(r"(\d+)\s*[:\s,;]\s*(.+)", line) for line in lines]
    if lines and all(numbered):
        return {int(match.group(1)): match.group(2).strip() for match in numbered if match}
    return lines
