"""Transformers of timm by their published recipes in small: a split at any point of any block is the whole tower."""

import pytest
import timm
import torch
from open_clip.timm_model import TimmModel
from timm.models.vitamin import VitCfg, VitConvCfg

from decomcam_bench.core.errors import ModelError
from decomcam_bench.models.towers import tower_of
from decomcam_bench.models.towers.openai import ViTTower
from decomcam_bench.models.towers.timm_vit import TimmViTTower
from tests.models.towers.oracle import check_gradients, check_split, shaken

SMALL = {"embed_dim": 32, "depth": 4, "num_heads": 2, "img_size": 64}
VITAMIN = VitCfg(
    embed_dim=(16, 24, 32),
    depths=(1, 1, 1),
    stem_width=16,
    conv_cfg=VitConvCfg(norm_layer="layernorm2d", norm_eps=1e-6),
    head_type="1d",
)
#: By family: timm's recipe, what is made smaller, and open_clip's pool and projection.
FAMILIES = {
    "siglip": ("vit_base_patch16_siglip_224", {}, "map", "none"),
    "eva02": ("eva02_base_patch16_clip_224", {"ref_feat_shape": (4, 4)}, "token", ""),
    "eva01": ("eva_giant_patch14_224", {"patch_size": 16}, "token", ""),
    "eva02_e": ("eva02_enormous_patch14_clip_224", {"patch_size": 16}, "token", ""),
    "pe_core": ("vit_pe_core_base_patch16_224", {"ref_feat_shape": (4, 4)}, "map", ""),
    "pe_core_t": ("vit_pe_core_tiny_patch16_384", {"ref_feat_shape": (4, 4)}, "map", ""),
    "vitamin": ("vitamin_small_224", {"embed_cfg": VITAMIN}, "", "linear"),
    "mobileclip_b": ("vit_base_mci_224", {"embed_dim": 768}, "token", ""),
    "mobileclip2_l": ("vit_large_patch14_clip_224", {"patch_size": 16}, "token", ""),
    "biomedclip": ("vit_base_patch16_224", {}, "", "linear"),
    "layer_scale": ("vit_base_patch16_224", {"init_values": 0.5, "qk_norm": True}, "", "mlp"),
    "rope_mixed": ("vit_small_patch16_rope_mixed_224", {}, "avg", "linear"),
    "registers": ("vit_medium_patch16_rope_reg1_gap_256", {"ref_feat_shape": (4, 4)}, "avg", "linear"),
}


def built(family, size=64):
    recipe, changes, pool, proj = FAMILIES[family]
    torch.manual_seed(0)
    width = {"siglip": 32, "pe_core": 32, "pe_core_t": 32}.get(family, 16)
    with torch.device("meta"):
        visual = TimmModel("vit_tiny_patch16_224", 16, image_size=size, pool="token", proj=proj or "")
    trunk_options = {**SMALL, "img_size": size, **changes}
    if proj in ("linear", "mlp"):
        visual.trunk = timm.create_model(
            recipe, num_classes=0, **({"global_pool": pool} if pool else {}), **trunk_options
        )
        layers = {"linear": torch.nn.Linear, "mlp": lambda width, out: timm.layers.Mlp(width, 32, out)}
        visual.head = torch.nn.Sequential(layers[proj](visual.trunk.num_features, 16))
    else:
        classes = 0 if proj == "none" else width
        visual.trunk = timm.create_model(recipe, num_classes=classes, global_pool=pool, **trunk_options)
    shaken(visual)
    return visual, tower_of(visual, family)


def images(size=64):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def points(tower, blocks=(0, 2, 3)):
    return [tower.canonical(f"block{number}.{point}") for number in blocks for point in tower.points]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_point_continues_to_the_same_features(family):
    visual, tower = built(family)
    assert isinstance(tower, TimmViTTower)
    check_split(tower, visual, images(), points(tower, range(4)))


@pytest.mark.parametrize("family", ["siglip", "eva02", "eva02_e", "pe_core", "vitamin", "mobileclip_b"])
def test_gradients_equal_autograd_through_the_unsplit_model(family):
    visual, tower = built(family)
    blocks = visual.trunk.blocks
    prefix = tower.prefix

    def as_map(gradient):
        return gradient[:, prefix:].transpose(1, 2).reshape(len(gradient), -1, 4, 4)

    hooked = {"block0.out": blocks[0], "block2.out": blocks[2]}
    if family != "eva02_e":  # blocks that normalise last have no module whose output the attention reads
        hooked |= {"block1": blocks[1].norm1, "block3": blocks[3].norm1, "block2.ln_2": blocks[2].norm2}
    check_gradients(tower, visual, images(), hooked, as_map)


def test_in_blocks_that_normalise_last_a_point_is_what_the_branch_reads():
    """The oracle replaces what the attention reads, with the residual stream left alone."""
    visual, tower = built("eva02_e")
    with torch.no_grad():
        _, states = tower.forward(images(), ["block2", "block1.ln_2"])
    for layer, module in (("block2", visual.trunk.blocks[2].attn), ("block1.ln_2", visual.trunk.blocks[1].mlp)):
        kept = []

        def separate(_, inputs, kept=kept):
            kept.append(inputs[0].clone().requires_grad_())
            return (kept[0], *inputs[1:])

        handle = module.register_forward_pre_hook(separate)
        features = visual(images())
        handle.remove()
        (expected,) = torch.autograd.grad(features[:, 0].sum(), kept[0])
        activations = states[layer].activations.requires_grad_()
        found = tower.head(layer, activations, states[layer].context)
        (gradient,) = torch.autograd.grad(found[:, 0].sum(), activations)
        torch.testing.assert_close(gradient, expected[:, 1:].mT.reshape(2, 32, 4, 4), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "after_last"), [("eva02", 0), ("mobileclip_b", 0), ("siglip", 1), ("pe_core", 1), ("vitamin", 1)]
)
def test_patches_have_a_gradient_of_their_own_at_the_default_layer_in_every_family(family, after_last):
    _, tower = built(family)
    default, last = tower.canonical(tower.default_layer), "block3.out"
    assert default == "block3"
    with torch.no_grad():
        _, states = tower.forward(images(), [default, last])
    for layer in (default, last):
        activations = states[layer].activations.requires_grad_()
        features = tower.head(layer, activations, states[layer].context)
        (gradient,) = torch.autograd.grad(features[:, 0].sum(), activations)
        assert bool(gradient.any()) == (layer == default or bool(after_last))
        spread = float((gradient - gradient.mean((2, 3), keepdim=True)).abs().max())
        assert (spread > 1e-5 * float(gradient.abs().max())) == (bool(gradient.any()) and not tower.remark(layer))
    assert bool(tower.remark(last)) == (family == "vitamin")


def test_attention_is_what_the_block_used():
    """The oracle is the product of its weights with the values, against the module's own output."""
    for family in ("eva02", "mobileclip_b", "biomedclip"):
        visual, tower = built(family)
        with torch.no_grad():
            features, states = tower.forward(images(), ["block1"])
            again, weights = tower.attended("block1", states["block1"].activations, states["block1"].context)
        torch.testing.assert_close(again, features)
        assert [tuple(one.shape) for one in weights] == [(2, 2, 17, 17)] * 3
        torch.testing.assert_close(weights[0].sum(-1), torch.ones(2, 2, 17))
        attention, seen = visual.trunk.blocks[1].attn, []
        handle = attention.register_forward_hook(lambda m, i, o, seen=seen: seen.extend((i[0], o)))
        with torch.no_grad():
            visual(images())
        handle.remove()
        read, made = seen
        fused = attention.qkv is not None
        v = attention.qkv(read).chunk(3, -1)[2] if fused else attention.v_proj(read)
        mixed = (weights[0] @ v.unflatten(2, (2, -1)).transpose(1, 2)).transpose(1, 2).flatten(2)
        torch.testing.assert_close(attention.proj(attention.norm(mixed)), made)
        assert attention.fused_attn, "left as it was found"


def test_attention_from_the_points_of_the_last_block():
    _, tower = built("eva02")
    assert tower.lacks("attentions", "block3") == ""
    assert tower.lacks("attentions", "block3.ln_2") == "no attention follows block3.ln_2"
    with torch.no_grad():
        _, states = tower.forward(images(), ["block2.ln_2"])
        state = states["block2.ln_2"]
        _, weights = tower.attended("block2.ln_2", state.activations, state.context)
    assert len(weights) == 1


@pytest.mark.parametrize(
    ("family", "why"),
    [
        ("siglip", "by an attention of its own"),
        ("pe_core", "by an attention of its own"),
        ("vitamin", "over its patches"),
    ],
)
def test_towers_without_a_pooled_class_token_say_so(family, why):
    _, tower = built(family)
    for extra in ("attentions", "surgery_features"):
        assert tower.lacks(extra, "block3") == f"its image tower pools {why}, not by a class token"
    with pytest.raises(ModelError, match=f"CLIP Surgery has no path through this model: .*{why}"):
        tower.surgery(images(), 2, "plain")


@pytest.mark.parametrize("values", ["plain", "unit"])
def test_surgery_of_timm_equals_surgery_of_the_same_vit_in_open_clip(values):
    """One set of weights in both layouts; the path through open_clip's blocks is the oracle."""
    visual, tower = built("mobileclip2_l")
    native = _as_open_clip(visual.trunk)
    with torch.no_grad():
        torch.testing.assert_close(native(images()), visual(images()))
        pooled, patches = tower.surgery(images(), 3, values)
        expected_pooled, expected = ViTTower(native).surgery(images(), 3, values)
        torch.testing.assert_close(pooled, expected_pooled)
        torch.testing.assert_close(patches, expected)


def _as_open_clip(trunk):
    from functools import partial

    from open_clip.transformer import LayerNorm, VisionTransformer

    native = VisionTransformer(64, 16, 32, 4, 2, 4.0, output_dim=16, norm_layer=partial(LayerNorm, eps=trunk.norm.eps))
    names = {
        "conv1.weight": trunk.patch_embed.proj.weight,
        "class_embedding": trunk.cls_token[0, 0],
        "positional_embedding": trunk.pos_embed[0],
        "proj": trunk.head.weight.T,
    }
    for ours, theirs in (("ln_pre", trunk.norm_pre), ("ln_post", trunk.norm)):
        names |= {f"{ours}.weight": theirs.weight, f"{ours}.bias": theirs.bias}
    pairs = {
        "ln_1": "norm1",
        "ln_2": "norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
        "attn.out_proj": "attn.proj",
        "attn.in_proj": "attn.qkv",
    }
    for number, block in enumerate(trunk.blocks):
        for ours, theirs in pairs.items():
            module, joint = block.get_submodule(theirs), "_" if ours == "attn.in_proj" else "."
            for kind in ("weight", "bias"):
                names[f"transformer.resblocks.{number}.{ours}{joint}{kind}"] = getattr(module, kind)
    native.load_state_dict(names)
    trunk.head.bias.zero_()
    return native.eval()


def test_a_trunk_with_blocks_of_another_kind_is_refused_in_one_line():
    with torch.device("meta"):
        visual = TimmModel("vit_relpos_base_patch16_224", 16, image_size=224, pool="avg")
    with pytest.raises(ModelError, match=r"^model relpos: its timm trunk .*cannot be split at its stages"):
        tower_of(visual, "relpos")
