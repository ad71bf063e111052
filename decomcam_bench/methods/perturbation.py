"""Methods that weight a channel by how the score changes when it masks the image, or is removed.

Masked images and ablated activations are made and scored at most ``batch_size`` at a time; one number
per channel is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from decomcam_bench.core.validation import check_at_least, check_choice
from decomcam_bench.methods.base import Cost, Evidence, Explanation, MapMethod, min_max, score_in_batches, shared_scores
from decomcam_bench.methods.components import blurred_scores
from decomcam_bench.methods.gradient import channel_weights, weighted_sum
from decomcam_bench.methods.ops.masking import Masker
from decomcam_bench.methods.ops.validity import NON_FINITE_SCORE, ZERO_SCORE, finish, inspect

READINGS = ("pgc", "original", "torchcam", "decomcam2023")
FILLS = ("zero", "pgc")

#: Blur of the official DecomCAM code, in pixels of the input; its Score-CAM has no parameter for it.
DECOMCAM_BLUR = 10.0


def score_channels(
    evidence: Evidence,
    channels: Tensor,
    wanted: Tensor,
    mask: Callable[[Tensor], Tensor],
    compose: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Score images masked by single channels.

    Args:
        channels: int64 (P, k), channel numbers.
        wanted: bool (P, k), the ones to score.
        mask: from activations (m, h, w) to masks (m, H, W).
        compose: from masks (m, H, W) and pairs (m,) to the model's input (m, 3, H, W).

    Returns:
        float32 (P, k); 0 where not wanted.
    """
    pair, slot = wanted.nonzero(as_tuple=True)

    def make(i: Tensor) -> Tensor:
        values = evidence.image_activations[evidence.image_of[pair[i]], channels[pair[i], slot[i]]]
        return compose(mask(values.float()), pair[i])

    scores = torch.zeros(wanted.shape, device=evidence.device)
    scores[pair, slot] = score_in_batches(evidence, make, pair)
    return scores


def score_channels_of_images(
    evidence: Evidence,
    wanted: Tensor,
    mask: Callable[[Tensor], Tensor],
    compose: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Score images masked by single channels once each, for all texts of their image.

    Args:
        wanted: bool (N, C), the channels of each image to score.
        mask: from activations (m, h, w) to masks (m, H, W).
        compose: from masks (m, H, W) and images (m,) to the model's input (m, 3, H, W).

    Returns:
        float32 (P, C); 0 where not wanted.
    """
    image, channel = wanted.nonzero(as_tuple=True)

    def make(i: Tensor) -> Tensor:
        return compose(mask(evidence.image_activations[image[i], channel[i]].float()), image[i])

    scores = torch.zeros(*wanted.shape, len(evidence), device=evidence.device)
    scores[image, channel] = shared_scores(evidence, make, image)
    return scores[evidence.image_of, :, evidence.all_pairs]


def every_channel(evidence: Evidence) -> Tensor:
    """Return 0 .. C-1 for each pair, int64 (P, C)."""
    count = evidence.image_activations.shape[1]
    return torch.arange(count, device=evidence.device).expand(len(evidence), count)


def product_with_input(evidence: Evidence) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function of masks (m, H, W) and images (m,) that multiplies the normalised input by the mask.

    Hidden pixels take the mean colour.
    """

    def compose(masks: Tensor, image: Tensor) -> Tensor:
        return (evidence.images[image].float() * masks[:, None]).to(evidence.images.dtype)

    return compose


def scaled(maps: Tensor, epsilon: float) -> Tensor:
    """Return (x - min) / (max - min + epsilon) of each map (m, h, w)."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low + epsilon)


def bilinear(maps: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Resize maps (m, h, w) to (m, H, W)."""
    return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=align_corners)[:, 0]


@dataclass
class ScoreCAM(MapMethod):
    """sum_k w_k A_k, w_k from the score s_k of the image masked with channel k (Wang et al. 2020).

    Masks do not depend on the text: each masked image is scored once for all texts of its image. The
    published implementations disagree; ``reading`` names one:

    - ``pgc`` (default; pytorch-grad-cam): masks upsampled with aligned corners, then min-maxed;
      masked normalised input; w = softmax of s over the channels. Depends on the scale of s.
    - ``original`` (the authors' repository): masks upsampled, then min-maxed; w_k = s_k, meant to be
      the class probability (``score=softmax``); constant channels are left out.
    - ``torchcam`` (torch-cam): masks min-maxed, then upsampled; w = softmax of s minus the score
      of the unmasked image, which cancels in the softmax and is not computed.
    - ``decomcam2023`` (the baseline in DecomCAM's repository): masks as in ``original``; the rest of
      the image blurred, composed by the maximum, cut to 8 bits; w_k = exp(score of the blurred image
      - s_k), which *falls* as s_k rises; meant for ``score=cosine``.

    Attributes:
        reading: one of the above.
    """

    id = "scorecam"
    version: ClassVar[int] = 2

    reading: str = "pgc"

    needs: ClassVar[frozenset[str]] = frozenset({"score"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("method.reading", self.reading, READINGS)

    def map(self, evidence: Evidence) -> Explanation:
        failures = inspect(evidence)
        wanted = torch.zeros(evidence.image_activations.shape[:2], dtype=torch.bool, device=evidence.device)
        wanted[evidence.image_of[failures.usable]] = True
        if self.reading in ("original", "decomcam2023"):
            wanted = wanted & ~_constant(evidence.image_activations)
        masker = _decomcam_masker(evidence) if self.reading == "decomcam2023" else None
        compose = _blend_images(masker) if masker else product_with_input(evidence)
        scores = score_channels_of_images(evidence, wanted, self._masks(evidence), compose)
        failures.add(~scores.isfinite().all(1), NON_FINITE_SCORE)
        if self.reading == "original":
            weights = scores
        elif masker:
            baseline = blurred_scores(evidence, masker, failures.usable)
            failures.add(~baseline.isfinite(), NON_FINITE_SCORE)
            weights = torch.where(wanted[evidence.image_of], (baseline[:, None] - scores).exp(), 0.0)
        else:
            weights = scores.softmax(1)
        native = weighted_sum(failures.clean(weights), failures.clean(evidence.activations))
        # pytorch-grad-cam and torch-cam take the ReLU before upsampling, the other two after it.
        late = self.reading in ("original", "decomcam2023")
        return finish(native if late else native.relu(), "bilinear", failures)

    def _masks(self, evidence: Evidence) -> Callable[[Tensor], Tensor]:
        size = evidence.input_size
        if self.reading == "pgc":
            return lambda values: scaled(bilinear(values, size, align_corners=True), 1e-8)
        if self.reading == "torchcam":
            return lambda values: bilinear(scaled(values, 1e-8), size)
        return lambda values: min_max(bilinear(values, size), (1, 2))

    def cost(self, rank: int | None, channels: int) -> Cost:
        """Return the exact cost, except for constant channels, which two readings leave out."""
        scored = channels + int(self.reading == "decomcam2023")
        return Cost(scored=scored, shared=scored)


@dataclass
class ScoreCAMPlusPlus(MapMethod):
    """Score-CAM++ of DecomCAM's repository: sum of s_k A_k over channels where any G_k A_k > 0.

    Masks and masked images are those of Score-CAM's reading ``decomcam2023``; s_k is the score of the
    masked image, meant to be the cosine similarity.

    Attributes:
        gradient_score: what is differentiated for G.
    """

    id = "scorecam_pp"
    version: ClassVar[int] = 2

    score: str = "cosine"
    gradient_score: str = "cosine"

    needs: ClassVar[frozenset[str]] = frozenset({"gradients", "score"})

    def map(self, evidence: Evidence) -> Explanation:
        failures = inspect(evidence, gradients=True)
        A, G = failures.clean(evidence.activations), failures.clean(evidence.gradients)
        wanted = ((G * A).amax((2, 3)) > 0) & ~_constant(A) & failures.usable[:, None]
        size = evidence.input_size
        scores = score_channels(
            evidence,
            every_channel(evidence),
            wanted,
            lambda values: min_max(bilinear(values, size), (1, 2)),
            _blend(_decomcam_masker(evidence)),
        )
        failures.add(~scores.isfinite().all(1), NON_FINITE_SCORE)
        return finish(weighted_sum(failures.clean(scores), A), "bilinear", failures)

    def cost(self, rank: int | None, channels: int) -> Cost:
        """Return an upper bound: channels without a positive product are not scored."""
        return Cost(backward=1, scored=channels)


@dataclass
class GScoreCAM(MapMethod):
    """Score-CAM on the channels of largest (signed) mean gradient only (Chen et al. 2022).

    As in the authors' repository, the channels that are not chosen score 0, and the softmax runs over
    all channels; masks are upsampled with aligned corners, then min-maxed.

    Attributes:
        gradient_score: what is differentiated to choose the channels.
        channels: number of channels to score; all if the layer has fewer.
    """

    id = "gscorecam"

    gradient_score: str = "logits"
    channels: int = 300

    needs: ClassVar[frozenset[str]] = frozenset({"gradients", "score"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("method.channels", self.channels, 1)

    def map(self, evidence: Evidence) -> Explanation:
        failures = inspect(evidence, gradients=True)
        A, G = failures.clean(evidence.activations), failures.clean(evidence.gradients)
        order = channel_weights(A, G, "gradcam").argsort(dim=1, descending=True, stable=True)
        chosen = order[:, : self.channels]
        size = evidence.input_size
        compose = product_with_input(evidence)
        scores = score_channels(
            evidence,
            chosen,
            failures.usable[:, None].expand_as(chosen),
            lambda values: scaled(bilinear(values, size, align_corners=True), 1e-6),
            lambda masks, pair: compose(masks, evidence.image_of[pair]),
        )
        failures.add(~scores.isfinite().all(1), NON_FINITE_SCORE)
        everywhere = torch.zeros(A.shape[:2], device=A.device).scatter(1, chosen, failures.clean(scores))
        return finish(weighted_sum(everywhere.softmax(1), failures.clean(A)).relu(), "bilinear", failures)

    def cost(self, rank: int | None, channels: int) -> Cost:
        return Cost(backward=1, scored=min(self.channels, channels))


@dataclass
class AblationCAM(MapMethod):
    """sum_k w_k A_k, w_k = (s - s_k) / s, s_k the score without channel k (Desai and Ramaswamy 2020).

    Only the part of the network after the layer is run again.

    Attributes:
        fill: what replaces the channel: ``zero``, as in the paper, or ``pgc``, as in pytorch-grad-cam
            with a batch size of 1: 0 where the smallest activation is 0, otherwise 1e7 below it, also in
            the class token of a ViT, where that makes little sense.
    """

    id = "ablationcam"

    fill: str = "zero"

    needs: ClassVar[frozenset[str]] = frozenset({"head"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("method.fill", self.fill, FILLS)

    def map(self, evidence: Evidence) -> Explanation:
        failures = inspect(evidence)
        A = failures.clean(evidence.activations)
        pairs, channels = A.shape[:2]
        usable = failures.usable.nonzero().flatten()
        whole = torch.ones(pairs, device=A.device)
        whole[usable] = self._scores(evidence, usable, None)
        pair = usable.repeat_interleave(channels)
        channel = torch.arange(channels, device=A.device).repeat(len(usable))
        ablated = torch.zeros(pairs, channels, device=A.device)
        ablated[pair, channel] = self._scores(evidence, pair, channel)
        failures.add(~(whole.isfinite() & ablated.isfinite().all(1)), NON_FINITE_SCORE)
        failures.add(whole == 0, ZERO_SCORE)
        weights = failures.clean((whole[:, None] - ablated) / whole[:, None])
        return finish(weighted_sum(weights, failures.clean(A)).relu(), "bilinear", failures)

    def _scores(self, evidence: Evidence, pair: Tensor, channel: Tensor | None) -> Tensor:
        """Return the scores (M,) of the activations of pairs (M,), each without its ``channel`` (M,)."""
        images = evidence.image_activations
        least = images.float().amin((1, 2, 3))
        fill = torch.zeros_like(least) if self.fill == "zero" else torch.where(least == 0, 0.0, least - 1e7)
        step = max(1, evidence.batch_size)
        parts = [torch.zeros(0, device=evidence.device)]
        for start in range(0, len(pair), step):
            chosen = pair[start : start + step]
            image = evidence.image_of[chosen]
            values = images[image].clone()
            if channel is not None:
                rows = torch.arange(len(chosen), device=evidence.device)
                values[rows, channel[start : start + step]] = fill[image, None, None].to(values.dtype)
            with torch.no_grad():
                if channel is not None and self.fill == "pgc":
                    scores = evidence.head(values, chosen, (channel[start : start + step], fill[image]))
                else:
                    scores = evidence.head(values, chosen)
                parts.append(scores.float())
        return torch.cat(parts)

    def cost(self, rank: int | None, channels: int) -> Cost:
        return Cost(head=channels + 1)


def _constant(activations: Tensor) -> Tensor:
    """Return which channels of (N, C, h, w) are constant, bool (N, C)."""
    return activations.amax((2, 3)) == activations.amin((2, 3))


def _decomcam_masker(evidence: Evidence) -> Masker:
    return Masker(evidence, DECOMCAM_BLUR, quantise=True)


def _blend(masker: Masker) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function of masks (m, H, W) and pairs (m,) that makes masked input."""
    return lambda masks, pair: masker.to_input(masker.compose(masks, masker.evidence.image_of[pair]))


def _blend_images(masker: Masker) -> Callable[[Tensor, Tensor], Tensor]:
    """As :func:`_blend`, of images (m,)."""
    return lambda masks, image: masker.to_input(masker.compose(masks, image))
