"""Checks a data set on disk: counts, annotations that do not fit, images that cannot be read."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from decomcam_bench.core.progress import progress
from decomcam_bench.datasets.acquire.catalogue import Variant
from decomcam_bench.datasets.base import Dataset, Sample, printable
from decomcam_bench.datasets.files import FileDataset
from decomcam_bench.datasets.images import image_size
from decomcam_bench.datasets.subsets import select


@dataclass
class Report:
    """What a check found; a data set is sound when ``findings`` is empty.

    Attributes:
        images, pairs, boxes, masks: counted.
        lost: pairs that have no usable annotation.
        expected: official numbers by what they count, where they are known.
        findings: one line each, by kind.
    """

    images: int = 0
    pairs: int = 0
    boxes: int = 0
    masks: int = 0
    lost: int = 0
    expected: dict[str, int] = field(default_factory=dict)
    findings: dict[str, list[str]] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        return not self.findings

    def add(self, kind: str, line: str) -> None:
        self.findings.setdefault(kind, []).append(printable(" ".join(line.split())))

    def lines(self, most: int = 10) -> Iterable[str]:
        """The report as text, with at most ``most`` lines of each kind of finding."""
        for name in ("images", "pairs", "boxes", "masks"):
            official = f" (official: {self.expected[name]:,})" if name in self.expected else ""
            yield f"  {name:<8} {getattr(self, name):>8,}{official}"
        for kind, found in self.findings.items():
            yield f"  {kind}: {len(found):,}"
            yield from (f"    {line}" for line in found[:most])
            if len(found) > most:
                yield f"    … and {len(found) - most:,} more (--all shows them)"


def verify(dataset: Dataset, variant: Variant | None = None, fast: bool = False, workers: int = 2) -> Report:
    """Looks at every sample and every image, or at those of the subset that the data set's options name.

    Args:
        dataset: opened.
        variant: its official numbers, where they are known; not compared with those of a subset.
        fast: read the headers of images only, and decode no mask.
        workers: threads; decoding leaves the interpreter to others.
    """
    report = Report()
    whole = dataset.ids is None and dataset.subset is None
    indices = range(len(dataset)) if whole else select(dataset).indices
    for problem in dataset.problems:
        report.add("annotations of no image", str(problem))
    with ThreadPoolExecutor(workers) as pool:
        checked = pool.map(lambda index: _look(dataset, index, fast), indices)
        with progress(len(indices), "verify") as bar:
            for sample, unreadable in checked:
                _count(report, sample)
                for kind, line in unreadable:
                    report.add(kind, line)
                bar.update(1)
    if variant is not None and whole:
        report.expected["images"] = variant.images
        if variant.boxes is not None:
            report.expected["boxes"] = variant.boxes
        for name, official in report.expected.items():
            found = getattr(report, name)
            if found != official:
                report.add("counts", f"{found:,} {name}, officially {official:,}")
    return report


def _look(dataset: Dataset, index: int, fast: bool) -> tuple[Sample, list[tuple[str, str]]]:
    """The sample, and what is wrong with its image and masks."""
    sample = dataset.sample(index)
    found = []
    try:
        if not fast or not isinstance(dataset, FileDataset):
            dataset.load_image(index)
        else:
            file = dataset.image_file(index)
            size = image_size(file)
            if sample.width and size != (sample.width, sample.height):
                stated = f"{sample.width} x {sample.height}"
                raise ValueError(f"{file}: {size[0]} x {size[1]} pixels, but its annotation says {stated}")
    except (OSError, ValueError) as error:
        if str(error) not in sample.error:
            found.append(("unreadable images", str(error)))
    if not fast:
        for target in sample.targets:
            for mask in (*target.masks, *(part.mask for part in target.parts if part.mask is not None)):
                try:
                    array = mask.decode()
                    if array.shape != (sample.height, sample.width):
                        raise ValueError(f"a mask of {array.shape}, the image has {(sample.height, sample.width)}")
                except ValueError as error:
                    found.append(("unreadable masks", f"{sample.image_id}, {target.class_name}: {error}"))
    return sample, found


def _count(report: Report, sample: Sample) -> None:
    report.images += 1
    report.pairs += len(sample.targets) + len(sample.lost)
    report.boxes += sum(len(target.boxes) for target in sample.targets)
    report.masks += sum(len(target.masks) for target in sample.targets)
    report.lost += len(sample.lost)
    if sample.error:
        report.add("unusable samples", f"{sample.image_id}: {sample.error}")
    for problem in sample.problems:
        report.add("pairs lost" if problem.pair_lost else "annotations mended or left out", str(problem))
