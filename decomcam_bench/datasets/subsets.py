"""Subsets: by number, by seed, by class, by id, and the two that pointing and energy define.

Images are drawn by hashing their id with the seed, so that a subset is the same on every machine
and a smaller one of the same seed is contained in a larger one.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decomcam_bench.core.errors import ConfigError, DataError
from decomcam_bench.datasets.base import Dataset, Sample, Target
from decomcam_bench.datasets.subset_rules import is_difficult, no_single_object


@dataclass(frozen=True)
class Selection:
    """Chosen positions of a data set, and which of their pairs.

    Attributes:
        indices: positions in the data set, in the order of evaluation.
        available: how many there were before the limit.
        digest: hash of the chosen ids in their order, and of the pairs, for the cell key.
        pairs: (image id, class id) of the pairs that belong to the subset, or None for all.
    """

    indices: tuple[int, ...]
    available: int
    digest: str
    pairs: frozenset[tuple[str, int]] | None = None

    def keeps(self, sample: Sample, target: Target) -> bool:
        """Whether a pair of a chosen image is part of the subset."""
        return self.pairs is None or (sample.image_id, target.class_id) in self.pairs


def select(dataset: Dataset, limit: int | None = None) -> Selection:
    """The subset that a data set's options name: ``ids`` first, then ``subset``, then ``limit``.

    What has no usable annotation cannot be judged: in the subsets that are defined by annotation
    such an image stays, so that it is counted as failed.

    Args:
        limit: keep the first N images that the other options leave, or None for all.

    Raises:
        ConfigError: for ids that the data set does not hold, a size that it does not have, or a
            subset without an image.
        DataError: when the file of ids cannot be read.
    """
    left = _by_id(dataset, _wanted(dataset)) if dataset.ids is not None else list(range(len(dataset)))
    pairs: set[tuple[str, int]] | None = None
    if dataset.subset in ("random", "balanced") and (dataset.subset_size or 0) > len(left):
        raise ConfigError(f"dataset.subset_size={dataset.subset_size}: there are only {len(left)} images")
    if dataset.subset == "random":
        left = sorted(_shuffled(dataset, left)[: dataset.subset_size])
    elif dataset.subset == "balanced":
        left = sorted(_balanced(dataset, _shuffled(dataset, left)))
    elif dataset.subset is not None:
        left, pairs = _defined(dataset, left)
    if not left:
        raise ConfigError(f"dataset.subset={dataset.subset}: no image of {dataset.name} belongs to it")
    chosen = left[:limit]
    what = json.dumps([dataset.image_id(index) for index in chosen])
    if pairs is not None:
        what += json.dumps(sorted(pairs))
    digest = hashlib.sha256(what.encode()).hexdigest()[:16]
    return Selection(tuple(chosen), len(left), digest, None if pairs is None else frozenset(pairs))


def _defined(dataset: Dataset, indices: list[int]) -> tuple[list[int], set[tuple[str, int]]]:
    """Images and pairs of a subset that the annotation defines."""
    belongs = is_difficult_pair if dataset.subset == "difficult" else is_single_object_pair
    kept: list[int] = []
    pairs: set[tuple[str, int]] = set()
    for index in indices:
        sample = dataset.sample(index)
        own = {
            (sample.image_id, target.class_id) for target in sample.targets if belongs(sample, target, dataset.region)
        }
        pairs |= own
        if own or sample.error or sample.lost:
            kept.append(index)
    return kept, pairs


def _wanted(dataset: Dataset) -> list[str]:
    """The ids that are asked for: a list, a text file of them, or a single one."""
    ids = dataset.ids
    single = isinstance(ids, str) and not Path(ids).expanduser().is_file()
    if single and any(dataset.image_id(index) == ids for index in range(len(dataset))):
        return [ids]
    return read_ids(ids)


def read_ids(ids: Any) -> list[str]:
    """Return a list of ids, or the ids in a text file with one per line; empty lines and ``#`` comments are left out.

    Raises:
        DataError: when the file cannot be read.
        ConfigError: for a list without ids.
    """
    if isinstance(ids, str):
        try:
            lines = Path(ids).expanduser().read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeError) as error:
            raise DataError(
                f"dataset.ids={ids}: cannot be read ({error}); give a list, or a text file with one id a line"
            ) from error
        ids = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    elif not isinstance(ids, Sequence):
        raise ConfigError(f"dataset.ids={ids}: neither a list of ids nor the path of a text file")
    names = list(dict.fromkeys(str(name) for name in ids))
    if not names:
        raise ConfigError("dataset.ids: no id in it")
    return names


def is_difficult_pair(sample: Sample, target: Target, region: str) -> bool:
    """Return whether a pair is difficult; one whose mask cannot be decoded stays in, so that it is counted."""
    classes = {other.class_id for other in sample.targets}
    if len(classes) < 2:
        return False
    try:
        mask = target.object_mask() if region == "mask" else None
    except ValueError:
        return True
    covered = target.box_mask(sample.height, sample.width) if mask is None else mask
    return is_difficult(int(covered.sum()), sample.width * sample.height, classes)


def is_single_object_pair(sample: Sample, target: Target, region: str) -> bool:
    """Return whether a pair is of a single object, whatever the region."""
    return not no_single_object(target, sample.width, sample.height)


def _by_id(dataset: Dataset, ids: list[str]) -> list[int]:
    wanted = set(ids)
    found = {dataset.image_id(index): index for index in range(len(dataset))}
    missing = [name for name in ids if name not in found]
    if missing:
        raise ConfigError(
            f"dataset.ids: {len(missing)} of {len(ids)} ids are not in {dataset.name}, the first is '{missing[0]}' "
            f"(an id looks like '{next(iter(found), '')}')"
        )
    return sorted(found[name] for name in wanted)


def _shuffled(dataset: Dataset, indices: list[int]) -> list[int]:
    def rank(index: int) -> bytes:
        return hashlib.sha256(f"{dataset.subset_seed}:{dataset.image_id(index)}".encode()).digest()

    return sorted(indices, key=rank)


def _balanced(dataset: Dataset, order: list[int]) -> list[int]:
    """Always the next image of the class that has the fewest so far, until the number is reached."""
    classes = {index: sorted({target.class_id for target in dataset.sample(index).targets}) for index in order}
    waiting: dict[int, list[int]] = {}
    for index in reversed(order):
        for class_id in classes[index]:
            waiting.setdefault(class_id, []).append(index)
    counts = dict.fromkeys(waiting, 0)
    queue = [(0, class_id) for class_id in sorted(waiting)]
    heapq.heapify(queue)
    chosen: list[int] = []
    taken: set[int] = set()
    while queue and len(chosen) < (dataset.subset_size or 0):
        count, class_id = heapq.heappop(queue)
        if count != counts[class_id]:
            heapq.heappush(queue, (counts[class_id], class_id))
            continue
        images = waiting[class_id]
        while images and images[-1] in taken:
            images.pop()
        if not images:
            continue
        index = images.pop()
        taken.add(index)
        chosen.append(index)
        for other in classes[index]:
            counts[other] += 1
        heapq.heappush(queue, (counts[class_id], class_id))
    if len(chosen) < (dataset.subset_size or 0):
        raise ConfigError(f"dataset.subset_size={dataset.subset_size}: only {len(chosen)} images have a usable class")
    return chosen
