"""All of open_clip: what is listed, and every architecture with published weights on the meta device."""

import json

import open_clip
import pytest
import torch
from open_clip.model import _build_vision_tower

from decomcam_bench.models.catalogue import entries, family_of
from decomcam_bench.models.towers import tower_of

PAIRS = open_clip.list_pretrained()


def image_towers():
    """Architectures with published weights, one for each configuration of an image tower."""
    found = {}
    for arch in dict.fromkeys(arch for arch, _ in PAIRS):
        config = open_clip.get_model_config(arch)
        vision = {**config["vision_cfg"], "timm_drop_path": None}
        found.setdefault((config["embed_dim"], json.dumps(vision, sort_keys=True)), []).append(arch)
    return [names[0] for names in found.values()]


def check_on_meta(arch):
    config = open_clip.get_model_config(arch)
    with torch.device("meta"), torch.no_grad():
        visual = _build_vision_tower(config["embed_dim"], config["vision_cfg"]).eval()
        tower = tower_of(visual, arch)
        size = visual.image_size if isinstance(visual.image_size, tuple | list) else (visual.image_size,) * 2
        images = torch.zeros(1, 3, *size)
        layer = tower.canonical(tower.default_layer)
        features, states = tower.forward(images, [layer])
        again = tower.head(layer, states[layer].activations, states[layer].context)
    assert features.shape == again.shape == (1, config["embed_dim"])
    family = family_of(config)
    assert type(tower) is family
    assert tower.default_layer == family.default_layer


def test_all_published_weights_are_of_a_supported_family():
    """The slow test below builds each of their towers; this one asks the rule that it verifies."""
    supported = {entry.name for entry in entries() if entry.image}
    assert len([pair for pair in PAIRS if pair[0] in supported]) >= len(PAIRS) - 4


@pytest.mark.long
@pytest.mark.parametrize("arch", image_towers())
def test_every_architecture_with_published_weights_runs_from_its_default_layer(arch):
    check_on_meta(arch)


def test_the_list_says_what_people_choose_by():
    found = {entry.name: entry for entry in entries()}
    siglip = found["ViT-B-16-SigLIP"]
    assert (siglip.input_size, siglip.image, siglip.layer, siglip.tags) == (224, "timm ViT", "block-1", ("webli",))
    assert "google/siglip-base-patch16-224" in siglip.aliases
    assert (found["convnext_base"].image, found["convnext_base"].layer) == ("timm CNN", "stage-1")
    assert found["roberta-ViT-B-32"].text == "roberta-base"
    assert found["swin_base_patch4_window7_224"].image == ""
    assert entries()[0].tags
    assert not entries()[-1].tags
