"""Describe what a results store holds: typed descriptions of cells, metrics, columns and runs.

Every description is one JSON file with a ``schema`` number and a ``digest`` over its content. This module turns
them into objects and back, and reads what earlier schemas wrote. ``docs/store-format.md`` is the promise in words.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from decomcam_bench.config import registry
from decomcam_bench.core.errors import ConfigError
from decomcam_bench.metrics.base import Metric

SCHEMA = 2
#: Labels of a cell in the order of a table's columns.
IDENTITY = ("dataset", "model", "layer", "method", "rank")


def key_of(identity: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of an identity, written canonically."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def plain(value: Any) -> Any:
    """Return a value as JSON gives it back, so that an identity is the same before and after.

    Raises:
        ConfigError: for a type that JSON does not have.
    """
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    raise ConfigError(f"an option of type {type(value).__name__} cannot be part of a cell key")


def shard_size(images: int) -> int:
    """Return the images per shard: a 64th of the run, between 16 and 512, by the number of images alone."""
    return min(512, max(16, -(-images // 64)))


@dataclass(frozen=True)
class ColumnInfo:
    """Describe one number of the data set that a metric reports.

    Attributes:
        name: as the metric calls it.
        label: as tables show it: the name, and options that were changed.
        direction: ``higher``, ``lower`` or ``none``.
        low: smallest possible value, or None.
        high: largest possible value, or None.
        unit: e.g. ``share``, ``px``, ``passes``.
        value: the value of the records whose mean it is, or an empty string.
        detail: True for a number that is shown on request only.
        machine: True for a number that belongs to a machine.
    """

    name: str
    label: str
    direction: str
    low: float | None = None
    high: float | None = None
    unit: str = ""
    value: str = ""
    detail: bool = False
    machine: bool = False


@dataclass(frozen=True)
class MetricInfo:
    """Describe a metric of a cell.

    Attributes:
        id: of the metric's class, the same whatever file holds it.
        version: of the definition that made the values.
        options: all options, resolved for the data set.
        name: of its YAML.
        columns: its numbers.
        overrides: command-line words that set its options again.
        position: place among the metrics of the run that described it.
        source: digest of the source of a class from outside the package, or an empty string.
        created: time at which it was first described, ``YYYY-MM-DD HH:MM:SS``, or an empty string.
    """

    id: str
    version: int
    options: Mapping[str, Any]
    name: str
    columns: tuple[ColumnInfo, ...]
    overrides: tuple[str, ...] = ()
    position: int = 0
    source: str = ""
    created: str = ""
    #: The identity as schema 1 wrote it, from which its key follows.
    earlier: Mapping[str, Any] | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls, metric: Metric, name: str, suffix: str = "", overrides: Sequence[str] = (), position: int = 0
    ) -> MetricInfo:
        """Describe a metric that is resolved for its data set.

        Args:
            metric: the object.
            name: of its YAML.
            suffix: what labels add to the names of its columns, such as ``[tolerance=0]``.
            overrides: command-line words that set its options.
            position: place among the metrics of a run.
        """
        code = registry.code_identity(type(metric))
        columns = [
            ColumnInfo(label=column.name + suffix, **{f.name: getattr(column, f.name) for f in fields(column)})
            for column in metric.columns
        ]
        return cls(
            str(code["id"]),
            int(code["version"]),
            {f.name: plain(getattr(metric, f.name)) for f in fields(metric) if f.init and f.name != "name"},
            name,
            tuple(columns),
            tuple(overrides),
            position,
            str(code.get("source", "")),
            time.strftime("%Y-%m-%d %H:%M:%S"),
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its values: the key is the hash of this."""
        if self.earlier is not None:
            return dict(self.earlier)
        source = {"source": self.source} if self.source else {}
        return {"id": self.id, "version": self.version, **source, "options": dict(self.options)}

    @property
    def carried_over(self) -> str:
        """The options that values of schema 1 were made with and had no name there, or an empty string."""
        if self.earlier is None:
            return ""
        return ", ".join(f"{name}={value}" for name, value in self.options.items() if name not in self.earlier)

    @property
    def key(self) -> str:
        """The folder of its values."""
        return key_of(self.identity)

    @property
    def definition(self) -> str:
        """What is the same for every version of it: id and options."""
        return key_of({"id": self.id, "options": dict(self.options)})

    @property
    def label(self) -> str:
        """The name with the options that tell it from others of that name: ``pointing[tolerance=0]``."""
        first = self.columns[0]
        return self.name + first.label.removeprefix(first.name)

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``metric.json``."""
        return {
            "schema": SCHEMA,
            "id": self.id,
            "version": self.version,
            "options": dict(self.options),
            "name": self.name,
            "columns": [asdict(column) for column in self.columns],
            "overrides": list(self.overrides),
            "position": self.position,
            "source": self.source,
            "created": self.created,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> MetricInfo:
        """Read the content of a ``metric.json``.

        Raises:
            KeyError, TypeError, ValueError: for something else.
        """
        columns = tuple(_column(column) for column in content["columns"])
        _ = columns[0]
        overrides = tuple(str(word) for word in content.get("overrides", ()))
        if int(content.get("schema", 0)) < 2:
            _ = content["config"]["name"]
            identity = dict(content["identity"])
            options = {key: value for key, value in identity.items() if key not in ("impl", "version", "source")}
            known = EARLIER_METRICS.get(str(identity["impl"]), str(identity["impl"]))
            version = int(identity["version"])
            before, now, added = EARLIER_DEFINITIONS.get(known, (0, 0, {}))
            if version == before:
                version, options = now, {**options, **added}
            return cls(
                known,
                version,
                options,
                str(content["name"]),
                columns,
                overrides,
                int(content.get("position", 0)),
                str(identity.get("source", "")),
                earlier=identity,
            )
        info = cls(
            str(content["id"]),
            int(content["version"]),
            dict(content["options"]),
            str(content["name"]),
            columns,
            overrides,
            int(content["position"]),
            str(content["source"]),
            str(content["created"]),
        )
        _check_types(info.to_json(), content)
        return info


def _check_types(written: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Refuse a value that is not of the type in which it is written; keys of a later minor version are left alone.

    Raises:
        ValueError: naming the key.
    """
    for key, value in written.items():
        same = json.dumps(value, sort_keys=True) == json.dumps(found[key], sort_keys=True)
        if not same and key not in ("schema", "columns", "key"):
            raise ValueError(f"{key}={found[key]!r}")


def _column(content: Mapping[str, Any]) -> ColumnInfo:
    known = {key: value for key, value in content.items() if key in ColumnInfo.__dataclass_fields__}
    return ColumnInfo(**known)


@dataclass(frozen=True)
class CellInfo:
    """Describe a cell.

    Attributes:
        identity: what decides its maps; the key is the hash of this.
        labels: by name of :data:`IDENTITY`, what tables show.
        overrides: command-line words that ask for it again.
        choices: by group, the YAML that was chosen.
        images: number of images of the run.
        available: number of images of the data set as it lay there, the run's selection aside; 0 if unknown.
        official: number of images of the complete benchmark; 0 if unknown.
        shard_images: number of images per shard.
        schema: of the files.
    """

    identity: Mapping[str, Any]
    labels: Mapping[str, Any]
    overrides: tuple[str, ...]
    choices: Mapping[str, str]
    images: int
    available: int = 0
    official: int = 0
    shard_images: int = 0
    schema: int = SCHEMA

    @property
    def key(self) -> str:
        """The folder of the cell."""
        return key_of(self.identity)

    @property
    def shards(self) -> int:
        """Number of shards when the cell is complete."""
        return -(-self.images // self.shard_images)

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``cell.json``."""
        return {
            "schema": SCHEMA,
            "key": self.key,
            "identity": dict(self.identity),
            "labels": dict(self.labels),
            "overrides": list(self.overrides),
            "choices": dict(self.choices),
            "images": self.images,
            "available": self.available,
            "official": self.official,
            "shard_images": self.shard_images,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> CellInfo:
        """Read the content of a ``cell.json``.

        Raises:
            KeyError, TypeError, ValueError, ArithmeticError: for something else.
        """
        if int(content.get("schema", 0)) < 2:
            display = dict(content["display"])
            labels = {name: display[name] for name in IDENTITY}
            words = [str(word) for word in display["overrides"]]
            choices = {
                k: v for k, _, v in (word.partition("=") for word in words) if k in ("dataset", "model", "method")
            }
            size, schema = int(content["part_images"]), 1
            more: dict[str, int] = {}
        else:
            labels = {name: content["labels"][name] for name in IDENTITY}
            words, choices = [str(word) for word in content["overrides"]], dict(content["choices"])
            size, schema = int(content["shard_images"]), int(content["schema"])
            more = {name: int(content[name]) for name in ("available", "official")}
        info = cls(
            dict(content["identity"]),
            labels,
            tuple(words),
            choices,
            int(content["images"]),
            shard_images=size,
            schema=schema,
            **more,
        )
        _ = info.shards, int(labels["rank"] or 0)
        if schema >= 2:
            _check_types(info.to_json(), content)
        elif not isinstance(content["images"], int):
            raise ValueError(f"images={content['images']!r}")
        return info


@dataclass(frozen=True)
class RunInfo:
    """Describe what a run took.

    Attributes:
        finished: local time, ``YYYY-MM-DD HH:MM:SS``.
        overrides: of its command line.
        cells: keys of its cells.
        images: images that were evaluated.
        seconds: wall time.
        passes: forward and backward passes by purpose.
        device: ``cpu`` or ``cuda:N``.
        device_name: of the processor or card.
        threads: of PyTorch.
        torch: its version.
        python: its version.
    """

    finished: str = ""
    overrides: tuple[str, ...] = ()
    cells: tuple[str, ...] = ()
    images: int = 0
    seconds: float = 0.0
    passes: Mapping[str, int] = field(default_factory=dict)
    device: str = ""
    device_name: str = ""
    threads: int = 0
    torch: str = ""
    python: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the content of the run's file."""
        return {"schema": SCHEMA, **asdict(self), "overrides": list(self.overrides), "cells": list(self.cells)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RunInfo:
        """Read the content of a run's file.

        Raises:
            KeyError, TypeError, ValueError: for something else.
        """
        known = {key: value for key, value in content.items() if key in cls.__dataclass_fields__}
        known.update({name: tuple(known.get(name, ())) for name in ("overrides", "cells")})
        return cls(**known)


#: What the values of schema 1 are in today's terms, by id: their version there, and today's version with the options
#: that were no options yet. A metric that is not here has either not changed or cannot be carried over.
EARLIER_DEFINITIONS: Mapping[str, tuple[int, int, Mapping[str, str]]] = {
    "pointing": (1, 2, {"via": "input", "ties": "first", "failure": "drop"}),
    "energy": (1, 2, {"via": "input", "failure": "drop"}),
    "otsu_box": (1, 2, {"via": "input", "failure": "drop"}),
    "maxboxacc": (1, 2, {"via": "input", "failure": "drop"}),
    "mean_best_iou": (1, 2, {"via": "input", "failure": "drop"}),
    "pxap": (1, 2, {"via": "input", "failure": "drop"}),
    "causal": (1, 2, {"ties": "raster", "failure": "drop"}),
    "confidence_drop": (1, 2, {"failure": "drop"}),
    "adcc": (1, 2, {"failure": "drop"}),
}
#: Ids of the metrics that schema 1 named by their import path.
EARLIER_METRICS = {
    "decomcam_bench.metrics.bins:AccuracyBins": "accuracy_bins",
    "decomcam_bench.metrics.boxes:MaxBoxAcc": "maxboxacc",
    "decomcam_bench.metrics.boxes:MeanBestIoU": "mean_best_iou",
    "decomcam_bench.metrics.boxes:OtsuBoxAccuracy": "otsu_box",
    "decomcam_bench.metrics.causal:Causal": "causal",
    "decomcam_bench.metrics.confidence:ADCC": "adcc",
    "decomcam_bench.metrics.confidence:ConfidenceDrop": "confidence_drop",
    "decomcam_bench.metrics.efficiency:Efficiency": "efficiency",
    "decomcam_bench.metrics.energy:Energy": "energy",
    "decomcam_bench.metrics.parts:PartAgreement": "parts",
    "decomcam_bench.metrics.pointing:PointingGame": "pointing",
    "decomcam_bench.metrics.pxap:PxAP": "pxap",
}
