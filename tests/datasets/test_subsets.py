"""Subsets against their definitions, counted another way."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from decomcam_bench.core.errors import ConfigError, DataError
from decomcam_bench.datasets.base import ArrayMask, Dataset, Sample, Target
from decomcam_bench.datasets.benchmarks.voc import VOC
from decomcam_bench.datasets.subsets import is_difficult_pair, is_single_object_pair, select
from decomcam_bench.datasets.toybox.dataset import ToyBox
from tests.datasets import layouts
from tests.datasets.test_bad_data import NAMES


def _ids(dataset: Dataset, limit: int | None = None) -> list[str]:
    return [dataset.image_id(index) for index in select(dataset, limit).indices]


def test_all_and_first() -> None:
    dataset = ToyBox(name="toybox", size=30)
    assert select(dataset).indices == tuple(range(30))
    first = select(dataset, 7)
    assert (first.indices, first.available) == (tuple(range(7)), 30)
    assert first.digest != select(dataset, 8).digest
    assert select(dataset, 30).digest == select(dataset).digest


def test_random_is_seeded_and_nested() -> None:
    ten = _ids(ToyBox(size=60, subset="random", subset_size=10))
    twenty = _ids(ToyBox(size=60, subset="random", subset_size=20))
    other = _ids(ToyBox(size=60, subset="random", subset_size=10, subset_seed=1))
    assert len(ten) == 10
    assert len(twenty) == 20
    assert set(ten) < set(twenty)
    assert set(ten) != set(other)
    assert ten == sorted(ten)
    assert len(_ids(ToyBox(size=60, subset="random", subset_size=60))) == 60
    with pytest.raises(ConfigError, match="only 60 images"):
        select(ToyBox(size=60, subset="random", subset_size=61))
    # a subset is the same on every machine: these ids are written down, not computed
    assert _ids(ToyBox(size=60, subset="random", subset_size=3)) == RANDOM_THREE


# the first three of: printf "0:test_%06d" N | sha256sum, sorted
RANDOM_THREE = ["test_000021", "test_000053", "test_000055"]


def test_random_draws_are_even() -> None:
    counts: Counter[str] = Counter()
    for seed in range(400):
        counts.update(_ids(ToyBox(size=20, subset="random", subset_size=5, subset_seed=seed)))
    assert sum(counts.values()) == 2000
    assert all(60 <= counts[f"test_{n:06d}"] <= 140 for n in range(20))  # 100 expected, 5 standard deviations


def test_balanced(tmp_path: Path) -> None:
    drawn = layouts.scenes(40, one_class=True)
    root = layouts.write_voc(tmp_path, drawn)
    available = Counter(scene.instances[0].class_id for scene in drawn.values())
    options = {"root": str(root), "year": 2012, "split": "val", "classes": NAMES, "subset": "balanced"}
    size = len(available)
    dataset = VOC(**options, subset_size=size)
    chosen = Counter(dataset.sample(i).targets[0].class_id for i in select(dataset).indices)
    assert chosen == dict.fromkeys(available, 1)
    dataset = VOC(**options, subset_size=2 * size)
    chosen = Counter(dataset.sample(i).targets[0].class_id for i in select(dataset).indices)
    spare = 2 * size - sum(min(2, count) for count in available.values())
    assert sum(chosen.values()) == 2 * size
    assert all(chosen[k] >= min(2, available[k]) for k in available)
    assert spare or set(chosen.values()) == {2}
    assert len(select(VOC(**options, subset_size=40)).indices) == 40


def test_ids_as_list_and_file(tmp_path: Path) -> None:
    wanted = ["test_000007", "test_000003"]
    file = tmp_path / "ids.txt"
    file.write_text("\ufeff# two scenes\ntest_000007\n\ntest_000003\ntest_000003\n", encoding="utf-8")
    listed, filed = ToyBox(size=20, ids=wanted), ToyBox(size=20, ids=str(file))
    assert _ids(listed) == _ids(filed) == sorted(wanted)
    assert select(listed).digest == select(filed).digest
    assert _ids(ToyBox(size=20, ids="test_000007")) == ["test_000007"]
    with pytest.raises(ConfigError, match=r"1 of 2 ids.*'test_000099'"):
        select(ToyBox(name="toybox", size=20, ids=["test_000001", "test_000099"]))
    with pytest.raises(DataError, match="cannot be read"):
        select(ToyBox(size=20, ids=str(tmp_path / "absent.txt")))
    with pytest.raises(ConfigError, match="no id"):
        select(ToyBox(size=20, ids=[]))


def test_they_compose_and_the_limit_is_last() -> None:
    ids = [f"test_{n:06d}" for n in range(0, 40, 2)]
    both = ToyBox(size=60, ids=ids, subset="random", subset_size=6)
    assert set(_ids(both)) < set(ids)
    assert _ids(both, 2) == _ids(both)[:2]
    assert select(both, 2).available == 6


def _sample(*targets: Target) -> Sample:
    return Sample("x", 100, 100, targets)


def _box(class_id: int, *boxes: tuple[float, ...], crowd: list[bool] | None = None) -> Target:
    return Target.of(class_id, str(class_id), boxes, crowd=crowd)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ([_box(0, (0, 0, 10, 10)), _box(1, (0, 0, 90, 90))], [True, False]),
        ([_box(0, (0, 0, 10, 10))], [False]),  # no distractor
        ([_box(0, (0, 0, 50, 50)), _box(1, (0, 0, 1, 1))], [False, True]),  # exactly a quarter is not under it
        ([_box(0, (0, 0, 49, 51)), _box(1, (0, 0, 1, 1))], [True, True]),
        ([_box(0, (0, 0, 40, 40), (50, 50, 90, 90)), _box(1, (0, 0, 1, 1))], [False, True]),  # all instances count
        ([_box(0, (0, 0, 40, 40), (0, 0, 40, 40)), _box(1, (0, 0, 1, 1))], [True, True]),  # once, not twice
    ],
)
def test_difficult(targets: list[Target], expected: list[bool]) -> None:
    sample = _sample(*targets)
    assert [is_difficult_pair(sample, target, "box") for target in targets] == expected


def test_difficult_by_mask() -> None:
    mask = np.zeros((100, 100), bool)
    mask[:10] = True
    target = Target.of(0, "a", [(0, 0, 100, 100)], masks=(ArrayMask(mask),))
    sample = _sample(target, _box(1, (0, 0, 5, 5)))
    assert is_difficult_pair(sample, target, "mask")
    assert not is_difficult_pair(sample, target, "box")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (_box(0, (0, 0, 70, 70)), True),
        (_box(0, (0, 0, 100, 50)), False),  # exactly half is not under it
        (_box(0, (0, 0, 10, 10), (20, 20, 30, 30)), False),
        (_box(0, (0, 0, 10, 10), crowd=[True]), False),
        (_box(0), False),
    ],
)
def test_single_object(target: Target, expected: bool) -> None:
    assert is_single_object_pair(_sample(target), target, "box") is expected


@pytest.mark.parametrize("kind", ["difficult", "single_object"])
def test_pairs_of_a_defined_subset(kind: str) -> None:
    dataset = ToyBox(name="toybox", size=25, subset=kind)
    selection = select(dataset)
    expected = {}
    for index in range(25):
        sample = dataset.sample(index)
        kept = []
        for target in sample.targets:
            union = np.logical_or.reduce([mask.decode() for mask in target.masks])
            single = len(target.masks) == 1 and np.prod(target.boxes[0, 2:] - target.boxes[0, :2]) < 160 * 160 / 2
            difficult = union.mean() < 0.25 and len(sample.targets) > 1
            if {"difficult": difficult, "single_object": single}[kind]:
                kept.append(target.class_id)
        if kept:
            expected[index] = kept
    found = {
        index: [t.class_id for t in dataset.sample(index).targets if selection.keeps(dataset.sample(index), t)]
        for index in selection.indices
    }
    assert found == expected
    assert selection.digest != select(ToyBox(name="toybox", size=25)).digest


def test_what_cannot_be_judged_stays(tmp_path: Path) -> None:
    root = layouts.write_voc(tmp_path, layouts.scenes(6))
    sorted((root / "VOC2012/Annotations").iterdir())[2].write_text("<broken")
    dataset = VOC(root=str(root), year=2012, split="val", classes=NAMES, subset="difficult")
    assert 2 in select(dataset).indices


def test_a_subset_without_an_image_is_refused(tmp_path: Path) -> None:
    drawn = layouts.scenes(2, one_class=True)
    root = layouts.write_voc(tmp_path, drawn)
    with pytest.raises(ConfigError, match="no image"):
        select(VOC(name="voc", root=str(root), year=2012, split="val", classes=NAMES, subset="difficult"))


@pytest.mark.parametrize(
    "options", [{"subset": "easy"}, {"subset": "random"}, {"subset": "balanced", "subset_size": 0}, {"subset_size": 5}]
)
def test_options(options: dict) -> None:
    with pytest.raises(ConfigError, match="subset"):
        ToyBox(**options)
