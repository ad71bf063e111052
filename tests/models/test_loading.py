"""Where weights come from, and what happens when they cannot be had."""

import socket

import pytest
import torch
from safetensors.torch import save_file

from decomcam_bench.config import registry
from decomcam_bench.core.errors import ConfigError, ModelError
from decomcam_bench.models.clip import resolve_device
from decomcam_bench.models.toyclip import build_toyclip


def source(name, **changed):
    return registry.build("model", {**registry.read("model", name), **changed})


def test_weights_that_cannot_be_fetched_are_one_line_at_once(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise socket.gaierror("no network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ModelError, match=r"RN50-quickgelu.*'openai' cannot be fetched.*model.checkpoint=FILE"):
        source("rn50", cache_dir=str(tmp_path)).identity()


def test_a_local_checkpoint_is_loaded_and_identified(tmp_path):
    trained = source("openclip", arch="RN50-quickgelu", pretrained="random", init_seed=7).load("cpu", "fp32")
    file = tmp_path / "weights.safetensors"
    save_file({name: value.contiguous() for name, value in trained.clip.state_dict().items()}, file)
    found = source("openclip", arch="RN50-quickgelu", checkpoint=str(file))
    loaded = found.load("cpu", "fp32")
    torch.testing.assert_close(loaded.clip.visual.conv1.weight, trained.clip.visual.conv1.weight)
    assert len(found.identity()["weights"]) == 16
    assert loaded.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path):
    file = tmp_path / "weights.pt"
    torch.save({"state_dict": build_toyclip("vit")}, file)
    with pytest.raises(ModelError, match="load safely"):
        source("openclip", arch="RN50-quickgelu", checkpoint=str(file)).load("cpu", "fp32")


def test_toyclip_refuses_other_weights(tmp_path):
    file = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, file)
    with pytest.raises(ModelError, match="not a toyclip-resnet"):
        source("toyclip", weights=str(file)).load("cpu", "fp32")
    with pytest.raises(ModelError, match="no file"):
        source("toyclip", weights=str(tmp_path / "absent")).identity()


def test_untrained_weights_follow_their_seed():
    assert source("toyclip_untrained").identity() != source("toyclip_untrained", init_seed=1).identity()


def test_unknown_names_are_refused():
    with pytest.raises(ModelError, match="did you mean 'RN50"):
        source("openclip", arch="RN5O")
    with pytest.raises(ModelError, match="yfcc15m"):
        source("openclip", arch="RN50", pretrained="nonsense").identity()
    with pytest.raises(ConfigError, match="resnet, vit"):
        source("toyclip", tower="cnn")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "CPU"])
def test_unknown_devices_are_refused(name):
    with pytest.raises(ConfigError, match="auto, cpu, cuda"):
        resolve_device(name)


def test_an_absent_device_is_one_line():
    with pytest.raises(ModelError, match="CUDA devices are present"):
        resolve_device("cuda:99")
