"""Build what methods and metrics see of a batch of pairs from one backbone pass."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decomcam_bench.core.errors import ConfigError, ModelError, unknown
from decomcam_bench.datasets.base import Target, printable
from decomcam_bench.methods.base import EXTRAS, Evidence, Method, explained
from decomcam_bench.methods.controls import BadMaskError
from decomcam_bench.models.clip import Backbone, ClipModel, Outline, Passes, TextBank, text_scores
from decomcam_bench.models.geometry import Geometry
from decomcam_bench.models.network import Network
from decomcam_bench.models.towers import LayerState
from decomcam_bench.models.vit_internals import lacking


def pair_seed(seed: int, image_id: str, class_id: int) -> int:
    """Return a seed for one pair, the same on every machine and in every order of evaluation."""
    digest = hashlib.sha256(f"{seed}\0{image_id}\0{class_id}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def image_seed(seed: int, image_id: str) -> int:
    """Return a seed for one image, the same on every machine and in every order of evaluation."""
    digest = hashlib.sha256(f"{seed}\0{image_id}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


#: All that a method may name in its ``needs``.
#: Extras that are computed pair by pair, from a pass over the images that have one.
PER_PAIR = frozenset({"legrad_gradients", "class_token_gradients", "bottleneck_capacity"})
NEEDS = ("gradients", "score", "head", "object_masks", *EXTRAS)


def check_needs(model: ClipModel | Outline, method: Method, layer: str) -> None:
    """Refuse a method that reads what the model cannot give at a layer (empty: it reads none).

    Raises:
        ConfigError: for a need that does not exist.
        ModelError: for one that this image tower does not have.
    """
    name = type(method).__name__
    for need in sorted(method.needs):
        if need not in NEEDS:
            raise ConfigError(f"method {name}: {unknown('need', need, NEEDS)}")
        reason = model.tower.lacks(need, layer) or lacking(model.tower, need)
        if reason:
            raise ModelError(
                f"method {name} cannot explain model {model.name}"
                f"{f' at layer={layer}' if layer else ''}: {reason}; use a model that pools by a class token "
                f"(toyclip_vit, vit_b32, vit_b16, vit_l14, eva02_b16, ...) and one of the layers before its end"
            )
        if need == "attentions" and not layer:
            raise ConfigError(f"method {name}: attentions follow a layer, so a method that needs them reads one")


@dataclass
class Batch:
    """Hold P pairs of N images with one backbone pass.

    Attributes:
        images: (N, 3, H, W), normalised, on the device.
        backbone: of the images.
        image_of, class_ids: int64 (P,) on the device.
        image_ids: N ids.
        targets: P annotated classes.
        geometries: N geometries.
        region: ``box`` or ``mask``, what the oracle control draws.
    """

    images: Tensor
    backbone: Backbone
    image_of: Tensor
    class_ids: Tensor
    image_ids: Sequence[str]
    targets: Sequence[Target]
    geometries: Sequence[Geometry]
    region: str

    def __len__(self) -> int:
        return len(self.targets)

    def object_masks(self) -> Tensor:
        """Return the annotated region of each pair at input resolution, bool (P, H, W).

        Raises:
            BadMaskError: when those of some pairs cannot be decoded; it carries the others.
        """
        masks = []
        reasons: dict[int, str] = {}
        for pair, (image, target) in enumerate(zip(self.image_of.tolist(), self.targets, strict=True)):
            geometry = self.geometries[image]
            try:
                mask = target.object_mask() if self.region == "mask" else None
            except ValueError as error:
                reasons[pair] = str(error)
                mask = np.zeros((geometry.height, geometry.width), dtype=bool)
            if mask is None:
                mask = target.box_mask(geometry.height, geometry.width)
            masks.append(geometry.mask_to_input(mask))
        found = torch.from_numpy(np.stack(masks)).to(self.images.device)
        if reasons:
            raise BadMaskError(found, reasons)
        return found


class EvidenceMaker:
    """Make :class:`Evidence` for a model and its texts.

    Args:
        batch_size: most images, or pairs, through the model at a time.
        seed: of methods that draw at random.
    """

    def __init__(self, model: ClipModel, bank: TextBank, batch_size: int, seed: int) -> None:
        self.model, self.bank, self.batch_size, self.seed = model, bank, batch_size, seed
        self._checked: set[tuple[str, str]] = set()
        self._passes: tuple[Backbone | None, dict[tuple[object, ...], Any]] = (None, {})
        self._gradients: tuple[Batch | None, dict[tuple[str, str, bool], Tensor]] = (None, {})
        self._full: tuple[Backbone | None, dict[str, LayerState]] = (None, {})

    def evidence(
        self,
        batch: Batch,
        layer: str,
        kind: str,
        needs: frozenset[str] = frozenset(),
        differentiated: str | None = None,
        full_precision: bool = False,
    ) -> Evidence:
        """Return what the model saw of the pairs at a layer (empty: none).

        Args:
            kind: what images and activations are scored with.
            needs: of the methods that it is for; only the extras among them are given.
            differentiated: the score whose gradients are taken; ``kind`` if None.
            full_precision: whether activations and gradients are float32 even in a run of half precision.
        """
        slope = differentiated or kind
        model, bank = self.model, self.bank
        count = len(batch.images)
        full = full_precision and model.precision != "fp32" and bool(layer)
        state = batch.backbone.states[layer] if layer else LayerState(batch.images.new_zeros(count, 0, 1, 1))
        if full:
            state = self._full_state(batch, layer)

        def score(images: Tensor, pair: Tensor) -> Tensor:
            features = model.embed(images, "method_scored", unit=False)
            return text_scores(features, bank, kind).gather(1, batch.class_ids[pair, None])[:, 0]

        def score_images(images: Tensor, image: Tensor) -> Tensor:
            features = model.embed(images, "method_scored", unit=False)
            return text_scores(features, bank, kind)[:, batch.class_ids]

        def head(activations: Tensor, pair: Tensor, beside: tuple[Tensor, Tensor] | None = None) -> Tensor:
            self._check_unseen(layer, kind, state, batch)
            context = tuple(tensor[batch.image_of[pair]] for tensor in state.context)
            with torch.no_grad():
                features = model.head(layer, activations, context, beside, unit=False)
            return text_scores(features, bank, kind).gather(1, batch.class_ids[pair, None])[:, 0]

        def attentions() -> Tensor:
            return model.attentions(layer, state, batch.image_of, batch.class_ids, bank, slope, self.batch_size)

        extras: dict[str, Callable[..., Any]] = {
            "attentions": attentions,
            "surgery_features": lambda blocks, values: self._once(
                batch, ("surgery", blocks, values), lambda: model.surgery_features(batch.images, blocks, values)
            ),
            "attention_weights": lambda: self._once(
                batch, ("attention",), lambda: model.attention_weights(batch.images)
            ),
            "dense_features": lambda attention, blocks, std: self._once(
                batch,
                ("dense", attention, blocks, std),
                lambda: model.dense_features(batch.images, attention, blocks, std),
            ),
            "legrad_gradients": lambda blocks: model.legrad_gradients(
                batch.images, blocks, batch.image_of, batch.class_ids, bank, slope, self.batch_size
            ),
            "class_token_gradients": lambda single_head: model.class_token_gradients(
                batch.images, single_head, batch.image_of, batch.class_ids, bank, slope, self.batch_size
            ),
            "bottleneck_capacity": lambda block, beta, steps, samples, seeds: model.bottleneck_capacity(
                batch.images, block, batch.image_of, bank.embeddings[batch.class_ids], beta, steps, samples, seeds
            ),
            "network": lambda: Network(model, layer, bank, slope),
            "image_gradients": lambda images, pair: model.image_gradients(images, batch.class_ids[pair], bank, slope),
            "text_embeddings": lambda: bank.embeddings,
            "empty_text": lambda: bank.empty,
            "class_ids": lambda: batch.class_ids,
        }
        images_of = batch.image_of.tolist()
        return Evidence(
            images=batch.images,
            image_of=batch.image_of,
            image_activations=state.activations,
            gradients_source=lambda: self._gradients_of(batch, layer, slope, state, full),
            score=score,
            score_images=score_images,
            head=head,
            mean=model.mean,
            std=model.std,
            seeds=[
                pair_seed(self.seed, batch.image_ids[image], target.class_id)
                for image, target in zip(images_of, batch.targets, strict=True)
            ],
            image_seeds=[image_seed(self.seed, image_id) for image_id in batch.image_ids],
            object_masks=batch.object_masks,
            extras={name: make for name, make in extras.items() if name in needs},
            pair_names=[
                (batch.image_ids[image], printable(target.class_name))
                for image, target in zip(images_of, batch.targets, strict=True)
            ],
            map_to_input=lambda pair, found: batch.geometries[images_of[pair]].map_to_input(found),
            batch_size=self.batch_size,
        )

    def _full_state(self, batch: Batch, layer: str) -> LayerState:
        """Return the state of a layer in float32: one further backbone pass of a batch's images for all layers."""
        if self._full[0] is not batch.backbone:
            with self.model.full_precision():
                states = self.model.backbone(batch.images, list(batch.backbone.states)).states
            self._full = (batch.backbone, states)
        return self._full[1][layer]

    def _gradients_of(self, batch: Batch, layer: str, kind: str, state: LayerState, full: bool) -> Tensor:
        """Return the gradients of the batch at a layer, computed once for all methods that differentiate ``kind``."""
        if self._gradients[0] is not batch:
            self._gradients = (batch, {})
        known = self._gradients[1]
        if (layer, kind, full) not in known:
            with self.model.full_precision() if full else contextlib.nullcontext():
                found = self.model.gradients(
                    layer, state, batch.image_of, batch.class_ids, self.bank, kind, self.batch_size
                )
            self._check(layer, kind, found, batch)
            known[layer, kind, full] = found
        return known[layer, kind, full]

    def _once(self, batch: Batch, key: tuple[object, ...], make: Callable[[], Any]) -> Any:
        """Return what one pass over a batch's images gives, remembered for the other pairs of the same images."""
        if self._passes[0] is not batch.backbone:
            self._passes = (batch.backbone, {})
        known = self._passes[1]
        if key not in known:
            known[key] = make()
        return known[key]

    def _check(self, layer: str, kind: str, gradients: Tensor, batch: Batch) -> None:
        """Refuse a layer whose gradients are all zero or not finite where those of other layers are not.

        Where no layer has any, or none but for rounding, the pairs are to blame: they fail one by one,
        and the next batch is looked at in its turn.
        """
        if (layer, kind) in self._checked or not len(batch):
            return
        if not usable(gradients):
            good = self._working_layers(batch, kind)
            if not good or layer in good:
                return
            what = "zero" if bool(torch.isfinite(gradients).all()) else "not finite"
            raise ModelError(
                f"layer={layer}: the gradients of {self.model.name} are {what} there; "
                f"layers that work: {', '.join(good)}"
            )
        self._checked.add((layer, kind))

    def _check_unseen(self, layer: str, kind: str, state: LayerState, batch: Batch) -> None:
        """Do the same for methods that put activations back into the network and read no gradient of them."""
        if (layer, kind) not in self._checked:
            with counted_apart(self.model):
                found = self.model.gradients(
                    layer, state, batch.image_of[:1], batch.class_ids[:1], self.bank, kind, self.batch_size
                )
            self._check(layer, kind, found, batch)

    def _working_layers(self, batch: Batch, kind: str) -> list[str]:
        names = self.model.tower.layers
        with counted_apart(self.model):
            states = self.model.backbone(batch.images[batch.image_of[:1]], names).states
            first = torch.zeros(1, dtype=torch.long, device=batch.images.device)
            return [
                name
                for name in names
                if usable(self.model.gradients(name, states[name], first, batch.class_ids[:1], self.bank, kind))
            ]

    def remap(self, batch: Batch, layer: str, method: Method, rank: int | None) -> Callable[[Tensor], Tensor] | None:
        """Return a function from changed images (P, 3, H, W) of the pairs to their maps (P, H, W).

        Every pass that it takes counts as metric-scored. None for a method that is not repeatable.
        """
        if not method.repeatable:
            return None

        def maps_of(images: Tensor) -> Tensor:
            with counted_apart(self.model) as passes:
                pairs = torch.arange(len(batch), device=batch.images.device)
                changed = Batch(
                    images,
                    self.model.backbone(images, [layer] if layer else []),
                    pairs,
                    batch.class_ids,
                    [batch.image_ids[image] for image in batch.image_of.tolist()],
                    batch.targets,
                    [batch.geometries[image] for image in batch.image_of.tolist()],
                    batch.region,
                )
                evidence = self.evidence(
                    changed, layer, method.score, method.needs, method.differentiated, method.full_precision
                )
                explanation = explained(method, evidence, [rank])[rank]
                maps = explanation.maps((images.shape[-2], images.shape[-1]))
            self.model.passes.metric_scored += passes.backbone + passes.head + passes.method_scored
            return maps

        return maps_of

    def retext(
        self,
        batch: Batch,
        plan: Any,
        targets: Sequence[Target],
        class_ids: Sequence[int],
        bank: TextBank | None = None,
    ) -> Tensor:
        """Return the maps (P, H, W) of the pairs of a batch with other texts.

        Args:
            batch: the pairs.
            plan: of the cell: its layer, method and rank.
            targets: what is annotated for the other texts, for methods that draw it.
            class_ids: of the other texts.
            bank: that holds them; None: the data set's own.
        """
        method = plan.method
        maker = self if bank is None else EvidenceMaker(self.model, bank, self.batch_size, self.seed)
        own = [
            target if target.class_id == class_id else replace(target, class_id=class_id)
            for target, class_id in zip(targets, class_ids, strict=True)
        ]
        changed = replace(batch, class_ids=torch.tensor(class_ids, device=batch.images.device), targets=own)
        size = (batch.images.shape[-2], batch.images.shape[-1])
        with counted_apart(self.model) as passes:
            evidence = maker.evidence(
                changed, plan.layer, method.score, method.needs, method.differentiated, method.full_precision
            )
            maps = explained(method, evidence, [plan.rank])[plan.rank].maps(size)
        self.model.passes.metric_scored += passes.backbone + passes.head + passes.method_scored
        return maps


def usable(gradients: Tensor) -> bool:
    """Return True if any gradient is finite and not zero."""
    return bool((torch.isfinite(gradients) & (gradients != 0)).any())


@contextmanager
def counted_apart(model: ClipModel) -> Iterator[Passes]:
    """Count the passes of a block on their own instead of with the run's."""
    before, model.passes = model.passes, Passes()
    try:
        yield model.passes
    finally:
        model.passes = before
