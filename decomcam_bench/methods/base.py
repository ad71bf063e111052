"""The method contract: a saliency method is a function of :class:`Evidence` alone.

Shapes: P pairs (image, text) of N images; C channels on an (h, w) grid; the model's input has (H, W)
pixels. A method returns one :class:`Explanation` for each rank that it is asked for.

To add a method, write one dataclass, whose fields are its options, and one YAML under
``configs/method``.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from decomcam_bench.core.errors import ConfigError, MethodError, UserError
from decomcam_bench.core.reasons import Why
from decomcam_bench.core.validation import check_choice

#: What :attr:`Evidence.extras` may hold in addition to images and activations. Each is a function:
#: ``attentions()``: float32 (P, B, T, T) for the B blocks of a ViT from the layer on, in order, where T
#:   counts the class token and the patches: mean over heads of the ReLU of attention times its gradient;
#: ``surgery_features(blocks, values)``: features before normalisation along CLIP Surgery's path, of the
#:   class token (N, d) and of the grid (N, d, h, w); see :mod:`decomcam_bench.models.surgery`;
#: ``text_embeddings()``: (K, d), unit length, of all texts of the data set;
#: ``empty_text()``: (d,), unit length, of the prompt with nothing in the place of the class name;
#: ``attention_weights()`` (with the grid), ``dense_features(attention, blocks, std)``, ``legrad_gradients(blocks)`` and
#:   ``class_token_gradients(single_head)``: see :mod:`decomcam_bench.models.vit_internals`;
#: ``bottleneck_capacity(block, beta, steps, samples, seeds)``: see the same;
#: ``image_gradients(images, pair)``: float32 (M, 3, H, W), of the scores of images (M, 3, H, W) for pairs (M,);
#: ``network()``: an ``nn.Module`` from images to the scores of all texts, see
#:   :class:`decomcam_bench.models.network.Network`;
#: ``class_ids()``: int64 (P,), the index of each pair's own text among them.
EXTRAS = (
    "attentions",
    "surgery_features",
    "text_embeddings",
    "empty_text",
    "attention_weights",
    "dense_features",
    "legrad_gradients",
    "class_token_gradients",
    "image_gradients",
    "bottleneck_capacity",
    "network",
    "class_ids",
)

#: How native maps are upsampled to input resolution, see :class:`Explanation`.
MODES = ("bilinear", "bicubic", "none")

#: What a method may differentiate and score masked images with.
SCORES = ("logits", "cosine", "softmax", "sigmoid", "dot")


class ScoreFunction(Protocol):
    """Scores images against the text of a pair."""

    def __call__(self, images: Tensor, pair: Tensor) -> Tensor:
        """Return the scores (M,) of normalised ``images`` (M, 3, H, W) for pairs ``pair`` (M,) int64."""


class SharedScoreFunction(Protocol):
    """Scores images that depend on no text against the texts of all pairs, in one pass."""

    def __call__(self, images: Tensor, image: Tensor) -> Tensor:
        """Return the scores (M, P) of normalised ``images`` (M, 3, H, W) for every pair.

        Args:
            image: int64 (M,), the image of the evidence that each was made from.
        """


class HeadFunction(Protocol):
    """Runs what follows the layer."""

    def __call__(self, activations: Tensor, pair: Tensor, beside: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return the scores (M,) with ``activations`` (M, C, h, w) in place of those of ``pair`` (M,).

        Args:
            beside: channels (M,) and values (M,): whatever else the layer holds of that channel (the
                class token of a ViT) is set to the value. Used by methods that change single channels.
        """


def _absent(what: str) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise ValueError(f"this evidence has no {what}; the method must declare it in `needs`")

    return refuse


@dataclass
class Evidence:
    """What CLIP saw of P pairs at one layer. Tests build it from plain tensors.

    Attributes:
        images: (N, 3, H, W), the normalised model input.
        image_of: int64 (P,), the image of each pair.
        image_activations: (N, C, h, w) at the layer.
        gradients: (P, C, h, w), of the score with respect to the activations; computed when a method
            first reads :attr:`gradients` if the source is a callable.
        score: scores (masked) images against the text of a pair.
        score_images: scores images made without looking at a text against all texts at once; without
            it, :func:`shared_scores` falls back to ``score``, one text at a time.
        head: scores activations put in place of the layer's own.
        mean, std: (3,), the normalisation of ``images``: pixels in [0, 1] are images * std + mean.
        seeds: one integer per pair, the same on every machine, for methods that draw at random.
        image_seeds: one integer per image, for random draws that all texts of an image share.
        object_masks: bool (P, H, W), the annotated region at input resolution; for the oracle control only.
        extras: what else a method declares in its ``needs``, by name: functions that compute it on
            demand, see :data:`EXTRAS`.
        pair_names: (image id, class name or free text) of each pair.
        map_to_input: takes a pair and a map (h', w') over its whole original image, and returns that
            map in the geometry of the model's input, float32 (H, W).
        batch_size: maximum number of images to score at a time.
    """

    images: Tensor
    image_of: Tensor
    image_activations: Tensor
    gradients_source: Tensor | Callable[[], Tensor] = field(default_factory=lambda: _absent("gradients"))
    score: ScoreFunction = field(default_factory=lambda: _absent("score"))
    score_images: SharedScoreFunction | None = None
    head: HeadFunction = field(default_factory=lambda: _absent("head"))
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    seeds: Sequence[int] = ()
    image_seeds: Sequence[int] = ()
    object_masks: Callable[[], Tensor] = field(default_factory=lambda: _absent("object masks"))
    extras: dict[str, Callable[..., Any]] = field(default_factory=dict)
    pair_names: Sequence[tuple[str, str]] = ()
    map_to_input: Callable[[int, np.ndarray], np.ndarray] = field(default_factory=lambda: _absent("geometry"))
    batch_size: int = 64

    def __len__(self) -> int:
        return len(self.image_of)

    @property
    def device(self) -> torch.device:
        return self.images.device

    @property
    def input_size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.images.shape[-2], self.images.shape[-1]

    @property
    def activations(self) -> Tensor:
        """The activations of each pair's image, float32 (P, C, h, w)."""
        return self.image_activations[self.image_of].float()

    @property
    def gradients(self) -> Tensor:
        """The gradients of each pair's score, float32 (P, C, h, w), computed on first use."""
        if callable(self.gradients_source):
            self.gradients_source = self.gradients_source()
        return self.gradients_source.float()

    @property
    def all_pairs(self) -> Tensor:
        """The indices 0 .. P-1 on the device, int64 (P,)."""
        return torch.arange(len(self), device=self.device)

    def pixels(self) -> Tensor:
        """Return the images in [0, 1], float32 (N, 3, H, W)."""
        return self.images.float() * self._column(self.std) + self._column(self.mean)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Return pixels in [0, 1] as model input, in the dtype of :attr:`images`."""
        return ((pixels - self._column(self.mean)) / self._column(self.std)).to(self.images.dtype)

    def _column(self, values: tuple[float, float, float]) -> Tensor:
        return torch.tensor(values, device=self.device, dtype=torch.float32).view(1, 3, 1, 1)


@dataclass
class Components:
    """What a decomposition found, in order of importance.

    Attributes:
        native: (P, q, h, w) float32, non-negative component maps on the layer's grid (for DecomCAM
            the OSSMs before upsampling).
        weights: (P, q), the weight of each component in the final map.
        scores: (P, q), the score of the image masked with each component, or None if none is taken.
        differences: (P, q), :attr:`scores` minus the score of the fully blurred image, or None if that
            image was not scored. Negative where the component shows the model less than the blur does.
        singular_values: (P, q) or None.
        explained: (P, q), share of the variance (of the squared norm without centring), or None.
        mode: how ``native`` is upsampled, see :class:`Explanation`.
    """

    native: Tensor
    weights: Tensor
    scores: Tensor | None = None
    differences: Tensor | None = None
    singular_values: Tensor | None = None
    explained: Tensor | None = None
    mode: str = "bicubic"

    def first(self, count: int) -> Components:
        """Return the first ``count`` components."""
        tensors: dict[str, Any] = {k: v[:, :count] for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **tensors)

    def maps(self, size: tuple[int, int]) -> Tensor:
        """Return the component maps at (H, W), non-negative, float32 (P, q, H, W)."""
        return upsample(self.native, size, self.mode).relu()


@dataclass
class Explanation:
    """The maps of a method for P pairs.

    Attributes:
        native: (P, h', w') float32, before upsampling; at input resolution if the map is not upsampled
            from anything smaller. May be negative: :meth:`maps` applies the ReLU last.
        mode: ``bilinear``, ``bicubic`` or ``none`` (already at input resolution).
        components: of methods that decompose.
        failures: pair -> reason, for pairs for which the method could compute no map.
        scored: int64 (P,), images scored for each pair at this rank, as if no other rank and no other
            text had been asked for; None if the method's cost says it exactly. :func:`explained`
            counts it for methods without a rank.
        foreign: pair -> float32 (h, w), non-negative, for maps of another program that cover the whole original
            image: metrics that are defined in original pixels read them as they are.
    """

    native: Tensor
    mode: str = "bilinear"
    components: Components | None = None
    failures: dict[int, Why] = field(default_factory=dict)
    scored: Tensor | None = None
    foreign: dict[int, np.ndarray] = field(default_factory=dict)

    def maps(self, size: tuple[int, int]) -> Tensor:
        """Return the saliency maps at (H, W): float32 (P, H, W), after the ReLU, not min-maxed."""
        return upsample(self.native, size, self.mode).relu()

    def costs(self, cost: Cost) -> list[Cost]:
        """Return the cost of each pair, given the ``cost`` that the method declares."""
        if self.scored is None:
            return [cost] * len(self.native)
        return [replace(cost, scored=scored) for scored in self.scored.tolist()]


def upsample(maps: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Resize (..., h, w) to (..., H, W); half-pixel centres, bicubic with a = -0.75 as in OpenCV."""
    if mode == "none" or tuple(maps.shape[-2:]) == tuple(size):
        return maps
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    resized = F.interpolate(flat, size=size, mode=mode, align_corners=False)
    return resized.reshape(*maps.shape[:-2], *size)


def min_max(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Scale values to [0, 1] over ``dims``; constant values become 0."""
    low, high = values.amin(dims, keepdim=True), values.amax(dims, keepdim=True)
    spread = high - low
    return torch.where(spread > 0, (values - low) / spread.clamp_min(torch.finfo(values.dtype).tiny), 0.0)


@dataclass(frozen=True)
class Cost:
    """Passes that a method needs in addition to the one backbone pass per image that all methods share.

    Attributes:
        backward: gradients per pair (each is one head pass with its backward pass).
        head: further head passes per pair.
        scored: images scored per pair; an upper bound where :attr:`Explanation.scored` gives the number.
        shared: how many of ``scored`` are the same for all texts of an image, and scored once for them.
        backbone: further backbone passes per image, which its pairs share.
    """

    backward: int = 0
    head: int = 0
    scored: int = 0
    shared: int = 0
    backbone: int = 0


@dataclass
class Method(abc.ABC):
    """Base of all methods. Subclasses are dataclasses; their fields are their options.

    A method that both differentiates a score and scores masked images has a second field,
    ``gradient_score``, for the former.

    Attributes:
        id: stable name of the class in cell keys, whatever file holds it; the class's name if empty. A
            subclass declares its own.
        uses_layer: whether it reads a layer of the model; controls do not.
        random: whether it draws at random, so that the seed is part of the cell key.
        needs: what it reads in addition to images and activations: any of ``gradients``, ``score``,
            ``head``, ``object_masks`` and names of :data:`EXTRAS`.
        ranked: whether :meth:`explain` depends on the rank.
        default_rank: the rank of a ranked method if none is asked for.
        nested: smaller ranks reuse the passes of the largest rank; otherwise each rank has its own.
        full_precision: whether activations and gradients are computed in float32 whatever the precision of the
            run, because the formula magnifies the rounding of half precision; masked images are not.
        repeatable: whether it can explain images other than those of the data set; maps that come
            from files cannot be computed again.
        score: what masked images are scored with, and what is differentiated unless there is a
            ``gradient_score``: ``logits`` (the cosine times the model's own scale, 100 in CLIP, plus
            SigLIP's bias), ``cosine``, ``softmax`` of the logits over the data set's prompts,
            ``sigmoid`` of the logit, or ``dot`` (dot product of the features as the towers return
            them).
        version: part of the cell key; bump it when the maps change.
    """

    score: str = "logits"

    id: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = frozenset()
    ranked: ClassVar[bool] = False
    default_rank: ClassVar[int] = 10
    nested: ClassVar[bool] = True
    repeatable: ClassVar[bool] = True
    full_precision: ClassVar[bool] = False
    uses_layer: ClassVar[bool] = True
    random: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_choice("method.score", self.score, SCORES)
        check_choice("method.gradient_score", self.differentiated, SCORES)

    @property
    def differentiated(self) -> str:
        """The score that is differentiated: ``gradient_score``, or :attr:`score` for methods with one score."""
        return str(getattr(self, "gradient_score", self.score))

    @property
    def identity(self) -> dict[str, Any]:
        """The options that decide the maps, for the cell key."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.init and f.name != "name"}

    @abc.abstractmethod
    def explain(self, evidence: Evidence, ranks: Sequence[int | None]) -> dict[int | None, Explanation]:
        """Return the explanation at each rank; what the ranks share is computed once.

        A method without a rank is asked for ``[None]``.
        """

    def foreign_map(self, image_id: str, class_name: str, input_size: tuple[int, int]) -> np.ndarray | None:
        """Return a pair's map over the whole original image, if another program made it.

        Args:
            image_id: of the pair.
            class_name: of the pair.
            input_size: (H, W) of the model's input.

        Returns:
            float32 (h, w), non-negative; None for maps over the model's input, which all other methods give.
        """
        return None

    @abc.abstractmethod
    def cost(self, rank: int | None, channels: int) -> Cost:
        """Return the passes per pair at a layer of ``channels`` channels."""

    @property
    def backbone_pass(self) -> tuple[object, ...] | None:
        """What identifies the further backbone pass of :meth:`cost`; methods with equal ones share it."""
        return None

    def reporting(self) -> Method:
        """Return a method with the same maps that also reports what the maps do not depend on.

        For a single image, where a few more passes do not matter; see :attr:`Components.differences`.
        """
        return self

    def resolved(self, rank: int | None) -> int:
        """Return the rank itself, or :attr:`default_rank` for None.

        Raises:
            ConfigError: for a rank below 1.
        """
        if rank is None:
            return self.default_rank
        if rank < 1:
            raise ConfigError(f"rank={rank}: must be at least 1")
        return rank


def explained(method: Method, evidence: Evidence, ranks: Sequence[int | None]) -> dict[int | None, Explanation]:
    """Run the method, validate its result, and count the images scored for each pair.

    Raises:
        MethodError: if the method raises, or its result is not what :class:`Explanation` says.
    """
    name = type(method).__name__
    try:
        with _counted_scores(evidence) as counts:
            answers = method.explain(evidence, ranks)
        scored = counts.cpu()
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raise MethodError(
            f"method {name}: {type(error).__name__}: {text}; finished shards are kept, --debug shows where"
        ) from error
    for rank in ranks:
        answer = answers.get(rank) if isinstance(answers, dict) else None
        reason = _malformed(answer, len(evidence), evidence.input_size)
        if reason:
            raise MethodError(f"method {name}: {reason}; finished shards are kept")
    if not method.ranked:  # Ranks share what they score; only the method knows what each rank needs of it.
        for rank in ranks:
            answers[rank].scored = scored
    return answers


@contextmanager
def _counted_scores(evidence: Evidence) -> Iterator[Tensor]:
    """Count, int64 (P,), the images that are scored for each pair within the block."""
    counts = torch.zeros(len(evidence), dtype=torch.int64, device=evidence.device)
    score, score_images = evidence.score, evidence.score_images

    def counted(images: Tensor, pair: Tensor) -> Tensor:
        counts.add_(pair.bincount(minlength=len(evidence)))
        return score(images, pair)

    def counted_for_all(images: Tensor, image: Tensor) -> Tensor:
        assert score_images is not None
        counts.add_(image.bincount(minlength=len(evidence.images))[evidence.image_of])
        return score_images(images, image)

    evidence.score = counted
    if score_images is not None:
        evidence.score_images = counted_for_all
    try:
        yield counts
    finally:
        evidence.score, evidence.score_images = score, score_images


def _malformed(answer: Any, pairs: int, size: tuple[int, int]) -> str:
    """Return what is wrong with the result for one rank, or an empty string."""
    if not isinstance(answer, Explanation):
        return f"returns {type(answer).__name__} instead of an Explanation"
    native = answer.native
    if not isinstance(native, Tensor):
        return f"its native maps are {type(native).__name__} instead of a torch tensor"
    shape = tuple(native.shape)
    if native.ndim != 3 or len(native) != pairs or not all(shape[1:]):
        return f"its native maps have shape {shape} instead of ({pairs}, h, w), one for each of {pairs} pairs"
    if answer.mode not in MODES:
        return f"unknown mode '{answer.mode}'; valid: {', '.join(MODES)}"
    if answer.mode == "none" and shape[1:] != tuple(size):
        return f"mode='none' is for maps of {size[0]} x {size[1]}, the input's size, these have {shape[1]} x {shape[2]}"
    scored = answer.scored
    if scored is not None and not (
        isinstance(scored, Tensor) and scored.dtype == torch.int64 and tuple(scored.shape) == (pairs,)
    ):
        return f"its counts of scored images must be an int64 tensor of shape ({pairs},), one for each of {pairs} pairs"
    return ""


class MapMethod(Method):
    """Base of methods without a rank: one function from evidence to an explanation."""

    def explain(self, evidence: Evidence, ranks: Sequence[int | None]) -> dict[int | None, Explanation]:
        explanation = self.map(evidence)
        return dict.fromkeys(ranks, explanation)

    @abc.abstractmethod
    def map(self, evidence: Evidence) -> Explanation:
        """Return the maps of all pairs."""


def score_in_batches(evidence: Evidence, make: Callable[[Tensor], Tensor], pair: Tensor) -> Tensor:
    """Score M images that ``make`` builds from positions in 0..M-1, ``batch_size`` at a time.

    Args:
        make: from int64 (m,) positions to (m, 3, H, W) normalised images.
        pair: int64 (M,), the pair of each image.

    Returns:
        Scores, float32 (M,).
    """
    scores = [evidence.score(make(i), pair[i]).float() for i in steps(evidence, len(pair))]
    return torch.cat(scores) if scores else torch.zeros(0, device=evidence.device)


def shared_scores(evidence: Evidence, make: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """Score M images that do not depend on a text once each, for all texts of their image.

    Args:
        make: as for :func:`score_in_batches`.
        image: int64 (M,), the image of the evidence that each was made from.

    Returns:
        Scores, float32 (M, P); 0 for pairs of another image.
    """
    scores = torch.zeros(len(image), len(evidence), device=evidence.device)
    if evidence.score_images is not None:
        for i in steps(evidence, len(image)):
            scores[i] = evidence.score_images(make(i), image[i]).float()
        return torch.where(image[:, None] == evidence.image_of, scores, 0.0)
    for pair, own in enumerate(evidence.image_of.tolist()):
        chosen = (image == own).nonzero().flatten()

        def chosen_images(i: Tensor, chosen: Tensor = chosen) -> Tensor:
            return make(chosen[i])

        scores[chosen, pair] = score_in_batches(evidence, chosen_images, torch.full_like(chosen, pair))
    return scores


def steps(evidence: Evidence, count: int) -> Iterator[Tensor]:
    """Yield the positions 0 .. count-1, ``batch_size`` at a time, int64."""
    step = max(1, evidence.batch_size)
    for start in range(0, count, step):
        yield torch.arange(start, min(start + step, count), device=evidence.device)


def distinct(indices: Tensor) -> Tensor:
    """Return the distinct values of non-negative integers, ascending."""
    return indices.bincount().nonzero().flatten()


def gaussian_kernel(sigma: float, truncate: float, device: torch.device) -> Tensor:
    """Return a 1-D Gaussian of radius int(truncate * sigma + 0.5), as ``scipy.ndimage.gaussian_filter`` uses."""
    radius = int(truncate * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1, device=device, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / max(sigma, math.ulp(1.0))) ** 2)
    return (kernel / kernel.sum()).float()
