"""``Preparation`` writes under its root and nowhere else, and no more than is plausible."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from decomcam_bench.core.errors import DataError
from decomcam_bench.datasets.acquire.catalogue import CATALOGUE, Archive, Variant
from decomcam_bench.datasets.acquire.prepare import Preparation
from tests.datasets.acquire.server import Files, serve


@pytest.fixture
def files() -> Iterator[Files]:
    with serve() as served:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            info = tarfile.TarInfo("f")
            info.size = 3
            archive.addfile(info, io.BytesIO(b"new"))
        served.content["/x.tar"] = buffer.getvalue()
        served.content["/plain.txt"] = b"new"
        yield served


def _prepare(root: Path, *archives: Archive) -> None:
    Preparation(root, say=lambda line: None).run(Variant({}, archives, 1, 1))


def _tar(files: Files, into: str = "") -> Archive:
    return Archive(f"{files.url}/x.tar", 1, into=into)


@pytest.mark.parametrize("link", ["archives", "into", "archives/x.tar.part", "archives/x.tar.part.etag",
                                  "archives/x.tar", "archives/done.tmp"])  # fmt: skip
def test_a_link_in_the_root_is_not_followed(tmp_path: Path, files: Files, link: str) -> None:
    outside, place = tmp_path / "outside", tmp_path / "root" / link
    outside.mkdir()
    place.parent.mkdir(parents=True)
    place.symlink_to(outside if "." not in link else outside / "absent")
    with pytest.raises(DataError, match="through a link; remove the link"):
        _prepare(tmp_path / "root", _tar(files, "into"))
    assert not list(outside.iterdir())


def test_a_plain_file_follows_no_link(tmp_path: Path, files: Files) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "plain.txt.tmp").symlink_to(tmp_path / "absent")
    with pytest.raises(DataError, match="through a link"):
        _prepare(tmp_path / "root", Archive(f"{files.url}/plain.txt", 1, plain=True))
    assert not (tmp_path / "absent").exists()


def test_the_root_itself_may_be_a_link(tmp_path: Path, files: Files) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "disk")
    _prepare(tmp_path / "root", _tar(files, "into"))
    assert (tmp_path / "disk" / "into" / "f").read_bytes() == b"new"


@pytest.mark.parametrize("nested", [False, True])
def test_an_archive_that_unpacks_to_more_than_is_plausible(tmp_path: Path, files: Files, nested: bool) -> None:
    body, name = io.BytesIO(), "x.zip"
    with zipfile.ZipFile(body, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(120_000_000))
    if nested:
        inner, body = body.getvalue(), io.BytesIO()
        with zipfile.ZipFile(body, "w") as archive:
            archive.writestr("inner.zip", inner)
    files.content[f"/{name}"] = body.getvalue()
    with pytest.raises(DataError, match=r"unpacked it has 0\.1 GB, and 0\.1 GB at most are plausible"):
        _prepare(tmp_path / "root", Archive(f"{files.url}/{name}", 1, nested=("inner.zip",)))
    assert not list(tmp_path.rglob("zeros"))


def test_a_second_address_serves_where_the_first_is_dead(tmp_path: Path, files: Files) -> None:
    told: list[str] = []
    archive = Archive("http://127.0.0.1:9/x.tar", 1, mirrors=(f"{files.url}/x.tar",))
    Preparation(tmp_path, say=told.append, pause=0).run(Variant({}, (archive,), 1, 1))
    assert (tmp_path / "f").read_bytes() == b"new"
    assert any("trying the next address" in line for line in told)


@pytest.mark.parametrize(
    ("body", "checksum", "words"),
    [
        (b"<!doctype html><title>Sorry</title>", "", r"a web page \('Sorry'\) came in place of the file"),
        (b"cut", "md5:" + "0" * 32, "damaged, its checksum is"),
        (None, "", "the server says 404"),
    ],
)
def test_every_failure_names_the_mirror_option(
    tmp_path: Path, files: Files, body: bytes | None, checksum: str, words: str
) -> None:
    if body is not None:
        files.content["/y.tar"] = body
    with pytest.raises(DataError, match=rf"y\.tar: {words}.*; name another address with --mirror URL \(URL/y\.tar is"):
        _prepare(tmp_path, Archive(f"{files.url}/y.tar", 1, checksum))
    assert not list(tmp_path.rglob("y.tar*"))


def test_an_archive_that_is_a_saved_page_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"<html><title>Log in</title></html>")
    with pytest.raises(DataError, match=r"x\.tar: a web page \('Log in'\), not the archive; remove it"):
        _prepare(tmp_path, Archive("http://127.0.0.1:9/x.tar", 1))


@pytest.mark.parametrize("body", [b"429: slow down", b"val2/0/0.jpeg,0\nval2/0/1.jpeg,0\nnonsense\na\nb\nc\n"])
def test_text_files_are_looked_at_before_they_are_kept(tmp_path: Path, files: Files, body: bytes) -> None:
    files.content["/class_labels.txt"] = body
    (archive,) = (one for one in CATALOGUE["imagenetv2"].variants["threshold0.7"].archives if "class_labels" in one.url)
    wrong = Archive(f"{files.url}/class_labels.txt", 1, plain=True, line=archive.line)
    with pytest.raises(
        DataError, match=r"class_labels\.txt: begins with '.*', which is no line of it; nothing was kept"
    ):
        _prepare(tmp_path, wrong)
    assert not list(tmp_path.rglob("*.txt"))
    files.content["/class_labels.txt"] = b"val2/0/0.jpeg,0\nval2/0/1.jpeg,0"
    _prepare(tmp_path, wrong)
    assert (tmp_path / "class_labels.txt").is_file()


def test_archives_have_several_addresses_and_checksums() -> None:
    """PartImageNet states no checksum, and ImageNet's archives need an account."""
    for name in ("voc", "coco", "imagenet", "imagenetv2", "partimagenet", "cub"):
        for variant in CATALOGUE[name].variants.values():
            for archive in variant.archives:
                assert archive.manual or archive.mirrors, archive.url
                assert archive.checksum or name == "partimagenet", archive.url
                assert len({archive.url, *archive.mirrors}) == 1 + len(archive.mirrors)
