"""What a map's pixels do to the model's confidence: drop, increase, coherency, complexity, ADCC.

With p the confidence on the image and p' that on (normalised image x map), the map min-maxed:

* average drop = ``max(0, p - p') / p`` and average increase = ``[p' > p]`` (Chattopadhay et al.
  2018, Grad-CAM++). The ``grad-cam`` package's ``DropInConfidence`` is not divided by p: that is
  ``drop: absolute``. Score-CAM's published drop keeps the upper half of the pixels: ``keep: 0.5``.
* coherency = ``(Pearson(map, map of the masked image) + 1) / 2``, complexity = mean of the map, and
  ``ADCC = 3 / (1/coherency + 1/(1 - complexity) + 1/(1 - drop))`` of each pair (Poppi et al. 2021,
  eq. 2 to 5), 0 where one of the three terms is 0; the mean over pairs is reported.

The ADCC authors' code takes as p the confidence of the top class even where another class is
explained; that is ``confidence: top``. A correlation with a constant map is taken as 0 (their code
gives NaN there, the ``grad-cam`` package 0). A constant map is 0 after the min-max.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.core.reasons import Reason
from decomcam_bench.core.validation import check_choice
from decomcam_bench.methods.base import min_max
from decomcam_bench.metrics.base import Column, Fail, ModelMetric, Outcome, PairBatch, Value
from decomcam_bench.metrics.causal import SCORES, class_scores, pixel_ranks


def pearson(first: Tensor, second: Tensor) -> Tensor:
    """Correlation of maps (P, H, W) with maps (P, H, W): (P,), 0 where either is constant."""
    a, b = (maps.double().flatten(1) for maps in (first, second))
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    norm = a.norm(dim=1) * b.norm(dim=1)
    return torch.where(norm > 0, (a * b).sum(dim=1) / norm.clamp_min(torch.finfo(norm.dtype).tiny), 0.0).clamp(-1, 1)


def adcc(drop: np.ndarray, coherency: np.ndarray, complexity: np.ndarray) -> np.ndarray:
    """Harmonic mean of coherency, 1 - complexity and 1 - drop; 0 where one of them is 0."""
    terms = np.stack([coherency, 1 - complexity, 1 - drop])
    inverse = np.divide(1.0, terms, out=np.full(terms.shape, np.inf), where=terms > 0)
    found: np.ndarray = 3 / inverse.sum(axis=0)
    return found


@dataclass
class ConfidenceDrop(ModelMetric):
    """Average drop and average increase in confidence.

    Attributes:
        drop: ``relative`` to p, which must be a probability; or ``absolute``.
        confidence: p is that of the pair's ``own`` class, or of the ``top`` class (p' stays that
            of the own class).
        keep: share of the highest pixels that the map keeps; the others become 0.
        score: see :func:`decomcam_bench.metrics.causal.class_scores`.
    """

    id = "confidence_drop"
    version: ClassVar[int] = 2

    drop: str = "relative"
    confidence: str = "own"
    keep: float = 1.0
    score: str = "softmax"

    needs: ClassVar[frozenset[str]] = frozenset({"score"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("metric.drop", self.drop, ("relative", "absolute"))
        check_choice("metric.confidence", self.confidence, ("own", "top"))
        check_choice("metric.score", self.score, SCORES)
        if not 0 < self.keep <= 1:
            raise ConfigError(f"metric.keep={self.keep}: must lie in (0, 1]")
        if self.drop == "relative" and self.score in ("cosine", "logits"):
            raise ConfigError(
                f"metric.drop=relative, metric.score={self.score}: it may be 0 or negative, so that a share of it says "
                f"nothing; choose metric.score=softmax, sigmoid or unnormalised, or metric.drop=absolute"
            )

    @property
    def columns(self) -> Sequence[Column]:
        name = self.name or "average_drop"
        prefix = name.removesuffix("_drop")
        # Between cosines of 1 and -1; logits have no bound of their own.
        high = {"cosine": 2.0, "logits": None}.get(self.score, 1.0)
        return (Column(name, "lower", high=high, value="drop"), Column(f"{prefix}_increase", value="increase"))

    def scored_per_pair(self, input_size: tuple[int, int]) -> int:
        return 1

    def evaluate_batch(self, batch: PairBatch) -> list[Outcome]:
        """Return ``drop``, ``increase`` and the confidences ``whole`` (p) and ``masked`` (p').

        Failed: ``no_map`` and ``non_finite_map``, as if nothing were left of the confidence: a drop of all of it (of
        1 where it is relative), and no increase.
        """
        outcomes, chosen = usable(batch)
        self._fill_missed(batch, outcomes)
        if chosen:
            values = self._confidences(batch, self.visible(batch.maps), torch.tensor(chosen, device=batch.maps.device))
            for place, row in zip(chosen, _rows(values), strict=True):
                outcomes[place] = row
        return outcomes

    def _fill_missed(self, batch: PairBatch, outcomes: list[Outcome]) -> None:
        """Give the failed pairs their values under ``failure: worst``, where their image has finite scores."""
        scores = class_scores(batch.image_similarity, self.score, batch.text_norms, batch.scale).double()
        own = scores.gather(1, batch.class_ids.unsqueeze(1)).squeeze(1)
        before = (own if self.confidence == "own" else scores.amax(dim=1)).tolist()
        asked = batch.valid if batch.failed is None else batch.valid | batch.failed
        for place, (whole, is_asked) in enumerate(zip(before, asked.tolist(), strict=True)):
            outcome = outcomes[place]
            if is_asked and isinstance(outcome, Fail) and np.isfinite(whole):
                outcomes[place] = Fail(outcome.reason, self._missed(whole))

    def _missed(self, whole: float) -> dict[str, Value]:
        lost = 1.0 if self.drop == "relative" else whole + (1.0 if self.score == "cosine" else 0.0)
        return {"drop": lost, "increase": False, "whole": whole}

    def visible(self, maps: Tensor) -> Tensor:
        """Return the maps (P, H, W), min-maxed, with the lower pixels muted."""
        shown = min_max(maps.float(), (1, 2))
        if self.keep < 1:
            kept = pixel_ranks(maps) < round(self.keep * maps[0].numel())
            shown = shown * kept.view(maps.shape)
        return shown

    def _confidences(self, batch: PairBatch, visible: Tensor, chosen: Tensor) -> dict[str, np.ndarray]:
        whole = class_scores(batch.image_similarity[chosen], self.score, batch.text_norms, batch.scale)
        own = batch.class_ids[chosen].unsqueeze(1)
        parts = []
        for part in chosen.split(max(1, batch.batch_size)):
            masked = batch.images[part] * visible[part].unsqueeze(1).to(batch.images.dtype)
            parts.append(class_scores(batch.similarity(masked, part), self.score, batch.text_norms, batch.scale))
        after = torch.cat(parts).gather(1, own).squeeze(1)
        before = whole.gather(1, own).squeeze(1) if self.confidence == "own" else whole.amax(dim=1)
        p, q = (scores.double().cpu().numpy() for scores in (before, after))
        lost = np.maximum(p - q, 0)
        if self.drop == "relative":
            lost = np.divide(lost, p, out=np.zeros(lost.shape), where=p > 0)
        return {"drop": lost, "increase": q > p, "whole": p, "masked": q}


@dataclass
class ADCC(ConfidenceDrop):
    """Average drop, coherency and complexity as one number."""

    id = "adcc"
    version: ClassVar[int] = 2

    needs: ClassVar[frozenset[str]] = frozenset({"score", "remap"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.drop != "relative":
            raise ConfigError(
                f"metric.drop={self.drop}: ADCC is defined for the relative drop of a probability; "
                "choose metric.drop=relative, metric.score=softmax, sigmoid or unnormalised"
            )

    @property
    def columns(self) -> Sequence[Column]:
        name = self.name or "adcc"
        return (
            Column(name, value="adcc"),
            Column(f"{name}_coherency", value="coherency"),
            Column(f"{name}_complexity", "lower", value="complexity"),
            Column(f"{name}_drop", "lower", value="drop"),
            Column(f"{name}_increase", value="increase", detail=True),
        )

    def evaluate_batch(self, batch: PairBatch) -> list[Outcome]:
        """As the base, with ``coherency``, ``complexity`` and ``adcc``.

        Failed: as the base, with an ADCC of 0; ``non_finite_masked_map``, likewise; and ``no_remap``, the method
        cannot be run on changed images, so that its pairs have no value at all.
        """
        outcomes, chosen = usable(batch)
        if batch.remap is None:
            return [Fail(Reason.NO_REMAP) for _ in outcomes]
        self._fill_missed(batch, outcomes)
        if not chosen:
            return outcomes
        places = torch.tensor(chosen, device=batch.maps.device)
        visible = self.visible(batch.maps)
        values = self._confidences(batch, visible, places)
        masked = batch.images.clone()
        masked[places] = batch.images[places] * visible[places].unsqueeze(1).to(batch.images.dtype)
        remapped = batch.remap(masked)[places]
        again = self.visible(remapped)
        values["coherency"] = ((pearson(visible[places], again) + 1) / 2).cpu().numpy()
        values["complexity"] = visible[places].double().mean(dim=(1, 2)).cpu().numpy()
        values["adcc"] = adcc(values["drop"], values["coherency"], values["complexity"])
        finite = remapped.isfinite().flatten(1).all(dim=1).tolist()
        for place, row, usable_again in zip(chosen, _rows(values), finite, strict=True):
            missed = Fail(Reason.NON_FINITE_MASKED_MAP, self._missed(float(values["whole"][chosen.index(place)])))
            outcomes[place] = row if usable_again else missed
        return outcomes

    def _missed(self, whole: float) -> dict[str, Value]:
        return {**super()._missed(whole), "coherency": 0.0, "complexity": 1.0, "adcc": 0.0}


def usable(batch: PairBatch) -> tuple[list[Outcome], list[int]]:
    """Outcomes that say why a pair has no usable map, and the positions of those that have one."""
    outcomes: list[Outcome] = []
    chosen = []
    finite = batch.maps.isfinite().flatten(1).all(dim=1)
    for place, (valid, is_finite) in enumerate(zip(batch.valid.tolist(), finite.tolist(), strict=True)):
        outcomes.append(Fail(Reason.NON_FINITE_MAP if valid else Reason.ZERO_MAP))
        if valid and is_finite:
            chosen.append(place)
    return outcomes, chosen


def _rows(values: dict[str, np.ndarray]) -> list[Outcome]:
    count = len(next(iter(values.values())))
    return [{key: column[place].item() for key, column in values.items()} for place in range(count)]
