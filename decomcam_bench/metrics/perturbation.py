"""Positive and negative perturbation (Chefer et al. 2021): what is left of the prediction without the important pixels?

Protocol (``baselines/ViT/pertubation_eval_from_hdf5.py``): 10, 20, ..., 90 % of the pixels are painted black, those
that the map ranks highest first (*positive*: a good map makes the model fail early, lower is better), or lowest first
(*negative*: the model should keep its answer, higher is better). At each share the accuracy is that of the top class
being the pair's own, and the score the probability of the pair's own class. The number is the area under the curve
over 0 to 90 %, divided by 0.9, with the unperturbed image as the point at 0 %, which the reference's nine points
leave out.

Equal pixels are painted in one random order, the same for every map of one size (the reference leaves their order to
``topk``). A pair without a usable map is scored as a map of zeros, whose pixels are painted in that order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.core.validation import check_choice
from decomcam_bench.metrics.base import Column, Fail, ModelMetric, Outcome, PairBatch, Value
from decomcam_bench.metrics.causal import area_under, class_scores, pixel_ranks

_ORDERS = ("positive", "negative")


@dataclass
class Perturbation(ModelMetric):
    """Measure accuracy and score as the most, and as the least important pixels are painted black.

    Attributes:
        steps: shares of the pixels, ``1 / (steps + 1)`` apart: 9 for 10 to 90 %.
        score: ``softmax`` or ``unnormalised``, see :func:`decomcam_bench.metrics.causal.class_scores`.
    """

    id = "perturbation"

    steps: int = 9
    score: str = "softmax"

    needs: ClassVar[frozenset[str]] = frozenset({"score"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("metric.score", self.score, ("softmax", "unnormalised"))
        if not 1 <= self.steps <= 99:
            raise ConfigError(f"metric.steps={self.steps}: must lie in 1..99")

    @property
    def columns(self) -> Sequence[Column]:
        name = self.name or "perturbation"
        return (
            Column(f"{name}_positive", "lower", value="positive"),
            Column(f"{name}_negative", "higher", value="negative"),
            Column(f"{name}_positive_accuracy", "lower", value="positive_accuracy"),
            Column(f"{name}_negative_accuracy", "higher", value="negative_accuracy"),
        )

    def scored_per_pair(self, input_size: tuple[int, int]) -> int:
        return len(_ORDERS) * self.steps

    def worst(self) -> dict[str, Value]:
        """Return nothing: what a failed pair scores depends on its image."""
        return {}

    def evaluate_batch(self, batch: PairBatch) -> list[Outcome]:
        """Return the areas, and the ``*_curve`` of the scores (float32), with the unperturbed image first.

        Failed: ``no_map`` and ``map_not_finite``, with the values of a map of zeros.
        """
        finite = batch.maps.isfinite().flatten(1).all(dim=1)
        failed = torch.zeros_like(batch.valid) if batch.failed is None else batch.failed
        outcomes: list[Outcome] = [Fail("no_map")] * len(batch.maps)
        chosen = (batch.valid | failed).nonzero().squeeze(1)
        if not len(chosen):
            return outcomes
        maps = torch.where(finite.view(-1, 1, 1), batch.maps, 0.0)
        found = [self._curves(batch, maps, chosen, sign) for sign in (1, -1)]
        flags = torch.stack([failed.to(finite.device), ~finite], dim=1).tolist()
        for row, place in enumerate(chosen.tolist()):
            values = self._values([(scores[row], correct[row]) for scores, correct in found])
            lost, broken = flags[place]
            outcomes[place] = Fail("no_map" if lost else "map_not_finite", values) if lost or broken else values
        return outcomes

    def _curves(self, batch: PairBatch, maps: Tensor, chosen: Tensor, sign: int) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and whether the top class is right, float64 (pairs, steps + 1) each."""
        height, width = maps.shape[-2:]
        ranks = pixel_ranks(sign * maps[chosen], order=0)
        black = torch.tensor([-m / s for m, s in zip(batch.mean, batch.std, strict=True)], device=maps.device)
        found = [self._judged(batch, batch.image_similarity[chosen], chosen)]
        for step in range(1, self.steps + 1):
            painted = (ranks < int(height * width * (step / (self.steps + 1)))).view(-1, 1, height, width)
            parts = []
            for part in torch.arange(len(chosen), device=chosen.device).split(max(1, batch.batch_size)):
                images = torch.where(painted[part], black.view(1, 3, 1, 1), batch.images[chosen[part]].float())
                parts.append(batch.similarity(images.to(batch.images.dtype), chosen[part]))
            found.append(self._judged(batch, torch.cat(parts), chosen))
        scores, correct = (torch.stack(own, dim=1).double().cpu().numpy() for own in zip(*found, strict=True))
        return scores, correct

    def _judged(self, batch: PairBatch, similarity: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        scores = class_scores(similarity, self.score, batch.text_norms, batch.scale)
        own = batch.class_ids[chosen]
        return scores.gather(1, own.unsqueeze(1)).squeeze(1), (scores.argmax(dim=1) == own)

    def _values(self, drawn: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, Value]:
        shares = np.arange(self.steps + 1) / (self.steps + 1)
        values: dict[str, Value] = {}
        for name, (scores, correct) in zip(_ORDERS, drawn, strict=True):
            values[name] = area_under(scores, shares) / float(shares[-1])
            values[f"{name}_accuracy"] = area_under(correct, shares) / float(shares[-1])
            values[f"{name}_curve"] = scores.astype(np.float32)
        return values
