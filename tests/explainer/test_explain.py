"""``explain``, from Python and from the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from decomcam_bench.cli import main
from decomcam_bench.config import registry
from decomcam_bench.core.errors import ConfigError, DataError, ModelError
from decomcam_bench.explainer.explain import explain
from decomcam_bench.explainer.figures import _columns, _short_names
from decomcam_bench.explainer.overlay import COLORMAPS, Painter
from decomcam_bench.explainer.pictures import load_picture
from decomcam_bench.methods.base import Evidence
from decomcam_bench.models.clip import similarity_to_score
from decomcam_bench.models.toyclip import ToyClip

UNTRAINED = ("model=toyclip_untrained",)


def scene(width: int = 160, height: int = 160) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    file = tmp_path / "scene.png"
    Image.fromarray(scene(120, 80)).save(file)
    return file


def test_maps_are_those_of_the_methods() -> None:
    """Against evidence built by hand; the picture has the model's size, so that nothing is resized."""
    texts = ["a house", "a tree"]
    shown = explain(scene(), texts, *UNTRAINED, method="decomcam,hirescam", layer="layer3", rank=[2, 3])
    assert [(a.method, a.rank) for a in shown.answers] == [("decomcam", 2), ("decomcam", 3), ("hirescam", None)]

    model = ToyClip(weights="untrained").load("cpu", "fp32")
    images = model.prepare(torch.from_numpy(scene().transpose(2, 0, 1).copy())[None])
    bank = model.text_bank([[text] for text in texts])
    state = model.backbone(images, ["layer3"]).states["layer3"]
    image_of, class_ids = torch.tensor([0, 0]), torch.tensor([0, 1])
    evidence = Evidence(
        images=images,
        image_of=image_of,
        image_activations=state.activations,
        gradients_source=model.gradients("layer3", state, image_of, class_ids, bank),
        score=lambda x, pair: similarity_to_score(model.embed(x) @ bank.embeddings.T, class_ids[pair], "logits"),
        mean=model.mean,
        std=model.std,
    )
    for answer in shown.answers:
        method = registry.build("method", registry.read("method", answer.method))
        expected = method.explain(evidence, [answer.rank])[answer.rank]
        np.testing.assert_allclose(answer.maps, expected.maps((160, 160)), atol=1e-5)
        if answer.rank is not None:
            parts = answer.components[1]
            np.testing.assert_allclose(parts.weights, expected.components.weights[1], atol=1e-4)
            np.testing.assert_allclose(parts.explained, expected.components.explained[1], atol=1e-5)
            np.testing.assert_allclose(parts.maps, expected.components.maps((160, 160))[1], atol=1e-5)
        np.testing.assert_allclose(shown.original(0, 1), shown.answers[0].maps[1])


def test_maps_come_back_to_the_pixels_of_the_picture() -> None:
    shown = explain(scene(90, 50), "a house", *UNTRAINED, method="gradcam")
    assert shown.original().shape == (50, 90)
    assert shown.original().max() > 0


def test_methods_without_rank_or_layer_are_not_repeated() -> None:
    shown = explain(scene(), "a house", *UNTRAINED, method="gradcam,center", layer="layer3,layer4", rank="1,2")
    assert [(a.method, a.layer) for a in shown.answers] == [
        ("gradcam", "layer3"),
        ("gradcam", "layer4"),
        ("center", ""),
    ]


def test_an_option_is_part_of_the_name_and_seeds_differ() -> None:
    shown = explain(scene(), "a house", *UNTRAINED, method="decomcam", rank=1, **{"method.channels": [5, 100]})
    assert [a.method for a in shown.answers] == ["decomcam[channels=5]", "decomcam"]
    shown = explain(scene(), "a house", *UNTRAINED, method="random", seed=[0, 1])
    assert [a.method for a in shown.answers] == ["random", "random[seed=1]"]
    assert not np.allclose(shown.answers[0].maps, shown.answers[1].maps)


def test_figure_and_notebook() -> None:
    shown = explain(scene(200, 90), ["a $house$ <b>", "word " * 60], *UNTRAINED, method="decomcam,gradcam", rank=3)
    assert shown._repr_png_().startswith(b"\x89PNG")
    titles = [axes.get_title() for axes in shown.figure().axes]
    assert titles.count("decomcam") == 2
    assert titles.count("picture") == 2
    weights = shown.answers[0].components[0].weights
    assert sum(title.startswith("1 · w") for title in titles) == 2
    assert f"3 · w {weights[2]:.2f}" in " ".join(titles)
    with pytest.raises(ConfigError, match="colormap=jet"):
        shown.figure("jet")


def test_components_are_called_what_they_are() -> None:
    shown = explain(scene(), "a house", *UNTRAINED, method="dff,decomcam", rank=2)
    words = [text.get_text() for top in shown.figure().subfigs for text in top.texts]
    scored = "with weight w, score minus that of the blurred image d"
    assert f"dff: components, {scored} and contribution to the map c" in words
    assert f"decomcam: OSSMs by singular value, {scored}, contribution to the map c and share of the variance" in words


def test_components_report_their_difference_to_the_blurred_image() -> None:
    """Whatever the weighting, and without a change of the map."""
    shown = explain(scene(), ["a house", "a car"], *UNTRAINED, method="decomcam,decomcam_difference", rank=4)
    (minmax, _), (difference, _) = (answer.components for answer in shown.answers)
    np.testing.assert_allclose(minmax.differences, difference.differences, atol=1e-5)
    np.testing.assert_allclose(difference.weights, np.maximum(difference.differences, 0), atol=1e-6)
    blurred = minmax.scores - minmax.differences
    np.testing.assert_allclose(blurred, blurred[0], atol=1e-4)
    plain = explain(scene(), ["a house", "a car"], *UNTRAINED, "method.baseline=true", method="decomcam", rank=4)
    np.testing.assert_array_equal(plain.answers[0].maps, shown.answers[0].maps)


def test_a_rank_beyond_the_possible_costs_nothing_and_lists_nothing() -> None:
    shown = explain(scene(), "a house", *UNTRAINED, method="decomcam", rank=50_000)
    (parts,) = shown.answers[0].components
    assert len(parts.maps) == len(parts.weights) == len(parts.explained) <= 25


def test_the_mark_stands_in_the_middle_of_a_plateau_and_in_its_panel() -> None:
    from decomcam_bench.models.geometry import Geometry

    plateau = np.zeros((40, 40), np.float32)
    plateau[:9, 30:] = 1
    _, (x, y) = Painter(np.zeros((40, 40, 3), np.uint8), "inferno").overlay(plateau, Geometry(40, 40, 40, "squash"))
    assert (x * 40, y * 40) == (pytest.approx(35, abs=0.6), pytest.approx(4.5, abs=0.6))
    for axes in explain(scene(), "a house", *UNTRAINED, method="gradcam").figure().axes:
        assert all(line.get_clip_on() for line in axes.lines)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    shown = explain(scene(), "a house", *UNTRAINED, method="gradcam")
    for name, write in (("a.png", shown.save), ("a.npz", shown.save_maps)):
        (tmp_path / name).symlink_to("/dev/full")
        with pytest.raises(ConfigError, match=f"{name}: cannot be written .No space left.*name another file"):
            write(tmp_path / name)


def test_a_pair_without_a_map_says_why() -> None:
    shown = explain(scene(), "a house", *UNTRAINED, "method.threshold=1000000.0", method="decomcam_v25", rank=2)
    assert shown.answers[0].reasons == ("zero_map",)
    words = [text.get_text() for axes in shown.figure().axes for text in axes.texts]
    assert words == ["no map: zero map", "model: toyclip_untrained · layer: layer4 · rank: 2"]


def test_colormaps_are_uniform_in_lightness() -> None:
    """Lightness rises all the way, so that they survive grey print (CIE L*, from linear sRGB)."""
    import matplotlib

    for name in COLORMAPS:
        rgb = matplotlib.colormaps[name](np.linspace(0, 1, 256))[:, :3]
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        lightness = np.cbrt(linear @ [0.2126, 0.7152, 0.0722])
        assert (np.diff(lightness) > -1e-3).all()
        assert lightness[-1] - lightness[0] > 0.3


@pytest.mark.parametrize(
    ("panels", "columns"), [([2], 2), ([3, 1], 3), ([5, 10], 5), ([2, 10], 5), ([7], 4), ([12], 6), ([3, 6], 6)]
)
def test_columns(panels: list[int], columns: int) -> None:
    assert _columns(panels) == columns


@pytest.mark.parametrize("kind", ["png", "tif"])  # Pillow turns TIFF by itself
@pytest.mark.parametrize("turn", range(1, 9))
def test_pictures_are_turned_upright(tmp_path: Path, turn: int, kind: str) -> None:
    file = tmp_path / f"turned.{kind}"
    exif = Image.Exif()
    exif[0x0112] = turn
    stored = Image.fromarray(scene(12, 8))
    stored.save(file, exif=exif)
    stored.getexif()[0x0112] = turn
    expected = np.asarray(ImageOps.exif_transpose(stored))
    np.testing.assert_array_equal(load_picture(file), expected)
    with Image.open(file) as opened:
        np.testing.assert_array_equal(load_picture(opened), expected)


@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0", b"Exif\0\0garbagegarbage"])
def test_damaged_metadata_turns_nothing(tmp_path: Path, exif: bytes) -> None:
    file = tmp_path / "damaged.png"
    Image.fromarray(scene(12, 8)).save(file, exif=exif)
    np.testing.assert_array_equal(load_picture(file), scene(12, 8))


def test_deep_grey_is_scaled_or_refused() -> None:
    deep = Image.fromarray(np.array([[0, 257 * 100, 65535]], dtype=np.uint16))
    assert load_picture(deep)[0, :, 0].tolist() == [0, 100, 255]
    with pytest.raises(DataError, match="floating-point"):
        load_picture(Image.fromarray(np.zeros((2, 2), dtype=np.float32)))


def test_settings_that_differ_in_the_model_alone_have_names_of_their_own(tmp_path: Path) -> None:
    words = ["method=center", "model.geometry=squash,crop", "precision=fp32,bf16"]
    shown = explain(scene(60, 40), "a house", *UNTRAINED, *words)
    assert len({answer.model for answer in shown.answers}) == 4
    assert shown.answers[3].model == "toyclip_untrained[geometry=crop,precision=bf16]"
    assert _short_names(shown.answers[2:]) == ["center · geometry=crop", "center · geometry=crop,precision=bf16"]


def test_names_of_files_are_kept_or_shortened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("x" * 240 + ".png", os.fsdecode(b"odd\xff.png")):
        Image.fromarray(scene(40, 40)).save(name)
        words = ["explain", name, "--text", "a house", *UNTRAINED, "method=random", "--maps", "f.NPZ", "--dpi", "40"]
        assert main(words) == 0
    assert (tmp_path / f"{'x' * 50}_explained.png").is_file()
    assert (tmp_path / "f.NPZ").is_file()
    assert not (tmp_path / "f.NPZ.npz").exists()


@pytest.mark.parametrize("bad", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_arrays_must_be_rgb_bytes(bad: np.ndarray) -> None:
    with pytest.raises(DataError, match="uint8"):
        load_picture(bad)


@pytest.mark.parametrize(
    ("texts", "words", "error", "message"),
    [
        ("a house", ["method=oracle"], ConfigError, "annotated region"),
        ("a house", ["method=scorecam_original"], ConfigError, "there is a single one; give another text"),
        (["a house", "a house!"], ["method=gradcam", "method.score=softmax"], ConfigError, "all the same to the model"),
        ("a h\udcffouse", [], ConfigError, r"text 'a h\\udcffouse': is not valid UTF-8"),
        ("a house", ["dataset=voc"], ConfigError, "explain takes no 'dataset'"),
        ("a house", ["limit=3"], ConfigError, "explain takes no 'limit'"),
        ("a house", ["methd=gradcam"], ConfigError, "did you mean 'method'"),
        ("a house", ["method=gradcm"], ConfigError, "did you mean 'gradcam'"),
        ("a house", ["layer=layer9"], ModelError, "layer9"),
        (["a house", " "], [], ConfigError, "none may be empty"),
        ([], [], ConfigError, "at least one"),
    ],
)
def test_refusals(texts: str | list[str], words: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        explain(scene(40, 40), texts, *UNTRAINED, *words)


def test_command_line(picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure, maps = tmp_path / "out.svg", tmp_path / "out.npz"
    words = ["explain", str(picture), "--text", "a house", *UNTRAINED, "--text", "a = b", "method=decomcam,gradcam"]
    words += ["--output", str(figure), "--dpi", "60", "rank=2", "--maps", str(maps), "--colormap", "cividis"]
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines() == [str(figure), str(maps)]
    assert b"<svg" in figure.read_bytes()
    with np.load(maps, allow_pickle=False) as arrays:
        assert arrays["texts"].tolist() == ["a house", "a = b"]
        assert arrays["methods"].tolist() == ["decomcam", "gradcam"]
        assert arrays["ranks"].tolist() == [2, 0]
        assert arrays["maps"].shape == (2, 2, 80, 120)
        assert arrays["components_0_1"].shape == (2, 160, 160)
        assert sorted(arrays["weights_0_0"].tolist()) == [0.0, 1.0]
        assert {"scores_0_0", "singular_values_0_0", "explained_0_0"} <= set(arrays.files)
        assert not [name for name in arrays.files if name.startswith("components_1")]


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_same_figure_gives_the_same_file(tmp_path: Path, suffix: str) -> None:
    shown = explain(scene(30, 20), "a house", *UNTRAINED, method="center")
    for name in ("a", "b"):
        shown.save(tmp_path / f"{name}.{suffix}", dpi=60)
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_command_line_default_output(
    picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["explain", "scene.png", "--text", "a house", *UNTRAINED, "method=center"]) == 0
    with Image.open("scene_explained.png") as drawn:
        assert drawn.width > 400


def test_exit_status_when_there_is_no_map_at_all(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "explain",
        str(picture),
        "--text",
        "a",
        *UNTRAINED,
        "method=decomcam_v25",
        "method.threshold=1e9",
        "rank=1",
    ]
    assert main([*words, "rank=1", "--output", str(tmp_path / "none.png")]) == 1
    assert "no map of decomcam_v25[threshold=1000000000.0] for 'a': zero_map" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.jpg"], "missing.jpg"),
        (["{picture}", "--output", "{folder}/a.gif"], "the suffix must be one of .png, .svg, .pdf"),
        (["{picture}", "--output", "{folder}/none/a.png"], "there is no folder"),
        (["{picture}", "--output", "{picture}"], "this is the picture itself"),
        (["{picture}", "--maps", "{folder}/a.npy"], "the suffix must be one of .npz"),
        (["{picture}", "--colormap", "jet"], "--colormap=jet: no such choice; valid: inferno"),
        (["{picture}", "--dpi", "5"], "--dpi 5"),
        (["{picture}", "--outptu", "x.png"], "unrecognized arguments: --outptu"),
        (["{picture}", "gradcam"], "gradcam"),
    ],
)
def test_command_line_refusals(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    filled = [word.format(picture=picture, folder=tmp_path) for word in words]
    assert main(["explain", *filled, "--text", "a house"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert Image.open(picture).size == (120, 80)


def test_a_text_is_required(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(picture)]) == 2
    assert "--text" in capsys.readouterr().err


def test_a_damaged_picture_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.jpg"
    file.write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    assert main(["explain", str(file), "--text", "a"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys; from decomcam_bench.cli import main\ntry: main(['explain', '--help'])\nexcept SystemExit: pass\n"
    )
    code += "sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "examples:" in done.stdout
