"""The results store: sealed Parquet parts under one folder a cell.

    ROOT/cells/<key>/cell.json                    what the cell is (identity) and how it is cut
    ROOT/cells/<key>/records/part-00000.parquet   one record a pair: was there a map
    ROOT/cells/<key>/metrics/<key>/metric.json    what the metric is
    ROOT/cells/<key>/metrics/<key>/part-00000.parquet
    ROOT/cells/<key>/maps/part-00000.npz          with save_maps=true
    ROOT/runs/<time>-<pid>.json                   machine, time and passes of a run

A part holds the records of a range of image positions. It is written under a temporary name,
flushed to disk, then renamed: a part that has its name is whole. What is finished is derived from
the parts that exist, so a run that was killed continues behind the last sealed part.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from decomcam_bench.core.errors import StoreError
from decomcam_bench.core.fingerprint import own_code

SCHEMA = 1
RECORDS = "records"
#: Columns that every part has.
_PAIR = frozenset({"position", "image_id", "class_id", "status", "reason"})
#: In the metadata of a part: which code made it, and how many records it has.
_CODE = b"decomcam_bench_code"
_ROWS = b"decomcam_bench_rows"
_AGAIN = "delete the file and run the same command again"


def key_of(identity: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of the SHA-256 of an identity, written canonically."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def part_size(images: int) -> int:
    """Images a part: a 64th of the run, between 16 and 512; decided by the number of images alone."""
    return min(512, max(16, -(-images // 64)))


@dataclass(frozen=True)
class Cell:
    """One cell of a store.

    Attributes:
        folder: where its parts lie.
        identity: what decides its maps.
        display: labels of the table (dataset, model, layer, method, rank) and what they stand for.
        images: images of the run.
        part_images: images a part.
    """

    folder: Path
    identity: Mapping[str, Any]
    display: Mapping[str, Any]
    images: int
    part_images: int

    @property
    def key(self) -> str:
        return self.folder.name

    @property
    def parts(self) -> int:
        """Number of parts when the cell is complete."""
        return -(-self.images // self.part_images)

    def stream(self, name: str) -> Path:
        """The folder of a stream: ``records``, ``maps``, or the key of a metric."""
        return self.folder / name if name in (RECORDS, "maps") else self.folder / "metrics" / name

    def part(self, stream: str, number: int) -> Path:
        suffix = "npz" if stream == "maps" else "parquet"
        return self.stream(stream) / f"part-{number:05d}.{suffix}"

    def sealed(self, stream: str) -> set[int]:
        """Numbers of the parts of a stream that can be read to the end; none of a metric that is not described.

        Raises:
            StoreError: for a part that a newer version wrote: it is whole, and not to be written over.
        """
        folder = self.stream(stream)
        if not folder.is_dir() or not (stream in (RECORDS, "maps") or (folder / "metric.json").is_file()):
            return set()
        numbers = {number for name in os.listdir(folder) if (number := _number(name)) is not None}
        return {number for number in numbers if number < self.parts and self._whole(stream, number)}

    def present(self, stream: str) -> set[int]:
        """Numbers of the parts of a stream that are there by name; :meth:`read` refuses a damaged one.

        Raises:
            StoreError: for a part behind the last one that the cell has.
        """
        folder = self.stream(stream)
        names = set(os.listdir(folder)) if folder.is_dir() else set()
        beyond = sorted(n for name in names if (n := _number(name)) is not None and n >= self.parts)
        if beyond:
            raise StoreError(
                f"{self.part(stream, beyond[0])}: a cell of {self.images} images has {self.parts} parts; {_AGAIN}"
            )
        return {number for number in range(self.parts) if self.part(stream, number).name in names}

    def _whole(self, stream: str, number: int) -> bool:
        try:
            if stream == "maps":
                with np.load(self.part(stream, number), allow_pickle=False) as data:
                    return {"image_index", "without_map", "native", "mode", "size", "channels"} <= set(data.files)
            schema = pq.ParquetFile(self.part(stream, number)).schema_arrow
            _refuse_newer(self.part(stream, number), schema)
            return _check(schema, self.key, stream, number)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, pa.ArrowException):
            return False

    def made_by(self, stream: str) -> set[str]:
        """The code that made the parts of a stream, as :func:`~decomcam_bench.core.fingerprint.own_code`;
        parts that do not say are left out."""
        found = set()
        for number in self.present(stream):
            with contextlib.suppress(OSError, ValueError):
                found.add((pq.read_schema(self.part(stream, number)).metadata or {}).get(_CODE, b"").decode())
        return found - {""}

    def metrics(self) -> dict[str, dict[str, Any]]:
        """The metrics of the cell by key: what their ``metric.json`` says, oldest name first.

        Of a metric that was raised to a new version, and evaluated again, the newest alone.
        """
        found: dict[str, dict[str, Any]] = {}
        newest: dict[str, tuple[int, str]] = {}
        for file in sorted((self.folder / "metrics").glob("*/metric.json")):
            content = _read_json(file)
            with _described(file):
                columns = [(column["name"], column["label"], column["direction"]) for column in content["columns"]]
                _ = str(content["name"]), dict(content["config"]), columns[0]
                key = key_of(content["identity"])
            if key != file.parent.name:
                raise StoreError(f"{file}: describes metric {key}, not {file.parent.name}; {_AGAIN}")
            found[key] = content
            version = int(content["identity"].get("version", 0))
            same = key_of({name: value for name, value in content["identity"].items() if name != "version"})
            newest[same] = max(newest.get(same, (-1, "")), (version, key))
        found = {key: found[key] for _, key in newest.values()}
        return dict(sorted(found.items(), key=lambda item: (item[1].get("position", 0), item[0])))

    def read(self, stream: str, wanted: Callable[[str], bool] | None = None) -> pd.DataFrame:
        """All records of a stream in order of image position.

        Args:
            stream: ``records`` or the key of a metric.
            wanted: says of a column's name whether it is read; None for all. Curves are by far the
                largest columns, and no aggregate needs them.

        Raises:
            StoreError: for a part that is damaged or belongs to another cell.
        """
        tables = [self._read_table(stream, number, wanted) for number in sorted(self.present(stream))]
        if not tables:
            return pd.DataFrame()
        return pa.concat_tables(tables, promote_options="permissive").to_pandas(ignore_metadata=True)

    def read_part(self, stream: str, number: int, wanted: Callable[[str], bool] | None = None) -> pd.DataFrame:
        """The records of one part that is there; arguments and errors as :meth:`read`."""
        return self._read_table(stream, number, wanted).to_pandas(ignore_metadata=True)

    def _read_table(self, stream: str, number: int, wanted: Callable[[str], bool] | None) -> pa.Table:
        path = self.part(stream, number)
        try:
            file = pq.ParquetFile(path, page_checksum_verification=True)
            if _PAIR - set(file.schema_arrow.names):
                raise ValueError("a column is missing")
            rows = str(file.metadata.num_rows).encode()
            if (file.schema_arrow.metadata or {}).get(_ROWS, rows) != rows:
                raise ValueError("rows are missing")
            columns = None if wanted is None else [name for name in file.schema_arrow.names if wanted(name)]
            table = file.read(columns)
            _refuse_newer(path, table.schema)
            own = _check(table.schema, self.key, stream, number)
            pandas_metadata = table.schema.pandas_metadata
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise StoreError(f"{path}: damaged ({_said(error)}); {_AGAIN}") from error
        if not own or not pandas_metadata:
            raise StoreError(f"{path}: belongs to another cell or part; {_AGAIN}")
        # Parts differ in what their metadata say of themselves.
        return table.replace_schema_metadata({b"pandas": table.schema.metadata[b"pandas"]})


def _number(name: str) -> int | None:
    """Of a part, by the name of its file; None for another file."""
    stem, _, suffix = name.partition(".")
    word = stem.removeprefix("part-")
    return int(word) if word != stem and word.isdecimal() and suffix in ("parquet", "npz") else None


def _said(error: Exception) -> str:
    return str(error) if type(error) is ValueError else type(error).__name__


def _check(schema: pa.Schema, key: str, stream: str, number: int) -> bool:
    said = (schema.metadata or {}).get(b"decomcam_bench")
    return said is not None and json.loads(said) == {"schema": SCHEMA, "cell": key, "stream": stream, "part": number}


def _refuse_newer(path: Path, schema: pa.Schema) -> None:
    said = (schema.metadata or {}).get(b"decomcam_bench")
    found = int(json.loads(said)["schema"]) if said else 0
    if found > SCHEMA:
        raise StoreError(_newer(path, found))


def _newer(path: Path, schema: int) -> str:
    return (
        f"{path}: written by a newer decomcam-bench (schema {schema}, this one reads {SCHEMA}); "
        f"upgrade with pip install -U decomcam-bench"
    )


def _read_json(path: Path, remedy: str = _AGAIN) -> dict[str, Any]:
    """What :func:`write_json` wrote.

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
    return content


@contextlib.contextmanager
def _described(path: Path) -> Iterator[None]:
    """What is missing of a description, or is of the wrong kind, as one line."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, ArithmeticError) as error:
        raise StoreError(f"{path}: is damaged ({type(error).__name__}: {error}); {_AGAIN}") from error


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """A disk that is full or read-only as one line."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written ({error.strerror or error}); make room or name another results folder"
        ) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file whole or not at all, with a digest that tells when it was changed by hand."""
    temporary = _temporary(path)
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "w", encoding="utf-8") as stream:
            json.dump({**content, "digest": key_of(content)}, stream, indent=2, sort_keys=True)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)


class Store:
    """A store under ``root``; made when something is first written."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def cell(self, key: str) -> Cell | None:
        """The cell of a key, or None."""
        folder = self.root / "cells" / key
        file = folder / "cell.json"
        if not file.is_file():
            return None
        content = _read_json(file)
        with _described(file):
            cell = Cell(folder, content["identity"], content["display"], content["images"], content["part_images"])
            _ = [cell.display[name] for name in ("dataset", "model", "layer", "method", "overrides")]
            _ = cell.parts, int(cell.display["rank"] or 0), dict(cell.identity)
            usual = part_size(cell.images)
        if key_of(cell.identity) != key:
            raise StoreError(
                f"{file}: describes cell {key_of(cell.identity)}, not {key}; give the folder that name or delete it"
            )
        if cell.part_images != usual:
            raise StoreError(
                f"{file}: cuts {cell.images} images into parts of {cell.part_images}, not of {usual}; {_AGAIN}"
            )
        return cell

    def orphans(self) -> list[Path]:
        """Folders with parts whose description is gone: of cells, and of metrics of cells."""
        folders = [*self.root.glob("cells/*"), *self.root.glob("cells/*/metrics/*")]
        return [
            folder
            for folder in sorted(folders)
            if not (folder / ("metric.json" if folder.parent.name == "metrics" else "cell.json")).is_file()
            and any(folder.rglob("part-*"))
        ]

    def cells(self) -> list[Cell]:
        """All cells, sorted by key."""
        folder = self.root / "cells"
        if not folder.is_dir():
            return []
        found = (self.cell(entry.name) for entry in sorted(folder.iterdir()) if entry.is_dir())
        return [cell for cell in found if cell is not None]

    def create(self, identity: Mapping[str, Any], display: Mapping[str, Any], images: int) -> Cell:
        """The cell of an identity, written if it is not there."""
        key = key_of(identity)
        existing = self.cell(key)
        if existing is not None:
            return existing
        cell = Cell(self.root / "cells" / key, identity, display, images, part_size(images))
        content = {"identity": identity, "display": display, "images": images, "part_images": cell.part_images}
        write_json(cell.folder / "cell.json", {"schema": SCHEMA, "key": key, **content})
        return cell

    @contextlib.contextmanager
    def locked(self, cells: list[Cell]) -> Iterator[None]:
        """Holds cells for writing.

        Raises:
            StoreError: when another process holds one; the message says which.
        """
        with contextlib.ExitStack() as stack:
            for cell in sorted(cells, key=lambda cell: cell.key):
                lock = FileLock(str(cell.folder / "lock"))
                with _writing(cell.folder / "lock"):
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

    def describe_metric(self, cell: Cell, key: str, content: Mapping[str, Any]) -> None:
        """Writes what a metric of a cell is, unless it stands there already."""
        file = cell.stream(key) / "metric.json"
        if not file.is_file():
            write_json(file, {"schema": SCHEMA, **content})

    def write_run(self, content: Mapping[str, Any]) -> Path:
        """Keeps what a run took: machine, seconds, passes."""
        path = self.root / "runs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.json"
        write_json(path, {"schema": SCHEMA, **content})
        return path

    def runs(self) -> list[dict[str, Any]]:
        """Past runs, oldest first."""
        return [_read_json(file, "delete the file") for file in sorted((self.root / "runs").glob("*.json"))]


def _holder(folder: Path) -> str:
    try:
        holder = _read_json(folder / "holder.json")
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (StoreError, KeyError):
        return "another process"


def seal(cell_parts: list[tuple[Cell, str, int, pd.DataFrame | Mapping[str, np.ndarray]]]) -> None:
    """Writes parts so that each appears whole or not at all.

    All are written and flushed under temporary names before the first is renamed.

    Args:
        cell_parts: (cell, stream, part number, records), or arrays for the stream ``maps``.
    """
    renames: list[tuple[Path, Path]] = []
    try:
        for cell, stream, number, content in cell_parts:
            path = cell.part(stream, number)
            temporary = _temporary(path)
            renames.append((temporary, path))
            with _writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(temporary, "wb") as file:
                    _writer(cell, stream, number, content)(file)
                    file.flush()
                    os.fsync(file.fileno())
        for temporary, path in renames:
            with _writing(path):
                temporary.replace(path)
    except StoreError:
        for temporary, _ in renames:
            temporary.unlink(missing_ok=True)
        raise
    for folder in {path.parent for _, path in renames}:
        _sync_folder(folder)


def _writer(
    cell: Cell, stream: str, number: int, content: pd.DataFrame | Mapping[str, np.ndarray]
) -> Callable[[Any], None]:
    if not isinstance(content, pd.DataFrame):
        arrays = dict(content)
        return lambda file: np.savez(file, **arrays)
    said = json.dumps({"schema": SCHEMA, "cell": cell.key, "stream": stream, "part": number})
    table = pa.Table.from_pandas(content, preserve_index=False)
    own = {b"decomcam_bench": said.encode(), _CODE: own_code().encode(), _ROWS: str(len(content)).encode()}
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **own})
    return lambda file: pq.write_table(table, file, compression="zstd", write_page_checksum=True)
