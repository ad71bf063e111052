"""Towers against the models' own forward passes and against autograd through the whole network."""

import open_clip
import pytest
import torch
import torch.nn.functional as F

from decomcam_bench.config import registry
from decomcam_bench.core.errors import ModelError
from decomcam_bench.datasets.toybox.scenes import CLASS_NAMES, draw_scene
from decomcam_bench.models.clip import ClipModel, similarity_to_score
from decomcam_bench.models.towers import tower_of
from decomcam_bench.models.toyclip import build_toyclip


@pytest.fixture(scope="module", params=["resnet", "vit"])
def model(request):
    clip = build_toyclip(request.param, seed=3)
    with torch.no_grad():
        for parameter in clip.visual.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    from decomcam_bench.models.toyclip import ToyTokenizer

    return ClipModel(clip, ToyTokenizer(), request.param, 160, (0.5,) * 3, (0.25,) * 3)


def layers_of(model):
    more = ["block2.ln_2", "block1.out"] if model.name == "vit" else ["layer2.0", "layer3.-2"]
    return [*model.tower.layers, *map(model.tower.canonical, more)]


def test_every_layer_continues_to_the_same_features(model):
    images = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    layers = list(dict.fromkeys(layers_of(model)))
    with torch.no_grad():
        features, states = model.tower.forward(images, layers)
        torch.testing.assert_close(features, model.clip.visual(images))
        assert set(states) == set(layers)
        for name in layers:
            again = model.tower.head(name, states[name].activations, states[name].context)
            torch.testing.assert_close(again, features, msg=name)


@pytest.mark.parametrize("name", ["toyclip", "toyclip_vit"])
@pytest.mark.parametrize("kind", ["logits", "cosine", "softmax"])
def test_gradients_do_not_underflow_in_half_precision(name, kind):
    """Of a probability near 1 the gradient is 1e-13: far below the 6e-8 that half precision can hold."""
    found = {}
    images = torch.from_numpy(draw_scene("test", 0).image.transpose(2, 0, 1).copy())[None]
    for precision in ("fp32", "fp16"):
        model = registry.build("model", registry.read("model", name)).load("cpu", precision)
        layer = model.tower.canonical(model.tower.default_layer)
        bank = model.text_bank([[f"a photo of a {word}."] for word in CLASS_NAMES])
        state = model.backbone(model.prepare(images), [layer]).states[layer]
        pairs = torch.arange(len(CLASS_NAMES))
        found[precision] = model.gradients(layer, state, torch.zeros_like(pairs), pairs, bank, kind).flatten(1)
    exact = found["fp32"]
    assert kind != "softmax" or exact.norm(dim=1).min() < 1e-7
    assert ((found["fp16"] - exact).norm(dim=1) / exact.norm(dim=1)).max() < 0.05


def test_gradients_equal_autograd_through_the_whole_network(model):
    """The oracle hooks the module's output and differentiates the full forward pass."""
    name = "block4" if model.name == "vit" else "layer3"
    module = model.clip.visual.transformer.resblocks[4].ln_1 if model.name == "vit" else model.clip.visual.layer3
    images = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(5))
    bank = model.text_bank([["a house"], ["a tree"], ["a fish"]])
    image_of, class_ids = torch.tensor([0, 0, 1]), torch.tensor([0, 2, 1])
    state = model.backbone(images, [name]).states[name]
    kept = []
    handle = module.register_forward_hook(lambda m, i, o: kept.append(o.requires_grad_()) or o)
    for kind in ("logits", "cosine", "softmax", "sigmoid"):
        found = model.gradients(name, state, image_of, class_ids, bank, kind, batch_size=2)
        for pair in range(3):
            kept.clear()
            features = F.normalize(model.clip.visual(images[image_of[pair]][None]), dim=1)
            score = similarity_to_score(features @ bank.embeddings.T, class_ids[pair : pair + 1], kind, model.scale)
            expected = torch.autograd.grad(score.sum(), kept[0])[0][0]
            if model.name == "vit":
                expected = expected[1:].T.unflatten(1, (10, 10))
            torch.testing.assert_close(found[pair], expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))
    handle.remove()


def test_passes_are_counted(model):
    model.passes = type(model.passes)()
    name = model.tower.canonical(model.tower.default_layer)
    images = torch.randn(2, 3, 160, 160)
    bank = model.text_bank([["a"], ["b"]])
    state = model.backbone(images, [name]).states[name]
    model.gradients(name, state, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), bank, batch_size=2)
    model.embed(images)
    model.embed(images, "metric_scored")
    assert model.passes.as_dict() == {
        "backbone": 2,
        "head": 3,
        "backward": 3,
        "method_scored": 2,
        "metric_scored": 2,
    }


def test_negative_numbers_and_aliases():
    vit, resnet = tower_of(build_toyclip("vit").visual, "vit"), tower_of(build_toyclip("resnet").visual, "resnet")
    assert vit.canonical("block-1") == vit.canonical("block5.ln_1") == "block5"
    assert resnet.canonical("layer3.-1") == resnet.canonical("layer3.1") == "layer3"
    assert resnet.canonical("layer3.0") == "layer3.0"


@pytest.mark.parametrize("name", ["layer5", "layer3.2", "block0", "", "layer3.x", "layer3 "])
def test_unknown_layers_are_refused_with_the_valid_ones(name):
    with pytest.raises(ModelError, match="layer4"):
        tower_of(build_toyclip("resnet").visual, "toy").canonical(name)


def test_a_tower_without_attention_says_so():
    with pytest.raises(ModelError, match=r"^layer=layer4: there is no attention to read: .*ResNet"):
        tower_of(build_toyclip("resnet").visual, "toy").attended("layer4", torch.zeros(1, 1, 1, 1), ())


def test_texts_are_averaged_and_normalised():
    source = registry.build("model", registry.read("model", "toyclip"))
    model = source.load("cpu", "fp32")
    bank = model.text_bank([["a house"], ["a house", "a photo of a house"]])
    with torch.no_grad():
        raw = model.clip.encode_text(model.tokenizer(["a house", "a photo of a house"]))
    torch.testing.assert_close(bank.embeddings[0], F.normalize(raw[0], dim=0))
    torch.testing.assert_close(bank.embeddings[1], F.normalize(F.normalize(raw, dim=1).mean(0), dim=0))
    torch.testing.assert_close(bank.norms[1], raw.norm(dim=1).mean())


def test_text_with_unknown_words_has_a_feature_of_its_own():
    model = registry.build("model", registry.read("model", "toyclip")).load("cpu", "fp32")
    bank = model.text_bank([["a zebra"], ["a spaceship over Paris"], [""], ["word " * 40]])
    assert torch.isfinite(bank.embeddings).all()
    assert float(bank.embeddings[0] @ bank.embeddings[1]) < 0.999


def test_a_tower_of_another_kind_gets_one_line():
    with pytest.raises(
        ModelError, match=r"^model odd: image tower 'Linear' is not supported; supported are .*SigLIP.*$"
    ):
        tower_of(torch.nn.Linear(2, 2), "odd")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "layers"), [("RN50-quickgelu", ["layer2", "layer4"]), ("ViT-B-32", ["block3", "block-1"])]
)
def test_real_architectures_with_random_weights(arch, layers):
    config = {**registry.read("model", "openclip"), "arch": arch, "pretrained": "random"}
    model = registry.build("model", config).load("cpu", "fp32")
    names = [model.tower.canonical(layer) for layer in layers]
    images = torch.randn(1, 3, model.input_size, model.input_size)
    with torch.no_grad():
        features, states = model.tower.forward(images, names)
        torch.testing.assert_close(features, model.clip.visual(images))
        for name in names:
            torch.testing.assert_close(model.tower.head(name, states[name].activations, states[name].context), features)
    assert open_clip.get_model_config(arch)["embed_dim"] == features.shape[1]
