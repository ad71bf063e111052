"""Gets a benchmark ready: fetches what may be fetched, checks it, unpacks it into one folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from decomcam_bench.datasets.archives import nested_archives, unpack
from decomcam_bench.datasets.catalogue import Archive, Variant
from decomcam_bench.datasets.download import fetch, verify_checksum
from decomcam_bench.errors import DataError

Say = Callable[[str], None]


@dataclass
class Preparation:
    """One run of ``data prepare``.

    Attributes:
        root: the target folder; nothing is written outside.
        mirror: fetch ``<mirror>/<file name>`` instead of the official address; checksums hold.
        archives: a folder of archives that the user already has; read only.
        keep: keep fetched archives after unpacking.
        say: takes a line for the user.
    """

    root: Path
    mirror: str = ""
    archives: Path | None = None
    keep: bool = False
    say: Say = print

    def run(self, variant: Variant) -> list[Archive]:
        """Does what can be done; returns the archives that the user has to get by hand.

        Raises:
            DataError: for a failed download, a damaged archive, or too little space.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        missing = []
        for archive in variant.archives:
            if self._is_done(archive):
                self.say(f"{archive.file_name}: already in place")
                continue
            file, own = self._obtain(archive)
            if file is None:
                missing.append(archive)
                continue
            self._place(archive, file)
            self._mark(archive)
            if own and not self.keep:
                file.unlink(missing_ok=True)
        return [archive for archive in missing if not archive.optional]

    def _store(self) -> Path:
        return self.root / "archives"

    def _marker(self) -> Path:
        return self._store() / "done.json"

    def _done(self) -> dict[str, list[str]]:
        """What was unpacked: archive to the first files that it brought."""
        try:
            content = json.loads(self._marker().read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _is_done(self, archive: Archive) -> bool:
        place = self.root / archive.into
        if archive.plain:
            return (place / archive.file_name).is_file()
        return archive.file_name in self._done() and place.is_dir()

    def _mark(self, archive: Archive) -> None:
        done = {**self._done(), archive.file_name: [archive.checksum or "unverified"]}
        self._store().mkdir(parents=True, exist_ok=True)
        temporary = self._marker().with_suffix(".tmp")
        temporary.write_text(json.dumps(done, indent=1), encoding="utf-8")
        temporary.replace(self._marker())

    def _obtain(self, archive: Archive) -> tuple[Path | None, bool]:
        """The archive's file, and whether it was fetched by us; None if it has to be got by hand."""
        places = [self._store(), self.root, *([self.archives] if self.archives else [])]
        for place in () if archive.plain else places:
            file = place / archive.file_name
            if file.is_file():
                self._check(archive, file)
                return file, False
        if archive.manual:
            return None, False
        url = f"{self.mirror.rstrip('/')}/{archive.file_name}" if self.mirror else archive.url
        self.say(f"{archive.file_name}: fetching {url} (about {archive.megabytes} MB)")
        with tqdm(unit="B", unit_scale=True, desc=archive.file_name, leave=False) as bar:

            def advance(done: int, total: int | None) -> None:
                bar.total = total
                bar.update(done - bar.n)

            file = fetch(url, self._store() / archive.file_name, archive.checksum, advance)
        self.say(f"{archive.file_name}: {self._verdict(archive)}")
        return file, True

    @staticmethod
    def _verdict(archive: Archive) -> str:
        return (
            f"{archive.checksum.partition(':')[0]} is right" if archive.checksum else "unverified, no checksum is known"
        )

    def _check(self, archive: Archive, file: Path) -> None:
        if not verify_checksum(file, archive.checksum):
            raise DataError(f"{file}: damaged or of another version, its checksum is not {archive.checksum}; remove it")
        self.say(f"{archive.file_name}: found at {file}, {self._verdict(archive)}")

    def _place(self, archive: Archive, file: Path) -> None:
        folder = self.root / archive.into
        folder.mkdir(parents=True, exist_ok=True)
        if archive.plain:
            temporary = folder / f"{archive.file_name}.tmp"
            temporary.write_bytes(file.read_bytes())
            temporary.replace(folder / archive.file_name)
            return
        files = self._unpack(file, folder, archive.only)
        for inner in list(nested_archives(folder, archive.nested)):
            files += self._unpack(inner, inner.parent, ())
            inner.unlink()
        if not files:
            raise DataError(f"{file}: holds none of {', '.join(archive.only) or 'the expected files'}")
        self.say(f"{archive.file_name}: {files:,} files under {folder}")

    @staticmethod
    def _unpack(file: Path, folder: Path, only: tuple[str, ...]) -> int:
        with tqdm(unit="file", desc=f"unpack {file.name}", leave=False) as bar:

            def advance(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            return unpack(file, folder, only, advance)
