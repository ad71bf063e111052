"""Other packages' own code as methods, against this package's."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from decomcam_bench.cli import main
from decomcam_bench.config import registry
from decomcam_bench.core.errors import ConfigError
from decomcam_bench.methods.base import Method, min_max
from tests.parity.subjects import SIDE, Subject


def build(name: str, **options: object) -> Method:
    return registry.build("method", {**registry.read("method", name), **options})


def unit_maps(tower: str, layer: str, name: str, **options: object) -> Tensor:
    answer = Subject.of(tower).explain(build(name, **options), layer)
    return min_max(answer.maps((SIDE, SIDE)), (1, 2))


@pytest.mark.parametrize(("tower", "layer"), [("resnet", "layer2"), ("vit", "block5")])
@pytest.mark.parametrize(("package", "theirs", "ours"), [("pytorch_grad_cam", "pgc:HiResCAM", "hirescam")])
def test_pytorch_grad_cam(tower: str, layer: str, package: str, theirs: str, ours: str) -> None:
    pytest.importorskip(package)
    torch.testing.assert_close(unit_maps(tower, layer, theirs), unit_maps(tower, layer, ours), atol=2e-3, rtol=0)


@pytest.mark.parametrize("tower", ["resnet", "vit"])
def test_captum(tower: str) -> None:
    pytest.importorskip("captum")
    layer = {"resnet": "layer4", "vit": "block-1"}[tower]
    theirs = unit_maps(tower, layer, "captum:InputXGradient")
    torch.testing.assert_close(theirs, unit_maps(tower, "", "input_x_gradient"), atol=1e-4, rtol=0)


def test_captum_on_a_layer() -> None:
    pytest.importorskip("captum")
    maps = Subject.of("resnet").explain(build("captum:LayerGradCam"), "layer3").native.relu()
    ours = Subject.of("resnet").explain(build("gradcam"), "layer3").native
    torch.testing.assert_close(maps, ours, atol=1e-4 * float(ours.max()), rtol=0)


def test_torchcam() -> None:
    pytest.importorskip("torchcam")
    maps = min_max(Subject.of("resnet").explain(build("torchcam:LayerCAM"), "layer3").native, (1, 2))
    ours = min_max(Subject.of("resnet").explain(build("layercam"), "layer3").native, (1, 2))
    torch.testing.assert_close(maps, ours, atol=1e-3, rtol=0)
    with pytest.raises(ConfigError, match="torch-cam reads no tokens"):
        Subject.of("vit").explain(build("torchcam:LayerCAM"), "block5")


def test_weights_stay_frozen_and_passes_are_counted() -> None:
    pytest.importorskip("pytorch_grad_cam")
    subject = Subject.of("resnet")
    answer = subject.explain(build("pgc:GradCAM"), "layer4")
    assert answer.scored.tolist() == [1, 1, 1, 1]
    assert subject.model.passes.method_scored == 4
    assert not any(weight.requires_grad or weight.grad is not None for weight in subject.model.clip.parameters())


def test_a_class_that_is_not_there() -> None:
    pytest.importorskip("captum")
    with pytest.raises(ConfigError, match=r"unknown class of captum 'IntegratedGradient'"):
        build("captum:IntegratedGradient")


def test_a_run_names_the_package(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("captum")
    words = ["run", "dataset=toybox", "limit=1", "method=captum:LayerGradCam", "metric=pointing_exact", "device=cpu"]
    assert main([*words, f"results={tmp_path}"]) == 0
    assert "captum:LayerGradCam" in capsys.readouterr().out


def test_a_name_imports_no_package() -> None:
    code = (
        "import sys; from decomcam_bench.config import registry; registry.read('method', 'captum:Saliency');"
        "assert not {'torch', 'captum'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
