"""toybox as a data set."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.datasets.toybox.dataset import ToyBox
from decomcam_bench.datasets.toybox.scenes import OBJECTS, draw_scene


def test_samples_are_the_scenes() -> None:
    dataset = ToyBox(name="toybox", split="val", size=12)
    assert len(dataset) == 12
    for index in range(12):
        scene, sample = draw_scene("val", index), dataset.sample(index)
        assert sample.image_id == dataset.image_id(index) == f"val_{index:06d}"
        assert np.array_equal(dataset.load_image(index), scene.image)
        assert [t.class_id for t in sample.targets] == sorted({i.class_id for i in scene.instances})
        for target in sample.targets:
            own = [i for i in scene.instances if i.class_id == target.class_id]
            assert target.boxes.tolist() == [list(i.box) for i in own]
            union = np.logical_or.reduce([part.mask.decode() for part in target.parts if part.mask])
            assert np.array_equal(union, target.object_mask())
            assert {part.name for part in target.parts} <= {part.name for part in OBJECTS[target.class_id].parts}


def test_the_image_is_the_callers_own() -> None:
    dataset = ToyBox(size=2)
    dataset.load_image(0)[:] = 0
    assert dataset.load_image(0).any()


def test_fingerprint_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("decomcam_bench.datasets.toybox.dataset.draw_scene", None)
    assert ToyBox(size=10**6).fingerprint != ToyBox(size=10**6 + 1).fingerprint
    assert ToyBox(size=5).fingerprint == ToyBox(size=5).fingerprint
    assert ToyBox(size=5).fingerprint != ToyBox(size=5, split="val").fingerprint


def test_pickles_small() -> None:
    assert len(pickle.dumps(ToyBox())) < 2000


def test_bounds() -> None:
    with pytest.raises(IndexError):
        ToyBox(size=3).sample(3)
    with pytest.raises(ConfigError, match="did you mean 'test'"):
        ToyBox(split="tset")
    with pytest.raises(ConfigError, match="at least 1"):
        ToyBox(size=0)
