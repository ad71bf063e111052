"""The metric contract: from (map, target, score) to named values for one pair, and from those to
one number of the data set.

Two kinds: a :class:`MapMetric` looks at one map in the pixels of the original image and runs on
the CPU beside the device's work; a :class:`ModelMetric` runs the model on batches.

Adding a metric is one class (a dataclass whose fields are its options) and one YAML under
``configs/metric``.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import cv2
import numpy as np
import pandas as pd

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.core.reasons import Failure, Reason, Why
from decomcam_bench.core.validation import check_choice
from decomcam_bench.datasets.base import Mask, Target
from decomcam_bench.metrics.aggregation import ImageSums, mean_sums
from decomcam_bench.models.scoring import CLIP, LogitScale

if TYPE_CHECKING:
    from torch import Tensor

    from decomcam_bench.methods.base import Components

Value = float | int | bool | np.ndarray
Shared = TypeVar("Shared")
Regional = TypeVar("Regional", bound="RegionMetric")
Direction = Literal["higher", "lower", "none"]


#: What a pair without a usable map counts as; see :attr:`Metric.failure`.
FAILURES = ("worst", "drop", "common")


@dataclass(frozen=True)
class Skip:
    """Leave a pair out, as a protocol prescribes for every method alike.

    Attributes:
        reason: a :class:`~decomcam_bench.core.reasons.Reason`, with a detail if need be; words of one's own become
            the detail of ``other``.
        values: what is known of the pair nevertheless.
    """

    reason: Why
    values: Mapping[str, Value] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Fail:
    """Report a pair that has no value, and why.

    Attributes:
        reason: as of :class:`Skip`.
        values: what the pair scores under ``failure: worst``. Empty where the method is not to blame (a mask that
            cannot be decoded, say): such a pair takes no part in any number.
    """

    reason: Why
    values: Mapping[str, Value] = field(default_factory=dict, hash=False)


Outcome = dict[str, Value] | Skip | Fail


@dataclass(frozen=True)
class Column:
    """One number of the data set that a metric reports: a column of the table.

    Attributes:
        name: e.g. ``deletion``.
        direction: which way is better, or ``none`` for a descriptive number.
        low, high: the range of possible values; None where unbounded.
        unit: e.g. ``share``, ``px``, ``passes``.
        value: the value of :meth:`evaluate` whose mean over pairs this is, where the metric has
            no aggregation of its own; ``name`` if empty.
        detail: shown on request only, not in the default table.
        machine: belongs to a machine (time, memory), never in the default table.
    """

    name: str
    direction: Direction = "higher"
    low: float | None = 0.0
    high: float | None = 1.0
    unit: str = "share"
    value: str = ""
    detail: bool = False
    machine: bool = False


@dataclass(frozen=True)
class Work:
    """What one map took.

    Attributes:
        forward: full passes through the model: the backbone pass of the image, as if the pair were
            alone, and one for each image scored, as if no larger rank were asked for.
        head: passes through what follows the layer alone, those with a gradient included.
        backward: gradients.
        seconds: of the method, its share of the batch; None where not measured.
        peak_mib: largest device memory during the method; None where not measured.
    """

    forward: int
    head: int = 0
    backward: int = 0
    seconds: float | None = None
    peak_mib: float | None = None


@dataclass
class PairMap:
    """Hold one saliency map as the localisation protocols see it; every view is computed once.

    Attributes:
        saliency: float32 (H, W) at the model's input resolution, non-negative, finite, of positive mass; zeros
            where the method failed.
        to_original: brings an (h, w) array over the model's input to the original image, (height, width), by one
            interpolation; takes ``"bilinear"`` or ``"bicubic"`` as a second argument.
        target: the annotated class.
        width: of the original image, in pixels.
        height: of the original image, in pixels.
        image_classes: class ids of all targets of the image.
        components: float32 (q, h, w) component maps over the model's input, or None.
        whole_image: True if the model's input is the whole image squashed, nothing cropped, so that ``saliency``
            resized to any size is the map at that size.
        work: what the map took, or None where it was not recorded.
        native: float32 (h, w), the map on the method's own grid over the model's input, or None: ``saliency``.
        mode: how ``native`` is interpolated, ``bilinear`` or ``bicubic``.
        foreign: float32 (h, w), a map of another program over the whole original image, or None.
        component_mode: how ``components`` are interpolated.
        views: what metrics of the same map have in common, see :meth:`shared`.
    """

    saliency: np.ndarray
    to_original: Callable[..., np.ndarray]
    target: Target
    width: int
    height: int
    image_classes: tuple[int, ...] = ()
    components: np.ndarray | None = None
    whole_image: bool = False
    work: Work | None = None
    native: np.ndarray | None = None
    mode: str = "bilinear"
    foreign: np.ndarray | None = None
    component_mode: str = "bilinear"
    views: dict[Any, Any] = field(default_factory=dict, repr=False)

    def shared(self, key: Any, make: Callable[[], Shared]) -> Shared:
        """Return what ``make`` returns, computed by the first metric that asks for ``key``."""
        if key not in self.views:
            self.views[key] = make()
        found: Shared = self.views[key]
        return found

    def at_size(self, height: int, width: int, via: str = "input") -> np.ndarray:
        """Return the map over the whole image at another size, float64 (height, width), by bicubic interpolation.

        A foreign map is resized from its own size. Where the model sees the whole image, others are resized from
        the model's input (``via="input"``, as ``wsolevaluation``) or from the method's own grid (``"native"``);
        where it sees a crop, from the original pixels. May be slightly negative.
        """
        if self.foreign is not None:
            source = self.foreign
        elif not self.whole_image:
            source = self.original_via(via)
        else:
            source = self.native if via == "native" and self.native is not None else self.saliency
        source = source.astype(np.float64)
        if source.shape == (height, width):
            return source
        return cv2.resize(source, (width, height), interpolation=cv2.INTER_CUBIC)

    @cached_property
    def ignored(self) -> np.ndarray | None:
        """Void pixels, bool (height, width), or None where there are none; metrics that count pixels leave them out.

        Raises:
            ValueError: for a mask that cannot be decoded or is not of the image's size.
        """
        if not self.target.ignored:
            return None
        found: np.ndarray | None = np.logical_or.reduce(
            [decoded(mask, self.height, self.width) for mask in self.target.ignored]
        )
        return found

    def _seen(self, original: np.ndarray) -> np.ndarray:
        """Return a map in original pixels with nothing on void pixels."""
        return original if self.ignored is None else np.where(self.ignored, np.float32(0), original)

    @cached_property
    def original(self) -> np.ndarray:
        """The map in original pixels, float32 (height, width), interpolated at most once, 0 on void pixels."""
        return self._seen(self._original())

    def _original(self) -> np.ndarray:
        size = (self.height, self.width)
        if self.foreign is not None:
            if self.foreign.shape == size:
                return self.foreign
            return cv2.resize(self.foreign, size[::-1], interpolation=cv2.INTER_LINEAR)
        if self.native is None or self.native.shape == self.saliency.shape:
            return self.to_original(self.saliency)
        return self.lifted(self.native, self.mode)

    def lifted(self, grid: np.ndarray, mode: str) -> np.ndarray:
        """Return a map (h, w) over the model's input in original pixels, non-negative, float32 (height, width)."""
        found: np.ndarray = np.maximum(self.to_original(grid, mode) if mode == "bicubic" else self.to_original(grid), 0)
        return found

    def original_via(self, via: str) -> np.ndarray:
        """Return the map in original pixels, float32 (height, width).

        Args:
            via: ``native``: one interpolation from the method's own grid, as TorchRay (:attr:`original`);
                ``input``: first to the model's input, then to the original pixels, as ``wsolevaluation``.
        """
        if via == "native":
            return self.original
        return self.shared("original_via_input", lambda: self._seen(self.to_original(self.saliency)))

    @cached_property
    def box_region(self) -> np.ndarray:
        """Pixels inside any box of the target, bool (height, width)."""
        return self.target.box_mask(self.height, self.width)

    @cached_property
    def mask_region(self) -> np.ndarray | None:
        """Pixels of the target's masks, bool (height, width), or None without masks.

        Raises:
            ValueError: for a mask that cannot be decoded or is not of the image's size.
        """
        if not self.target.masks:
            return None
        found: np.ndarray | None = np.logical_or.reduce(
            [decoded(mask, self.height, self.width) for mask in self.target.masks]
        )
        return found

    def region(self, kind: str) -> np.ndarray:
        """The annotated region: ``box``, or ``mask``.

        Raises:
            ValueError: ``mask`` for a target without masks, or with one that is of no use.
        """
        if kind == "box":
            return self.box_region
        if self.mask_region is None:
            raise ValueError("target_has_no_mask")
        return self.mask_region

    @cached_property
    def total(self) -> float:
        """Sum of :attr:`original` in float64; not finite if any value is NaN or infinite."""
        return float(self.original.astype(np.float64).sum())

    @cached_property
    def flaw(self) -> Reason | None:
        """Why no protocol can read the map (``non_finite_map``, ``zero_map``), or None."""
        if not np.isfinite(self.total):
            return Reason.NON_FINITE_MAP
        return None if self.total > 0 else Reason.ZERO_MAP

    @cached_property
    def blank(self) -> PairMap:
        """The same pair with a map of zeros, which is what ``wsolevaluation`` makes of a map that is not finite."""
        zeros = np.zeros_like(self.saliency)
        return replace(self, saliency=zeros, native=None, foreign=None, views={})


@dataclass
class Retext:
    """Make maps of the same pairs with other texts.

    Attributes:
        maps: float32 (P, H, W) for ``other`` (another class of the same image), ``absent`` (a class that the image
            does not show), ``nonsense`` or ``empty``; the passes count as metric-scored.
        region: bool (P, H, W), the annotated object of each pair at the model's input.
        several: bool for each pair, whether its image shows another class.
    """

    maps: Callable[[str], Tensor]
    region: Callable[[], Tensor]
    several: Sequence[bool]


@dataclass
class PairBatch:
    """P maps of one cell, for metrics that run the model or look at components.

    Attributes:
        maps: float32 (P, H, W) on the device.
        images: (P, 3, H, W) normalised input of each pair.
        class_ids: int64 (P,) on the device: index of the pair's own text among the prompts.
        similarity: from images (M, 3, H, W) and pair positions (M,) to cosine similarities with
            every text (M, K); counts the images as metric-scored.
        image_similarity: (P, K), the same of the unmasked images (already known, costs nothing).
        text_norms: (K,), mean norm of the texts before normalisation (for the official code's
            unnormalised variant).
        scale: turns cosines into logits as the model was trained.
        mean, std: normalisation of ``images``.
        valid: bool (P,), pairs that have a map and are asked for.
        failed: bool (P,), pairs that are asked for and whose method gave no map: their maps are zeros, and they
            are scored as ``failure: worst`` says. None: no pair.
        remap: recomputes the map of changed images of the same pairs (coherency), or None.
        components: of a decomposition, or None.
        batch_size: most images to put through the model at a time.
        retext: makes maps with other texts, or None.
    """

    maps: Tensor
    images: Tensor
    class_ids: Tensor
    similarity: Callable[[Tensor, Tensor], Tensor]
    image_similarity: Tensor
    valid: Tensor
    text_norms: Tensor | None = None
    scale: LogitScale = CLIP
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    remap: Callable[[Tensor], Tensor] | None = None
    components: Components | None = None
    batch_size: int = 64
    failed: Tensor | None = None
    retext: Retext | None = None


@dataclass
class Metric(abc.ABC):
    """Base of all metrics. Subclasses are dataclasses; their fields are their options.

    The number of the data set follows from sums over images (:meth:`image_sums`), so that the
    statistics resample images without calling :meth:`evaluate` again.

    Attributes:
        name: the name of its YAML; the columns are named after it.
        limit: score only the pairs of the first N images of the run, or all.
        failure: what a pair whose method gave no usable map counts as. ``worst``: as :meth:`worst` says, a miss;
            ``drop``: it leaves the mean; ``common``: it leaves the mean of every method that is compared. Records
            hold what a failed pair scores, so that a table can apply another policy without computing anything.
        id: stable name of the class in metric keys, whatever file holds it; the class's name if empty. A
            subclass declares its own.
        version: bump it when the values of pairs change: it is part of the metric key, and tables leave
            values of other versions out.
        needs: any of ``score`` (runs the model), ``components``, ``parts``, ``mask``, ``box``.
        tested: whether a difference between two methods is a matter of chance, to be tested; that of
            their costs is not.
        undefined: values that may be NaN for a pair, which then takes no part in their column; NaN
            in any other value fails the pair.
        census: a value that counts wherever it is known, also of pairs that are left out or failed.
    """

    name: str = ""
    limit: int | None = None
    failure: str = "worst"

    id: ClassVar[str] = ""
    version: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset()
    tested: ClassVar[bool] = True
    undefined: ClassVar[frozenset[str]] = frozenset()
    census: ClassVar[str] = ""

    @property
    def annotation(self) -> frozenset[str]:
        """What a data set must carry for this metric, out of ``box``, ``mask`` and ``parts``."""
        region = getattr(self, "region", None)
        return (self.needs & {"box", "mask", "parts"}) | ({region} if region else frozenset())

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"metric.limit={self.limit}: must be at least 1, or null for all images")
        check_choice("metric.failure", self.failure, FAILURES)

    @property
    @abc.abstractmethod
    def columns(self) -> Sequence[Column]:
        """The numbers that :meth:`aggregate` returns, in order."""

    def worst(self) -> dict[str, Value]:
        """Return what a pair without a usable map scores under ``failure: worst``.

        The worst value of each column that is a mean over pairs: the lower bound where higher is better, the upper
        bound where lower is. Empty if such a column is unbounded: then no failed pair takes part. A metric whose
        worst value depends on the pair says so by the values of its :class:`Fail`.
        """
        ends = {c.value or c.name: c.low if c.direction == "higher" else c.high
                for c in self.columns if c.direction != "none"}  # fmt: skip
        known = {name: value for name, value in ends.items() if value is not None}
        return dict(known) if len(known) == len(ends) else {}

    def image_sums(self, records: pd.DataFrame) -> ImageSums:
        """Sums over the pairs of each image, and the function from their total to the columns.

        The mean over pairs of each column's own value, unless overridden.
        """
        return mean_sums(records, {column.name: column.value or column.name for column in self.columns})

    def aggregate(self, records: pd.DataFrame) -> dict[str, float]:
        """The numbers of the data set from the records of its evaluated pairs.

        Args:
            records: columns ``image_id``, ``class_id``, ``class_name`` and the values of
                :meth:`evaluate`; only evaluated pairs. NaN where there is no record.
        """
        if not len(records):
            return {column.name: float("nan") for column in self.columns}
        return self.image_sums(records).aggregate()

    def resolve(self, dataset: Any) -> Metric:
        """The same metric with choices that follow the data set (box or mask, say) filled in."""
        return self


class MapMetric(Metric):
    """Base of metrics of one map: pure NumPy, on the CPU."""

    @abc.abstractmethod
    def evaluate(self, pair: PairMap) -> Outcome:
        """Return the values of one pair."""

    def missed(self, values: Mapping[str, Value]) -> Mapping[str, Value]:
        """Return what a pair scores whose method gave no map, although :meth:`evaluate` gave values for zeros."""
        return self.worst()


@dataclass
class RegionMetric(MapMetric):
    """A metric of the map on the annotated region of its pair.

    Attributes:
        region: ``box``, ``mask``, or None: what the data set's protocol uses.
    """

    region: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("metric.region", self.kind, ("box", "mask"))

    def resolve(self: Regional, dataset: Any) -> Regional:
        return dataclasses.replace(self, region=self.region or dataset.region)

    @property
    def kind(self) -> str:
        """The region in use: ``box`` where nothing was said."""
        return self.region or "box"


class ModelMetric(Metric):
    """A metric that runs the model on a batch of pairs."""

    @abc.abstractmethod
    def evaluate_batch(self, batch: PairBatch) -> list[Outcome]:
        """One outcome a pair, in order. Of pairs that are not valid the caller takes a :class:`Skip`; all else
        becomes the failure of the map, with the ``values`` of a :class:`Fail`."""

    @abc.abstractmethod
    def scored_per_pair(self, input_size: tuple[int, int]) -> int:
        """Most images put through the model for one pair, for the plan."""

    def scored_per_batch(self, input_size: tuple[int, int]) -> int:
        """Images put through the model once a batch, whatever its pairs, for the plan."""
        return 0


def decoded(mask: Mask, height: int, width: int) -> np.ndarray:
    """A mask as bool (height, width).

    Raises:
        ValueError: when it cannot be decoded, or is of another size.
    """
    array = np.asarray(mask.decode(), dtype=bool)
    if array.shape != (height, width):
        size = " x ".join(map(str, array.shape[::-1]))
        raise ValueError(f"mask of {size} pixels for an image of {width} x {height}")
    return array


def annotated_region(pair: PairMap, kind: str) -> np.ndarray | Skip | Fail:
    """The region of a pair, or why it has none.

    Skipped: ``no_mask`` (the data set has none for this target) and ``empty_region`` (no pixel:
    an empty mask, a box outside the image, no box at all), ``only_ignored`` (void pixels alone). Failed:
    ``bad_mask: ...``, a mask that cannot be decoded or is not of the image's size.
    """
    if kind == "mask" and not pair.target.masks:
        return Skip(Reason.NO_MASK)
    try:
        region, void = pair.region(kind), pair.ignored
    except ValueError as error:
        return Fail(Failure(Reason.BAD_MASK, str(error)))
    if void is not None and region.any():
        region = region & ~void
        return region if region.any() else Skip(Reason.ONLY_IGNORED)
    return region if region.any() else Skip(Reason.EMPTY_REGION)
