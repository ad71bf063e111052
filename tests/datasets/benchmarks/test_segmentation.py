"""Segmentation truth: VOC's class and instance masks, ImageNet-Segmentation, and void pixels that no metric counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from decomcam_bench.core.errors import DataError
from decomcam_bench.datasets.acquire.verify import verify
from decomcam_bench.datasets.base import ArrayMask, Target
from decomcam_bench.datasets.benchmarks.imagenet_seg import ImageNetSegmentation
from decomcam_bench.datasets.benchmarks.voc_seg import VOCSegmentation
from decomcam_bench.metrics.base import PairMap, Skip
from decomcam_bench.metrics.energy import Energy
from decomcam_bench.metrics.pointing import PointingGame
from decomcam_bench.metrics.pxap import PxAP, average_precision

WIDTH, HEIGHT = 50, 40


def _palette(file: Path, values: np.ndarray) -> None:
    picture = Image.fromarray(values.astype(np.uint8), mode="L").convert("P")
    picture.putdata(values.astype(np.uint8).ravel().tolist())
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file)


def _voc(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Two dogs (12), one of them next to a cat (8), and a void border."""
    classes, objects = np.zeros((HEIGHT, WIDTH), np.uint8), np.zeros((HEIGHT, WIDTH), np.uint8)
    for number, (value, rows, columns) in enumerate(
        ((12, slice(2, 12), slice(3, 13)), (8, slice(20, 30), slice(5, 20)), (12, slice(20, 35), slice(20, 40))),
        start=1,
    ):
        classes[rows, columns], objects[rows, columns] = value, number
    for picture in (classes, objects):
        picture[35:37, :] = 255
    folder = root / "VOC2012"
    _palette(folder / "SegmentationClass" / "a.png", classes)
    _palette(folder / "SegmentationObject" / "a.png", objects)
    (folder / "JPEGImages").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "JPEGImages" / "a.jpg")
    (folder / "ImageSets" / "Segmentation").mkdir(parents=True)
    (folder / "ImageSets" / "Segmentation" / "val.txt").write_text("a\n")
    return classes, objects


def test_voc_classes_and_instances(tmp_path: Path) -> None:
    classes, objects = _voc(tmp_path)
    dataset = VOCSegmentation(name="voc_seg", root=str(tmp_path))
    cat, dog = dataset.sample(0).targets
    assert (cat.class_name, dog.class_name) == ("cat", "dog")
    assert dog.boxes.tolist() == [[3, 2, 13, 12], [20, 20, 40, 35]]
    for mask, number in zip(dog.masks, (1, 3), strict=True):
        assert np.array_equal(mask.decode(), objects == number)
    assert np.array_equal(dog.object_mask(), classes == 12)
    assert np.array_equal(cat.ignored[0].decode(), classes == 255)
    whole = VOCSegmentation(name="voc_seg", root=str(tmp_path), instances=False).sample(0).targets[1]
    assert whole.boxes.tolist() == [[3, 2, 40, 35]]
    assert np.array_equal(whole.object_mask(), dog.object_mask())
    assert verify(dataset).sound
    with pytest.raises(DataError, match=r"dataset\.split=test: not in .*there: val"):
        VOCSegmentation(root=str(tmp_path), split="test")


def test_voc_pictures_that_cannot_be_read(tmp_path: Path) -> None:
    _voc(tmp_path)
    file = tmp_path / "VOC2012" / "SegmentationClass" / "a.png"
    _palette(file, np.full((HEIGHT, WIDTH), 30))
    (problem,) = VOCSegmentation(root=str(tmp_path)).sample(0).problems
    assert "the class id 30 has no name" in problem.reason
    file.write_bytes(file.read_bytes()[:60])
    assert str(file) in VOCSegmentation(root=str(tmp_path)).sample(0).error


def _mat(file: Path, entries: list[tuple[str, np.ndarray, np.ndarray]]) -> None:
    """MATLAB 7.3's form: columns of references, arrays with their axes in reverse, texts as codes."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(file, "w") as content:
        fields: dict[str, list[Any]] = {"img": [], "gt": [], "target": []}
        for number, (wnid, image, mask) in enumerate(entries):
            refs = content.create_group(f"#refs#/{number}")
            fields["img"].append(refs.create_dataset("img", data=image.transpose(2, 1, 0)).ref)
            inner = refs.create_dataset("mask", data=mask.astype(np.uint8).T).ref
            cell = refs.create_dataset("gt", (1, 1), dtype=h5py.ref_dtype)
            cell[0, 0] = inner
            fields["gt"].append(cell.ref)
            codes = np.array([[ord(letter)] for letter in wnid], np.uint16)
            fields["target"].append(refs.create_dataset("target", data=codes).ref)
        for name, references in fields.items():
            column = content.create_dataset(f"value/{name}", (len(references), 1), dtype=h5py.ref_dtype)
            for number, reference in enumerate(references):
                column[number, 0] = reference


def test_imagenet_segmentation(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8) for _ in range(3)]
    masks = [np.zeros((HEIGHT, WIDTH), bool) for _ in range(3)]
    masks[0][5:9, 10:20] = masks[1][0:40, 3:4] = True
    wnids = ["n02110063", "n01440764", "n00005787"]
    _mat(tmp_path / "gtsegs_ijcv.mat", list(zip(wnids, images, masks, strict=True)))
    dataset = ImageNetSegmentation(name="imagenet_seg", root=str(tmp_path))
    assert list(dataset.class_names) == ["benthos", "tench", "Alaskan Malamute"]
    assert list(dataset.worded("wnid")) == sorted(wnids)
    for index in range(3):
        sample = dataset.sample(index)
        assert np.array_equal(dataset.load_image(index), images[index])
        assert np.array_equal(sample.targets[0].object_mask(), masks[index])
        assert (sample.width, sample.height) == (WIDTH, HEIGHT)
    assert dataset.sample(0).targets[0].boxes.tolist() == [[10, 5, 20, 9]]
    assert dataset.image_id(2) == "0002_n00005787"
    assert "the mask has no pixel" in verify(dataset).findings["masks without a pixel"][0]
    (tmp_path / "gtsegs_ijcv.mat").write_bytes(b"no HDF5")
    with pytest.raises(DataError, match=r"not a MATLAB 7\.3 file"):
        ImageNetSegmentation(root=str(tmp_path))


def _pair(ignored: bool) -> PairMap:
    rng = np.random.default_rng(3)
    saliency = rng.random((HEIGHT, WIDTH)).astype(np.float32)
    saliency[0, 0] = 9  # the maximum lies on a void pixel
    mask, void = np.zeros((HEIGHT, WIDTH), bool), np.zeros((HEIGHT, WIDTH), bool)
    mask[10:30, 10:30], void[:15, :] = True, True
    target = Target.of(
        0, "cat", [(10, 10, 30, 30)], masks=(ArrayMask(mask),), ignored=(ArrayMask(void),) if ignored else ()
    )
    return PairMap(saliency, lambda array: array, target, WIDTH, HEIGHT)


@pytest.mark.parametrize("region", ["box", "mask"])
def test_void_pixels_count_in_no_metric(region: str) -> None:
    pair, plain = _pair(True), _pair(False)
    known = np.arange(HEIGHT)[:, None] >= 15
    inside = plain.box_region & known
    values = pair.saliency.astype(np.float64) * known
    energy = Energy(region=region).evaluate(pair)
    assert energy["energy"] == pytest.approx(values[inside].sum() / values.sum())
    point = PointingGame(region=region, tolerance=0).evaluate(pair)
    y, x = np.unravel_index(int(values.argmax()), values.shape)
    assert (point["x"], point["y"], point["hit"]) == (x, y, inside[y, x])
    assert PointingGame(region=region).evaluate(plain)["x"] == 0
    histograms = PxAP(region=region, size=None).evaluate(pair)
    assert histograms["object"].sum() == inside.sum()
    assert (histograms["object"] + histograms["background"]).sum() == known.sum() * WIDTH
    assert 0 < average_precision(histograms["object"][None], histograms["background"][None])[0] < 1


def test_an_object_of_void_pixels_alone_is_skipped() -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:5, :5] = True
    target = Target.of(0, "cat", [(0, 0, 5, 5)], masks=(ArrayMask(mask),), ignored=(ArrayMask(mask),))
    pair = PairMap(np.ones((HEIGHT, WIDTH), np.float32), lambda array: array, target, WIDTH, HEIGHT)
    for metric in (Energy(region="mask"), PointingGame(region="box"), PxAP(region="mask", size=None)):
        outcome = metric.evaluate(pair)
        assert isinstance(outcome, Skip)
        assert "only_ignored" in str(outcome.reason)
