"""Judge what can be read but may not be meant: turned photographs, masks and boxes that make no sense, long texts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from decomcam_bench.datasets.base import Dataset, Sample, Target, printable
from decomcam_bench.datasets.custom.dataset import Custom
from decomcam_bench.datasets.files import FileDataset
from decomcam_bench.datasets.images import orientation_of
from decomcam_bench.datasets.masks import ImageMask, NoMask, bounding_box, read_mask_pixels

#: A mask that covers more of its image than this is suspected of being the background.
NEARLY_ALL = 0.95
#: A mask along the whole border that covers more than this may be inverted.
INVERTED = 0.5
#: Share of pixels between the ends of the range from which a mask file is worth a remark, or is none.
SOFT, NO_MASK = 0.01, 0.25
#: A mask agrees with its box if at least this share of its pixels lies inside (with a margin in pixels),
#: and the box round it takes up at least that share of the box.
MIN_INSIDE, MARGIN, MIN_FILL = 0.5, 2.0, 0.2
#: Tokens that CLIP's text tower reads, the marks at both ends included.
CONTEXT = 77

TURNED = "turned photographs"
FULL = "masks that cover nearly everything"
EMPTY = "masks without a pixel"
BETWEEN = "masks with values between the ends"
DISAGREE = "masks that disagree with their boxes"
NO_PIXEL = "regions without a pixel"
DOUBTS = "doubts about the files"
COPIES = "images that occur twice"
LONG = "texts longer than the model reads"

Finding = tuple[str, str]


def sample_findings(dataset: Dataset, index: int, sample: Sample) -> list[Finding]:
    """Return (kind, line) of everything about one image that may not be meant. Decodes its masks.

    Masks that cannot be decoded are left to :func:`~decomcam_bench.datasets.acquire.verify.verify`.
    """
    found = _turned(dataset, index)
    for target in sample.targets:
        where = f"{sample.image_id}, {target.class_name}"
        if len(target.boxes) and not target.box_mask(sample.height, sample.width).any():
            found.append((NO_PIXEL, f"{where}: no pixel lies in its box {_shown(target.boxes[0])}; widen it"))
        try:
            found += _masks(target, where)
        except ValueError:
            continue
    return found


def dataset_findings(dataset: Dataset, indices: Sequence[int]) -> list[Finding]:
    """Return (kind, line) of what concerns the data set as a whole."""
    found = [(DOUBTS, line) for line in dataset.doubts]
    found += [(LONG, line) for line in long_texts(dataset)]
    if isinstance(dataset, Custom):
        found += _copies(dataset, indices)
    return found


def count_findings(dataset: Dataset, indices: Sequence[int]) -> dict[str, int]:
    """Count what a run should repeat of :func:`~decomcam_bench.datasets.acquire.verify.verify`, by kind.

    A user's own data are looked at image by image; benchmarks, whose files are known, only as a whole.
    """
    found = dataset_findings(dataset, indices)
    if isinstance(dataset, Custom):
        for index in indices:
            found += sample_findings(dataset, index, dataset.sample(index))
    return dict(Counter(kind for kind, _ in found))


def _turned(dataset: Dataset, index: int) -> list[Finding]:
    if not isinstance(dataset, Custom) or dataset.exif != "stored":
        return []
    try:
        file = dataset.image_file(index)
        turn = orientation_of(file)
    except (OSError, ValueError):
        return []
    if turn == 1:
        return []
    remedy = "set dataset.exif=upright if it was annotated upright, as browsers show it"
    return [(TURNED, f"{file}: stored turned (EXIF orientation {turn}); {remedy}")]


def _masks(target: Target, where: str) -> list[Finding]:
    found: list[Finding] = []
    aligned = len(target.masks) == len(target.boxes)
    for number, mask in enumerate(target.masks):
        if isinstance(mask, NoMask):
            continue
        array = mask.decode()
        file = getattr(mask, "file", "")
        place = f"{where} ({file})" if file else where
        found += _coverage(array, place)
        if isinstance(mask, ImageMask) and mask.value is None and mask.file.is_file():
            share = read_mask_pixels(mask.file).between_share()
            if share > NO_MASK:
                found.append(
                    (BETWEEN, f"{place}: {share:.0%} of its pixels are neither black nor white; is it a mask?")
                )
        if aligned and array.any() and not agrees(array, target.boxes[number]):
            box, round_it = _shown(target.boxes[number]), _shown(bounding_box(array) or ())
            found.append(
                (DISAGREE, f"{place}: its box is {box}, its mask fills {round_it}; one belongs to another object")
            )
    return found


def _coverage(array: np.ndarray, place: str) -> list[Finding]:
    share = float(array.mean())
    if not share:
        return [(EMPTY, f"{place}: the mask has no pixel")]
    border = bool(array[[0, -1]].all() and array[:, [0, -1]].all())
    if share > NEARLY_ALL or (border and share > INVERTED):
        return [
            (FULL, f"{place}: the mask covers {share:.0%} of the image; if it is inverted, set dataset.mask_value=0")
        ]
    return []


def agrees(mask: np.ndarray, box: Sequence[float]) -> bool:
    """Return True if a mask lies in its box and takes up a fair part of it.

    Args:
        mask: bool (height, width), with at least one pixel.
        box: half-open (x0, y0, x1, y1).
    """
    x0, y0, x1, y1 = (float(value) for value in box)
    rows, columns = np.arange(mask.shape[0]) + 0.5, np.arange(mask.shape[1]) + 0.5
    inside = ((rows > y0 - MARGIN) & (rows < y1 + MARGIN))[:, None] & (
        (columns > x0 - MARGIN) & (columns < x1 + MARGIN)
    )
    tight = bounding_box(mask)
    assert tight is not None
    fill = (tight[2] - tight[0]) * (tight[3] - tight[1]) / max((x1 - x0) * (y1 - y0), 1e-9)
    return float(mask[inside].sum()) >= MIN_INSIDE * float(mask.sum()) and fill >= MIN_FILL


def mask_remarks(sample: Sample) -> Iterable[str]:
    """Yield remarks on masks with soft edges, and on instances without a mask next to others that have one."""
    for target in sample.targets:
        missing = sum(isinstance(mask, NoMask) for mask in target.masks)
        if missing:
            yield (
                f"{sample.image_id}, {target.class_name}: {missing} of {len(target.masks)} annotations have no mask; "
                "metrics of the mask use the others"
            )
        for mask in target.masks:
            if isinstance(mask, ImageMask) and mask.value is None:
                share = read_mask_pixels(mask.file).between_share()
                if SOFT < share <= NO_MASK:
                    yield f"{mask.file}: {share:.1%} of its pixels are grey; from half of the range they are object"


def _copies(dataset: FileDataset, indices: Sequence[int]) -> list[Finding]:
    """Return images whose files hold the same bytes."""
    by_size: dict[int, list[Path]] = {}
    for index in indices:
        try:
            file = dataset.image_file(index)
            by_size.setdefault(file.stat().st_size, []).append(file)
        except (OSError, ValueError):
            continue
    found: list[Finding] = []
    for files in by_size.values():
        first: dict[bytes, Path] = {}
        for file in files if len(files) > 1 else ():
            digest = hashlib.sha256(file.read_bytes()).digest()
            other = first.setdefault(digest, file)
            if other != file:
                found.append((COPIES, f"{file}: the same picture as {other}; leave one of them out"))
    return found


def long_texts(dataset: Dataset) -> list[str]:
    """Return a line for each text that CLIP cuts because it has more than :data:`CONTEXT` tokens."""
    # A token stands for at least one byte, so that most texts need not be counted.
    texts = [text for many in dataset.prompts.texts(dataset) for text in many if len(text.encode()) > CONTEXT - 2]
    found = []
    for text in dict.fromkeys(texts):
        count = len(_encode(text)) + 2
        if count > CONTEXT:
            found.append(f"'{printable(text[:60])}...' has {count} tokens, and CLIP reads {CONTEXT}; shorten it")
    return found


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    from open_clip import SimpleTokenizer

    return SimpleTokenizer()


def _encode(text: str) -> list[int]:
    return list(_tokenizer().encode(printable(text)))


def _shown(box: Iterable[float]) -> str:
    return f"({', '.join(f'{value:g}' for value in box)})"
