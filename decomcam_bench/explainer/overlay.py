"""Saliency maps in colour over a faded picture.

The colour maps are perceptually uniform: they look alike to colour-blind readers and survive grey print.
"""

from __future__ import annotations

import matplotlib
import numpy as np
from PIL import Image

from decomcam_bench.models.geometry import Geometry

COLORMAPS = ("inferno", "magma", "plasma", "viridis", "cividis")
#: Longest side of a panel's picture in pixels.
PANEL_PIXELS = 480


def faded(image: np.ndarray) -> np.ndarray:
    """Return a picture (H, W, 3) in 0..1 as light greys (H, W), so that the colours of a map stand out."""
    grey: np.ndarray = image @ np.array([0.299, 0.587, 0.114], dtype=image.dtype)
    return 0.25 + 0.7 * grey


def blend(grey: np.ndarray, share: np.ndarray, colormap: str = "inferno") -> np.ndarray:
    """Lay a map over a grey picture.

    Args:
        grey: (H, W) in 0..1.
        share: (H, W), the map divided by its maximum.
        colormap: one of :data:`COLORMAPS`.

    Returns:
        RGB (H, W, 3) in 0..1.
    """
    opacity = (0.35 + 0.45 * share)[..., None]
    mixed: np.ndarray = (1 - opacity) * grey[..., None] + opacity * matplotlib.colormaps[colormap](share)[..., :3]
    return mixed


class Painter:
    """Lays maps over one picture, at the size of a panel.

    Args:
        image: uint8 (height, width, 3).
        colormap: one of :data:`COLORMAPS`.
    """

    def __init__(self, image: np.ndarray, colormap: str) -> None:
        picture = Image.fromarray(image)
        picture.thumbnail((PANEL_PIXELS, PANEL_PIXELS), Image.Resampling.LANCZOS)
        self.small = np.asarray(picture, dtype=np.float32) / 255
        self.grey = faded(self.small)
        self.colormap = colormap

    def overlay(self, saliency: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, tuple[float, float] | None]:
        """Lay a map over the picture and find its maximum.

        Args:
            saliency: (H, W) at the model's input resolution.
            geometry: how the picture became the model's input.

        Returns:
            RGB in 0..1, and the place of the maximum (x, y) as shares of the sides; None for a map of zeros.
        """
        height, width = self.small.shape[:2]
        small = Geometry(width, height, geometry.size, geometry.mode).to_original(saliency).clip(0)
        peak = float(small.max())
        if not peak > 0:
            return blend(self.grey, np.zeros_like(small), self.colormap), None
        # Outside the outermost grid points a map is constant, so mark the middle of the plateau.
        rows, columns = np.nonzero(small >= peak * (1 - 1e-6))
        middle = np.hypot(rows - rows.mean(), columns - columns.mean()).argmin()
        place = (float(columns[middle]) + 0.5) / width, (float(rows[middle]) + 0.5) / height
        return blend(self.grey, small / peak, self.colormap), place
