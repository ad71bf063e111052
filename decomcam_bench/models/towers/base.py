"""The contract of an image tower: read a layer, and run what follows it.

A tower is a sequence of steps. :meth:`Tower.forward` runs them once and keeps the activations of the requested layers;
:meth:`Tower.head` resumes at a layer with other activations in its place. A gradient with respect to a layer therefore
costs the head alone, not the whole network.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from decomcam_bench.core.errors import ModelError, did_you_mean


@dataclass
class LayerState:
    """The activations of a layer, and what else its head needs.

    Attributes:
        activations: (N, C, h, w).
        context: tensors with leading size N that the head takes unchanged. For transformers these are the prefix
            tokens, (N, P, C) with P = 0 in towers without a class token, and at some points the residual stream.
    """

    activations: Tensor
    context: tuple[Tensor, ...] = ()


class Tower(abc.ABC):
    """An image tower of CLIP that can be split at named layers.

    Attributes:
        visual: the module of open_clip.
        kind: a short name of the family, shown by ``list models --all``.
        default_layer: the layer used unless the user or the model's YAML names another.
        points: names of the places inside a layer where it can be read, the default place first.
    """

    visual: Any
    kind: ClassVar[str]
    default_layer: str
    points: tuple[str, ...] = ()

    @property
    @abc.abstractmethod
    def layers(self) -> tuple[str, ...]:
        """Return the canonical names of all layers, from input to output."""

    @abc.abstractmethod
    def canonical(self, name: str) -> str:
        """Return the canonical name of a layer, with aliases and negative numbers resolved.

        Raises:
            ModelError: if the tower has no such layer; the message lists the ones it has.
        """

    @abc.abstractmethod
    def forward(self, images: Tensor, layers: Sequence[str]) -> tuple[Tensor, dict[str, LayerState]]:
        """Return image features (N, d), not normalised, and the states of canonical ``layers``."""

    @abc.abstractmethod
    def head(self, layer: str, activations: Tensor, context: tuple[Tensor, ...]) -> Tensor:
        """Return image features (M, d) with ``activations`` (M, C, h, w) in place of the layer's own."""

    def surgery(self, images: Tensor, blocks: int, values: str) -> tuple[Tensor, Tensor]:
        """Return features by CLIP Surgery's path, not normalised: pooled (N, d) and grid (N, d, h, w).

        Args:
            blocks: number of transformer blocks, counted from the last, that get a second path; a ResNet has one
                attention, its pool.
            values: one of :data:`decomcam_bench.models.surgery.VALUES`.

        Raises:
            ModelError: if the tower lacks ``surgery_features``.
        """
        raise ModelError(f"CLIP Surgery has no path through this model: {self.lacks('surgery_features', '')}")

    def attended(self, layer: str, activations: Tensor, context: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor]]:
        """Run :meth:`head` and also return the attention weights (M, heads, T, T) of the blocks passed, in order.

        Raises:
            ModelError: if the tower lacks ``attentions``.
        """
        raise ModelError(f"layer={layer}: there is no attention to read: {self.lacks('attentions', layer)}")

    def lacks(self, extra: str, layer: str) -> str:
        """Return why the tower cannot give an extra (:data:`decomcam_bench.methods.base.EXTRAS`), or ''."""
        return ""

    def remark(self, layer: str) -> str:
        """Return what a reader of maps at a layer should know, or ''."""
        return ""

    def _refuse(self, name: str) -> ModelError:
        shown = ", ".join(self.layers if len(self.layers) <= 16 else (*self.layers[:6], "...", *self.layers[-6:]))
        return ModelError(f"layer={name}: no such layer{did_you_mean(name, self.layers)}; valid: {shown}")
