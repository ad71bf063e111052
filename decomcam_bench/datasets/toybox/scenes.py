"""Draws the scenes of toybox: composite objects on cluttered backgrounds, with exact masks.

Everything is decided by raw PCG64 bits and arithmetic that IEEE 754 defines exactly
(``+ - * /``, comparisons and integers; no sine, power or matrix product), so a scene is the same,
bit for bit, on every machine and NumPy version.

Objects are described in a unit square, x to the right and y down, as ordered parts; each part is
a list of convex or star-shaped polygons and ellipses. A later part hides an earlier one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SCENE_VERSION = 2
SUPERSAMPLING = 3
_SEED = 0x70_79_B0_C5
_SPLITS = {"train": 0, "val": 1, "test": 2}

Polygon = tuple[tuple[float, float], ...]
Color = tuple[int, int, int]


@dataclass(frozen=True)
class Ellipse:
    """An ellipse with centre (cx, cy) and radii (rx, ry) in the object's unit square."""

    cx: float
    cy: float
    rx: float
    ry: float


Shape = Polygon | Ellipse


@dataclass(frozen=True)
class PartDrawing:
    """A named part: its shapes, and the colours it may take."""

    name: str
    shapes: tuple[Shape, ...]
    colors: tuple[Color, ...]


@dataclass(frozen=True)
class ObjectDrawing:
    """A class of toybox: its parts in drawing order and its width / height ratio."""

    name: str
    aspect: float
    parts: tuple[PartDrawing, ...]


def _box(x0: float, y0: float, x1: float, y1: float) -> Polygon:
    return ((x0, y0), (x1, y0), (x1, y1), (x0, y1))


_RED, _BLUE, _GREEN = (214, 69, 65), (58, 110, 190), (76, 153, 82)
_YELLOW, _ORANGE, _PURPLE = (240, 200, 70), (232, 134, 52), (134, 86, 170)
_WHITE, _CREAM, _GREY = (240, 240, 236), (236, 220, 190), (150, 155, 160)
_BROWN, _DARK, _PINK = (128, 84, 52), (62, 62, 74), (235, 140, 170)
_TEAL, _SKY, _TAN = (50, 150, 150), (150, 200, 230), (206, 166, 112)

OBJECTS: tuple[ObjectDrawing, ...] = (
    ObjectDrawing(
        "house",
        1.0,
        (
            PartDrawing("wall", (_box(0.10, 0.42, 0.90, 1.0),), (_CREAM, _WHITE, _SKY, _YELLOW)),
            PartDrawing("roof", (((0.0, 0.44), (0.5, 0.0), (1.0, 0.44)),), (_RED, _BROWN, _BLUE, _DARK)),
            PartDrawing("door", (_box(0.40, 0.64, 0.60, 1.0),), (_BROWN, _GREEN, _RED, _PURPLE)),
            PartDrawing("window", (_box(0.16, 0.54, 0.32, 0.72), _box(0.68, 0.54, 0.84, 0.72)), (_SKY, _DARK, _YELLOW)),
        ),
    ),
    ObjectDrawing(
        "tree",
        0.78,
        (
            PartDrawing("trunk", (((0.42, 0.55), (0.58, 0.55), (0.64, 1.0), (0.36, 1.0)),), (_BROWN, _DARK, _TAN)),
            PartDrawing(
                "crown",
                (
                    Ellipse(0.50, 0.22, 0.30, 0.22),
                    Ellipse(0.26, 0.42, 0.26, 0.20),
                    Ellipse(0.74, 0.42, 0.26, 0.20),
                    Ellipse(0.50, 0.46, 0.30, 0.20),
                ),
                (_GREEN, _TEAL, _ORANGE, _PINK),
            ),
        ),
    ),
    ObjectDrawing(
        "car",
        1.75,
        (
            PartDrawing(
                "cabin", (((0.20, 0.46), (0.33, 0.08), (0.68, 0.08), (0.82, 0.46)),), (_RED, _BLUE, _YELLOW, _TEAL)
            ),
            PartDrawing(
                "window",
                (
                    ((0.28, 0.44), (0.37, 0.17), (0.48, 0.17), (0.48, 0.44)),
                    ((0.53, 0.44), (0.53, 0.17), (0.65, 0.17), (0.74, 0.44)),
                ),
                (_SKY, _WHITE, _DARK),
            ),
            PartDrawing(
                "body",
                (((0.0, 0.50), (0.06, 0.44), (0.94, 0.44), (1.0, 0.56), (1.0, 0.80), (0.0, 0.80)),),
                (_RED, _BLUE, _YELLOW, _TEAL),
            ),
            PartDrawing("wheel", (Ellipse(0.22, 0.80, 0.115, 0.20), Ellipse(0.78, 0.80, 0.115, 0.20)), (_DARK,)),
        ),
    ),
    ObjectDrawing(
        "boat",
        1.15,
        (
            PartDrawing("mast", (_box(0.47, 0.02, 0.52, 0.76),), (_BROWN, _DARK)),
            PartDrawing(
                "sail",
                (((0.54, 0.05), (0.92, 0.64), (0.54, 0.64)), ((0.45, 0.14), (0.45, 0.64), (0.12, 0.64))),
                (_WHITE, _CREAM, _ORANGE, _PINK),
            ),
            PartDrawing("hull", (((0.0, 0.73), (1.0, 0.73), (0.82, 1.0), (0.18, 1.0)),), (_BROWN, _RED, _BLUE, _TEAL)),
        ),
    ),
    ObjectDrawing(
        "flower",
        0.66,
        (
            PartDrawing("stem", (_box(0.46, 0.45, 0.54, 1.0),), (_GREEN, _TEAL)),
            PartDrawing("leaf", (Ellipse(0.28, 0.80, 0.20, 0.075), Ellipse(0.72, 0.72, 0.20, 0.075)), (_GREEN, _TEAL)),
            PartDrawing(
                "petal",
                (
                    Ellipse(0.50, 0.13, 0.19, 0.13),
                    Ellipse(0.79, 0.24, 0.20, 0.13),
                    Ellipse(0.71, 0.44, 0.20, 0.13),
                    Ellipse(0.29, 0.44, 0.20, 0.13),
                    Ellipse(0.21, 0.24, 0.20, 0.13),
                ),
                (_RED, _PINK, _PURPLE, _WHITE, _BLUE),
            ),
            PartDrawing("centre", (Ellipse(0.50, 0.30, 0.17, 0.11),), (_YELLOW, _ORANGE)),
        ),
    ),
    ObjectDrawing(
        "fish",
        1.6,
        (
            PartDrawing("tail", (((0.26, 0.50), (0.0, 0.08), (0.08, 0.50), (0.0, 0.92)),), (_ORANGE, _RED, _PURPLE)),
            PartDrawing(
                "fin",
                (((0.42, 0.22), (0.58, 0.0), (0.74, 0.20)), ((0.46, 0.78), (0.56, 1.0), (0.68, 0.80))),
                (_ORANGE, _RED, _PURPLE),
            ),
            PartDrawing("body", (Ellipse(0.60, 0.50, 0.40, 0.36),), (_ORANGE, _BLUE, _TEAL, _YELLOW)),
            PartDrawing("eye", (Ellipse(0.82, 0.40, 0.055, 0.09),), (_DARK, _WHITE)),
        ),
    ),
    ObjectDrawing(
        "snowman",
        0.62,
        (
            PartDrawing("body", (Ellipse(0.50, 0.74, 0.50, 0.26),), (_WHITE, _SKY)),
            PartDrawing("head", (Ellipse(0.50, 0.38, 0.34, 0.17),), (_WHITE, _SKY)),
            PartDrawing("nose", (((0.46, 0.36), (0.84, 0.41), (0.46, 0.43)),), (_ORANGE, _RED)),
            PartDrawing(
                "hat", (_box(0.10, 0.205, 0.90, 0.265), _box(0.24, 0.0, 0.76, 0.21)), (_DARK, _PURPLE, _RED, _GREEN)
            ),
        ),
    ),
    ObjectDrawing(
        "mushroom",
        0.95,
        (
            PartDrawing("stalk", (((0.38, 0.45), (0.62, 0.45), (0.70, 1.0), (0.30, 1.0)),), (_CREAM, _WHITE, _TAN)),
            PartDrawing(
                "cap",
                (
                    (
                        (0.0, 0.52),
                        (0.03, 0.34),
                        (0.14, 0.16),
                        (0.32, 0.04),
                        (0.50, 0.0),
                        (0.68, 0.04),
                        (0.86, 0.16),
                        (0.97, 0.34),
                        (1.0, 0.52),
                    ),
                ),
                (_RED, _BROWN, _PURPLE, _ORANGE),
            ),
            PartDrawing(
                "spot",
                (Ellipse(0.28, 0.32, 0.09, 0.09), Ellipse(0.56, 0.17, 0.10, 0.10), Ellipse(0.76, 0.38, 0.09, 0.09)),
                (_WHITE, _YELLOW),
            ),
        ),
    ),
    ObjectDrawing(
        "rocket",
        0.58,
        (
            PartDrawing(
                "flame", (((0.32, 0.80), (0.68, 0.80), (0.60, 0.92), (0.50, 1.0), (0.40, 0.92)),), (_YELLOW, _ORANGE)
            ),
            PartDrawing(
                "fin",
                (((0.26, 0.56), (0.0, 0.86), (0.26, 0.82)), ((0.74, 0.56), (1.0, 0.86), (0.74, 0.82))),
                (_RED, _BLUE, _DARK),
            ),
            PartDrawing("body", (_box(0.25, 0.27, 0.75, 0.83),), (_WHITE, _GREY, _CREAM)),
            PartDrawing(
                "nose", (((0.25, 0.28), (0.34, 0.12), (0.50, 0.0), (0.66, 0.12), (0.75, 0.28)),), (_RED, _BLUE, _DARK)
            ),
        ),
    ),
    ObjectDrawing(
        "ice cream",
        0.6,
        (
            PartDrawing("cone", (((0.10, 0.46), (0.90, 0.46), (0.50, 1.0)),), (_TAN, _BROWN)),
            PartDrawing(
                "scoop",
                (Ellipse(0.28, 0.38, 0.28, 0.15), Ellipse(0.72, 0.38, 0.28, 0.15), Ellipse(0.50, 0.25, 0.30, 0.16)),
                (_PINK, _CREAM, _BROWN, _SKY),
            ),
            PartDrawing("cherry", (Ellipse(0.50, 0.07, 0.11, 0.065),), (_RED, _PURPLE)),
        ),
    ),
    ObjectDrawing(
        "lamp",
        0.66,
        (
            PartDrawing("pole", (_box(0.45, 0.34, 0.55, 0.92),), (_GREY, _DARK, _BROWN)),
            PartDrawing("base", (Ellipse(0.50, 0.94, 0.30, 0.06),), (_GREY, _DARK, _BROWN)),
            PartDrawing(
                "shade", (((0.26, 0.0), (0.74, 0.0), (1.0, 0.40), (0.0, 0.40)),), (_YELLOW, _CREAM, _TEAL, _PINK)
            ),
        ),
    ),
    ObjectDrawing(
        "butterfly",
        1.2,
        (
            PartDrawing(
                "wing",
                (
                    Ellipse(0.24, 0.30, 0.24, 0.30),
                    Ellipse(0.76, 0.30, 0.24, 0.30),
                    Ellipse(0.30, 0.76, 0.18, 0.23),
                    Ellipse(0.70, 0.76, 0.18, 0.23),
                ),
                (_ORANGE, _BLUE, _PURPLE, _YELLOW),
            ),
            PartDrawing(
                "spot", (Ellipse(0.21, 0.28, 0.09, 0.12), Ellipse(0.79, 0.28, 0.09, 0.12)), (_WHITE, _DARK, _PINK)
            ),
            PartDrawing("body", (Ellipse(0.50, 0.52, 0.055, 0.40),), (_DARK, _BROWN)),
        ),
    ),
)

CLASS_NAMES: tuple[str, ...] = tuple(drawing.name for drawing in OBJECTS)


@dataclass(frozen=True)
class Instance:
    """One object of a scene.

    Attributes:
        class_id: index into :data:`OBJECTS`.
        mask: visible pixels, bool (H, W).
        parts: visible pixels of each part by name, bool (H, W); disjoint, their union is ``mask``.
            A part that is wholly hidden is absent.
    """

    class_id: int
    mask: np.ndarray
    parts: dict[str, np.ndarray]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Smallest half-open box (x0, y0, x1, y1) round ``mask``."""
        rows = np.flatnonzero(self.mask.any(axis=1))
        columns = np.flatnonzero(self.mask.any(axis=0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@dataclass(frozen=True)
class Scene:
    """A picture (uint8, (H, W, 3), RGB) and the objects that it shows."""

    image: np.ndarray
    instances: tuple[Instance, ...]


class _Dice:
    """Uniform draws from raw PCG64 bits, whose stream NumPy never changes."""

    def __init__(self, split: str, index: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence([_SEED, SCENE_VERSION, _SPLITS[split], index]))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * (float(int(self._bits.random_raw()) >> 11) / 9007199254740992.0)

    def integer(self, bound: int) -> int:
        return int(self._bits.random_raw()) % bound

    def noise(self, count: int) -> np.ndarray:
        """``count`` bytes as int16 in 0..255."""
        words = np.asarray(self._bits.random_raw((count + 7) // 8), dtype="<u8")
        return words.view(np.uint8)[:count].astype(np.int16)


@dataclass(frozen=True)
class _Staging:
    """How objects are placed, in shares of the picture's side.

    Attributes:
        smallest: least extent of an object.
        largest: greatest extent, by the number of objects.
        margin: kept free along the border.
    """

    smallest: float
    largest: tuple[float, float, float]
    margin: float


#: The train stream shows smaller objects too, up to the border, so that a model learns to find
#: what is harder to see than what it is judged on.
_STAGING = {
    "train": _Staging(0.28, (0.68, 0.54, 0.46), 0.0),
    "val": _Staging(0.38, (0.70, 0.58, 0.50), 0.05),
    "test": _Staging(0.38, (0.70, 0.58, 0.50), 0.05),
}


@dataclass(frozen=True)
class _Frame:
    """Affine map from an object's unit square to pixels: exact rational rotation, scale, flip."""

    x: float
    y: float
    width: float
    height: float
    cosine: float
    sine: float
    flip: bool

    def place(self, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        placed = []
        for u, v in points:
            a = ((1.0 - u if self.flip else u) - 0.5) * self.width
            b = (v - 0.5) * self.height
            placed.append((self.x + self.cosine * a - self.sine * b, self.y + self.sine * a + self.cosine * b))
        return placed

    def bounds(self, shape: Shape) -> tuple[float, float, float, float]:
        if isinstance(shape, Ellipse):
            corners = _box(shape.cx - shape.rx, shape.cy - shape.ry, shape.cx + shape.rx, shape.cy + shape.ry)
        else:
            corners = shape
        placed = self.place(corners)
        xs, ys = [p[0] for p in placed], [p[1] for p in placed]
        return min(xs), min(ys), max(xs), max(ys)

    def inside(self, shape: Shape, xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
        """Which of the pixel centres (xs as a row, ys as a column) lie inside the shape."""
        if isinstance(shape, Ellipse):
            dx, dy = xs - self.x, ys - self.y
            u = (self.cosine * dx + self.sine * dy) / self.width + 0.5
            v = (self.cosine * dy - self.sine * dx) / self.height + 0.5
            u = 1.0 - u if self.flip else u
            a, b = (u - shape.cx) / shape.rx, (v - shape.cy) / shape.ry
            return a * a + b * b <= 1.0
        placed = self.place(shape)
        inside = np.zeros((ys.shape[0], xs.shape[1]), dtype=bool)
        for (x0, y0), (x1, y1) in zip(placed, placed[1:] + placed[:1], strict=True):
            if y0 == y1:
                continue
            crosses = (ys >= min(y0, y1)) & (ys < max(y0, y1))
            inside ^= crosses & (xs < x0 + (ys - y0) * ((x1 - x0) / (y1 - y0)))
        return inside


def _rotation(tilt: float) -> tuple[float, float]:
    """Cosine and sine of the angle whose half-tangent is ``tilt``: exact rational arithmetic."""
    square = tilt * tilt
    return (1.0 - square) / (1.0 + square), 2.0 * tilt / (1.0 + square)


class _Canvas:
    """A supersampled picture with, for each sample, the number of the part that is on top."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.samples = size * SUPERSAMPLING
        self.rgb = np.zeros((self.samples, self.samples, 3), dtype=np.float64)
        self.label = np.zeros((self.samples, self.samples), dtype=np.int16)
        centres = (np.arange(self.samples, dtype=np.float64) + 0.5) / SUPERSAMPLING
        self.xs, self.ys = centres[None, :], centres[:, None]

    def window(self, bounds: tuple[float, float, float, float]) -> tuple[slice, slice] | None:
        x0, y0, x1, y1 = (int(value * SUPERSAMPLING) for value in bounds)
        columns = slice(max(x0 - 1, 0), min(x1 + 2, self.samples))
        rows = slice(max(y0 - 1, 0), min(y1 + 2, self.samples))
        return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None

    def paint(
        self, frame: _Frame, shape: Shape, color: Sequence[float], label: int | None = None, opacity: float = 1.0
    ) -> None:
        """Fills a shape, lit from above; a ``label`` claims its samples for a part."""
        window = self.window(frame.bounds(shape))
        if window is None:
            return
        rows, columns = window
        xs, ys = self.xs[:, columns], self.ys[rows]
        inside = frame.inside(shape, xs, ys)
        row, column = np.nonzero(inside)
        light = 1.10 - 0.28 * (ys[:, 0] - frame.y + 0.5 * frame.height) / frame.height
        fill = light[row][:, None] * np.asarray(color, dtype=np.float64)
        region = self.rgb[rows, columns]
        if opacity < 1.0:
            fill = (1.0 - opacity) * region[row, column] + opacity * fill
        region[row, column] = fill
        if label is not None:
            self.label[rows, columns][inside] = label

    def outline(self) -> None:
        """Darkens the samples where a labelled part meets something else."""
        edge = np.zeros(self.label.shape, dtype=bool)
        for step in (1, 2):
            down = self.label[step:] != self.label[:-step]
            right = self.label[:, step:] != self.label[:, :-step]
            edge[step:] |= down
            edge[:, step:] |= right
        self.rgb[edge] *= 0.55

    def image(self, dice: _Dice) -> np.ndarray:
        """The finished picture: samples averaged exactly in integers, with a little grain."""
        samples = np.clip(self.rgb, 0.0, 255.0).astype(np.int32)
        n = SUPERSAMPLING
        total = samples.reshape(self.size, n, self.size, n, 3)
        average = sum(total[:, i, :, j] for i in range(n) for j in range(n)) // (n * n)
        grain = (dice.noise(self.size * self.size) % 11 - 5).reshape(self.size, self.size, 1)
        return np.asarray(np.clip(average + grain, 0, 255), dtype=np.uint8)


_BACKDROPS: tuple[tuple[Color, Color], ...] = (
    ((188, 220, 240), (140, 180, 120)),
    ((250, 224, 196), (196, 150, 120)),
    ((212, 206, 232), (150, 160, 196)),
    ((222, 234, 214), (172, 190, 160)),
    ((236, 228, 214), (190, 176, 160)),
    ((120, 140, 170), (70, 84, 110)),
    ((240, 210, 214), (190, 160, 180)),
)


def _backdrop(canvas: _Canvas, dice: _Dice) -> None:
    """A two-colour backdrop with hills."""
    size = float(canvas.size)
    upper, lower = _BACKDROPS[dice.integer(len(_BACKDROPS))]
    blend = canvas.ys[..., None] / size
    canvas.rgb[:] = np.asarray(upper, np.float64) * (1.0 - blend) + np.asarray(lower, np.float64) * blend
    for _ in range(1 + dice.integer(3)):
        radius = dice.uniform(0.5, 1.1) * size
        hill = _Frame(
            dice.uniform(0.0, size),
            size * dice.uniform(0.85, 1.05) + 0.25 * radius,
            2.0 * radius,
            radius,
            1.0,
            0.0,
            False,
        )
        shade = dice.uniform(0.72, 1.08)
        canvas.paint(hill, Ellipse(0.5, 0.5, 0.5, 0.5), [shade * c for c in lower], opacity=0.7)


_PALETTE = tuple(color for drawing in OBJECTS for part in drawing.parts for color in part.colors)

_BLOCKS: tuple[Shape, ...] = (
    Ellipse(0.5, 0.5, 0.5, 0.5),
    _box(0.0, 0.0, 1.0, 1.0),
    ((0.5, 0.0), (1.0, 1.0), (0.0, 1.0)),
    _box(0.0, 0.35, 1.0, 0.65),
    ((0.5, 0.0), (1.0, 0.5), (0.5, 1.0), (0.0, 0.5)),
)


def _clutter(canvas: _Canvas, dice: _Dice) -> None:
    """Strews building blocks: loose shapes with the colours, light and outlines of the objects' parts.

    Without them an object would be wherever there is contrast, and a network that has learned
    nothing would find it.
    """
    size = float(canvas.size)
    for number in range(12 + dice.integer(9)):
        extent = dice.uniform(0.10, 0.26) * size
        cosine, sine = _rotation(dice.uniform(-1.0, 1.0))
        frame = _Frame(
            dice.uniform(0.0, size),
            dice.uniform(0.0, size),
            extent,
            extent * dice.uniform(0.5, 1.5),
            cosine,
            sine,
            False,
        )
        color = _PALETTE[dice.integer(len(_PALETTE))]
        canvas.paint(frame, _BLOCKS[dice.integer(len(_BLOCKS))], color, label=-1 - number)


def _layout(dice: _Dice, count: int, size: int, staging: _Staging) -> list[tuple[int, _Frame]]:
    """Places ``count`` objects so that their frames overlap little; fewer when space runs out."""
    placed: list[tuple[int, _Frame]] = []
    boxes: list[tuple[float, float, float, float]] = []
    largest, margin = staging.largest[count - 1], staging.margin * size
    for _ in range(count):
        class_id = dice.integer(len(OBJECTS))
        for _ in range(80):
            extent = dice.uniform(staging.smallest, largest) * size
            aspect = OBJECTS[class_id].aspect * dice.uniform(0.88, 1.14)
            width = extent if aspect >= 1.0 else extent * aspect
            height = extent / aspect if aspect >= 1.0 else extent
            width, height = 1.12 * width, 1.12 * height
            cosine, sine = _rotation(dice.uniform(-0.10, 0.10))
            x = dice.uniform(0.5 * width + margin, size - 0.5 * width - margin)
            y = dice.uniform(0.5 * height + margin, size - 0.5 * height - margin)
            frame = _Frame(x, y, width, height, cosine, sine, dice.integer(2) == 1)
            box = frame.bounds(_box(0.0, 0.0, 1.0, 1.0))
            if all(_overlap(box, other) < 0.12 for other in boxes):
                placed.append((class_id, frame))
                boxes.append(box)
                break
    return placed


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Intersection over the smaller area of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0.0 or height <= 0.0:
        return 0.0
    return width * height / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))


def draw_scene(split: str, index: int, size: int = 160) -> Scene:
    """Draws scene ``index`` of a split.

    Args:
        split: ``train``, ``val`` or ``test``; their streams of random bits never meet.
        index: number of the scene, from 0; any index exists.
        size: side of the square picture in pixels.

    Returns:
        The picture with one :class:`Instance` for each object, in drawing order.
    """
    dice = _Dice(split, index)
    canvas = _Canvas(size)
    _backdrop(canvas, dice)
    _clutter(canvas, dice)
    layout = _layout(dice, 1 + dice.integer(3), size, _STAGING[split])
    owners: list[tuple[int, str]] = []
    for number, (class_id, frame) in enumerate(layout):
        shadow = _Frame(frame.x, frame.y + 0.5 * frame.height, frame.width, 0.16 * frame.height, 1.0, 0.0, False)
        canvas.paint(shadow, Ellipse(0.5, 0.5, 0.5, 0.5), (30.0, 30.0, 40.0), opacity=0.28)
        for part in OBJECTS[class_id].parts:
            base = part.colors[dice.integer(len(part.colors))]
            color = [channel * dice.uniform(0.88, 1.10) for channel in base]
            owners.append((number, part.name))
            for shape in part.shapes:
                canvas.paint(frame, shape, color, label=len(owners))
    canvas.outline()
    centre = canvas.label[SUPERSAMPLING // 2 :: SUPERSAMPLING, SUPERSAMPLING // 2 :: SUPERSAMPLING]
    instances = []
    for number, (class_id, _) in enumerate(layout):
        parts = {
            name: centre == label
            for label, (owner, name) in enumerate(owners, start=1)
            if owner == number and bool((centre == label).any())
        }
        instances.append(Instance(class_id, np.logical_or.reduce(list(parts.values())), parts))
    return Scene(canvas.image(dice), tuple(instances))
