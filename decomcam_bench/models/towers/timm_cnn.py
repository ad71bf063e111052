"""Image towers made of a timm CNN: ConvNeXt, FastViT (MobileCLIP-S), EfficientNet, ResNet and others.

timm says in ``feature_info`` after which modules a CNN's stages end. The tower watches one forward pass without data
and records which module receives the output of which. Where these calls form a chain, the network is cut after any
module of the chain, with nothing known about the architecture; where they do not, the tower is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from decomcam_bench.core.errors import ModelError
from decomcam_bench.models.towers.base import LayerState, Tower


@dataclass
class _Call:
    """One call of a module during the recorded pass; tensors are held so that identities stay distinct."""

    name: str
    module: nn.Module
    read: Any = None
    made: Any = None
    calls: list[_Call] = field(default_factory=list)

    def chain(self) -> list[_Call] | None:
        """Return the calls inside this one if each reads what the one before it made, else None."""
        value = self.read
        for call in self.calls:
            if call.read is not value:
                return None
            value = call.made
        return self.calls if self.calls and value is self.made else None


class _Features(nn.Module):
    """A trunk up to its last feature map, as a module that can be called with other parameters."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images: Tensor) -> Any:
        trunk: Any = self.trunk
        return trunk.forward_features(images)


@contextmanager
def _recorded(root: _Call, trunk: nn.Module) -> Iterator[None]:
    """Record the calls of all modules of ``trunk`` as a tree below ``root``."""
    stack = [root]
    handles = []
    for name, module in trunk.named_modules():
        if not name:
            continue

        def before(module: nn.Module, inputs: tuple[Any, ...], name: str = name) -> None:
            call = _Call(name, module, inputs[0] if len(inputs) == 1 else None)
            stack[-1].calls.append(call)
            stack.append(call)

        def after(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            stack.pop().made = output

        handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _record(trunk: nn.Module, size: tuple[int, int]) -> _Call:
    """Return the tree of calls of one pass through ``trunk.forward_features``, computed on shapes alone."""
    wrapped = _Features(trunk)
    tensors = [*wrapped.named_parameters(), *wrapped.named_buffers()]
    shapes = {name: value.to("meta") for name, value in tensors}
    image = torch.zeros(1, 3, *size, device="meta")
    root = _Call("", trunk, image)
    with torch.no_grad(), _recorded(root, trunk):
        root.made = torch.func.functional_call(wrapped, shapes, (image,))
    return root


class TimmCNNTower(Tower):
    """Layers ``stage0`` to ``stageN``, each the output of one of timm's feature stages, and ``stageI.B``.

    ``stageI`` is entry I of the trunk's ``feature_info``. ``stageI.B`` is the output of block B of that stage; its last
    block is the stage itself. Negative numbers count from the end. Where more than the head follows the last stage,
    such as the last convolution of EfficientNet and FastViT, ``features`` is the map that the head reads.

    The default is the last stage, as for OpenAI's ResNets. Networks that average its positions right away (ConvNeXt)
    have the same gradient at every position there, see :meth:`remark`.
    """

    kind: ClassVar[str] = "timm CNN"
    default_layer = "stage-1"

    def __init__(self, visual: Any, name: str) -> None:
        self.visual = visual
        self.name = name
        trunk: Any = visual.trunk
        for module in trunk.modules():
            if getattr(module, "inplace", False) is True:
                module.inplace = False  # it would overwrite the activations that forward() keeps
        self._chain: list[nn.Module] = []
        self._position: dict[str, int] = {}
        self._blocks: list[int] = []
        self._channels = {str(info["module"]): int(info["num_chs"]) for info in trunk.feature_info}
        root = _record(trunk, self.visual.image_size)
        self._add(root)
        after = self._chain[max(self._position.values(), default=-1) + 1 :]
        if isinstance(root.made, Tensor) and root.made.dim() == 4 and not _nothing(after):
            self._position["features"] = len(self._chain) - 1

    def _add(self, call: _Call) -> None:
        """Append the modules of a call to the chain, cut so that every stage and block ends one."""
        if call.name in self._channels:
            self._add_stage(call)
        elif not call.name or any(stage.startswith(f"{call.name}.") for stage in self._channels):
            inner = call.chain()
            if inner is None:
                raise self._uncut(f"'{call.name or 'the trunk'}' does more than call one module after the other")
            for one in inner:
                self._add(one)
        else:
            self._chain.append(call.module)

    def _add_stage(self, call: _Call) -> None:
        before, blocks = _blocks(call)
        channels = self._channels[call.name]
        if not all(_is_map(one, channels) for one in blocks):
            before, blocks = [], [call]
        if not _is_map(call, channels):
            raise self._uncut(f"the output of '{call.name}' is no map of {channels} channels")
        number = len(self._blocks)
        self._chain += [one.module for one in before]
        for position, block in enumerate(blocks):
            self._chain.append(block.module)
            last = position + 1 == len(blocks)
            self._position[f"stage{number}" if last else f"stage{number}.{position}"] = len(self._chain) - 1
        self._blocks.append(len(blocks))

    def _uncut(self, reason: str) -> ModelError:
        return ModelError(
            f"model {self.name}: its timm trunk '{type(self.visual.trunk).__name__}' cannot be split at its stages: "
            f"{reason}; `decomcam-bench list models --all` names the architectures that work"
        )

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(self._position)

    def canonical(self, name: str) -> str:
        if name == "features" and name in self._position:
            return name
        match = re.fullmatch(r"stage(-?\d+)(?:\.(-?\d+))?", name)
        if match is None:
            raise self._refuse(name)
        stage, count = int(match.group(1)), len(self._blocks)
        if not -count <= stage < count:
            raise self._refuse(name)
        stage %= count
        blocks = self._blocks[stage]
        block = blocks - 1 if match.group(2) is None else int(match.group(2))
        if not -blocks <= block < blocks:
            raise self._refuse(name)
        block %= blocks
        return f"stage{stage}" if block + 1 == blocks else f"stage{stage}.{block}"

    def forward(self, images: Tensor, layers: Sequence[str]) -> tuple[Tensor, dict[str, LayerState]]:
        wanted = {self._position[layer]: layer for layer in layers}
        states: dict[str, LayerState] = {}
        x = images
        for position, module in enumerate(self._chain):
            x = module(x)
            if position in wanted:
                states[wanted[position]] = LayerState(x)
        return self._pool(x), states

    def head(self, layer: str, activations: Tensor, context: tuple[Tensor, ...]) -> Tensor:
        x = activations
        for module in self._chain[self._position[layer] + 1 :]:
            x = module(x)
        return self._pool(x)

    def _pool(self, x: Tensor) -> Tensor:
        features: Tensor = self.visual.head(self.visual.trunk.forward_head(x))
        return features

    def lacks(self, extra: str, layer: str) -> str:
        if extra == "attentions":
            return "its image tower is a CNN without attention from a class token"
        return "its image tower is a CNN without attention" if extra == "surgery_features" else ""

    def remark(self, layer: str) -> str:
        after = self._chain[self._position[layer] + 1 :]
        if not _nothing(after) or not self._averages():
            return ""
        other = len(self._blocks) - (1 if layer == "features" else 2)
        return (
            f"layer={layer} of {self.name}: its positions are averaged right away, so the gradient is the same at "
            f"every position and HiResCAM equals Grad-CAM; layer=stage{other} tells them apart"
        )

    def _averages(self) -> bool:
        """Return whether the first step of the trunk's head is an average over positions."""
        trunk = self.visual.trunk
        pool = getattr(trunk, "global_pool", None) or getattr(getattr(trunk, "head", None), "global_pool", None)
        return getattr(pool, "pool_type", "") in ("avg", "fast", "fastavg")


def _nothing(modules: Sequence[nn.Module]) -> bool:
    return all(isinstance(module, nn.Identity) for module in modules)


def _blocks(stage: _Call) -> tuple[list[_Call], list[_Call]]:
    """Return the calls of a stage before its blocks, and its blocks; or the stage as its own block."""
    inner = stage.chain()
    if inner is None:
        return [], [stage]
    if isinstance(stage.module, nn.Sequential):
        return [], inner
    blocks = inner[-1].chain() if inner[-1].name == f"{stage.name}.blocks" else None
    return ([], [stage]) if blocks is None else (inner[:-1], blocks)


def _is_map(call: _Call, channels: int) -> bool:
    made = call.made
    return isinstance(made, Tensor) and made.dim() == 4 and made.shape[1] == channels
