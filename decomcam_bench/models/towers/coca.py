"""CoCa's image tower: OpenAI's ViT, whose features are pooled by an attention with queries of its own."""

from __future__ import annotations

from typing import ClassVar

from decomcam_bench.models.towers.openai import ViTTower


class CoCaTower(ViTTower):
    """Layers and points as :class:`ViTTower`; after the last block, too, every patch has a gradient.

    The pool reads all tokens through an attention, so no row of the blocks' attention belongs to the features: methods
    that need a class token are refused.
    """

    kind: ClassVar[str] = "CoCa"

    def lacks(self, extra: str, layer: str) -> str:
        if extra in ("attentions", "surgery_features"):
            return "its image tower pools by an attention of its own, not by a class token"
        return ""
