"""Imagenette: which photographs have boxes, and where these lie in copies of another size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import Imagenette as Official

from decomcam_bench.config import registry
from decomcam_bench.core.errors import ConfigError, DataError, UserError
from decomcam_bench.datasets.acquire.catalogue import CATALOGUE, variant_of
from decomcam_bench.datasets.acquire.verify import verify
from decomcam_bench.datasets.benchmarks.imagenet import ImageNet
from decomcam_bench.datasets.benchmarks.imagenette import CLASSES, FOLDERS, Imagenette, boxed

SAMPLES = Path(__file__).resolve().parents[4] / "shared" / "samples" / "imagenette"
FIRST = "ILSVRC2012_val_00000293"  # 500 x 375, boxes 175 184 499 341 and 236 129 498 280


def save(file: Path, width: int, height: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(file, format="JPEG")


def official(root: Path, size: str = "160px", missing: int = 0) -> Path:
    """Write the official folders: photographs with boxes in both splits, and one of each split without."""
    home = root / FOLDERS[size]
    for number, (stem, line) in enumerate(boxed().items()):
        if number >= missing:
            save(home / ("train", "val")[number % 2] / line.wnid / f"{stem}.JPEG", 213, 160)
    save(home / "train" / "n01440764" / "n01440764_10026.JPEG", 213, 160)
    save(home / "val" / "n03888257" / "n03888257_9.JPEG", 213, 160)
    return root


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return official(tmp_path_factory.mktemp("imagenette"))


def test_the_table_holds_fifty_photographs_per_class():
    wnids = [line.wnid for line in boxed().values()]
    assert {wnid: wnids.count(wnid) for wnid in CLASSES} == dict.fromkeys(CLASSES, 50)
    assert sum(len(line.boxes) for line in boxed().values()) == 813
    for line in boxed().values():
        for x0, y0, x1, y1 in line.boxes:
            assert 0 <= x0 < x1 <= line.width
            assert 0 <= y0 < y1 <= line.height


def test_addresses_and_checksums_are_those_of_torchvision():
    ours = {size: v.archives[0] for size, v in CATALOGUE["imagenette"].variants.items()}
    assert {size: (one.url, one.checksum) for size, one in ours.items()} == {
        size: (url, f"md5:{checksum}") for size, (url, checksum) in Official._ARCHIVES.items()
    }
    assert list(CLASSES) == list(Official._WNID_TO_CLASS)
    assert list(CLASSES.values()) == [names[0] for names in Official._WNID_TO_CLASS.values()]


def test_boxed_takes_the_five_hundred_of_both_splits(tree):
    dataset = Imagenette(root=str(tree))
    assert (len(dataset), dataset.size) == (500, "160px")
    samples = [dataset.sample(index) for index in range(500)]
    assert not any(sample.error or sample.problems for sample in samples)
    assert [sample.image_id for sample in samples] == sorted(boxed())
    report = verify(dataset, variant_of(dataset), fast=True)
    assert report.sound, report.findings
    assert (report.images, report.boxes) == (500, 813)


def test_boxes_are_scaled_to_the_copy_at_hand(tmp_path):
    for width, height in ((500, 375), (213, 160), (224, 224)):
        root = tmp_path / f"{width}"
        save(root / "n01440764" / f"{FIRST}.JPEG", width, height)
        dataset = Imagenette(root=str(root))
        (target,) = dataset.sample(0).targets
        scale = np.array([width / 500, height / 375] * 2)
        assert np.allclose(target.boxes, np.array([[175, 184, 500, 342], [236, 129, 499, 281]]) * scale)
        assert target.class_name == "tench"
        assert dataset.size is None


def test_other_splits_have_no_boxes(tree):
    for split, more in (("train", "n01440764_10026"), ("val", "n03888257_9")):
        dataset = Imagenette(root=str(tree), split=split)
        ids = [dataset.image_id(index) for index in range(len(dataset))]
        assert len(ids) == 251
        assert more in ids
        assert dataset.available == frozenset()
        assert all(not len(dataset.sample(index).targets[0].boxes) for index in range(5))


def test_names_in_three_wordings(tree):
    sets = {names: Imagenette(root=str(tree), names=names) for names in ("clip", "own", "wnid")}
    first = {names: dataset.prompts.texts(dataset)[1] for names, dataset in sets.items()}
    assert first == {
        "clip": ["a photo of a English Springer Spaniel."],
        "own": ["a photo of a English springer."],
        "wnid": ["a photo of a n02102040."],
    }


def test_missing_photographs_of_an_official_folder_are_told(tmp_path):
    dataset = Imagenette(root=str(official(tmp_path, missing=2)))
    assert len(dataset) == 500
    assert "no such photograph in train or val" in dataset.sample(0).error
    assert not verify(dataset, variant_of(dataset), fast=True).sound


def test_a_photograph_in_the_folder_of_another_class_is_a_lost_pair(tmp_path):
    save(tmp_path / "n03888257" / f"{FIRST}.JPEG", 500, 375)
    sample = Imagenette(root=str(tmp_path)).sample(0)
    (problem,) = sample.lost
    assert problem.reason == "the image lies in the folder of n03888257, but is a n01440764"
    assert not sample.targets


@pytest.mark.parametrize(("size", "folder"), FOLDERS.items())
def test_each_size_is_found_by_its_folder(tmp_path, size, folder):
    for name in FOLDERS.values():
        save(tmp_path / name / "val" / "n01440764" / f"{FIRST}.JPEG", 500, 375)
    dataset = Imagenette(root=str(tmp_path), size=size)
    assert f"/{folder}/" in str(dataset.image_file(0))
    assert dataset.identity["size"] == size
    inside = Imagenette(root=str(tmp_path / folder))
    assert inside.identity == dataset.identity


def test_bad_settings_are_one_line(tmp_path):
    with pytest.raises(DataError, match=r"imagenette: no photographs .* data prepare imagenette --root DIR"):
        Imagenette(root=str(tmp_path))
    with pytest.raises(ConfigError, match=r"dataset.split=test: .*boxed, val, train"):
        Imagenette(root=str(tmp_path), split="test")
    with pytest.raises(ConfigError, match=r"dataset.subset=boxed: this is a split, dataset.split=boxed"):
        Imagenette(root=str(tmp_path), subset="boxed")
    with pytest.raises(UserError, match=r"160px, 320px, full"):
        registry.build("dataset", {**registry.read("dataset", "imagenette"), "root": str(tmp_path), "size": "200px"})


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="no folder shared/samples beside the repository")
def test_boxes_of_real_squashed_copies_equal_those_that_lie_beside_them():
    ours, theirs = Imagenette(root=str(SAMPLES)), ImageNet(root=str(SAMPLES))
    reference = {sample.image_id: sample for sample in (theirs.sample(index) for index in range(len(theirs)))}
    assert len(ours) == len(theirs) == 250
    for index in range(len(ours)):
        sample = ours.sample(index)
        expected = reference[sample.image_id].targets[0].boxes
        assert np.abs(sample.targets[0].boxes - expected).max() <= 1.01
