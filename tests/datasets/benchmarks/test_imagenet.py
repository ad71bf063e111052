"""ImageNet as it is to be had: Hugging Face's names, Kaggle's table, synset folders without boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from decomcam_bench.core.errors import DataError
from decomcam_bench.datasets.acquire.verify import verify
from decomcam_bench.datasets.benchmarks.imagenet import ImageNet
from decomcam_bench.datasets.benchmarks.imagenet_wnids import WNIDS
from tests.datasets import layouts

COUNT = 4


def _read(dataset: ImageNet) -> dict[str, Any]:
    samples = [dataset.sample(index) for index in range(len(dataset))]
    assert not [s for s in samples if s.error or s.problems]
    for index in range(len(dataset)):
        dataset.load_image(index)
    return {s.image_id: (s.targets[0].class_id, s.targets[0].boxes.tolist()) for s in samples}


def _official(root: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """A copy with wsolevaluation's boxes, what it holds, and the class of each image."""
    drawn = layouts.scenes(COUNT, one_class=True)
    layouts.write_imagenet(root, drawn)
    names = (f"ILSVRC2012_val_{number:08d}" for number in drawn)
    wnids = dict(zip(names, (WNIDS[scene.instances[0].class_id] for scene in drawn.values()), strict=True))
    return _read(ImageNet(name="imagenet", root=str(root))), wnids


def test_hugging_face_names(tmp_path: Path) -> None:
    expected, wnids = _official(tmp_path)
    for file in sorted((tmp_path / "ILSVRC2012_img_val").iterdir()):
        file.rename(file.with_name(f"{file.stem}_{wnids[file.stem]}.JPEG"))
    assert _read(ImageNet(name="imagenet", root=str(tmp_path))) == expected
    (tmp_path / "wsol_metadata").rename(tmp_path.parent / "aside")
    alone = ImageNet(name="imagenet", root=str(tmp_path))
    assert _read(alone) == {name: (label, []) for name, (label, _) in expected.items()}
    assert alone.available == frozenset()
    assert alone.identity["boxes"] == "none"


def test_kaggles_table(tmp_path: Path) -> None:
    expected, wnids = _official(tmp_path)
    (tmp_path / "wsol_metadata").rename(tmp_path.parent / "away")
    lines = ["ImageId,PredictionString"]
    for name, (_, boxes) in expected.items():
        words = [f"{wnids[name]} {x0:.0f} {y0:.0f} {x1 - 1:.0f} {y1 - 1:.0f} " for x0, y0, x1, y1 in boxes]
        lines.append(f"{name},{''.join(words)}")
    (tmp_path / "LOC_val_solution.csv").write_text("\n".join(lines))
    dataset = ImageNet(name="imagenet", root=str(tmp_path))
    assert _read(dataset) == expected
    assert dataset.identity["boxes"] == "solution"
    assert verify(dataset).sound
    (tmp_path / "LOC_val_solution.csv").write_text("\n".join([*lines[:2], lines[2].replace(" ", " x", 1), *lines[3:]]))
    assert "is not four numbers" in str(ImageNet(root=str(tmp_path)).sample(1).problems)
    (tmp_path / "LOC_val_solution.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="needs the columns ImageId and PredictionString"):
        ImageNet(root=str(tmp_path))


def test_synset_folders_without_boxes(tmp_path: Path, bench: Any) -> None:
    drawn = layouts.scenes(COUNT, one_class=True)
    layouts.write_imagenet(tmp_path, drawn, folders=True)
    expected = _read(ImageNet(name="imagenet", root=str(tmp_path)))
    (tmp_path / "wsol_metadata").rename(tmp_path.parent / "gone")
    found = _read(ImageNet(name="imagenet", root=str(tmp_path)))
    assert found == {name: (label, []) for name, (label, _) in expected.items()}
    words = ["dataset=imagenet", f"dataset.root={tmp_path}", "model=toyclip", "method=center", "metric=efficiency"]
    _, table = bench(tmp_path / "store", *words, "limit=2")
    assert table["n_evaluated"].iloc[0] == 2
    with pytest.raises(DataError, match=r"no boxes \(ILSVRC2012_bbox_val_v3"):
        ImageNet(root=str(tmp_path), boxes="xml")


def test_flat_images_without_labels_are_refused(tmp_path: Path) -> None:
    _official(tmp_path)
    (tmp_path / "wsol_metadata").rename(tmp_path.parent / "lost")
    with pytest.raises(DataError, match=r"or LOC_val_solution\.csv\) under"):
        ImageNet(root=str(tmp_path))
