"""Load images ahead of use: each image of a run is read and resized once, in worker processes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch.utils.data import DataLoader

from decomcam_bench.core.reasons import Failure, Reason
from decomcam_bench.datasets.base import Dataset, Sample
from decomcam_bench.models.geometry import View


@dataclass(frozen=True)
class Loaded:
    """Hold one image, ready for the model, or why it is not.

    Attributes:
        index: position in the data set.
        sample: its annotation.
        pixels: uint8 (3, size, size), or None.
        failed: why there are no pixels, or None.
    """

    index: int
    sample: Sample
    pixels: np.ndarray | None
    failed: Failure | None = None

    @property
    def error(self) -> str:
        """Why there are no pixels, in words; or an empty string."""
        return self.failed.detail if self.failed else ""

    @property
    def flaw(self) -> str:
        """What ``strict=true`` stops at: the image or the first annotation that cannot be used; or an empty string."""
        problems = [*self.sample.lost, *self.sample.problems]
        return self.error or (str(problems[0]) if problems else "")


def load(dataset: Dataset, index: int, view: View) -> Loaded:
    """Return image ``index`` of a data set at the model's input size, or why there is none."""
    sample = dataset.sample(index)
    if sample.error:
        return Loaded(index, sample, None, Failure(_why_unusable(dataset, index), sample.error))
    try:
        image = dataset.load_image(index)
    except (OSError, ValueError) as error:
        code = Reason.MISSING_IMAGE if isinstance(error, FileNotFoundError) else Reason.UNREADABLE_IMAGE
        return Loaded(index, sample, None, Failure(code, " ".join(str(error).split()) or type(error).__name__))
    height, width = image.shape[:2]
    if (width, height) != (sample.width, sample.height):
        expected = f"{sample.width} x {sample.height}"
        why = f"{sample.image_id}: image is {width} x {height}, its annotation says {expected}"
        return Loaded(index, sample, None, Failure(Reason.UNREADABLE_IMAGE, why))
    return Loaded(index, sample, view.of(width, height).to_input(image))


def _why_unusable(dataset: Dataset, index: int) -> Reason:
    """Return whether the image of an unusable sample is missing or its annotation is bad."""
    place = getattr(dataset, "image_file", None)
    try:
        missing = place is not None and not place(index).is_file()
    except (OSError, ValueError, AttributeError):
        missing = False
    return Reason.MISSING_IMAGE if missing else Reason.BAD_ANNOTATION


class _Images(torch.utils.data.Dataset[Loaded]):
    def __init__(self, dataset: Dataset, view: View) -> None:
        self.dataset, self.view = dataset, view

    def __getitem__(self, index: int) -> Loaded:
        return load(self.dataset, index, self.view)


def worker_count(wanted: int | None) -> int:
    """Return the number of processes that decode: as asked, or one less than the cores, at most 8."""
    if wanted is not None:
        return wanted
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores - 1))


def load_batches(
    dataset: Dataset, batches: Sequence[Sequence[int]], view: View, workers: int | None = None
) -> Iterator[list[Loaded]]:
    """Yield the images of each batch of positions, decoded ahead of use."""
    loader: DataLoader[Loaded] = DataLoader(
        _Images(dataset, view),
        batch_sampler=[list(batch) for batch in batches],
        num_workers=min(worker_count(workers), len(batches)),
        collate_fn=_as_list,
        worker_init_fn=_end_with_parent,
    )
    return iter(cast("Iterable[list[Loaded]]", loader))


def _end_with_parent(worker: int) -> None:
    """End this process soon after its parent, also where that was killed and could say nothing."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _as_list(items: list[Loaded]) -> list[Loaded]:
    return items
