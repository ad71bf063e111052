"""Colour modes, orientation and damage of image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from decomcam_bench.datasets import images
from decomcam_bench.datasets.images import image_size, read_image

RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


def test_grey_palette_and_alpha(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "l.png")
    assert np.array_equal(read_image(tmp_path / "l.png"), np.repeat(RAMP[:, :, None], 3, axis=2))
    colours = np.stack([RAMP, RAMP[::-1], 255 - RAMP], axis=2)
    palette = Image.fromarray(colours).quantize(48)
    palette.save(tmp_path / "p.png")
    assert np.array_equal(read_image(tmp_path / "p.png"), np.array(palette.convert("RGB")))
    alpha = np.dstack([colours, np.zeros_like(RAMP)])
    Image.fromarray(alpha).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), colours)
    Image.fromarray(RAMP > 100).save(tmp_path / "b.png")
    assert np.array_equal(read_image(tmp_path / "b.png")[:, :, 0], np.where(RAMP > 100, 255, 0))


@pytest.mark.filterwarnings("error")
def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path: Path) -> None:
    palette = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).convert("P")
    palette.save(tmp_path / "a.png", transparency=b"\x00\x10")
    assert np.array_equal(read_image(tmp_path / "a.png"), np.asarray(palette.convert("RGB")))


def test_sixteen_bit_grey_is_scaled(tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 257], [32767, 32768, 65406, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "16.png")
    expected = np.round(values / 257).astype(np.uint8)
    assert np.array_equal(read_image(tmp_path / "16.png")[:, :, 1], expected)


def test_cmyk_jpeg(tmp_path: Path) -> None:
    flat = np.zeros((16, 16, 4), np.uint8)
    flat[:, :, 0] = 255  # cyan ink alone
    Image.fromarray(flat, mode="CMYK").save(tmp_path / "c.jpg", quality=95)
    pixel = read_image(tmp_path / "c.jpg")[8, 8].astype(int)
    assert pixel[0] < 10
    assert pixel[1] > 245
    assert pixel[2] > 245


def test_exif_orientation_is_ignored(tmp_path: Path) -> None:
    """A viewer would turn this picture by 90 degrees; its annotations refer to the stored pixels."""
    stored = np.zeros((40, 60, 3), np.uint8)
    stored[:10, :20] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "e.jpg", exif=exif, quality=95)
    with Image.open(tmp_path / "e.jpg") as image:
        assert image.getexif()[0x0112] == 6
    read = read_image(tmp_path / "e.jpg", (60, 40))
    assert read.shape == (40, 60, 3)
    assert read[5, 5].min() > 200
    assert read[35, 5].max() < 50
    assert image_size(tmp_path / "e.jpg") == (60, 40)


@pytest.mark.parametrize("turn", range(2, 9))
def test_a_tiff_is_read_as_it_is_stored(tmp_path: Path, turn: int) -> None:
    stored = np.dstack([RAMP, RAMP[::-1], 255 - RAMP])
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(stored).save(tmp_path / "e.tif", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "e.tif", (8, 6)), stored)
    assert image_size(tmp_path / "e.tif") == (8, 6)


def test_damage_names_the_file(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(whole)
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    empty = tmp_path / "empty.jpg"
    empty.write_bytes(b"")
    text = tmp_path / "text.jpg"
    text.write_text("no picture")
    for file, word in ((cut, "truncated"), (empty, "empty"), (text, "not a readable image")):
        with pytest.raises(ValueError, match=word) as caught:
            read_image(file)
        assert str(file) in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"absent\.jpg"):
        read_image(tmp_path / "absent.jpg")


def test_size_that_disagrees_with_the_annotation(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "l.png")
    assert read_image(tmp_path / "l.png", (8, 6)).shape == (6, 8, 3)
    with pytest.raises(ValueError, match="8 x 6 pixels, but its annotation says 6 x 8"):
        read_image(tmp_path / "l.png", (6, 8))


def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 200_000
    with pytest.raises(ValueError, match=r"bomb\.png"):
        read_image(tmp_path / "bomb.png")
    Image.new("1", (200, 200)).save(tmp_path / "small.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    with pytest.raises(ValueError, match="more than the 100 allowed"):
        read_image(tmp_path / "small.png")


def test_float_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "f.tiff")
    with pytest.raises(ValueError, match="floating-point"):
        read_image(tmp_path / "f.tiff")
