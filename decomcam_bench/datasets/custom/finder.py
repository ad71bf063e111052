"""Find image files by the names that annotation files give them."""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from decomcam_bench.datasets.custom.label_studio import short_name

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
#: Folders of pictures that are masks or labels, not images.
NOT_IMAGES = ("masks", "mask", "segmentationclass", "segmentationobject", "labels", "annotations")
#: An index holds at most so many files.
MAX_FILES = 2_000_000
_UPLOAD = re.compile(r"^[0-9a-f]{8}-")


class ImageFinder:
    """Looks for images in several folders, as written first, then by name anywhere below them.

    Names may hold backslashes, drives, addresses and upload paths, be written in another Unicode
    form or case, or carry the prefix that Label Studio puts in front of uploaded files.

    Args:
        folders: places to look in, in order; those that do not exist are skipped.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = list(dict.fromkeys(folder for folder in folders if folder.is_dir()))
        self._index: dict[str, list[str]] | None = None

    def find(self, name: str, near: Path | None = None, by_stem: bool = False) -> Path:
        """Return the file of an image.

        Args:
            name: as the annotation file writes it.
            near: folder to look in first.
            by_stem: take an image with the same stem and another ending.

        Raises:
            ValueError: if the name leads out of the folders, or fits several files.
            FileNotFoundError: if there is no such image; names the nearest.
        """
        tails = self._clean(name)
        folders = [*([near] if near is not None and near.is_dir() else []), *self.folders]
        for clean in tails:
            for folder in folders:
                if (folder / clean).is_file():
                    return folder / clean
                if by_stem and (found := _with_ending(folder, clean)):
                    return found
        clean = tails[0]
        found_names = self._by_name(clean, by_stem)
        if len(found_names) > 1:
            shown = " and ".join(sorted(found_names)[:2])
            raise ValueError(f"'{name}' fits {len(found_names)} files, {shown} among them; write its path")
        if found_names:
            return Path(found_names[0])
        place = folders[0] / clean if folders else Path(clean)
        raise FileNotFoundError(f"{place}: no such image{self._nearest(clean)}")

    def _clean(self, name: str) -> list[str]:
        """Return the relative paths that a name may mean: one, or the ends of an absolute path.

        Raises:
            ValueError: if the name is empty or leads out of the folders.
        """
        folder = self.folders[0] if self.folders else Path()
        text = name.replace("\\", "/")
        if "\0" in text or not text.strip("/ ") or ".." in PurePosixPath(text).parts:
            raise ValueError(f"file name '{name}' leads out of {folder}, to which it must be relative")
        if re.match(r"^[A-Za-z][A-Za-z0-9+.\-]+://", text) or text.startswith("/data/"):
            text = unquote(short_name(text))
        absolute = bool(re.match(r"^[A-Za-z]:", text)) or text.startswith("/")
        parts = [part for part in PurePosixPath(text).parts if part not in (".", "/")]
        if not parts or ".." in parts:
            raise ValueError(f"file name '{name}' leads out of {folder}, to which it must be relative")
        if absolute:
            parts = parts[1:] if ":" in parts[0] and len(parts) > 1 else parts
            return ["/".join(parts[-count:]) for count in range(min(len(parts), 4), 0, -1)]
        return ["/".join(parts)]

    def _by_name(self, clean: str, by_stem: bool) -> list[str]:
        """Return files whose path ends like the name, or whose own name is it."""
        index = self._files()
        key = _key(clean)
        base = key.rpartition("/")[2]
        keys = [key, base, _UPLOAD.sub("", base)]
        if by_stem:
            keys += [f"{stem}." for stem in dict.fromkeys(one[: -len(_ending(one)) or None] for one in keys)]
        for one in keys:
            if one in index:
                found = index[one]
                exact = [path for path in found if path.endswith("/" + clean)]
                return exact if len(exact) == 1 else found
        return []

    def _files(self) -> dict[str, list[str]]:
        """Return paths by relative path, by file name, and by stem followed by a point."""
        if self._index is None:
            self._index = {}
            count = 0
            for folder in self.folders:
                for place, names, files in os.walk(folder):
                    names[:] = sorted(one for one in names if one.lower() not in NOT_IMAGES and not one.startswith("."))
                    for file in sorted(files):
                        if not file.lower().endswith(ENDINGS) or count >= MAX_FILES:
                            continue
                        count += 1
                        self._add(os.path.join(place, file), folder)
        return self._index

    def _add(self, path: str, folder: Path) -> None:
        assert self._index is not None
        relative = _key(os.path.relpath(path, folder).replace(os.sep, "/"))
        base = relative.rpartition("/")[2]
        stem = base[: -len(_ending(base)) or None]
        for key in dict.fromkeys((relative, base, f"{stem}.")):
            known = self._index.setdefault(key, [])
            if not any(os.path.samefile(path, one) for one in known):
                known.append(path)

    def _nearest(self, clean: str) -> str:
        names = {key for key in self._files() if not key.endswith(".") and "/" not in key}
        near = difflib.get_close_matches(_key(clean).rpartition("/")[2], names, n=1, cutoff=0.6)
        return f" (the nearest is {Path(self._files()[near[0]][0]).name})" if near else ""


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _ending(name: str) -> str:
    suffix = PurePosixPath(name).suffix
    return suffix if suffix.lower() in ENDINGS else ""


def _with_ending(folder: Path, clean: str) -> Path | None:
    """Return the image of that stem in a folder, whatever its ending."""
    stem = clean[: -len(_ending(clean)) or None]
    for ending in (*ENDINGS, *(ending.upper() for ending in ENDINGS)):
        if (folder / f"{stem}{ending}").is_file():
            return folder / f"{stem}{ending}"
    return None
