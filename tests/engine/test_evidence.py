"""Extras of evidence in a run: what they cost, what is planned, and which models have them."""

from __future__ import annotations

import pytest

from decomcam_bench.cli import main
from decomcam_bench.config.settings import load_config
from decomcam_bench.engine.estimate import describe
from decomcam_bench.engine.plan import make_plan

VIT = ("model=toyclip_vit", "model.weights=untrained")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        # One gradient a pair and layer; the pass from the layer on is a head pass.
        ((*VIT, "method=gae", "layer=block0,block-1"), {"backbone": (1, 0), "head": (0, 2), "backward": (0, 2)}),
        # Attentions and gradients are different gradients.
        ((*VIT, "method=gae,gradcam", "layer=block2"), {"backbone": (1, 0), "head": (0, 2), "backward": (0, 2)}),
        # One further pass an image, which its pairs share; each number of blocks has its own.
        ((*VIT, "method=clip_surgery", "method.blocks=1,6"), {"backbone": (3, 0)}),
        (("model=toyclip", "method=clip_surgery"), {"backbone": (2, 0)}),
        # Ranks of a factorisation share nothing.
        (("model=toyclip", "method=dff", "rank=1,2"), {"backbone": (1, 0), "method_scored": (3, 0)}),
        # Masked images that do not depend on the text are scored once for all texts of an image.
        (("model=toyclip", "method=rise", "method.masks=6"), {"backbone": (1, 0), "method_scored": (6, 0)}),
        (("model=toyclip", "method=scorecam", "layer=layer1"), {"backbone": (1, 0), "method_scored": (64, 0)}),
        # The blurred image, too.
        (
            ("model=toyclip", "method=decomcam_difference", "rank=2"),
            {"backbone": (1, 0), "method_scored": (1, 2), "head": (0, 1), "backward": (0, 1)},
        ),
        # Rollout and raw attention read the same pass; dense paths have one each.
        (
            (*VIT, "method=rollout,raw_attention,dense", "method.attention=sclip,gem"),
            {"backbone": (4, 0)},
        ),
        ((*VIT, "method=legrad,grad_eclip"), {"backbone": (3, 0), "backward": (0, 2)}),
        (("model=toyclip", "method=integrated_gradients", "method.steps=3"), {"backbone": (1, 0), "backward": (0, 3)}),
        # In half precision some methods take activations and gradients in float32: a pass of their own for all layers.
        (
            (*VIT, "precision=bf16", "method=gradcam,xgradcam,eigengradcam", "layer=block0,block2"),
            {"backbone": (2, 0), "head": (0, 4), "backward": (0, 4)},
        ),
        # Methods that differentiate the same score share its gradients, whatever they score masked images with.
        (
            ("model=toyclip", "method=decomcam,decomcam_v1,gradcam", "rank=1", "method.gradient_score=logits"),
            {"backbone": (1, 0), "method_scored": (1, 2), "head": (0, 1), "backward": (0, 1)},
        ),
    ],
)
def test_passes_are_those_planned(bench, tmp_path, overrides, expected) -> None:
    """Passes as (an image, a pair)."""
    # Batches smaller than the run, and than the pairs of an image, which stay together all the same.
    run = (*overrides, "limit=3", "batch_size=2", "device=cpu", "metric=pointing_exact")
    planned = describe(make_plan(load_config([*run, f"results={tmp_path}"])))
    result, table = bench(tmp_path, *run)
    pairs = int(table["n_expected"].iloc[0])
    assert pairs > 2
    for name, count in result.passes.items():
        an_image, a_pair = expected.get(name, (0, 0))
        assert count == 3 * an_image + pairs * a_pair, name
        assert f"  {name.replace('_', '-'):14} {count}\n" in planned


def test_results_do_not_depend_on_batches(bench, tmp_path) -> None:
    run = (*VIT, "method=gae,clip_surgery,dff,kmeans,groupcam", "rank=2", "limit=3", "device=cpu", "metric=energy")
    _, small = bench(tmp_path / "a", *run, "batch_size=2")
    _, large = bench(tmp_path / "b", *run, "batch_size=32")
    assert small["key"].tolist() == large["key"].tolist()
    assert small["energy"].tolist() == pytest.approx(large["energy"].tolist(), rel=1e-4)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=toyclip", "method=gae"], "cannot explain model toyclip at layer="),
        ([*VIT, "method=gae", "layer=block-1.out"], "no attention follows block5.out"),
        (["method=files"], "method.dir=FOLDER"),
        (["method=files", "maps.dir=no/such/folder"], "method.dir=no/such/folder: cannot be read"),
    ],
)
def test_refused_before_anything_is_computed(overrides, message: str, tmp_path, capsys) -> None:
    assert main(["run", *overrides, "limit=2", f"results={tmp_path / 'store'}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("model", ["toyclip", "toyclip_vit"])
def test_components_reach_the_parts_metric(bench, tmp_path, model: str) -> None:
    weights = ["model.weights=untrained"] if model == "toyclip_vit" else []
    run = ("method=dff,topchannels,kmeans", "rank=3", "limit=2", "metric=parts", "device=cpu")
    _, table = bench(tmp_path, f"model={model}", *weights, *run)
    assert (table["n_evaluated"] > 0).all()
    assert table["parts_energy"].between(0, 1).all()
