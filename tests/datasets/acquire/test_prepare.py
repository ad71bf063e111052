"""``Preparation`` writes under its root and nowhere else, and no more than is plausible."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from decomcam_bench.core.errors import DataError
from decomcam_bench.datasets.acquire.catalogue import Archive, Variant
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
