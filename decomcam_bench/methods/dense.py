"""Similarity of patch features with the text, the attention of the last blocks replaced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from decomcam_bench.core.validation import check_at_least, check_choice, check_positive
from decomcam_bench.methods.base import Cost, Evidence, Explanation, MapMethod, min_max
from decomcam_bench.methods.ops.validity import Failures, finish
from decomcam_bench.models.vit_internals import ATTENTIONS

FLOORS = ("minimum", "zero")
NON_FINITE_FEATURES = "non_finite_features"


@dataclass
class DenseSimilarity(MapMethod):
    """Cosine similarity of each patch with the text, along one of the training-free dense paths through CLIP.

    Attributes:
        attention: ``mask``, ``sclip``, ``clearclip``, ``naclip``, ``gem`` or ``surgery``, see
            :func:`~decomcam_bench.models.vit_internals.dense_features`; ``mask`` alone has a form for ResNets.
        blocks: number of last blocks that ``gem`` and ``surgery`` replace; all if the tower has fewer.
        gaussian_std: of ``naclip``'s neighbourhood, in patches.
        floor: what becomes 0: the minimum of a map (``minimum``, min-max), or negative values (``zero``).
    """

    id = "dense"

    attention: str = "clearclip"
    blocks: int = 6
    gaussian_std: float = 5.0
    floor: str = "minimum"

    needs: ClassVar[frozenset[str]] = frozenset({"dense_features", "text_embeddings", "class_ids"})
    uses_layer: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("method.attention", self.attention, ATTENTIONS)
        check_at_least("method.blocks", self.blocks, 1)
        check_positive("method.gaussian_std", self.gaussian_std)
        check_choice("method.floor", self.floor, FLOORS)

    def map(self, evidence: Evidence) -> Explanation:
        patches = evidence.extras["dense_features"](self.attention, self.blocks, self.gaussian_std).float()
        own = evidence.extras["text_embeddings"]().float()[evidence.extras["class_ids"]()]
        failures = Failures(len(evidence), evidence.device)
        failures.add(~patches.isfinite().flatten(1).all(1)[evidence.image_of], NON_FINITE_FEATURES)
        unit = F.normalize(patches, dim=1)[evidence.image_of]
        maps = failures.clean(torch.einsum("pdhw,pd->phw", unit, own))
        return finish(min_max(maps, (1, 2)) if self.floor == "minimum" else maps.relu(), "bilinear", failures)

    @property
    def backbone_pass(self) -> tuple[object, ...]:
        return ("dense_features", self.attention, self.blocks, self.gaussian_std)

    def cost(self, rank: int | None, channels: int) -> Cost:
        return Cost(backbone=1)
