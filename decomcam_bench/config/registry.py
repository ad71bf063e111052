"""Look up choices by name: each YAML under ``configs/<group>`` is one choice.

A YAML names its implementation as ``impl: module:Class``; the other keys are the fields of that
dataclass. Adding a choice is adding a file: nothing is registered in code. This module imports
neither torch nor Hydra.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import importlib.util
import inspect
import itertools
import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from decomcam_bench.config.sources import Source, from_outside
from decomcam_bench.core.errors import ConfigError, unknown
from decomcam_bench.core.fingerprint import PACKAGE, reached, source_digest, source_root

#: Keys of a YAML that describe the choice and are no parameter of its class.
DESCRIPTIVE = ("name", "impl", "description", "default_model", "metrics", "control")
#: What the classes of a group derive from.
_BASES = {
    "dataset": "datasets.base.Dataset",
    "model": "models.base.ModelSource",
    "method": "methods.base.Method",
    "metric": "metrics.base.Metric",
}
#: Packages whose own code runs as ``method=PACKAGE:CLASS``, and the adapter of each.
ADAPTERS = {"pgc": "PytorchGradCam", "captum": "Captum", "torchcam": "TorchCam"}
#: What the words of objects begin with.
HELD = "object:"
#: Objects of this process that are choices, with their names.
_numbers = itertools.count()
_held: dict[tuple[str, str], tuple[str, Any]] = {}
#: Groups whose choices are classes.
RUNNABLE = ("dataset", "model", "method", "metric")


def config_folder() -> Path:
    """Return the folder ``configs``: inside the installed package, or next to it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "configs"
    return installed if (installed / "config.yaml").is_file() else package.parent / "configs"


def names(group: str) -> list[str]:
    """Return the names of the choices of a group, sorted: of ``dataset``, ``model``, ``method``, ``metric``,
    ``experiment`` or ``gate``.

    >>> "decomcam" in names("method")
    True
    """
    return sorted(_sources(group))


def controls(*kinds: str) -> list[str]:
    """Return the methods whose YAML says ``control: KIND``, by kind, the last in the alphabet first; all by default.

    ``blind`` ones know nothing of the model or the picture, ``annotation`` is the annotated region itself, and an
    ``optional`` one is not added by ``controls=true``.
    """
    wanted = kinds or ("blind", "annotation", "optional")
    kind_of = {name: str(_sources("method")[name].read(name).get("control", "")) for name in names("method")}
    return [name for kind in wanted for name in reversed(kind_of) if kind_of[name] == kind]


def shipped(group: str) -> list[str]:
    """Return the names of the package's own choices of a group, sorted."""
    return sorted(_shipped(group))


@cache
def _shipped(group: str) -> dict[str, Source]:
    files = (config_folder() / group).glob("*.yaml")
    return {file.stem: Source(file) for file in files if not file.stem.startswith("_")}


def _sources(group: str) -> dict[str, Source]:
    own = _shipped(group)
    return {**own, **from_outside(group, own)}


def read(group: str, name: str) -> dict[str, Any]:
    """Return the configuration of a choice: of its YAML, or of a class named as ``module:Class``.

    Raises:
        ConfigError: for a name that is not there, or a file that cannot be read.
    """
    if (group, name) in _held:
        label, thing = _held[group, name]
        path = f"{type(thing).__module__}:{type(thing).__qualname__}"
        twins = [config for source in shipped(group) if (config := read(group, source)).get("impl") == path]
        kept = ("default_model", "metrics") if twins else ()
        follows: dict[str, Any] = {key: twins[0][key] for key in kept if key in twins[0]}
        options = {f.name: getattr(thing, f.name) for f in fields(thing) if f.init and f.name not in DESCRIPTIVE}
        return {
            "name": label,
            "impl": name,
            "description": f"an object of {type(thing).__name__}",
            **follows,
            **options,
        }
    sources = _sources(group)
    if name in sources:
        return copy.deepcopy(sources[name].read(name))
    module, colon, class_name = name.partition(":")
    if group == "method" and module in ADAPTERS and class_name:
        impl = f"{PACKAGE}.methods.foreign:{ADAPTERS[module]}"
        return {"name": name, "impl": impl, "description": f"{class_name} of {module}", "algorithm": class_name}
    if colon and module and class_name and group in RUNNABLE:
        return {"name": class_name, "impl": name, "description": f"the class {name}"}
    raise ConfigError(unknown(group, name, sorted(sources)))


def word(group: str, config: Mapping[str, Any]) -> str:
    """Return the word that names a composed choice on a command line: its name, or its class where no YAML has it."""
    name, impl = str(config["name"]), str(config.get("impl", ""))
    return name if name in names(group) or ":" not in impl else impl


def implementation(group: str, path: str) -> type:
    """Import the class that ``module:Class`` names, again if its file or one that it imports was edited.

    Raises:
        ConfigError: when the module or the class does not exist.
    """
    if (group, path) in _held:
        return type(_held[group, path][1])
    module_name, _, class_name = path.partition(":")
    try:
        _forget_edited(module_name)
        found = getattr(importlib.import_module(module_name), class_name)
    except ImportError as error:
        raise ConfigError(f"{group}.impl={path}: cannot import '{module_name}' ({error})") from error
    except (AttributeError, ValueError) as error:
        raise ConfigError(f"{group}.impl={path}: no such class; write it as 'package.module:Class'") from error
    except (Exception, SystemExit) as error:  # whatever code from elsewhere raises when it is imported
        raise ConfigError(f"{group}.impl={path}: '{module_name}' raises {type(error).__name__}: {error}") from error
    if not (isinstance(found, type) and is_dataclass(found)):
        raise ConfigError(f"{group}.impl={path}: not a dataclass; its fields are the options of a {group}")
    check_kind(group, found, path)
    _imported[group, identifier(found)] = found
    return found


def check_kind(group: str, found: type, name: str) -> None:
    """Refuse a class of another kind than a group's.

    Raises:
        ConfigError: naming the class that it has to derive from.
    """
    base = _BASES.get(group, "")
    if base and f"{PACKAGE}.{base}" not in {f"{cls.__module__}.{cls.__name__}" for cls in found.__mro__}:
        raise ConfigError(f"{group}.impl={name}: no subclass of {PACKAGE}.{base}")


def hold(group: str, name: str, thing: Any) -> str:
    """Make an object of this process a choice; return the word that names it.

    Args:
        group: e.g. ``method``.
        name: that tables show.
        thing: a dataclass object of the group's kind.
    """
    word = f"{HELD}{next(_numbers)}"
    _held[group, word] = name, thing
    _imported[group, identifier(type(thing))] = type(thing)
    return word


def release(words: Iterable[tuple[str, str]]) -> None:
    """Forget objects by their groups and words."""
    for word in words:
        _held.pop(word, None)


def identifier(found: type) -> str:
    """Return the stable id of a class: its own ``id``, or its name. A subclass inherits none."""
    return str(found.__dict__.get("id") or found.__name__)


def is_own(found: type) -> bool:
    """Return True for a class of this package."""
    return found.__module__.partition(".")[0] == PACKAGE


def code_identity(found: type) -> dict[str, Any]:
    """Return what identifies the code of a class: id and version; from elsewhere the digest of its source too."""
    identity: dict[str, Any] = {"id": identifier(found), "version": getattr(found, "version", 1)}
    if not is_own(found):
        identity["source"] = _source(found)
    return identity


def _source(found: type) -> str:
    file = inspect.getsourcefile(found) if found.__module__ != "__main__" else None
    if file and Path(file).is_file():
        return source_digest(file, found.__module__)
    try:
        return hashlib.sha256(inspect.getsource(found).encode()).hexdigest()[:16]
    except (OSError, TypeError):
        return ""


def installed(group: str, wanted: str, name: str = "") -> type | None:
    """Return the installed class with an id, or None.

    Only classes that a YAML of ``configs`` names, or that this process has imported for its user, are found;
    nothing that a results store says is imported.

    Args:
        group: of the choice.
        wanted: the id.
        name: of the YAML that probably names it; looked at first.
    """
    if (group, wanted) in _imported:
        return _imported[group, wanted]
    for choice in sorted(names(group), key=lambda other: other != name):
        path = str(read(group, choice).get("impl", ""))
        if ":" not in path:
            continue
        try:
            found = implementation(group, path)
        except ConfigError:
            continue
        if identifier(found) == wanted:
            return found
    return None


#: What OmegaConf says of a type, and how people say it.
_TYPE_WORDS = {
    "to Integer": "a whole number",
    "of type 'int'": "a whole number",
    "to Float": "a number",
    "of type 'float'": "a number",
    "valid bool": "true or false",
    "of type 'bool'": "true or false",
    "ListConfig": "a list, such as [a,b]",
    "to String": "a text",
    "of type 'str'": "a text",
}
#: Classes that were imported by this process, by group and id.
_imported: dict[tuple[str, str], type] = {}
#: Digests of modules from elsewhere and what they import, when they were imported.
_digests: dict[str, str] = {}


def _forget_edited(module: str) -> None:
    """Drop a module from elsewhere, and those next to it that it imports, if any was edited since its import."""
    if module.partition(".")[0] == PACKAGE:
        return
    loaded = sys.modules.get(module)
    file = getattr(loaded, "__file__", None)
    if file is None or not Path(file).is_file() or module == "__main__":
        return
    path = Path(file).resolve()
    digest = source_digest(path, module)
    if _digests.setdefault(module, digest) == digest:
        return
    edited = set(reached(path, source_root(path, module)))
    for name, other in list(sys.modules.items()):
        place = getattr(other, "__file__", None)
        if place and Path(place).resolve() in edited:
            del sys.modules[name]
            Path(importlib.util.cache_from_source(place)).unlink(missing_ok=True)
    importlib.invalidate_caches()
    _digests[module] = digest


def options(group: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the class that a composed configuration describes, with their types checked.

    Args:
        group: ``dataset``, ``model``, ``method`` or ``metric``; used in messages.
        config: ``impl`` and the fields of its class; descriptive keys are ignored, but ``name`` is
            passed on where the class has such a field.

    Raises:
        ConfigError: for an unknown field or a wrong type.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

    if (group, config["impl"]) in _held:
        return read(group, str(config["impl"]))
    try:
        template = OmegaConf.structured(implementation(group, config["impl"]))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{group}.impl={config['impl']}: {str(error).splitlines()[0]}") from error
    given = {key: value for key, value in config.items() if key not in DESCRIPTIVE}
    valid = [key for key in template if key != "name"]
    if "name" in template:
        given["name"] = config.get("name", "")
    try:
        merged = OmegaConf.to_container(OmegaConf.merge(template, given), throw_on_missing=True)
        return {str(key): value for key, value in dict(merged).items()}  # type: ignore[arg-type]
    except ConfigKeyError as error:
        raise ConfigError(unknown(f"key of {group} {config.get('name', '')}", str(error.key), valid)) from error
    except OmegaConfBaseException as error:
        value = given.get(str(error.key), "")
        raise ConfigError(f"{group}.{error.full_key}={_typed(value)}: {type_words(error)}") from error


def _typed(value: Any) -> str:
    """Return a value as it is typed."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)


def type_words(error: Exception) -> str:
    """Return in plain words what is wrong with a value's type.

    Args:
        error: of OmegaConf.
    """
    text = str(error).splitlines()[0]
    for sign, words in _TYPE_WORDS.items():
        if sign in text:
            return f"must be {words}"
    return text


def build(group: str, config: Mapping[str, Any]) -> Any:
    """Build the object that a composed configuration describes; a data set is opened.

    Raises:
        ConfigError: as :func:`options`, or for a value that the class refuses.
        UserError: when what it describes cannot be had.
    """
    if (group, config["impl"]) in _held:
        if dict(config) != read(group, str(config["impl"])):
            raise ConfigError(f"{group}={config['name']}: an object; set its options where it is made")
        return _held[group, config["impl"]][1]
    found = implementation(group, config["impl"])
    try:
        return found(**options(group, config))
    except (TypeError, ValueError) as error:
        if is_own(found):
            raise
        raise ConfigError(f"{group}.impl={config['impl']}: {error}") from error
