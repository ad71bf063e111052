"""The figure of ``explain``: a picture, its maps, and the components behind them.

Drawn with matplotlib's object interface, so that nothing global changes and no display is needed. Each
text and each decomposition is a sub-figure; constrained layout places the panels.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure, SubFigure

from decomcam_bench.core.validation import check_choice
from decomcam_bench.explainer.answers import Answer, ComponentMaps
from decomcam_bench.explainer.overlay import COLORMAPS, Painter, blend
from decomcam_bench.models.geometry import Geometry

#: Inches: width of a panel; height of a title, of a heading, and of the strip with the colour bar.
PANEL, TITLE, HEADING, FOOTER = 1.55, 0.26, 0.32, 0.55
#: Panels per row, at least and at most, where there are as many.
COLUMNS = (4, 6)
#: Width of a letter of a heading in inches, in bold and in regular type.
BOLD_LETTER, LETTER = 0.1, 0.06
#: Letters of a panel's title, at most.
TITLE_LETTERS = 34
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.titlepad": 2.5,
    "text.parse_math": False,
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.12,
    "svg.fonttype": "path",
    "svg.hashsalt": "decomcam-bench",
}


@dataclass
class _Panel:
    """One picture of the figure: RGB in [0, 1], a title, the reason for a missing map, and a mark (x, y)."""

    picture: np.ndarray
    title: str
    reason: str = ""
    mark: tuple[float, float] | None = None


@dataclass
class _Block:
    """Panels under a heading; ``quoted`` is the text that a block of maps answers."""

    heading: str
    panels: list[_Panel]
    quoted: str = ""


def draw(image: np.ndarray, texts: Sequence[str], answers: Sequence[Answer], colormap: str = "inferno") -> Figure:
    """Draw the picture, the map of each setting, and the components in order of singular value.

    Each map is scaled to its own maximum and laid over the grey picture; a cross marks the maximum. Titles
    of components give their weight in the map and their share of the explained variance.

    Args:
        image: uint8 (height, width, 3).
        texts: the T texts.
        answers: one per setting, with T maps each.
        colormap: one of :data:`~decomcam_bench.explainer.overlay.COLORMAPS`.

    Raises:
        ConfigError: for a colour map that is not perceptually uniform.
    """
    check_choice("colormap", colormap, COLORMAPS)
    painter = Painter(image, colormap)
    blocks = [block for number in range(len(texts)) for block in _blocks(texts, answers, number, painter)]
    columns = _columns([len(block.panels) for block in blocks])
    height, width = painter.small.shape[:2]
    row = TITLE + float(np.clip(PANEL * height / width, 0.45 * PANEL, 2.0 * PANEL))
    heights = [HEADING + row * -(-len(block.panels) // columns) for block in blocks] + [FOOTER]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(columns * PANEL, 4.2), sum(heights)), facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        *tops, foot = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        for block, top in zip(blocks, tops, strict=True):
            _draw_block(top, block, columns)
        _draw_foot(foot, _footer(answers), colormap)
        figure.draw_without_rendering()
    return figure


def _blocks(texts: Sequence[str], answers: Sequence[Answer], text: int, painter: Painter) -> list[_Block]:
    """Return the panels of one text: picture and maps first, then the components of each decomposition."""
    names = _short_names(answers)
    maps = [_Panel(painter.small, "picture")]
    for name, answer in zip(names, answers, strict=True):
        picture, mark = painter.overlay(answer.maps[text], answer.geometry)
        maps.append(_Panel(picture, name, answer.reasons[text], mark))
    scores = {answer.model: float(answer.similarity[text]) for answer in answers}
    similarity = ", ".join(
        f"{name} {value:.3f}" if len(scores) > 1 else f"{value:.3f}" for name, value in scores.items()
    )
    blocks = [_Block(f"cosine similarity {similarity}", maps, " ".join(texts[text].split()))]
    for name, answer in zip(names, answers, strict=True):
        components = answer.components[text]
        panels = [] if components is None else _components(components, answer.geometry, painter)
        if components is not None and panels:
            kind = "components" if components.singular_values is None else "OSSMs by singular value"
            shown = ["weight w"]
            shown += [] if components.differences is None else ["score minus that of the blurred image d"]
            shown += ["contribution to the map c"]
            shown += [] if components.explained is None else ["share of the variance"]
            blocks.append(_Block(f"{name}: {kind}, with {', '.join(shown[:-1])} and {shown[-1]}", panels))
    return blocks


def _components(components: ComponentMaps, geometry: Geometry, painter: Painter) -> list[_Panel]:
    panels = []
    largest = float(np.abs(components.weights).max(initial=0))
    form = ".2f" if largest >= 0.1 or largest == 0 else ".3f" if largest >= 0.01 else ".1e"
    masses = components.weights * components.maps.sum((1, 2))
    total = float(np.abs(masses).sum()) or 1.0
    for number, saliency in enumerate(components.maps):
        if not saliency.any():
            continue
        words = [f"{number + 1}", f"w {components.weights[number]:{form}}"]
        if components.differences is not None:
            words.append(f"d {components.differences[number]:+.3g}")
        words.append(f"c {100 * float(masses[number]) / total:.0f} %")
        if components.explained is not None:
            words.append(f"{100 * float(components.explained[number]):.1f} %")
        panels.append(_Panel(painter.overlay(saliency, geometry)[0], " · ".join(words)))
    return panels


def _short_names(answers: Sequence[Answer]) -> list[str]:
    """Name each setting by its method and by what else differs between the settings."""
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


def _footer(answers: Sequence[Answer]) -> str:
    """Return what the settings have in common."""
    models = list(dict.fromkeys(answer.model for answer in answers))
    layers = list(dict.fromkeys(answer.layer for answer in answers if answer.layer))
    ranks = list(dict.fromkeys(answer.rank for answer in answers if answer.rank is not None))
    words = [f"model: {', '.join(models)}"]
    words += [f"layer: {', '.join(layers)}"] if layers else []
    words += [f"rank: {', '.join(map(str, ranks))}"] if ranks else []
    return " · ".join(words)


def _columns(panels: Sequence[int]) -> int:
    """Choose the panels per row for blocks of so many panels: the fewest rows, then the fewest empty places."""
    if max(panels) <= COLUMNS[0]:
        return max(panels)

    def cost(columns: int) -> tuple[int, int]:
        rows = sum(-(-count // columns) for count in panels)
        return rows, rows * columns - sum(panels)

    return min(range(COLUMNS[0], min(COLUMNS[1], max(panels)) + 1), key=cost)


def _draw_block(top: SubFigure, block: _Block, columns: int) -> None:
    width = float(top.bbox.width) / float(top.get_figure(root=True).dpi)
    if block.quoted:
        room = max(int((width - LETTER * len(block.heading)) / BOLD_LETTER) - 2, 12)
        words = f"“{textwrap.shorten(block.quoted, room, placeholder=' …')}”"
        title = top.suptitle(words, x=0.005, ha="left", fontsize=9.5, fontweight="bold")
        top.text(0.995, title.get_position()[1], block.heading, ha="right", va="top", fontsize=8, color="0.25")
    else:
        top.suptitle(block.heading, x=0.005, ha="left", fontsize=8, color="0.25")
    axes = top.subplots(-(-len(block.panels) // columns), columns, squeeze=False).ravel()
    for place in axes:
        place.set_axis_off()
    for place, panel in zip(axes, block.panels, strict=False):
        _draw_panel(place, panel)


def _draw_panel(axes: Axes, panel: _Panel) -> None:
    axes.imshow(panel.picture.clip(0, 1), aspect="equal")
    axes.set_title(panel.title if len(panel.title) <= TITLE_LETTERS else panel.title[: TITLE_LETTERS - 1] + "…")
    height, width = panel.picture.shape[:2]
    if panel.reason:
        words = textwrap.fill(f"no map: {panel.reason.replace('_', ' ')}", 20)
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85}
        axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", fontsize=8, bbox=box)
    elif panel.mark is not None:
        x, y = panel.mark[0] * width - 0.5, panel.mark[1] * height - 0.5
        axes.autoscale(False)
        for size, thick, color in ((7, 2.2, "black"), (6, 1.0, "white")):
            axes.plot([x], [y], marker="+", markersize=size, markeredgewidth=thick, color=color)


def _draw_foot(foot: SubFigure, words: str, colormap: str) -> None:
    """Draw what the settings share on the left of the foot, and the scale of the colours on its right."""
    left, right = foot.subplots(1, 2, width_ratios=(3, 1))
    left.set_axis_off()
    left.text(0.0, 0.0, words, ha="left", va="bottom", fontsize=7, color="0.25", transform=left.transAxes)
    share = np.linspace(0, 1, 256)[None]
    colours = ListedColormap(blend(np.full_like(share, 0.6), share, colormap)[0])
    right.set_axis_off()
    bar = foot.colorbar(
        ScalarMappable(cmap=colours), ax=right, orientation="horizontal", fraction=1.0, aspect=15, ticks=[0, 0.5, 1]
    )
    bar.ax.set_xticklabels(["0", "½", "1"])
    bar.ax.tick_params(length=2, width=0.5, pad=1, labelsize=6.5)
    bar.ax.set_title("share of the map's maximum", fontsize=6.5, pad=2, color="0.25")
    bar.outline.set_linewidth(0.5)
