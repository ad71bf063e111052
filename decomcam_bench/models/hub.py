"""Files of the Hugging Face hub: taken from its cache without network, or fetched, or refused within seconds."""

from __future__ import annotations

import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError

T = TypeVar("T")
#: Where the hub is.
ENDPOINT = constants.ENDPOINT
#: Seconds that a host has to answer before it counts as out of reach.
PATIENCE = 3.0


class HubError(Exception):
    """A file that cannot be had; the message says why in a few words."""


def cached(repository: str, names: Sequence[str], cache_dir: str = "") -> Path | None:
    """Return the first of the files of a repository that is in the cache; asks no network."""
    for name in names:
        found = try_to_load_from_cache(repository, name, cache_dir=cache_dir or None)
        if isinstance(found, str):
            return Path(found)
    return None


def fetch(repository: str, names: Sequence[str], cache_dir: str = "") -> Path:
    """Return the first of the files that a repository has, downloaded unless it is cached.

    Raises:
        HubError: if the hub is out of reach, the repository is not there or not ours to read, or has none of them.
    """
    found = cached(repository, names, cache_dir)
    if found:
        return found
    require_reachable(ENDPOINT)
    for name in names:
        try:
            return Path(hf_hub_download(repository, name, cache_dir=cache_dir or None))
        except EntryNotFoundError:
            continue
        except GatedRepoError as error:
            raise HubError(
                f"{repository} is gated: accept its terms on the hub and log in with `hf auth login`"
            ) from error
        except RepositoryNotFoundError as error:
            raise HubError(f"there is no repository {repository}, or it is private") from error
        except Exception as error:  # whatever its client raises on the way
            raise HubError(_first_line(error)) from error
    raise HubError(f"{repository} has no {' or '.join(names)}")


def require_reachable(url: str) -> None:
    """Return if the host of a URL answers at all, through the proxy if one is set.

    Raises:
        HubError: if it does not within :data:`PATIENCE` seconds, or the user forbids the network.
    """
    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise HubError("HF_HUB_OFFLINE is set")
    answer: list[str] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PATIENCE).close()
            answer.append("")
        except urllib.error.HTTPError:
            answer.append("")  # an answer, if an unfriendly one
        except Exception as error:
            reason = getattr(error, "reason", error)
            answer.append(_first_line(reason if isinstance(reason, Exception) else error))

    asker = threading.Thread(target=ask, daemon=True)  # resolving a name knows no timeout
    asker.start()
    asker.join(PATIENCE + 0.5)
    if not answer or answer[0]:
        raise HubError(f"{url} does not answer" + (f": {answer[0]}" if answer else ""))


@contextmanager
def offline() -> Iterator[None]:
    """Keep the hub's client, also inside other libraries, to what is cached."""
    kept = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = kept


def cache_first(make: Callable[[], T]) -> T:
    """Return what a function of another library makes from the hub, without network if all of it is cached.

    Raises:
        HubError: if something is missing and the hub is out of reach.
    """
    try:
        with offline():
            return make()
    except Exception as error:
        try:
            require_reachable(ENDPOINT)
        except HubError as unreachable:
            raise HubError(f"{_first_line(error)}; {unreachable}") from error
    return make()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
