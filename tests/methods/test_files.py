"""Maps from files: names, formats, sizes, and what is missing or malformed."""

from __future__ import annotations

import zipfile

import cv2
import numpy as np
import pytest
import torch

from decomcam_bench.config import registry
from decomcam_bench.core.errors import ConfigError, DataError
from decomcam_bench.core.mapfiles import MapFolder, file_stem
from decomcam_bench.methods.base import Evidence, Explanation
from decomcam_bench.methods.files import MapFiles
from decomcam_bench.models.geometry import Geometry

SIZE = 12
PAIRS = [("a/b.jpg", "cat"), ("..", "dog"), ("c", "bird")]


def explained(folder, pairs=PAIRS, geometry: Geometry | None = None) -> Explanation:
    geometry = geometry or Geometry(30, 20, SIZE)
    evidence = Evidence(
        images=torch.zeros(1, 3, SIZE, SIZE),
        image_of=torch.zeros(len(pairs), dtype=torch.int64),
        image_activations=torch.zeros(1, 0, 1, 1),
        pair_names=pairs,
        map_to_input=lambda pair, found: geometry.map_to_input(found),
    )
    return MapFiles(dir=str(folder)).explain(evidence, [None])[None]


def random_map(shape=(SIZE, SIZE), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def write(folder, saliency: np.ndarray, image_id: str = "c", class_name: str = "bird") -> None:
    np.save(folder / f"{file_stem(image_id, class_name)}.npy", saliency)


def test_names() -> None:
    assert file_stem("a/b.jpg", "traffic light") == "a%2Fb.jpg__traffic%20light"
    assert file_stem("../../x", "0") == "..%2F..%2Fx__0"
    assert file_stem("", "dog") == "__dog"
    assert file_stem("é %\\:", "a/b") == "%C3%A9%20%25%5C%3A__a%2Fb"
    classes = ("b", "_b", "__b", "b__b", "b_", "B", "%2F", "/")
    pairs = [(i, c) for i in ("a", "a_", "a__", "a__b", "a%2F", "a/") for c in classes]
    assert len({file_stem(*pair) for pair in pairs}) == len(pairs)


def test_long_texts_get_short_names_of_their_own() -> None:
    names = {file_stem("x", text) for text in ("a" * 100, "a" * 101, "a" * 100 + "b", "ö" * 90, "ö" * 91)}
    assert len(names) == 5
    assert max(map(len, names)) == len("x__") + 100
    assert file_stem("x", "a" * 101).startswith("x__" + "a" * 80 + "+")


def test_maps_named_by_class_numbers_are_refused(tmp_path) -> None:
    np.save(tmp_path / "c__11.npy", random_map())
    with pytest.raises(DataError, match=r"'c__11.npy' names its class by a number, which moves .*; name maps"):
        explained(tmp_path, PAIRS[2:])
    np.save(tmp_path / "c__7.npy", random_map())
    assert explained(tmp_path, [("c", "7")]).failures == {}


def test_all_formats_and_a_map_of_the_inputs_size_is_taken_as_it_is(tmp_path) -> None:
    maps = [random_map(seed=s) for s in range(3)]
    np.save(tmp_path / "a%2Fb.jpg__cat.npy", maps[0].astype(np.float64))
    np.savez(tmp_path / "..__dog.npz", map=maps[1], other=np.zeros(3))
    levels = (maps[2] * 65535).round().astype(np.uint16)
    cv2.imwrite(str(tmp_path / "c__bird.png"), levels)
    answer = explained(tmp_path)
    assert not answer.failures
    np.testing.assert_array_equal(answer.native[0], maps[0])
    np.testing.assert_array_equal(answer.native[1], maps[1])
    np.testing.assert_array_equal(answer.native[2], levels.astype(np.float32) / np.float32(65535))
    assert torch.equal(answer.maps((SIZE, SIZE)), answer.native)


def test_an_npz_with_one_array_needs_no_name(tmp_path) -> None:
    np.savez_compressed(tmp_path / "c__bird.npz", anything=random_map())
    assert explained(tmp_path, PAIRS[2:]).failures == {}


@pytest.mark.parametrize("shape", [(20, 30), (7, 7), (200, 300), (1, 1), (12, 13)])
def test_any_other_size_covers_the_whole_image_squashed(tmp_path, shape) -> None:
    saliency = random_map(shape)
    write(tmp_path, saliency)
    got = explained(tmp_path, PAIRS[2:]).native[0]
    # torch's antialiased bilinear resize is an implementation of its own.
    expected = torch.nn.functional.interpolate(
        torch.tensor(saliency)[None, None], (SIZE, SIZE), mode="bilinear", antialias=True
    )[0, 0]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("width", "height"), [(48, 24), (24, 48)])
def test_any_other_size_covers_the_whole_image_cropped(tmp_path, width: int, height: int) -> None:
    """A spot at the middle of the picture stays there; one at the cropped edge goes."""
    geometry = Geometry(width, height, SIZE, "crop")
    saliency = np.zeros((height, width), np.float32)
    saliency[height // 2 - 4 : height // 2 + 4, width // 2 - 4 : width // 2 + 4] = 1
    saliency[:4, :4] = 1
    write(tmp_path, saliency)
    got = explained(tmp_path, PAIRS[2:], geometry).native[0]
    centre = (got * torch.arange(SIZE)).sum() / got.sum(), (got.T * torch.arange(SIZE)).sum() / got.sum()
    assert [float(c) for c in centre] == pytest.approx([5.5, 5.5])
    back = geometry.to_original(got.numpy())
    assert back[height // 2, width // 2] > 0.9


def test_negative_values_count_as_nothing(tmp_path) -> None:
    saliency = random_map() - 0.5
    write(tmp_path, saliency)
    np.testing.assert_array_equal(explained(tmp_path, PAIRS[2:]).maps((SIZE, SIZE))[0], np.maximum(saliency, 0))


def test_a_missing_map_is_a_failure(tmp_path) -> None:
    write(tmp_path, random_map())
    answer = explained(tmp_path)
    assert answer.failures == {0: "map_missing", 1: "map_missing"}
    assert not answer.native[:2].any()


def bad_png(path) -> None:
    cv2.imwrite(str(path.with_suffix(".png")), np.zeros((4, 4), np.uint8))


def colour_png(path) -> None:
    cv2.imwrite(str(path.with_suffix(".png")), np.zeros((4, 4, 3), np.uint16))


def two_arrays(path) -> None:
    np.savez(path.with_suffix(".npz"), a=random_map(), b=random_map())


def two_files(path) -> None:
    np.save(path.with_suffix(".npy"), random_map())
    np.savez(path.with_suffix(".npz"), map=random_map())


def broken_zip(path) -> None:
    np.savez(path.with_suffix(".npz"), map=random_map())
    data = path.with_suffix(".npz").read_bytes()
    path.with_suffix(".npz").write_bytes(data[: len(data) // 2])


def header_without_an_end(path) -> None:
    """NumPy's parser of the header raises here what no other damage makes it raise."""
    file = path.with_suffix(".npy")
    np.save(file, random_map())
    data = file.read_bytes()
    end = data.index(b"), }")
    file.write_bytes(data[:end] + b"    " + data[end + 4 :])


def zip_of_text(path) -> None:
    with zipfile.ZipFile(path.with_suffix(".npz"), "w") as archive:
        archive.writestr("map.txt", "no array")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda p: np.save(p.with_suffix(".npy"), np.full((4, 4), np.nan)), "is not finite"),
        (lambda p: np.save(p.with_suffix(".npy"), np.full((4, 4), 1e300)), "is not finite in float32"),
        (lambda p: np.save(p.with_suffix(".npy"), np.zeros((1, 4, 4))), "has shape (1, 4, 4)"),
        (lambda p: np.save(p.with_suffix(".npy"), np.zeros((0, 4))), "has shape (0, 4)"),
        (lambda p: np.save(p.with_suffix(".npy"), np.ones((4, 4), complex)), "not real numbers"),
        (lambda p: np.save(p.with_suffix(".npy"), np.array([[{}]]), allow_pickle=True), "cannot be decoded"),
        (lambda p: p.with_suffix(".npy").write_bytes(b"text"), "cannot be decoded"),
        (lambda p: p.with_suffix(".npy").write_bytes(b""), "cannot be decoded"),
        (header_without_an_end, "cannot be decoded"),
        (lambda p: p.with_suffix(".png").write_bytes(b"\x89PNG\r\n\x1a\n"), "cannot be decoded"),
        (bad_png, "is not 16-bit grey"),
        (colour_png, "is not 16-bit grey"),
        (two_arrays, "holds 2 arrays, none named 'map'"),
        (two_files, "c__bird.npy and c__bird.npz are there"),
        (broken_zip, "cannot be decoded"),
        (zip_of_text, "holds no array"),
    ],
)
def test_a_malformed_map_is_a_failure(tmp_path, make, reason: str) -> None:
    make(tmp_path / "c__bird")
    write(tmp_path, random_map(), "..", "dog")
    answer = explained(tmp_path)
    assert answer.failures[0] == "map_missing"
    assert 1 not in answer.failures
    assert answer.failures[2].code == "map_malformed"
    assert reason in answer.failures[2].detail
    assert not answer.native[2].any()


def test_a_map_of_zeros_is_a_failure(tmp_path) -> None:
    write(tmp_path, np.zeros((SIZE, SIZE)))
    assert explained(tmp_path, PAIRS[2:]).failures == {0: "zero_map"}


def test_nothing_outside_the_folder_is_read(tmp_path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    write(inner, random_map())
    np.save(tmp_path / "secret__cat.npy", random_map())
    assert explained(inner, [("../secret", "cat"), ("..%2Fsecret", "cat")]).failures == {
        0: "map_missing",
        1: "map_missing",
    }


def test_the_digest_follows_content_and_names_alone(tmp_path) -> None:
    folders = [tmp_path / name for name in "abcd"]
    for folder in folders:
        folder.mkdir()
        write(folder, random_map())
    write(folders[1], random_map(seed=1))
    (folders[2] / "c__bird.npy").rename(folders[2] / "c__cat.npy")
    (folders[3] / "notes.txt").write_text("not a map")
    keys = [MapFiles(dir=str(folder)).identity["maps"] for folder in folders]
    assert keys[0] == keys[3]
    assert len(set(keys)) == 3


def test_a_folder_that_is_none(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"method\.dir=FOLDER"):
        _ = MapFiles().identity
    with pytest.raises(DataError, match="cannot be read"):
        MapFolder(tmp_path / "absent")
    with pytest.raises(DataError, match="no map there"):
        MapFolder(tmp_path)


def test_its_yaml_writes_out_every_option() -> None:
    config = registry.read("method", "files")
    assert {key: value for key, value in config.items() if key not in registry.DESCRIPTIVE} == {"dir": ""}
