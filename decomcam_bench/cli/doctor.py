"""``decomcam-bench doctor``: what this machine has, what is missing, and how to get it."""

from __future__ import annotations

import argparse
import json
import os
import platform
from importlib import metadata

from decomcam_bench import __version__
from decomcam_bench.cli import add_command, add_json

_EXAMPLES = "  decomcam-bench doctor\n"
_PACKAGES = (
    "torch",
    "open_clip_torch",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "hydra-core",
    "opencv-python-headless",
    "pycocotools",
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_command(subparsers, "doctor", "check versions, device, data and weights", _EXAMPLES)
    add_json(parser)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    versions = [
        ("decomcam-bench", __version__),
        ("python", platform.python_version()),
        *((name, _version(name)) for name in _PACKAGES),
    ]
    sections = {"versions": versions, "machine": _machine(), "data sets": _datasets(), "weights": _weights()}
    if arguments.json:
        print(json.dumps({title.replace(" ", "_"): dict(rows) for title, rows in sections.items()}, indent=2))
        return 0
    for title, rows in sections.items():
        _section(title, rows)
    return 0


def _section(title: str, rows: list[tuple[str, str]]) -> None:
    print(f"{title}:")
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print(f"  {name.ljust(width)}  {text}")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing; pip install decomcam-bench installs it"


def _machine() -> list[tuple[str, str]]:
    import torch

    rows = [("cores", str(os.cpu_count())), ("memory", _memory())]
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(number)
            rows.append((f"cuda:{number}", f"{about.name}, {about.total_memory / 2**30:.0f} GiB"))
    else:
        rows.append(("cuda", "none; device=auto runs on the CPU"))
    return rows


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (ValueError, OSError, AttributeError):
        return "unknown"


def _datasets() -> list[tuple[str, str]]:
    from decomcam_bench.config import registry
    from decomcam_bench.core.errors import UserError

    rows = []
    for name in registry.names("dataset"):
        try:
            dataset = registry.build("dataset", registry.read("dataset", name))
            rows.append((name, f"{len(dataset)} images"))
        except UserError as error:
            rows.append((name, f"missing: {error}"))
    return rows


def _weights() -> list[tuple[str, str]]:
    from decomcam_bench.config import registry
    from decomcam_bench.models.openclip import OpenClip

    rows = []
    for name in registry.names("model"):
        config = registry.read("model", name)
        if name == "openclip":
            continue
        source = registry.build("model", config)
        if not isinstance(source, OpenClip):
            found = source.available()
        else:
            cached = source.cached()
            found = str(cached) if cached else f"not cached; fetched from {source.origin()} at the first run"
        rows.append((name, found))
    return rows
