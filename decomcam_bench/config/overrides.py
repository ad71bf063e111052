"""Read overrides as people type them: keys, sweeps and values, by Hydra's grammar where it can read them.

Hydra's grammar wants quotes around much that people type in paths and texts: spaces, brackets, ``=``, ``&``,
letters other than a-z. Options that name a place (:data:`PLACES`) are therefore taken as they stand, and so is
any other value that the grammar cannot read and that opens no bracket or quote.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override
from hydra.errors import HydraException

from decomcam_bench.config import registry
from decomcam_bench.core.errors import ConfigError, listed

#: Groups of choices, in the order in which they are composed.
GROUPS = ("dataset", "model", "method", "metric")
#: Other spellings of a key.
ALIASES = {"maps.dir": "method.dir"}
#: The key whose values are texts even where they look like numbers.
IDS = "dataset.ids"
#: Options that name a file or a folder, and those that do so for data sets alone.
PLACES = ("results", "root", "dir", "checkpoint", "cache_dir")
DATASET_PLACES = ("annotations", "images")
#: Plain keys whose value is never split at commas.
SINGLE = ("results",)
_KEY = re.compile(r"[\w.\-/:]+")
_OPENERS = {"[": "]", "{": "}", "(": ")"}


def read_overrides(words: Sequence[str]) -> dict[str, list[Any]]:
    """Return the values by key, in order of first appearance; a later override replaces an earlier one.

    Raises:
        ConfigError: for a word that is not ``key=value``, or a value that cannot be read.
    """
    values: dict[str, list[Any]] = {}
    for word in words:
        key, text = split_override(word)
        found = _values(key, text, word)
        if not found:
            raise ConfigError(f"'{word}': no value")
        values[key] = list(dict.fromkeys(found)) if all(_hashable(value) for value in found) else found
    return values


def split_override(word: str) -> tuple[str, str]:
    """Return key and value of ``key=value``, the key by its usual spelling.

    Raises:
        ConfigError: for anything else.
    """
    if word.startswith("~"):
        raise ConfigError(f"'{word}': overrides cannot delete a key; write it as key=value")
    key, sign, text = word.partition("=")
    name = key.strip().lstrip("+")
    if not sign or not _KEY.fullmatch(name):
        raise ConfigError(f"cannot read the override '{word}'; write it as key=value")
    return ALIASES.get(name, name), text.strip()


def quoted(text: str) -> str:
    """Quote a text so that it is read as it stands, without a sweep at its commas."""
    return f"'{text}'"


def _values(key: str, text: str, word: str) -> list[Any]:
    if _is_place(key):
        return _places(key, text)
    if key == IDS:
        return _ids(text, word)
    try:
        override = OverridesParser.create().parse_override(f"x={text}")
        return _swept(key, override, word) if override.is_sweep_override() else [override.value()]
    except HydraException as error:
        elements = split_commas(text)
        if not _balanced(text):
            raise ConfigError(f"'{word}': cannot be read; close the bracket or the quote") from error
        return [_scalar(element) for element in elements]


def _is_place(key: str) -> bool:
    option = key.rpartition(".")[2]
    return option in PLACES or (option in DATASET_PLACES and key.startswith("dataset."))


def _swept(key: str, override: Override, word: str) -> list[Any]:
    glob = override.value()
    if isinstance(glob, Glob):
        names = registry.names(key) if key in GROUPS else []
        found = [name for name in names if _globbed(name, glob)]
        if not found:
            valid = f"; valid: {listed(names, glob.include[0])}" if names else "; only groups of choices take a glob"
            raise ConfigError(f"'{word}': matches nothing{valid}")
        return found
    if isinstance(glob, IntervalSweep):
        raise ConfigError(f"'{word}': an interval has no end of values; write range(1,5), or a list such as 1,2,5")
    return [_scalar(text) for text in override.sweep_string_iterator()]


def _globbed(name: str, glob: Glob) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in glob.include) and not any(
        fnmatchcase(name, pattern) for pattern in glob.exclude
    )


def _scalar(text: str) -> Any:
    """Return the value of one element of a sweep, or its text where the grammar cannot read it."""
    try:
        value = OverridesParser.create().parse_override(f"x={text}").value()
    except HydraException:
        return _unquoted(text)
    return value if not isinstance(value, Glob) else text


def _places(key: str, text: str) -> list[Any]:
    """Return the paths of a sweep; a comma inside a path that exists, or inside quotes, separates nothing."""
    whole = _unquoted(text)
    single = key in SINGLE or not text or whole != text or Path(whole).expanduser().exists()
    elements = [whole] if single else [_unquoted(element) for element in split_commas(text)]
    return [None if element in ("null", "None") else _home(element) for element in elements]


def _home(path: str) -> str:
    """Expand ``~``, which a shell leaves alone after an equals sign."""
    return str(Path(path).expanduser()) if path.startswith("~") else path


def _ids(text: str, word: str) -> list[Any]:
    """Return ids as they are written: the grammar would read ``2007_000033`` as a number."""
    if text.startswith("["):
        if not text.endswith("]"):
            raise ConfigError(f"'{word}': cannot be read; close the bracket or the quote")
        return [[_unescaped(_unquoted(element)) for element in split_commas(text[1:-1])]]
    elements = split_commas(text)
    if len(elements) > 1:
        return [_unescaped(_unquoted(element)) for element in elements]
    return [None if text in ("null", "None") else _home(_unquoted(text))]


def split_commas(text: str) -> list[str]:
    """Split at commas outside of brackets and quotes; blanks around an element are dropped.

    >>> split_commas("a[x=1,y=2], 'b,c',d")
    ['a[x=1,y=2]', "'b,c'", 'd']
    """
    parts, depth, quote, escaped = [""], 0, "", False
    for sign in text:
        if not (escaped or quote or depth) and sign == ",":
            parts.append("")
            continue
        parts[-1] += sign
        if escaped:
            escaped = False
        elif sign == "\\":
            escaped = True
        elif quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"" and not parts[-1][:-1].strip():
            quote = sign
        else:
            depth += (sign in _OPENERS) - (sign in _OPENERS.values())
    return [part.strip() for part in parts if part.strip() or len(parts) > 1]


def _balanced(text: str) -> bool:
    first, last = text[:1], text[-1:]
    if first in _OPENERS:
        return last == _OPENERS[first]
    return first not in ("'", '"') or (last == first and len(text) > 1)


def _unquoted(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1].replace(f"\\{text[0]}", text[0])
    return text


def _unescaped(text: str) -> str:
    return text.replace("\\,", ",")


def _hashable(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def check_repeated(words: Iterable[str]) -> None:
    """Refuse a key that is given twice with different values.

    Raises:
        ConfigError: naming the key and a sweep of both values.
    """
    words = list(words)
    check_blanks(words)
    seen: dict[str, str] = {}
    for word in words:
        if word.startswith("@"):
            continue
        key, text = split_override(word)
        if seen.setdefault(key, text) != text:
            raise ConfigError(f"{key}= is given twice; to sweep write {key}={seen[key]},{text}")


def check_blanks(words: Sequence[str]) -> None:
    """Refuse ``method=a, b`` and ``method = a``, which a shell hands on in pieces.

    Raises:
        ConfigError: with the words put together.
    """
    for before, after in itertools.pairwise(words):
        torn = "=" not in after or after.startswith("=") or "=" not in before.rstrip("=")
        if torn and (before.endswith((",", "=")) or after.startswith((",", "=")) or after == "="):
            raise ConfigError(f"'{before} {after}': no blanks around commas and equals signs; write {before}{after}")
