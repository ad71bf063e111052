"""``decomcam-bench explain``: maps of a picture and texts of one's own, as a figure."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from decomcam_bench.cli import add_command

_EXAMPLES = """\
  decomcam-bench explain scene.png --text "a house" --text "a tree"
  decomcam-bench explain photo.jpg --text "a cat" model=rn50 method=decomcam,gradcam,scorecam
  decomcam-bench explain photo.jpg --text "a cat" model=vit_b16 layer=block-2,block-1 method=hirescam
  decomcam-bench explain photo.jpg --text "a cat" rank=1,5,10 method.sign=both --output cat.svg --maps cat.npz

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
    parser.add_argument("--text", action="append", required=True, metavar="TEXT", help="what to look for; may repeat")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="Hydra overrides; comma lists sweep")
    parser.add_argument("--output", metavar="FILE", help="figure to write: .png, .svg or .pdf (IMAGE_explained.png)")
    parser.add_argument("--maps", metavar="FILE", help="also write the maps as numbers: .npz")
    parser.add_argument("--colormap", default="inferno", metavar="NAME",
                        help="inferno, magma, plasma, viridis or cividis (%(default)s)")  # fmt: skip
    parser.add_argument("--dpi", type=int, default=200, metavar="N", help="resolution of a .png (%(default)s)")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    from decomcam_bench.core.errors import ConfigError
    from decomcam_bench.core.validation import check_choice
    from decomcam_bench.datasets.base import printable
    from decomcam_bench.explainer.explain import explain_as, load_picture, parse
    from decomcam_bench.explainer.figures import COLORMAPS, SUFFIXES, check_path, draw, save

    image = Path(arguments.image)
    output = Path(arguments.output or f"{image.stem[:_LONGEST_STEM]}_explained.png")
    check_path(output, SUFFIXES)
    if arguments.maps:
        check_path(Path(arguments.maps), (".npz",))
    check_choice("--colormap", arguments.colormap, COLORMAPS)
    if not 30 <= arguments.dpi <= 1200:
        raise ConfigError(f"--dpi {arguments.dpi}: must be from 30 to 1200")
    load_picture(image)
    if output.exists() and output.samefile(image):
        raise ConfigError(f"--output {output}: this is the picture itself; name another file")
    config = parse(arguments.overrides)
    if not any(word.lstrip("+").startswith("model") for word in arguments.overrides):
        used = config.settings[0].model["name"]
        print(f"model={used}, the embedded default, knows drawn scenes alone; for photographs name one, "
              f"such as model=rn50", file=sys.stderr)  # fmt: skip

    explained = explain_as(config, image, arguments.text)
    save(draw(explained, arguments.colormap), output, arguments.dpi)
    print(printable(str(output)))
    if arguments.maps:
        explained.save_maps(arguments.maps)
        print(printable(arguments.maps))
    missing = 0
    for answer in explained.answers:
        for text, reason in zip(explained.texts, answer.reasons, strict=True):
            if reason:
                missing += 1
                print(f"no map of {answer.method} for '{text}': {reason}", file=sys.stderr)
    return 1 if missing == len(explained.answers) * len(explained.texts) else 0
