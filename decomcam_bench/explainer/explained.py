"""Hold the maps of one picture and show them: as arrays, as a figure, in a notebook."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from decomcam_bench.explainer.answers import Answer
from decomcam_bench.explainer.figures import draw
from decomcam_bench.explainer.files import check_path, save_figure, writing


@dataclass(frozen=True)
class Explained:
    """Hold the maps of one picture: texts by settings.

    Attributes:
        image: uint8 (height, width, 3), the picture upright.
        texts: T texts.
        answers: one per setting, in the order in which they were asked for.
    """

    image: np.ndarray
    texts: tuple[str, ...]
    answers: tuple[Answer, ...]

    def original(self, answer: int = 0, text: int = 0) -> np.ndarray:
        """Return a map in the pixels of the picture, float32 (height, width), non-negative."""
        chosen = self.answers[answer]
        return chosen.geometry.to_original(chosen.maps[text])

    def figure(self, colormap: str = "inferno") -> Figure:
        """Draw the picture, the map of each setting, and the components of those that decompose."""
        return draw(self.image, self.texts, self.answers, colormap)

    def save(self, path: str | Path, colormap: str = "inferno", dpi: int = 200) -> None:
        """Write the figure as .png, .svg or .pdf, by the suffix of ``path``.

        Raises:
            ConfigError: for another suffix or colour map, or a missing folder.
        """
        save_figure(self.figure(colormap), Path(path), dpi)

    def save_maps(self, path: str | Path) -> None:
        """Write the numbers as .npz: no pickled objects, names as text.

        Arrays: ``texts`` (T,), and of the settings S in order ``methods``, ``models``, ``layers``,
        ``ranks`` (0 for none), ``reasons`` (S, T), ``similarity`` (S, T), ``maps`` (S, T, height,
        width) in the picture's pixels. For setting s and text t with components, at the model's
        input resolution: ``components_s_t`` (q, H, W) and ``weights_s_t``, ``scores_s_t``,
        ``differences_s_t``, ``singular_values_s_t``, ``explained_s_t`` (q,).

        Raises:
            ConfigError: for another suffix, a folder that is not there, or a file that cannot be written.
        """
        path = Path(path)
        check_path(path, (".npz",), "--maps")
        arrays: dict[str, Any] = {
            "texts": np.array(self.texts),
            "methods": np.array([a.method for a in self.answers]),
            "models": np.array([a.model for a in self.answers]),
            "layers": np.array([a.layer for a in self.answers]),
            "ranks": np.array([a.rank or 0 for a in self.answers]),
            "reasons": np.array([a.reasons for a in self.answers]),
            "similarity": np.stack([a.similarity for a in self.answers]),
            "maps": np.stack([[self.original(s, t) for t in range(len(self.texts))] for s in range(len(self.answers))]),
        }
        for s, answer in enumerate(self.answers):
            for t, components in enumerate(answer.components):
                if components is None:
                    continue
                arrays[f"components_{s}_{t}"] = components.maps
                for name in ("weights", "scores", "differences", "singular_values", "explained"):
                    values = getattr(components, name)
                    if values is not None:
                        arrays[f"{name}_{s}_{t}"] = values
        with writing(path), path.open("wb") as file:  # NumPy would add a suffix to the name
            np.savez_compressed(file, **arrays)

    def _repr_png_(self) -> bytes:
        """Return what a notebook shows."""
        buffer = io.BytesIO()
        self.figure().savefig(buffer, format="png", dpi=120, bbox_inches="tight")
        return buffer.getvalue()
