"""``decomcam-bench completion``: completion of commands, options, overrides and names in a shell."""

from __future__ import annotations

import argparse
from typing import Any

from decomcam_bench.cli import add_command

_EXAMPLES = """\
  eval "$(decomcam-bench completion bash)"                      now; in ~/.bashrc: always
  decomcam-bench completion fish > ~/.config/fish/completions/decomcam-bench.fish
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_command(subparsers, "completion", "print what makes a shell complete this command", _EXAMPLES)
    parser.add_argument("shell", choices=("bash", "zsh", "fish", "tcsh", "powershell"))
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    import argcomplete.shell_integration

    print(argcomplete.shell_integration.shellcode(["decomcam-bench"], shell=arguments.shell), end="")
    return 0


def override_words(prefix: str, parsed_args: argparse.Namespace, **rest: Any) -> list[str]:
    """Return the overrides that begin with ``prefix``: keys, names of choices, options, layers."""
    from dataclasses import fields

    from decomcam_bench.config.overrides import GROUPS
    from decomcam_bench.config.settings import RunKeys

    given = [word for word in getattr(parsed_args, "overrides", None) or [] if "=" in word]
    key, sign, value = prefix.partition("=")
    if sign:
        before, comma, _ = value.rpartition(",")
        return [f"{key}={before}{comma}{found}" for found in _values(key, given)]
    group = prefix.partition(".")[0]
    if "." in prefix and group in GROUPS:
        return [f"{group}.{option}=" for option in _options(group, given)]
    return [f"{name}=" for name in (*GROUPS, *(field.name for field in fields(RunKeys)))]


def _values(key: str, given: list[str]) -> list[str]:
    from decomcam_bench.config import models, registry
    from decomcam_bench.config.overrides import GROUPS

    if key == "model":
        return models.names()
    if key in GROUPS:
        return registry.names(key)
    if key == "layer":
        return _layers(given)
    fixed = {"precision": ("fp32", "fp16", "bf16"), "device": ("auto", "cpu", "cuda")}
    return list(fixed.get(key, ("true", "false") if key in ("strict", "save_maps", "controls") else ()))


def _options(group: str, given: list[str]) -> list[str]:
    from decomcam_bench.config import registry
    from decomcam_bench.config.chosen import choose

    named = [word.partition("=")[2] for word in given if word.partition("=")[0] == group]
    names = named[-1].split(",") if named else ["decomcam"] if group == "method" else registry.shipped(group)
    found: list[str] = []
    for name in names:
        config = registry.read(group, name)
        found += [option for option in (choose(group, name).options() if named else config) if option not in found]
    return [option for option in found if option not in registry.DESCRIPTIVE]


def _layers(given: list[str]) -> list[str]:
    from decomcam_bench.config import registry
    from decomcam_bench.config.settings import load_config, untrained_twin

    words = [word for word in given if word.partition("=")[0].partition(".")[0] in ("model", "dataset")]
    setting = load_config(words).settings[0]
    config, _ = untrained_twin((dict(setting.model), dict(setting.changed["model"])))
    return list(registry.build("model", config).outline().tower.layers)
