"""What a run computes, shares, seals and counts."""

import json
import multiprocessing
import os
import random
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch

from decomcam_bench.config.settings import load_config
from decomcam_bench.core.errors import ModelError, StoreError, StrictError
from decomcam_bench.engine.engine import run
from decomcam_bench.engine.estimate import describe
from decomcam_bench.engine.plan import make_plan
from decomcam_bench.methods.base import Explanation
from decomcam_bench.store.store import Store
from decomcam_bench.tables.tables import load_records, load_table, render

FAST = ("limit=5", "metric=pointing_exact")


def test_gradient_methods_share_one_backbone_pass_and_one_gradient(bench, tmp_path):
    result, table = bench(tmp_path, *FAST, "method=gradcam,hirescam,layercam,gradcam_pp")
    pairs = int(table["n_expected"].iloc[0])
    assert len(table) == 4
    assert result.passes == {
        "backbone": 5,
        "head": pairs,
        "backward": pairs,
        "method_scored": 0,
        "metric_scored": 0,
    }


def test_a_rank_sweep_scores_no_more_than_its_largest_rank(bench, tmp_path):
    sweep, table = bench(tmp_path / "sweep", *FAST, "rank=1,2,4")
    alone, single = bench(tmp_path / "alone", *FAST, "rank=4")
    pairs = int(table["n_expected"].iloc[0])
    assert sweep.passes == alone.passes
    assert sweep.passes["method_scored"] == 4 * pairs
    assert render(table[table["rank"] == 4], "csv") == render(single, "csv")


@pytest.mark.parametrize(
    "words",
    [
        ("method=decomcam", "rank=60"),
        ("method=decomcam", "rank=300", "layer=layer1"),
        ("method=decomcam_notebook", "rank=70"),
        ("method=dff", "rank=60"),
        ("method=topchannels", "rank=500", "layer=layer1"),
        ("method=groupcam",),
        ("method=scorecam_pp",),
        ("method=scorecam_decomcam2023",),
    ],
    ids=" ".join,
)
def test_forward_passes_are_those_of_the_images_scored(bench, tmp_path, words):
    """Not those of the cost, which is an upper bound: the matrix has a lower rank, channels are dead."""
    overrides = ("limit=2", "metric=efficiency", "model=toyclip", *words)
    result, table = bench(tmp_path, *overrides)
    pairs = int(table["n_evaluated"].iloc[0])
    assert pairs == table["n_expected"].iloc[0] > 0
    (cell,) = make_plan(load_config([*overrides, f"results={tmp_path}"])).cells
    cost = cell.method.cost(cell.rank, {"layer1": 64, "layer4": 512}[cell.layer])
    assert result.passes["method_scored"] < pairs * cost.scored
    records = load_records(tmp_path, cell.key, "efficiency")
    assert result.passes["method_scored"] == scored_once(records, cost.shared == cost.scored, cost.shared > 0)
    assert table["efficiency_forward"].iloc[0] == records["forward"].mean()


def scored_once(records: pd.DataFrame, text_free: bool, baseline: bool) -> int:
    """Images scored, from those of each pair alone: what all texts of an image share counts once."""
    scored = records["forward"] - 1
    if text_free:
        return int(scored.groupby(records["position"]).first().sum())
    return int(scored.sum() - baseline * (len(records) - records["position"].nunique()))


@pytest.mark.parametrize(
    ("words", "ranks"),
    [
        (("method=decomcam",), (4, 20, 60)),
        (("method=decomcam_notebook", "method.sign=both"), (4, 20, 30)),
        (("method=topchannels", "layer=layer1"), (4, 40, 50)),
    ],
    ids=["decomcam", "both", "topchannels"],
)
def test_ranks_that_share_their_scoring_report_what_each_takes_alone(bench, tmp_path, words, ranks):
    overrides = ("limit=2", "metric=efficiency", *words)
    swept, table = bench(tmp_path / "sweep", *overrides, f"rank={','.join(map(str, ranks))}")
    for key, rank in zip(table["key"], table["rank"], strict=True):
        alone, single = bench(tmp_path / str(rank), *overrides, f"rank={rank}")
        assert single["key"].tolist() == [key]
        ours, theirs = (load_records(tmp_path / place, key, "efficiency") for place in ("sweep", str(rank)))
        pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
        assert scored_once(ours, False, "method=decomcam_notebook" in words) == alone.passes["method_scored"]
    assert sorted(table["rank"]) == list(ranks)
    assert swept.passes == alone.passes


def test_two_layers_share_the_backbone_pass(bench, tmp_path):
    result, table = bench(tmp_path, *FAST, "method=gradcam", "layer=layer3,layer4")
    pairs = int(table["n_expected"].iloc[0])
    assert (result.passes["backbone"], result.passes["backward"]) == (5, 2 * pairs)


def test_metric_scored_images_are_counted_apart_and_planned_exactly(bench, tmp_path):
    overrides = [
        "limit=3",
        "metric=causal",
        "metric.orders=1",
        "method=decomcam,random",
        "rank=2",
        f"results={tmp_path}",
    ]
    planned = describe(make_plan(load_config(overrides)))
    result, _ = bench(tmp_path, *overrides[:-1])
    for name, count in result.passes.items():
        assert f"{name.replace('_', '-'):14} {count}\n" in planned
    assert result.passes["metric_scored"] > 0
    again = describe(make_plan(load_config(overrides)))
    assert "metric-scored  0" in again
    assert "; done" in again


def test_a_finished_run_computes_nothing(bench, tmp_path):
    first, table = bench(tmp_path, *FAST)
    second, again = bench(tmp_path, *FAST)
    assert first.computed_images == 5
    assert (second.computed_images, second.passes) == (0, {})
    assert render(table, "csv") == render(again, "csv")


def test_a_metric_can_be_added_to_a_finished_cell(bench, tmp_path):
    _, one = bench(tmp_path / "a", "limit=5", "method=gradcam", "metric=pointing_exact")
    _, both = bench(tmp_path / "a", "limit=5", "method=gradcam", "metric=energy")
    _, fresh = bench(tmp_path / "b", "limit=5", "method=gradcam", "metric=pointing_exact,energy")
    assert list(both["key"]) == list(one["key"]) == list(fresh["key"])
    assert float(both["energy"].iloc[0]) == float(fresh["energy"].iloc[0])
    assert float(both["pointing_exact"].iloc[0]) == float(one["pointing_exact"].iloc[0])


def test_keys_know_what_decides_the_maps_and_nothing_else():
    def keys(*overrides):
        return [cell.key for cell in make_plan(load_config(["method=gradcam", "limit=4", *overrides])).cells]

    base = keys()
    for same in (
        ["batch_size=3"],
        ["device=cpu"],
        ["workers=1"],
        ["results=elsewhere"],
        ["metric=energy"],
        ["layer=layer4"],
    ):
        assert keys(*same) == base, same
    changed = [
        ["layer=layer3"],
        ["limit=5"],
        ["seed=1"],
        ["precision=bf16"],
        ["method=hirescam"],
        ["model=toyclip_untrained"],
        ["dataset.split=val"],
        ["dataset.templates=bare"],
        ["model.geometry=crop"],
        ["method.score=cosine"],
    ]
    assert len({*base, *(key for change in changed for key in keys(*change))}) == len(changed) + 1


def test_a_method_without_a_rank_is_not_repeated():
    plan = make_plan(load_config(["method=decomcam,gradcam,random", "rank=1,5", "layer=layer3,layer4", "limit=4"]))
    labels = [(c.info.labels["method"], c.info.labels["layer"], c.info.labels["rank"]) for c in plan.cells]
    assert len(labels) == len(set(labels)) == 4 + 2 + 1


def test_batches_change_no_value(bench, tmp_path):
    _, small = bench(tmp_path / "a", "limit=6", "batch_size=2", "metric=pointing_exact,energy", "rank=3")
    _, large = bench(tmp_path / "b", "limit=6", "batch_size=64", "metric=pointing_exact,energy", "rank=3")
    np.testing.assert_allclose(small["energy"], large["energy"], rtol=1e-4)
    assert list(small["pointing_exact"]) == list(large["pointing_exact"])


def test_the_random_control_depends_on_seed_image_and_class_alone(bench, tmp_path):
    _, first = bench(tmp_path / "a", *FAST, "method=random")
    records = load_records(tmp_path / "a", first["key"].iloc[0], "pointing_exact")
    _, second = bench(tmp_path / "b", "limit=3", "metric=pointing_exact", "method=random", "batch_size=1")
    fewer = load_records(tmp_path / "b", second["key"].iloc[0], "pointing_exact")
    assert fewer[["x", "y"]].equals(records[records["position"] < 3][["x", "y"]])
    assert len(set(zip(records["x"], records["y"], strict=True))) == len(records)


def test_a_vit_layer_without_gradients_names_those_that_work(bench, tmp_path):
    with pytest.raises(ModelError, match=r"layer=block5.out.*zero there; layers that work: block0, .*block5$"):
        bench(tmp_path, *FAST, "model=toyclip_vit", "model.weights=untrained", "method=gradcam", "layer=block-1.out")


def test_a_layer_that_only_the_class_token_leaves_is_refused_by_ablation_too(bench, tmp_path):
    with pytest.raises(ModelError, match=r"layer=block5.out.*zero there; layers that work: block0, .*block5$"):
        bench(tmp_path, *FAST, "model=toyclip_vit", "method=ablationcam", "layer=block-1.out")


def test_a_layer_that_works_is_not_blamed_for_rounding(bench, tmp_path, monkeypatch):
    """Where all gradients are zero but for rounding, one pair alone may round otherwise than a batch."""
    from decomcam_bench.models.clip import ClipModel

    whole = ClipModel.gradients

    def vanished(self, layer, state, image_of, class_ids, *rest):
        found = whole(self, layer, state, image_of, class_ids, *rest)
        return torch.zeros_like(found) if len(image_of) > 1 else found * 1e-9

    monkeypatch.setattr(ClipModel, "gradients", vanished)
    result, _ = bench(tmp_path, *FAST, "method=gradcam")
    assert set(result.new_failures) == {"zero_gradients"}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_terms_that_cancel_are_no_map(bench, tmp_path, precision):
    """Behind a block tokens are read through a layer norm alone, which makes HiRes-CAM's sum 0."""
    run = ("model=toyclip_vit", "method=hirescam", "layer=block-2.out", f"precision={precision}")
    result, table = bench(tmp_path, *FAST, *run)
    assert table["n_failed"].iloc[0] == table["n_expected"].iloc[0] > 0
    assert set(result.new_failures) == {"rounding_only"}


def test_the_accuracy_of_a_class_does_not_depend_on_the_method(bench, tmp_path):
    """A method without a single map has the model's predictions in its bins, its failures counted and scored."""
    lost = ["method=decomcam_v25", "method.threshold=1000000.0"]
    for place, method in (("lost", lost), ("whole", ["method=decomcam"])):
        metrics = ("metric=accuracy_bins,causal_decomcam", "metric.step=6400")
        bench(tmp_path / place, "limit=6", "rank=2", *method, *metrics)
    lost, whole = (load_table(tmp_path / place, details=True).iloc[0] for place in ("lost", "whole"))
    bins = "accuracy_bins_{}[step=6400]"
    assert lost[bins.format("accuracy")] == whole[bins.format("accuracy")] > 0
    assert lost[bins.format("overall")] < whole[bins.format("overall")]
    assert lost["n_failed"] == lost["n_expected"]
    skipped = [name for name in lost.index if name.endswith(".n_skipped")]
    assert skipped
    assert list(lost[skipped]) == list(whole[skipped])
    # Both protocols leave out the same pairs, and say so.
    counted = [name.removesuffix(".n_expected") for name in lost.index if name.endswith(".n_expected")]
    for row in (lost, whole):
        for count in ("n_evaluated", "n_skipped", "n_failed"):
            assert len({row[f"{name}.{count}"] for name in counted}) == 1
    assert lost[f"{counted[0]}.n_failed"] == whole[f"{counted[0]}.n_evaluated"] > 0


def test_pairs_without_gradients_anywhere_fail_alone(bench, tmp_path, monkeypatch):
    """No layer works for them, so the layer is not to blame."""
    from decomcam_bench.models.clip import ClipModel

    whole = ClipModel.gradients

    def vanished(self, layer, state, image_of, class_ids, *rest):
        found = whole(self, layer, state, image_of, class_ids, *rest)
        return torch.where(((image_of == 0) & (len(state.activations) == 1))[:, None, None, None], 0.0, found)

    monkeypatch.setattr(ClipModel, "gradients", vanished)
    result, table = bench(tmp_path, *FAST, "method=gradcam", "batch_size=1")
    assert set(result.new_failures) == {"zero_gradients"}
    assert table["n_failed"].iloc[0] == table["n_expected"].iloc[0]


def test_strict_stops_at_the_first_bad_image(bench, tmp_path, monkeypatch):
    from decomcam_bench.datasets.toybox.dataset import ToyBox

    def broken(self, index):
        raise OSError(f"scene {index}: truncated")

    monkeypatch.setattr(ToyBox, "load_image", broken)
    with pytest.raises(StrictError, match="truncated"):
        bench(tmp_path / "strict", *FAST, "strict=true")
    result, table = bench(tmp_path / "lenient", *FAST, "method=gradcam")
    assert int(table["n_failed"].iloc[0]) == int(table["n_expected"].iloc[0]) > 0
    assert sum(result.new_failures.values()) == int(table["n_failed"].iloc[0])
    with pytest.raises(StrictError, match="truncated"):
        bench(tmp_path / "lenient", *FAST, "method=gradcam", "strict=true")


def test_strict_looks_at_bad_images_again_and_lets_a_failed_map_pass(bench, tmp_path, monkeypatch):
    """A finished store holds failures of images (which strict refuses) and of maps (which it does not)."""
    from decomcam_bench.methods.gradient import GradCAM

    def nothing(self, evidence):
        return Explanation(torch.zeros(len(evidence), 5, 5))

    monkeypatch.setattr(GradCAM, "map", nothing)
    _, table = bench(tmp_path, *FAST, "method=gradcam")
    assert int(table["n_failed"].iloc[0]) > 0
    result, _ = bench(tmp_path, *FAST, "method=gradcam", "strict=true")
    assert result.computed_images == 0


def test_one_bad_image_is_a_record_and_the_run_goes_on(bench, tmp_path, monkeypatch):
    from decomcam_bench.datasets.toybox.dataset import ToyBox

    whole = ToyBox.load_image
    monkeypatch.setattr(
        ToyBox,
        "load_image",
        lambda self, index: whole(self, index) if index != 2 else (_ for _ in ()).throw(OSError("2: bad")),
    )
    _, table = bench(tmp_path, *FAST, "method=gradcam,random")
    for key, row in zip(table["key"], table.itertuples(), strict=True):
        for metric in (None, "pointing_exact"):
            records = load_records(tmp_path, key, metric)
            assert len(records) == row.n_expected
            bad = records[records["position"] == 2]
            assert set(bad["reason"]) == {"unreadable_image"}
            assert set(bad["detail"]) == {"2: bad"}
            assert set(bad["status"]) == {"failed"}
        assert row.n_evaluated + row.n_failed == row.n_expected


def _cells(store):
    return {cell.key: cell for cell in Store(store).cells()}


def test_a_damaged_part_is_named_by_the_table_and_healed_by_the_run(bench, tmp_path):
    _, table = bench(tmp_path, *FAST, "method=gradcam")
    cell = _cells(tmp_path)[table["key"].iloc[0]]
    part = cell.shard("records", 0)
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(StoreError, match="damaged"):
        load_table(tmp_path)
    _, healed = bench(tmp_path, *FAST, "method=gradcam")
    assert render(healed, "csv") == render(table, "csv")


def test_a_second_process_is_told_who_holds_a_cell(bench, tmp_path):
    _, table = bench(tmp_path, *FAST, "method=gradcam")
    store = Store(tmp_path)
    cell = store.cell(table["key"].iloc[0])
    cell.shard("records", 0).unlink()
    with store.locked([cell]):
        code = (
            "from decomcam_bench.cli import main; import sys;"
            f"sys.exit(main(['run','limit=5','metric=pointing_exact','method=gradcam','results={tmp_path}']))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 2
    assert "is being written by process" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def _run_quietly(overrides):
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    torch.set_num_threads(1)
    run(load_config(overrides))


@pytest.mark.slow
def test_a_run_killed_at_ten_random_moments_resumes_to_the_identical_table(bench, tmp_path):
    overrides = ["limit=32", "method=decomcam,gradcam", "rank=2", "metric=pointing_exact,energy", "workers=0"]
    began = time.monotonic()
    _, expected = bench(tmp_path / "whole", *overrides)
    longest = time.monotonic() - began
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["decomcam_bench.engine.engine"])
    moments, stores, finished = random.Random(0), 0, True
    for _ in range(10):
        stores += finished
        store = tmp_path / f"killed{stores}"
        process = context.Process(target=_run_quietly, args=([*overrides, f"results={store}"],))
        process.start()
        process.join(moments.uniform(0.05, longest))
        finished = process.exitcode == 0
        process.kill()
        process.join()
    for number in range(1, stores + 1):
        _, found = bench(tmp_path / f"killed{number}", *overrides)
        assert render(found, "csv") == render(expected, "csv")
    assert not list(tmp_path.rglob("*.tmp"))


def test_what_a_run_took_is_kept_apart_from_the_results(bench, tmp_path):
    result, _ = bench(tmp_path, *FAST, "method=gradcam")
    (record,) = Store(tmp_path).runs()
    assert record.passes == result.passes
    assert record.images == 5
    text = json.dumps([cell.identity for cell in Store(tmp_path).cells()])
    assert str(tmp_path) not in text


def test_a_run_of_another_position_of_the_same_images_is_another_cell():
    plans = [
        make_plan(load_config(["method=gradcam", "metric=energy", *o]))
        for o in (["limit=4"], ["limit=4", "dataset.size=300"])
    ]
    assert plans[0].cells[0].key != plans[1].cells[0].key


def test_run_returns_the_keys_in_order(tmp_path):
    result = run(load_config([f"results={tmp_path}", *FAST, "method=random,center", "workers=0"]))
    assert list(load_table(tmp_path, result.keys)["method"]) == ["random", "center"]
