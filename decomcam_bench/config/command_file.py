"""Read command files: ``@week.yaml`` stands for the overrides that the file holds.

Three forms are read, each with comments:

- a list of overrides, ``- method=decomcam,gradcam``, or the same without the dashes, one per line;
- a mapping, ``method: [decomcam, gradcam]``, ``rank: 10``, ``dataset.root: /data/voc``;
- what ``show`` prints: every cell with all its options.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from decomcam_bench.config import registry
from decomcam_bench.config.overrides import GROUPS, check_blanks, read_overrides
from decomcam_bench.core.errors import ConfigError

#: Values by key.
Values: TypeAlias = dict[str, list[Any]]
_COMMENT = re.compile(r"(^|\s)#.*$")
#: Files that name further files, one inside the other, at most.
_DEEPEST = 10


def read_blocks(words: Sequence[str], depth: int = 0) -> list[Values]:
    """Return the values by key that overrides and command files ask for.

    Several blocks, each a run of its own, come from a file that lists several cells. What comes later
    replaces what came before; another choice of a group replaces the options that a file gave for the old one.

    Raises:
        ConfigError: for a file or an override that cannot be read.
    """
    files: list[Values] = [{}]
    typed: Values = {}
    check_blanks(words)
    for word in words:
        if word.startswith("@"):
            more = _read_file(word[1:], depth)
            files = [{**_without_options(block, own), **own} for block in files for own in more]
        else:
            typed |= read_overrides([word])
    return [{**_without_options(block, typed), **typed} for block in files]


def _without_options(block: Values, later: Values) -> Values:
    replaced = tuple(f"{group}." for group in GROUPS if group in later)
    return {key: values for key, values in block.items() if not key.startswith(replaced or ("\0",))}


def _read_file(name: str, depth: int) -> list[Values]:
    if depth >= _DEEPEST:
        raise ConfigError(f"@{name}: command files name one another in a circle")
    try:
        text = Path(name).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise ConfigError(f"@{name}: cannot be read ({reason}); name a file that lists overrides") from error
    content = _parse(text)
    if content is None:
        raise ConfigError(f"@{name}: holds no override; write one per line, such as method=decomcam,gradcam")
    if isinstance(content, dict):
        return _cells(name, content)
    if all(isinstance(item, str) for item in content):
        return read_blocks(content, depth + 1)
    if all(isinstance(item, dict) for item in content):
        return [block for item in content for block in _cells(name, item)]
    raise ConfigError(f"@{name}: write a list of overrides such as method=decomcam,gradcam, or what `show` prints")


def _parse(text: str) -> Any:
    """Return a mapping or a list; lines of overrides without dashes are no YAML of either kind."""
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        content = ""
    if isinstance(content, dict | list) or content is None:
        return content or None
    return [line for line in (_COMMENT.sub("", raw).strip() for raw in text.splitlines()) if line] or None


def _cells(name: str, content: Mapping[Any, Any]) -> list[Values]:
    """Return the values of a mapping; metrics of one name with different options take a block each."""
    values: Values = {}
    metrics: list[tuple[str, dict[str, Any]]] = []
    for key, value in content.items():
        if not isinstance(key, str):
            raise ConfigError(f"@{name}: {key!r} is no key of a run")
        if key == "metrics":
            metrics = [_choice("metric", item, name) for item in _list(value)]
        elif key in GROUPS and isinstance(value, Mapping):
            word, options = _choice(key, value, name)
            values |= {key: [word], **{f"{key}.{option}": [given] for option, given in options.items()}}
        elif isinstance(value, str):
            values |= read_overrides([f"{key}={value}"])
        else:
            values[key] = value if isinstance(value, list) and "." not in key else [value]
    rounds: list[Values] = []
    for word, options in metrics:
        targeted = {f"metric.{word}.{option}": [given] for option, given in options.items()}
        free = next((block for block in rounds if word not in block["metric"]), None)
        if free is None:
            rounds.append({"metric": [word], **targeted})
        else:
            free["metric"].append(word)
            free.update(targeted)
    return [{**values, **block} for block in rounds or [{}]]


def _choice(group: str, item: Any, name: str) -> tuple[str, dict[str, Any]]:
    """Return the word that names a choice, and its options."""
    if isinstance(item, str):
        return item, {}
    if not isinstance(item, Mapping) or "name" not in item:
        raise ConfigError(f"@{name}: {group} needs a name")
    word, impl = str(item["name"]), item.get("impl")
    if impl is not None and (word not in registry.names(group) or registry.read(group, word).get("impl") != impl):
        word = str(impl)
    options = {key: copy.deepcopy(value) for key, value in item.items() if key not in registry.DESCRIPTIVE}
    return word, options


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
