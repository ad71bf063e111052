"""Does the map depend on the text?

A map that stays the same when the text names something else explains the image, not the answer. For each pair the
method is run again on the same image with other texts: a class that the image does not show (``absent``), a word that
means nothing (``nonsense``) and the empty text (``empty``). The similarity of each map to the pair's own is reported:

* SSIM (Wang et al. 2004: Gaussian window of 11 x 11, sigma 1.5, data range 1) of the maps scaled to [0, 1];
* Spearman's rank correlation over the pixels (equal values get their mean rank), 0 where either map is constant.

And in pictures of at least two classes A and B, *specificity*: the share of the map's mass on A (at the model's
input) for text A, minus that for text B. It is exactly 0 for a method that does not read the text, and 1 for one that
draws the annotated objects, where these do not overlap.

Similarity of saliency maps under changed conditions is how Adebayo et al. (2018) test them; the texts are our choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import Tensor

from decomcam_bench.methods.base import min_max
from decomcam_bench.metrics.base import Column, Fail, ModelMetric, Outcome, PairBatch, Value
from decomcam_bench.metrics.confidence import usable

#: Texts that do not name what is explained.
TEXTS = ("absent", "nonsense", "empty")
_WINDOW, _SIGMA = 11, 1.5


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Return the structural similarity of maps (P, H, W) with maps (P, H, W), both in [0, 1]: float64 (P,).

    The mean over all places where the window fits, as Wang et al. (2004) have it.
    """
    offsets = torch.arange(_WINDOW, dtype=torch.float64, device=first.device) - _WINDOW // 2
    profile = torch.exp(-(offsets**2) / (2 * _SIGMA**2))
    profile /= profile.sum()
    x, y = first.double(), second.double()
    planes = torch.stack([x, y, x * x, y * y, x * y], dim=1).flatten(0, 1).unsqueeze(1)
    planes = F.conv2d(F.conv2d(planes, profile.view(1, 1, -1, 1)), profile.view(1, 1, 1, -1))
    mean_x, mean_y, xx, yy, xy = planes.view(len(x), 5, *planes.shape[-2:]).unbind(dim=1)
    small, large = 0.01**2, 0.03**2
    spread = (xx - mean_x**2) + (yy - mean_y**2) + large
    common = (2 * mean_x * mean_y + small) / (mean_x**2 + mean_y**2 + small)
    return (common * (2 * (xy - mean_x * mean_y) + large) / spread).flatten(1).mean(dim=1)


def spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation of maps (P, H, W) with maps (P, H, W): (P,), 0 where either is constant."""
    a, b = (rankdata(maps.reshape(len(maps), -1), axis=1) for maps in (first, second))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    norm = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    found: np.ndarray = np.divide((a * b).sum(axis=1), norm, out=np.zeros(len(a)), where=norm > 0)
    return found


def share_on(maps: Tensor, region: Tensor) -> Tensor:
    """Return the share of the mass of maps (P, H, W) on regions (P, H, W): float64 (P,), 0 for a map of zeros."""
    mass = maps.double().flatten(1).sum(dim=1)
    inside = (maps.double() * region).flatten(1).sum(dim=1)
    return torch.where(mass > 0, inside / mass.clamp_min(torch.finfo(torch.float64).tiny), 0.0)


@dataclass
class TextDependence(ModelMetric):
    """Compare the map of a pair with the maps of other texts for the same image."""

    id = "text_dependence"

    needs: ClassVar[frozenset[str]] = frozenset({"score", "retext"})
    undefined: ClassVar[frozenset[str]] = frozenset({"specificity", "energy"})

    @property
    def columns(self) -> Sequence[Column]:
        name = self.name or "text_dependence"
        return (
            Column(f"{name}_specificity", "higher", -1.0, 1.0, value="specificity"),
            *(Column(f"{name}_ssim_{text}", "lower", -1.0, 1.0, "SSIM", f"ssim_{text}") for text in TEXTS),
            *(
                Column(f"{name}_spearman_{text}", "lower", -1.0, 1.0, "correlation", f"spearman_{text}", detail=True)
                for text in TEXTS
            ),
        )

    def scored_per_pair(self, input_size: tuple[int, int]) -> int:
        return len(TEXTS) + 1

    def evaluate_batch(self, batch: PairBatch) -> list[Outcome]:
        """Return ``specificity``, the ``energy`` of the own text on the own object, ``ssim_*`` and ``spearman_*``.

        The first two are NaN for pairs whose image shows no other class. Failed: ``no_map`` and ``map_not_finite``, as
        if the map ignored the text: similarities of 1 and a specificity of 0; and ``no_remap``, maps that cannot be
        made again.
        """
        outcomes, chosen = usable(batch)
        if batch.retext is None:
            return [Fail("no_remap") for _ in outcomes]
        asked = batch.valid if batch.failed is None else batch.valid | batch.failed
        several = batch.retext.several
        for place, is_asked in enumerate(asked.tolist()):
            outcome = outcomes[place]
            if is_asked and isinstance(outcome, Fail):
                outcomes[place] = Fail(outcome.reason, self._missed(bool(several[place])))
        if chosen:
            for place, values in zip(chosen, self._values(batch, chosen), strict=True):
                outcomes[place] = values
        return outcomes

    def _missed(self, several: bool) -> dict[str, Value]:
        alike = {f"{kind}_{text}": 1.0 for kind in ("ssim", "spearman") for text in TEXTS}
        nothing = 0.0 if several else float("nan")
        return {**alike, "specificity": nothing, "energy": nothing}

    def _values(self, batch: PairBatch, chosen: Sequence[int]) -> list[dict[str, Value]]:
        retext = batch.retext
        assert retext is not None
        own = batch.maps[list(chosen)]
        columns: dict[str, np.ndarray] = {}
        for text in TEXTS:
            other = _finite(retext.maps(text))[list(chosen)]
            columns[f"ssim_{text}"] = ssim(min_max(own.float(), (1, 2)), min_max(other.float(), (1, 2))).cpu().numpy()
            columns[f"spearman_{text}"] = spearman(own.cpu().numpy(), other.cpu().numpy())
        several = np.array(retext.several)[list(chosen)]
        columns["energy"] = columns["specificity"] = np.full(len(chosen), np.nan)
        if several.any():
            region = retext.region()[list(chosen)]
            energy = share_on(own, region).cpu().numpy()
            gap = energy - share_on(_finite(retext.maps("other"))[list(chosen)], region).cpu().numpy()
            columns["energy"] = np.where(several, energy, np.nan)
            columns["specificity"] = np.where(several, gap, np.nan)
        return [{name: float(values[i]) for name, values in columns.items()} for i in range(len(chosen))]


def _finite(maps: Tensor) -> Tensor:
    """Return maps in which a map that is not finite is one of zeros."""
    good = maps.isfinite().flatten(1).all(dim=1)
    return torch.where(good.view(-1, 1, 1), maps, 0.0)
