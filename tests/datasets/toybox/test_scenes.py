"""toybox's scenes: the same bits everywhere, exact masks, streams that do not meet."""

import hashlib

import numpy as np
import pytest

from decomcam_bench.datasets.toybox.scenes import CLASS_NAMES, OBJECTS, draw_scene


def checksum(split):
    digest = hashlib.sha256()
    for index in range(3):
        scene = draw_scene(split, index)
        digest.update(scene.image.tobytes())
        for instance in scene.instances:
            digest.update(bytes([instance.class_id]) + np.packbits(instance.mask).tobytes())
            for name, mask in sorted(instance.parts.items()):
                digest.update(name.encode() + np.packbits(mask).tobytes())
    return digest.hexdigest()[:16]


@pytest.mark.parametrize(
    ("split", "expected"), [("train", "719ccd0b7886c338"), ("val", "8c99f6842edd6754"), ("test", "4aae2cf8b875009d")]
)
def test_scenes_are_the_same_on_every_machine(split, expected):
    assert checksum(split) == expected


def test_masks_parts_and_boxes_agree():
    for index in range(20):
        scene = draw_scene("test", index)
        assert scene.image.shape == (160, 160, 3)
        assert 1 <= len(scene.instances) <= 3
        seen = np.zeros((160, 160), dtype=int)
        for instance in scene.instances:
            assert set(instance.parts) <= {part.name for part in OBJECTS[instance.class_id].parts}
            np.testing.assert_array_equal(sum(mask.astype(int) for mask in instance.parts.values()), instance.mask)
            x0, y0, x1, y1 = instance.box
            inside = np.zeros_like(instance.mask)
            inside[y0:y1, x0:x1] = True
            assert not (instance.mask & ~inside).any()
            for edge in (
                instance.mask[y0, :],
                instance.mask[y1 - 1, :],
                instance.mask[:, x0],
                instance.mask[:, x1 - 1],
            ):
                assert edge.any()
            seen += instance.mask
        assert seen.max() <= 1


def test_streams_do_not_overlap():
    images = [draw_scene(split, index).image.tobytes() for split in ("train", "val", "test") for index in range(5)]
    assert len(set(images)) == len(images)


def test_there_are_at_least_twelve_classes_of_two_to_four_parts():
    assert len(set(CLASS_NAMES)) >= 12
    assert all(2 <= len({part.name for part in drawing.parts}) <= 4 for drawing in OBJECTS)


def test_a_scene_can_be_drawn_at_other_sizes():
    assert draw_scene("val", 0, 96).image.shape == (96, 96, 3)
