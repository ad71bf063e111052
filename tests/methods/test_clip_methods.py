"""CLIP Surgery and GAE against slow definitions written from the papers and the authors' code."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from decomcam_bench.core.errors import ConfigError, ModelError
from decomcam_bench.engine.evidence import check_needs
from decomcam_bench.methods.attention import AttentionRelevance
from decomcam_bench.methods.base import min_max
from decomcam_bench.methods.clip_surgery import ClipSurgery
from decomcam_bench.methods.gradient import GradCAM

from .conftest import ClipCase, plain_evidence

RESNETS = ["tiny-resnet", "toyclip-resnet"]


def slow_gae(case: ClipCase, pair: int, start: int) -> Tensor:
    """Relevance (h, w): whole matrices, attention read by hooks from torch's own module, all blocks with gradient."""
    visual = copy.deepcopy(case.model.clip.visual).requires_grad_(True)
    seen: list[Tensor] = []
    for block in visual.transformer.resblocks:

        def attention(q_x: Tensor, block: torch.nn.Module = block, **_: object) -> Tensor:
            m, d = block.attn, q_x.shape[2]
            q, k, v = (q_x @ m.in_proj_weight.T + m.in_proj_bias).split(d, 2)
            heads = []
            size = d // m.num_heads
            weights = []
            for h in range(m.num_heads):
                part = slice(h * size, (h + 1) * size)
                w = (q[..., part] @ k[..., part].mT / size**0.5).softmax(-1)
                w.retain_grad()
                weights.append(w)
                heads.append(w @ v[..., part])
            seen.append(weights)
            return m.out_proj(torch.cat(heads, 2))

        expected = block.attention
        probe = torch.randn(2, 5, block.attn.embed_dim, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(attention(probe), expected(q_x=probe), atol=1e-5, rtol=1e-4)
        block.attention = attention
    seen.clear()
    image = case.images[case.image_of[pair]][None]
    score = 100 * F.normalize(visual(image), dim=1)[0] @ case.bank.embeddings[case.class_ids[pair]]
    score.backward()
    count = seen[0][0].shape[-1]
    R = torch.eye(count)
    for weights in seen[start:]:
        cam = torch.stack([(w.detach() * w.grad)[0].clamp(min=0) for w in weights]).mean(0)
        R = R + cam @ R
    return R[0, 1:].reshape(visual.grid_size)


@pytest.mark.parametrize(
    ("layer", "start"), [("block0", 0), ("block1", 1), ("block2", 2), ("block0.ln_2", 1), ("block1.out", 2)]
)
@pytest.mark.parametrize("batch_size", [1, 32])
def test_gae_equals_the_slow_definition(clip_case, layer: str, start: int, batch_size: int) -> None:
    case = clip_case("tiny-vit")
    before = case.model.passes.as_dict()
    answer = AttentionRelevance().map(case.evidence(layer, batch_size=batch_size))
    assert not answer.failures
    for pair in range(3):
        expected = slow_gae(case, pair, start)
        torch.testing.assert_close(answer.native[pair], expected, atol=1e-4 * float(expected.max()), rtol=1e-3)
    after = case.model.passes.as_dict()
    assert {k: after[k] - before[k] for k in after} == {
        "backbone": 2, "head": 3, "backward": 3, "method_scored": 0, "metric_scored": 0,
    }  # fmt: skip


def test_gae_does_not_depend_on_the_scale_of_its_score(clip_case) -> None:
    """One block: the map is linear in the gradient."""
    case = clip_case("tiny-vit")
    maps = [AttentionRelevance().map(case.evidence("block2", kind)).native for kind in ("logits", "cosine")]
    torch.testing.assert_close(maps[0], 100 * maps[1], rtol=1e-3, atol=1e-6)


def test_gae_is_refused_where_there_is_no_attention(clip_case) -> None:
    with pytest.raises(ModelError, match=r"AttentionRelevance cannot explain .*ResNet.*toyclip_vit"):
        check_needs(clip_case("tiny-resnet").model, AttentionRelevance(), "layer4")
    model = clip_case("tiny-vit").model
    check_needs(model, AttentionRelevance(), "block2")
    with pytest.raises(ModelError, match=r"no attention follows block2\.out"):
        check_needs(model, AttentionRelevance(), "block2.out")

    class Misspelt(GradCAM):
        needs = frozenset({"attention"})

    with pytest.raises(ConfigError, match=r"unknown need 'attention'.*did you mean 'attentions'"):
        check_needs(model, Misspelt(), "block2")


def slow_surgery_vit(case: ClipCase, image: int, blocks: int, unit: bool) -> tuple[Tensor, Tensor]:
    """Class token and patch tokens, not normalised, as the authors' forward pass, head by head."""
    visual = case.model.clip.visual
    x = visual._embeds(case.images[image : image + 1])[0]
    new: Tensor | None = None
    resblocks = list(visual.transformer.resblocks)
    for number, block in enumerate(resblocks):
        m = block.attn
        q, k, v = (block.ln_1(x) @ m.in_proj_weight.T + m.in_proj_bias).chunk(3, 1)
        size = m.head_dim
        original, surgery = [], []
        for h in range(m.num_heads):
            part = slice(h * size, (h + 1) * size)
            original.append((q[:, part] @ k[:, part].T * size**-0.5).softmax(1) @ v[:, part])
            a, scale = v[:, part], size**-0.5
            if unit:
                a, scale = a / (a.norm(dim=1, keepdim=True) + 1e-6), 8 * scale
            surgery.append((a @ a.T * scale).softmax(1) @ v[:, part])
        if number >= len(resblocks) - blocks:
            new = (x if new is None else new) + m.out_proj(torch.cat(surgery, 1))
        x = x + m.out_proj(torch.cat(original, 1))
        x = x + block.mlp(block.ln_2(x))
    tokens = torch.cat((x[:1], new[1:]))
    tokens = visual.ln_post(tokens) @ visual.proj
    return tokens[0], tokens[1:]


def slow_surgery_resnet(case: ClipCase, image: int, unit: bool) -> tuple[Tensor, Tensor]:
    visual = case.model.clip.visual
    x = visual.stem(case.images[image : image + 1])
    for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        x = layer(x)
    pool = visual.attnpool
    tokens = x[0].flatten(1).T
    tokens = torch.cat((tokens.mean(0, keepdim=True), tokens)) + pool.positional_embedding
    v = pool.v_proj(tokens)
    size = v.shape[1] // pool.num_heads
    mixed = []
    for h in range(pool.num_heads):
        part = v[:, h * size : (h + 1) * size]
        a, scale = part, size**-0.5
        if unit:
            a, scale = a / (a.norm(dim=1, keepdim=True) + 1e-6), 8 * scale
        mixed.append((a @ a.T * scale).softmax(1) @ part)
    plain = [(p[:1] @ p.T * size**-0.5).softmax(1) @ p for p in v.split(size, 1)]
    return pool.c_proj(torch.cat(plain, 1))[0], pool.c_proj(torch.cat(mixed, 1))[1:]


def slow_feature_surgery(cls: Tensor, patches: Tensor, texts: Tensor, own: int, axis: str) -> Tensor:
    """Element by element, as the authors' function: (patches,)."""
    features = torch.cat((cls[None], patches))
    features = features / features.norm(dim=1 if axis == "features" else 0, keepdim=True)
    prob = ((features[:1] @ texts.T) * 2).softmax(-1)
    w = prob / prob.mean(-1, keepdim=True)
    feats = features[:, None] * texts[None]
    feats = feats * w.reshape(1, -1, 1)
    feats = feats - feats.mean(1, keepdim=True)
    return feats.sum(-1)[1:, own]


@pytest.mark.parametrize("normalise", ["features", "tokens"])
@pytest.mark.parametrize("values", ["plain", "unit"])
@pytest.mark.parametrize("blocks", [1, 2, 6])
@pytest.mark.parametrize("model", ["tiny-vit", "tiny-resnet", "toyclip-resnet"])
def test_surgery_equals_the_slow_definition(clip_case, model: str, blocks: int, values: str, normalise: str) -> None:
    case = clip_case(model)
    vit = model.endswith("vit")
    answer = ClipSurgery(blocks=blocks, values=values, normalise=normalise).map(
        case.evidence("block1" if vit else "layer4")
    )
    assert not answer.failures
    with torch.no_grad():
        for pair in range(3):
            image = int(case.image_of[pair])
            unit = values == "unit"
            parts = slow_surgery_vit(case, image, blocks, unit) if vit else slow_surgery_resnet(case, image, unit)
            expected = slow_feature_surgery(*parts, case.bank.embeddings, int(case.class_ids[pair]), normalise)
            expected = expected.reshape(answer.native.shape[1:])
            torch.testing.assert_close(answer.native[pair], min_max(expected[None], (1, 2))[0], atol=2e-3, rtol=0)


def test_the_class_token_of_surgery_is_the_models_own_feature(clip_case) -> None:
    case = clip_case("tiny-vit")
    tokens, _ = case.model.surgery_features(case.images, 2, "plain")
    torch.testing.assert_close(F.normalize(tokens, dim=1), case.model.embed(case.images), atol=1e-5, rtol=0)


def test_upsampling_behind_min_max_is_min_max_behind_it(clip_case) -> None:
    """The order of the authors' function, up to the range that upsampling cuts."""
    evidence, _ = plain_evidence()
    answer = ClipSurgery(floor="zero").map(evidence)
    shifted = ClipSurgery().map(evidence)
    low = answer.native.amin((1, 2), keepdim=True)
    assert (low >= 0).all()
    assert (shifted.native.amin((1, 2)) == 0).all()
    assert (shifted.native.amax((1, 2)) == 1).all()


def test_a_single_text_is_compared_with_the_empty_one() -> None:
    evidence, _ = plain_evidence()
    texts = evidence.extras["text_embeddings"]()
    evidence.extras["text_embeddings"] = lambda: texts[:1]
    evidence.extras["class_ids"] = lambda: torch.zeros(3, dtype=torch.int64)
    answer = ClipSurgery().map(evidence)
    assert not answer.failures
    _, patches = evidence.extras["surgery_features"](6, "plain")
    similarity = torch.einsum("nchw,c->nhw", F.normalize(patches, dim=1), texts[0] - texts[-1])
    torch.testing.assert_close(answer.native, min_max(similarity, (1, 2))[evidence.image_of])


def test_features_that_are_not_finite_fail_their_image_alone() -> None:
    evidence, _ = plain_evidence()
    _, patches = evidence.extras["surgery_features"](6, "plain")
    patches[1, 0, 0, 0] = torch.inf
    answer = ClipSurgery().map(evidence)
    assert answer.failures == {2: "non_finite_features"}
    assert answer.native.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": 0}, "method.blocks=0"),
        ({"values": "raw"}, "method.values=raw"),
        ({"normalise": "token"}, "method.normalise=token.*'tokens'"),
        ({"temperature": 0.0}, "method.temperature=0"),
        ({"floor": "min"}, "method.floor=min"),
    ],
)
def test_out_of_range(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ClipSurgery(**options)
