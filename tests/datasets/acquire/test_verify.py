"""``verify`` sees what is wrong, and says nothing where nothing is."""

from __future__ import annotations

import json
from pathlib import Path

from decomcam_bench.datasets.acquire.catalogue import CATALOGUE, Variant
from decomcam_bench.datasets.acquire.verify import verify
from decomcam_bench.datasets.benchmarks.coco import COCO
from decomcam_bench.datasets.benchmarks.voc import VOC
from decomcam_bench.datasets.toybox.dataset import ToyBox
from tests.datasets import layouts
from tests.datasets.test_bad_data import NAMES


def _voc(root: Path) -> VOC:
    return VOC(root=str(root), year=2012, split="val", classes=NAMES)


def test_sound(tmp_path: Path) -> None:
    drawn = layouts.scenes(5)
    root = layouts.write_voc(tmp_path, drawn)
    boxes = sum(len(scene.instances) for scene in drawn.values())
    report = verify(_voc(root), Variant({}, (), 5, 1, boxes))
    assert report.sound
    assert (report.images, report.boxes, report.lost) == (5, boxes, 0)
    assert report.pairs == sum(len({i.class_id for i in scene.instances}) for scene in drawn.values())
    assert any("(official: 5)" in line for line in report.lines())
    assert verify(ToyBox(size=4)).sound


def test_counts(tmp_path: Path) -> None:
    report = verify(_voc(layouts.write_voc(tmp_path, layouts.scenes(2))), CATALOGUE["voc"].variants["2012"])
    assert report.findings == {"counts": ["2 images, officially 5,823"]}


def test_findings(tmp_path: Path) -> None:
    root = layouts.write_voc(tmp_path, layouts.scenes(6))
    dataset = _voc(root)
    annotations = sorted((root / "VOC2012" / "Annotations").iterdir())
    annotations[0].write_text("<broken")
    annotations[1].write_text(layouts.voc_xml([("house", (30, 30, 20, 50))]))
    annotations[2].write_text(layouts.voc_xml([("house", (-5, 10, 200, 160))]))
    dataset.image_file(3).write_bytes(dataset.image_file(3).read_bytes()[:6000])  # the header is whole
    dataset.image_file(4).unlink()
    report = verify(_voc(root))
    assert {kind: len(found) for kind, found in report.findings.items()} == {
        "unusable samples": 1,
        "pairs lost": 1,
        "annotations mended or left out": 1,
        "unreadable images": 2,
    }
    assert not report.sound
    fast = verify(_voc(root), fast=True)
    assert len(fast.findings["unreadable images"]) == 1
    assert str(dataset.image_file(4)) in fast.findings["unreadable images"][0]


def test_fast_compares_sizes(tmp_path: Path) -> None:
    root = layouts.write_voc(tmp_path, layouts.scenes(2))
    file = sorted((root / "VOC2012" / "Annotations").iterdir())[0]
    file.write_text(file.read_text().replace("<width>160<", "<width>170<"))
    for fast in (True, False):
        assert "annotation says" in verify(_voc(root), fast=fast).findings["unreadable images"][0]


def test_orphans(tmp_path: Path) -> None:
    root = layouts.write_coco(tmp_path, layouts.scenes(2))
    file = root / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    content["annotations"].append({**content["annotations"][0], "id": 99, "image_id": 424242})
    file.write_text(json.dumps(content))
    report = verify(COCO(root=str(root)))
    assert "424242" in report.findings["annotations of no image"][0]


def test_long_lists_are_cut(tmp_path: Path) -> None:
    root = layouts.write_voc(tmp_path, layouts.scenes(12))
    for file in (root / "VOC2012" / "Annotations").iterdir():
        file.write_text("<broken")
    report = verify(_voc(root), fast=True)
    assert sum("malformed" in line for line in report.lines()) == 10
    assert any("and 2 more" in line for line in report.lines())
    assert sum("malformed" in line for line in report.lines(100)) == 12
