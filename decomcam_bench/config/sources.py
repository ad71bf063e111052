"""Find choices: in the package's YAMLs, included folders, installed packages, and as classes by name.

A choice of a group is one of these, and all can be mixed in a run:

- a YAML of the package, ``configs/<group>/<name>.yaml``;
- a YAML of an included folder, ``DIR/<group>/<name>.yaml`` or ``DIR/configs/<group>/<name>.yaml``, or a class
  in one of the folder's Python files, by the name of the class;
- an entry point of an installed package, ``decomcam_bench.<group>`` with a value ``module:Class``, or
  ``decomcam_bench.include`` with the name of a package whose folder is included;
- ``module:Class``, where the module can be imported: from the working directory of a command, too.
"""

from __future__ import annotations

import ast
import copy
import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import yaml

from decomcam_bench.core.errors import ConfigError

#: Folders to include, separated as in PATH.
VARIABLE = "DECOMCAM_BENCH_INCLUDE"
#: What the name of a base class ends in, by the group that its subclasses are choices of.
_BASES = {"method": ("Method", "CAM"), "metric": ("Metric",), "dataset": ("Dataset",), "model": ("Source",)}

_folders: list[Path] = []


@dataclass(frozen=True)
class Source:
    """Hold where a choice is described: in a YAML, or by a class alone.

    Attributes:
        file: the YAML, or the Python file; None for an entry point.
        impl: ``module:Class`` where there is no YAML.
    """

    file: Path | None
    impl: str = ""

    def read(self, name: str) -> dict[str, Any]:
        """Return the configuration: the YAML's, or name and class.

        Raises:
            ConfigError: for a file that cannot be read as a mapping.
        """
        if self.impl or self.file is None:
            return {"name": name, "impl": self.impl, "description": f"the class {self.impl}"}
        return {"name": name, **_read_yaml(self.file, self.file.stat().st_mtime_ns)}


def include(place: str | Path) -> None:
    """Add a folder whose YAMLs and classes become choices.

    Raises:
        ConfigError: for a folder that does not exist.
    """
    folder = Path(place).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"--include {place}: no such folder; name one with YAMLs in method/, metric/, ... or classes")
    _add(folder.resolve())


def included() -> list[Path]:
    """Return the included folders: those of the command, of the environment, and of installed packages.

    Raises:
        ConfigError: for a folder of the environment that does not exist.
    """
    for place in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        folder = Path(place).expanduser()
        if not folder.is_dir():
            raise ConfigError(f"{VARIABLE}={place}: no such folder; correct or unset the variable")
        _add(folder.resolve())
    for point in _entry_points("include"):
        found = importlib.util.find_spec(point[1].partition(".")[0])
        for location in (found.submodule_search_locations or ()) if found else ():
            if Path(location) not in _folders:
                _folders.append(Path(location))
    return list(_folders)


def _add(folder: Path) -> None:
    if folder not in _folders:
        _folders.append(folder)
    reach(folder)


def reach(folder: str | Path) -> None:
    """Make the modules of a folder importable; installed packages and the standard library go first."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def from_outside(group: str, taken: Mapping[str, Source]) -> dict[str, Source]:
    """Return the choices of a group that are not the package's, by name.

    Args:
        group: e.g. ``method``.
        taken: the package's choices.

    Raises:
        ConfigError: for a YAML whose name the package has already.
    """
    found: dict[str, Source] = {}
    for folder in included():
        for file in sorted([*folder.glob(f"{group}/*.yaml"), *folder.glob(f"configs/{group}/*.yaml")]):
            if file.stem in taken:
                raise ConfigError(f"{file}: the package has a {group} '{file.stem}' already; rename the file")
            found.setdefault(file.stem, Source(file))
    bases = frozenset(str(source.read(name).get("impl", "")).rpartition(":")[2] for name, source in taken.items())
    for folder in included():
        for name, source in _classes(group, folder, bases).items():
            if name not in taken:
                found.setdefault(name, source)
    for name, impl in _entry_points(group):
        if name not in taken:
            found.setdefault(name, Source(None, impl))
    return found


@cache
def _entry_points(group: str) -> list[tuple[str, str]]:
    return [(point.name, point.value) for point in entry_points(group=f"decomcam_bench.{group}")]


def _classes(group: str, folder: Path, bases: frozenset[str]) -> dict[str, Source]:
    """Return the classes of a folder's Python files that look like choices of a group; nothing is imported.

    Args:
        bases: names of the package's classes of the group.
    """
    found: dict[str, Source] = {}
    for file in sorted(folder.glob("*.py")) if group in _BASES else ():
        for name in _named(file, _BASES[group], bases, file.stat().st_mtime_ns):
            found.setdefault(name, Source(file, f"{file.stem}:{name}"))
    return found


@cache
def _named(file: Path, endings: tuple[str, ...], known: frozenset[str], changed: int) -> list[str]:
    """Return the classes of a file that derive, directly or not, from a class whose name says what it is.

    Args:
        endings: of names of base classes.
        known: names of base classes.
        changed: time of the last change, so that an edited file is read again.
    """
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return []  # said when something of it is asked for
    bases = {
        node.name: [base.id if isinstance(base, ast.Name) else getattr(base, "attr", "") for base in node.bases]
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }

    def derives(name: str, seen: frozenset[str] = frozenset()) -> bool:
        own = [base for base in bases[name] if base not in seen]
        return any(
            derives(base, seen | {name}) if base in bases and base != name else base in known or base.endswith(endings)
            for base in own
        )

    return [name for name in bases if not name.startswith("_") and derives(name)]


def read_yaml(file: str | Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds.

    Raises:
        ConfigError: for a file that does not exist or cannot be read, or holds something else.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise ConfigError(f"{file}: no such file")
    return copy.deepcopy(_read_yaml(path, path.stat().st_mtime_ns))


@cache
def _read_yaml(file: Path, changed: int) -> dict[str, Any]:
    """Read a YAML that has to hold a mapping.

    Args:
        changed: time of the last change, so that an edited file is read again.

    Raises:
        ConfigError: for a file that cannot be read, or holds something else.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: cannot be read as YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{file}: holds no mapping; write one option per line as key: value")
    return content
