"""A trained model through every adapter: the same scenes give the same numbers as through toybox."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from decomcam_bench.cli import main
from decomcam_bench.core.errors import StrictError
from decomcam_bench.datasets.toybox.scenes import CLASS_NAMES
from decomcam_bench.tables.tables import load_records
from tests.datasets import layouts

CLASSES = f"dataset.classes=[{','.join(CLASS_NAMES)}]"
CASES = {
    "voc": (layouts.write_voc, {}, "box", ["dataset.year=2012", "dataset.split=val", CLASSES]),
    "coco": (layouts.write_coco, {}, "mask", []),
    "imagenet": (layouts.write_imagenet, {"one_class": True}, "box", [CLASSES]),
    "imagenetv2": (layouts.write_imagenetv2, {"one_class": True}, "box", [CLASSES]),
    "partimagenet": (layouts.write_partimagenet, {"one_object": True}, "mask", []),
    "cub": (layouts.write_cub, {"one_class": True, "one_object": True}, "box", ["dataset.templates=photo"]),
}


def _run(tmp_path: Path, region: str, *words: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Numbers and counts of one run of Grad-CAM, from the table of its own store."""
    common = ["model=toyclip", "method=gradcam", "metric=pointing_exact,energy", f"metric.region={region}", "workers=0"]
    store = str(tmp_path / words[0].removeprefix("dataset="))
    assert main(["run", *words, *common, f"results={store}"]) == 0
    capsys.readouterr()
    assert main(["table", "--results", store, "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    counts = {key: row[key] for key in ("n_expected", "n_evaluated", "n_skipped", "n_failed", "reasons")}
    return {**counts, **{key: value for metric in row["metrics"].values() for key, value in metric["values"].items()}}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_same_numbers_as_toybox(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    write, kinds, region, options = CASES[name]
    drawn = layouts.scenes(5, **kinds)
    root = write(tmp_path / "data", drawn)
    ids = f"dataset.ids=[{','.join(f'test_{number:06d}' for number in drawn)}]"
    ours = _run(tmp_path, region, f"dataset={name}", f"dataset.root={root}", *options, capsys=capsys)
    reference = _run(tmp_path, region, "dataset=toybox", ids, capsys=capsys)
    # Images come in another order, and a sum of floats knows its order in the last bit.
    assert ours.keys() == reference.keys()
    for key, expected in reference.items():
        exact = not isinstance(expected, float)
        assert ours[key] == (expected if exact else pytest.approx(expected, rel=1e-12)), key
    assert ours["n_evaluated"] >= 4


def test_annotations_left_out_are_counted_and_strict_stops_at_them(
    tmp_path: Path, bench: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    root = layouts.write_coco(tmp_path / "data", layouts.scenes(3))
    file = root / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    second = {**content["annotations"][0], "id": 900, "bbox": [5.0, 5.0, -3.0, 2.0], "segmentation": []}
    content["annotations"] += [{**second, "id": 901, "image_id": 777_777}, second]
    file.write_text(json.dumps(content))
    run = ["dataset=coco", f"dataset.root={root}", "model=toyclip", "method=random", "metric=pointing_exact"]
    result, table = bench(tmp_path / "store", *run)
    assert len(result.unusable) == 2
    assert "777777" in result.unusable[0]
    assert table["n_failed"].iloc[0] == 0
    assert table["n_evaluated"].iloc[0] == table["n_expected"].iloc[0]
    again, _ = bench(tmp_path / "store", *run)
    assert (again.computed_images, again.unusable) == (0, result.unusable)
    for strict in ("777777", "annotation 900"):
        with pytest.raises(StrictError, match=f"{strict}.*strict=true"):
            bench(tmp_path / strict, *run, "strict=true")
        content["annotations"] = [a for a in content["annotations"] if a["id"] != 901]
        file.write_text(json.dumps(content))
    assert main(["run", *run, f"results={tmp_path / 'other'}", "workers=0"]) == 0
    assert "1 unusable annotation left out (data verify lists them), first: " in capsys.readouterr().err


def test_a_thousand_reasons_are_not_a_thousand_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = layouts.write_voc(tmp_path, layouts.scenes(16))
    for file in sorted((root / "VOC2012" / "Annotations").iterdir())[1:]:
        file.unlink()
    words = ["run", "dataset=voc", f"dataset.root={root}", *CASES["voc"][3], "model=toyclip", "method=random"]
    assert main([*words, "metric=energy", "workers=0", f"results={tmp_path / 'store'}"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if line.startswith("1 pair failed: ")]) == 10
    assert "5 more failed, for 5 other reasons; `table --format json` gives them all" in lines


def _cut_mask(root: Path) -> str:
    """Cuts the first mask file of a VOC tree; the name of its image."""
    file = min((root / "VOC2012" / "SegmentationObject").glob("*.png"))
    file.write_bytes(file.read_bytes()[:-40])
    return file.stem


def _masked_voc(root: Path) -> list[str]:
    return [
        *("dataset=voc", f"dataset.root={root}", "dataset.year=2012", "dataset.split=val", CLASSES),
        *("dataset.masks=true", "model=toyclip", "metric.region=mask"),
    ]


def test_a_mask_that_cannot_be_decoded_fails_its_pairs_of_the_oracle_alone(tmp_path: Path, bench: Any) -> None:
    lines = ["image,class,x0,y0,x1,y1,mask"]
    for number, scene in layouts.scenes(2).items():
        layouts.save(tmp_path / "data" / f"{number}.png", scene.image)
        layouts.save(tmp_path / "data" / f"mask{number}.png", scene.instances[0].mask)
        lines.append(f"{number}.png,house,10,10,60,60,mask{number}.png")
    (tmp_path / "data" / "annotations.csv").write_text("\n".join(lines))
    mask = tmp_path / "data" / "mask0.png"
    mask.write_bytes(mask.read_bytes()[:-40])
    run = ["dataset=custom", f"dataset.root={tmp_path / 'data'}", "dataset.use=mask", "model=toyclip"]
    result, table = bench(tmp_path / "store", *run, "method=oracle,random", "metric=energy")
    for key, method, failed in zip(table["key"], table["method"], table["n_failed"], strict=True):
        assert failed == (method == "oracle")
        for metric in ("energy", *([None] if method == "oracle" else [])):
            records = load_records(tmp_path / "store", key, metric)
            assert list(records["status"]) == ["failed", "ok"]
            assert records["reason"][0] == "bad_mask"
            assert records["detail"][0].startswith(str(mask))
    assert list(result.new_failures.values()) == [1]


def test_a_mask_that_cannot_be_decoded_is_told_once_a_pair_and_strict_stops_at_it(tmp_path: Path, bench: Any) -> None:
    root = layouts.write_voc(tmp_path / "data", layouts.scenes(3))
    picture = root / "VOC2012" / "SegmentationObject"
    whole = {file: file.read_bytes() for file in picture.iterdir()}
    image = _cut_mask(root)
    run = [*_masked_voc(root), "method=center,random", "metric=energy,pointing_exact"]
    result, table = bench(tmp_path / "store", *run)
    records = load_records(tmp_path / "store", table["key"].iloc[0], "energy")
    assert sum(result.new_failures.values()) == int((records["status"] == "failed").sum()) > 0
    assert all(reason.startswith("bad_mask: ") and f"{image}.png" in reason for reason in result.new_failures)
    with pytest.raises(StrictError, match=rf"{image}, .*: bad_mask: .*{image}.png"):
        bench(tmp_path / "strict", *run, "strict=true")
    with pytest.raises(StrictError, match=f"bad_mask: .*{image}.png"):
        bench(tmp_path / "store", *run, "strict=true")
    for file, content in whole.items():
        file.write_bytes(content)
    bench(tmp_path / "store", *run, "strict=true")


def test_strict_stops_at_masks_that_kept_maps_are_judged_by(tmp_path: Path, bench: Any) -> None:
    root = layouts.write_voc(tmp_path / "data", layouts.scenes(3))
    image = _cut_mask(root)
    run = [*_masked_voc(root), "method=center", "strict=true", "save_maps=true"]
    bench(tmp_path / "store", *run, "metric=energy", "metric.region=box")
    with pytest.raises(StrictError, match=f"bad_mask: .*{image}.png"):
        bench(tmp_path / "store", *run, "metric=energy")


@pytest.mark.parametrize("readable", [True, False])
def test_the_pairs_of_a_subset_do_not_depend_on_whether_an_image_can_be_read(
    tmp_path: Path, bench: Any, readable: bool
) -> None:
    root = layouts.write_voc(tmp_path / "data", layouts.scenes(2))
    folder = root / "VOC2012"
    objects = [("house", (1, 1, 150, 150)), ("tree", (10, 10, 30, 30))]
    for file in (folder / "Annotations").iterdir():
        file.write_text(layouts.voc_xml(objects))
    bad = folder / "Annotations" / "000000.xml"
    bad.write_text(layouts.voc_xml([*objects, ("car", (30, 30, 20, 20))]))
    if not readable:
        for file in (folder / "JPEGImages").iterdir():
            file.write_bytes(b"")
    run = [*_masked_voc(root)[:5], "model=toyclip", "method=center", "metric=energy", "dataset.subset=difficult"]
    _, table = bench(tmp_path / "store", *run)
    assert int(table["n_expected"].iloc[0]) == 3
    assert int(table["n_failed"].iloc[0]) == (1 if readable else 3)
