"""The WordNet ids of the 1,000 ILSVRC2012 classes, sorted, and first words of synsets.

Read from the lists that timm ships, without importing timm and so without torch.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

from decomcam_bench.core.errors import ConfigError


def _lines(name: str) -> list[str]:
    """Return the lines of one of timm's lists.

    Raises:
        ConfigError: if timm, on which open_clip depends, is not installed.
    """
    package = importlib.util.find_spec("timm")
    if package is None or not package.submodule_search_locations:
        raise ConfigError("timm is not installed: pip install timm")
    file = Path(package.submodule_search_locations[0]) / "data" / "_info" / name
    return file.read_text(encoding="utf-8").splitlines()


@lru_cache(maxsize=1)
def _lemmas() -> dict[str, str]:
    return dict(line.split("\t", 1) for line in _lines("imagenet_synset_to_lemma.txt") if "\t" in line)


def lemma(wnid: str) -> str:
    """Return the first word of a synset, or an empty string for one that is not ImageNet's.

    >>> lemma("n02110063")
    'malamute'
    """
    return _lemmas().get(wnid, "").partition(",")[0].strip()


#: Position is the usual class index.
WNIDS: tuple[str, ...] = tuple(_lines("imagenet_synsets.txt"))
