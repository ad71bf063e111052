"""List the pairs of a run, for programs that compute their maps elsewhere."""

from __future__ import annotations

import csv
from pathlib import Path

from decomcam_bench.config import registry
from decomcam_bench.config.settings import RunConfig
from decomcam_bench.core.errors import ConfigError, DataError
from decomcam_bench.core.mapfiles import file_stem
from decomcam_bench.datasets.base import Dataset, printable
from decomcam_bench.datasets.subsets import select
from decomcam_bench.tables.formats import defused_text

COLUMNS = ("image_id", "class_id", "class_name", "text", "image", "width", "height", "file")


def write_pairs(config: RunConfig, out: Path) -> int:
    """Write a CSV (UTF-8) with one row per pair and return the number of pairs.

    Columns: ``image_id``, ``class_id``, ``class_name`` (the data set's own), ``text`` (the prompts,
    joined by `` | ``; their embeddings are averaged), ``image`` (its file, empty for pictures that
    are drawn), ``width`` and ``height`` of the original image in pixels, and ``file``, the name of the
    map that ``method=files`` looks for. A class name that a spreadsheet would compute has an apostrophe in
    front. Pairs that cannot be evaluated are left out.

    Raises:
        ConfigError: when the configuration names several data sets.
        DataError: when the file cannot be written.
    """
    first = config.settings[0]
    kinds = {(str(sorted(s.dataset.items(), key=str)), s.keys.limit) for s in config.settings}
    if len(kinds) > 1:
        raise ConfigError("data export-pairs writes the pairs of one data set; name one, and one limit")
    dataset: Dataset = registry.build("dataset", first.dataset)
    selection = select(dataset, first.keys.limit)
    texts = dataset.prompts.texts(dataset)
    count = 0
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with open(out, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(COLUMNS)
            for index in selection.indices:
                sample = dataset.sample(index)
                if sample.error:
                    continue
                place = _image(dataset, index)
                for target in sample.targets:
                    if not selection.keeps(sample, target):
                        continue
                    writer.writerow(
                        [
                            sample.image_id,
                            target.class_id,
                            defused_text(target.class_name),
                            " | ".join(texts[target.class_id]),
                            place,
                            sample.width,
                            sample.height,
                            f"{file_stem(sample.image_id, printable(target.class_name))}.npy",
                        ]
                    )
                    count += 1
    except OSError as error:
        raise DataError(f"--out {out}: cannot be written ({error.strerror}); name another file") from error
    return count


def _image(dataset: Dataset, index: int) -> str:
    """Return the path of an image, or an empty string for a data set without files."""
    find = getattr(dataset, "image_file", None)
    try:
        return str(find(index)) if find else ""
    except ValueError:
        return ""
