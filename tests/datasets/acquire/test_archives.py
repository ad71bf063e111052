"""Unpacking writes into its folder and nowhere else."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from decomcam_bench.core.errors import DataError
from decomcam_bench.datasets.acquire.archives import unpack


def _tar(file: Path, members: dict[str, bytes], mode: str = "w", **special: str) -> Path:
    with tarfile.open(file, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, target in special.items():
            info = tarfile.TarInfo("evil_" + name)
            info.type = {"symlink": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE, "device": tarfile.CHRTYPE}[name]
            info.linkname = target
            archive.addfile(info)
    return file


def _zip(file: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return file


def _everything(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


GOOD = {"a/b.txt": b"one", "a/c/d.txt": b"two"}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tar(tmp_path: Path, mode: str) -> None:
    seen: list[tuple[int, int]] = []
    names = unpack(_tar(tmp_path / "x.tar", GOOD, mode), tmp_path / "to", progress=lambda *at: seen.append(at))
    assert sorted(names) == sorted(GOOD)
    assert (tmp_path / "to/a/c/d.txt").read_bytes() == b"two"
    assert seen == [(1, 2), (2, 2)]


def test_zip_and_patterns(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "x.zip", {**GOOD, "empty/": b""})
    assert unpack(archive, tmp_path / "all") == [*GOOD]
    assert (tmp_path / "all/empty").is_dir()
    assert unpack(archive, tmp_path / "some", only=("a/b.*",)) == ["a/b.txt"]
    assert _everything(tmp_path / "some") == {"a/b.txt"}


@pytest.mark.parametrize(
    "name", ["../out.txt", "a/../../out.txt", "/tmp/decomcam_out.txt", "..", "C:/out.txt", "a\\..\\..\\out.txt"]
)
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_names_that_lead_out(tmp_path: Path, name: str, kind: str) -> None:
    make = _tar if kind == "tar" else _zip
    archive = make(tmp_path / f"x.{kind}", {**GOOD, name: b"evil"})
    with pytest.raises(DataError, match="leads out of the folder; nothing was unpacked"):
        unpack(archive, tmp_path / "deep" / "to")
    assert _everything(tmp_path) == {f"x.{kind}"}


@pytest.mark.parametrize("kind", ["symlink", "hardlink", "device"])
def test_links_and_devices_in_tar(tmp_path: Path, kind: str) -> None:
    archive = _tar(tmp_path / "x.tar", GOOD, **{kind: "/etc/passwd"})
    with pytest.raises(DataError, match="a link or a device"):
        unpack(archive, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_links_in_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        info = zipfile.ZipInfo("link")
        info.create_system = 3
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="a link or a device"):
        unpack(tmp_path / "x.zip", tmp_path / "to")


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_link_that_lies_there_is_not_followed(tmp_path: Path, kind: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "a").symlink_to(tmp_path / "elsewhere")
    archive = (_tar if kind == "tar" else _zip)(tmp_path / f"x.{kind}", GOOD)
    with pytest.raises(DataError, match="through a link"):
        unpack(archive, tmp_path / "to")
    assert _everything(tmp_path / "elsewhere") == set()


def test_damage(tmp_path: Path) -> None:
    whole = _tar(tmp_path / "x.tgz", {"a": bytes(range(256)) * 4000}, "w:gz").read_bytes()
    (tmp_path / "cut.tgz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "none.tar").write_bytes(b"no archive" * 100)
    archive = _zip(tmp_path / "x.zip", {"a": b"content of it"})
    (tmp_path / "bad.zip").write_bytes(archive.read_bytes().replace(b"content of it", b"content of iT"))
    for name in ("cut.tgz", "none.tar", "bad.zip"):
        with pytest.raises(DataError, match=name):
            unpack(tmp_path / name, tmp_path / "to")


def test_too_little_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = _zip(tmp_path / "x.zip", GOOD)
    usage = type("Usage", (), {"free": 3})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    with pytest.raises(DataError, match="GB free"):
        unpack(archive, tmp_path / "to")
    assert not (tmp_path / "to").exists()
