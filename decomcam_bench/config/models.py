"""Read the names of models: open_clip's architectures and tags, the hub, local folders, and aliases from elsewhere.

Listing names imports neither torch nor open_clip, so that completion is quick.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import yaml

from decomcam_bench.config import registry
from decomcam_bench.core.errors import ConfigError, unknown

#: Prefixes of names that hold a place: a repository of the Hugging Face hub, a folder.
HUB, FOLDER = "hf-hub:", "local-dir:"


@cache
def architectures() -> tuple[str, ...]:
    """Return the names of open_clip's architectures, sorted; empty if open_clip is not installed."""
    spec = importlib.util.find_spec("open_clip")
    places = list(spec.submodule_search_locations or ()) if spec else []
    return tuple(sorted(file.stem for place in places for file in Path(place).glob("model_configs/*.json")))


@cache
def aliases() -> dict[str, str]:
    """Return the alias table: other names of models, and each as ``ARCH:TAG`` or ``hf-hub:ORG/NAME``."""
    file = registry.config_folder() / "aliases.yaml"
    return {str(name): str(target) for name, target in yaml.safe_load(file.read_text(encoding="utf-8")).items()}


def names() -> list[str]:
    """Return all names that ``model=`` takes: YAMLs, architectures and aliases."""
    return [*registry.names("model"), *architectures(), *aliases()]


def is_name(word: str) -> bool:
    """Return whether a word is meant as the name of a model, rather than as ``module:Class``."""
    return ":" not in word or word.startswith((HUB, FOLDER)) or word.partition(":")[0] in architectures()


def options_of(name: str) -> dict[str, str]:
    """Return the options of ``model=openclip`` that a name stands for: ``arch``, and ``pretrained`` where it says so.

    Args:
        name: ``ARCH``, ``ARCH:TAG``, ``hf-hub:ORG/NAME``, ``local-dir:FOLDER``, a name of the alias table, or a
            repository of the hub from which open_clip downloads a tag.

    Raises:
        ConfigError: for a name that stands for nothing.
    """
    name = aliases().get(name, name)
    if name.startswith((HUB, FOLDER)):
        return {"arch": name}
    arch, _, tag = name.partition(":")
    if arch in architectures():
        return {"arch": arch, "pretrained": tag} if tag else {"arch": arch}
    if "/" in name and name in (tags := _repositories()):
        arch, tag = tags[name]
        return {"arch": arch, "pretrained": tag}
    hint = f"; for a repository of the hub with an open_clip_config.json write model={HUB}{name}" if "/" in name else ""
    raise ConfigError(
        f"{unknown('model', name, names())}; also ARCH:TAG, {HUB}ORG/NAME and {FOLDER}FOLDER (`decomcam-bench list "
        f"models --all` names all){hint}"
    )


@cache
def _repositories() -> dict[str, tuple[str, str]]:
    """Return the architecture and tag that each repository of the hub holds, by open_clip's own table."""
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    found: dict[str, tuple[str, str]] = {}
    for arch, tag in open_clip.list_pretrained():
        source = str(get_pretrained_cfg(arch, tag).get("hf_hub") or "")
        repository = "/".join(source.split("/")[:2])
        if repository:
            found.setdefault(repository, (arch, tag))
    return found
