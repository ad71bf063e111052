"""The words of a text tower that looks phrases up: which classes each phrase stands for, and how texts become phrases.

A text is cut into the longest phrases that the vocabulary holds. Words that only dress a name up (those of CLIP's
prompt templates, articles, prepositions) are dropped unless a phrase holds them.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from decomcam_bench.datasets.prompts import TEMPLATE_SETS, resolve_templates

Phrase = tuple[str, ...]

#: Function words that name nothing, besides those of the prompt templates.
_FUNCTION_WORDS = (
    "an any are as at be been being by each for from has have her here his i image into is it its me no not on or our "
    "over s shot shown some that their there these they this those three two under very view was we were which with "
    "you your"
)
#: Phrases of a text beyond this many are left out.
CONTEXT_LENGTH = 16


def words_of(text: str) -> list[str]:
    """Return the lower-case words of a text, without punctuation.

    >>> words_of("A photo of a potter's wheel (ring-necked).")
    ['a', 'photo', 'of', 'a', 'potters', 'wheel', 'ring', 'necked']
    """
    return re.findall(r"\w+", re.sub(r"['’]", "", text.casefold()).replace("_", " "))


@lru_cache(maxsize=1)
def dressing() -> frozenset[str]:
    """Return the words that never change what a text names."""
    templates = (template for name in TEMPLATE_SETS for template in resolve_templates(name))
    named = {word for template in templates for word in words_of(template.replace("{}", " "))}
    return frozenset(_FUNCTION_WORDS.split()) | (
        named - {"bird"}
    )  # in 'a photo of a {}, a type of bird.' the last word names something


def singulars(word: str) -> Iterable[str]:
    """Yield what an English word may be the regular plural of.

    >>> list(singulars("ponies")), list(singulars("buses")), list(singulars("glass"))
    (['pony', 'ponie'], ['bus', 'buse'], [])
    """
    if len(word) < 4 or not word.endswith("s") or word.endswith("ss"):
        return
    if word.endswith("ies"):
        yield f"{word[:-3]}y"
    elif word.endswith(("ses", "xes", "zes", "ches", "shes", "oes")):
        yield word[:-2]
    yield word[:-1]


@dataclass(frozen=True)
class Reading:
    """What a tokenizer made of one text.

    Attributes:
        phrases: ids of the phrases found, in order; 0 is no phrase.
        unknown: words that it neither knows nor ignores.
    """

    phrases: tuple[int, ...]
    unknown: tuple[str, ...]


class PhraseTokenizer:
    """Turn texts into ids of known phrases: the longest match first, plurals as their singulars.

    Args:
        vocabulary: classes of each phrase. Ids count from 1 in its order; 0 pads.
    """

    def __init__(self, vocabulary: Mapping[Phrase, Sequence[int]]) -> None:
        self.vocabulary = vocabulary
        self._ids = {phrase: number for number, phrase in enumerate(vocabulary, start=1)}
        self._longest = max((len(phrase) for phrase in vocabulary), default=1)

    def read(self, text: str) -> Reading:
        """Return the phrases of a text and the words that were left over."""
        words, found, unknown, position = words_of(text), [], [], 0
        while position < len(words):
            number, length = self._match(words[position : position + self._longest])
            if number:
                found.append(number)
            elif words[position] not in dressing():
                unknown.append(words[position])
            position += length
        return Reading(tuple(found), tuple(unknown))

    def _match(self, words: Sequence[str]) -> tuple[int, int]:
        """Return the id of the longest phrase at the start of ``words``, 0 if there is none, and its length."""
        for length in range(len(words), 0, -1):
            head, last = tuple(words[: length - 1]), words[length - 1]
            if length == 1 and last in dressing():
                break
            for form in (last, *singulars(last)):
                number = self._ids.get((*head, form))
                if number:
                    return number, length
        return 0, 1

    def __call__(self, texts: str | Iterable[str]) -> Tensor:
        """Return phrase ids, int64 (len(texts), CONTEXT_LENGTH); phrases beyond that are left out."""
        batch = [texts] if isinstance(texts, str) else list(texts)
        tokens = torch.zeros(len(batch), CONTEXT_LENGTH, dtype=torch.long)
        for row, text in enumerate(batch):
            ids = self.read(text).phrases[:CONTEXT_LENGTH]
            tokens[row, : len(ids)] = torch.tensor(ids, dtype=torch.long)
        return tokens


def read_vocabulary(file: Path) -> dict[Phrase, tuple[int, ...]]:
    """Return the classes of each phrase, from a CSV with the columns ``words`` and ``classes``.

    ``words`` holds phrases between ``|``; ``classes`` holds numbers and ranges such as ``151-268 275``.
    """
    vocabulary: dict[Phrase, tuple[int, ...]] = {}
    with file.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            classes = parse_ranges(row["classes"])
            for phrase in row["words"].split("|"):
                vocabulary[tuple(words_of(phrase))] = classes
    return vocabulary


def parse_ranges(text: str) -> tuple[int, ...]:
    """Return the numbers of a list of ranges.

    >>> parse_ranges("1 3-5")
    (1, 3, 4, 5)
    """
    numbers: list[int] = []
    for item in text.split():
        first, _, last = item.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return tuple(numbers)


def format_ranges(numbers: Iterable[int]) -> str:
    """Return numbers as :func:`parse_ranges` reads them, sorted.

    >>> format_ranges([5, 1, 3, 4])
    '1 3-5'
    """
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return " ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
