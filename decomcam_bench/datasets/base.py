"""The data-set contract: what is in the picture, in the pixels of the original image.

A :class:`Dataset` yields :class:`Sample` objects by position and decodes images on request. It
never resizes, never looks at a model, and never drops anything silently: an image or annotation
that cannot be used stays in the sequence as a sample with an ``error``.

Adding a data set is one module with a subclass (a dataclass whose fields are its options) and one
YAML under ``configs/dataset``.
"""

from __future__ import annotations

import abc
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.core.validation import check_choice
from decomcam_bench.datasets.prompts import resolve_templates

#: Ways to choose a subset; see :mod:`decomcam_bench.datasets.subsets`.
SUBSETS = ("random", "balanced", "difficult", "single_object")


def printable(text: str) -> str:
    r"""A text that UTF-8 can hold: what is no character is written out.

    JSON may hold halves of characters (``\ud800``), and names of files on disk need not be UTF-8;
    Python keeps the odd bytes of those as such halves.

    >>> printable("a \udcff.jpg")
    'a \\udcff.jpg'
    """
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


class Mask(Protocol):
    """A mask that is decoded when it is needed. Implementations are small and picklable."""

    def decode(self) -> np.ndarray:
        """The mask, bool (height, width) of the original image.

        Raises:
            ValueError: when it cannot be decoded; the message says why.
        """


@dataclass(frozen=True)
class ArrayMask:
    """A mask that is already in memory."""

    array: np.ndarray

    def decode(self) -> np.ndarray:
        return self.array


@dataclass(frozen=True)
class Part:
    """A named part of the target: a mask, or only a point (x, y) as in CUB."""

    name: str
    mask: Mask | None = None
    point: tuple[float, float] | None = None


@dataclass(frozen=True)
class Target:
    """One class that the image shows: all its instances together make one (image, text) pair.

    Attributes:
        class_id: index into :attr:`Dataset.class_names` (and so into the prompts).
        class_name: the data set's own name.
        boxes: float64 (n, 4), rows (x0, y0, x1, y1), half-open, in pixels of the original image;
            one row an instance. Empty where the data set has no boxes.
        difficult: bool (n,), the annotators' own flag (VOC).
        crowd: bool (n,), a box round a group (COCO ``iscrowd``).
        masks: one mask an instance, in the order of ``boxes``; empty where there are none.
        parts: named parts of the object, over all instances.
        text: a free text that replaces the class prompt, if not empty.
        inclusive: the data set's files name the last pixel of a box, not its end.
        ignored: masks of pixels that count neither as object nor as background (void); metrics that
            count pixels leave them out.
    """

    class_id: int
    class_name: str
    boxes: np.ndarray
    difficult: np.ndarray
    crowd: np.ndarray
    masks: tuple[Mask, ...] = ()
    parts: tuple[Part, ...] = ()
    text: str = ""
    inclusive: bool = False
    ignored: tuple[Mask, ...] = ()

    @staticmethod
    def of(
        class_id: int,
        class_name: str,
        boxes: Iterable[Sequence[float]],
        difficult: Iterable[bool] | None = None,
        crowd: Iterable[bool] | None = None,
        **more: Any,
    ) -> Target:
        """A target from plain sequences; flags are false unless given."""
        array = np.asarray(list(boxes), dtype=np.float64).reshape(-1, 4)
        none = np.zeros(len(array), dtype=bool)
        return Target(
            class_id,
            class_name,
            array,
            none if difficult is None else np.asarray(list(difficult), dtype=bool),
            none if crowd is None else np.asarray(list(crowd), dtype=bool),
            **more,
        )

    @property
    def corners(self) -> np.ndarray:
        """:attr:`boxes` as protocols read them from files: up to the last pixel where those are :attr:`inclusive`.

        From 0 and clipped to the image, as the boxes are.
        """
        return self.boxes - np.array([0.0, 0.0, 1.0, 1.0]) if self.inclusive else self.boxes

    def box_mask(self, height: int, width: int) -> np.ndarray:
        """Pixels inside any box, bool (height, width). Pixel i is inside [a, b) if a <= i < b."""
        mask = np.zeros((height, width), dtype=bool)
        for x0, y0, x1, y1 in np.ceil(self.boxes).astype(np.int64):
            mask[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
        return mask

    def object_mask(self) -> np.ndarray | None:
        """Union of the instance masks, bool (height, width), or None where there are none."""
        if not self.masks:
            return None
        return np.asarray(np.logical_or.reduce([mask.decode() for mask in self.masks]))


@dataclass(frozen=True)
class Problem:
    """An annotation that could not be used as it stands; the data set goes on without it.

    Attributes:
        file: the file that holds it.
        image_id: the image that it speaks of; empty where there is none.
        reason: what is wrong with it.
        class_id: the class that it speaks of, or -1 where that is unknown.
        class_name: the name of that class as the file writes it, or an empty string.
        pair_lost: nothing usable is left of this class in this image, so that the (image, class)
            pair counts as failed. False for a pair that is evaluated with what is left.
    """

    file: str
    image_id: str
    reason: str
    class_id: int = -1
    class_name: str = ""
    pair_lost: bool = False

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


@dataclass(frozen=True)
class Sample:
    """One image and what it shows.

    Attributes:
        image_id: unique in the data set, stable over machines.
        width, height: size of the original image in pixels.
        targets: one entry for each class present, by ascending ``class_id``.
        error: why the sample cannot be used (then ``targets`` may be empty), or an empty string.
        problems: annotations that could not be used as they stand, each with its file and reason.
    """

    image_id: str
    width: int
    height: int
    targets: tuple[Target, ...]
    error: str = ""
    problems: tuple[Problem, ...] = ()

    @property
    def lost(self) -> tuple[Problem, ...]:
        """Pairs that the image should have and that cannot be evaluated: they count as failed."""
        return tuple(problem for problem in self.problems if problem.pair_lost)


@dataclass
class Dataset(abc.ABC):
    """Base of all data sets. Subclasses are dataclasses; their fields are their options.

    Attributes:
        name: the name of its YAML.
        names: which wording of the class names the prompts use, one of :attr:`name_choices`.
        templates: a named set of :data:`decomcam_bench.datasets.prompts.TEMPLATE_SETS`, or one
            template, or a list of them, each with one ``{}``.
        subset: None for all, or one of :data:`SUBSETS`.
        subset_size: images in a ``random`` or ``balanced`` subset.
        subset_seed: seed of these.
        ids: only these image ids: a list, a single one, or the path of a text file with one a line.
        region: what localisation protocols use for this data set unless told otherwise:
            ``box`` or ``mask``.
        id: stable name of the class in cell keys, whatever file holds it; the class's name if empty.
        version: bump it when what a sample holds changes though its files do not: it is part of the cell key.
        has_parts: whether targets carry parts.
        causal_preset: preset of deletion and insertion unless told otherwise.
    """

    name: str = ""
    names: str = "own"
    templates: Any = "photo"
    subset: str | None = None
    subset_size: int | None = None
    subset_seed: int = 0
    ids: Any = None

    id: ClassVar[str] = ""
    region: ClassVar[str] = "box"
    has_parts: ClassVar[bool] = False
    causal_preset: ClassVar[str] = "rise"
    version: ClassVar[int] = 1
    name_choices: ClassVar[tuple[str, ...]] = ("own", "clip")

    def __post_init__(self) -> None:
        check_choice("dataset.names", self.names, self.name_choices)
        resolve_templates(self.templates)
        if self.subset is not None:
            check_choice("dataset.subset", self.subset, SUBSETS)
        sized = self.subset in ("random", "balanced")
        if sized and (self.subset_size is None or self.subset_size < 1):
            raise ConfigError(
                f"dataset.subset_size={self.subset_size}: subset={self.subset} needs a number of at least 1"
            )
        if not sized and self.subset_size is not None:
            raise ConfigError(
                f"dataset.subset_size={self.subset_size}: only for subset=random and subset=balanced "
                "(limit=N takes the first N)"
            )

    @property
    def problems(self) -> Sequence[Problem]:
        """Annotations that belong to no image of the data set; the others stand in their samples."""
        return ()

    @property
    def remarks(self) -> Sequence[str]:
        """What a user may want to know of the files, without anything being wrong."""
        return ()

    @property
    def doubts(self) -> Sequence[str]:
        """What makes numbers doubtful though every file can be read; each says what to set."""
        return ()

    @property
    def aggregation(self) -> str:
        """``class_mean`` or ``pair_mean``: what metrics that know both report unless told otherwise."""
        return "class_mean"

    @property
    @abc.abstractmethod
    def class_names(self) -> Sequence[str]:
        """The data set's own class names; ``Target.class_id`` indexes them."""

    @property
    def clip_names(self) -> Sequence[str]:
        """Names in the wording that CLIP was trained to read; the own names unless overridden."""
        return self.class_names

    def worded(self, names: str) -> Sequence[str]:
        """Class names in one of the wordings of :attr:`name_choices`, by class id."""
        return self.clip_names if names == "clip" else self.class_names

    @property
    def free_texts(self) -> frozenset[int]:
        """Class ids whose name is a free text, which no template is put round."""
        return frozenset()

    @property
    def available(self) -> frozenset[str]:
        """What its targets carry, out of ``box``, ``mask`` and ``parts``; see :attr:`Metric.needs`."""
        return frozenset({"box", *(["mask"] if self.region == "mask" else []), *(["parts"] if self.has_parts else [])})

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of images, the unusable ones included."""

    def image_id(self, index: int) -> str:
        """The id of image ``index``, the same as its sample's; cheaper where a subclass says so."""
        return self.sample(index).image_id

    @abc.abstractmethod
    def sample(self, index: int) -> Sample:
        """Annotations of image ``index``; cheap, decodes no image and no mask."""

    @abc.abstractmethod
    def load_image(self, index: int) -> np.ndarray:
        """Image ``index`` as stored, RGB uint8 (height, width, 3), never rotated or resized.

        Raises:
            ValueError, OSError: when it cannot be read; the message names the file.
        """

    @property
    def identity(self) -> dict[str, Any]:
        """The options that decide what the data set holds (not where it lies), for the cell key."""
        return {"name": self.name}

    @property
    def prompts(self) -> Prompts:
        """How its classes become texts: the chosen names and templates."""
        return Prompts(self.names, resolve_templates(self.templates))

    @property
    def prompt_identity(self) -> dict[str, Any]:
        """Wording of the prompts, for the cell key; the templates themselves, not their set's name.

        The names of all classes are part of it, those that no image shows too: metrics that run the
        model compare a pair with every text.
        """
        return {"names": self.names, "templates": list(self.prompts.templates), "texts": self._names_digest}

    @cached_property
    def _names_digest(self) -> str:
        """Hash of the names that the templates are put round, and of which are free texts."""
        named = [list(self.worded(self.names)), sorted(self.free_texts)]
        return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:16]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of ids and annotation content; a changed annotation file changes it."""
        return fingerprint_samples(self.sample(index) for index in range(len(self)))


def fingerprint_samples(samples: Iterable[Sample]) -> str:
    """SHA-256 (16 hex digits) over samples sorted by id, their sizes, boxes, flags and classes.

    Of what cannot be used it holds that it cannot, and the pairs that are lost with it; not the
    message, which names the place of a file.
    Masks and parts enter by their own content where they have a ``digest`` attribute (bytes) and
    by their number otherwise; a data set whose masks lie in one file may hash that file instead.
    """
    rows = []
    for sample in samples:
        digest = hashlib.sha256()
        head: list[Any] = [sample.width, sample.height, "unusable" if sample.error else ""]
        head += [["lost", problem.class_id, problem.class_name] for problem in sample.lost]
        for target in sample.targets:
            head.append([target.class_id, target.class_name, target.text, len(target.masks), len(target.parts)])
            digest.update(np.ascontiguousarray(target.boxes).tobytes())
            digest.update(target.difficult.tobytes() + target.crowd.tobytes())
            for mask in (*target.masks, *(part.mask for part in target.parts)):
                digest.update(getattr(mask, "digest", b""))
            for part in target.parts:
                head.append([part.name, part.point])
            for mask in target.ignored:
                digest.update(b"ignored" + getattr(mask, "digest", b""))
        digest.update(json.dumps(head).encode())
        rows.append((sample.image_id, digest.hexdigest()))
    return hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Prompts:
    """How a class becomes texts: which names, and which templates (averaged by the text bank).

    Attributes:
        names: one of the data set's :attr:`Dataset.name_choices`.
        templates: each holds one ``{}``.
    """

    names: str = "own"
    templates: tuple[str, ...] = field(default_factory=lambda: ("a photo of a {}.",))

    def texts(self, dataset: Dataset) -> list[list[str]]:
        """One list of texts a class, in the order of the class ids."""
        free = dataset.free_texts
        return [
            [name] if number in free else [template.replace("{}", name) for template in self.templates]
            for number, name in enumerate(dataset.worded(self.names))
        ]

    def empty(self, dataset: Dataset) -> list[str]:
        """Return the templates with nothing in the place of the class name; one empty text if none are used."""
        free = dataset.free_texts
        if all(number in free for number in range(len(dataset.worded(self.names)))):
            return [""]
        return [template.replace("{}", "") for template in self.templates]
