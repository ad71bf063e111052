"""Check a data set on disk: counts, what cannot be read, and what can be read but may not be meant."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tqdm import tqdm

from decomcam_bench.datasets.acquire.catalogue import Variant
from decomcam_bench.datasets.acquire.known_flaws import known_flaw
from decomcam_bench.datasets.acquire.plausibility import Finding, dataset_findings, mask_remarks, sample_findings
from decomcam_bench.datasets.base import Dataset, Sample, printable
from decomcam_bench.datasets.files import FileDataset
from decomcam_bench.datasets.images import image_size
from decomcam_bench.datasets.masks import NoMask
from decomcam_bench.datasets.subsets import select


@dataclass
class Report:
    """What a check found; a data set is sound if ``findings`` is empty.

    Attributes:
        images, pairs, boxes, masks: counted.
        lost: pairs that have no usable annotation.
        expected: official numbers by what they count, where they are known.
        findings: one line each, by kind.
        known: findings that every official copy has, one line each with where they are reported.
        remarks: what is worth knowing without anything being wrong.
    """

    images: int = 0
    pairs: int = 0
    boxes: int = 0
    masks: int = 0
    lost: int = 0
    expected: dict[str, int] = field(default_factory=dict)
    findings: dict[str, list[str]] = field(default_factory=dict)
    known: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing was found beyond known flaws."""
        return not self.findings

    @property
    def verdict(self) -> str:
        """``sound``, ``sound, with 3 known flaws``, or ``not sound`` with the number of findings of each kind."""
        if self.findings:
            return f"not sound: {', '.join(f'{len(found):,} {kind}' for kind, found in self.findings.items())}"
        count = len(self.known)
        return f"sound, with {count:,} known flaw{'s' if count > 1 else ''}" if count else "sound"

    def add(self, kind: str, line: str) -> None:
        """Add a finding, as one line."""
        self.findings.setdefault(kind, []).append(printable(" ".join(line.split())))

    def lines(self, most: int = 10) -> Iterable[str]:
        """Yield the report as text, with at most ``most`` lines of each kind of finding."""
        for name in ("images", "pairs", "boxes", "masks"):
            official = f" (official: {self.expected[name]:,})" if name in self.expected else ""
            yield f"  {name:<8} {getattr(self, name):>8,}{official}"
        for kind, found in {**self.findings, "known flaws": self.known, "remarks": self.remarks}.items():
            if found:
                yield f"  {kind}: {len(found):,}"
                yield from (f"    {line}" for line in found[:most])
            if len(found) > most:
                yield f"    … and {len(found) - most:,} more (--all shows them)"


def verify(dataset: Dataset, variant: Variant | None = None, fast: bool = False, workers: int = 2) -> Report:
    """Look at every sample and every image, or at those of the subset that the data set's options name.

    Args:
        dataset: opened.
        variant: its official numbers, where they are known; not compared with those of a subset.
        fast: read only the headers of images, and decode no mask.
        workers: threads; decoding leaves the interpreter to others.
    """
    report = Report()
    whole = dataset.ids is None and dataset.subset is None
    indices = range(len(dataset)) if whole else select(dataset).indices
    for problem in dataset.problems:
        report.add("annotations of no image", str(problem))
    report.remarks += [printable(" ".join(line.split())) for line in dataset.remarks]
    for kind, line in dataset_findings(dataset, indices):
        report.add(kind, line)
    with ThreadPoolExecutor(workers) as pool:
        checked = pool.map(lambda index: _look(dataset, index, fast), indices)
        for sample, found, remarks in tqdm(checked, total=len(indices), desc="verify", unit="image", leave=False):
            _count(report, sample)
            for kind, line in [*_problems(sample), *found]:
                _judge(report, dataset, sample.image_id, kind, line)
            report.remarks += remarks
    if variant is not None and whole:
        _compare(report, variant)
    return report


def _judge(report: Report, dataset: Dataset, image_id: str, kind: str, line: str) -> None:
    flaw = known_flaw(dataset, image_id, line)
    if flaw is None:
        report.add(kind, line)
    else:
        report.known.append(printable(f"{' '.join(line.split())} ({flaw.reason}: {flaw.source})"))


def _compare(report: Report, variant: Variant) -> None:
    report.expected["images"] = variant.images
    if variant.boxes is not None:
        report.expected["boxes"] = variant.boxes
    for name, official in report.expected.items():
        found = getattr(report, name)
        if found != official:
            report.add("counts", f"{found:,} {name}, officially {official:,}")


def _look(dataset: Dataset, index: int, fast: bool) -> tuple[Sample, list[Finding], list[str]]:
    """Return the sample, what is wrong or doubtful about its image and masks, and remarks."""
    sample = dataset.sample(index)
    found: list[Finding] = []
    remarks: list[str] = []
    try:
        if not fast or not isinstance(dataset, FileDataset):
            dataset.load_image(index)
        else:
            _compare_size(dataset, index, sample)
    except (OSError, ValueError) as error:
        if str(error) not in sample.error:
            found.append(("unreadable images", str(error)))
    if not fast:
        masks = _unreadable_masks(sample)
        found += masks
        if not masks:
            found += sample_findings(dataset, index, sample)
            remarks += mask_remarks(sample)
    return sample, found, remarks


def _compare_size(dataset: FileDataset, index: int, sample: Sample) -> None:
    """Compare the size in the header of an image with its annotation.

    Raises:
        ValueError, OSError: if they differ, or the header cannot be read.
    """
    file = dataset.image_file(index)
    size = dataset.size_of(file) if hasattr(dataset, "size_of") else image_size(file)
    if sample.width and size != (sample.width, sample.height):
        stated = f"{sample.width} x {sample.height}"
        raise ValueError(f"{file}: {size[0]} x {size[1]} pixels, but its annotation says {stated}")


def _unreadable_masks(sample: Sample) -> list[Finding]:
    found = []
    for target in sample.targets:
        masks = (*target.masks, *target.ignored, *(part.mask for part in target.parts if part.mask is not None))
        for mask in masks:
            try:
                array = mask.decode()
                if array.shape != (sample.height, sample.width):
                    raise ValueError(f"a mask of {array.shape}, the image has {(sample.height, sample.width)}")
            except ValueError as error:
                found.append(("unreadable masks", f"{sample.image_id}, {target.class_name}: {error}"))
    return found


def _count(report: Report, sample: Sample) -> None:
    report.images += 1
    report.pairs += len(sample.targets) + len(sample.lost)
    report.boxes += sum(len(target.boxes) for target in sample.targets)
    report.masks += sum(not isinstance(mask, NoMask) for target in sample.targets for mask in target.masks)
    report.lost += len(sample.lost)


def _problems(sample: Sample) -> list[Finding]:
    found = [("unusable samples", f"{sample.image_id}: {sample.error}")] if sample.error else []
    kinds = ("annotations mended or left out", "pairs lost")
    return found + [(kinds[problem.pair_lost], str(problem)) for problem in sample.problems]
