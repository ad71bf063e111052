"""CNNs of timm: whatever the architecture, a split at a stage or block is the whole tower."""

import pytest
import torch
from open_clip.timm_model import TimmModel

from decomcam_bench.core.errors import ModelError
from decomcam_bench.models.towers import tower_of
from tests.models.towers.oracle import check_gradients, check_split, shaken


def built(name, pool="avg", proj="linear", size=64):
    torch.manual_seed(0)
    visual = shaken(TimmModel(name, 16, image_size=size, pool=pool, proj=proj))
    return visual, tower_of(visual, name)


def images(size=64):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "pool", "proj"),
    [
        ("convnext_atto", "", "linear"),
        ("convnext_atto", "", "mlp"),
        ("fastvit_t8", "avg", ""),
        ("tf_efficientnet_lite0", "avg", "linear"),
        ("resnet18", "avg", "linear"),
        ("resnetv2_50", "avg", "linear"),
        ("repvit_m0_9", "avg", "linear"),
    ],
)
def test_every_stage_and_block_continues_to_the_same_features(name, pool, proj):
    visual, tower = built(name, pool, proj)
    check_split(tower, visual, images(), tower.layers)
    assert tower.canonical(tower.default_layer) == [layer for layer in tower.layers if layer != "features"][-1]


def test_an_attention_pool_of_open_clip_is_part_of_the_head():
    visual, tower = built("resnet18", pool="rot_attn", proj="", size=224)
    check_split(tower, visual, images(224), ["stage0", "stage2", "stage4.0", "stage4"])
    assert tower.remark("stage4") == ""


@pytest.mark.parametrize("name", ["convnext_atto", "fastvit_t8", "tf_efficientnet_lite0"])
def test_gradients_equal_autograd_through_the_unsplit_model(name):
    visual, tower = built(name)
    stages = visual.trunk.feature_info
    last = visual.trunk.get_submodule(stages[-1]["module"])
    hooked = {f"stage{number}": visual.trunk.get_submodule(info["module"]) for number, info in enumerate(stages)}
    blocks = getattr(last, "blocks", last)
    if len(blocks) > 1:
        hooked[f"stage{len(stages) - 1}.0"] = blocks[0]
    check_gradients(tower, visual, images(), hooked)


def test_only_where_positions_are_averaged_right_away_the_gradient_is_uniform_and_the_tower_says_so():
    for name, uniform in (("convnext_atto", True), ("fastvit_t8", False), ("tf_efficientnet_lite0", False)):
        _, tower = built(name)
        layer = tower.canonical("stage-1")
        with torch.no_grad():
            _, states = tower.forward(images(), [layer])
        activations = states[layer].activations.requires_grad_()
        (gradient,) = torch.autograd.grad(tower.head(layer, activations, ())[:, 0].sum(), activations)
        spread = (gradient - gradient.mean((2, 3), keepdim=True)).abs().max() / gradient.abs().max()
        assert (float(spread) < 1e-5) == uniform
        assert ("HiResCAM equals Grad-CAM; layer=stage2 tells them apart" in tower.remark(layer)) == uniform
        assert tower.remark("stage1") == ""


def test_names_of_layers():
    _, tower = built("convnext_atto")
    assert tower.canonical("stage-1") == tower.canonical("stage3.-1") == tower.canonical("stage3.1") == "stage3"
    assert tower.canonical("stage-2.0") == "stage2.0"
    for name in ("stage4", "stage3.2", "layer4", "stage", "stage3.x"):
        with pytest.raises(ModelError, match=rf"^layer={name}: no such layer.*stage3"):
            tower.canonical(name)


def test_the_map_that_the_head_reads_is_a_layer_where_it_is_not_the_last_stage():
    for name, more in (
        ("tf_efficientnet_lite0", True),
        ("fastvit_t8", True),
        ("resnetv2_50", True),
        ("resnet18", False),
    ):
        visual, tower = built(name)
        assert ("features" in tower.layers) == more, name
        if more:
            with torch.no_grad():
                _, states = tower.forward(images(), ["features"])
                torch.testing.assert_close(states["features"].activations, visual.trunk.forward_features(images()))
        else:
            with pytest.raises(ModelError, match=r"^layer=features: no such layer"):
                tower.canonical("features")
    _, tower = built("tf_efficientnet_lite0")
    assert tower.canonical("features") == "features"
    assert "HiResCAM equals Grad-CAM; layer=stage4 tells them apart" in tower.remark("features")


@pytest.mark.parametrize("name", ["hrnet_w18_small", "swin_tiny_patch4_window7_224"])
def test_networks_that_are_no_chain_of_maps_are_refused_in_one_line(name):
    with torch.device("meta"):
        visual = TimmModel(name, 16, image_size=224, pool="avg")
    with pytest.raises(ModelError, match=rf"^model {name}: its timm trunk '\w+' cannot be split at its stages: .*$"):
        tower_of(visual, name)


def test_methods_that_need_a_class_token_are_told_why():
    _, tower = built("convnext_atto")
    assert "CNN without attention" in tower.lacks("attentions", "stage3")
    assert tower.lacks("class_ids", "stage3") == ""
