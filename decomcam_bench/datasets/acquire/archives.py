"""Unpack tar and zip archives into one folder and nowhere else.

Every member is judged before the first byte is written: a name that leads out of the folder, a
link or a device refuses the whole archive. Official archives of the benchmarks hold none.
"""

from __future__ import annotations

import fnmatch
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from decomcam_bench.core.errors import DataError

#: Called with (members done, members in all).
Progress = Callable[[int, int], None]


def unpack(
    archive: Path, folder: Path, only: Sequence[str] = (), progress: Progress | None = None, most: int | None = None
) -> list[str]:
    """Unpack regular files and folders of an archive.

    Args:
        archive: a zip file, or a tar file of any compression.
        folder: where its members go.
        only: shell patterns of member names; empty for all.
        progress: told about every member.
        most: bytes that the members may have together; None for as many as the disk takes.

    Returns:
        The names of the files written, relative to the folder.

    Raises:
        DataError: for a damaged archive, an unsafe member, more than ``most`` bytes, or too little
            space on the disk.
    """
    report = progress or (lambda done, total: None)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                return _unpack_zip(archive, opened, folder, only, report, most)
        with tarfile.open(archive) as opened_tar:
            return _unpack_tar(archive, opened_tar, folder, only, report, most)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{archive}: cannot be unpacked ({error}); remove it and prepare again") from error
    except Exception as error:
        if type(error).__module__ in ("zlib", "lzma", "_lzma"):
            raise DataError(f"{archive}: damaged ({error}); remove it and prepare again") from error
        raise


def _unpack_zip(
    archive: Path, opened: zipfile.ZipFile, folder: Path, only: Sequence[str], report: Progress, most: int | None
) -> list[str]:
    members = [info for info in opened.infolist() if not only or _matches(info.filename, only)]
    for info in members:
        _check_name(archive, info.filename)
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise DataError(f"{archive}: member '{info.filename}' is a link or a device; nothing was unpacked")
    _check_space(archive, folder, sum(info.file_size for info in members), most)
    files: list[str] = []
    for number, info in enumerate(members, start=1):
        target = _target(archive, folder, info.filename)
        if info.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            with opened.open(info) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
            files.append(info.filename)
        report(number, len(members))
    return files


def _unpack_tar(
    archive: Path, opened: tarfile.TarFile, folder: Path, only: Sequence[str], report: Progress, most: int | None
) -> list[str]:
    if not hasattr(tarfile, "data_filter"):
        raise DataError("this Python unpacks no tar archive safely: update it to 3.10.12, 3.11.4, 3.12 or newer")
    members = [member for member in opened.getmembers() if not only or _matches(member.name, only)]
    for member in members:
        _check_name(archive, member.name)
        if not (member.isreg() or member.isdir()):
            raise DataError(f"{archive}: member '{member.name}' is a link or a device; nothing was unpacked")
    _check_space(archive, folder, sum(member.size for member in members), most)
    folder.mkdir(parents=True, exist_ok=True)
    files: list[str] = []
    for number, member in enumerate(members, start=1):
        _target(archive, folder, member.name)
        opened.extract(member, folder, filter="data")
        files += [member.name] if member.isreg() else []
        report(number, len(members))
    return files


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _check_name(archive: Path, name: str) -> None:
    path = PurePosixPath(name)
    drive = len(name) > 1 and name[1] == ":"
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or drive or not name.strip("/"):
        raise DataError(f"{archive}: member '{name}' leads out of the folder; nothing was unpacked")


def _target(archive: Path, folder: Path, name: str) -> Path:
    """Path of a member, which must not lead out of the folder through a link that lies there."""
    target = folder / name
    home = folder.resolve()
    if home not in target.resolve().parents and target.resolve() != home:
        raise DataError(f"{archive}: '{target}' leads out of {folder} through a link")
    return target


def _check_space(archive: Path, folder: Path, needed: int, most: int | None) -> None:
    if most is not None and needed > most:
        raise DataError(
            f"{archive}: unpacked it has {needed / 1e9:.1f} GB, and {most / 1e9:.1f} GB at most are plausible; nothing "
            f"was unpacked, remove it and get the official archive"
        )
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise DataError(
            f"{archive}: unpacked it needs {needed / 1e9:.1f} GB, but {existing} has {free / 1e9:.1f} GB free"
        )
