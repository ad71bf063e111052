#!/usr/bin/env python
"""Draw the maps of several methods on photographs, side by side.

    python scripts/photographs_figure.py --out docs/pictures/photographs.png

Rows are the photographs of ``PICTURES`` (of ``dataset=photos``); columns are methods of photoclip, and DecomCAM on the
same network before training. Each map is scaled to its own maximum; a cross marks the maximum, and the boxes of the
class are drawn in white. The photographs were chosen before their maps were seen: one or several objects, in the middle
and off it, and two classes of one picture.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

import decomcam_bench as bench
from decomcam_bench.config import registry
from decomcam_bench.explainer.answers import Answer
from decomcam_bench.explainer.overlay import Painter

#: Ids of photographs, with the class whose map is drawn.
PICTURES = (
    ("bee", "bee"),
    ("owl", "owl"),
    ("hens", "hen"),
    ("lemurs", "lemur"),
    ("jaguars", "jaguar"),
    ("drums", "drum"),
    ("drums", "electric guitar"),
    ("rocket", "rocket"),
)
#: Columns: methods of photoclip with their titles, then a finer layer, then the network before training.
COLUMNS = {
    "decomcam": "DecomCAM",
    "gradcam": "Grad-CAM",
    "gradcam_pp": "Grad-CAM++",
    "layercam": "LayerCAM",
    "eigencam": "Eigen-CAM",
}
FINER = "HiResCAM\nat stage3"
UNTRAINED = "DecomCAM,\nuntrained"
PANEL = 1.12


def show(
    axes: Axes, picture: np.ndarray, boxes: np.ndarray, size: tuple[int, int], mark: tuple[float, float] | None
) -> None:
    """Draw one panel with the boxes and the cross of the maximum.

    Args:
        picture: RGB (h, w, 3) in 0..1.
        boxes: (n, 4) in pixels of the photograph, whose (width, height) is ``size``.
        mark: place of the maximum as shares of the sides.
    """
    height, width = picture.shape[:2]
    axes.imshow(picture, interpolation="bilinear", aspect="auto")
    x, y = width / size[0], height / size[1]
    for x0, y0, x1, y1 in boxes:
        axes.add_patch(Rectangle((x0 * x, y0 * y), (x1 - x0) * x, (y1 - y0) * y, fill=False, ec="white", lw=0.8))
    if mark:
        axes.plot(mark[0] * width, mark[1] * height, "x", color="#39d5ff", ms=4.5, mew=1.2)
    axes.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
    for spine in axes.spines.values():
        spine.set_visible(False)


def draw(pictures: Sequence[tuple[str, str]] = PICTURES) -> Figure:
    """Draw one row per photograph and class."""
    dataset = registry.build("dataset", registry.read("dataset", "photos"))
    place = {dataset.image_id(index): index for index in range(len(dataset))}
    titles = ("photograph", *COLUMNS.values(), FINER, UNTRAINED)
    with matplotlib.rc_context({"font.size": 7, "axes.titlesize": 7, "axes.titlepad": 3}):
        size = (len(titles) * PANEL + 0.2, len(pictures) * PANEL * 0.72 + 0.3)
        figure = Figure(figsize=size, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        figure.get_layout_engine().set(w_pad=0.012, h_pad=0.012, wspace=0, hspace=0)
        grid = figure.subplots(len(pictures), len(titles), squeeze=False)
        for axes, title in zip(grid[0], titles, strict=True):
            axes.set_title(title)
        for panels, (image_id, name) in zip(grid, pictures, strict=True):
            sample, image = dataset.sample(place[image_id]), dataset.load_image(place[image_id])
            boxes = next(target.boxes for target in sample.targets if target.class_name == name)
            painter, pixels = Painter(image, "inferno"), (sample.width, sample.height)
            show(panels[0], painter.small, boxes, pixels, None)
            panels[0].set_ylabel(name)
            for axes, answer in zip(panels[1:], explained(image, name), strict=True):
                picture, mark = painter.overlay(answer.maps[0], answer.geometry)
                show(axes, picture, boxes, pixels, mark)
    return figure


def explained(image: np.ndarray, name: str) -> tuple[Answer, ...]:
    """Return the maps of a class in the order of the columns."""
    text = f"a photo of a {name}."
    return (
        *bench.explain(image, text, "model=photoclip", f"method={','.join(COLUMNS)}").answers,
        *bench.explain(image, text, "model=photoclip", "method=hirescam", "layer=stage3").answers,
        *bench.explain(image, text, "model=photoclip_untrained", "method=decomcam").answers,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="docs/pictures/photographs.png")
    parser.add_argument("--dpi", type=int, default=110)
    arguments = parser.parse_args()
    Path(arguments.out).parent.mkdir(parents=True, exist_ok=True)
    drawn = io.BytesIO()
    draw().savefig(drawn, format="png", dpi=arguments.dpi)
    Image.open(drawn).convert("RGB").save(arguments.out, optimize=True)
    print(arguments.out)


if __name__ == "__main__":
    main()
