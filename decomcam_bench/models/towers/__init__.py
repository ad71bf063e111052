"""Views of CLIP's image towers, one module per family; :func:`tower_of` chooses the one that fits."""

from __future__ import annotations

from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import nn

from decomcam_bench.core.errors import ModelError
from decomcam_bench.models.towers.base import LayerState, Tower
from decomcam_bench.models.towers.coca import CoCaTower
from decomcam_bench.models.towers.openai import ResNetTower, ViTTower
from decomcam_bench.models.towers.timm_cnn import TimmCNNTower
from decomcam_bench.models.towers.timm_vit import TimmViTTower, is_timm_vit

__all__ = ["LayerState", "Tower", "tower_of", "unsupported_tower"]


def tower_of(visual: nn.Module, name: str) -> Tower:
    """Return the view of an image tower.

    Args:
        visual: ``model.visual`` of a model that open_clip built.
        name: of the model, for messages.

    Raises:
        ModelError: if the tower belongs to no supported family.
    """
    if isinstance(visual, ModifiedResNet):
        return ResNetTower(visual)
    if isinstance(visual, VisionTransformer) and all(
        type(block) is ResidualAttentionBlock for block in visual.transformer.resblocks
    ):
        return ViTTower(visual) if visual.attn_pool is None else CoCaTower(visual)
    if isinstance(visual, TimmModel) and is_timm_vit(visual.trunk):
        return TimmViTTower(visual, name)
    if isinstance(visual, TimmModel) and getattr(visual.trunk, "feature_info", None):
        return TimmCNNTower(visual, name)
    raise unsupported_tower(name, type(visual).__name__)


def unsupported_tower(name: str, kind: str) -> ModelError:
    """Return the one-line error that refuses an image tower."""
    return ModelError(
        f"model {name}: image tower '{kind}' is not supported; supported are open_clip's ModifiedResNet, "
        f"VisionTransformer and CoCa, timm transformers (SigLIP, EVA, PE, ViTamin, MobileCLIP-B) and timm CNNs "
        f"(ConvNeXt, FastViT)"
    )
