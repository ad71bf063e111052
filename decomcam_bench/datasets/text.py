"""Decode text files whose encoding nobody stated."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from decomcam_bench.core.errors import ConfigError

#: Tried, and named in messages, where a file is no UTF-8: Chinese, Japanese, Cyrillic, Korean, Western European.
CANDIDATES = ("gbk", "shift_jis", "cp1251", "euc_kr", "cp1252")
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
#: A Latin letter with an accent as Windows writes it, between bytes of ASCII.
_ACCENT = re.compile(rb"(?<![\x80-\xff])[\xc0-\xd6\xd8-\xf6\xf8-\xff](?![\x80-\xff])")


def check_encoding(encoding: str | None) -> None:
    """Refuse the name of an encoding that Python does not know.

    Raises:
        ConfigError: naming it.
    """
    try:
        codecs.lookup(encoding or "utf-8")
    except LookupError:
        raise ConfigError(
            f"dataset.encoding={encoding}: no such encoding; valid: utf-8, utf-16, {', '.join(CANDIDATES)} and others"
        ) from None


def decode(data: bytes, encoding: str | None = None) -> tuple[str, str]:
    """Decode a text file.

    UTF-8, and UTF-16 and UTF-32 with or without a byte order mark, are recognised. Other bytes are
    read as Windows' Western European encoding only if all of them are lone accented letters;
    everything else has to be named.

    Args:
        data: the bytes of the file.
        encoding: as the user states it, or None.

    Returns:
        The text without byte order mark, and the encoding that was used.

    Raises:
        ValueError: if the bytes are not of that encoding, or of none that can be told.
    """
    if encoding and not any(data.startswith(mark) for mark, _ in _BOMS):
        try:
            return data.decode(encoding).removeprefix("\ufeff"), encoding
        except (UnicodeError, ValueError) as error:
            raise ValueError(f"not of the encoding {encoding} ({error})") from None
    guess = next((name for mark, name in _BOMS if data.startswith(mark)), "") or _without_mark(data)
    try:
        return data.decode(guess).removeprefix("\ufeff"), guess
    except UnicodeError as error:
        if guess != "utf-8":
            raise ValueError(f"not of the encoding {guess}, as which it begins ({error})") from None
    if not re.search(rb"[\x80-\xff]", _ACCENT.sub(b"", data)):
        return data.decode("cp1252"), "cp1252"
    fits = [name for name in CANDIDATES if _fits(data, name)]
    raise ValueError("not UTF-8; set dataset.encoding=NAME" + (f" (it could be {', '.join(fits)})" if fits else ""))


def read_text(file: Path, encoding: str | None = None) -> tuple[str, str]:
    """Read and decode a text file; see :func:`decode`.

    Raises:
        ValueError: if it cannot be read or decoded; names the file.
    """
    try:
        return decode(file.read_bytes(), encoding)
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ValueError(f"{file}: cannot be read ({error})") from None


def _without_mark(data: bytes) -> str:
    """Recognise UTF-16 without a mark by the zero bytes of its ASCII characters."""
    head = data[:400]
    if len(head) >= 4 and len(data) % 2 == 0:
        even, odd = head[0::2].count(0), head[1::2].count(0)
        if odd > len(head) // 4 and not even:
            return "utf-16-le"
        if even > len(head) // 4 and not odd:
            return "utf-16-be"
    return "utf-8"


def _fits(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeError:
        return False
    return True
