"""CoCa pools its ViT by an attention of its own."""

import pytest
import torch
from open_clip.transformer import VisionTransformer

from decomcam_bench.models.towers import tower_of
from decomcam_bench.models.towers.coca import CoCaTower
from tests.models.towers.oracle import check_gradients, check_split, shaken


@pytest.fixture
def visual():
    torch.manual_seed(0)
    options = {"attentional_pool": True, "attn_pooler_queries": 5, "attn_pooler_heads": 2}
    return shaken(VisionTransformer(64, 16, 32, 4, 2, 4.0, output_dim=16, output_tokens=True, **options))


def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_every_point_continues_to_the_same_features(visual):
    tower = tower_of(visual, "coca")
    assert isinstance(tower, CoCaTower)
    names = [tower.canonical(f"block{n}.{point}") for n in range(4) for point in tower.points]
    check_split(tower, visual, images(), names)


def test_gradients_equal_autograd_through_the_unsplit_model(visual):
    blocks = visual.transformer.resblocks
    hooked = {"block3": blocks[3].ln_1, "block2.out": blocks[2], "block3.out": blocks[3]}
    check_gradients(tower_of(visual, "coca"), visual, images(), hooked, lambda g: g[:, 1:].mT.reshape(2, 32, 4, 4))


def test_methods_that_need_a_class_token_are_told_why(visual):
    tower = tower_of(visual, "coca")
    for extra in ("attentions", "surgery_features"):
        assert tower.lacks(extra, "block3") == "its image tower pools by an attention of its own, not by a class token"
