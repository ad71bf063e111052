"""A CLIP as other packages want one: a classifier over the texts, with the module of a layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from decomcam_bench.core.errors import ModelError
from decomcam_bench.models.clip import ClipModel, TextBank, text_scores
from decomcam_bench.models.towers import blocks as names
from decomcam_bench.models.towers.base import Tower
from decomcam_bench.models.towers.openai import ResNetTower, ViTTower


class Network(nn.Module):
    """From normalised images (M, 3, H, W) to scores (M, K) of all texts.

    Attributes:
        layer: the module whose output is the layer's activations.
        reshape: from that output to maps (M, C, h, w), or None where it has that shape.
        images: number of images that went through.
    """

    def __init__(self, model: ClipModel, layer: str, bank: TextBank, kind: str) -> None:
        super().__init__()
        self.visual = model.clip.visual
        self.model, self.bank, self.kind = [model], bank, kind
        self.images = 0
        found, self.reshape = _module(model.tower, layer, model.name)
        self._layer = [found]

    @property
    def layer(self) -> nn.Module:
        return self._layer[0]

    def forward(self, images: Tensor) -> Tensor:
        model = self.model[0]
        with model._autocast():
            features, _ = model.tower.forward(images, ())
        self.images += len(images)
        model.passes.method_scored += len(images)
        return text_scores(features.float(), self.bank, self.kind)


@contextmanager
def differentiable(network: Network) -> Iterator[Network]:
    """Let gradients of weights be taken within the block: some packages ask for them."""
    frozen = [weight for weight in network.parameters() if not weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        yield network
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
            weight.grad = None


def _module(tower: Tower, layer: str, name: str) -> tuple[nn.Module, Callable[[Tensor], Tensor] | None]:
    """Return the module whose output is a layer, and how to make maps of that output.

    Raises:
        ModelError: for towers whose layers are no output of a single module.
    """
    if isinstance(tower, ResNetTower):
        stage, _, position = layer.partition(".")
        block: Any = getattr(tower.visual, stage)[int(position or -1)]
        return block, None
    if isinstance(tower, ViTTower):
        number, point = names.parse(layer)
        inside: Any = tower.blocks[number]
        return (inside if point == "out" else getattr(inside, point)), lambda tokens: names.to_map(
            tokens, 1, tower.grid
        )
    raise ModelError(f"layer={layer}: other packages' methods cannot hook into the image tower of {name}")
