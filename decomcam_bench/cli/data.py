"""``decomcam-bench data list | verify | prepare | export-pairs | export-maps``: the benchmarks on this machine."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from decomcam_bench.cli import add_command, add_json, add_overrides, add_results

_EXAMPLES = """\
  decomcam-bench data list
  decomcam-bench data prepare voc --variant 2007
  decomcam-bench data prepare coco --root /data/coco
  decomcam-bench data verify voc --root /data/VOCdevkit year=2012 split=val --fast
  decomcam-bench data export-pairs dataset=voc dataset.root=/data/VOCdevkit --out pairs.csv
  decomcam-bench data export-maps CELL --results results --out maps
"""


_ACTIONS = ("list", "verify", "prepare", "new", "map", "export-pairs", "export-maps")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_command(subparsers, "data", "list, check and fetch the benchmarks", _EXAMPLES)
    parser.set_defaults(execute=execute)
    actions = parser.add_subparsers(dest="action", metavar="|".join(_ACTIONS), required=True)

    listing = actions.add_parser("list", help="each benchmark: size, licence, citation, what is present")
    listing.add_argument("--format", choices=("text", "json", "names"), default="text", help="default: text")
    add_json(listing)

    check = actions.add_parser("verify", help="check a folder: exit status 0 if it is sound, 1 if not")
    check.add_argument("name", help="name of the data set")
    check.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="options of the data set, such as year=2012"
    )
    check.add_argument("--root", help="its folder; default: looked for in the data folder")
    check.add_argument("--fast", action="store_true", help="read the headers of images only, decode nothing")
    check.add_argument("--all", action="store_true", help="show every finding, not the first ten of each kind")
    add_json(check)

    fetching = actions.add_parser("prepare", help="fetch, check and unpack a benchmark, or say what to do by hand")
    fetching.add_argument("name", help="name of the data set")
    fetching.add_argument("--variant", help="year or variant; default: the first that 'data list' shows; 'all' for all")
    fetching.add_argument("--root", help="target folder; default: its place in the data folder")
    fetching.add_argument("--archives", metavar="DIR", help="folder of official archives that you already have")
    fetching.add_argument("--mirror", metavar="URL", default="", help="fetch URL/<file name>; checksums hold")
    fetching.add_argument("--keep-archives", action="store_true", help="keep fetched archives after unpacking")

    new = actions.add_parser("new", help="write annotations.csv to fill in, from a folder of your own images")
    new.add_argument("folder", metavar="DIR", help="folder of the images")
    new.add_argument(
        "--exif", choices=("stored", "upright"), default="stored", help="sizes as stored, or turned upright"
    )

    names = actions.add_parser("map", help="match two copies of ImageNet-V2 and write their table of names")
    names.add_argument("name", help="imagenetv2")
    names.add_argument("--old", metavar="DIR", required=True, help="copy whose images are named by numbers")
    names.add_argument("--new", metavar="DIR", required=True, help="copy whose images are named by hash")
    names.add_argument("--out", metavar="FILE", help="the CSV to write; default: name_map.csv in the new copy")

    pairs = actions.add_parser("export-pairs", help="write the pairs of a run as CSV, to compute their maps elsewhere")
    add_overrides(pairs, "as of `run`: dataset=..., limit=...")
    pairs.add_argument("--out", metavar="FILE", required=True, help="the CSV to write")

    maps = actions.add_parser("export-maps", help="write the saved maps of a cell as files that method=files reads")
    maps.add_argument("cell", metavar="CELL", help="key of the cell, as in the table")
    add_results(maps)
    maps.add_argument("--out", metavar="DIR", required=True, help="the folder to write")


def execute(arguments: argparse.Namespace) -> int:
    """Runs the chosen action; returns the exit status."""
    run = {
        "list": _list,
        "verify": _verify,
        "prepare": _prepare,
        "new": _new,
        "map": _map,
        "export-pairs": _export_pairs,
        "export-maps": _export_maps,
    }[arguments.action]
    return run(arguments)


def _list(arguments: argparse.Namespace) -> int:
    from decomcam_bench.datasets.acquire.catalogue import CATALOGUE

    if arguments.format == "names":
        print("\n".join(CATALOGUE))
        return 0
    rows = [_describe(name) for name in CATALOGUE]
    if arguments.json or arguments.format == "json":
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        print(f"{row['name']}: {row['title']}")
        print(f"  licence   {row['licence']}")
        print(f"  citation  {row['citation']}")
        for variant in row["variants"]:
            size = f"{variant['megabytes'] / 1000:.1f} GB on disk"
            print(f"  {variant['name']:<18} {variant['images']:>6,} images, {size}; {variant['state']}")
    print("\nLooked for in the data folder ($DECOMCAM_BENCH_DATA or ~/.cache/decomcam-bench/data).")
    return 0


def _describe(name: str) -> dict[str, Any]:
    """One benchmark with what is present of it in the data folder."""
    from decomcam_bench.datasets.acquire.catalogue import CATALOGUE
    from decomcam_bench.datasets.files import data_folder

    entry = CATALOGUE[name]
    folder = data_folder() / name
    variants = []
    for key, variant in entry.variants.items():
        present = _present(name, dict(variant.options))
        if present is None:
            state = f"not present (decomcam-bench data prepare {name} --variant {key})"
        else:
            state = f"present under {folder}: {present:,} images, {_disk_use(folder) / 1e9:.1f} GB in this folder"
        variants.append(
            {
                "name": key,
                "images": variant.images,
                "megabytes": variant.megabytes,
                "present": present is not None,
                "images_present": present or 0,
                "state": state,
            }
        )
    return {
        "name": name,
        "title": entry.title,
        "licence": entry.licence,
        "citation": entry.citation,
        "folder": str(folder),
        "variants": variants,
    }


def _present(name: str, options: dict[str, Any]) -> int | None:
    """Images whose file exists, of the default folder, or None where the data set cannot be opened."""
    from decomcam_bench.core.errors import DataError

    try:
        dataset = _open(name, options)
    except DataError:
        return None
    found = 0
    for index in range(len(dataset)):
        try:
            found += dataset.image_file(index).is_file()
        except ValueError:
            continue
    return found


def _disk_use(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _open(name: str, options: dict[str, Any]) -> Any:
    from decomcam_bench.config import registry

    return registry.build("dataset", {**registry.read("dataset", name), **options})


def _parse(words: list[str]) -> dict[str, Any]:
    """Return options written as ``key=value``; ``dataset.`` in front is allowed."""
    from decomcam_bench.config.overrides import read_overrides, split_override
    from decomcam_bench.core.errors import ConfigError

    options = {}
    for word in words:
        try:
            key, text = split_override(word)
        except ConfigError as error:
            raise ConfigError(f"'{word}': write options of the data set as key=value, such as year=2012") from error
        name = key.removeprefix("dataset.")
        [found] = read_overrides([f"dataset.{name}={text}"]).values()
        if len(found) > 1:
            raise ConfigError(f"'{word}': one data set is checked at a time; give one value")
        options[name] = found[0]
    return options


def _verify(arguments: argparse.Namespace) -> int:
    from decomcam_bench.core.errors import DataError
    from decomcam_bench.datasets.acquire.catalogue import variant_of
    from decomcam_bench.datasets.acquire.verify import verify
    from decomcam_bench.datasets.base import printable

    options = _parse(arguments.overrides)
    if arguments.root is not None:
        options["root"] = arguments.root
    try:
        dataset = _open(arguments.name, options)
    except DataError as error:
        print(printable(f"{arguments.name}: {' '.join(str(error).split())}\nnot sound: cannot be opened"))
        return 1
    report = verify(dataset, variant_of(dataset), arguments.fast)
    if arguments.json:
        print(json.dumps({"name": arguments.name, "sound": report.sound, **asdict(report)}, indent=2))
        return 0 if report.sound else 1
    shown = ", ".join(f"{key}={value}" for key, value in dataset.identity.items() if key != "name")
    place = f" under {dataset.base}" if hasattr(dataset, "base") else ""
    print(printable(f"{arguments.name} ({shown}){place}" if shown else f"{arguments.name}{place}"))
    for line in report.lines(sys.maxsize if arguments.all else 10):
        print(line)
    print(report.verdict)
    return 0 if report.sound else 1


def _prepare(arguments: argparse.Namespace) -> int:
    from decomcam_bench.core.errors import ConfigError, DataError, unknown
    from decomcam_bench.datasets.acquire.catalogue import CATALOGUE
    from decomcam_bench.datasets.acquire.download import is_web_address
    from decomcam_bench.datasets.acquire.prepare import Preparation
    from decomcam_bench.datasets.files import data_folder

    if arguments.name not in CATALOGUE:
        raise ConfigError(unknown("data set", arguments.name, CATALOGUE))
    entry = CATALOGUE[arguments.name]
    name = arguments.variant or next(iter(entry.variants))
    if name != "all" and name not in entry.variants:
        raise ConfigError(unknown(f"variant of {arguments.name}", name, [*entry.variants, "all"]))
    if arguments.root == "":
        raise ConfigError("--root: empty; name the target folder")
    if arguments.mirror and not is_web_address(arguments.mirror):
        raise ConfigError(f"--mirror {arguments.mirror}: not an address of the form https://host/folder")
    root = Path(arguments.root).expanduser() if arguments.root else data_folder() / arguments.name
    archives = Path(arguments.archives).expanduser() if arguments.archives else None
    if archives is not None and not archives.is_dir():
        raise ConfigError(f"--archives {arguments.archives}: no such folder; name the one that holds the archives")
    preparation = Preparation(root, arguments.mirror, archives, arguments.keep_archives)
    print(f"{entry.title}\nlicence: {entry.licence}\ninto: {root}")
    missing = []
    chosen = list(entry.variants.values()) if name == "all" else [entry.variants[name]]
    steps = [f"  {number}. {step.format(root=root)}" for number, step in enumerate(entry.manual, start=1)]
    for variant in chosen:
        try:
            missing += preparation.run(variant)
        except DataError:
            if steps:
                print("\n".join(["by hand, what needs an account:", *steps]))
            raise
    if not missing:
        for variant in chosen:
            doubts = _check_layout(arguments.name, {**variant.options, "root": str(root)})
            options = "".join(f" dataset.{key}={value}" for key, value in variant.options.items())
            for line in doubts:
                print(f"but: {line}")
            print(f"ready: decomcam-bench run dataset={arguments.name} dataset.root={root}{options}")
        return 0
    print(f"by hand: {', '.join(archive.file_name for archive in missing)} cannot be fetched without an account")
    print("\n".join(steps))
    return 1


def _check_layout(name: str, options: dict[str, Any]) -> Sequence[str]:
    """Open what was unpacked, so that another layout is noticed before the first run; return what is doubtful."""
    from decomcam_bench.core.errors import DataError

    try:
        return list(_open(name, options).doubts)
    except DataError as error:
        raise DataError(f"the archives are unpacked, but not in the official layout: {error}") from error


def _new(arguments: argparse.Namespace) -> int:
    from decomcam_bench.datasets.custom.template import write_template

    file, count, turned = write_template(Path(arguments.folder).expanduser(), arguments.exif)
    print(f"{file}: {count:,} images; fill in class (or text) and box, a row per object; docs/custom-data.md says how")
    if turned and arguments.exif == "stored":
        print(
            f"{turned:,} of them are stored turned: what you see needs dataset.exif=upright (and --exif upright here)"
        )
    print(f"then: decomcam-bench data verify custom --root {arguments.folder}")
    return 0


def _map(arguments: argparse.Namespace) -> int:
    from decomcam_bench.core.errors import ConfigError
    from decomcam_bench.datasets.acquire.name_maps import map_imagenetv2

    if arguments.name != "imagenetv2":
        raise ConfigError(f"data map {arguments.name}: only imagenetv2 has copies of two namings")
    old, new = (Path(folder).expanduser() for folder in (arguments.old, arguments.new))
    out = Path(arguments.out).expanduser() if arguments.out else new / "name_map.csv"
    matched, total = map_imagenetv2(old, new, out)
    print(f"{out}: {matched:,} of {total:,} images matched")
    print(f"use it: dataset=imagenetv2 dataset.name_map={out}")
    return 0 if matched == total else 1


def _export_pairs(arguments: argparse.Namespace) -> int:
    from decomcam_bench.api import export_pairs

    pairs = export_pairs(arguments.out, *arguments.overrides)
    print(f"{pairs:,} pairs in {arguments.out}; put their maps into one folder under the names in its column `file`")
    return 0


def _export_maps(arguments: argparse.Namespace) -> int:
    from decomcam_bench.api import export_maps

    maps = export_maps(arguments.out, arguments.cell, arguments.results)
    print(f"{maps:,} maps in {arguments.out}; score them with method=files method.dir={arguments.out}")
    return 0
