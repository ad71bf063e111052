"""Fetch archives, resume interrupted downloads, and check what was fetched."""

from __future__ import annotations

import hashlib
import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from decomcam_bench.core.errors import DataError
from decomcam_bench.datasets.base import printable

CHUNK = 1 << 20
TIMEOUT = 60.0
ATTEMPTS = 5
#: The same while other addresses are left.
FEW_ATTEMPTS = 2
#: Temporary refusals besides server errors: request timeout and too many requests.
TRANSIENT = (408, 429)

#: Called with (bytes so far, bytes in all or None).
Progress = Callable[[int, "int | None"], None]


class WebPageError(DataError):
    """A page for people came in place of the file."""


def fetch_any(
    urls: Sequence[str],
    target: Path,
    checksum: str = "",
    progress: Progress | None = None,
    pause: float = 1.0,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Download a file from the first of several addresses that has it; see :func:`fetch`.

    Args:
        urls: of the same file, in order; at least one.
        target, checksum, progress, pause: as for :func:`fetch`.
        say: told about each address that fails while others are left.

    Raises:
        DataError: if none of them has it; names each with its reason.
    """
    reasons = []
    for number, url in enumerate(urls, start=1):
        try:
            return fetch(url, target, checksum, progress, pause, ATTEMPTS if number == len(urls) else FEW_ATTEMPTS)
        except DataError as error:
            reasons.append(str(error))
            if number < len(urls):
                say(f"{error}; trying the next address")
                if not checksum:
                    _forget(target.with_name(target.name + ".part"))  # nothing would notice two halves of two files
    raise DataError("; ".join(reasons))


def fetch(
    url: str,
    target: Path,
    checksum: str = "",
    progress: Progress | None = None,
    pause: float = 1.0,
    attempts: int | None = None,
) -> Path:
    """Download a file, resuming what lies in ``<target>.part``.

    The file gets its name only when it is whole and its checksum is right.

    Args:
        url: http or https.
        target: where the file goes.
        checksum: ``md5:…`` or ``sha256:…``, or empty where the publisher states none; then only
            the length that the server announces is checked.
        progress: told about every chunk.
        pause: seconds before the first new attempt after a lost connection; doubled each time.
        attempts: connections without progress before giving up; None for :data:`ATTEMPTS`.

    Raises:
        WebPageError: if a page for people comes in its place.
        DataError: if the server refuses, the connection fails ``attempts`` times without
            progress, or the file is damaged (then nothing of it is kept).
    """
    attempts = attempts or ATTEMPTS
    if urlsplit(url).scheme not in ("http", "https"):
        raise DataError(f"{url}: only http and https are fetched")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    resumed = part.is_file() and part.stat().st_size > 0
    _complete(url, part, progress or (lambda done, total: None), pause, attempts)
    found = _digest(part, checksum)
    if found != checksum and resumed:
        _forget(part)  # what lay there may be of another version of the file: once more from the start
        _complete(url, part, progress or (lambda done, total: None), pause, attempts)
        found = _digest(part, checksum)
    if found != checksum:
        _forget(part)
        raise DataError(f"{url}: damaged, its checksum is {found} and not {checksum}; nothing was kept, try again")
    part.replace(target)
    _forget(part)
    return target


def is_web_address(url: str) -> bool:
    """Whether files can be fetched from under a URL: http or https, and a host."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not any(c.isspace() for c in url)


def verify_checksum(file: Path, checksum: str) -> bool:
    """Whether a file has a checksum of the form ``md5:…`` or ``sha256:…``; true for an empty one."""
    return _digest(file, checksum) == checksum


def _digest(file: Path, checksum: str) -> str:
    """The file's checksum of the same kind; empty for an empty one."""
    if not checksum:
        return ""
    kind = checksum.partition(":")[0]
    digest = hashlib.new(kind, usedforsecurity=False)
    with file.open("rb") as handle:
        while chunk := handle.read(CHUNK):
            digest.update(chunk)
    return f"{kind}:{digest.hexdigest()}"


def leftovers(name: str) -> tuple[str, str]:
    """Return the names of the temporary files of a download."""
    part = Path(name + ".part")
    return part.name, _tag_file(part).name


def _tag_file(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _tag_file(part).unlink(missing_ok=True)


def _complete(url: str, part: Path, progress: Progress, pause: float, attempts: int) -> None:
    """Continue until the file has the announced length; give up when nothing more comes."""
    failures = 0
    while True:
        before = part.stat().st_size if part.is_file() else 0
        try:
            if _continue(url, part, progress):
                return
            reason = "the connection ended early"
        except WebPageError:
            _forget(part)
            raise
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in TRANSIENT:
                raise DataError(f"{url}: the server says {error.code} {error.reason}") from error
            reason = f"the server says {error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        grown = part.is_file() and part.stat().st_size > before
        failures = 1 if grown else failures + 1
        if failures >= attempts:
            raise DataError(f"{url}: {reason}; what has come is kept, the same command goes on from there")
        time.sleep(pause * 2 ** (failures - 1))


def _continue(url: str, part: Path, progress: Progress) -> bool:
    """One request for what is missing; whether the file is complete now."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "decomcam-bench", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if _tag_file(part).is_file():
            request.add_header("If-Range", _tag_file(part).read_text(encoding="ascii"))
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        announced = (error.headers.get("Content-Range") or "").rpartition("/")[2]
        if announced.isdecimal() and int(announced) == have:
            return True
        _forget(part)
        return False
    with response:
        start, total = _extent(response, have)
        if start != have:
            _forget(part)
            have = 0
        tag = response.headers.get("ETag", "")
        if tag and not tag.startswith("W/") and tag.isascii():
            _tag_file(part).write_text(tag, encoding="ascii")
        with part.open("ab" if have else "wb") as handle:
            while chunk := response.read(CHUNK):
                if not have:
                    _refuse_page(url, chunk)
                handle.write(chunk)
                have += len(chunk)
                progress(have, total)
    return total is None or have == total


def page_title(data: bytes) -> str | None:
    """Return the title of a web page, or None for bytes that begin no page."""
    head = data[:20_000].removeprefix(b"\xef\xbb\xbf").lstrip()
    if not head[:14].lower().startswith((b"<!doctype html", b"<html", b"<head")):
        return None
    found = re.search(rb"<title[^>]*>(.*?)</title>", head, re.IGNORECASE | re.DOTALL)
    return printable(" ".join(found.group(1).decode("utf-8", "replace").split())[:80]) if found else "without a title"


def _refuse_page(url: str, data: bytes) -> None:
    title = page_title(data)
    if title is not None:
        raise WebPageError(f"{url}: a web page ('{title}') came in place of the file")


def _extent(response: http.client.HTTPResponse, have: int) -> tuple[int, int | None]:
    """Where the body begins in the file, and the length of the whole file if announced."""
    if response.status == 206:
        content, _, total = response.headers.get("Content-Range", "").partition("/")
        first = content.removeprefix("bytes ").partition("-")[0]
        if first.isdecimal() and int(first) == have:
            return have, int(total) if total.isdecimal() else None
        raise OSError(f"the server sent the wrong range '{content}'")
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None
