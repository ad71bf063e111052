"""Write and read results: sealed Parquet shards in one folder per cell.

    ROOT/cells/<key>/cell.json                     what the cell is (identity) and how it is cut
    ROOT/cells/<key>/records/shard-00000.parquet   one record per pair: was there a map
    ROOT/cells/<key>/metrics/<key>/metric.json     what the metric is
    ROOT/cells/<key>/metrics/<key>/shard-00000.parquet
    ROOT/cells/<key>/maps/shard-00000.npz          with save_maps=true
    ROOT/runs/<time>-<pid>.json                    machine, time and passes of a run

A shard holds the records of a range of image positions. It is written under a temporary name, flushed to disk, then
renamed: a shard that has its name is whole. What is finished is derived from the shards that exist, so a run that was
killed continues after the last sealed shard. ``docs/store-format.md`` describes every file; stores of schema 1 are
read as they are.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from decomcam_bench.core.errors import StoreError
from decomcam_bench.core.files import Writer, publish, writing
from decomcam_bench.core.fingerprint import own_code
from decomcam_bench.core.reasons import failure
from decomcam_bench.store.schema import SCHEMA, CellInfo, MetricInfo, RunInfo, key_of, shard_size

RECORDS = "records"
MAPS = "maps"
#: Columns that every shard has; ``detail`` came with schema 2.
_PAIR = frozenset({"position", "image_id", "class_id", "status", "reason"})
#: Keys of a shard's metadata; schema 1 had three.
_SAID = b"decomcam_bench"
_EARLIER_CODE = b"decomcam_bench_code"
_EARLIER_ROWS = b"decomcam_bench_rows"
_AGAIN = "delete the file and run the same command again"

Content: TypeAlias = "pd.DataFrame | Mapping[str, np.ndarray]"


@dataclass(frozen=True)
class Cell:
    """Read one cell of a store.

    Attributes:
        folder: where its shards lie.
        info: what it is.
    """

    folder: Path
    info: CellInfo

    @property
    def key(self) -> str:
        """The hash of its identity, which is the name of its folder."""
        return self.folder.name

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides its maps."""
        return self.info.identity

    @property
    def labels(self) -> Mapping[str, Any]:
        """What tables show of it: dataset, model, layer, method, rank."""
        return self.info.labels

    @property
    def images(self) -> int:
        """Number of images of the run."""
        return self.info.images

    @property
    def shards(self) -> int:
        """Number of shards when the cell is complete."""
        return self.info.shards

    def stream(self, name: str) -> Path:
        """Return the folder of a stream: ``records``, ``maps``, or the key of a metric."""
        return self.folder / name if name in (RECORDS, MAPS) else self.folder / "metrics" / name

    def shard(self, stream: str, number: int) -> Path:
        """Return the file of a shard."""
        word = "shard" if self.info.schema >= 2 else "part"
        return self.stream(stream) / f"{word}-{number:05d}.{'npz' if stream == MAPS else 'parquet'}"

    def sealed(self, stream: str) -> set[int]:
        """Return the numbers of the shards of a stream that are whole; none of a metric that is not described.

        Raises:
            StoreError: for a shard that a newer version wrote: it is whole, and not to be overwritten.
        """
        folder = self.stream(stream)
        if not folder.is_dir() or not (stream in (RECORDS, MAPS) or (folder / "metric.json").is_file()):
            return set()
        numbers = {number for name in os.listdir(folder) if (number := _number(name)) is not None}
        return {number for number in numbers if number < self.shards and self._whole(stream, number)}

    def present(self, stream: str) -> set[int]:
        """Return the numbers of the shards that are there by name; :meth:`read` refuses a damaged one.

        Raises:
            StoreError: for a shard after the last one that the cell has.
        """
        folder = self.stream(stream)
        names = set(os.listdir(folder)) if folder.is_dir() else set()
        beyond = sorted(n for name in names if (n := _number(name)) is not None and n >= self.shards)
        if beyond:
            raise StoreError(
                f"{self.shard(stream, beyond[0])}: a cell of {self.images} images has {self.shards} shards; {_AGAIN}"
            )
        return {number for number in range(self.shards) if self.shard(stream, number).name in names}

    def complete(self, stream: str = RECORDS) -> bool:
        """Return True if all shards of a stream and of the maps' records are there."""
        return all(len(self.present(name)) == self.shards for name in {RECORDS, stream})

    def _whole(self, stream: str, number: int) -> bool:
        path = self.shard(stream, number)
        try:
            if stream == MAPS:
                with np.load(path, allow_pickle=False) as data:
                    return {"image_index", "without_map", "native", "mode", "size", "channels"} <= set(data.files)
            schema = pq.ParquetFile(path).schema_arrow
            _refuse_newer(path, schema)
            return self._owns(schema, stream, number)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, pa.ArrowException):
            return False

    def _owns(self, schema: pa.Schema, stream: str, number: int) -> bool:
        """Return True if a shard says that it is this one."""
        said = _said(schema)
        place = said.get("shard", said.get("part"))
        return (said.get("cell"), said.get("stream"), place) == (self.key, stream, number)

    def made_by(self, stream: str) -> set[str]:
        """Return the states of the package that made a stream, as :func:`~decomcam_bench.core.fingerprint.own_code`.

        Shards that do not say are left out.
        """
        return self._made_by(stream, "package")

    def code(self, stream: str) -> set[str]:
        """Return the digests of the code that made a stream: of a metric, or of the choices that decide the maps.

        Shards that do not say are left out.
        """
        return self._made_by(stream, "code")

    def _made_by(self, stream: str, word: str) -> set[str]:
        found = set()
        for number in self.present(stream):
            with contextlib.suppress(OSError, ValueError):
                found.add(str(_said(pq.read_schema(self.shard(stream, number))).get(word, "")))
        return found - {""}

    def metrics(self) -> dict[str, MetricInfo]:
        """Return all metrics of the cell by key, in the order in which the run that described them named them.

        Raises:
            StoreError: for a description that is damaged.
        """
        found: dict[str, MetricInfo] = {}
        for file in sorted((self.folder / "metrics").glob("*/metric.json")):
            content = _read_json(file)
            with _described(file):
                info = MetricInfo.from_json(content)
                key = info.key
            if key != file.parent.name:
                raise StoreError(f"{file}: describes metric {key}, not {file.parent.name}; {_AGAIN}")
            found[key] = info
        return dict(sorted(found.items(), key=lambda item: (item[1].position, item[0])))

    def read(self, stream: str, wanted: Callable[[str], bool] | None = None) -> pd.DataFrame:
        """Return all records of a stream in order of image position.

        Args:
            stream: ``records`` or the key of a metric.
            wanted: says of a column's name whether it is read; None for all. Curves are by far the
                largest columns, and no aggregate needs them.

        Raises:
            StoreError: for a shard that is damaged or belongs to another cell.
        """
        tables = [self._read_table(stream, number, wanted) for number in sorted(self.present(stream))]
        if not tables:
            return pd.DataFrame()
        table = pa.concat_tables(tables, promote_options="permissive").to_pandas(ignore_metadata=True)
        return self._migrated(table, wanted)

    def read_shard(self, stream: str, number: int, wanted: Callable[[str], bool] | None = None) -> pd.DataFrame:
        """Return the records of one shard that is there; arguments and errors as :meth:`read`."""
        table = self._read_table(stream, number, wanted).to_pandas(ignore_metadata=True)
        return self._migrated(table, wanted)

    def _migrated(self, table: pd.DataFrame, wanted: Callable[[str], bool] | None) -> pd.DataFrame:
        """Split what schema 1 wrote in one column into code and detail."""
        if self.info.schema >= 2 or "reason" not in table:
            return table
        found = [failure(str(text)) if text else ("", "") for text in table["reason"]]
        table["reason"] = [str(code) for code, _ in found]
        if wanted is None or wanted("detail"):
            table.insert(list(table.columns).index("reason") + 1, "detail", [detail for _, detail in found])
        return table

    def _read_table(self, stream: str, number: int, wanted: Callable[[str], bool] | None) -> pa.Table:
        path = self.shard(stream, number)
        try:
            file = pq.ParquetFile(path, page_checksum_verification=True)
            if _PAIR - set(file.schema_arrow.names):
                raise ValueError("a column is missing")
            if int(_said(file.schema_arrow).get("rows", file.metadata.num_rows)) != file.metadata.num_rows:
                raise ValueError("rows are missing")
            columns = None if wanted is None else [name for name in file.schema_arrow.names if wanted(name)]
            table = file.read(columns)
            _refuse_newer(path, table.schema)
            own = self._owns(table.schema, stream, number)
            pandas_metadata = table.schema.pandas_metadata
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            what = str(error) if type(error) is ValueError else type(error).__name__
            raise StoreError(f"{path}: damaged ({what}); {_AGAIN}") from error
        if not own or not pandas_metadata:
            raise StoreError(f"{path}: belongs to another cell or shard; {_AGAIN}")
        # Shards differ in what their metadata say of themselves.
        return table.replace_schema_metadata({b"pandas": table.schema.metadata[b"pandas"]})


def _number(name: str) -> int | None:
    """Return the number of the shard with a file name; None for another file."""
    stem, _, suffix = name.partition(".")
    word = stem.removeprefix("shard-").removeprefix("part-")
    return int(word) if word != stem and word.isdecimal() and suffix in ("parquet", "npz") else None


def _said(schema: pa.Schema) -> dict[str, Any]:
    """Return what a shard says of itself."""
    metadata = schema.metadata or {}
    said = dict(json.loads(metadata.get(_SAID, b"{}")))
    if _EARLIER_ROWS in metadata:
        said["rows"] = int(metadata[_EARLIER_ROWS])
    if _EARLIER_CODE in metadata:
        said["package"] = metadata[_EARLIER_CODE].decode()
    return said


def _refuse_newer(path: Path, schema: pa.Schema) -> None:
    found = int(_said(schema).get("schema", 0))
    if found > SCHEMA:
        raise StoreError(_newer(path, found))


def _newer(path: Path, schema: int) -> str:
    return (
        f"{path}: written by a newer decomcam-bench (schema {schema}, this one reads {SCHEMA}); "
        f"upgrade with pip install -U decomcam-bench"
    )


def _read_json(path: Path, remedy: str = _AGAIN) -> dict[str, Any]:
    """Return what :func:`write_json` wrote.

    Raises:
        StoreError: when it cannot be read, is too new, or is not what was written.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        newer = content.get("schema", 0) > SCHEMA
        digest = content.pop("digest", None)
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise StoreError(f"{path}: cannot be read ({error}); {remedy}") from error
    if newer:
        raise StoreError(_newer(path, content["schema"]))
    if digest is None:
        raise StoreError(f"{path}: has no digest, which says that nobody has changed it; {remedy}")
    if digest != key_of(content):
        raise StoreError(f"{path}: was changed after it was written; {remedy}")
    found: dict[str, Any] = content
    return found


@contextlib.contextmanager
def _described(path: Path) -> Iterator[None]:
    """Turn a description that lacks something, or holds the wrong kind, into one line."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, ArithmeticError) as error:
        raise StoreError(f"{path}: is damaged ({type(error).__name__}: {error}); {_AGAIN}") from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all, with a digest that tells when it was changed by hand.

    Raises:
        StoreError: when it cannot be written.
    """
    text = json.dumps({**content, "digest": key_of(content)}, indent=2, sort_keys=True)
    publish([(path, lambda stream: _write(stream, text.encode()))])


def _write(stream: Any, data: bytes) -> None:
    stream.write(data)


class Store:
    """Read and write the store under ``root``, which is made when something is first written."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def cell(self, key: str) -> Cell | None:
        """Return the cell of a key, or None.

        Raises:
            StoreError: for a description that is damaged, too new, or of another cell.
        """
        folder = self.root / "cells" / key
        file = folder / "cell.json"
        if not file.is_file():
            return None
        content = _read_json(file)
        with _described(file):
            info = CellInfo.from_json(content)
            usual = shard_size(info.images)
        if info.key != key:
            raise StoreError(f"{file}: describes cell {info.key}, not {key}; give the folder that name or delete it")
        if info.shard_images != usual:
            raise StoreError(
                f"{file}: cuts {info.images} images into shards of {info.shard_images}, not of {usual}; {_AGAIN}"
            )
        return Cell(folder, info)

    def orphans(self) -> list[Path]:
        """Return the folders with shards whose description is gone: of cells, and of metrics of cells."""
        folders = [*self.root.glob("cells/*"), *self.root.glob("cells/*/metrics/*")]
        return [
            folder
            for folder in sorted(folders)
            if not (folder / ("metric.json" if folder.parent.name == "metrics" else "cell.json")).is_file()
            and any(_number(file.name) is not None for file in folder.rglob("*"))
        ]

    def cells(self) -> list[Cell]:
        """Return all cells, sorted by key."""
        folder = self.root / "cells"
        if not folder.is_dir():
            return []
        found = (self.cell(entry.name) for entry in sorted(folder.iterdir()) if entry.is_dir())
        return [cell for cell in found if cell is not None]

    def create(self, info: CellInfo) -> Cell:
        """Return the cell of a description, written if it is not there."""
        existing = self.cell(info.key)
        if existing is not None:
            return existing
        cell = Cell(self.root / "cells" / info.key, info)
        write_json(cell.folder / "cell.json", info.to_json())
        return cell

    @contextlib.contextmanager
    def locked(self, cells: list[Cell]) -> Iterator[None]:
        """Hold cells for writing.

        Raises:
            StoreError: when another process holds one; the message says which.
        """
        with contextlib.ExitStack() as stack:
            for cell in sorted(cells, key=lambda cell: cell.key):
                lock = FileLock(str(cell.folder / "lock"))
                with writing(cell.folder / "lock"):
                    try:
                        lock.acquire(timeout=0)
                    except Timeout:
                        raise StoreError(
                            f"cell {cell.key} ({self.root}) is being written by {_holder(cell.folder)}; wait for it, "
                            f"or use another results folder"
                        ) from None
                stack.callback(lock.release)
                write_json(
                    cell.folder / "holder.json",
                    {
                        "schema": SCHEMA,
                        "pid": os.getpid(),
                        "host": socket.gethostname(),
                        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
                    },
                )
                for leftover in cell.folder.rglob(".*.tmp"):
                    leftover.unlink(missing_ok=True)
            yield

    def describe_metric(self, cell: Cell, info: MetricInfo) -> None:
        """Write what a metric of a cell is, unless it stands there already."""
        file = cell.stream(info.key) / "metric.json"
        if not file.is_file():
            write_json(file, info.to_json())

    def write_run(self, info: RunInfo) -> Path:
        """Write what a run took: machine, seconds, passes."""
        path = self.root / "runs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.json"
        write_json(path, info.to_json())
        return path

    def runs(self) -> list[RunInfo]:
        """Return past runs, oldest first.

        Raises:
            StoreError: for a file that is damaged.
        """
        found = []
        for file in sorted((self.root / "runs").glob("*.json")):
            content = _read_json(file, "delete the file")
            with _described(file):
                found.append(RunInfo.from_json(content))
        return found


def _holder(folder: Path) -> str:
    try:
        holder = _read_json(folder / "holder.json")
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (StoreError, KeyError):
        return "another process"


@dataclass(frozen=True)
class Shard:
    """Hold a shard to be sealed.

    Attributes:
        cell: that it belongs to.
        stream: ``records``, ``maps`` or the key of a metric.
        number: of the shard.
        content: records, or arrays for ``maps``.
        code: digest of the code that its values come from.
    """

    cell: Cell
    stream: str
    number: int
    content: Content
    code: str = ""


def seal(shards: Sequence[Shard]) -> None:
    """Write shards so that each appears whole or not at all.

    All are written and flushed under temporary names before the first is renamed.

    Raises:
        StoreError: when one cannot be written.
    """
    publish([(shard.cell.shard(shard.stream, shard.number), _writer(shard)) for shard in shards])


def _writer(shard: Shard) -> Writer:
    content = shard.content
    if not isinstance(content, pd.DataFrame):
        arrays: dict[str, Any] = dict(content)
        return lambda file: np.savez(file, **arrays)
    said = {
        "schema": SCHEMA,
        "cell": shard.cell.key,
        "stream": shard.stream,
        "shard": shard.number,
        "rows": len(content),
        "code": shard.code,
        "package": own_code(),
    }
    table = pa.Table.from_pandas(content, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), _SAID: json.dumps(said).encode()})
    return lambda file: pq.write_table(table, file, compression="zstd", write_page_checksum=True)
