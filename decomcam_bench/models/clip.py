"""A CLIP model as the engine sees it: features of images and texts, layers, and counts of passes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decomcam_bench.core.errors import ConfigError, ModelError
from decomcam_bench.core.validation import check_choice
from decomcam_bench.models import vit_internals
from decomcam_bench.models.scoring import CLIP, CLIP_SCALE, SIMILARITY_SCORES, LogitScale
from decomcam_bench.models.towers import LayerState, Tower, tower_of

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
#: What a method may differentiate and score images with.
SCORES = (*SIMILARITY_SCORES, "dot")
LOGIT_SCALE = CLIP_SCALE


@dataclass
class Passes:
    """Count images, or pairs, that went through the model, by purpose.

    Attributes:
        backbone: images through the whole image tower, once each.
        head: activations through what follows a layer.
        backward: gradients of a score with respect to a layer.
        method_scored: (masked) images that a method scored.
        metric_scored: images that a metric scored.
    """

    backbone: int = 0
    head: int = 0
    backward: int = 0
    method_scored: int = 0
    metric_scored: int = 0

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True)
class TextBank:
    """Hold the embedded texts of a data set.

    Attributes:
        embeddings: (K, d) float32 of unit length, the normalised mean over a class's templates of
            normalised text features.
        norms: (K,), mean length of the features before normalisation.
        empty: (d,) float32 of unit length, the embedding of the prompt without a class name, if known.
        scale: turns cosines into logits as the model was trained.
    """

    embeddings: Tensor
    norms: Tensor
    empty: Tensor | None = None
    scale: LogitScale = CLIP

    def joined(self, more: TextBank) -> TextBank:
        """Return a bank with the texts of another one after its own."""
        return replace(
            self,
            embeddings=torch.cat([self.embeddings, more.embeddings]),
            norms=torch.cat([self.norms, more.norms]),
        )


@dataclass
class Backbone:
    """Hold the result of one pass over N images: unit-length features (N, d) float32 and the states of layers."""

    embeddings: Tensor
    states: dict[str, LayerState]


def similarity_to_score(
    similarity: Tensor,
    class_ids: Tensor,
    kind: str,
    scale: LogitScale = CLIP,
) -> Tensor:
    """Return the scores (M,) of pairs from cosine similarities (M, K) with every text.

    Args:
        class_ids: int64 (M,), the text of each pair.
        kind: see :meth:`LogitScale.scores`.
        scale: of the model.
    """
    return scale.scores(similarity, kind).gather(1, class_ids[:, None]).squeeze(1)


def text_scores(features: Tensor, bank: TextBank, kind: str) -> Tensor:
    """Return the scores (M, K) of image features with every text.

    Args:
        features: (M, d) float32, not normalised.
        kind: see :meth:`LogitScale.scores`, or ``dot``: the dot product of the features of image
            and text, neither of them normalised.
    """
    if kind == "dot":
        return features @ (bank.embeddings * bank.norms[:, None]).T
    return bank.scale.scores(F.normalize(features, dim=1) @ bank.embeddings.T, kind)


def _half_scale(gradients: Tensor) -> Tensor:
    """Return powers of two (M,) that bring the largest entry of each row (M, d) to between 128 and 256.

    Half precision has nothing below 6e-8: the gradient of a probability near 0 or 1 would vanish on
    its way back through the network. A power of two changes no other digit.
    """
    _, exponent = torch.frexp(gradients.abs().amax(1))
    return torch.where(exponent.isfinite(), torch.exp2(8.0 - exponent.clamp(-100, 100)), 1.0)


@dataclass(frozen=True)
class Outline:
    """What is known of a model without its weights.

    Attributes:
        tower: the image tower, its parameters possibly on the meta device.
        input_size: side of the square input.
        name: of the model, for messages.
    """

    tower: Tower
    input_size: int
    name: str

    @property
    def device(self) -> torch.device:
        """The device of the tower's parameters."""
        return next((p.device for p in self.tower.visual.parameters()), torch.device("cpu"))

    def layer_shapes(self, layers: Iterable[str] | None = None) -> dict[str, tuple[int, int, int]]:
        """Return (channels, height, width) of layers by their canonical names; of all that are listed by default."""
        names = list(self.tower.layers if layers is None else dict.fromkeys(layers))
        blank = torch.zeros(1, 3, self.input_size, self.input_size, device=self.device)
        with torch.no_grad():
            _, states = self.tower.forward(blank, names)
        shapes = {name: states[name].activations.shape for name in names}
        return {name: (shape[1], shape[2], shape[3]) for name, shape in shapes.items()}


class ClipModel:
    """A CLIP on a device.

    Args:
        clip: open_clip's model, in evaluation mode, float32.
        tokenizer: from texts to token ids (n, context).
        name: shown in messages.
        input_size: side of the square input.
        mean, std: normalisation of pixels in [0, 1].
        device: a torch device string.
        precision: ``fp32``, or ``fp16``/``bf16`` by autocast (weights stay float32).
    """

    def __init__(
        self,
        clip: nn.Module,
        tokenizer: Callable[[Sequence[str]], Tensor],
        name: str,
        input_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        device: str = "cpu",
        precision: str = "fp32",
    ) -> None:
        check_choice("precision", precision, PRECISIONS)
        self.device = torch.device(device)
        clip.eval().requires_grad_(False).to(device=self.device)
        clip.to(memory_format=torch.channels_last)
        self.clip: Any = clip
        visual: Any = clip.visual
        self.tokenizer = tokenizer
        self.tower: Tower = tower_of(visual, name)
        self.name = name
        self.input_size = input_size
        self.mean = (float(mean[0]), float(mean[1]), float(mean[2]))
        self.std = (float(std[0]), float(std[1]), float(std[2]))
        self.precision = precision
        self.scale = LogitScale.of(clip)
        self.passes = Passes()

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=PRECISIONS[self.precision])

    @contextlib.contextmanager
    def full_precision(self) -> Iterator[None]:
        """Compute in float32 within the block."""
        kept, self.precision = self.precision, "fp32"
        try:
            yield
        finally:
            self.precision = kept

    def prepare(self, images: Tensor) -> Tensor:
        """Return the normalised input (N, 3, H, W) on the device from uint8 (N, 3, H, W)."""
        mean = torch.tensor(self.mean, device=self.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=self.device).view(1, 3, 1, 1)
        moved = images.to(self.device, non_blocking=True)
        return ((moved.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)

    def text_bank(
        self, texts: Iterable[Sequence[str]], batch_size: int = 256, empty: Sequence[str] | None = None
    ) -> TextBank:
        """Embed K classes, each a list of texts that are averaged.

        Args:
            empty: the texts without a class name, averaged too.
        """
        groups = [list(group) for group in texts]
        if empty is not None:
            bank = self.text_bank([*groups, list(empty)], batch_size)
            return TextBank(
                bank.embeddings[:-1].clone(), bank.norms[:-1].clone(), bank.embeddings[-1].clone(), self.scale
            )
        flat = [text for group in groups for text in group]
        owner = torch.tensor([k for k, group in enumerate(groups) for _ in group], device=self.device)
        features = []
        with torch.inference_mode(), self._autocast():
            for start in range(0, len(flat), batch_size):
                tokens = self.tokenizer(flat[start : start + batch_size]).to(self.device)
                features.append(self.clip.encode_text(tokens, normalize=False).float())
        with torch.inference_mode():
            raw = torch.cat(features)
            size = torch.bincount(owner, minlength=len(groups)).unsqueeze(1)
            unit = torch.zeros(len(groups), raw.shape[1], device=self.device)
            unit = unit.index_add(0, owner, F.normalize(raw, dim=1)) / size
            norms = torch.zeros(len(groups), device=self.device).index_add(0, owner, raw.norm(dim=1)) / size[:, 0]
            embeddings = F.normalize(unit, dim=1)
        return TextBank(embeddings.clone(), norms.clone(), scale=self.scale)

    def backbone(self, images: Tensor, layers: Sequence[str] = ()) -> Backbone:
        """Run the tower once over normalised ``images`` and keep the states of canonical ``layers``."""
        with torch.no_grad(), self._autocast():
            features, states = self.tower.forward(images, layers)
        self.passes.backbone += len(images)
        return Backbone(F.normalize(features.float(), dim=1), states)

    def embed(self, images: Tensor, purpose: str = "method_scored", unit: bool = True) -> Tensor:
        """Return the features (M, d) float32 of images, of unit length by default; counted under ``purpose``."""
        with torch.no_grad(), self._autocast():
            features, _ = self.tower.forward(images.contiguous(memory_format=torch.channels_last), ())
        setattr(self.passes, purpose, getattr(self.passes, purpose) + len(images))
        return F.normalize(features.float(), dim=1) if unit else features.float()

    def head(
        self,
        layer: str,
        activations: Tensor,
        context: tuple[Tensor, ...],
        beside: tuple[Tensor, Tensor] | None = None,
        unit: bool = True,
    ) -> Tensor:
        """Return the features (M, d) float32 from a layer on, of unit length by default; differentiable.

        Args:
            context: of the layer's state.
            beside: channels (M,) and values (M,), put into the class token of a ViT's layer.
        """
        if beside is not None and context:
            channels, values = beside
            token = context[0].clone()
            token[torch.arange(len(token), device=token.device), :, channels] = values[:, None].to(token.dtype)
            context = (token, *context[1:])
        with self._autocast():
            features = self.tower.head(layer, activations, context)
        self.passes.head += len(activations)
        return F.normalize(features.float(), dim=1) if unit else features.float()

    def gradients(
        self,
        layer: str,
        state: LayerState,
        image_of: Tensor,
        class_ids: Tensor,
        bank: TextBank,
        kind: str = "logits",
        batch_size: int = 64,
    ) -> Tensor:
        """Return the gradients of each pair's score with respect to its image's activations.

        Args:
            layer: canonical name.
            state: of N images.
            image_of, class_ids: int64 (P,), the image and the text of each pair.
            kind: see :func:`text_scores`.

        Returns:
            (P, C, h, w) float32.
        """

        def run(activations: Tensor, context: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor]]:
            return self.head(layer, activations, context, unit=False), [activations]

        found = self._differentiated(run, state, image_of, class_ids, bank, kind, batch_size)
        return torch.cat([gradient for _, (gradient,) in found]).detach()

    def attentions(
        self,
        layer: str,
        state: LayerState,
        image_of: Tensor,
        class_ids: Tensor,
        bank: TextBank,
        kind: str = "logits",
        batch_size: int = 64,
    ) -> Tensor:
        """Return attention times the gradient of each pair's score, from a layer on; arguments as :meth:`gradients`.

        Returns:
            float32 (P, B, T, T) of the B blocks in order: the mean over heads of the positive products.
        """

        def run(activations: Tensor, context: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor]]:
            with self._autocast():
                features, weights = self.tower.attended(layer, activations, context)
            self.passes.head += len(activations)
            return features.float(), weights

        parts = []
        for weights, gradients in self._differentiated(run, state, image_of, class_ids, bank, kind, batch_size):
            products = [(w.detach() * g).float().relu().mean(1) for w, g in zip(weights, gradients, strict=True)]
            parts.append(torch.stack(products, 1))
        return torch.cat(parts) if parts else torch.zeros(0, 1, 1, 1, device=self.device)

    def _differentiated(
        self,
        run: Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, list[Tensor]]],
        state: LayerState,
        image_of: Tensor,
        class_ids: Tensor,
        bank: TextBank,
        kind: str,
        batch_size: int,
    ) -> Iterator[tuple[list[Tensor], tuple[Tensor, ...]]]:
        """Differentiate each pair's score, ``batch_size`` pairs at a time; arguments as :meth:`gradients`.

        Args:
            run: from activations (m, C, h, w) of a batch and their context to features (m, d), not
                normalised, and the tensors to differentiate with respect to.

        Yields:
            These tensors of a batch and, of the same shapes, the gradients; 0 where the score does
            not depend on them.
        """
        for start in range(0, len(image_of), batch_size):
            chosen = image_of[start : start + batch_size]
            with torch.enable_grad():
                activations = state.activations[chosen].float().detach().requires_grad_()
                features, inputs = run(activations, tuple(c[chosen] for c in state.context))
                own = class_ids[start : start + batch_size, None]
                score = text_scores(features, bank, kind).gather(1, own)
                (outer,) = torch.autograd.grad(score.sum(), features, retain_graph=True)
                scale = _half_scale(outer) if self.precision == "fp16" else torch.ones_like(outer[:, 0])
                scaled = torch.autograd.grad(features, inputs, outer * scale[:, None], materialize_grads=True)
            self.passes.backward += len(chosen)
            yield inputs, tuple(g.float() / scale.view(-1, *[1] * (g.dim() - 1)) for g in scaled)

    def attention_weights(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return the attention of every block, see :mod:`decomcam_bench.models.vit_internals`; one backbone pass."""
        with torch.no_grad(), self._autocast():
            found, grid = vit_internals.attention_weights(self.tower, images)
        self.passes.backbone += len(images)
        return found.float(), grid

    def dense_features(self, images: Tensor, attention: str, blocks: int, std: float) -> Tensor:
        """Return patch features, see :mod:`decomcam_bench.models.vit_internals`; one backbone pass."""
        with torch.no_grad(), self._autocast():
            found = vit_internals.dense_features(self.tower, images, attention, blocks, std)
        self.passes.backbone += len(images)
        return found.float()

    def legrad_gradients(
        self,
        images: Tensor,
        blocks: int,
        image_of: Tensor,
        class_ids: Tensor,
        bank: TextBank,
        kind: str,
        batch_size: int,
    ) -> Tensor:
        """Return what LeGrad adds up for each pair, see :mod:`decomcam_bench.models.vit_internals`.

        Takes a backbone pass of each image that has a pair, and a gradient per pair.
        """
        own, inside = image_of.unique(return_inverse=True)
        with self._autocast():
            found = vit_internals.legrad_gradients(
                self.tower, images[own], blocks, inside, self._pair_score(class_ids, bank, kind), batch_size
            )
        self.passes.backbone += len(own)
        self.passes.backward += len(image_of)
        return found

    def class_token_gradients(
        self,
        images: Tensor,
        single_head: bool,
        image_of: Tensor,
        class_ids: Tensor,
        bank: TextBank,
        kind: str,
        batch_size: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what Grad-ECLIP multiplies, see :mod:`decomcam_bench.models.vit_internals`; values of all images.

        Takes a backbone pass of each image that has a pair, and a gradient per pair.
        """
        own, inside = image_of.unique(return_inverse=True)
        with self._autocast():
            slopes, values, cosine = vit_internals.class_token_gradients(
                self.tower, images[own], single_head, inside, self._pair_score(class_ids, bank, kind), batch_size
            )
        self.passes.backbone += len(own)
        self.passes.backward += len(image_of)
        spread = torch.zeros(len(images), dtype=torch.int64, device=self.device)
        spread[own] = torch.arange(len(own), device=self.device)
        return slopes, values[spread], cosine[spread]

    def bottleneck_capacity(
        self,
        images: Tensor,
        block: int,
        image_of: Tensor,
        text: Tensor,
        beta: float,
        steps: int,
        samples: int,
        seeds: Sequence[int],
    ) -> Tensor:
        """Return M2IB's maps, see :mod:`decomcam_bench.models.vit_internals`.

        Takes a backbone pass of each image that has a pair, and ``steps * samples`` gradients per pair.
        """
        own, inside = image_of.unique(return_inverse=True)
        with self._autocast():
            found = vit_internals.bottleneck_capacity(
                self.tower, images[own], block, inside, text, beta, steps, samples, seeds
            )
        self.passes.backbone += len(own)
        self.passes.backward += len(image_of) * steps * samples
        return found

    def image_gradients(self, images: Tensor, class_ids: Tensor, bank: TextBank, kind: str) -> Tensor:
        """Return the gradients (M, 3, H, W) of the scores of images (M, 3, H, W) for texts (M,)."""
        with torch.enable_grad():
            inputs = images.detach().clone().requires_grad_()
            with self._autocast():
                features, _ = self.tower.forward(inputs, ())
            score = text_scores(features.float(), bank, kind).gather(1, class_ids[:, None]).sum()
            (found,) = torch.autograd.grad(score, inputs)
        self.passes.backward += len(images)
        return found.float()

    def _pair_score(self, class_ids: Tensor, bank: TextBank, kind: str) -> Callable[[Tensor, Tensor], Tensor]:
        """Return a function from features (m, d) and pairs (m,) to scores (m,)."""
        return lambda features, pair: text_scores(features, bank, kind).gather(1, class_ids[pair, None])[:, 0]

    def surgery_features(self, images: Tensor, blocks: int, values: str) -> tuple[Tensor, Tensor]:
        """Return float32 features by CLIP Surgery's path, see :meth:`Tower.surgery`; takes one backbone pass."""
        with torch.no_grad(), self._autocast():
            tokens, patches = self.tower.surgery(images, blocks, values)
        self.passes.backbone += len(images)
        return tokens.float(), patches.float()

    def layer_shapes(self, layers: Iterable[str] | None = None) -> dict[str, tuple[int, int, int]]:
        """Return (channels, height, width) of layers by their canonical names; of all that are listed by default."""
        return Outline(self.tower, self.input_size, self.name).layer_shapes(layers)


def resolve_device(name: str) -> str:
    """Return ``cuda`` or ``cpu`` for ``auto``, and any other name once it is checked.

    Raises:
        ConfigError: for a name that torch does not know.
        ModelError: for a CUDA device that is not there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name != "cpu" and name != "cuda" and not (name.startswith("cuda:") and name[5:].isdigit()):
        raise ConfigError(f"device={name}: valid: auto, cpu, cuda, cuda:N")
    if name != "cpu":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        number = int(name[5:]) if ":" in name else 0
        if number >= count:
            raise ModelError(f"device={name}: {count} CUDA devices are present; use device=cpu or device=auto")
    return name
