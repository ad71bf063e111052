"""Deletion and insertion (Petsiuk et al. 2018, RISE): does the score fall as the pixels that the map
ranks first are taken away, and rise as they are put back?

Pixels are ranked by the map at input resolution, descending. Many are equal: a ReLU leaves half of a map at exactly
0, and the references' ``np.flip(np.argsort(...))`` takes them in no stated order, which can decide a ranking of
methods. The score of a point at which only some of the equal pixels are changed is therefore its expectation over
their order (``ties: mean``), estimated by the mean over ``orders`` random orders, the same for every map of one
size. ``ties: raster`` goes through equal pixels row by row.

A pair without a usable map is scored as a map of zeros: with ``ties: mean`` its pixels are changed in random order,
so that a method that fails scores what a map without information scores. A worse value (a deletion of 1) would be
no value that any map can have; leaving the pair out would reward failing on hard images.

The area under the curve is the trapezoid over the true fractions of changed pixels; RISE spaces the points evenly
(``area: even``), which differs only where the last step is a short one.

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
from collections.abc import Iterator, Sequence
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
from decomcam_bench.core.reasons import Reason
from decomcam_bench.core.validation import check_choice
from decomcam_bench.metrics.base import Column, Direction, Fail, ModelMetric, Outcome, PairBatch, Skip, Value
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
_MOST_ORDERS = 64


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


@lru_cache(maxsize=32)
def _shuffled(count: int, number: int) -> Tensor:
    """Return random order ``number`` of ``count`` pixels, int64 (count,): the same on every machine."""
    return torch.from_numpy(np.random.Generator(np.random.PCG64([count, number])).permutation(count))


def pixel_ranks(maps: Tensor, order: int | None = None) -> Tensor:
    """Return the position of each pixel in the descending order of its map.

    Args:
        maps: (P, H, W).
        order: number of the random order that equal values are taken in; None: their raster order.

    Returns:
        int32 (P, H * W).
    """
    flat = maps.flatten(1)
    if order is None:
        sorted_places = flat.argsort(dim=1, descending=True, stable=True)
    else:
        shuffled = _shuffled(flat.shape[1], order).to(flat.device)
        sorted_places = shuffled[flat[:, shuffled].argsort(dim=1, descending=True, stable=True)]
    places = torch.arange(flat.shape[1], device=flat.device, dtype=torch.int32)
    return torch.empty_like(sorted_places, dtype=torch.int32).scatter_(1, sorted_places, places.expand_as(flat))


def tied_points(maps: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the order of equal pixels matters.

    Args:
        maps: (P, H, W).
        points: int64 (n,), changed pixels at each point of the curve, from 0 to all.

    Returns:
        bool (P, n), True where a point changes some but not all of several equal pixels; and float64 (P,), the share
        of pixels that have an equal.
    """
    ordered = maps.flatten(1).sort(dim=1, descending=True).values
    equal = ordered[:, 1:] == ordered[:, :-1]
    padded = F.pad(equal, (1, 1))
    return padded[:, points], (padded[:, 1:] | padded[:, :-1]).double().mean(dim=1)


@lru_cache(maxsize=8)
def _blur_profile(size: int, sigma: float) -> np.ndarray:
    """Rows of RISE's ``gkern``: a Gaussian filter applied to a delta of ``size`` pixels.

    scipy reflects at the borders, so the truncated tails fold back and the sum is 1.
    """
    delta = np.zeros(size)
    delta[size // 2] = 1.0
    found: np.ndarray = gaussian_filter1d(delta, sigma)
    return found


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
        ties: equal pixels in the ``mean`` over random orders, or in ``raster`` order.
        orders: random orders that the mean is taken over.
    """

    id = "causal"
    version: ClassVar[int] = 2

    preset: str | None = None
    curves: str = "both"
    step: int | None = None
    steps: int | None = None
    blur_size: int | None = None
    blur_sigma: float | None = None
    only_correct: bool | None = None
    score: str = "softmax"
    area: str = "fractions"
    ties: str = "mean"
    orders: int = 2

    needs: ClassVar[frozenset[str]] = frozenset({"score"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("metric.curves", self.curves, ("deletion", "insertion", "both"))
        check_choice("metric.score", self.score, SCORES)
        check_choice("metric.area", self.area, ("fractions", "even"))
        check_choice("metric.ties", self.ties, ("mean", "raster"))
        if not 1 <= self.orders <= _MOST_ORDERS:
            raise ConfigError(f"metric.orders={self.orders}: must lie in 1..{_MOST_ORDERS}")
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
            name = self.name or self.curves
            return (
                Column(name, better, low, high, "score", self.curves),
                Column(f"{name}_ties", "none", value="ties", detail=True),
            )
        prefix = "" if self.name in ("", "causal") else f"{self.name}_"
        return (
            Column(f"{prefix}deletion", "lower", low, high, "score", "deletion"),
            Column(f"{prefix}insertion", "higher", low, high, "score", "insertion"),
            Column(f"{prefix}overall", "higher", None if widest is None else -widest, widest, "score", "overall"),
            Column(f"{self.name or 'causal'}_ties", "none", value="ties", detail=True),
        )

    def points(self, input_size: tuple[int, int]) -> np.ndarray:
        """Changed pixels at each point of a curve, int64, for an input of (H, W)."""
        height, width = input_size
        step = max(1, round(int(self.step or 0) * width / _REFERENCE_ROW)) if self.step else 0
        return changed_pixels(height * width, step, int(self.steps or 0))

    def scored_per_pair(self, input_size: tuple[int, int]) -> int:
        inner = (len(self.points(input_size)) - 2) * (self.orders if self.ties == "mean" else 1)
        return inner * len(self.curve_names) + (1 if "insertion" in self.curve_names and self.blur_size else 0)

    def scored_per_batch(self, input_size: tuple[int, int]) -> int:
        return 1 if "deletion" in self.curve_names or not self.blur_size else 0

    def evaluate_batch(self, batch: PairBatch) -> list[Outcome]:
        """Return for each curve its area and the ``*_curve`` (float32), ``overall`` where both are drawn, and ``ties``.

        ``ties`` is the share of pixels that have an equal. Skipped: ``misclassified`` (``only_correct`` alone),
        whether there is a map or not: what a protocol leaves out does not depend on the method. Failed: ``no_map``
        and ``non_finite_map``, with the values of a map of zeros.
        """
        if self.preset is None:
            raise ConfigError("metric.preset=null: resolve the metric with its data set first")
        outcomes: list[Outcome] = [Fail(Reason.ZERO_MAP)] * len(batch.maps)
        finite = batch.maps.isfinite().flatten(1).all(dim=1)
        known, correct = self.predicted(batch)
        failed = batch.valid & False if batch.failed is None else batch.failed
        chosen, reasons = [], {}
        flags = torch.stack([f.to(finite.device) for f in (batch.valid, failed, finite, known & ~correct)], dim=1)
        for place, (valid, is_failed, is_finite, is_wrong) in enumerate(flags.tolist()):
            if self.only_correct and is_wrong:
                outcomes[place] = Skip(Reason.MISCLASSIFIED)
            elif valid or is_failed:
                chosen.append(place)
                if is_failed or not is_finite:
                    reasons[place] = Reason.ZERO_MAP if is_failed else Reason.NON_FINITE_MAP
        if chosen:
            maps = torch.where(finite.view(-1, 1, 1), batch.maps, 0.0)
            for place, values in zip(chosen, self._scored(batch, maps, chosen), strict=True):
                whole = place not in reasons
                outcomes[place] = values if whole else Fail(reasons[place], _finite(values))
        return outcomes

    def predicted(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """Bool (P,) each: whether the image has finite scores, and whether its top class is the pair's."""
        scores = class_scores(batch.image_similarity, self.score, batch.text_norms, batch.scale)
        return scores.isfinite().all(dim=1), scores.argmax(dim=1) == batch.class_ids

    def worst(self) -> dict[str, Value]:
        """Return nothing: what a failed pair scores depends on its image, see :meth:`evaluate_batch`."""
        return {}

    def _scored(self, batch: PairBatch, maps: Tensor, chosen: Sequence[int]) -> Iterator[dict[str, Value]]:
        """Yield the values of the chosen pairs."""
        size = (maps.shape[-2], maps.shape[-1])
        points = torch.as_tensor(self.points(size), device=maps.device)
        places = torch.tensor(chosen, device=maps.device)
        matters, ties = tied_points(maps[places], points)
        curves = self._curves(batch, maps, places, matters).cpu().numpy()
        for drawn, share in zip(curves, ties.tolist(), strict=True):
            yield {**self._values(drawn, self.points(size)), "ties": share}

    def _values(self, drawn: np.ndarray, points: np.ndarray) -> dict[str, Value]:
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

    def _curves(self, batch: PairBatch, maps: Tensor, chosen: Tensor, matters: Tensor) -> Tensor:
        """Return the scores (pairs, curves, points) of the chosen pairs.

        The whole image's score is known; the substrate of zeros is scored once; the masked images are made
        ``batch_size`` at a time. Where the order of equal pixels ``matters`` (pairs, points), each of the orders
        is scored and their mean taken.
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

        inner = len(points) - 2
        inserting = torch.tensor([name == "insertion" for name in names], device=chosen.device)
        total = torch.zeros(len(chosen), len(names), inner, device=chosen.device, dtype=torch.float64)
        orders: Sequence[int | None] = range(self.orders) if self.ties == "mean" else [None]
        for number, order in enumerate(orders):
            ranks = pixel_ranks(maps[chosen], order)

            def masked(job: Tensor, ranks: Tensor = ranks) -> Tensor:
                pair, curve, point = job // (inner * len(names)), job // inner % len(names), job % inner + 1
                changed = ranks[pair] < points[point].unsqueeze(1)
                kept = (changed == inserting[curve].unsqueeze(1)).view(-1, 1, height, width)
                other = torch.zeros((), device=chosen.device, dtype=images.dtype)
                if starts is not None:
                    other = torch.where(inserting[curve].view(-1, 1, 1, 1), starts[pair], other)
                return measure(torch.where(kept, images[pair], other), pair)

            wanted = matters[:, None, 1:-1].expand_as(total) if number else torch.ones_like(total, dtype=torch.bool)
            jobs = wanted.flatten().nonzero().squeeze(1)
            found = self._in_batches(batch, jobs, masked).double()
            total.view(-1).index_add_(0, jobs, found)
        times = torch.where(matters[:, None, 1:-1], len(orders), 1)
        scores[:, :, 1:-1] = (total / times).float()
        return scores

    @staticmethod
    def _in_batches(batch: PairBatch, jobs: Tensor, measure: Any) -> Tensor:
        if not len(jobs):
            return torch.zeros(0, device=jobs.device)
        return torch.cat([measure(part) for part in jobs.split(max(1, batch.batch_size))])


def _finite(values: dict[str, Value]) -> dict[str, Value]:
    """Return the values of a failed pair, or nothing where its image has no finite scores."""
    numbers = [value for value in values.values() if isinstance(value, float)]
    return values if all(np.isfinite(number) for number in numbers) else {}
