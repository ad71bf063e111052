"""Bring pictures and texts to maps and components: written once, for runs, single pictures and reports alike."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from decomcam_bench.core.reasons import Failure, Reason, failure
from decomcam_bench.datasets.base import Target
from decomcam_bench.engine.evidence import Batch, EvidenceMaker
from decomcam_bench.methods.base import Evidence, Explanation, Method, explained
from decomcam_bench.models.clip import ClipModel, TextBank
from decomcam_bench.models.geometry import View


@dataclass(frozen=True)
class Picture:
    """Hold a picture at the model's input size and what is asked about it.

    Attributes:
        image_id: names it; methods that draw at random are seeded with it.
        pixels: uint8 (3, size, size).
        width: of the original image.
        height: of the original image.
        targets: the classes to explain; ``class_id`` indexes the texts.
    """

    image_id: str
    pixels: np.ndarray
    width: int
    height: int
    targets: tuple[Target, ...]


class Request(Protocol):
    """Ask a session for a method at a layer and a rank. A planned cell is such a request."""

    @property
    def layer(self) -> str:
        """Canonical name of the layer; empty for a method that reads none."""

    @property
    def method(self) -> Method:
        """The method."""

    @property
    def rank(self) -> int | None:
        """The rank; None for a method without one."""


@dataclass
class Answers:
    """Hold the explanations of requests that share their computation, for P pairs.

    Attributes:
        requests: positions of the requests.
        by_rank: an explanation for each of their ranks.
        channels: of the layer; 0 without one.
        seconds: wall time of the method.
        peak_mib: largest memory during it: of the device, on the CPU of the process.
    """

    requests: list[int]
    by_rank: Mapping[int | None, Explanation]
    channels: int
    seconds: float
    peak_mib: float


#: Groups of positions of requests that one call of their method answers.
Sharing = Sequence[Sequence[int]]


class ModelSession:
    """Bring pictures to maps with a model and its texts.

    Args:
        model: on its device.
        bank: embeddings of the texts.
        view: how an image becomes the model's input.
        region: ``box`` or ``mask``: the annotation that the oracle control draws.
        batch_size: most images, or pairs, through the model at a time.
        seed: of methods that draw at random.
    """

    def __init__(
        self,
        model: ClipModel,
        bank: TextBank,
        view: View,
        region: str = "box",
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        self.model, self.bank, self.view, self.region = model, bank, view, region
        self.batch_size = batch_size
        self.maker = EvidenceMaker(model, bank, batch_size, seed)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the model's input."""
        return self.model.input_size, self.model.input_size

    def batches(self, pictures: Sequence[Picture], layers: Collection[str]) -> Iterator[tuple[list[int], Batch]]:
        """Yield the pairs of some pictures in batches that share one backbone pass.

        Args:
            pictures: N of them.
            layers: whose activations are wanted.

        Yields:
            For each pair of the batch the position of its picture, and the batch.
        """
        pairs = [(slot, target) for slot, picture in enumerate(pictures) for target in picture.targets]
        if not pictures:
            return
        images = self.model.prepare(torch.from_numpy(np.stack([picture.pixels for picture in pictures])))
        backbone = self.model.backbone(images, sorted(set(layers) - {""}))
        geometries = [self.view.of(p.width, p.height) for p in pictures]
        names = [picture.image_id for picture in pictures]
        for span in chunks([slot for slot, _ in pairs], self.batch_size):
            chunk = pairs[span.start : span.stop]
            slots = [slot for slot, _ in chunk]
            targets = [target for _, target in chunk]
            yield (
                slots,
                Batch(
                    images,
                    backbone,
                    torch.tensor(slots, device=self.model.device),
                    torch.tensor([target.class_id for target in targets], device=self.model.device),
                    names,
                    targets,
                    geometries,
                    self.region,
                ),
            )

    def answers(
        self,
        batch: Batch,
        requests: Sequence[Request],
        sharing: Sharing | None = None,
        tell: Callable[[Request], None] = lambda request: None,
    ) -> Iterator[Answers]:
        """Yield explanations of a batch; what requests share is computed once.

        Args:
            batch: of pairs.
            requests: what is asked.
            sharing: positions of requests that differ in rank alone, and may be answered in one go; each request
                by itself if None.
            tell: called with the first request of each group before it is answered.
        """
        evidences: dict[tuple[str, str, str, bool], Evidence] = {}
        for group in sharing if sharing is not None else [[place] for place in range(len(requests))]:
            first = requests[group[0]]
            tell(first)
            share = _shared(first)
            if share not in evidences:
                needs = [one.method.needs for one in requests if _shared(one) == share]
                layer, kind, slope, full = share
                evidences[share] = self.maker.evidence(batch, layer, kind, frozenset().union(*needs), slope, full)
            watch = _Stopwatch(self.model.device)
            with torch.no_grad():
                made = explained(first.method, evidences[share], [requests[place].rank for place in group])
            seconds, peak = watch.stop()
            channels = evidences[share].image_activations.shape[1]
            # In float32 before upsampling, as maps are saved, so that those read back are the same.
            by_rank = {rank: replace(one, native=one.native.detach().float()) for rank, one in made.items()}
            yield Answers(list(group), by_rank, channels, seconds, peak)

    def maps(self, explanation: Explanation) -> tuple[Tensor, list[Failure | None]]:
        """Return maps at the model's input, and why a pair has none.

        Returns:
            Maps, float32 (P, H, W), zero where there is none; and P failures or None.
        """
        maps = explanation.maps(self.size)
        failures = map_failures(maps, explanation)
        valid = torch.tensor([found is None for found in failures], device=maps.device)
        return torch.where(valid[:, None, None], maps, 0.0), failures


def chunks(image_of: Sequence[int], batch_size: int) -> list[range]:
    """Split pairs into chunks to evaluate together.

    The pairs of an image stay together, so that what does not depend on the text is computed once for
    them: a chunk has at most ``batch_size`` pairs, or all those of a single image.

    Args:
        image_of: the image of each pair, ascending.
        batch_size: most pairs of several images.
    """
    starts = [p for p, image in enumerate(image_of) if p == 0 or image_of[p - 1] != image]
    ends = [*starts[1:], len(image_of)]
    spans: list[range] = []
    for start, end in zip(starts, ends, strict=False):
        if spans and end - spans[-1].start <= batch_size:
            spans[-1] = range(spans[-1].start, end)
        else:
            spans.append(range(start, end))
    return spans


def _shared(request: Request) -> tuple[str, str, str, bool]:
    """Return what requests with the same evidence have in common: layer, scores, and precision of activations."""
    return request.layer, request.method.score, request.method.differentiated, request.method.full_precision


def map_failures(maps: Tensor, explanation: Explanation) -> list[Failure | None]:
    """Return why each of P pairs has no map, or None.

    Args:
        maps: (P, H, W), of the explanation.
        explanation: with the failures that the method itself names.
    """
    finite = torch.isfinite(maps).flatten(1).all(dim=1).tolist()
    mass = maps.double().flatten(1).sum(dim=1).tolist()
    found: list[Failure | None] = []
    for pair in range(len(maps)):
        given = explanation.failures.get(pair)
        if given:
            found.append(failure(given))
        elif not finite[pair]:
            found.append(Failure(Reason.NON_FINITE_MAP))
        else:
            found.append(None if mass[pair] > 0 else Failure(Reason.ZERO_MAP))
    return found


class _Stopwatch:
    """Measure seconds and peak memory (MiB) of a block on a device; on the CPU the peak is the process's."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
        self.began = time.perf_counter()

    def stop(self) -> tuple[float, float]:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            peak = torch.cuda.max_memory_allocated(self.device) / 2**20
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        return time.perf_counter() - self.began, peak
