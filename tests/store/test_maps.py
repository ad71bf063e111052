"""Kept maps: what is written, metrics added without the model, and maps exported and read back."""

from __future__ import annotations

import csv
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from decomcam_bench.cli import main
from decomcam_bench.config.settings import load_config
from decomcam_bench.core.errors import StoreError, StrictError
from decomcam_bench.engine.estimate import describe
from decomcam_bench.engine.plan import make_plan
from decomcam_bench.methods.base import Explanation
from decomcam_bench.store.maps import pack, read_maps
from decomcam_bench.store.store import Store

RUN = ("limit=5", "batch_size=3", "model=toyclip", "device=cpu")
#: Bilinear, bicubic, at input resolution, and one that fails for some pairs of this model.
METHODS = "method=gradcam,decomcam,center,topchannels"
MANY = "metric=pointing,energy,maxboxacc,otsu_box,efficiency"


def frames(store) -> dict[tuple[str, str], pd.DataFrame]:
    return {(cell.key, key): cell.read(key) for cell in Store(store).cells() for key in cell.metrics()}


@pytest.fixture(scope="module")
def stores(bench, tmp_path_factory):
    """The same cells: metrics added to saved maps, and metrics of a fresh run."""
    kept, fresh = tmp_path_factory.mktemp("kept"), tmp_path_factory.mktemp("fresh")
    bench(kept, *RUN, METHODS, "rank=3", "metric=pointing_exact", "save_maps=true")
    planned = describe(make_plan(load_config([f"results={kept}", *RUN, METHODS, "rank=3", MANY])))
    added, table = bench(kept, *RUN, METHODS, "rank=3", MANY)
    alone, fresh_table = bench(fresh, *RUN, METHODS, "rank=3", MANY)
    return kept, fresh, planned, added, alone, table, fresh_table


def test_added_metrics_take_no_pass_and_are_those_of_a_fresh_run_bit_by_bit(stores) -> None:
    kept, fresh, _, added, alone, _, _ = stores
    assert set(added.passes.values()) == {0}
    assert added.computed_images == 5
    assert alone.passes["backbone"] == 5
    ours, theirs = frames(kept), frames(fresh)
    assert len(theirs) == 4 * 5
    for place, frame in theirs.items():
        pd.testing.assert_frame_equal(ours[place], frame, check_exact=True)


def test_the_plan_says_that_the_model_is_not_needed(stores) -> None:
    planned = stores[2]
    assert planned.count("metrics to add to saved maps, without the model") == 4
    for name in ("backbone", "head", "backward", "method-scored", "metric-scored"):
        assert f"  {name:14} 0\n" in planned


def test_no_image_is_decoded(stores, bench, monkeypatch) -> None:
    import decomcam_bench.datasets.toybox.dataset as toybox

    monkeypatch.setattr(toybox.ToyBox, "load_image", lambda *_: pytest.fail("an image was read"))
    result, _ = bench(stores[0], *RUN, METHODS, "rank=3", "metric=pointing", "metric.tolerance=3")
    assert result.computed_images == 5


def test_a_part_keeps_native_maps_without_loss(stores) -> None:
    for cell in Store(stores[0]).cells():
        parts = [read_maps(cell, part) for part in range(cell.shards)]
        native = np.concatenate([part.native for part in parts])
        assert native.dtype == np.float32
        small = {"gradcam": "bilinear", "decomcam": "bicubic", "topchannels": "bicubic"}
        method = str(cell.labels["method"])
        assert {part.mode for part in parts} == {small.get(method, "none")}
        assert native.shape[1:] == ((160, 160) if method == "center" else (5, 5))
        assert {part.size for part in parts} == {(160, 160)}
        records = cell.read("records")
        assert len(native) == (records["status"] == "ok").sum()
        assert sum(len(part.without_map) for part in parts) == (records["status"] == "failed").sum()


def test_what_kept_maps_do_not_hold_is_computed_again(bench, tmp_path) -> None:
    run = (*RUN, "limit=2", "method=topchannels", "rank=2")
    bench(tmp_path / "kept", *run, "metric=pointing", "save_maps=true")
    again, _ = bench(tmp_path / "kept", *run, "metric=parts,energy")
    fresh, _ = bench(tmp_path / "fresh", *run, "metric=parts,energy")
    assert again.passes == fresh.passes
    assert again.passes["method_scored"] > 0
    ours, theirs = frames(tmp_path / "kept"), frames(tmp_path / "fresh")
    for place, frame in theirs.items():
        pd.testing.assert_frame_equal(ours[place], frame, check_exact=True)


def test_passes_are_kept_beside_the_maps(bench, tmp_path) -> None:
    """Fewer than the cost, which is an upper bound; of maps kept before passes were, they are not known."""
    run = (*RUN, "limit=2", "method=groupcam,decomcam", "rank=5,60")
    bench(tmp_path / "kept", *run, "metric=pointing", "save_maps=true")
    added, table = bench(tmp_path / "kept", *run, "metric=efficiency")
    assert set(added.passes.values()) == {0}
    bench(tmp_path / "fresh", *run, "metric=efficiency")
    ours = frames(tmp_path / "kept")
    for place, frame in frames(tmp_path / "fresh").items():
        pd.testing.assert_frame_equal(ours[place], frame, check_exact=True)
    numbers = table.set_index("method")["efficiency_forward"]
    assert numbers["groupcam"] < 34
    assert numbers["decomcam"].min() == 6
    assert numbers["decomcam"].max() < 61

    bench(tmp_path / "older", *run, "metric=pointing", "save_maps=true")
    for cell in Store(tmp_path / "older").cells():
        with np.load(cell.shard("maps", 0)) as data:
            older = {name: data[name] for name in data.files if name != "forward"}
        np.savez(cell.shard("maps", 0), **older)
    added, table = bench(tmp_path / "older", *run, "metric=efficiency")
    assert set(added.passes.values()) == {0}
    assert table["efficiency_forward"].isna().all()
    assert set(frames(tmp_path / "older")) == set(ours)


def test_failed_pairs_keep_their_reasons(bench, tmp_path) -> None:
    """Maps for some pairs alone: the others fail in every metric, fresh or added."""
    np.save(_first_file(tmp_path), np.ones((160, 160)))
    run = (*RUN, "method=files", f"maps.dir={tmp_path / 'maps'}")
    bench(tmp_path / "kept", *run, "metric=pointing_exact", "save_maps=true")
    added, table = bench(tmp_path / "kept", *run, "metric=energy,maxboxacc")
    assert set(added.passes.values()) == {0}
    bench(tmp_path / "fresh", *run, "metric=energy,maxboxacc")
    theirs = frames(tmp_path / "fresh")
    for place, frame in theirs.items():
        pd.testing.assert_frame_equal(frames(tmp_path / "kept")[place], frame, check_exact=True)
        assert set(frame["reason"]) == {"", "map_missing"}
    assert int(table["n_evaluated"].iloc[0]) == 1


def _first_file(folder):
    (folder / "maps").mkdir()
    assert main(["data", "export-pairs", "limit=5", "--out", str(folder / "pairs.csv")]) == 0
    with open(folder / "pairs.csv", newline="") as stream:
        return folder / "maps" / next(csv.DictReader(stream))["file"]


@pytest.fixture
def own_images(tmp_path):
    """Pictures in folders of odd names; one is cut off behind its header, one has no good annotation."""
    folder = tmp_path / "data"
    rows = ["image,class,x0,y0,x1,y1"]
    for number, name in enumerate(["a b/1.png", "ü%2F/2.png", "3.png", "4.png"]):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (60 + 7 * number, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        box = "5,5,5,5" if number == 3 else "5,6,40,50"
        rows += [f"{name},house,{box}", f"{name},tree,20,10,70,55"]
    data = (folder / "3.png").read_bytes()
    (folder / "3.png").write_bytes(data[: len(data) // 2])
    (folder / "annotations.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def test_lost_images_and_odd_names(bench, own_images, tmp_path) -> None:
    """Images that cannot be used are failures in added metrics as in fresh ones; ids never become paths."""
    run = ("dataset=custom", f"dataset.root={own_images}", "model=toyclip", "device=cpu", "method=gradcam")
    metrics = "metric=energy,maxboxacc,efficiency"
    _, table = bench(tmp_path / "kept", *run, "metric=pointing", "save_maps=true")
    assert int(table["n_failed"].iloc[0]) >= 3
    with pytest.raises(StrictError, match="strict=true"):
        bench(tmp_path / "kept", *run, metrics, "strict=true")
    added, own = bench(tmp_path / "kept", *run, metrics)
    assert set(added.passes.values()) == {0}
    bench(tmp_path / "fresh", *run, metrics)
    ours = frames(tmp_path / "kept")
    for place, frame in frames(tmp_path / "fresh").items():
        pd.testing.assert_frame_equal(ours[place], frame, check_exact=True)
    key, out = own["key"].iloc[0], tmp_path / "maps"
    assert main(["data", "export-maps", key, "--results", str(tmp_path / "kept"), "--out", str(out)]) == 0
    assert "a%20b%2F1.png__house.npy" in {file.name for file in out.iterdir()}
    _, again = bench(tmp_path / "again", *run[:-1], "method=files", f"maps.dir={out}", "metric=energy,maxboxacc")
    for name in ("energy", "maxboxacc", "n_expected", "n_evaluated", "n_skipped", "n_failed"):
        # Exported maps are those at the input: one interpolation more on the way to original pixels.
        assert again[name].iloc[0] == pytest.approx(own[name].iloc[0], abs=1e-3 if name == "energy" else 0)
    pairs = tmp_path / "pairs.csv"
    assert main(["data", "export-pairs", "dataset=custom", f"dataset.root={own_images}", "--out", str(pairs)]) == 0
    with open(pairs, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0]["image"] == str(own_images / "a b" / "1.png")
    assert {file.name for file in out.iterdir()} <= {row["file"] for row in rows}


def test_a_damaged_part_is_one_line(stores, bench, tmp_path) -> None:
    run = (*RUN, "limit=2", "method=gradcam")
    bench(tmp_path, *run, "metric=pointing", "save_maps=true")
    cell = Store(tmp_path).cells()[0]
    path = cell.shard("maps", 0)
    data = bytearray(path.read_bytes())
    place = data.index(read_maps(cell, 0).native.tobytes()[:16])
    data[place] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"shard-00000\.npz: damaged"):
        bench(tmp_path, *run, "metric=energy")
    path.write_bytes(data[: len(data) // 2])
    assert cell.sealed("maps") == set()
    again, _ = bench(tmp_path, *run, "metric=energy")
    assert again.passes["backbone"] == 2


def test_size_of_a_thousand_pairs() -> None:
    """196 bytes a pair at 7 x 7, 8 for its place, 4 for its passes, and less than 2 KiB a part."""
    kept = [(n // 2, n % 2, "bicubic", np.zeros((7, 7), np.float32), 11) for n in range(1000)]
    arrays = pack(kept, [], (224, 224), 2048)
    assert arrays["native"].nbytes == 196_000
    assert sum(array.nbytes for array in arrays.values()) < 208_100


def test_maps_of_several_forms_are_kept_at_input_resolution() -> None:
    small, large = torch.rand(3, 4), torch.rand(12, 8)
    arrays = pack([(0, 1, "bilinear", small.numpy(), 3), (1, 1, "none", large.numpy(), 4)], [(2, 0)], (12, 8), 5)
    assert str(arrays["mode"]) == "none"
    expected = [Explanation(small[None], "bilinear").maps((12, 8))[0], large]
    np.testing.assert_array_equal(arrays["native"], torch.stack(expected).numpy())
    assert arrays["without_map"].tolist() == [[2, 0]]
    assert arrays["forward"].tolist() == [3, 4]


@pytest.mark.parametrize("method", ["gradcam", "decomcam", "center"])
def test_exported_maps_read_back_give_the_identical_table(stores, bench, tmp_path, method: str, capsys) -> None:
    kept, _, _, _, _, table, _ = stores
    row = table[table["method"] == method].iloc[0]
    out = tmp_path / "maps"
    assert main(["data", "export-maps", row["key"], "--results", str(kept), "--out", str(out)]) == 0
    assert f"{row['n_evaluated']:,} maps" in capsys.readouterr().out
    # What is exported are the maps at the model's input.
    metrics = ("metric=pointing,energy,maxboxacc,otsu_box", "metric.via=input")
    _, own = bench(kept, *RUN, f"method={method}", "rank=3", *metrics)
    _, again = bench(tmp_path / "again", *RUN, "method=files", f"maps.dir={out}", *metrics)
    numbers = [name for name in again.columns if name not in ("layer", "method", "rank", "key")]
    labels = {f"{name}[via=input]" for name in ("pointing", "energy", "otsu_box")}
    assert {*labels, "maxboxacc", "n_evaluated", "n_failed"} <= set(numbers)
    pd.testing.assert_frame_equal(again[numbers], own[numbers], check_exact=True)
    assert again["method"].iloc[0] == "files[dir=maps]"


def test_exported_maps_give_the_identical_model_metrics(bench, tmp_path) -> None:
    run = (*RUN, "limit=2")
    _, own = bench(tmp_path / "a", *run, "method=gradcam", "metric=deletion,average_drop", "save_maps=true")
    assert (
        main(
            ["data", "export-maps", own["key"].iloc[0], "--results", str(tmp_path / "a"), "--out", str(tmp_path / "m")]
        )
        == 0
    )
    _, again = bench(
        tmp_path / "b", *run, "method=files", f"method.dir={tmp_path / 'm'}", "metric=deletion,average_drop"
    )
    numbers = [name for name in own.columns if name not in ("layer", "method", "rank", "key")]
    pd.testing.assert_frame_equal(again[numbers], own[numbers], check_exact=True)


def test_maps_from_files_cannot_be_computed_again(bench, tmp_path) -> None:
    """Coherency asks for the map of the masked image, which no file holds: a failure, not a perfect score."""
    np.save(_first_file(tmp_path), np.random.default_rng(0).random((160, 160)))
    run = (*RUN, "method=files", f"maps.dir={tmp_path / 'maps'}", "metric=adcc")
    _, _ = bench(tmp_path / "store", *run)
    (frame,) = frames(tmp_path / "store").values()
    assert "no_remap" in set(frame["reason"])
    assert not (frame["status"] == "ok").any()


def test_the_key_follows_the_maps_not_their_place(tmp_path) -> None:
    keys = []
    for name, value in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "x__house.npy", np.full((3, 3), value))
        keys.append(make_plan(load_config([*RUN, "method=files", f"maps.dir={tmp_path / name}"])).cells[0].key)
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export-maps", "0123456789abcdef", "--out", "x"], "no cell 0123456789abcdef"),
        (["export-pairs", "dataset=nothing", "--out", "x"], "nothing"),
        (["export-pairs", "limit=1,2", "--out", "x"], "one data set"),
        (["export-pairs"], "--out"),
    ],
)
def test_wrong_words_are_one_line(words, message: str, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_export_of_maps_that_were_not_kept(bench, tmp_path, capsys) -> None:
    _, table = bench(tmp_path, *RUN, "limit=1", "method=gradcam", "metric=pointing")
    words = ["data", "export-maps", table["key"].iloc[0], "--results", str(tmp_path), "--out", str(tmp_path / "m")]
    assert main(words) == 2
    assert "run it with save_maps=true" in capsys.readouterr().err


def test_export_beside_other_maps_is_refused(stores, tmp_path, capsys) -> None:
    """A pair that has no map of its own would be scored with the one that lies there."""
    kept, _, _, _, _, table, _ = stores
    words = ["data", "export-maps", table["key"].iloc[0], "--results", str(kept), "--out", str(tmp_path)]
    assert main(words) == 0
    assert main(words) == 0
    np.save(tmp_path / "other__house.npy", np.ones((2, 2)))
    assert main(words) == 2
    assert "holds other maps already, such as other__house.npy" in capsys.readouterr().err


def test_the_list_of_pairs(tmp_path) -> None:
    assert main(["data", "export-pairs", "limit=5", "--out", str(tmp_path / "deep" / "pairs.csv")]) == 0
    with open(tmp_path / "deep" / "pairs.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    plan = make_plan(load_config([*RUN, "method=center"]))
    dataset = plan.groups[0].dataset
    expected = [
        (sample.image_id, str(target.class_id), target.class_name)
        for sample in map(dataset.sample, range(5))
        for target in sample.targets
    ]
    assert [(row["image_id"], row["class_id"], row["class_name"]) for row in rows] == expected
    assert all(row["file"].endswith(f"__{quote(row['class_name'])}.npy") for row in rows)
    assert all(row["class_name"] in row["text"] for row in rows)
    assert {(row["width"], row["height"]) for row in rows} == {
        (str(dataset.sample(0).width), str(dataset.sample(0).height))
    }
