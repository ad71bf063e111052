"""The map of a pair does not depend on the pairs that it is computed with.

Batches of 1, 3, 7 and 32, and pairs alone, as the engine makes them; all methods on both towers.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from decomcam_bench.config import registry
from decomcam_bench.datasets.base import Target
from decomcam_bench.engine.evidence import Batch, EvidenceMaker
from decomcam_bench.engine.session import chunks
from decomcam_bench.methods.base import Method, explained
from decomcam_bench.models.geometry import Geometry
from decomcam_bench.models.toyclip import ToyClip
from decomcam_bench.models.vit_internals import lacking
from tests.parity.subjects import SIDE, TEXTS, Subject, normalised, photographs

from .test_contract import OF_THIS_PACKAGE

IMAGES, TEXTS_PER_IMAGE = 11, 2
LAYER = {"resnet": "layer2", "vit": "block5", "toyclip-resnet": "layer4", "toyclip-vit": "block-1"}
SMALL: dict[str, dict[str, object]] = {
    "rise": {"masks": 6},
    "gscorecam": {"channels": 12},
    "groupcam": {"groups": 6},
    "integrated_gradients": {"steps": 3},
    "smoothgrad": {"samples": 2},
    "m2ib": {"steps": 3, "samples": 2},
}


@cache
def subject(tower: str) -> Subject:
    """A small CLIP with random weights, or a trained toyclip."""
    if not tower.startswith("toyclip"):
        return Subject.of(tower)
    model = ToyClip(name=tower, tower=tower.removeprefix("toyclip-")).load("cpu", "fp32")
    return Subject(model, model.text_bank([[f"a {name}"] for name in ("house", "car", "tree", "boat", "cat")]), None)


@cache
def pictures(tower: str) -> Tensor:
    """Twelve images: the four photographs, mirrored, and upside down."""
    four = photographs()
    images = normalised(np.concatenate([four, four[:, :, ::-1], four[:, ::-1]]).copy())
    side = subject(tower).model.input_size
    return torch.nn.functional.interpolate(images, (side, side), mode="bilinear")


def build(name: str) -> Method:
    return registry.build("method", {**registry.read("method", name), **SMALL.get(name, {})})


def maps_of(tower: str, method: Method, images: list[int], texts: list[list[int]], batch_size: int) -> Tensor:
    """Maps of the texts of each image, as the engine evaluates them at a batch size."""
    model, bank = subject(tower).model, subject(tower).bank
    layer = model.tower.canonical(LAYER[tower]) if method.uses_layer else ""
    rank = 4 if method.ranked else None
    out = []
    for start in range(0, len(images), batch_size):
        chosen = images[start : start + batch_size]
        tensors = pictures(tower)[chosen]
        backbone = model.backbone(tensors, [layer] if layer else [])
        pairs = [(slot, text) for slot in range(len(chosen)) for text in texts[start + slot]]
        for span in chunks([slot for slot, _ in pairs], batch_size):
            some = [pairs[p] for p in span]
            batch = Batch(
                images=tensors,
                backbone=backbone,
                image_of=torch.tensor([slot for slot, _ in some]),
                class_ids=torch.tensor([text for _, text in some]),
                image_ids=[f"image{number}" for number in chosen],
                targets=[Target.of(text, str(text), [(8.0, 8.0, 60.0, 70.0)]) for _, text in some],
                geometries=[Geometry(SIDE, SIDE, SIDE, "squash")] * len(chosen),
                region="box",
            )
            maker = EvidenceMaker(model, bank, batch_size, 0)
            evidence = maker.evidence(batch, layer, method.score, method.needs, method.differentiated)
            with torch.no_grad():
                out.append(explained(method, evidence, [rank])[rank].maps((model.input_size, model.input_size)))
    return torch.cat(out)


def check(tower: str, method: Method, images: list[int], tolerance: float) -> None:
    texts = [[(image + k) % TEXTS for k in range(TEXTS_PER_IMAGE)] for image in images]
    together = maps_of(tower, method, images, texts, 32)
    allowed = tolerance * together.flatten(1).amax(1)[:, None, None]
    for batch_size in (1, 3, 7):
        maps = maps_of(tower, method, images, texts, batch_size)
        assert ((maps - together).abs() <= allowed).all(), batch_size
    alone = maps_of(tower, method, images[2:3], [texts[2][1:2]], 32)
    pair = 2 * TEXTS_PER_IMAGE + 1
    assert ((alone[0] - together[pair]).abs() <= allowed[pair]).all()


@pytest.mark.parametrize("tower", ["resnet", "vit"])
@pytest.mark.parametrize("name", OF_THIS_PACKAGE)
def test_a_map_does_not_depend_on_its_batch(name: str, tower: str) -> None:
    method = build(name)
    view = subject(tower).model.tower
    layer = view.canonical(LAYER[tower]) if method.uses_layer else ""
    if any(view.lacks(need, layer) or lacking(view, need) for need in method.needs):
        pytest.skip("this tower does not have what the method reads")
    # To a random network all masked images are alike: differences of its scores are half rounding.
    tolerance = 5e-3 if {"score", "gradients"} & method.needs else 1e-3
    if (name, tower) == ("gradcam_pp", "vit"):
        # Its denominator 2 G^2 + sum(A) G^3 passes through zero where the sum of tokens is negative.
        tolerance = 0.3
    check(tower, method, list(range(IMAGES)), tolerance)


@pytest.mark.parametrize("tower", ["toyclip-resnet", "toyclip-vit"])
@pytest.mark.parametrize("name", ["kmeans", "decomcam", "topchannels", "xgradcam", "eigengradcam"])
def test_a_map_of_a_trained_model_does_not_depend_on_its_batch(name: str, tower: str) -> None:
    check(tower, build(name), [0, 1, 2, 3, 4, 5, 6, 7] if name == "kmeans" else [0, 1, 2, 3], 1e-4)
