"""The regression gate: a store against a baseline, one judgement for each number.

=============== ==========================================================================
pass            as good as the baseline, within the tolerance
improved        better by more than the tolerance; `baseline update` would keep it
regressed       worse by more than the tolerance
failed          the number or some pairs are not there any more, or more pairs fail or are skipped
missing         the store does not have it, or not all of it
incomparable    the store has something else in its place: the identity says in what; or its
                records were made by other code than is installed; or better is another direction
=============== ==========================================================================

Whether a number regressed is decided by the tolerance alone: over the same images any difference is
real, and the question is whether it matters. The paired comparison says how sure the direction is
on other images.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from decomcam_bench.config import registry
from decomcam_bench.core.errors import ConfigError, unknown
from decomcam_bench.core.fingerprint import own_code
from decomcam_bench.gate.baseline import read_baseline
from decomcam_bench.metrics.base import Column, Metric
from decomcam_bench.stats.comparison import Comparison, compare
from decomcam_bench.store.reader import evaluated, image_values, metric_of, metric_records, metrics_of
from decomcam_bench.store.schema import MetricInfo
from decomcam_bench.store.store import RECORDS, Cell, Store
from decomcam_bench.tables.cells import counts, is_complete

STATES = ("pass", "improved", "regressed", "failed", "missing", "incomparable")
WORST = 10


@dataclass(frozen=True)
class Tolerances:
    """How much worse a number may be.

    Attributes:
        patterns: from a pattern of column names to ``absolute`` and ``relative``; the last match counts.
        failures: share of pairs that may newly fail or be skipped.
    """

    patterns: Mapping[str, Mapping[str, float]]
    failures: float = 0.0

    def of(self, column: str, value: float) -> float:
        """The tolerance of a column whose baseline value is ``value``."""
        found: Mapping[str, float] = {}
        for pattern, amounts in self.patterns.items():
            if fnmatchcase(column, pattern):
                found = amounts
        return max(found.get("absolute", 0.0), found.get("relative", 0.0) * abs(value))


def check_patterns(baseline: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Refuses a ``PATTERN=AMOUNT`` that no number of a baseline matches: a typing error would go unseen.

    Raises:
        ConfigError: with the nearest name.
    """
    names = list(dict.fromkeys(c["name"] for cell in baseline["cells"] for m in cell["metrics"] for c in m["columns"]))
    for override in overrides:
        pattern = override.partition("=")[0]
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(f"--tolerance {override}: " + unknown("number", pattern, names))


def read_tolerances(choice: str = "default", overrides: Sequence[str] = ()) -> Tolerances:
    """Tolerances from ``configs/gate/NAME.yaml`` or a YAML file, with ``PATTERN=AMOUNT`` on top.

    Raises:
        ConfigError: for a file or an amount that cannot be read.
    """
    if choice.endswith((".yaml", ".yml")):
        try:
            content = yaml.safe_load(Path(choice).read_text(encoding="utf-8")) or {}
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise ConfigError(f"--tolerances {choice}: cannot be read ({' '.join(str(error).split())})") from error
    else:
        names = registry.names("gate")
        if choice not in names:
            raise ConfigError(f"--tolerances: {unknown('choice', choice, names)}, or a file that ends in .yaml")
        content = registry.read("gate", choice)
    if not isinstance(content, Mapping) or not isinstance(content.get("tolerances", {}), Mapping):
        raise ConfigError(f"--tolerances {choice}: needs a mapping 'tolerances' from column names to amounts")
    patterns = (
        {str(pattern): _amounts(choice, pattern, amounts) for pattern, amounts in content["tolerances"].items()}
        if "tolerances" in content
        else {}
    )
    for override in overrides:
        pattern, equals, amount = override.partition("=")
        if not equals or not pattern:
            raise ConfigError(f"--tolerance {override}: write it as COLUMN=AMOUNT")
        patterns.pop(pattern, None)
        patterns[pattern] = {"absolute": _amount("--tolerance", pattern, amount)}
    return Tolerances(patterns, _amount(f"--tolerances {choice}", "failures", content.get("failures", 0.0)))


def _amounts(choice: str, pattern: Any, amounts: Any) -> dict[str, float]:
    if not isinstance(amounts, Mapping) or set(amounts) - {"absolute", "relative"}:
        raise ConfigError(f"--tolerances {choice}: {pattern}: give absolute and relative, each at least 0")
    return {str(kind): _amount(f"--tolerances {choice}", f"{pattern}.{kind}", value) for kind, value in amounts.items()}


def _amount(option: str, name: str, value: Any) -> float:
    try:
        amount = float(value)
    except (TypeError, ValueError):
        amount = math.nan
    if not (math.isfinite(amount) and amount >= 0):
        raise ConfigError(f"{option}: {name}={value}: must be a number of at least 0")
    return amount


@dataclass
class Finding:
    """The judgement of one number (or of a whole cell, where ``column`` is empty).

    Attributes:
        cell: display labels of the baseline's cell.
        key: of the baseline's cell.
        column: label of the number.
        direction: ``higher`` or ``lower`` is better.
        baseline, value: the two numbers; None where there is none.
        tolerance: how much worse it may be.
        why: what is missing, failed, or different.
        paired: now - baseline over the images that both have, or None.
        worst: ``image_id``, ``baseline``, ``value``, ``change`` of the images that lost most.
    """

    cell: Mapping[str, Any]
    key: str
    column: str
    state: str
    direction: str = ""
    baseline: float | None = None
    value: float | None = None
    tolerance: float | None = None
    why: str = ""
    paired: Comparison | None = None
    worst: list[dict[str, Any]] = field(default_factory=list)

    @property
    def label(self) -> str:
        rank = f" rank {self.cell['rank']}" if self.cell["rank"] else ""
        layer = f" {self.cell['layer']}" if self.cell["layer"] else ""
        return f"{self.cell['method']}{layer}{rank} on {self.cell['dataset']}, {self.cell['model']}"


def exit_status(findings: Sequence[Finding]) -> int:
    """0 where nothing is worse; 1 where something regressed or failed; 2 where something could not be judged."""
    states = {finding.state for finding in findings}
    if states & {"regressed", "failed"}:
        return 1
    return 2 if states & {"missing", "incomparable"} else 0


def check(
    baseline: str | Path,
    results: str | Path = "results",
    tolerances: str = "default",
    overrides: Sequence[str] = (),
    any_code: bool = False,
) -> list[Finding]:
    """Judge a store against the baseline in a file.

    Args:
        baseline: file written by :func:`~decomcam_bench.gate.baseline.update_baseline`.
        results: root of the store.
        tolerances: a choice of ``configs/gate``, or a YAML file.
        overrides: ``COLUMN=AMOUNT`` on top.
        any_code: as for :func:`judge`.

    Raises:
        ConfigError: for a baseline or tolerances that cannot be read.

    >>> import tempfile, decomcam_bench as bench
    >>> folder = tempfile.mkdtemp()
    >>> done = bench.run("method=center", "metric=energy", "limit=4", "workers=0", results=folder)
    >>> file = bench.update_baseline(f"{folder}/base.json", folder)
    >>> [(finding.column, finding.state) for finding in bench.check(file, folder)]
    [('energy', 'pass')]
    """
    allowed = read_tolerances(tolerances, overrides)
    known = read_baseline(baseline)
    check_patterns(known, overrides)
    return judge(known, results, allowed, any_code)


def judge(
    baseline: Mapping[str, Any], results: str | Path, tolerances: Tolerances, any_code: bool = False
) -> list[Finding]:
    """Judge every number of a baseline.

    Args:
        baseline: from :func:`decomcam_bench.gate.baseline.read_baseline`.
        results: root of the store.
        tolerances: from :func:`read_tolerances`.
        any_code: also judge records that other code made than is installed. A finished cell is not
            computed again, so a store that was there before a change says nothing of the change.
    """
    store = Store(results)
    cells = {cell.key: cell for cell in store.cells()}
    claimed = {known["key"] for known in baseline["cells"]}
    others = [cell for key, cell in cells.items() if key not in claimed]
    findings: list[Finding] = []
    for known in baseline["cells"]:
        cell = cells.get(known["key"])
        if cell is None:
            findings.append(_absent(known, others, results))
        elif not is_complete(cell):
            why = f"{len(cell.present('records'))} of {cell.shards} shards are there; run its command again"
            findings.append(Finding(known["display"], known["key"], "", "missing", why=why))
        elif not any_code and _stale(known, cell):
            why = (
                "its records were made by other code than is installed; run its command again into an empty folder, "
                "or judge them all the same with --any-code"
            )
            findings.append(Finding(known["display"], known["key"], "", "incomparable", why=why))
        else:
            findings += [*_pairs(known, cell), *_cell(known, cell, tolerances)]
    return findings


def _pairs(known: Mapping[str, Any], cell: Cell) -> list[Finding]:
    """A finding where the store has another number of pairs than the baseline, which its numbers do not say."""
    now, before = counts(cell.read(RECORDS, lambda name: name == "status"))["n_expected"], known["n_expected"]
    if now == before:
        return []
    why = f"{now} pairs are there, and the baseline has {before}"
    return [Finding(known["display"], known["key"], "", "failed" if now < before else "incomparable", why=why)]


def _stale(known: Mapping[str, Any], cell: Cell) -> bool:
    """Return True if other code made what is judged; shards without a digest are assumed to be current."""
    streams = (RECORDS, *(metric["key"] for metric in known["metrics"]))
    return any(cell.made_by(stream) - {own_code()} for stream in streams)


def differences(before: Any, after: Any, path: str = "") -> list[str]:
    """In what two identities differ, one ``path: before -> after`` each."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        names = [*before, *(name for name in after if name not in before)]
        return [
            line
            for name in names
            for line in differences(before.get(name, _NOTHING), after.get(name, _NOTHING), f"{path}.{name}".lstrip("."))
        ]
    # As the keys see it: 1, 1.0 and true are three values.
    if _NOTHING not in (before, after) and json.dumps(before, sort_keys=True) == json.dumps(after, sort_keys=True):
        return []
    texts = _short(before), _short(after)
    if texts[0] == texts[1]:
        texts = repr(before), repr(after)
    return [f"{path}: {texts[0]} -> {texts[1]}"]


_NOTHING = object()


def _short(value: Any) -> str:
    text = "(not there)" if value is _NOTHING else "(none)" if value in (None, "") else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _base(name: Any) -> str:
    return str(name).partition("[")[0]


def _absent(known: Mapping[str, Any], others: Sequence[Cell], results: str | Path) -> Finding:
    """A cell of the baseline that the store lacks: something near it there is named."""
    display = known["display"]
    near = [
        cell
        for cell in others
        if all(_base(cell.labels[name]) == _base(display[name]) for name in ("dataset", "method"))
    ]
    ranked = sorted((differences(known["identity"], cell.identity), cell.key) for cell in near)
    ranked.sort(key=lambda item: len(item[0]))
    if not ranked:
        return Finding(display, known["key"], "", "missing", why=f"no such cell in {results}")
    lines, key = ranked[0]
    return Finding(display, known["key"], "", "incomparable", why=f"{key} differs in {'; '.join(lines)}")


def _cell(known: Mapping[str, Any], cell: Cell, tolerances: Tolerances) -> list[Finding]:
    present = metrics_of(cell)
    findings = []
    for metric in known["metrics"]:
        if metric["key"] in present:
            findings += _metric(known, metric, cell, present[metric["key"]], tolerances)
            continue
        same = [content for content in present.values() if content.name == metric["name"]]
        lines: list[list[str]] = [differences(metric["identity"], content.identity) for content in same]
        state, why = ("missing", f"metric {metric['name']} was not evaluated")
        if lines:
            state, why = (
                "incomparable",
                f"metric {metric['name']} differs in {'; '.join(sorted(lines, key=len)[0])}",
            )
        findings += [
            Finding(known["display"], known["key"], c["label"], state, c["direction"], c["value"], why=why)
            for c in metric["columns"]
        ]
    return findings


def _metric(
    known: Mapping[str, Any], before: Mapping[str, Any], cell: Cell, content: MetricInfo, tolerances: Tolerances
) -> list[Finding]:
    def finding(column: Mapping[str, Any], state: str, **rest: Any) -> Finding:
        named = column["label"], state, column["direction"], column["value"]
        return Finding(known["display"], known["key"], *named, **rest)

    if not is_complete(cell, before["key"]):
        shards = f"{len(cell.present(before['key']))} of {cell.shards}"
        why = f"{shards} shards of metric {before['name']} are there; run its command again"
        return [finding(column, "missing", why=why) for column in before["columns"]]
    records = metric_records(cell, before["key"])
    metric = metric_of(content)
    good = evaluated(records, metric)
    values = metric.aggregate(good)
    each = image_values(metric.image_sums(good)) if len(good) else pd.DataFrame()
    now_lost = counts(records)
    # Baselines of old do not say how many pairs were skipped.
    lost = {
        word: now_lost[name] - before.get(name, now_lost[name])
        for name, word in (("n_failed", "fail than did"), ("n_skipped", "are skipped than were"))
    }
    broken = next((word for word, more in lost.items() if more > tolerances.failures * max(1, len(records))), "")
    better = {own.name: own.direction for own in metric.columns}
    found = []
    for recorded in before["columns"]:
        if recorded["name"] not in better:
            found.append(finding(recorded, "failed", why="the metric has no such number any more"))
            continue
        direction = better[recorded["name"]]
        column = recorded if direction == "none" else {**recorded, "direction": direction}
        now = values.get(column["name"], math.nan)
        state, tolerance = _judge(column, now, tolerances)
        why = ""
        if state != "regressed" and broken:
            status = "failed" if broken.startswith("fail") else "skipped"
            reason = _main_reason(records[records["status"] == status])
            state, why = "failed", f"{lost[broken]} pairs more {broken}: {reason}"
        elif state == "failed":
            why = f"the number cannot be computed any more: {_main_reason(records)}"
        elif state != "regressed" and direction != recorded["direction"]:
            state, why = "incomparable", f"better is {recorded['direction']} in the baseline, {direction} in the metric"
        made = finding(column, state, value=None if math.isnan(now) else now, tolerance=tolerance, why=why)
        if column["name"] in before.get("image_values", {}) and column["name"] in each:
            _compare_images(made, column, before, each[column["name"]])
        found.append(made)
    return found


def _judge(column: Mapping[str, Any], now: float, tolerances: Tolerances) -> tuple[str, float]:
    before = column["value"]
    if before is None:
        return ("pass" if math.isnan(now) else "improved"), 0.0
    tolerance = tolerances.of(column["name"], before)
    if math.isnan(now):
        return "failed", tolerance
    gain = (now - before) * (1 if column["direction"] == "higher" else -1)
    # A tolerance of 0.05 must let 0.45 pass against 0.5, whatever binary fractions make of it.
    slack = tolerance + 1e-12 * max(1.0, abs(before))
    return ("regressed" if gain < -slack else "improved" if gain > slack else "pass"), tolerance


def _main_reason(records: pd.DataFrame) -> str:
    bad = records.loc[records["status"] != "ok", "reason"] if len(records) else pd.Series(dtype=str)
    return str(bad.value_counts().index[0]) if len(bad) else "no pair was evaluated"


@dataclass
class _ImageMean(Metric):
    """The mean over images of a value that each image has; what a baseline can be compared by."""

    direction: str = "higher"

    @property
    def columns(self) -> Sequence[Column]:
        return (Column("value", self.direction),)  # type: ignore[arg-type]


def _compare_images(finding: Finding, column: Mapping[str, Any], before: Mapping[str, Any], now: pd.Series) -> None:
    """Adds the paired comparison, and for a regression the images that lost most."""
    old = pd.Series(before["image_values"][column["name"]], index=before["images"], dtype=np.float64).dropna()
    new = now.dropna()
    both = old.index.intersection(new.index)
    if not len(both) or (finding.state in ("pass", "improved") and np.array_equal(old[both], new[both])):
        return
    frames = [
        pd.DataFrame({"image_id": series.index, "class_id": 0, "value": series.to_numpy()}) for series in (new, old)
    ]
    finding.paired = compare(_ImageMean(direction=column["direction"]), frames[0], frames[1], 2000)["value"]
    if finding.state not in ("regressed", "failed"):
        return
    table = pd.DataFrame({"baseline": old[both], "value": new[both]})
    table["change"] = table["value"] - table["baseline"]
    sign = 1 if column["direction"] == "higher" else -1
    worst = table[table["change"] * sign < 0]
    worst = worst.iloc[np.argsort((worst["change"] * sign).to_numpy(), kind="stable")][:WORST]
    finding.worst = [
        {"image_id": str(image), **row} for image, row in zip(worst.index, worst.to_dict("records"), strict=True)
    ]
