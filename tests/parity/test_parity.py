"""Maps against golden numbers of the original programs, see ``tests/data/parity/README.md``."""

from __future__ import annotations

import os
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from decomcam_bench.config import registry
from decomcam_bench.methods.base import Method, min_max
from decomcam_bench.methods.rise import RISE

from .subjects import DATA, SIDE, TEXT_OF, Subject

pytestmark = pytest.mark.parity
#: Deviations by test, for the published table.
MEASURED: list[tuple[str, float]] = []


@cache
def subject(tower: str) -> Subject:
    return Subject.of(tower)


@cache
def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(DATA / f"{name}.npz") as arrays:
        return dict(arrays)


def build(name: str, **options: object) -> Method:
    return registry.build("method", {**registry.read("method", name), **options})


def sampled(maps: Tensor) -> Tensor:
    """Every fourth pixel, as the golden numbers are stored."""
    return maps[..., 1::4, 1::4]


def deviation(maps: Tensor, expected: np.ndarray) -> float:
    """Largest deviation of any map, relative to the map's largest magnitude."""
    theirs = torch.tensor(expected).flatten(1)
    assert theirs.abs().amax(1).min() > 0, "the original has no map here"
    found = float(((maps.flatten(1) - theirs).abs().amax(1) / theirs.abs().amax(1)).max())
    MEASURED.append((os.environ.get("PYTEST_CURRENT_TEST", "").rpartition("::")[2], found))
    return found


def unit(maps: Tensor) -> Tensor:
    return maps / maps.flatten(1).amax(1)[:, None, None]


@pytest.mark.parametrize("layer", ["layer3", "layer4"])
@pytest.mark.parametrize("groups", [32, 5])
def test_group_cam(layer: str, groups: int) -> None:
    answer = subject("resnet").explain(build("groupcam", groups=groups), layer)
    maps = min_max(answer.maps((SIDE, SIDE)), (1, 2))
    expected = golden("groupcam")[f"{layer}/{groups}"]
    found = [pair for pair in range(len(maps)) if expected[pair].any()]
    assert {pair for pair in range(len(maps)) if pair not in found} == set(answer.failures)
    assert len(found) >= 2
    assert deviation(sampled(maps)[found], expected[found]) < 1e-3


@pytest.mark.parametrize("layer", ["layer3", "layer4"])
@pytest.mark.parametrize(("form", "name"), [("v1", "decomcam_v1"), ("pp", "decomcam_pp")])
def test_decomcam_of_2023(form: str, name: str, layer: str) -> None:
    maps = subject("resnet").explain(build(name), layer, 8).maps((SIDE, SIDE))
    expected = golden("decomcam2023")[f"{form}/{layer}"]
    # The authors' Grad-CAM++ weights of single precision lack the factor exp(cosine): zeroing the gradient
    # empties its alias. A masked pixel on the edge between two of 256 levels may fall on either side.
    assert deviation(sampled(maps), expected) < 5e-3


@pytest.mark.parametrize("layer", ["layer3", "layer4"])
def test_decomcam_of_the_fork(layer: str) -> None:
    maps = subject("resnet").explain(build("decomcam_v25"), layer, 8).maps((SIDE, SIDE))
    expected = golden("decomcam_fork")[layer]
    found = [pair for pair in range(len(maps)) if expected[pair].any()]
    assert len(found) >= 2
    assert not maps[[pair for pair in range(len(maps)) if pair not in found]].any()
    # The package min-maxes what it returns.
    assert deviation(sampled(min_max(maps, (1, 2)))[found], expected[found]) < 1e-3


@pytest.mark.parametrize("grid", [7, 5])
def test_rise_masks(grid: int) -> None:
    stored = golden("rise")
    masks = RISE.upsampled(
        torch.tensor(stored[f"{grid}/grids"]).float(),
        torch.tensor(stored[f"{grid}/shifts"]),
        (SIDE, SIDE) if grid == 7 else (31, 44),
    )
    ours = sampled(masks[:4]) if grid == 7 else masks[:4]
    np.testing.assert_allclose(ours, stored[f"{grid}/masks"], atol=1e-6)


def test_rise(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = golden("rise")
    grids, shifts = torch.tensor(stored["7/grids"]).float(), torch.tensor(stored["7/shifts"])
    masks = RISE.upsampled(grids, shifts, (SIDE, SIDE))
    monkeypatch.setattr(RISE, "batches", lambda *_: iter(masks.split(10)))
    maps = subject("resnet").explain(build("rise", masks=24, probability=0.4)).maps((SIDE, SIDE))
    assert deviation(sampled(maps), stored["saliency"]) < 1e-4


@pytest.mark.parametrize("tower", ["vit", "resnet"])
@pytest.mark.parametrize(("state", "name"), [("d4696d4", "clip_surgery"), ("e346359", "clip_surgery_2023")])
def test_clip_surgery(tower: str, state: str, name: str) -> None:
    answer = subject(tower).explain(build(name))
    stored = torch.tensor(golden("clip_surgery")[f"{tower}/{state}"])
    expected = torch.stack([stored[n, :, text] for n, text in enumerate(TEXT_OF)])
    expected = min_max(expected.reshape(answer.native.shape), (1, 2))
    assert deviation(answer.native, expected.numpy()) < 1e-3


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_clip_surgery_of_a_single_text(tower: str) -> None:
    from dataclasses import replace

    alone = subject(tower)
    bank = replace(alone.bank, embeddings=alone.bank.embeddings[:1], norms=alone.bank.norms[:1])
    answer = Subject(alone.model, bank, alone.images).explain(build("clip_surgery"), text_of=(0, 0, 0, 0))
    stored = torch.tensor(golden("clip_surgery")[f"{tower}/single"])[..., 0].reshape(answer.native.shape)
    assert deviation(answer.native, min_max(stored, (1, 2)).numpy()) < 1e-3


@pytest.mark.parametrize("attention", ["sclip", "clearclip", "naclip"])
def test_dense_family(attention: str) -> None:
    answer = subject("vit").explain(build("dense", attention=attention))
    stored = torch.tensor(golden("dense")[attention])
    expected = torch.stack([stored[n, :, text] for n, text in enumerate(TEXT_OF)]).reshape(answer.native.shape)
    assert deviation(answer.native, min_max(expected, (1, 2)).numpy()) < 1e-4


def test_gem() -> None:
    maps = subject("vit").explain(build("dense", attention="gem")).maps((SIDE, SIDE))
    # The package min-maxes after upsampling.
    assert deviation(sampled(min_max(maps, (1, 2))), golden("gem")["maps"]) < 1e-4


def test_legrad() -> None:
    maps = subject("vit").explain(build("legrad")).maps((SIDE, SIDE))
    assert deviation(sampled(min_max(maps, (1, 2))), golden("legrad")["maps"]) < 1e-4


@pytest.mark.parametrize("similarity", [True, False])
def test_grad_eclip(similarity: bool) -> None:
    answer = subject("vit").explain(build("grad_eclip", similarity=similarity))
    assert deviation(answer.native, golden("grad_eclip")["with" if similarity else "without"]) < 1e-4


def test_maskclip_on_a_vit() -> None:
    answer = subject("vit").explain(build("dense", attention="mask"))
    expected = min_max(torch.tensor(golden("grad_eclip")["mask"]), (1, 2))
    assert deviation(answer.native, expected.numpy()) < 1e-4


def test_maskclip_on_a_resnet_is_the_value_path_of_its_pool() -> None:
    """Two 1 x 1 convolutions, as in the authors' segmentation head."""
    case = subject("resnet")
    answer = case.explain(build("dense", attention="mask", floor="zero"))
    visual = case.model.clip.visual.double()
    try:
        with torch.no_grad():
            x = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(case.images.double())))))
            pool = visual.attnpool
            for projection in (pool.v_proj, pool.c_proj):
                x = torch.nn.functional.conv2d(x, projection.weight[..., None, None], projection.bias)
            x = torch.nn.functional.normalize(x, dim=1)
            expected = torch.einsum("ndhw,nd->nhw", x, case.bank.embeddings[list(TEXT_OF)].double()).relu()
    finally:
        visual.float()
    torch.testing.assert_close(answer.native, expected.float(), atol=1e-5, rtol=1e-3)


def test_rollout() -> None:
    answer = subject("vit").explain(build("rollout"))
    assert deviation(answer.native, golden("grad_eclip")["rollout"]) < 1e-4


@pytest.mark.parametrize("tower", ["vit", "resnet"])
@pytest.mark.parametrize("name", ["integrated_gradients", "input_x_gradient"])
def test_pixel_attributions(tower: str, name: str) -> None:
    options = {"steps": 12} if name == "integrated_gradients" else {}
    maps = subject(tower).explain(build(name, **options)).maps((SIDE, SIDE))
    assert deviation(sampled(maps), golden("captum")[f"{tower}/{name}"]) < 1e-3


def test_m2ib() -> None:
    case, method = subject("vit"), build("m2ib")
    evidence = case.evidence("", method)
    evidence.seeds = [100, 101, 102, 103]
    native = method.explain(evidence, [None])[None].native
    assert deviation(native, min_max(torch.tensor(golden("m2ib")["maps"]), (1, 2)).numpy()) < 1e-3
