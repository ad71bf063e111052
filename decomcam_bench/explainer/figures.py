"""The figure of ``explain``: a picture, its maps, and the components behind them.

Drawn with matplotlib's object interface, so that nothing global changes and no display is needed.
Colour maps are perceptually uniform: they read alike for colour-blind readers and in grey print.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.core.validation import check_choice
from decomcam_bench.models.geometry import Geometry

if TYPE_CHECKING:
    from decomcam_bench.explainer.explain import Answer, Explained, Parts

COLORMAPS = ("inferno", "magma", "plasma", "viridis", "cividis")
SUFFIXES = (".png", ".svg", ".pdf")

#: Sizes in inches.
CELL, GAP, MARGIN = 1.5, 0.09, 0.12
HEADING, TITLE, FOOTER = 0.36, 0.2, 0.42
#: Width of a letter of a quoted text.
LETTER = 0.1
#: Panels in a row, at least and at most, where there are as many.
COLUMNS = (4, 6)
#: Longest side of a panel's picture in pixels.
PANEL_PIXELS = 480
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 7.5,
    "svg.fonttype": "path",
    "svg.hashsalt": "decomcam-bench",
}


@dataclass
class _Panel:
    """One picture of the figure: RGB in [0, 1], a title, a reason in its place, and a mark (x, y)."""

    picture: np.ndarray
    title: str
    reason: str = ""
    mark: tuple[float, float] | None = None


@dataclass
class _Block:
    """Panels under a heading, which begins with a quoted text or not."""

    heading: str
    panels: list[_Panel]
    quoted: str = ""


def check_path(path: Path, suffixes: Sequence[str]) -> None:
    """Refuses a file name that cannot be written as asked.

    Raises:
        ConfigError: for another suffix, or a folder that is not there.
    """
    if path.suffix.lower() not in suffixes:
        raise ConfigError(f"output {path}: the suffix must be one of {', '.join(suffixes)}")
    if not path.parent.is_dir():
        raise ConfigError(f"output {path}: there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise ConfigError(f"output {path}: this is a folder; name a file")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Says in one line why a file could not be written.

    Raises:
        ConfigError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise ConfigError(f"output {path}: cannot be written ({error.strerror or error}); name another file") from error


def save(figure: Figure, path: Path, dpi: int) -> None:
    """Writes a figure; the same figure gives the same bytes.

    Raises:
        ConfigError: for a suffix other than .png, .svg and .pdf, a folder that is not there, or a file
            that cannot be written.
    """
    check_path(path, SUFFIXES)
    kind = path.suffix.lower().removeprefix(".")
    stamp = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
    with matplotlib.rc_context(_STYLE), writing(path), warnings.catch_warnings():
        # A letter that the font does not have is drawn as a box, which says it as well.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(path, format=kind, dpi=dpi, metadata=stamp)


def draw(explained: Explained, colormap: str = "inferno") -> Figure:
    """Draws the picture, the map of each setting, and the components in order of singular value.

    Each map is scaled to its own maximum and laid over the grey picture; a cross marks the maximum.
    Titles of components give their weight in the map and their share of the explained variance.

    Raises:
        ConfigError: for a colour map that is not perceptually uniform.
    """
    check_choice("colormap", colormap, COLORMAPS)
    painter = _Painter(explained.image, colormap)
    blocks = [block for number in range(len(explained.texts)) for block in _blocks(explained, number, painter)]
    height, width = painter.small.shape[:2]
    cell_height = float(np.clip(CELL * height / width, 0.45 * CELL, 2.0 * CELL))
    columns = _columns([len(block.panels) for block in blocks])
    with matplotlib.rc_context(_STYLE):
        return _lay_out(blocks, columns, cell_height, painter, _footer(explained))


def faded(image: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3) in 0..1 as light greys (H, W), over which colours of a map stand out."""
    grey = image @ np.array([0.299, 0.587, 0.114], dtype=image.dtype)
    return 0.25 + 0.7 * grey


def blend(grey: np.ndarray, share: np.ndarray, colormap: str = "inferno") -> np.ndarray:
    """RGB (H, W, 3) in 0..1 of a map's ``share`` of its maximum, 0..1, over ``grey``."""
    opacity = (0.35 + 0.45 * share)[..., None]
    return (1 - opacity) * grey[..., None] + opacity * matplotlib.colormaps[colormap](share)[..., :3]


class _Painter:
    """Lays maps over the picture, at the size of a panel."""

    def __init__(self, image: np.ndarray, colormap: str) -> None:
        picture = Image.fromarray(image)
        picture.thumbnail((PANEL_PIXELS, PANEL_PIXELS), Image.Resampling.LANCZOS)
        self.small = np.asarray(picture, dtype=np.float32) / 255
        self.grey = faded(self.small)
        self.colormap = colormap

    def blend(self, grey: np.ndarray, share: np.ndarray) -> np.ndarray:
        return blend(grey, share, self.colormap)

    def overlay(self, saliency: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, tuple[float, float] | None]:
        """The panel of a map at input resolution, and where its maximum lies, as shares of the sides."""
        height, width = self.small.shape[:2]
        small = Geometry(width, height, geometry.size, geometry.mode).to_original(saliency).clip(0)
        peak = float(small.max())
        share = small / peak if peak > 0 else np.zeros_like(small)
        if not peak > 0:
            return self.blend(self.grey, share), None
        # Beyond the outermost places of the grid a map is constant: the mark stands in the middle of a plateau.
        rows, columns = np.nonzero(small >= peak * (1 - 1e-6))
        middle = np.hypot(rows - rows.mean(), columns - columns.mean()).argmin()
        y, x = rows[middle], columns[middle]
        return self.blend(self.grey, share), ((float(x) + 0.5) / width, (float(y) + 0.5) / height)


def _blocks(explained: Explained, text: int, painter: _Painter) -> list[_Block]:
    """The panels of one text: picture and maps first, then the components of each decomposition."""
    answers = explained.answers
    names = _short_names(answers)
    maps = [_Panel(painter.small, "picture")]
    for name, answer in zip(names, answers, strict=True):
        picture, mark = painter.overlay(answer.maps[text], answer.geometry)
        maps.append(_Panel(picture, name, answer.reasons[text], mark))
    scores = {answer.model: float(answer.similarity[text]) for answer in answers}
    similarity = ", ".join(
        f"{name} {value:.3f}" if len(scores) > 1 else f"{value:.3f}" for name, value in scores.items()
    )
    blocks = [_Block(f"cosine similarity {similarity}", maps, " ".join(explained.texts[text].split()))]
    for name, answer in zip(names, answers, strict=True):
        parts = answer.parts[text]
        panels = [] if parts is None else _components(parts, answer.geometry, painter)
        if parts is not None and panels:
            kind = "components" if parts.singular_values is None else "OSSMs by singular value"
            share = "" if parts.explained is None else " and share of the variance"
            blocks.append(_Block(f"{name}: {kind}, with weight w{share}", panels))
    return blocks


def _components(parts: Parts, geometry: Geometry, painter: _Painter) -> list[_Panel]:
    panels = []
    largest = float(np.abs(parts.weights).max(initial=0))
    form = ".2f" if largest >= 0.1 or largest == 0 else ".3f" if largest >= 0.01 else ".1e"
    for number, saliency in enumerate(parts.maps):
        if not saliency.any():
            continue
        words = [f"{number + 1}", f"w {parts.weights[number]:{form}}"]
        if parts.explained is not None:
            words.append(f"{100 * float(parts.explained[number]):.1f} %")
        panels.append(_Panel(painter.overlay(saliency, geometry)[0], " · ".join(words)))
    return panels


def _short_names(answers: Sequence[Answer]) -> list[str]:
    """What tells a setting from the others: its method, and what else differs between them."""
    names = []
    models = [answer.model.partition("[") for answer in answers]
    for answer, (_, _, options) in zip(answers, models, strict=True):
        words = [answer.method]
        if len({name for name, _, _ in models}) > 1:
            words.append(answer.model)
        elif options and len(set(models)) > 1:  # one model with different options
            words.append(options.removesuffix("]"))
        if answer.layer and len({a.layer for a in answers if a.layer}) > 1:
            words.append(answer.layer)
        if answer.rank is not None and len({a.rank for a in answers if a.rank is not None}) > 1:
            words.append(f"rank {answer.rank}")
        names.append(" · ".join(words))
    return names


def _footer(explained: Explained) -> str:
    """What the settings have in common."""
    models = list(dict.fromkeys(answer.model for answer in explained.answers))
    layers = list(dict.fromkeys(answer.layer for answer in explained.answers if answer.layer))
    ranks = list(dict.fromkeys(answer.rank for answer in explained.answers if answer.rank is not None))
    words = [f"model: {', '.join(models)}"]
    words += [f"layer: {', '.join(layers)}"] if layers else []
    words += [f"rank: {', '.join(map(str, ranks))}"] if ranks else []
    return " · ".join(words)


def _columns(panels: Sequence[int]) -> int:
    """Panels in a row, of blocks of so many panels: the fewest rows, then the fewest empty places."""
    if max(panels) <= COLUMNS[0]:
        return max(panels)

    def cost(columns: int) -> tuple[int, int]:
        rows = sum(-(-count // columns) for count in panels)
        return rows, rows * columns - sum(panels)

    return min(range(COLUMNS[0], min(COLUMNS[1], max(panels)) + 1), key=cost)


def _lay_out(blocks: Sequence[_Block], columns: int, cell_height: float, painter: _Painter, footer: str) -> Figure:
    def rows(block: _Block) -> int:
        return -(-len(block.panels) // columns)

    width = max(2 * MARGIN + columns * CELL + (columns - 1) * GAP, 4.2)
    pitch = TITLE + cell_height + GAP
    height = MARGIN + sum(HEADING + rows(block) * pitch for block in blocks) + FOOTER + MARGIN
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    top = height - MARGIN
    for block in blocks:
        y = (top - 0.5 * HEADING) / height
        figure.text(MARGIN / width if not block.quoted else 1 - MARGIN / width, y, block.heading, va="center",
                    ha="right" if block.quoted else "left", fontsize=8, color="0.25", parse_math=False)  # fmt: skip
        if block.quoted:
            room = int((width - 2 * MARGIN - 0.06 * len(block.heading)) / LETTER)
            words = f"“{textwrap.shorten(block.quoted, max(room, 12), placeholder=' …')}”"
            figure.text(MARGIN / width, y, words, va="center", ha="left", fontsize=9.5, fontweight="bold",
                        parse_math=False)  # fmt: skip
        top -= HEADING
        for number, panel in enumerate(block.panels):
            row, column = divmod(number, columns)
            left, bottom = MARGIN + column * (CELL + GAP), top - row * pitch - TITLE - cell_height
            box = (left / width, bottom / height, CELL / width, cell_height / height)
            _draw_panel(figure, box, panel)
        top -= rows(block) * pitch
    _draw_bar(figure, width, height, painter, footer)
    return figure


def _draw_panel(figure: Figure, box: tuple[float, float, float, float], panel: _Panel) -> None:
    axes = figure.add_axes(box)
    axes.set_axis_off()
    axes.imshow(panel.picture.clip(0, 1), aspect="equal")
    title = textwrap.shorten(panel.title, 34, placeholder=" …")
    axes.set_title(title, fontsize=7.5, pad=2.5, parse_math=False)
    height, width = panel.picture.shape[:2]
    if panel.reason:
        words = textwrap.fill(f"no map: {panel.reason.replace('_', ' ')}", 20)
        axes.text(
            0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", fontsize=8, parse_math=False,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85},
        )  # fmt: skip
    elif panel.mark is not None:
        x, y = panel.mark[0] * width - 0.5, panel.mark[1] * height - 0.5
        axes.autoscale(False)
        for size, thick, color in ((7, 2.2, "black"), (6, 1.0, "white")):
            axes.plot([x], [y], marker="+", markersize=size, markeredgewidth=thick, color=color)


def _draw_bar(figure: Figure, width: float, height: float, painter: _Painter, footer: str) -> None:
    """What the settings share, at the left of the foot; the scale of the colours, at its right."""
    figure.text(MARGIN / width, (MARGIN + 0.12) / height, footer, va="center", ha="left", fontsize=7, color="0.25",
                parse_math=False)  # fmt: skip
    length = 1.3
    axes = figure.add_axes(
        ((width - MARGIN - length - 0.1) / width, (MARGIN + 0.14) / height, length / width, 0.09 / height)
    )
    share = np.linspace(0, 1, 256)[None]
    axes.imshow(painter.blend(np.full_like(share, 0.6), share), aspect="auto", extent=(0, 1, 0, 1))
    axes.set_yticks([])
    axes.set_xticks([0, 0.5, 1], ["0", "½", "1"])
    axes.tick_params(length=2, width=0.5, pad=1, labelsize=6.5)
    axes.set_title("share of the map's maximum", fontsize=6.5, pad=2, color="0.25")
    for spine in axes.spines.values():
        spine.set_linewidth(0.5)
