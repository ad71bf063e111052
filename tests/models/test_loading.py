"""Where weights come from, and what happens when they cannot be had."""

import importlib.util
import json
import socket
import time

import pytest
import torch
from safetensors.torch import save_file

from decomcam_bench.core.errors import ConfigError, ModelError
from decomcam_bench.models import hub
from decomcam_bench.models.clip import resolve_device
from decomcam_bench.models.toyclip import build_toyclip
from tests.models.small import NATIVE, SIGLIP, TEXT, build, save_folder, source


def test_weights_that_cannot_be_fetched_are_one_line_at_once(monkeypatch, tmp_path):
    """The hub is a port of this machine that nobody listens to; nothing may be retried."""
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(
        ModelError, match=r"^model rn50: the weights 'openai' cannot be fetched.*model.checkpoint=FILE$"
    ):
        source("rn50", cache_dir=str(tmp_path)).identity()
    with pytest.raises(
        ModelError, match=r"^model hf-hub:org/name: 'open_clip_config.json' cannot be fetched from hf-hub"
    ):
        source(arch="hf-hub:org/name", cache_dir=str(tmp_path)).identity()
    assert time.monotonic() - started < 5


def test_a_hub_that_never_answers_is_given_up(monkeypatch, tmp_path):
    with socket.socket() as listener:  # accepts and stays silent
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        monkeypatch.setattr(hub, "ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")
        monkeypatch.setattr(hub, "PATIENCE", 0.2)
        with pytest.raises(hub.HubError, match="does not answer"):
            hub.fetch("org/name", ["file"], str(tmp_path))


def test_the_users_wish_to_stay_offline_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(hub.HubError, match="HF_HUB_OFFLINE is set"):
        hub.fetch("org/name", ["file"], str(tmp_path))


def in_cache(tmp_path, repository, **files):
    """Put files into a cache as the hub's client lays it out."""
    root = tmp_path / f"models--{repository.replace('/', '--')}"
    snapshot = root / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc")
    for name, file in files.items():
        (snapshot / name).write_bytes(file.read_bytes())


def test_a_repository_in_the_cache_is_used_without_network(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    half = {"mean": [0.5] * 3, "std": [0.5] * 3}
    folder = save_folder(tmp_path / "saved", NATIVE, half)
    files = {file.name: file for file in folder.iterdir()}
    in_cache(tmp_path / "cache", "org/name", **files)
    found = source(arch="hf-hub:org/name", cache_dir=str(tmp_path / "cache"))
    model = found.load("cpu", "fp32")
    assert model.mean == (0.5, 0.5, 0.5)
    assert found.identity() == source(arch=f"local-dir:{folder}").identity()


def test_a_folder_runs_offline(tmp_path):
    clip = build(SIGLIP)
    with torch.no_grad():
        clip.logit_scale.fill_(4.0)
        clip.logit_bias.fill_(-12.0)
    folder = save_folder(tmp_path, SIGLIP, {"mean": [0.5] * 3, "std": [0.5] * 3}, clip)
    model = source(arch=f"local-dir:{folder}").load("cpu", "fp32")
    assert model.text_bank([["a cat"]]).scale.bias == -12.0
    assert model.scale.scale == pytest.approx(torch.tensor(4.0).exp().item())
    images = torch.randn(1, 3, 160, 160)
    torch.testing.assert_close(model.embed(images, unit=False), clip.encode_image(images))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "open_clip_config.json").unlink(), "no file .*open_clip_config.json; it describes"),
        (lambda folder: (folder / "open_clip_config.json").write_text("{"), "is no JSON"),
        (lambda folder: (folder / "open_clip_config.json").write_text("{}"), "has no 'model_cfg'"),
        (lambda folder: (folder / "open_clip_model.safetensors").unlink(), "no weights that open_clip saves"),
    ],
)
def test_a_folder_that_lacks_something_says_what(tmp_path, spoil, message):
    folder = save_folder(tmp_path / "model", NATIVE, None)
    spoil(folder)
    with pytest.raises(ModelError, match=rf"^model local-dir:{folder}: .*{message}"):
        source(arch=f"local-dir:{folder}").identity()


def test_weights_of_another_name_are_taken_if_they_are_the_only_ones(tmp_path):
    folder = save_folder(tmp_path, NATIVE, None)
    (folder / "open_clip_model.safetensors").rename(folder / "epoch_3.safetensors")
    assert source(arch=f"local-dir:{folder}").identity()["weights"]
    (folder / "epoch_4.safetensors").write_bytes(b"")
    with pytest.raises(
        ModelError, match=r"but epoch_3.safetensors, epoch_4.safetensors; choose one with model.checkpoint="
    ):
        source(arch=f"local-dir:{folder}").identity()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"embed_dim": 8, "audio_cfg": {}, "text_cfg": {}}, "has no vision_cfg, so it is no CLIP of images and texts"),
        ({**NATIVE, "generative_cfg": {}}, "has generative_cfg, which open_clip .* does not know; it is of a family"),
        ({**NATIVE, "vision_cfg": {**NATIVE["vision_cfg"], "naflex": True}}, "has vision_cfg.naflex, which open_clip"),
        (
            {**SIGLIP, "vision_cfg": {**SIGLIP["vision_cfg"], "timm_model_name": "naflexvit_base_patch16_gap"}},
            "cannot be split|is not supported",
        ),
    ],
)
def test_families_that_are_not_known_are_refused_in_one_line_before_their_weights_are_asked_for(
    monkeypatch, tmp_path, config, message
):
    monkeypatch.setattr(hub, "require_reachable", lambda url: None)
    monkeypatch.setattr(hub, "hf_hub_download", lambda *_, **__: pytest.fail("asked for the weights"))
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    in_cache(tmp_path / "cache", "org/name", **{"open_clip_config.json": folder / "open_clip_config.json"})
    with pytest.raises(ModelError, match=rf"^model hf-hub:org/name: .*({message})[^\n]*$"):
        source(arch="hf-hub:org/name", cache_dir=str(tmp_path / "cache")).identity()


def test_text_parts_of_transformers_need_an_extra_and_random_weights_do_not(monkeypatch, tmp_path):
    text = {"hf_model_name": "org/bert", "hf_tokenizer_name": "org/bert", "context_length": 16}
    config = {**SIGLIP, "text_cfg": text}
    folder = save_folder(tmp_path, config, {"mean": [0.5] * 3, "std": [0.5] * 3}, build(SIGLIP))
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "transformers" else found(name, *a)
    )
    with pytest.raises(
        ModelError,
        match=r"its text tower and tokenizer need the package transformers; pip install 'decomcam-bench\[hf\]'",
    ):
        source(arch=f"local-dir:{folder}").load("cpu", "fp32")
    model = source(arch=f"local-dir:{folder}", pretrained="random").load("cpu", "fp32")
    bank = model.text_bank([["a cat"], ["a dog"]])
    assert float(bank.embeddings[0] @ bank.embeddings[1]) < 0.9999


@pytest.mark.parametrize("pool", [{"pool_type": "last", "no_causal_mask": True}, {"pool_type": "eos", "eos_id": 2}, {}])
def test_random_weights_tell_texts_apart_without_their_tokenizer(tmp_path, pool):
    config = {**SIGLIP, "text_cfg": {**TEXT, "vocab_size": 32000, "hf_tokenizer_name": "org/name", **pool}}
    folder = save_folder(tmp_path, config, None, build(SIGLIP))
    first, again, other = (
        source(arch=f"local-dir:{folder}", pretrained="random", init_seed=seed).load("cpu", "fp32")
        for seed in (0, 0, 1)
    )
    banks = [model.text_bank([["a cat"], ["a dog"], ["word " * 40]]).embeddings for model in (first, again, other)]
    assert torch.equal(banks[0], banks[1])
    assert not torch.allclose(banks[0], banks[2])
    assert float((banks[0][0] - banks[0][1]).abs().max()) > 1e-4


@pytest.mark.parametrize(
    ("arch", "options", "quick", "said"),
    [
        ("RN50x4", {}, True, "model RN50x4: QuickGELU, as all its published weights; model.quick_gelu=false for GELU"),
        ("RN50x4", {"quick_gelu": False}, False, ""),
        ("ViT-B-32", {}, False, "model ViT-B-32: GELU, but some of its published weights use QuickGELU; model.quick_"),
        ("ViT-B-32-quickgelu", {}, True, ""),
        ("convnext_base", {}, False, ""),
    ],
)
def test_the_activation_of_a_bare_file_is_that_of_the_published_weights_and_is_said(
    tmp_path, arch, options, quick, said
):
    file = tmp_path / "w.pt"
    file.write_bytes(b"x")
    found = source(arch=arch, checkpoint=str(file), **options)
    assert found.identity()["quick_gelu"] == quick
    assert [line[: len(said)] for line in found.remarks()] == ([said] if said else [])


@pytest.mark.parametrize("tag", ["", "random", "openai"])
def test_published_and_random_weights_have_the_activation_of_their_tag(tmp_path, tag):
    found = source(arch="RN50x4", pretrained=tag)
    found.__dict__["_file"] = None
    assert found.identity()["quick_gelu"] is True
    assert found.remarks() == []


def test_an_outline_takes_no_weights_and_has_the_layers_of_the_model(tmp_path):
    for config in (NATIVE, SIGLIP):
        folder = save_folder(tmp_path, config, None)
        found = source(arch=f"local-dir:{folder}")
        outline, model = found.outline(), found.load("cpu", "fp32")
        assert all(parameter.is_meta for parameter in outline.tower.visual.parameters())
        assert outline.layer_shapes() == model.layer_shapes()
        assert outline.input_size == model.input_size


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
