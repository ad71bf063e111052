"""Compose choices from the names and options of a run: which option reaches which choice.

Options come in three forms: ``method.channels=50`` reaches every chosen method that has the option,
``method.decomcam.channels=50`` and ``decomcam.channels=50`` reach that one alone and win over the first form.
Each form may sweep.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from decomcam_bench.config import models, registry
from decomcam_bench.config.overrides import GROUPS
from decomcam_bench.core.errors import ConfigError, did_you_mean, listed, unknown


@dataclass(frozen=True)
class Chosen:
    """Hold one choice of a group as it was named.

    Attributes:
        word: as typed: a name, ``module:Class``, or a model as :mod:`decomcam_bench.config.models` names it.
        config: ``name``, ``impl`` and options.
        preset: options that the word itself sets.
    """

    group: str
    word: str
    config: Mapping[str, Any]
    preset: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        """The names by which an option can reach this choice."""
        module, _, class_name = self.word.rpartition(":")
        return {self.word, str(self.config["name"]), class_name, *([module.rpartition(".")[2]] if module else [])}

    def options(self, impl: str = "") -> list[str]:
        """Return the options of the choice: those of its YAML, then those of its class.

        Args:
            impl: the class, where an override replaces it.
        """
        path = impl or str(self.config["impl"])
        own = [f.name for f in fields(registry.implementation(self.group, path)) if f.init] if ":" in path else []
        return [name for name in dict.fromkeys([*self.config, *own]) if name not in registry.DESCRIPTIVE]


def choose(group: str, word: str) -> Chosen:
    """Return the choice that a word names.

    Raises:
        ConfigError: for a word that names none.
    """
    if group == "model" and word not in registry.names(group) and models.is_name(word):
        return Chosen("model", word, registry.read("model", "openclip"), models.options_of(word))
    config = registry.read(group, word)
    if "impl" not in config:
        raise ConfigError(f"{group}={word}: its YAML names no class; add impl: package.module:Class")
    if config["impl"] != "???" and (":" in word or word not in registry.shipped(group)):
        config = {**_defaults(registry.implementation(group, str(config["impl"]))), **config}
    if word.startswith(registry.HELD) and group == "metric":
        # Several objects of one class are told apart by the options that differ from its defaults.
        usual = _defaults(registry.implementation(group, word))
        changed = {key: value for key, value in config.items() if key in usual and usual[key] != value}
        return Chosen(group, word, {**config, **{key: usual[key] for key in changed}}, changed)
    return Chosen(group, word, config)


def _defaults(found: type) -> dict[str, Any]:
    """Return the defaults of a class from elsewhere, so that an option set to its default has changed nothing."""
    descriptive = {name: getattr(found, name) for name in ("default_model", "metrics") if hasattr(found, name)}
    plain = {
        f.name: f.default
        for f in fields(found)
        if f.init and f.default is not MISSING and f.name not in registry.DESCRIPTIVE
    }
    return {**descriptive, **plain}


class Options:
    """Hold the options of a run by key, and track which of them have reached a choice."""

    def __init__(self, values: Mapping[str, Sequence[Any]]) -> None:
        alone = {f"{group}.impl" for group in GROUPS if group not in values}  # a class that names the choice
        self.given = {key: choices for key, choices in values.items() if "." in key and key not in alone}
        self._reached: set[str] = set()
        self._chosen: dict[str, dict[str, Chosen]] = {group: {} for group in GROUPS}

    def variants(
        self, group: str, words: Iterable[str], preset: bool = True
    ) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Return every named choice with every combination of its options, and what differs from its YAML.

        Args:
            preset: False for choices that options do not reach, such as controls.

        Raises:
            ConfigError: for an unknown name, or an option that the class refuses.
        """
        variants = []
        for word in words:
            chosen = choose(group, word)
            own = self._own(chosen) if preset else {}
            for combination in _product(own):
                named = {**chosen.preset, **combination}
                config = {**chosen.config, **named}
                # An option that is set to what it was has changed nothing: equal cells have equal labels.
                changed = {k: v for k, v in named.items() if k not in chosen.config or chosen.config[k] != v}
                if config.get("impl") == "???":
                    raise ConfigError(f"{group}={word} needs {group}.impl=package.module:Class")
                if group == "method" and word == "custom":
                    config["name"] = str(config["impl"]).rpartition(":")[2]
                if group == "dataset":
                    registry.options(group, config)
                else:
                    registry.build(group, config)
                variants.append((config, changed))
        return variants

    def _own(self, chosen: Chosen) -> dict[str, Sequence[Any]]:
        """Return the options that reach a choice; those that name it win."""
        self._chosen[chosen.group][chosen.word] = chosen
        every: dict[str, Sequence[Any]] = {}
        named: dict[str, Sequence[Any]] = {}
        impl = str(self.given.get(f"{chosen.group}.impl", [""])[0])
        valid = {"impl", *chosen.options(impl)}
        for key, choices in self.given.items():
            group, target, option = _parts(key)
            if group not in (chosen.group, "") or (target and target not in chosen.names):
                continue
            if option in valid:
                (named if target else every)[option] = choices
                self._reached.add(key)
            elif target:
                raise ConfigError(_no_option(key, chosen.word, option, chosen.options(impl)))
        return {**every, **named}

    def check(self) -> None:
        """Refuse an option that has reached no choice.

        Raises:
            ConfigError: with the nearest option or name.
        """
        for key in self.given:
            if key in self._reached:
                continue
            group, target, option = _parts(key)
            everyone = [word for chosen in self._chosen.values() for word in chosen]
            if not group:
                raise ConfigError(unknown("key", key, [*GROUPS, *everyone]))
            chosen = self._chosen[group]
            if target:
                raise ConfigError(
                    f"{key}: no chosen {group} is called '{target}'{did_you_mean(target, chosen)}; "
                    f"chosen: {', '.join(chosen)}"
                )
            valid = list(dict.fromkeys(name for one in chosen.values() for name in one.options()))
            raise ConfigError(_no_option(key, ", ".join(chosen), option, valid))


def _no_option(key: str, chosen: str, option: str, valid: Sequence[str]) -> str:
    verb = "have" if ", " in chosen else "has"
    return f"{key}: {chosen} {verb} no option '{option}'{did_you_mean(option, valid)}; valid: {listed(valid, option)}"


def _parts(key: str) -> tuple[str, str, str]:
    """Split a key into group, target and option; the group is empty where the target comes first.

    >>> _parts("method.channels"), _parts("method.decomcam.channels"), _parts("my_cam.alpha")
    (('method', '', 'channels'), ('method', 'decomcam', 'channels'), ('', 'my_cam', 'alpha'))
    """
    first, _, rest = key.partition(".")
    if first not in GROUPS:
        target, _, option = key.rpartition(".")
        return "", target, option
    target, _, option = rest.rpartition(".")
    return first, target, option


def _product(values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]
