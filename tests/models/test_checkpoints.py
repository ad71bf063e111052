"""Weights in every form that people have, read without running anything of the file."""

import pickle
import re
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from decomcam_bench.core.errors import ModelError
from decomcam_bench.models import torchscript
from decomcam_bench.models.checkpoints import load_weights, read_state_dict
from tests.models.small import NATIVE, RESNET, SIGLIP, TEXT, Scripted, build, save_archive, save_folder, source

RESNET_CLIP = {"embed_dim": 16, "vision_cfg": RESNET, "text_cfg": TEXT}


def equal(clip, other, tolerance=0.0):
    expected = other.state_dict()
    found = clip.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=tolerance, rtol=tolerance, msg=name)


def saved(tmp_path, form, clip):
    state = clip.state_dict()
    file = tmp_path / "weights.pt"
    if form == "safetensors":
        file = tmp_path / "weights.safetensors"
        save_file({name: value.contiguous() for name, value in state.items()}, file)
    elif form == "half":
        torch.save({name: value.half() for name, value in state.items()}, file)
    elif form == "legacy":
        torch.save(state, file, _use_new_zipfile_serialization=False)
    elif form == "training":
        wrapped = {f"module.{name}": value for name, value in state.items()}
        torch.save({"epoch": 3, "name": "run", "state_dict": wrapped, "optimizer": {"lr": 0.1}}, file)
    elif form == "compiled":
        torch.save({"model": {f"_orig_mod.{name}": value for name, value in state.items()}}, file)
    elif form == "torchscript":
        save_archive(file, clip)
    else:
        torch.save(state, file)
    return file


@pytest.mark.parametrize("config", [NATIVE, RESNET_CLIP, SIGLIP], ids=["vit", "resnet", "siglip"])
@pytest.mark.parametrize("form", ["plain", "safetensors", "half", "legacy", "training", "compiled", "torchscript"])
def test_every_form_gives_the_same_weights(tmp_path, config, form):
    if form == "torchscript" and config is SIGLIP:
        pytest.skip("OpenAI's archives hold CLIPs")
    trained, clip = build(config, seed=1), build(config, seed=2)
    load_weights(clip, saved(tmp_path, form, trained), "test")
    equal(clip, trained, 1e-3 if form in ("half", "torchscript") else 0.0)
    if config is NATIVE:
        images = torch.randn(1, 3, 32, 32)
        torch.testing.assert_close(clip.encode_image(images), trained.encode_image(images), atol=1e-2, rtol=1e-2)
    assert not any(parameter.is_meta for parameter in clip.parameters())
    assert not any(buffer.is_meta for buffer in clip.buffers())


def test_an_archive_equals_its_state_dict_to_the_bit(tmp_path):
    clip = build(NATIVE)
    state = {name: value.half() for name, value in clip.state_dict().items()}
    found = torchscript.read_archive(save_archive(tmp_path / "a.pt", clip))
    assert found.keys() - state.keys() == {"input_resolution", "context_length", "vocab_size"}
    assert all(torch.equal(found[name], value) for name, value in state.items())
    assert int(found["context_length"]) == 16


def test_an_archive_is_read_as_torch_reads_it(tmp_path):
    """A traced module with views, other types and a nested list: torch.jit.load is the oracle, on a file of ours."""

    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            base = torch.arange(12.0)
            self.register_buffer("view", base.view(3, 4).T)
            self.register_buffer("tail", base[5:])
            self.register_buffer("flags", torch.tensor([True, False]))
            self.register_buffer("empty", torch.zeros(0, 3))
            self.numbers = [1, 2, 3]
            self.inner = Scripted({"weight": torch.randn(2, 2), "count": torch.tensor(7)})

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.view.sum() + self.numbers[0]

    file = tmp_path / "odd.pt"
    torch.jit.script(Odd()).save(str(file))
    found, expected = torchscript.read_archive(file), torch.jit.load(str(file)).state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        torch.testing.assert_close(found[name], value)


def test_an_archive_that_names_a_function_is_refused_and_nothing_runs(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    file = tmp_path / "evil.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("evil/data.pkl", pickle.dumps(Evil(), protocol=2))
        archive.writestr("evil/constants.pkl", pickle.dumps(()))
    with pytest.raises(torchscript.ArchiveError, match=r"it names (__builtin__|builtins)\.print, which is not read"):
        torchscript.read_archive(file)
    with pytest.raises(ModelError, match=r"evil.pt: not weights of RN50 that load safely: cannot be read: it names"):
        read_state_dict(file, "RN50")


def test_openais_archive_loads_by_name_of_its_architecture_end_to_end(tmp_path):
    folder = save_folder(tmp_path, NATIVE, {"mean": [0.5] * 3, "std": [0.5] * 3})
    trained = build(NATIVE, seed=5)
    found = source(arch=f"local-dir:{folder}", checkpoint=str(save_archive(tmp_path / "a.pt", trained)))
    equal(found.load("cpu", "fp32").clip, trained, 1e-3)


def bad_files(tmp_path):
    clip = build(NATIVE)
    state = clip.state_dict()
    files = {}
    for name in ("pickled", "empty", "text", "lfs", "list", "transformers", "truncated", "foreign", "shape", "image"):
        files[name] = tmp_path / f"{name}.pt"
    torch.save({"model": clip}, files["pickled"])
    files["empty"].write_bytes(b"")
    files["text"].write_text("hello")
    files["lfs"].write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    torch.save([torch.zeros(1)], files["list"])
    torch.save({"vision_model.embeddings.class_embedding": torch.zeros(4)}, files["transformers"])
    torch.save(state, files["truncated"])
    files["truncated"].write_bytes(files["truncated"].read_bytes()[:2000])
    torch.save({"a": torch.zeros(1), "b": torch.zeros(1), "c": torch.zeros(1)}, files["foreign"])
    torch.save({**state, "visual.proj": torch.zeros(64, 8)}, files["shape"])
    torch.save({name: value for name, value in state.items() if name.startswith("visual.")}, files["image"])
    files["cut"] = tmp_path / "cut.safetensors"
    files["cut"].write_bytes(b"12345678{")
    files["npz"] = tmp_path / "x.npz"
    np.savez(files["npz"], a=np.zeros(3))
    return files


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (
            "pickled",
            r"it holds Python objects( \(.*CLIP\))? that only running code .*save torch.save\(model.state_dict",
        ),
        ("empty", "it is empty"),
        ("text", "cannot be read: "),
        ("lfs", r"it is a Git LFS pointer, not the weights; run `git lfs pull`"),
        ("list", r"it holds no tensors by name; save model.state_dict\(\)"),
        ("transformers", r"a checkpoint of Hugging Face transformers .*model=openai/clip-vit-base-patch32"),
        ("truncated", "cannot be read: "),
        ("foreign", r"tensors missing: .* \(\d+ of \d+\); unknown: a, b, ... \(3 of 3\); choose the architecture"),
        ("shape", r"of another shape: visual.proj \(64, 8\) instead of \(64, 16\) \(1 of \d+\)"),
        ("image", r"tensors missing: positional_embedding, text_projection, ... \(\d+ of \d+\)"),
        ("cut", "cannot be read: "),
        ("npz", "no SigLIP weights of big_vision"),
    ],
)
def test_each_refused_file_says_why_in_one_line(tmp_path, name, reason):
    file = bad_files(tmp_path)[name]
    with pytest.raises(ModelError) as error:
        load_weights(build(NATIVE), file, "test")
    text = str(error.value)
    assert text.startswith(f"{file}: not weights of test that load safely: ")
    assert re.search(reason, text), text
    assert "\n" not in text
    assert "\x1b" not in text


def test_position_embeddings_of_another_size_are_resized_as_open_clip_does(tmp_path):
    larger = {**NATIVE, "vision_cfg": {**NATIVE["vision_cfg"], "image_size": 64}}
    file = tmp_path / "w.pt"
    torch.save(build(NATIVE, seed=3).state_dict(), file)
    ours, theirs = build(larger), build(larger)
    load_weights(ours, file, "test")
    from open_clip import load_checkpoint

    load_checkpoint(theirs, str(file))
    equal(ours, theirs)


def test_one_copy_of_the_weights_is_in_memory(tmp_path):
    """The parameters that the model was built with are gone before the file is read."""
    clip = build(NATIVE)
    file = tmp_path / "w.safetensors"
    save_file({name: value.contiguous() for name, value in clip.state_dict().items()}, file)
    seen = []
    from decomcam_bench.models import checkpoints

    original = checkpoints.read_state_dict

    def watched(*arguments):
        seen.append(sum(p.numel() for p in clip.parameters() if not p.is_meta))
        return original(*arguments)

    checkpoints.read_state_dict = watched
    try:
        load_weights(clip, file, "test")
    finally:
        checkpoints.read_state_dict = original
    assert seen == [0]
