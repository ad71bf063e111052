"""``decomcam-bench explain``: maps of a picture and texts of one's own, as a figure."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from decomcam_bench.cli import add_command, add_overrides
from decomcam_bench.core.console import log

if TYPE_CHECKING:
    from decomcam_bench.explainer.explained import Explained

_EXAMPLES = """\
  decomcam-bench explain scene.png --text "a house" --text "a tree"
  decomcam-bench explain photo.jpg --text "a cat" model=rn50 method=decomcam,gradcam,scorecam
  decomcam-bench explain photo.jpg --text "a cat" model=vit_b16 layer=block-2,block-1 method=hirescam
  decomcam-bench explain photo.jpg --text "a cat" rank=1,5,10 method.sign=both --out cat.svg --maps cat.npz

The figure shows the picture and the map of each setting; for methods that decompose, also their
components in order, with weight and share of the variance. Overrides are those of `run` that mean
something for one picture: model, method, layer, rank, seed, precision, device, batch_size. Texts are
taken as they stand, without templates. Without model= it is toyclip, which knows drawn scenes alone.
"""

#: Letters of a picture's name that its figure's name keeps, so that no file system finds it too long.
_LONGEST_STEM = 50


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_command(subparsers, "explain", "draw the maps of one picture and texts of your own", _EXAMPLES)
    parser.add_argument("image", metavar="IMAGE", help="a picture file")
    parser.add_argument("--text", action="append", required=True, metavar="TEXT", help="what to look for; repeatable")
    add_overrides(parser, "Hydra overrides, or @FILE that lists some; comma lists sweep")
    parser.add_argument(
        "--out", "--output", metavar="FILE", help="figure to write: .png, .svg or .pdf (default: IMAGE_explained.png)"
    )
    parser.add_argument("--maps", metavar="FILE", help="also write the maps as numbers: .npz")
    parser.add_argument(
        "--colormap",
        default="inferno",
        metavar="NAME",
        help="inferno, magma, plasma, viridis or cividis (default: %(default)s)",
    )
    parser.add_argument("--dpi", type=int, default=200, metavar="N", help="resolution of a .png (default: %(default)s)")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    from decomcam_bench.core.errors import ConfigError
    from decomcam_bench.core.validation import check_choice
    from decomcam_bench.datasets.base import printable
    from decomcam_bench.explainer.explain import explain_as
    from decomcam_bench.explainer.files import SUFFIXES, check_path
    from decomcam_bench.explainer.overlay import COLORMAPS
    from decomcam_bench.explainer.pictures import load_picture, parse

    image = Path(arguments.image)
    out = Path(arguments.out or f"{image.stem[:_LONGEST_STEM]}_explained.png")
    check_path(out, SUFFIXES)
    if arguments.maps:
        check_path(Path(arguments.maps), (".npz",), "--maps")
    check_choice("--colormap", arguments.colormap, COLORMAPS)
    if not 30 <= arguments.dpi <= 1200:
        raise ConfigError(f"--dpi {arguments.dpi}: must be from 30 to 1200")
    load_picture(image)
    if out.exists() and out.samefile(image):
        raise ConfigError(f"--out {out}: this is the picture itself; name another file")
    config = parse(arguments.overrides)
    explained = explain_as(config, image, arguments.text)
    if not any(word.lstrip("+").startswith("model") for word in arguments.overrides):
        used = config.settings[0].model["name"]
        log.info(
            "model=%s, the embedded default, knows drawn scenes alone; for photographs name another model, "
            "such as model=photoclip or model=rn50",
            used,
        )
    explained.save(out, arguments.colormap, arguments.dpi)
    print(printable(str(out)))
    if arguments.maps:
        explained.save_maps(arguments.maps)
        print(printable(arguments.maps))
    return 1 if _report_missing(explained) else 0


def _report_missing(explained: Explained) -> bool:
    """Say which maps could not be made; True if none could."""
    missing = 0
    for answer in explained.answers:
        for text, reason in zip(explained.texts, answer.reasons, strict=True):
            if reason:
                missing += 1
                log.warning("no map of %s for '%s': %s", answer.method, text, reason)
    return missing == len(explained.answers) * len(explained.texts)
