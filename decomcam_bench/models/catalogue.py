"""What open_clip offers, for people to choose from: architectures, weights, towers and default layers.

Families are told by their configuration alone, so that the list takes no second per architecture. A test holds it to
what :func:`decomcam_bench.models.towers.tower_of` says of every architecture with published weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import open_clip
import timm
from timm.models import model_entrypoint

from decomcam_bench.config.models import aliases
from decomcam_bench.models.towers.coca import CoCaTower
from decomcam_bench.models.towers.openai import ResNetTower, ViTTower
from decomcam_bench.models.towers.timm_cnn import TimmCNNTower
from decomcam_bench.models.towers.timm_vit import TimmViTTower

#: Modules of timm whose models are transformers of plain blocks, and whose are CNNs of stages.
_VITS = ("eva", "vision_transformer", "vision_transformer_hybrid", "vitamin")
_CNNS = ("byobnet", "convnext", "efficientnet", "fastvit", "regnet", "resnet", "resnetv2")


@dataclass(frozen=True)
class Entry:
    """One architecture.

    Attributes:
        name: of the architecture.
        input_size: side of its input in pixels.
        image: kind of its image tower, as :attr:`Tower.kind` says; empty if it is not supported.
        trunk: the model of timm in it, or an empty string.
        text: ``CLIP`` for open_clip's own text tower, or the model of transformers.
        layer: default layer.
        tags: of published weights.
        aliases: other names, see ``configs/aliases.yaml``.
    """

    name: str
    input_size: int
    image: str
    trunk: str
    text: str
    layer: str
    tags: tuple[str, ...]
    aliases: tuple[str, ...]


def entries() -> list[Entry]:
    """Return all architectures of open_clip, those with published weights first."""
    others: dict[str, list[str]] = {}
    for alias, target in aliases().items():
        others.setdefault(target.partition(":")[0], []).append(alias)
    found = [_entry(name, tuple(others.get(name, ()))) for name in open_clip.list_models()]
    return sorted(found, key=lambda entry: not entry.tags)


def _entry(name: str, others: tuple[str, ...]) -> Entry:
    config: dict[str, Any] = open_clip.get_model_config(name)
    vision, text = config.get("vision_cfg", {}), config.get("text_cfg", {})
    tower = family_of(config)
    size = vision.get("image_size", 224)
    return Entry(
        name,
        int(size if isinstance(size, int) else size[0]),
        tower.kind if tower else "",
        str(vision.get("timm_model_name") or ""),
        str(text.get("hf_model_name") or ("CLIP" if not text.get("hf_tokenizer_name") else "CLIP, own tokenizer")),
        tower.default_layer if tower else "",
        tuple(open_clip.list_pretrained_tags_by_model(name)),
        others,
    )


def family_of(
    config: dict[str, Any],
) -> type[ResNetTower] | type[ViTTower] | type[TimmViTTower] | type[TimmCNNTower] | None:
    """Return the view that fits the image tower of a configuration, or None."""
    vision = config.get("vision_cfg", {})
    trunk = str(vision.get("timm_model_name") or "")
    if trunk:
        module = model_entrypoint(trunk).__module__.rpartition(".")[2] if timm.is_model(trunk) else ""
        return TimmViTTower if module in _VITS else TimmCNNTower if module in _CNNS else None
    if isinstance(vision.get("layers"), list):
        return ResNetTower
    return CoCaTower if vision.get("attentional_pool") else ViTTower
