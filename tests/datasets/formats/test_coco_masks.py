"""Masks against pycocotools itself, on real and on adversarial segmentations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from decomcam_bench.datasets.formats.coco_masks import UnionMask, coco_mask, decode_counts

HEIGHT, WIDTH = 37, 53


def annotation_mask(segmentation, height=HEIGHT, width=WIDTH):
    """What ``COCO.annToMask`` does, written from its documentation."""
    if isinstance(segmentation, list):
        return coco.decode(coco.merge(coco.frPyObjects(segmentation, height, width))).astype(bool)
    if isinstance(segmentation["counts"], list):
        segmentation = coco.frPyObjects(segmentation, height, width)
    return coco.decode(segmentation).astype(bool)


numbers = st.floats(-200, 300, allow_nan=False) | st.integers(-60, 90)
polygon = st.lists(numbers, min_size=6, max_size=17)


@settings(max_examples=150, deadline=None)
@given(st.lists(polygon, min_size=1, max_size=4))
def test_polygons_equal_pycocotools(polygons) -> None:
    mask = coco_mask(polygons, HEIGHT, WIDTH)
    expected = annotation_mask(polygons)
    assert np.array_equal(mask.decode(), expected)
    assert int(mask.decode().sum()) == int(coco.area(mask.rle()))


@pytest.mark.parametrize(
    "polygons",
    [
        [[1, 1, 30, 1, 30, 30, 1, 30]],
        [[-50, -50, 400, -50, 400, 400, -50, 400]],  # larger than the image
        [[1, 1, 30, 30, 1, 30, 30, 1]],  # crosses itself
        [[5, 5, 5, 5, 5, 5]],  # a point
        [[5, 5, 30, 5, 5, 5]],  # a line
        [[1, 1, 30, 1, 30, 30, 1]],  # odd number of coordinates
        [[1, 1, 20, 1, 20, 20], [2, 2, 4]],  # a later piece that is too short
        [[1, 1, 20, 1, 20, 20], [10, 10, 40, 10, 40, 30]],  # overlapping pieces
        [[0.5, 0.5, 52.49, 0.5, 52.49, 36.49, 0.5, 36.49]],
    ],
)
def test_adversarial_polygons_equal_pycocotools(polygons) -> None:
    assert np.array_equal(coco_mask(polygons, HEIGHT, WIDTH).decode(), annotation_mask(polygons))


@pytest.mark.parametrize(
    "segmentation",
    [
        [],
        [[]],
        [[1, 1, 5, 5]],  # read as a box by old, refused by new versions of pycocotools
        [[1, 1, 5, 5], [1, 1, 8, 1, 8, 8]],
        [[1, 1]],
        [1, 2, 3, 4, 5, 6],
        [["a"] * 6],
        [["1", "1", "8", "1", "8", "8"]],
        [[10**400, 0, 1, 1, 2, 2]],
        [[1, 1, None, 1, 8, 8]],
        [[1, 1, float("nan"), 1, 8, 8]],
        [[1, 1, float("inf"), 1, 8, 8]],
        [[1, 1, 1e12, 1, 8, 8]],
        [[[1, 1], [8, 1], [8, 8]]],
        None,
        "abc",
        7,
        {},
        {"counts": [HEIGHT * WIDTH]},
        {"size": [HEIGHT, WIDTH]},
        {"size": [WIDTH, HEIGHT], "counts": [HEIGHT * WIDTH]},  # sides exchanged
        {"size": [10, 10], "counts": [100]},
        {"size": [HEIGHT, WIDTH], "counts": [4, 4]},  # too short
        {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH, 5]},  # too long
        {"size": [HEIGHT, WIDTH], "counts": []},
        {"size": [HEIGHT, WIDTH], "counts": ""},
        {"size": [HEIGHT, WIDTH], "counts": [-5, HEIGHT * WIDTH + 5]},
        {"size": [HEIGHT, WIDTH], "counts": [1.5, HEIGHT * WIDTH - 1.5]},
        {"size": [HEIGHT, WIDTH], "counts": "xx"},
        {"size": [HEIGHT, WIDTH], "counts": "\u00e9\u00e9"},
    ],
)
def test_what_breaks_is_refused(segmentation) -> None:
    with pytest.raises(ValueError, match=r"polygon|run-length|segmentation"):
        coco_mask(segmentation, HEIGHT, WIDTH)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.99))
def test_both_run_length_codes_equal_pycocotools(seed, share) -> None:
    array = np.random.default_rng(seed).random((HEIGHT, WIDTH)) < share
    code = coco.encode(np.asfortranarray(array.astype(np.uint8)))
    flat = array.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    runs = [0, *runs] if flat[0] else runs
    assert decode_counts(code["counts"]) == runs
    for counts in (code["counts"], code["counts"].decode(), runs):
        mask = coco_mask({"size": [HEIGHT, WIDTH], "counts": counts}, HEIGHT, WIDTH)
        assert np.array_equal(mask.decode(), array)


def test_union() -> None:
    pieces = [[[1, 1, 20, 1, 20, 20]], [[10, 10, 40, 10, 40, 30]]]
    masks = tuple(coco_mask(piece, HEIGHT, WIDTH) for piece in pieces)
    assert np.array_equal(UnionMask(masks).decode(), masks[0].decode() | masks[1].decode())
