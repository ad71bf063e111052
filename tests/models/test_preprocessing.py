"""Pixels enter a model as its weights were trained, wherever the weights come from."""

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from decomcam_bench.core.errors import ConfigError, ModelError
from decomcam_bench.models.preprocessing import Preprocessing, agreed
from tests.models.small import NATIVE, save_folder, source

OPENAI = Preprocessing()
HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bilinear", "resize_mode": "squash"}


def file_of(tmp_path, name="weights.safetensors"):
    folder = save_folder(tmp_path, NATIVE, None)
    (folder / "open_clip_config.json").unlink()
    return (folder / "open_clip_model.safetensors").rename(folder / name)


@pytest.mark.parametrize(
    ("arch", "tag"),
    [("ViT-B-16-SigLIP", "webli"), ("MobileCLIP2-S0", "dfndr2b"), ("PE-Core-B-16", "meta"), ("RN50", "openai")],
)
def test_a_tags_preprocessing_is_its_own_and_in_the_key(arch, tag, tmp_path):
    (tmp_path / "weights").write_bytes(b"x")
    found = source(arch=arch, pretrained=tag)
    found.__dict__["_file"] = tmp_path / "weights"
    published = open_clip.get_pretrained_cfg(arch, tag)
    identity = found.identity()
    assert (tuple(identity["mean"]), tuple(identity["std"])) == (published["mean"], published["std"])
    assert identity["interpolation"] == found.view(224).interpolation == published["interpolation"]
    assert identity["geometry"] == "squash"
    own = source(arch=arch, pretrained=tag, geometry="own")
    assert own.mode == {"squash": "squash", "shortest": "crop"}[published["resize_mode"]]


def test_a_folder_has_its_own_preprocessing(tmp_path):
    folder = save_folder(tmp_path / "model", NATIVE, HALF)
    found = source(arch=f"local-dir:{folder}")
    model = found.load("cpu", "fp32")
    assert model.mean == (0.5, 0.5, 0.5)
    assert model.std == (0.25, 0.25, 0.25)
    assert found.view(32).interpolation == "bilinear"
    assert found.identity()["mean"] == [0.5, 0.5, 0.5]
    save_folder(tmp_path / "other", NATIVE, {**HALF, "mean": [0.4, 0.5, 0.5]})
    other = source(arch=f"local-dir:{tmp_path / 'other'}")
    assert other.identity()["weights"] == found.identity()["weights"]
    assert other.identity() != found.identity()


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest"])
@pytest.mark.parametrize("mode", ["squash", "shortest"])
def test_pixels_equal_those_of_open_clips_transform(tmp_path, interpolation, mode):
    folder = save_folder(tmp_path, NATIVE, {**HALF, "interpolation": interpolation, "resize_mode": mode})
    found = source(arch=f"local-dir:{folder}", geometry="own")
    model = found.load("cpu", "fp32")
    image = np.random.default_rng(0).integers(0, 256, (45, 60, 3), dtype=np.uint8)
    pixels = found.view(model.input_size).of(60, 45).to_input(image)
    config = PreprocessCfg(size=32, **{**HALF, "interpolation": interpolation, "resize_mode": mode})
    if interpolation == "nearest":  # open_clip knows bicubic and bilinear; torchvision is the oracle of the third
        from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

        size = (32, 32) if mode == "squash" else 32
        resize = Resize(size, InterpolationMode.NEAREST)
        transform = Compose([resize, CenterCrop(32), ToTensor(), Normalize(HALF["mean"], HALF["std"])])
    else:
        transform = image_transform_v2(config, is_train=False)
    expected = transform(Image.fromarray(image))
    torch.testing.assert_close(model.prepare(torch.from_numpy(pixels)[None])[0], expected, atol=1e-6, rtol=1e-6)


def test_a_bare_file_of_an_architecture_whose_weights_differ_lists_the_candidates(tmp_path):
    found = source(arch="ViT-L-14", checkpoint=str(file_of(tmp_path)))
    with pytest.raises(ModelError) as error:
        found.identity()
    text = str(error.value)
    assert "\n" not in text
    assert "model.mean=[0.48145466,0.4578275,0.40821073]" in text
    assert "model.mean=[0.5,0.5,0.5] model.std=[0.5,0.5,0.5] model.interpolation=bicubic (as laion2b_s32b_b82k)" in text
    chosen = source(arch="ViT-L-14", checkpoint=found.checkpoint, mean=[0.5] * 3, std=[0.5] * 3)
    assert chosen.identity()["mean"] == [0.5] * 3


def test_a_bare_file_of_an_architecture_whose_weights_agree_is_read_as_they_are(tmp_path):
    file = str(file_of(tmp_path))
    assert source(arch="ViT-B-16-SigLIP", checkpoint=file).preprocessing.mean == (0.5, 0.5, 0.5)
    assert source(arch="MobileCLIP-S1", checkpoint=file).preprocessing.std == (1.0, 1.0, 1.0)
    assert source(arch="RN50", checkpoint=file).preprocessing == OPENAI
    unpublished = source(arch="ViT-S-32", checkpoint=file)
    assert unpublished.preprocessing == OPENAI
    assert "nothing says how its pixels were normalised; assumed as OpenAI's" in unpublished.remarks()[0]


def test_the_configuration_next_to_a_file_counts(tmp_path):
    folder = save_folder(tmp_path, NATIVE, HALF)
    found = source(arch="ViT-L-14", checkpoint=str(folder / "open_clip_model.safetensors"))
    assert found.preprocessing == Preprocessing.of(HALF, "test")
    assert found.remarks() == [
        "model ViT-L-14: GELU, but some of its published weights use QuickGELU; model.quick_gelu=true for those"
    ]


def test_options_replace_what_the_weights_say(tmp_path):
    folder = save_folder(tmp_path, NATIVE, HALF)
    found = source(arch=f"local-dir:{folder}", mean=[0.1, 0.2, 0.3], interpolation="nearest")
    assert found.preprocessing.mean == (0.1, 0.2, 0.3)
    assert found.preprocessing.std == (0.25, 0.25, 0.25)
    assert found.resampling == "nearest"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": [0.5]}, r"^model.mean=\[0.5\]: must be three numbers, one per channel$"),
        ({"std": [0.5, 0.0, 1.0]}, r"^model.std=\[0.5, 0.0, 1.0\]: must be three numbers above 0, one per channel$"),
        ({"interpolation": "cubic"}, "^model.interpolation=cubic: no such choice.*bicubic, bilinear, nearest$"),
        ({"geometry": "pad"}, "^model.geometry=pad: no such choice; valid: squash, crop, own$"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ConfigError, match=message):
        source(**options)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"mean": [0.5]}, r"mean=\[0.5\]: must be three numbers"),
        ({"interpolation": "random"}, "interpolation=random: valid: bicubic, bilinear, nearest"),
        ({"resize_mode": "fit"}, "resize_mode=fit: valid: squash, shortest, longest"),
    ],
)
def test_a_configuration_that_is_wrong_is_one_line(tmp_path, bad, message):
    folder = save_folder(tmp_path, NATIVE, {**HALF, **bad})
    with pytest.raises(ModelError, match=message):
        source(arch=f"local-dir:{folder}").identity()


def test_padding_is_refused_only_where_it_is_asked_for(tmp_path):
    folder = save_folder(tmp_path, NATIVE, {**HALF, "resize_mode": "longest"})
    assert source(arch=f"local-dir:{folder}").identity()["geometry"] == "squash"
    with pytest.raises(ModelError, match=r"trained on padded images.*use model.geometry=squash or crop"):
        source(arch=f"local-dir:{folder}", geometry="own").identity()


def test_weights_agree_whatever_their_resize_mode():
    squashed = Preprocessing(resize_mode="squash")
    assert agreed({"a": OPENAI, "b": squashed}) == OPENAI
    assert agreed({"a": OPENAI, "b": Preprocessing(mean=(0.5, 0.5, 0.5))}) is None
