"""Downloads against a server on loopback."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from decomcam_bench.core.errors import DataError
from decomcam_bench.datasets.acquire.download import fetch, fetch_any, verify_checksum
from tests.datasets.acquire.server import Files, serve

BODY = random.Random(0).randbytes(300_000)
MD5 = "md5:" + hashlib.md5(BODY).hexdigest()
SHA256 = "sha256:" + hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def files() -> Iterator[Files]:
    with serve() as served:
        served.content["/a.tar"] = BODY
        yield served


def _left(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


@pytest.mark.parametrize("checksum", [MD5, SHA256, ""])
def test_whole_file(files: Files, tmp_path: Path, checksum: str) -> None:
    seen: list[tuple[int, int | None]] = []
    fetch(f"{files.url}/a.tar", tmp_path / "deep" / "a.tar", checksum, lambda done, total: seen.append((done, total)))
    assert (tmp_path / "deep" / "a.tar").read_bytes() == BODY
    assert _left(tmp_path / "deep") == {"a.tar"}
    assert seen[-1] == (len(BODY), len(BODY))


def test_goes_on_after_the_connection_was_cut(files: Files, tmp_path: Path) -> None:
    files.cut = [100_000, 50_000]
    fetch(f"{files.url}/a.tar", tmp_path / "a.tar", MD5, pause=0)
    assert (tmp_path / "a.tar").read_bytes() == BODY
    assert [wanted for _, wanted in files.asked] == [None, "bytes=100000-", "bytes=150000-"]


def test_goes_on_in_a_later_run(files: Files, tmp_path: Path) -> None:
    (tmp_path / "a.tar.part").write_bytes(BODY[:123_456])
    fetch(f"{files.url}/a.tar", tmp_path / "a.tar", SHA256)
    assert (tmp_path / "a.tar").read_bytes() == BODY
    assert files.asked == [("/a.tar", "bytes=123456-")]


def test_server_without_ranges(files: Files, tmp_path: Path) -> None:
    files.ranges = False
    (tmp_path / "a.tar.part").write_bytes(BODY[:123_456])
    fetch(f"{files.url}/a.tar", tmp_path / "a.tar", MD5)
    assert (tmp_path / "a.tar").read_bytes() == BODY


def test_part_was_complete_already(files: Files, tmp_path: Path) -> None:
    (tmp_path / "a.tar.part").write_bytes(BODY)
    fetch(f"{files.url}/a.tar", tmp_path / "a.tar", MD5)
    assert (tmp_path / "a.tar").read_bytes() == BODY


def test_part_is_longer_than_the_file(files: Files, tmp_path: Path) -> None:
    (tmp_path / "a.tar.part").write_bytes(BODY + b"more")
    fetch(f"{files.url}/a.tar", tmp_path / "a.tar", MD5, pause=0)
    assert (tmp_path / "a.tar").read_bytes() == BODY


def test_part_of_another_version_is_fetched_anew(files: Files, tmp_path: Path) -> None:
    (tmp_path / "a.tar.part").write_bytes(b"x" * 1000)
    fetch(f"{files.url}/a.tar", tmp_path / "a.tar", MD5)
    assert (tmp_path / "a.tar").read_bytes() == BODY
    (tmp_path / "b.tar.part").write_bytes(b"x" * 1000)
    (tmp_path / "b.tar.part.etag").write_text('"zero"')
    fetch(f"{files.url}/a.tar", tmp_path / "b.tar")  # no checksum: the server's tag tells
    assert (tmp_path / "b.tar").read_bytes() == BODY


def test_damaged_file_is_not_kept(files: Files, tmp_path: Path) -> None:
    files.content["/a.tar"] = BODY[:-1] + bytes([BODY[-1] ^ 1])
    with pytest.raises(DataError, match="damaged, its checksum is md5") as caught:
        fetch(f"{files.url}/a.tar", tmp_path / "a.tar", MD5)
    assert f"{files.url}/a.tar" in str(caught.value)
    assert _left(tmp_path) == set()


def test_short_file_without_a_checksum_is_noticed(files: Files, tmp_path: Path) -> None:
    files.cut = [10, 0, 0, 0, 0, 0, 0]
    with pytest.raises(DataError, match="goes on from there"):
        fetch(f"{files.url}/a.tar", tmp_path / "a.tar", pause=0)
    assert _left(tmp_path) == {"a.tar.part", "a.tar.part.etag"}
    fetch(f"{files.url}/a.tar", tmp_path / "a.tar", pause=0)
    assert (tmp_path / "a.tar").read_bytes() == BODY


def test_server_trouble(files: Files, tmp_path: Path) -> None:
    files.fail = 2
    fetch(f"{files.url}/a.tar", tmp_path / "a.tar", MD5, pause=0)
    with pytest.raises(DataError, match="404"):
        fetch(f"{files.url}/absent.tar", tmp_path / "b.tar", pause=0)
    files.fail = 100
    with pytest.raises(DataError, match="503"):
        fetch(f"{files.url}/a.tar", tmp_path / "c.tar", pause=0)
    with pytest.raises(DataError, match="goes on from there"):
        fetch("http://127.0.0.1:1/a.tar", tmp_path / "d.tar", pause=0)


@pytest.mark.parametrize("status", [408, 429])
def test_a_refusal_that_passes_is_waited_for(files: Files, tmp_path: Path, status: int) -> None:
    files.fail, files.status = 2, status
    fetch(f"{files.url}/a.tar", tmp_path / "a.tar", MD5, pause=0)
    files.fail = 100
    with pytest.raises(DataError, match=str(status)):
        fetch(f"{files.url}/a.tar", tmp_path / "b.tar", pause=0)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/y", "/etc/passwd"])
def test_only_http(url: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="only http"):
        fetch(url, tmp_path / "x")


def test_verify_checksum(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(BODY)
    assert verify_checksum(tmp_path / "a", MD5)
    assert verify_checksum(tmp_path / "a", "")
    assert not verify_checksum(tmp_path / "a", SHA256[:-1] + ("0" if SHA256[-1] != "0" else "1"))


def test_the_first_address_that_has_the_file_serves(files: Files, tmp_path: Path) -> None:
    told: list[str] = []
    urls = [
        "http://127.0.0.1:9/a.tar",
        f"{files.url}/absent",
        f"{files.url}/page",
        f"{files.url}/other",
        f"{files.url}/a.tar",
    ]
    files.content["/page"] = b"\n<!DOCTYPE html><html><head><title>Access\n denied</title></head></html>"
    files.content["/other"] = BODY[::-1]
    fetch_any(urls, tmp_path / "a.tar", MD5, pause=0, say=told.append)
    assert (tmp_path / "a.tar").read_bytes() == BODY
    assert _left(tmp_path) == {"a.tar"}
    assert ["refused" in told[0], "404" in told[1], "checksum" in told[3]] == [True] * 3
    assert (
        told[2] == f"{files.url}/page: a web page ('Access denied') came in place of the file; trying the next address"
    )


def test_every_address_is_named_when_none_has_the_file(files: Files, tmp_path: Path) -> None:
    files.content["/page"] = b"<html>no title</html>"
    with pytest.raises(
        DataError, match=r"absent: the server says 404 .*; .*page: a web page \('without a title'\) came"
    ):
        fetch_any([f"{files.url}/absent", f"{files.url}/page"], tmp_path / "a.tar", pause=0)
    assert _left(tmp_path) == set()


def test_halves_of_two_files_are_not_joined_without_a_checksum(files: Files, tmp_path: Path) -> None:
    files.content["/b.tar"], files.etag = BODY[::-1], ""
    files.cut = [100_000, 0]
    fetch_any([f"{files.url}/b.tar", f"{files.url}/a.tar"], tmp_path / "a.tar", pause=0)
    assert (tmp_path / "a.tar").read_bytes() == BODY
