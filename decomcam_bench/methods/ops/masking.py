"""Masked images: what a map covers is kept, the rest is replaced by a blurred copy."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.core.validation import check_at_least, check_choice, check_positive
from decomcam_bench.methods.base import Evidence, gaussian_kernel, min_max, upsample

COMPOSITIONS = ("max", "convex")
SPACES = ("pixel", "normalised")

#: Height of the input at which the published blur widths are meant.
REFERENCE_HEIGHT = 224
#: Widest blur kernel in pixels; far wider than any input, whose mean it then is.
MAX_RADIUS = 100_000


def gaussian_blur(images: Tensor, sigma: float, truncate: float = 4.0) -> Tensor:
    """Blur each channel with a Gaussian, exactly as ``scipy.ndimage.gaussian_filter`` in its default mode.

    Beyond the border the image is mirrored with its edge pixels repeated (``d c b a | a b c d``), as
    often as needed, so that the kernel may be wider than the image.

    Args:
        images: (..., H, W).
        sigma: in pixels; 0 leaves the images as they are.
        truncate: radius of the kernel in sigmas.

    Returns:
        float32 (..., H, W).
    """
    height, width = images.shape[-2:]
    rows, columns = (_mirrored_convolution(sigma, truncate, side).to(images.device) for side in (height, width))
    return rows @ images.float() @ columns.T


@lru_cache(maxsize=16)
def _mirrored_convolution(sigma: float, truncate: float, size: int) -> Tensor:
    """Return the (size, size) matrix that blurs a mirrored line of ``size`` pixels.

    The mirrored line repeats after 2 ``size`` pixels, so the kernel is wrapped to that period; each
    pixel of the line occurs twice in a period.
    """
    kernel = gaussian_kernel(sigma, truncate, torch.device("cpu")).double()
    radius, period = len(kernel) // 2, 2 * size
    wrapped = torch.bincount(torch.arange(-radius, radius + 1) % period, weights=kernel, minlength=period)
    position, source = torch.arange(size)[:, None], torch.arange(size)
    return (wrapped[(source - position) % period] + wrapped[(-1 - source - position) % period]).float()


class Masker:
    """Masks the images of one batch of evidence.

    ``max`` composes max(x * m, blur(x) * (1 - m)), as the official DecomCAM code does; ``convex``
    composes x * m + blur(x) * (1 - m). Both are taken on pixels in [0, 1] (``pixel``) or on the
    model's normalised input (``normalised``), which is not the same for ``max``.

    Args:
        evidence: the images and their normalisation.
        sigma: blur in pixels; see :func:`blur_width`.
        quantise: round masked pixels down to 8 bits, as code that passes them through a PIL image does:
            pixels are single-precision quotients k / 255, multiplied by 255 in double precision, so that
            some levels come out one lower.
    """

    def __init__(
        self,
        evidence: Evidence,
        sigma: float,
        truncate: float = 4.0,
        composition: str = "max",
        space: str = "pixel",
        quantise: bool = False,
    ) -> None:
        self.evidence = evidence
        self.composition = composition
        self.space = space
        self.quantise = quantise
        self.sharp = evidence.pixels() if space == "pixel" else evidence.images.float()
        if quantise:
            self.sharp = (self.sharp * 255).round() / 255
        self.blurred = gaussian_blur(self.sharp, sigma, truncate)

    def compose(self, masks: Tensor, image: Tensor) -> Tensor:
        """Return masked images (M, 3, H, W) in :attr:`space`, from masks (M, H, W) in [0, 1] and images (M,)."""
        kept, hidden = masks[:, None], 1 - masks[:, None]
        sharp, blurred = self.sharp[image] * kept, self.blurred[image] * hidden
        return torch.maximum(sharp, blurred) if self.composition == "max" else sharp + blurred

    def to_input(self, images: Tensor) -> Tensor:
        """Return images in :attr:`space` as model input."""
        if self.space == "normalised":
            return images.to(self.evidence.images.dtype)
        if self.quantise:
            # Apple's MPS has no double precision.
            wide = images if images.device.type == "mps" else images.double()
            images = ((wide * 255).floor() / 255).float()
        return self.evidence.normalise(images)

    def masked(self, maps: Tensor, pair: Tensor, mode: str = "bicubic") -> Tensor:
        """Return model input (M, 3, H, W) masked by the min-maxed, upsampled ``maps`` (M, h, w).

        Upsampling comes first, and nothing is clamped in between: the official masks keep the
        overshoot of bicubic interpolation.
        """
        masks = min_max(upsample(maps, self.evidence.input_size, mode), (1, 2))
        return self.to_input(self.compose(masks, self.evidence.image_of[pair]))

    def all_blurred(self, pair: Tensor) -> Tensor:
        """Return fully blurred model input (M, 3, H, W)."""
        return self.to_input(self.blurred[self.evidence.image_of[pair]])


def blur_width(sigma: float, scaled: bool, height: int) -> float:
    """Return sigma in pixels for an input of ``height``; if ``scaled``, it is meant at 224 pixels."""
    return sigma * height / REFERENCE_HEIGHT if scaled else sigma


def check_masking(composition: str, space: str, blur_sigma: float, truncate: float) -> None:
    """Check that the masking options are in range.

    Raises:
        ConfigError: naming the key, the value and the valid ones.
    """
    check_choice("method.composition", composition, COMPOSITIONS)
    check_choice("method.space", space, SPACES)
    check_at_least("method.blur_sigma", blur_sigma, 0)
    check_positive("method.truncate", truncate)
    if blur_sigma * truncate > MAX_RADIUS:
        raise ConfigError(
            f"method.blur_sigma={blur_sigma}, method.truncate={truncate}: a kernel of radius "
            f"{blur_sigma * truncate:g} pixels; their product must be at most {MAX_RADIUS}"
        )
