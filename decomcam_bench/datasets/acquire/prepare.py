"""Get a benchmark ready: fetch what may be fetched, check it, and unpack it into one folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from decomcam_bench.core.errors import DataError
from decomcam_bench.datasets.acquire.archives import unpack
from decomcam_bench.datasets.acquire.catalogue import Archive, Variant
from decomcam_bench.datasets.acquire.download import fetch_any, leftovers, page_title, verify_checksum
from decomcam_bench.datasets.base import printable

Say = Callable[[str], None]
#: Number of an archive's files whose presence shows that it is still unpacked.
WITNESSES = 20
#: Largest plausible unpacked size: SLACK times what the variant takes on disk, plus MARGIN bytes.
SLACK, MARGIN = 4, 100_000_000
#: Lines of a text file that are compared with the form they should have.
LINES_CHECKED = 5


@dataclass
class Preparation:
    """Fetch, check and unpack the archives of one benchmark.

    Attributes:
        root: the target folder; nothing is written outside.
        mirror: fetch ``<mirror>/<file name>`` instead of the official address; checksums hold.
        archives: a folder of archives that the user already has; read only.
        keep: keep fetched archives after unpacking.
        say: takes a line for the user.
        pause: seconds before a lost connection is tried again; doubled each time.
    """

    root: Path
    mirror: str = ""
    archives: Path | None = None
    keep: bool = False
    say: Say = print
    pause: float = 1.0

    def run(self, variant: Variant) -> list[Archive]:
        """Do what can be done, and return the archives that the user has to get by hand.

        Raises:
            DataError: for a failed download, a damaged archive, or too little space.
        """
        if self.archives is not None and not self.archives.is_dir():
            raise DataError(f"--archives {self.archives}: no such folder")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"--root {self.root}: cannot be made a folder ({error.strerror}); name another") from error
        missing = []
        for archive in variant.archives:
            if self._is_done(archive):
                self.say(f"{archive.file_name}: already in place")
                continue
            file, own = self._obtain(archive)
            if file is None:
                missing.append(archive)
                continue
            brought = self._place(archive, file, SLACK * variant.megabytes * 1_000_000 + MARGIN)
            if brought:
                self._mark(archive, brought)
            if own and not self.keep:
                file.unlink(missing_ok=True)
        return [archive for archive in missing if not archive.optional]

    def _own(self, path: Path) -> Path:
        """Return a path that is about to be written.

        Raises:
            DataError: when a link that lies in the root leads it elsewhere.
        """
        try:
            home, target = self.root.resolve(), path.resolve()
        except (OSError, RuntimeError) as error:
            raise DataError(f"{path}: cannot be written ({error}); remove the link") from error
        if home != target and home not in target.parents:
            raise DataError(f"{path}: leads out of {self.root} through a link; remove the link")
        return path

    def _store(self) -> Path:
        return self.root / "archives"

    def _marker(self) -> Path:
        return self._store() / "done.json"

    def _done(self) -> dict[str, list[str]]:
        """Return some of the files that each unpacked archive brought, by archive name."""
        try:
            content = json.loads(self._marker().read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _is_done(self, archive: Archive) -> bool:
        place = self.root / archive.into
        if archive.plain:
            return (place / archive.file_name).is_file()
        brought = self._done().get(archive.file_name)
        return bool(brought) and all((place / name).is_file() for name in brought or ())

    def _mark(self, archive: Archive, brought: list[str]) -> None:
        done = {**self._done(), archive.file_name: brought[:: -(-len(brought) // WITNESSES)]}
        self._own(self._store()).mkdir(parents=True, exist_ok=True)
        temporary = self._own(self._marker().with_suffix(".tmp"))
        temporary.write_text(json.dumps(done, indent=1), encoding="utf-8")
        temporary.replace(self._marker())

    def _obtain(self, archive: Archive) -> tuple[Path | None, bool]:
        """Return the archive's file and whether we fetched it; None for the file if the user has to get it."""
        places = [self._store(), self.root, *([self.archives] if self.archives else [])]
        for place in () if archive.plain else places:
            file = place / archive.file_name
            if file.is_file():
                self._check(archive, file)
                return file, False
        if archive.manual:
            return None, False
        urls = [f"{self.mirror.rstrip('/')}/{archive.file_name}"] if self.mirror else [archive.url, *archive.mirrors]
        target = self._store() / archive.file_name
        for name in (archive.file_name, *leftovers(archive.file_name)):
            self._own(self._store() / name)
        self.say(f"{archive.file_name}: fetching {urls[0]} (about {archive.megabytes} MB)")
        with tqdm(unit="B", unit_scale=True, desc=archive.file_name, leave=False, disable=None) as bar:

            def advance(done: int, total: int | None) -> None:
                bar.total = total
                bar.update(done - bar.n)

            try:
                file = fetch_any(urls, target, archive.checksum, advance, self.pause, self.say)
                _check_lines(archive, file)
            except DataError as error:
                raise DataError(
                    f"{error}; name another address with --mirror URL (URL/{archive.file_name} is fetched), or put the "
                    f"file into {self._store()}"
                ) from error
        self.say(f"{archive.file_name}: {self._verdict(archive)}")
        return file, True

    @staticmethod
    def _verdict(archive: Archive) -> str:
        return (
            f"{archive.checksum.partition(':')[0]} is right" if archive.checksum else "unverified, no checksum is known"
        )

    def _check(self, archive: Archive, file: Path) -> None:
        with file.open("rb") as handle:
            title = page_title(handle.read(20_000))
        if title is not None:
            raise DataError(f"{file}: a web page ('{title}'), not the archive; remove it")
        if not verify_checksum(file, archive.checksum):
            raise DataError(f"{file}: damaged or of another version, its checksum is not {archive.checksum}; remove it")
        self.say(f"{archive.file_name}: found at {file}, {self._verdict(archive)}")

    def _place(self, archive: Archive, file: Path, most: int) -> list[str]:
        """Put the archive's content where it belongs, and return the names of its files (none for a plain file).

        Args:
            most: bytes that it may unpack to.
        """
        folder = self._own(self.root / archive.into)
        folder.mkdir(parents=True, exist_ok=True)
        if archive.plain:
            temporary = self._own(folder / f"{archive.file_name}.tmp")
            temporary.write_bytes(file.read_bytes())
            temporary.replace(folder / archive.file_name)
            return []
        files = self._unpack(file, folder, archive.only, most)
        for name in [name for name in files if PurePosixPath(name).name in archive.nested]:
            inner = folder / name
            files.remove(name)
            files += [str(PurePosixPath(name).parent / one) for one in self._unpack(inner, inner.parent, (), most)]
            inner.unlink()
        if not files:
            raise DataError(f"{file}: holds none of {', '.join(archive.only) or 'the expected files'}")
        self.say(f"{archive.file_name}: {len(files):,} files under {folder}")
        return files

    @staticmethod
    def _unpack(file: Path, folder: Path, only: tuple[str, ...], most: int) -> list[str]:
        with tqdm(unit="file", desc=f"unpack {file.name}", leave=False, disable=None) as bar:

            def advance(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            return unpack(file, folder, only, advance, most)


def _check_lines(archive: Archive, file: Path) -> None:
    """Refuse a text file whose first lines are not of the expected form, and remove it.

    Raises:
        DataError: naming the line.
    """
    if not archive.line:
        return
    with file.open("rb") as handle:
        lines = handle.read(4096).decode("utf-8", "replace").splitlines()
    for line in lines[: LINES_CHECKED if len(lines) > LINES_CHECKED else 1]:
        if not re.fullmatch(archive.line, line.strip()):
            file.unlink(missing_ok=True)
            shown = printable(" ".join(line.split())[:60])
            raise DataError(f"{archive.file_name}: begins with '{shown}', which is no line of it; nothing was kept")
