"""CLIP Surgery: similarity of patches with the text, without what all texts have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from decomcam_bench.core.validation import check_at_least, check_choice, check_positive
from decomcam_bench.methods.base import Cost, Evidence, Explanation, MapMethod, min_max
from decomcam_bench.methods.ops.validity import Failures, finish
from decomcam_bench.models.surgery import VALUES

NORMALISATIONS = ("features", "tokens")
FLOORS = ("minimum", "zero")

NON_FINITE_FEATURES = "non_finite_features"
ONE_TEXT_ALONE = "one_text_alone"


@dataclass
class ClipSurgery(MapMethod):
    """CLIP Surgery (Li, Wang, Duan and Li 2023): features by a path of its own, then feature surgery.

    Architecture surgery: patches attend by the similarity of their values, skip the MLPs, and leave
    the original path ``blocks`` blocks before the end; for a ResNet, in the attention pool, see
    :mod:`decomcam_bench.models.surgery`. Feature surgery: with s_t the similarity of a patch with
    text t and w_t the softmax over texts of temperature times the class token's similarity, divided
    by its mean, the map of t is w_t s_t - mean_u(w_u s_u): what is redundant among the data set's
    texts is taken off. With one text alone nothing would be left: such pairs fail.

    The class token is the model's own image feature for both towers. (In the authors' code that of a
    ResNet takes the new path too, since query and key are overwritten there before it is computed.)

    Attributes:
        blocks: blocks of a ViT with a second path; all if it has fewer.
        values: ``plain``, or ``unit``: values scaled to length 1 and the attention sharpened 8 times,
            which the authors' code holds for ResNets but does not switch on.
        normalise: ``features``: each token's feature has length 1, cosine similarity, as the paper;
            ``tokens``: each channel is scaled to length 1 over the tokens, as the authors' demo does.
        temperature: of the weights of the texts.
        floor: what becomes 0: the least value of a map (``minimum``, min-max as the authors), or what
            is below zero (``zero``).
    """

    id = "clip_surgery"

    blocks: int = 6
    values: str = "plain"
    normalise: str = "features"
    temperature: float = 2.0
    floor: str = "minimum"

    needs: ClassVar[frozenset[str]] = frozenset({"surgery_features", "text_embeddings", "class_ids"})
    uses_layer: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("method.blocks", self.blocks, 1)
        check_choice("method.values", self.values, VALUES)
        check_choice("method.normalise", self.normalise, NORMALISATIONS)
        check_positive("method.temperature", self.temperature)
        check_choice("method.floor", self.floor, FLOORS)

    def map(self, evidence: Evidence) -> Explanation:
        tokens, patches = evidence.extras["surgery_features"](self.blocks, self.values)
        texts, own = evidence.extras["text_embeddings"]().float(), evidence.extras["class_ids"]()
        failures = Failures(len(evidence), evidence.device)
        finite = tokens.isfinite().all(1) & patches.isfinite().flatten(1).all(1)
        failures.add(~finite[evidence.image_of], NON_FINITE_FEATURES)
        failures.add(torch.full_like(failures.usable, len(texts) < 2), ONE_TEXT_ALONE)
        features = torch.cat((tokens[:, None], patches.flatten(2).mT), 1).float()
        features = F.normalize(features, dim=2 if self.normalise == "features" else 1)
        similarity = without_redundancy(features @ texts.T, self.temperature)
        maps = similarity.mT[evidence.image_of, own].unflatten(1, patches.shape[-2:])
        maps = failures.clean(maps)
        return finish(min_max(maps, (1, 2)) if self.floor == "minimum" else maps.relu(), "bilinear", failures)

    def cost(self, rank: int | None, channels: int) -> Cost:
        return Cost(backbone=1)


def without_redundancy(similarity: Tensor, temperature: float) -> Tensor:
    """Feature surgery: (N, 1 + M, K) similarities, the class token's first, to (N, M, K).

    The authors multiply features element by element and subtract their mean over the texts before
    they sum over the channels; the sum may as well be taken first.
    """
    shares = (temperature * similarity[:, :1]).softmax(2)
    weighted = similarity[:, 1:] * (shares / shares.mean(2, keepdim=True))
    return weighted - weighted.mean(2, keepdim=True)
