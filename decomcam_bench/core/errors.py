"""Define errors by who can mend them.

Every error that a user can mend is a :class:`UserError`: the command line prints its message as
one line (what, which value, remedy) and exits with :attr:`~UserError.exit_status`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

#: Names that a message lists, at most, and those that it lists of more.
MOST_NAMES, NEAREST = 24, 8


class UserError(Exception):
    """Report something that the user can put right; the message is one line with the remedy."""

    exit_status = 2


class ConfigError(UserError):
    """Report an unknown name or key, a wrong type, or a value out of range."""


class DataError(UserError):
    """Report a data set that is missing or cannot be read."""


class ModelError(UserError):
    """Report a model, weights or a layer that cannot be had."""


class MethodError(UserError):
    """Report a method that raises, or returns something other than an explanation."""

    exit_status = 1


class StoreError(UserError):
    """Report a results store that is damaged, too new, or locked by another process."""


class StrictError(UserError):
    """Report a bad image or annotation in a run with ``strict=true``."""

    exit_status = 1

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason} (strict=true stops at the first bad image or annotation)")


def nearest(word: str, valid: Iterable[str], count: int = 1) -> list[str]:
    """Return the valid words most like ``word``, ignoring case."""
    by_lower = {name.lower(): name for name in valid}
    return [by_lower[near] for near in difflib.get_close_matches(word.lower(), list(by_lower), n=count, cutoff=0.5)]


def did_you_mean(word: str, valid: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the nearest valid word, or an empty string."""
    near = nearest(word, valid)
    return f" (did you mean '{near[0]}'?)" if near else ""


def unknown(kind: str, word: str, valid: Iterable[str]) -> str:
    """Return one line that refuses ``word`` and names the valid ones (the nearest, where they are many)."""
    names = list(valid)
    return f"unknown {kind} '{word}'{did_you_mean(word, names)}; valid: {listed(names, word)}"


def listed(names: Sequence[str], word: str = "") -> str:
    """Return names for a message: all, or of many those nearest to ``word``."""
    if len(names) <= MOST_NAMES:
        return ", ".join(names)
    shown = nearest(word, names, NEAREST) or names[:NEAREST]
    return f"{', '.join(shown)}, ... ({len(names)} in all)"
