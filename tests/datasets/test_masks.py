"""Mask files in the forms that people save them in: the same disc in all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from decomcam_bench.datasets.masks import ImageMask, ValueMask, mask_size, read_labels

Y, X = np.mgrid[:120, :160]
DISC = (X - 70) ** 2 + (Y - 60) ** 2 < 900
GREY = np.where(DISC, 255, 0).astype(np.uint8)
PHOTO = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)


def _palette(indices: np.ndarray, colours: list[int]) -> Image.Image:
    picture = Image.fromarray(indices.astype(np.uint8), mode="L").convert("P")
    picture.putdata(indices.astype(np.uint8).ravel().tolist())
    picture.putpalette(colours)
    return picture


def _layers(*channels: Any) -> Image.Image:
    planes = [np.broadcast_to(np.asarray(c, np.uint8), DISC.shape) for c in channels]
    return Image.fromarray(np.stack(planes, axis=-1))


FORMS: dict[str, Image.Image] = {
    "0_255.png": Image.fromarray(GREY),
    "0_1.png": Image.fromarray(DISC.astype(np.uint8)),
    "0_38.png": Image.fromarray((DISC * 38).astype(np.uint8)),
    "50_200.png": Image.fromarray(np.where(DISC, 200, 50).astype(np.uint8)),
    "bits.png": Image.fromarray(DISC),
    "16bit.png": Image.fromarray(DISC.astype(np.uint16) * 65535),
    "16bit_one.png": Image.fromarray(DISC.astype(np.uint16)),
    "float.tiff": Image.fromarray(DISC.astype(np.float32)),
    "palette.png": _palette(DISC, [0, 0, 0, 128, 0, 0]),
    "palette_white_first.png": _palette(~DISC, [255, 255, 255, 0, 0, 0]),
    "rgb.png": Image.fromarray(np.stack([GREY] * 3, axis=-1)),
    "red.png": _layers(GREY, 0, 0),
    "q50.jpg": Image.fromarray(GREY),
    "colour.jpg": Image.fromarray(np.stack([GREY] * 3, axis=-1)),
    "alpha_white.png": _layers(255, 255, 255, GREY),
    "alpha_black.png": _layers(0, 0, 0, GREY),
    "alpha_grey.png": _layers(255, GREY),
    "alpha_both.png": _layers(GREY, 0, 0, GREY),
    "cut_out.png": Image.fromarray(np.concatenate([PHOTO, GREY[:, :, None]], axis=-1)),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_same_disc_in_every_form(tmp_path: Path, name: str) -> None:
    FORMS[name].save(tmp_path / name, **({"quality": 50} if name == "q50.jpg" else {}))
    assert np.array_equal(ImageMask(tmp_path / name).decode(), DISC)
    assert mask_size(tmp_path / name) == (160, 120)


def test_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", DISC)
    assert np.array_equal(ImageMask(tmp_path / "m.npy").decode(), DISC)
    assert mask_size(tmp_path / "m.npy") == (160, 120)
    np.save(tmp_path / "m.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="not a readable array"):
        ImageMask(tmp_path / "m.npy").decode()


def test_soft_edges_are_cut_at_half_of_the_range(tmp_path: Path) -> None:
    soft = Image.fromarray(GREY).filter(ImageFilter.GaussianBlur(3))
    soft.save(tmp_path / "soft.png")
    assert np.array_equal(ImageMask(tmp_path / "soft.png").decode(), np.asarray(soft) >= 127.5)
    assert abs(int(ImageMask(tmp_path / "soft.png").decode().sum()) - int(DISC.sum())) < 60


@pytest.mark.parametrize("values", [{0: DISC, 7: ~DISC, 3: (X < 20) & (Y < 20)}, {1: X < 50, 2: X > 90}])
def test_ids_need_a_value(tmp_path: Path, values: dict[int, np.ndarray]) -> None:
    picture = np.zeros(DISC.shape, np.uint8)
    for value, where in values.items():
        picture[where] = value
    Image.fromarray(picture).save(tmp_path / "ids.png")
    with pytest.raises(ValueError, match=r"ids\.png: holds areas of several values \(.*\); set dataset\.mask_value=N"):
        ImageMask(tmp_path / "ids.png").decode()
    for value in values:
        assert np.array_equal(ImageMask(tmp_path / "ids.png", value).decode(), picture == value)
    assert ImageMask(tmp_path / "ids.png", 1).digest != ImageMask(tmp_path / "ids.png").digest


def test_a_value_picks_palette_indices_and_the_inside_of_an_inverted_mask(tmp_path: Path) -> None:
    _palette(np.where(DISC, 15, 3), [0, 0, 0] * 3 + [9, 9, 9] + [0, 0, 0] * 12).save(tmp_path / "p.png")
    assert np.array_equal(ImageMask(tmp_path / "p.png", 15).decode(), DISC)
    Image.fromarray(255 - GREY).save(tmp_path / "inverted.png")
    assert np.array_equal(ImageMask(tmp_path / "inverted.png", 0).decode(), DISC)
    _layers(GREY, 0, 0).save(tmp_path / "red.png")
    with pytest.raises(ValueError, match="mask_value needs grey values or palette indices"):
        ImageMask(tmp_path / "red.png", 7).decode()


def test_a_photograph_is_no_mask(tmp_path: Path) -> None:
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    with pytest.raises(ValueError, match="this is a photograph, not a mask"):
        ImageMask(tmp_path / "photo.png").decode()


def test_label_pictures(tmp_path: Path) -> None:
    labels = np.where(DISC, 300, 2).astype(np.uint16)
    Image.fromarray(labels).save(tmp_path / "a.png")
    assert np.array_equal(ValueMask(tmp_path / "a.png", 300, (160, 120)).decode(), DISC)
    with pytest.raises(ValueError, match="has 160 x 120 pixels, its image 10 x 20"):
        read_labels(tmp_path / "a.png", (10, 20))
    _layers(GREY, 0, 9).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="a label picture in colour"):
        read_labels(tmp_path / "a.png", (160, 120))
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(ValueError, match="not a readable label picture"):
        read_labels(tmp_path / "a.png", (160, 120))
