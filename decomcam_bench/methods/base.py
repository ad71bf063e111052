"""The method contract: a saliency method is a function of :class:`Evidence` alone.

Shapes: P pairs (image, text) of N images; C channels on an (h, w) grid; the model's input is
(H, W) pixels. A method answers with an :class:`Explanation` for each rank it was asked for.

Adding a method is one class here or elsewhere (a dataclass whose fields are its parameters) and
one YAML under ``configs/method``.
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
from decomcam_bench.core.validation import check_choice

#: What :attr:`Evidence.extras` may hold beside images and activations, each a function:
#: ``attentions()``: float32 (P, B, T, T) of the B blocks of a ViT from the layer on, in order, T the
#:   class token and the patches: mean over heads of the ReLU of attention times its gradient;
#: ``surgery_features(blocks, values)``: features before normalisation by CLIP Surgery's path, of the
#:   class token (N, d) and of the grid (N, d, h, w); see :mod:`decomcam_bench.models.surgery`;
#: ``text_embeddings()``: (K, d), unit length, of all texts of the data set;
#: ``class_ids()``: int64 (P,), each pair's own text among them.
EXTRAS = ("attentions", "surgery_features", "text_embeddings", "class_ids")

#: How native maps become maps at input resolution, see :class:`Explanation`.
MODES = ("bilinear", "bicubic", "none")

#: What a method may differentiate and score masked images with.
SCORES = ("logits", "cosine", "softmax")


class ScoreFunction(Protocol):
    """Scores of images against the text of a pair."""

    def __call__(self, images: Tensor, pair: Tensor) -> Tensor:
        """Scores (M,) of normalised ``images`` (M, 3, H, W) for pairs ``pair`` (M,) int64."""


class HeadFunction(Protocol):
    """What follows the layer."""

    def __call__(self, activations: Tensor, pair: Tensor, beside: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Scores (M,) of ``activations`` (M, C, h, w) put in place of those of ``pair`` (M,).

        Args:
            beside: channels (M,) and values (M,): what else the layer has of that channel (a ViT's
                class token) is replaced by the value. Only methods that change single channels give it.
        """


def _absent(what: str) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise ValueError(f"this evidence has no {what}; a method must declare it in `needs`")

    return refuse


@dataclass
class Evidence:
    """What CLIP saw of P pairs at one layer. Tests build it from plain tensors.

    Attributes:
        images: (N, 3, H, W), the model's input, normalised.
        image_of: int64 (P,), which image each pair is about.
        image_activations: (N, C, h, w) at the layer.
        gradients: (P, C, h, w), of the score with respect to the activations; a callable is
            asked once, when a method first reads :attr:`gradients`.
        score: scores of (masked) images.
        head: scores of activations put in place of the layer's own.
        mean, std: (3,), the normalisation of ``images``: pixels in [0, 1] are images*std + mean.
        seeds: one integer a pair, the same on every machine, for methods that draw at random.
        object_masks: bool (P, H, W) annotated region at input resolution; the oracle control only.
        extras: what else a method declares in its ``needs``, by name: functions that compute it when
            they are called, see :data:`EXTRAS`.
        pair_names: (image id, class id) of each pair.
        map_to_input: brings a map (h', w') over the whole original image of a pair to the model's
            input, float32 (H, W): pair and map to map.
        batch_size: most images to score at a time.
    """

    images: Tensor
    image_of: Tensor
    image_activations: Tensor
    gradients_source: Tensor | Callable[[], Tensor] = field(default_factory=lambda: _absent("gradients"))
    score: ScoreFunction = field(default_factory=lambda: _absent("score"))
    head: HeadFunction = field(default_factory=lambda: _absent("head"))
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    seeds: Sequence[int] = ()
    object_masks: Callable[[], Tensor] = field(default_factory=lambda: _absent("object masks"))
    extras: dict[str, Callable[..., Any]] = field(default_factory=dict)
    pair_names: Sequence[tuple[str, int]] = ()
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
        """(P, C, h, w) float32: the activations of each pair's image."""
        return self.image_activations[self.image_of].float()

    @property
    def gradients(self) -> Tensor:
        """(P, C, h, w) float32, computed on first use."""
        if callable(self.gradients_source):
            self.gradients_source = self.gradients_source()
        return self.gradients_source.float()

    @property
    def all_pairs(self) -> Tensor:
        """int64 (P,): 0 .. P-1 on the device."""
        return torch.arange(len(self), device=self.device)

    def pixels(self) -> Tensor:
        """The images in [0, 1], float32 (N, 3, H, W)."""
        return self.images.float() * self._column(self.std) + self._column(self.mean)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Pixels in [0, 1] as the model's input, in its dtype."""
        return ((pixels - self._column(self.mean)) / self._column(self.std)).to(self.images.dtype)

    def _column(self, values: tuple[float, float, float]) -> Tensor:
        return torch.tensor(values, device=self.device, dtype=torch.float32).view(1, 3, 1, 1)


@dataclass
class Components:
    """What a decomposition found, in order of importance.

    Attributes:
        native: (P, q, h, w) float32, non-negative component maps on the layer's grid (for DecomCAM
            the OSSMs before upsampling).
        weights: (P, q), the weight of each in the final map.
        scores: (P, q), the score of the image masked with each, or None where none is taken.
        singular_values: (P, q) or None.
        explained: (P, q), share of the variance (of the squared norm without centring), or None.
        mode: how ``native`` is upsampled, see :class:`Explanation`.
    """

    native: Tensor
    weights: Tensor
    scores: Tensor | None = None
    singular_values: Tensor | None = None
    explained: Tensor | None = None
    mode: str = "bicubic"

    def maps(self, size: tuple[int, int]) -> Tensor:
        """The component maps at (H, W), non-negative, float32 (P, q, H, W)."""
        return upsample(self.native, size, self.mode).relu()


@dataclass
class Explanation:
    """The answer of a method for P pairs.

    Attributes:
        native: (P, h', w') float32, before upsampling; at input resolution where the map is no
            upsampling of anything smaller. May be negative: :meth:`maps` takes the ReLU last.
        mode: ``bilinear``, ``bicubic`` or ``none`` (already at input resolution).
        components: for decompositions.
        failures: pair -> reason, for pairs whose map the method itself found impossible.
        scored: int64 (P,), images scored for each pair, at this rank as if no other were asked for;
            None where that is what the method's cost says. Of methods without a rank
            :func:`explained` counts them.
    """

    native: Tensor
    mode: str = "bilinear"
    components: Components | None = None
    failures: dict[int, str] = field(default_factory=dict)
    scored: Tensor | None = None

    def maps(self, size: tuple[int, int]) -> Tensor:
        """Saliency maps at (H, W): float32 (P, H, W), after ReLU, not min-maxed."""
        return upsample(self.native, size, self.mode).relu()

    def costs(self, cost: Cost) -> list[Cost]:
        """What each pair took, of a method that declares ``cost``."""
        if self.scored is None:
            return [cost] * len(self.native)
        return [replace(cost, scored=scored) for scored in self.scored.tolist()]


def upsample(maps: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Resizes (..., h, w) to (..., H, W); half-pixel centres, bicubic with a = -0.75 as OpenCV."""
    if mode == "none" or tuple(maps.shape[-2:]) == tuple(size):
        return maps
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    resized = F.interpolate(flat, size=size, mode=mode, align_corners=False)
    return resized.reshape(*maps.shape[:-2], *size)


def min_max(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Scales to [0, 1] over ``dims``; constant values become 0."""
    low, high = values.amin(dims, keepdim=True), values.amax(dims, keepdim=True)
    spread = high - low
    return torch.where(spread > 0, (values - low) / spread.clamp_min(torch.finfo(values.dtype).tiny), 0.0)


@dataclass(frozen=True)
class Cost:
    """Passes that a method needs, beside the one backbone pass of each image that all share.

    Attributes:
        backward: gradients a pair (each is one head pass with its backward pass).
        head: further head passes a pair.
        scored: images scored a pair; at most, where :attr:`Explanation.scored` says how many.
        backbone: further passes of each image, which its pairs share.
    """

    backward: int = 0
    head: int = 0
    scored: int = 0
    backbone: int = 0


@dataclass
class Method(abc.ABC):
    """Base of all methods. Subclasses are dataclasses; their fields are their parameters.

    Attributes:
        id: stable name of the class in cell keys, whatever file holds it; the class's name if empty. A
            subclass declares its own.
        uses_layer: whether it reads a layer of the model; a control does not.
        random: whether it draws at random, so that the seed is part of what it is.
        needs: what it reads beside images and activations: any of ``gradients``, ``score``,
            ``head``, ``object_masks`` and names of extras.
        ranked: whether :meth:`explain` depends on the rank.
        default_rank: the rank of a ranked method when none is asked for.
        nested: a rank costs no passes beside a larger one; otherwise each rank costs its own.
        repeatable: whether it can explain other images than those of the data set; maps that come
            from elsewhere cannot be computed again.
        score: what is differentiated and what masked images are scored with: ``logits``
            (100 cosine), ``cosine``, or ``softmax`` over the data set's prompts.
        version: bump it when the maps change: it is part of the cell key.
    """

    score: str = "logits"

    id: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = frozenset()
    ranked: ClassVar[bool] = False
    default_rank: ClassVar[int] = 10
    nested: ClassVar[bool] = True
    repeatable: ClassVar[bool] = True
    uses_layer: ClassVar[bool] = True
    random: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_choice("method.score", self.score, SCORES)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its maps, for the cell key: its options."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.init and f.name != "name"}

    @abc.abstractmethod
    def explain(self, evidence: Evidence, ranks: Sequence[int | None]) -> dict[int | None, Explanation]:
        """Explanations for each rank; what the ranks share is computed once.

        A method without a rank is asked for ``[None]``.
        """

    @abc.abstractmethod
    def cost(self, rank: int | None, channels: int) -> Cost:
        """Passes a pair at a layer of ``channels`` channels."""

    def resolved(self, rank: int | None) -> int:
        """The rank itself, or :attr:`default_rank` for None.

        Raises:
            ConfigError: for a rank below 1.
        """
        if rank is None:
            return self.default_rank
        if rank < 1:
            raise ConfigError(f"rank={rank}: must be at least 1")
        return rank


def explained(method: Method, evidence: Evidence, ranks: Sequence[int | None]) -> dict[int | None, Explanation]:
    """What a method answers, checked, with the images scored for each pair counted.

    Raises:
        MethodError: when the method raises, or an answer is not what :class:`Explanation` says.
    """
    name = type(method).__name__
    try:
        with _scored_pairs(evidence) as pairs:
            answers = method.explain(evidence, ranks)
        whose = torch.cat(pairs).cpu() if pairs else torch.zeros(0, dtype=torch.int64)
        scored = whose.bincount(minlength=len(evidence))
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raise MethodError(
            f"method {name}: {type(error).__name__}: {text}; finished parts are kept, --debug shows where"
        ) from error
    for rank in ranks:
        answer = answers.get(rank) if isinstance(answers, dict) else None
        reason = _malformed(answer, len(evidence), evidence.input_size)
        if reason:
            raise MethodError(f"method {name}: {reason}; finished parts are kept")
    if not method.ranked:  # Ranks share what they score; which of it each needs, the method alone knows.
        for rank in ranks:
            answers[rank].scored = scored
    return answers


@contextmanager
def _scored_pairs(evidence: Evidence) -> Iterator[list[Tensor]]:
    """The pairs (m,) of the images that each call of ``evidence.score`` within a block scores."""
    pairs: list[Tensor] = []
    score = evidence.score

    def noted(images: Tensor, pair: Tensor) -> Tensor:
        pairs.append(pair)
        return score(images, pair)

    evidence.score = noted
    try:
        yield pairs
    finally:
        evidence.score = score


def _malformed(answer: Any, pairs: int, size: tuple[int, int]) -> str:
    """What is wrong with the answer for one rank, or an empty string."""
    if not isinstance(answer, Explanation):
        return f"answers with {type(answer).__name__} instead of an Explanation"
    native = answer.native
    if not isinstance(native, Tensor):
        return f"its native maps are {type(native).__name__} instead of a torch tensor"
    shape = tuple(native.shape)
    if native.ndim != 3 or len(native) != pairs or not all(shape[1:]):
        return f"its native maps have shape {shape} instead of ({pairs}, h, w), one for each of {pairs} pairs"
    if answer.mode not in MODES:
        return f"unknown mode '{answer.mode}'; valid: {', '.join(MODES)}"
    if answer.mode == "none" and shape[1:] != tuple(size):
        return f"mode='none' is for maps of the input's {size[0]} x {size[1]}, these have {shape[1]} x {shape[2]}"
    scored = answer.scored
    if scored is not None and not (
        isinstance(scored, Tensor) and scored.dtype == torch.int64 and tuple(scored.shape) == (pairs,)
    ):
        return f"its numbers of scored images are no int64 tensor of shape ({pairs},), one for each of {pairs} pairs"
    return ""


class MapMethod(Method):
    """A method without a rank: one function from evidence to an explanation."""

    def explain(self, evidence: Evidence, ranks: Sequence[int | None]) -> dict[int | None, Explanation]:
        explanation = self.map(evidence)
        return dict.fromkeys(ranks, explanation)

    @abc.abstractmethod
    def map(self, evidence: Evidence) -> Explanation:
        """The maps of all pairs."""


def score_in_batches(evidence: Evidence, make: Callable[[Tensor], Tensor], pair: Tensor) -> Tensor:
    """Scores M images that ``make`` builds from positions in 0..M-1, ``batch_size`` at a time.

    Args:
        make: from int64 (m,) positions to (m, 3, H, W) normalised images.
        pair: int64 (M,), the pair of each image.

    Returns:
        Scores, float32 (M,).
    """
    count = len(pair)
    step = max(1, evidence.batch_size)
    positions = torch.arange(count, device=evidence.device)
    parts = [evidence.score(make(positions[i : i + step]), pair[i : i + step]).float() for i in range(0, count, step)]
    return torch.cat(parts) if parts else torch.zeros(0, device=evidence.device)


def gaussian_kernel(sigma: float, truncate: float, device: torch.device) -> Tensor:
    """1-D Gaussian of radius int(truncate * sigma + 0.5), as ``scipy.ndimage.gaussian_filter``."""
    radius = int(truncate * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1, device=device, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / max(sigma, math.ulp(1.0))) ** 2)
    return (kernel / kernel.sum()).float()
