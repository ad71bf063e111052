"""``data list | verify | prepare`` from the outside, with downloads from loopback."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from decomcam_bench.cli import main
from decomcam_bench.cli.data import add_parser, execute
from decomcam_bench.core.errors import ConfigError, DataError
from decomcam_bench.datasets.acquire import catalogue
from decomcam_bench.datasets.acquire.catalogue import CATALOGUE
from decomcam_bench.datasets.toybox.scenes import CLASS_NAMES
from tests.datasets import layouts
from tests.datasets.acquire.server import Files, serve


def data(*words: str) -> int:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    return execute(parser.parse_args(["data", *words]))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DECOMCAM_BENCH_DATA", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def files() -> Iterator[Files]:
    with serve() as served:
        yield served


def _tar_of(folder: Path, mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for entry in sorted(folder.iterdir()):
            archive.add(entry, entry.name)
    return buffer.getvalue()


def _zip_of(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, str(file.relative_to(folder)))
    return buffer.getvalue()


def _offer(
    monkeypatch: pytest.MonkeyPatch, files: Files, name: str, variant: str, bodies: dict[str, bytes], images: int
) -> None:
    """Puts a small body in place of each official archive, with its own checksum."""
    entry = catalogue.CATALOGUE[name]
    chosen = entry.variants[variant]
    archives = []
    for archive in chosen.archives:
        body = bodies.get(archive.file_name)
        checksum = "md5:" + hashlib.md5(body).hexdigest() if body is not None and archive.checksum else ""
        archives.append(replace(archive, checksum=checksum or archive.checksum * (body is None)))
        if body is not None:
            files.content[f"/{archive.file_name}"] = body
    small = replace(chosen, archives=tuple(archives), images=images, boxes=None)
    monkeypatch.setitem(catalogue.CATALOGUE, name, replace(entry, variants={**entry.variants, variant: small}))


def _outside(tmp_path: Path, root: Path) -> set[str]:
    return {str(file) for file in tmp_path.rglob("*") if file.is_file() and root not in file.parents}


def test_list(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert data("list") == 0
    printed = capsys.readouterr().out
    for name in ("voc", "coco", "imagenet", "imagenetv2", "partimagenet", "cub"):
        assert f"{name}: " in printed
        assert f"data prepare {name}" in printed
    assert "licence" in printed
    assert "Everingham" in printed
    assert data("list", "--format", "names") == 0
    assert capsys.readouterr().out.split() == list(CATALOGUE)


def test_list_shows_what_is_present(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layouts.write_coco(home / "coco", layouts.scenes(3))
    next((home / "coco" / "val2017").iterdir()).unlink()
    data("list", "--format", "json")
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    states = {variant["name"]: variant for variant in rows["coco"]["variants"]}
    assert states["2017"]["present"]
    assert states["2017"]["images_present"] == 2
    assert not states["2014"]["present"]


def test_prepare_voc_and_verify(
    home: Path, tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    layouts.write_voc(tmp_path / "made", layouts.scenes(3), 2007, "test")
    _offer(monkeypatch, files, "voc", "2007", {"VOCtest_06-Nov-2007.tar": _tar_of(tmp_path / "made")}, 3)
    files.cut = [20_000]
    before = _outside(tmp_path, home)
    assert data("prepare", "voc", "--mirror", files.url) == 0
    printed = capsys.readouterr().out
    assert "md5 is right" in printed
    assert "dataset.year=2007" in printed
    assert _outside(tmp_path, home) == before
    assert {file.name for file in (home / "voc" / "archives").iterdir()} == {"done.json"}
    classes = f"classes=[{','.join(CLASS_NAMES)}]"
    assert data("verify", "voc", classes) == 0
    assert capsys.readouterr().out.endswith("sound\n")
    asked = len(files.asked)
    assert data("prepare", "voc", "--mirror", files.url) == 0
    assert "already in place" in capsys.readouterr().out
    assert len(files.asked) == asked
    image = next((home / "voc" / "VOCdevkit" / "VOC2007" / "JPEGImages").iterdir())
    image.write_bytes(image.read_bytes()[:3000])
    assert data("verify", "voc", classes) == 1
    assert image.name in capsys.readouterr().out
    assert data("verify", "voc", classes, "--fast") == 0


def test_prepare_coco(home: Path, tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    made = layouts.write_coco(tmp_path / "made", layouts.scenes(3))
    (made / "annotations" / "captions_val2017.json").write_text("{}")
    for part in ("val2017", "annotations"):
        (tmp_path / part / part).parent.mkdir()
        (made / part).rename(tmp_path / part / part)
    bodies = {
        "val2017.zip": _zip_of(tmp_path / "val2017"),
        "annotations_trainval2017.zip": _zip_of(tmp_path / "annotations"),
    }
    _offer(monkeypatch, files, "coco", "2017", bodies, 3)
    assert data("prepare", "coco", "--root", str(tmp_path / "here"), "--mirror", files.url, "--keep-archives") == 0
    assert data("verify", "coco", "--root", str(tmp_path / "here")) == 0
    assert not (tmp_path / "here" / "annotations" / "captions_val2017.json").exists()
    assert (tmp_path / "here" / "archives" / "val2017.zip").is_file()
    assert not home.exists()


def test_prepare_unpacks_archives_in_archives(
    home: Path, tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    layouts.write_partimagenet(tmp_path / "inner", layouts.scenes(3, one_object=True), in_folders=True)
    inner = _zip_of(tmp_path / "inner")
    (tmp_path / "outer" / "PartImageNet_OOD").mkdir(parents=True)
    (tmp_path / "outer" / "PartImageNet_OOD" / "test.zip").write_bytes(inner)
    _offer(monkeypatch, files, "partimagenet", "test", {"PartImageNet_OOD.zip": _zip_of(tmp_path / "outer")}, 3)
    assert data("prepare", "partimagenet", "--mirror", files.url) == 0
    assert data("verify", "partimagenet") == 0


def test_prepare_leaves_other_archives_of_that_name_alone(
    home: Path, tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    layouts.write_partimagenet(tmp_path / "inner", layouts.scenes(3, one_object=True), in_folders=True)
    (tmp_path / "outer").mkdir()
    (tmp_path / "outer" / "test.zip").write_bytes(_zip_of(tmp_path / "inner"))
    _offer(monkeypatch, files, "partimagenet", "test", {"PartImageNet_OOD.zip": _zip_of(tmp_path / "outer")}, 3)
    mine = home / "partimagenet" / "photos" / "test.zip"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"of somebody")
    assert data("prepare", "partimagenet", "--mirror", files.url) == 0
    assert mine.read_bytes() == b"of somebody"
    assert not (home / "partimagenet" / "test.zip").exists()


def test_prepare_brings_back_what_was_deleted(
    home: Path, tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    layouts.write_voc(tmp_path / "made", layouts.scenes(3), 2007, "test")
    _offer(monkeypatch, files, "voc", "2007", {"VOCtest_06-Nov-2007.tar": _tar_of(tmp_path / "made")}, 3)
    assert data("prepare", "voc", "--mirror", files.url) == 0
    shutil.rmtree(home / "voc" / "VOCdevkit")
    assert data("prepare", "voc", "--mirror", files.url) == 0
    assert data("verify", "voc", f"classes=[{','.join(CLASS_NAMES)}]") == 0


def test_prepare_notices_another_layout(
    home: Path, tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "made" / "elsewhere").mkdir(parents=True)
    (tmp_path / "made" / "elsewhere" / "a.jpg").write_bytes(b"x")
    _offer(monkeypatch, files, "voc", "2007", {"VOCtest_06-Nov-2007.tar": _tar_of(tmp_path / "made")}, 3)
    with pytest.raises(DataError, match="not in the official layout: voc: no VOC2007/ImageSets/Main"):
        data("prepare", "voc", "--mirror", files.url)


def test_prepare_cub(home: Path, tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    single = {n: s for n, s in layouts.scenes(8, one_class=True).items() if len(s.instances) == 1}
    layouts.write_cub(tmp_path / "made", single)
    _offer(monkeypatch, files, "cub", "test", {"CUB_200_2011.tgz": _tar_of(tmp_path / "made", "w:gz")}, len(single))
    assert data("prepare", "cub", "--mirror", files.url) == 0
    assert data("verify", "cub") == 0


def test_prepare_imagenet_says_what_to_do(
    home: Path, tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = layouts.write_imagenet(tmp_path / "made", layouts.scenes(3, one_class=True))
    bodies = {file.name: file.read_bytes() for file in (made / "wsol_metadata" / "ILSVRC" / "test").iterdir()}
    _offer(monkeypatch, files, "imagenet", "val", bodies, 3)
    files.fail = 100
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(DataError, match="503"):
        data("prepare", "imagenet", "--mirror", files.url)
    assert "1. make an account" in capsys.readouterr().out
    files.fail = 0
    assert data("prepare", "imagenet", "--mirror", files.url) == 1
    printed = capsys.readouterr().out
    assert "1. make an account" in printed
    assert f"{home}/imagenet/archives/" in printed
    images = _tar_of(made / "ILSVRC2012_img_val")
    _offer(monkeypatch, files, "imagenet", "val", {"ILSVRC2012_img_val.tar": images}, 3)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "ILSVRC2012_img_val.tar").write_bytes(images)
    assert data("prepare", "imagenet", "--archives", str(tmp_path / "mine")) == 0
    assert (tmp_path / "mine" / "ILSVRC2012_img_val.tar").is_file()
    assert data("verify", "imagenet") == 0


def test_prepare_imagenetv2(
    home: Path, tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = layouts.write_imagenetv2(tmp_path / "made", layouts.scenes(3, one_class=True))
    bodies = {file.name: file.read_bytes() for file in (made / "wsol_metadata" / "ILSVRC" / "val").iterdir()}
    (made / "wsol_metadata").rename(tmp_path / "aside")
    bodies["imagenetv2-threshold0.7.tar.gz"] = _tar_of(made, "w:gz")
    _offer(monkeypatch, files, "imagenetv2", "threshold0.7", bodies, 3)
    assert data("prepare", "imagenetv2", "--mirror", files.url) == 0
    assert "is right" in capsys.readouterr().out
    assert data("verify", "imagenetv2") == 0


def test_prepare_refuses_damage_and_escapes(
    home: Path, tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("../../escaped.txt")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"evil"))
    _offer(monkeypatch, files, "voc", "2007", {"VOCtest_06-Nov-2007.tar": buffer.getvalue()}, 3)
    with pytest.raises(DataError, match="leads out of the folder"):
        data("prepare", "voc", "--mirror", files.url)
    assert _outside(tmp_path, home) == set()
    files.content["/VOCtest_06-Nov-2007.tar"] += b"x"
    (home / "voc" / "archives" / "VOCtest_06-Nov-2007.tar").unlink()
    with pytest.raises(DataError, match="damaged"):
        data("prepare", "voc", "--mirror", files.url)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "VOCtest_06-Nov-2007.tar").write_bytes(b"other")
    with pytest.raises(DataError, match="its checksum is not"):
        data("prepare", "voc", "--archives", str(tmp_path / "mine"))


def test_refusals(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="did you mean 'coco'"):
        data("prepare", "cocoa")
    with pytest.raises(ConfigError, match="2012"):
        data("prepare", "voc", "--variant", "2011")
    with pytest.raises(ConfigError, match="did you mean 'voc'"):
        data("verify", "vocc")
    with pytest.raises(ConfigError, match="key=value"):
        data("verify", "voc", "year")
    with pytest.raises(ConfigError, match="did you mean 'year'"):
        data("verify", "voc", "yaer=2012")
    assert data("verify", "voc") == 1
    printed = capsys.readouterr().out
    assert "decomcam-bench data prepare voc" in printed
    assert printed.endswith("not sound: cannot be opened\n")
    with pytest.raises(ConfigError, match="--root: empty"):
        data("prepare", "voc", "--root", "")
    with pytest.raises(ConfigError, match=r"--archives .*nowhere: no such folder"):
        data("prepare", "voc", "--archives", str(home / "nowhere"))
    for address in ("http://[", "ftp://x/y", "nowhere", "http://", "http://a b", "http://x:port"):
        with pytest.raises(ConfigError, match=r"^--mirror .*: not an address"):
            data("prepare", "voc", "--mirror", address)
    home.mkdir()
    (home / "file").write_text("")
    with pytest.raises(DataError, match=r"--root .*file: cannot be made a folder"):
        data("prepare", "voc", "--root", str(home / "file"))


def test_options_may_follow_the_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = layouts.write_voc(tmp_path, layouts.scenes(2))
    classes = f"classes=[{','.join(CLASS_NAMES)}]"
    assert main(["data", "verify", "voc", "--root", str(root), "year=2012", "split=val", classes, "--fast"]) == 1
    assert "2 images, officially 5,823" in capsys.readouterr().out


def test_verify_toybox(capsys: pytest.CaptureFixture[str]) -> None:
    assert data("verify", "toybox", "size=3") == 0
    assert "toybox (split=test, size=3)" in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import argparse, sys; from decomcam_bench.cli.data import add_parser;"
        "add_parser(argparse.ArgumentParser().add_subparsers());"
        "heavy = {'torch', 'numpy', 'PIL', 'omegaconf', 'yaml'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_verify_takes_ids_as_texts_and_looks_at_these_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = layouts.write_voc(tmp_path, layouts.scenes(2))
    folder = root / "VOC2012"
    for number, name in enumerate(("2007_000033", "2007_000061")):
        for file in (f"JPEGImages/{number:06d}.jpg", f"Annotations/{number:06d}.xml"):
            (folder / file).rename((folder / file).with_stem(name))
    (folder / "ImageSets" / "Main" / "val.txt").write_text("2007_000033\n2007_000061\n")
    (folder / "JPEGImages" / "2007_000061.jpg").write_bytes(b"")
    words = ["verify", "--root", str(root), "voc", "year=2012", "split=val", f"classes=[{','.join(CLASS_NAMES)}]"]
    assert data(*words, "ids=[2007_000033]") == 0
    assert "images          1\n" in capsys.readouterr().out
    assert data(*words, "ids=2007_000061") == 1
    assert "2007_000061.jpg" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="'2007000033'"):
        data(*words, "dataset.ids=[2007000033]")


def _works_to_the_end(tmp_path: Path, name: str, *options: str) -> tuple[int, int]:
    """Exit status of ``run`` and ``data verify``; ``export-pairs`` must write its file."""
    words = [f"dataset={name}", *(f"dataset.{option}" for option in options), "model=toyclip", "method=center"]
    status = main(["run", *words, "metric=pointing_exact", "workers=0", f"results={tmp_path / 'store'}"])
    assert data("export-pairs", *words, "--out", str(tmp_path / "pairs.csv")) == 0
    return status, main(["data", "verify", name, *options])


@pytest.mark.parametrize("key", ["name", "file_name", "id"])
def test_texts_that_are_no_unicode_are_written_out(
    tmp_path: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = layouts.write_coco(tmp_path / "data", layouts.scenes(2))
    file = root / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    if key == "name":
        shown = content["annotations"][0]["category_id"]
        next(entry for entry in content["categories"] if entry["id"] == shown)["name"] = "\ud800x"
    elif key == "file_name":
        content["images"][0]["file_name"] = "\ud800x.jpg"
    else:
        for annotation in content["annotations"]:
            if annotation["image_id"] == content["images"][0]["id"]:
                annotation["image_id"] = "\ud800x"
        content["images"][0]["id"] = "\ud800x"
    file.write_text(json.dumps(content))
    # Another number of images than the official one is a finding of its own.
    assert _works_to_the_end(tmp_path, "coco", f"root={root}") == (0, 1)
    assert (r"\ud800x.jpg" in capsys.readouterr().out) == (key == "file_name")
    assert r"\ud800x" in (tmp_path / "pairs.csv").read_text(encoding="utf-8")


def test_names_of_files_that_are_no_utf8_are_written_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = layouts.scenes(3, one_class=True)
    root = layouts.write_imagenet(tmp_path / "data", drawn, xml=True)
    folders = root / "ILSVRC2012_img_val", root / "ILSVRC2012_bbox_val_v3" / "val"
    try:
        for folder in folders:
            for number, file in enumerate(sorted(folder.iterdir())[:2]):
                file.rename(folder / os.fsdecode(b"\xff%d" % number + file.suffix.encode()))
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    (folders[0] / os.fsdecode(b"\xff1.JPEG")).unlink()
    options = [f"root={root}", f"classes=[{','.join(CLASS_NAMES)}]"]
    assert _works_to_the_end(tmp_path, "imagenet", *options) == (0, 1)
    assert r"\udcff1" in capsys.readouterr().out
