"""Store maps (``save_maps=true``) and read them back, so that metrics are added without the model.

``maps/shard-*.npz`` of a cell, one file per shard, uncompressed, without loss:

    image_index  int32 (n,)           of the pairs that have a map: position of the image in the run
    class_id     int32 (n,)
    native       float32 (n, h, w)    the map before upsampling: 196 bytes at 7 x 7
    mode         text                 how it is upsampled: bilinear, bicubic, or none
    size         int64 (2,)           of the model's input, (H, W)
    forward      int32 (n,)           passes that each map took; absent from older shards
    channels     int64                of the layer, for the passes that all maps took alike
    without_map  int32 (m, 2)         position and class id of the pairs whose map failed, their image sound

The map at input resolution is ``upsample(native, size, mode)``, its negative values set to 0.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from decomcam_bench.core.errors import StoreError
from decomcam_bench.core.mapfiles import SUFFIXES, file_stem
from decomcam_bench.methods.base import Explanation
from decomcam_bench.metrics.base import MapMetric, Metric, Work
from decomcam_bench.store.store import RECORDS, Cell

#: Maps that are upsampled at a time.
CHUNK = 64


@dataclass(frozen=True)
class SavedMaps:
    """Hold the maps of one shard of a cell; see the module."""

    image_index: np.ndarray
    class_id: np.ndarray
    native: np.ndarray
    mode: str
    size: tuple[int, int]
    channels: int
    without_map: frozenset[tuple[int, int]]
    forward: np.ndarray | None = None

    def at_input(self, chosen: Sequence[int], device: torch.device | str = "cpu") -> np.ndarray:
        """Return some of the maps at the model's input resolution, as a run computes them: float32 (n, H, W)."""
        native = torch.from_numpy(self.native[list(chosen)]).to(device)
        return Explanation(native, self.mode).maps(self.size).cpu().numpy()


def pack(
    made: Sequence[tuple[int, int, str, np.ndarray, int]],
    without: Sequence[tuple[int, int]],
    size: tuple[int, int],
    channels: int,
) -> dict[str, np.ndarray]:
    """Return the arrays of a shard.

    Args:
        made: image position, class id, mode, native map, float32 (h, w), and forward passes of each pair with a
            map. Where pairs differ in mode or size, all are stored at the model's input resolution.
        without: image position and class id of each pair whose map failed.
    """
    forms = {(mode, native.shape) for _, _, mode, native, _ in made}
    mode = next(iter(forms))[0] if len(forms) == 1 else "none"
    maps = [native for _, _, _, native, _ in made]
    if len(forms) > 1:
        maps = [Explanation(torch.from_numpy(native)[None], m).maps(size)[0].numpy() for _, _, m, native, _ in made]
    return {
        "image_index": np.array([position for position, *_ in made], dtype=np.int32),
        "class_id": np.array([class_id for _, class_id, *_ in made], dtype=np.int32),
        "native": np.stack(maps) if maps else np.zeros((0, 1, 1), np.float32),
        "mode": np.array(mode),
        "size": np.array(size, dtype=np.int64),
        "forward": np.array([forward for *_, forward in made], dtype=np.int32),
        "channels": np.array(channels, dtype=np.int64),
        "without_map": np.array(without, dtype=np.int32).reshape(-1, 2),
    }


def read_maps(cell: Cell, shard: int) -> SavedMaps:
    """Read the maps of a sealed shard.

    Raises:
        StoreError: if the file is damaged.
    """
    path = cell.shard("maps", shard)
    try:
        with np.load(path, allow_pickle=False) as data:
            height, width = (int(side) for side in data["size"])
            return SavedMaps(
                data["image_index"],
                data["class_id"],
                data["native"],
                str(data["mode"]),
                (height, width),
                int(data["channels"]),
                frozenset((int(position), int(class_id)) for position, class_id in data["without_map"]),
                data["forward"] if "forward" in data.files else None,
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise StoreError(
            f"{path}: damaged ({type(error).__name__}); delete the file and run the same command again"
        ) from error


def suffices(metric: Metric) -> bool:
    """Return True if a metric can be computed from saved maps alone.

    Metrics that run the model, read components, or measure a machine cannot.
    """
    return (
        isinstance(metric, MapMetric)
        and "components" not in metric.needs
        and not any(column.machine for column in metric.columns)
    )


def work_of(cost: Any) -> Work:
    """Return what a map took, from the cost of its method; time and memory are not known."""
    return Work(1 + cost.backbone + cost.scored, cost.head + cost.backward, cost.backward)


def export(cell: Cell, folder: Path) -> int:
    """Write the saved maps of a cell as files that ``method=files`` reads, and return their number.

    They are float32 .npy at the model's input resolution.

    Raises:
        StoreError: when the cell has saved no maps, not all of them, or the folder cannot be written or
            holds maps of other pairs, which would be scored with these.
    """
    missing = sorted(set(range(cell.shards)) - cell.sealed("maps"))
    if missing:
        raise StoreError(
            f"cell {cell.key}: {len(missing)} of {cell.shards} shards of its maps are not saved; "
            f"run it with save_maps=true"
        )
    count = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_others(cell, folder)
        for shard in range(cell.shards):
            records = cell.read_shard(RECORDS, shard)
            saved, names, classes = read_maps(cell, shard), image_ids(records), class_names(records)
            for start in range(0, len(saved.native), CHUNK):
                chosen = range(start, min(start + CHUNK, len(saved.native)))
                for place, saliency in zip(chosen, saved.at_input(chosen), strict=True):
                    stem = file_stem(names[int(saved.image_index[place])], classes[int(saved.class_id[place])])
                    np.save(folder / f"{stem}.npy", saliency)
                    count += 1
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written ({error.strerror}); name another folder") from error
    return count


def _refuse_others(cell: Cell, folder: Path) -> None:
    own: set[str] = set()
    for shard in range(cell.shards):
        records = cell.read_shard(RECORDS, shard)
        ok = records[records["status"] == "ok"]
        own.update(f"{file_stem(*pair)}.npy" for pair in zip(ok["image_id"], ok["class_name"], strict=True))
    others = [file.name for file in folder.iterdir() if file.suffix in SUFFIXES and file.name not in own]
    if others:
        raise StoreError(f"--out {folder}: holds other maps already, such as {min(others)}; name an empty folder")


def class_names(records: pd.DataFrame) -> dict[int, str]:
    """Return the class name, or free text, by class id."""
    return {int(c): str(n) for c, n in zip(records["class_id"], records["class_name"], strict=True)}


def image_ids(records: pd.DataFrame) -> dict[int, str]:
    """Return the image id by position, from the records of a shard."""
    return {int(p): str(i) for p, i in zip(records["position"], records["image_id"], strict=True)}
