"""CLIP Surgery: similarity of patches with the text, minus what all texts have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from decomcam_bench.core.reasons import Reason
from decomcam_bench.core.validation import check_at_least, check_choice, check_positive
from decomcam_bench.methods.base import Cost, Evidence, Explanation, MapMethod, min_max
from decomcam_bench.methods.ops.validity import Failures, finish
from decomcam_bench.models.surgery import VALUES

NORMALISATIONS = ("features", "tokens")
FLOORS = ("minimum", "zero")

NON_FINITE_FEATURES = Reason.NON_FINITE_FEATURES


@dataclass
class ClipSurgery(MapMethod):
    """CLIP Surgery (Li, Wang, Duan and Li 2023): features along a separate path, then feature surgery.

    Architecture surgery: patches attend by the similarity of their values, skip the MLPs, and leave
    the original path ``blocks`` blocks before the end; for a ResNet, in the attention pool, see
    :mod:`decomcam_bench.models.surgery`. Feature surgery: with s_t the similarity of a patch with
    text t and w_t the softmax over texts of temperature times the class token's similarity, divided
    by its mean, the map of t is w_t s_t - mean_u(w_u s_u): what is redundant among the data set's
    texts is removed. A single text leaves nothing to compare with; then, as in the authors' demo, the
    features of the empty text are subtracted from those of the text.

    The class token of a ViT is the model's own image feature. That of a ResNet attends by values too, as
    in the authors' code, which overwrites query and key before it computes it.

    Attributes:
        blocks: number of blocks of a ViT with a second path; all if it has fewer.
        values: ``plain``, or ``unit``: values scaled to length 1 and the attention sharpened 8 times,
            which the authors' code contains for ResNets but does not switch on.
        normalise: ``features``: each token's feature has length 1 (cosine similarity), as in the paper and
            in the repository since 2025-03-01 (d4696d4); ``tokens``: each channel is scaled to length 1
            over the tokens, as in the repository's demo before (e346359, 2023).
        temperature: of the weights of the texts.
        floor: what becomes 0: the minimum of a map (``minimum``, min-max as in the authors' code), or
            negative values (``zero``).
    """

    id = "clip_surgery"

    blocks: int = 6
    values: str = "plain"
    normalise: str = "features"
    temperature: float = 2.0
    floor: str = "minimum"

    needs: ClassVar[frozenset[str]] = frozenset({"surgery_features", "text_embeddings", "empty_text", "class_ids"})
    uses_layer: ClassVar[bool] = False
    version: ClassVar[int] = 2

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
        features = torch.cat((tokens[:, None], patches.flatten(2).mT), 1).float()
        features = F.normalize(features, dim=2 if self.normalise == "features" else 1)
        if len(texts) == 1:
            similarity = features[:, 1:] @ (texts - evidence.extras["empty_text"]().float()).T
        else:
            similarity = without_redundancy(features @ texts.T, self.temperature)
        maps = similarity.mT[evidence.image_of, own].unflatten(1, patches.shape[-2:])
        maps = failures.clean(maps)
        return finish(min_max(maps, (1, 2)) if self.floor == "minimum" else maps.relu(), "bilinear", failures)

    @property
    def backbone_pass(self) -> tuple[object, ...]:
        return ("surgery_features", self.blocks, self.values)

    def cost(self, rank: int | None, channels: int) -> Cost:
        return Cost(backbone=1)


def without_redundancy(similarity: Tensor, temperature: float) -> Tensor:
    """Apply feature surgery to (N, 1 + M, K) similarities, the class token's first; return (N, M, K).

    The authors multiply features element by element and subtract their mean over the texts before
    they sum over the channels; taking the sum first is the same.
    """
    shares = (temperature * similarity[:, :1]).softmax(2)
    weighted = similarity[:, 1:] * (shares / shares.mean(2, keepdim=True))
    return weighted - weighted.mean(2, keepdim=True)
