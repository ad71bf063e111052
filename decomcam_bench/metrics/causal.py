"""Deletion and insertion (Petsiuk et al. 2018, RISE): does the score fall as the pixels that the map
ranks first are taken away, and rise as they are put back?

Pixels are ranked by the map at input resolution, descending; equal values by raster position (the
references' ``np.flip(np.argsort(...))`` leaves ties, all zeros of a ReLU, in no stated order). The
area under the curve is the trapezoid over the true fractions of changed pixels; RISE spaces the
points evenly (``area: even``), which differs only where the last step is a short one.

Presets, as the reference implementations really do (steps at 224 x 224 input):

========== ========== ================================== ====================================
preset     step       insertion starts from              which images
========== ========== ================================== ====================================
rise       224 px     11 x 11 Gaussian, sigma 5          all
groupcam   448 px     51 x 51 Gaussian, sigma 50         all
decomcam   4,928 px   zeros                              only correctly classified ones
steps20    1/20       11 x 11 Gaussian, sigma 5          all
========== ========== ================================== ====================================

Deletion puts zeros in normalised space (the mean colour) everywhere. The blur is zero-padded and
acts on the normalised image, its kernel in pixels of the input whatever the input's size. RISE
steps by one image row at 224 x 224; a step is therefore kept in rows and grows with the width of
the input: ``step: 224`` is one row, at any size. RISE's batch evaluation is ``step: 1792``.

The score is the probability of the pair's own class in the softmax of scale * cosine over the data
set's prompts, with the model's own scale (100 in CLIP). ``unnormalised`` multiplies
each text's cosine by the norm of its embedding, as DecomCAM's code does, which forgot to normalise the
texts. References explain the top class; we explain the pair's own class, and ``only_correct`` leaves
out images whose top class is another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from scipy.integrate import trapezoid
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.core.validation import check_choice
from decomcam_bench.metrics.base import Column, Direction, Fail, ModelMetric, Outcome, PairBatch, Skip
from decomcam_bench.models.scoring import CLIP, LogitScale

#: What each preset fills in where the options leave a choice open. 0 for a kernel: no blur, zeros.
PRESETS: dict[str, dict[str, Any]] = {
    "rise": {"step": 224, "steps": 0, "blur_size": 11, "blur_sigma": 5.0, "only_correct": False},
    "groupcam": {"step": 448, "steps": 0, "blur_size": 51, "blur_sigma": 50.0, "only_correct": False},
    "decomcam": {"step": 4928, "steps": 0, "blur_size": 0, "blur_sigma": 0.0, "only_correct": True},
    "steps20": {"step": 0, "steps": 20, "blur_size": 11, "blur_sigma": 5.0, "only_correct": False},
}
SCORES = ("softmax", "sigmoid", "logits", "cosine", "unnormalised")
#: Scores with another range than probabilities.
_RANGES: dict[str, tuple[float | None, float | None]] = {"cosine": (-1.0, 1.0), "logits": (None, None)}
_REFERENCE_ROW = 224


def class_scores(
    similarity: Tensor,
    kind: str,
    text_norms: Tensor | None,
    scale: LogitScale = CLIP,
) -> Tensor:
    """Return the scores of every class.

    Args:
        similarity: cosines (M, K).
        kind: see :meth:`LogitScale.scores`, or ``unnormalised``: softmax of scale * cosine * norm of the text.
        text_norms: (K,), read by ``unnormalised`` alone.
        scale: of the model.

    Returns:
        float32 (M, K).
    """
    if kind != "unnormalised":
        return scale.scores(similarity.float(), kind)
    if text_norms is None:
        raise ConfigError("metric.score=unnormalised: this model gives no norms of its texts; use softmax")
    return (scale.scale * similarity.float() * text_norms.float()).softmax(dim=-1)


def pixel_ranks(maps: Tensor) -> Tensor:
    """Position of each pixel in the descending order of its map; ties by raster position.

    Args:
        maps: (P, H, W).

    Returns:
        int32 (P, H * W).
    """
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device, dtype=torch.int32)
    return torch.empty_like(order, dtype=torch.int32).scatter_(1, order, places.expand_as(order))


@lru_cache(maxsize=8)
def _blur_profile(size: int, sigma: float) -> np.ndarray:
    """Rows of RISE's ``gkern``: a Gaussian filter applied to a delta of ``size`` pixels.

    scipy reflects at the borders, so the truncated tails fold back and the sum is 1.
    """
    delta = np.zeros(size)
    delta[size // 2] = 1.0
    return gaussian_filter1d(delta, sigma)


def blur(images: Tensor, size: int, sigma: float) -> Tensor:
    """Convolves with RISE's kernel, zero-padded; the kernel is separable.

    Args:
        images: (M, 3, H, W).
        size: odd, in pixels.
        sigma: in pixels.
    """
    profile = torch.as_tensor(_blur_profile(size, sigma), dtype=torch.float32, device=images.device)
    flat = images.float().flatten(0, 1).unsqueeze(1)
    flat = F.conv2d(flat, profile.view(1, 1, -1, 1), padding=(size // 2, 0))
    flat = F.conv2d(flat, profile.view(1, 1, 1, -1), padding=(0, size // 2))
    return flat.reshape(images.shape).to(images.dtype)


def changed_pixels(count: int, step: int, steps: int) -> np.ndarray:
    """Changed pixels at each point of the curve, from 0 to all.

    Args:
        count: pixels of the image.
        step: pixels a step (the last may be shorter), if positive.
        steps: number of equal steps otherwise, rounded to whole pixels.
    """
    if step > 0:
        return np.minimum(np.arange(-(-count // step) + 1) * step, count)
    return np.unique(np.rint(np.linspace(0, count, steps + 1)).astype(np.int64))


def area_under(curve: np.ndarray, fractions: np.ndarray) -> float:
    """Trapezoid of a curve (n,) over fractions (n,) from 0 to 1."""
    return float(trapezoid(curve, fractions))


@dataclass
class Causal(ModelMetric):
    """Deletion, insertion, or both and their difference.

    Attributes:
        preset: see the module; None: what the data set prefers (``rise``; ``steps20`` on toybox).
        curves: ``deletion``, ``insertion``, or ``both``, which adds overall = insertion - deletion.
        step: pixels a step at 224 x 224 (see the module), or 0 for ``steps``; None: the preset's.
        steps: number of equal steps, instead of ``step``; None: the preset's.
        blur_size, blur_sigma: the kernel of the image that insertion starts from, in pixels;
            size 0: it starts from zeros. None: the preset's.
        only_correct: skip images whose top class is not the pair's. None: the preset's.
        score: ``softmax``, ``sigmoid``, ``logits``, ``cosine`` or ``unnormalised``, see :func:`class_scores`.
        area: trapezoid over the true ``fractions``, or ``even`` spacing as RISE.
    """

    id = "causal"

    preset: str | None = None
    curves: str = "both"
    step: int | None = None
    steps: int | None = None
    blur_size: int | None = None
    blur_sigma: float | None = None
    only_correct: bool | None = None
    score: str = "softmax"
    area: str = "fractions"

    needs: ClassVar[frozenset[str]] = frozenset({"score"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("metric.curves", self.curves, ("deletion", "insertion", "both"))
        check_choice("metric.score", self.score, SCORES)
        check_choice("metric.area", self.area, ("fractions", "even"))
        if self.preset is not None:
            check_choice("metric.preset", self.preset, tuple(PRESETS))
        self._check_effect()
        if self.preset is not None:
            if self.step is None and self.steps:
                self.step = 0
            for key, value in PRESETS[self.preset].items():
                if getattr(self, key) is None:
                    setattr(self, key, value)
        self._check_ranges()

    def _check_effect(self) -> None:
        """Refuses an option that another makes void, or that the preset leaves without its partner.

        What equals the preset's own value says nothing, so that a filled-in metric stays valid.
        """
        own = PRESETS[self.preset] if self.preset is not None else {}
        size = own.get("blur_size") if self.blur_size is None else self.blur_size
        if self.step and self.steps and self.steps != own.get("steps"):
            raise ConfigError(f"metric.step={self.step}, metric.steps={self.steps}: choose one of them")
        if self.blur_size and self.blur_sigma is None and own.get("blur_sigma") == 0:
            raise ConfigError(
                f"metric.blur_size={self.blur_size}: preset {self.preset} does not blur; set metric.blur_sigma too"
            )
        if size == 0 and self.blur_sigma and self.blur_sigma != own.get("blur_sigma"):
            raise ConfigError(
                f"metric.blur_sigma={self.blur_sigma}: insertion starts from zeros here; set metric.blur_size too"
            )

    def _check_ranges(self) -> None:
        if self.step is not None and self.step < 0:
            raise ConfigError(f"metric.step={self.step}: pixels a step, at least 1, or 0 to use metric.steps")
        if self.steps is not None and self.steps < (1 if self.step == 0 else 0):
            raise ConfigError(f"metric.steps={self.steps}: must be at least 1 where metric.step is 0")
        if self.blur_size is not None and self.blur_size != 0 and not (self.blur_size > 0 and self.blur_size % 2):
            raise ConfigError(f"metric.blur_size={self.blur_size}: must be odd, or 0 to start from zeros")
        if self.blur_size and self.blur_sigma is not None and not self.blur_sigma > 0:
            raise ConfigError(f"metric.blur_sigma={self.blur_sigma}: must be positive")

    def resolve(self, dataset: Any) -> Causal:
        return self if self.preset else dataclasses.replace(self, preset=dataset.causal_preset)

    @property
    def curve_names(self) -> tuple[str, ...]:
        """The curves that are drawn."""
        return ("deletion", "insertion") if self.curves == "both" else (self.curves,)

    @property
    def columns(self) -> Sequence[Column]:
        low, high = _RANGES.get(self.score, (0.0, 1.0))
        widest = None if high is None or low is None else high - low
        if self.curves != "both":
            better: Direction = "lower" if self.curves == "deletion" else "higher"
            return (Column(self.name or self.curves, better, low, high, "score", self.curves),)
        prefix = "" if self.name in ("", "causal") else f"{self.name}_"
        return (
            Column(f"{prefix}deletion", "lower", low, high, "score", "deletion"),
            Column(f"{prefix}insertion", "higher", low, high, "score", "insertion"),
            Column(f"{prefix}overall", "higher", None if widest is None else -widest, widest, "score", "overall"),
        )

    def points(self, input_size: tuple[int, int]) -> np.ndarray:
        """Changed pixels at each point of a curve, int64, for an input of (H, W)."""
        height, width = input_size
        step = max(1, round(int(self.step or 0) * width / _REFERENCE_ROW)) if self.step else 0
        return changed_pixels(height * width, step, int(self.steps or 0))

    def scored_per_pair(self, input_size: tuple[int, int]) -> int:
        inner = len(self.points(input_size)) - 2
        return inner * len(self.curve_names) + (1 if "insertion" in self.curve_names and self.blur_size else 0)

    def scored_per_batch(self, input_size: tuple[int, int]) -> int:
        return 1 if "deletion" in self.curve_names or not self.blur_size else 0

    def evaluate_batch(self, batch: PairBatch) -> list[Outcome]:
        """For each curve its area and the ``*_curve`` (float32); ``overall`` where both are drawn.

        Skipped: ``misclassified`` (``only_correct`` alone), whether there is a map or not: what a protocol leaves
        out does not depend on the method. Failed: ``no_map``, ``map_not_finite``.
        """
        if self.preset is None:
            raise ConfigError("metric.preset=null: resolve the metric with its data set first")
        outcomes: list[Outcome] = [Fail("no_map")] * len(batch.maps)
        finite = batch.maps.isfinite().flatten(1).all(dim=1)
        known, correct = self.predicted(batch)
        chosen = []
        flags = torch.stack([batch.valid.to(finite.device), finite, known & ~correct], dim=1).tolist()
        for place, (valid, is_finite, is_wrong) in enumerate(flags):
            if self.only_correct and is_wrong:
                outcomes[place] = Skip("misclassified")
            elif valid and not is_finite:
                outcomes[place] = Fail("map_not_finite")
            elif valid:
                chosen.append(place)
        if chosen:
            curves = self._curves(batch, torch.tensor(chosen, device=batch.maps.device)).cpu().numpy()
            for place, drawn in zip(chosen, curves, strict=True):
                outcomes[place] = self._values(drawn, self.points((batch.maps.shape[-2], batch.maps.shape[-1])))
        return outcomes

    def predicted(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """Bool (P,) each: whether the image has finite scores, and whether its top class is the pair's."""
        scores = class_scores(batch.image_similarity, self.score, batch.text_norms, batch.scale)
        return scores.isfinite().all(dim=1), scores.argmax(dim=1) == batch.class_ids

    def _values(self, drawn: np.ndarray, points: np.ndarray) -> Outcome:
        fractions = points / points[-1] if self.area == "fractions" else np.linspace(0.0, 1.0, len(points))
        areas = {
            name: area_under(curve.astype(np.float64), fractions)
            for name, curve in zip(self.curve_names, drawn, strict=True)
        }
        if self.curves == "both":
            areas["overall"] = areas["insertion"] - areas["deletion"]
        curves = {
            f"{name}_curve": curve.astype(np.float32) for name, curve in zip(self.curve_names, drawn, strict=True)
        }
        return {**areas, **curves}

    def _curves(self, batch: PairBatch, chosen: Tensor) -> Tensor:
        """Scores (pairs, curves, points) of the chosen pairs.

        The whole image's score is known; the substrate of zeros is scored once; the masked images
        are made ``batch_size`` at a time.
        """
        height, width = batch.maps.shape[-2:]
        points = torch.as_tensor(self.points((height, width)), device=chosen.device)
        names, images, class_ids = self.curve_names, batch.images[chosen], batch.class_ids[chosen]
        scores = torch.zeros(len(chosen), len(names), len(points), device=chosen.device)

        def own(similarity: Tensor, pair: Tensor) -> Tensor:
            every = class_scores(similarity, self.score, batch.text_norms, batch.scale)
            return every.gather(1, class_ids[pair].unsqueeze(1)).squeeze(1)

        def measure(made: Tensor, pair: Tensor) -> Tensor:
            return own(batch.similarity(made, chosen[pair]), pair)

        everyone = torch.arange(len(chosen), device=chosen.device)
        whole = own(batch.image_similarity[chosen], everyone)
        blank = torch.zeros(0, device=chosen.device)
        if self.scored_per_batch((height, width)):
            alone = batch.similarity(torch.zeros_like(images[:1]), chosen[:1])
            blank = own(alone.expand(len(chosen), -1), everyone)
        starts = blur(images, int(self.blur_size), float(self.blur_sigma or 0.0)) if self.blur_size else None
        for place, name in enumerate(names):
            if name == "deletion":
                scores[:, place, 0], scores[:, place, -1] = whole, blank
            elif starts is None:
                scores[:, place, 0], scores[:, place, -1] = blank, whole
            else:
                scores[:, place, 0] = self._in_batches(batch, everyone, lambda m: measure(starts[m], m))
                scores[:, place, -1] = whole

        ranks = pixel_ranks(batch.maps[chosen])
        inner = len(points) - 2
        inserting = torch.tensor([name == "insertion" for name in names], device=chosen.device)

        def masked(job: Tensor) -> Tensor:
            pair, curve, point = job // (inner * len(names)), job // inner % len(names), job % inner + 1
            changed = ranks[pair] < points[point].unsqueeze(1)
            kept = (changed == inserting[curve].unsqueeze(1)).view(-1, 1, height, width)
            other = torch.zeros((), device=chosen.device, dtype=images.dtype)
            if starts is not None:
                other = torch.where(inserting[curve].view(-1, 1, 1, 1), starts[pair], other)
            return measure(torch.where(kept, images[pair], other), pair)

        jobs = torch.arange(len(chosen) * len(names) * inner, device=chosen.device)
        scores[:, :, 1:-1] = self._in_batches(batch, jobs, masked).view(len(chosen), len(names), inner)
        return scores

    @staticmethod
    def _in_batches(batch: PairBatch, jobs: Tensor, measure: Any) -> Tensor:
        if not len(jobs):
            return torch.zeros(0, device=jobs.device)
        return torch.cat([measure(part) for part in jobs.split(max(1, batch.batch_size))])
