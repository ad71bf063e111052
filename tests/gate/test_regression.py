"""The regression gate: what is judged how, by hand-made stores; then the real thing on toybox."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from decomcam_bench.cli import main
from decomcam_bench.core.errors import ConfigError, StoreError
from decomcam_bench.gate.baseline import make_baseline, read_baseline, write_baseline
from decomcam_bench.gate.findings import as_markdown, as_text
from decomcam_bench.gate.regression import (
    Tolerances,
    check_patterns,
    differences,
    exit_status,
    judge,
    read_tolerances,
)
from tests.store.stores import pairs, write_cell

IMAGES = 40
STRICT = Tolerances({"*": {"absolute": 0.01}})


def energies(shift: float = 0.0, images: int = IMAGES) -> dict:
    return {"energy": pairs(images, energy=np.linspace(0.2, 0.8, images) + shift)}


@pytest.fixture
def baseline(tmp_path: Path) -> dict:
    write_cell(tmp_path / "before", "good", energies(), rank=10)
    write_baseline(tmp_path / "base.json", make_baseline(tmp_path / "before"))
    return read_baseline(tmp_path / "base.json")


def judged(baseline: dict, root: Path, tolerances: Tolerances = STRICT) -> tuple[str, int]:
    findings = judge(baseline, root, tolerances)
    assert len(findings) == 1
    return findings[0].state, exit_status(findings)


@pytest.mark.parametrize(
    ("shift", "state", "status"),
    [
        (0.0, "pass", 0),
        (-0.0099, "pass", 0),
        (-0.01, "pass", 0),
        (-0.0101, "regressed", 1),
        (0.0101, "improved", 0),
        (1e-7, "pass", 0),
    ],
)
def test_states_follow_the_tolerance(baseline: dict, tmp_path: Path, shift: float, state: str, status: int) -> None:
    write_cell(tmp_path / "now", "good", energies(shift), rank=10)
    assert judged(baseline, tmp_path / "now") == (state, status)


def test_lower_is_better_where_the_column_says_so(tmp_path: Path) -> None:
    write_cell(tmp_path / "before", "good", {"deletion": pairs(IMAGES, deletion=np.full(IMAGES, 0.3))})
    baseline = make_baseline(tmp_path / "before")
    write_cell(tmp_path / "up", "good", {"deletion": pairs(IMAGES, deletion=np.full(IMAGES, 0.4))})
    write_cell(tmp_path / "down", "good", {"deletion": pairs(IMAGES, deletion=np.full(IMAGES, 0.2))})
    assert judged(baseline, tmp_path / "up") == ("regressed", 1)
    assert judged(baseline, tmp_path / "down") == ("improved", 0)


def test_a_regression_names_the_ten_images_that_lost_most(baseline: dict, tmp_path: Path) -> None:
    values = np.linspace(0.2, 0.8, IMAGES)
    loss = np.zeros(IMAGES)
    loss[5:20] = np.arange(15) / 20 + 0.01
    values[30] += 0.5
    write_cell(tmp_path / "now", "good", {"energy": pairs(IMAGES, energy=values - loss)}, rank=10)
    (finding,) = judge(baseline, tmp_path / "now", STRICT)
    assert finding.state == "regressed"
    assert [image["image_id"] for image in finding.worst] == [f"image{i:05d}" for i in range(19, 9, -1)]
    assert finding.worst[0]["change"] == pytest.approx(-0.71)
    assert finding.paired is not None
    assert finding.paired.difference == pytest.approx(finding.value - finding.baseline)
    assert finding.paired.images == IMAGES
    assert "image00019" in as_text([finding])
    assert "image00019" in as_markdown([finding], 1)


def test_without_values_of_images_numbers_are_still_judged(tmp_path: Path) -> None:
    write_cell(tmp_path / "before", "good", energies())
    write_cell(tmp_path / "now", "good", energies(-0.1))
    (finding,) = judge(make_baseline(tmp_path / "before", images=False), tmp_path / "now", STRICT)
    assert (finding.state, finding.worst, finding.paired) == ("regressed", [], None)


def test_a_cell_that_is_not_there_is_missing(baseline: dict, tmp_path: Path) -> None:
    assert judged(baseline, tmp_path / "nothing") == ("missing", 2)
    write_cell(tmp_path / "now", "other", energies())
    assert judged(baseline, tmp_path / "now") == ("missing", 2)


def test_an_unfinished_cell_is_missing(baseline: dict, tmp_path: Path) -> None:
    cell = write_cell(tmp_path / "now", "good", energies(), rank=10)
    cell.shard("records", 1).unlink()
    (finding,) = judge(baseline, tmp_path / "now", STRICT)
    assert finding.state == "missing"
    assert "2 of 3 shards" in finding.why
    with pytest.raises(StoreError, match="unfinished"):
        make_baseline(tmp_path / "now")


def test_another_identity_is_incomparable_and_says_in_what(baseline: dict, tmp_path: Path) -> None:
    write_cell(tmp_path / "now", "good", energies(-0.5), rank=5, precision="fp16")
    write_cell(tmp_path / "now", "good", energies(), rank=10, seed=1)
    (finding,) = judge(baseline, tmp_path / "now", STRICT)
    assert (finding.state, exit_status([finding])) == ("incomparable", 2)
    assert finding.why.endswith("differs in seed: (not there) -> 1")


def test_a_metric_with_other_options_is_incomparable(baseline: dict, tmp_path: Path) -> None:
    write_cell(tmp_path / "now", "good", energies(), rank=10, options={"energy": {"objects": "single"}})
    (finding,) = judge(baseline, tmp_path / "now", STRICT)
    assert finding.state == "incomparable"
    assert "options.objects: all -> single" in finding.why


def test_a_metric_that_was_not_evaluated_is_missing(baseline: dict, tmp_path: Path) -> None:
    write_cell(tmp_path / "now", "good", {"deletion": pairs(IMAGES, deletion=0.5)}, rank=10)
    (finding,) = judge(baseline, tmp_path / "now", STRICT)
    assert (finding.state, finding.column) == ("missing", "energy")


def test_pairs_that_newly_fail_are_a_failure_even_if_the_mean_rises(baseline: dict, tmp_path: Path) -> None:
    records = pairs(IMAGES, energy=np.linspace(0.2, 0.8, IMAGES))
    records.loc[:7, ["status", "reason", "energy"]] = ["failed", "zero_map", np.nan]
    write_cell(tmp_path / "now", "good", {"energy": records}, rank=10)
    (finding,) = judge(baseline, tmp_path / "now", STRICT)
    assert finding.state == "failed"
    assert finding.why == "8 pairs more fail than did: zero_map"
    assert judge(baseline, tmp_path / "now", Tolerances({"*": {"absolute": 0.01}}, failures=0.2))[0].state == "improved"


def test_pairs_that_are_newly_skipped_are_a_failure(baseline: dict, tmp_path: Path) -> None:
    records = pairs(IMAGES, energy=np.linspace(0.2, 0.8, IMAGES))
    records.loc[:7, ["status", "reason", "energy"]] = ["skipped", "too small", np.nan]
    write_cell(tmp_path / "now", "good", {"energy": records}, rank=10)
    (finding,) = judge(baseline, tmp_path / "now", STRICT)
    assert (finding.state, finding.why) == ("failed", "8 pairs more are skipped than were: too small")
    del baseline["cells"][0]["metrics"][0]["n_skipped"]
    assert judged(baseline, tmp_path / "now") == ("improved", 0)


def test_records_of_other_code_are_not_judged(baseline: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cell(tmp_path / "now", "good", energies(), rank=10)
    monkeypatch.setattr("decomcam_bench.gate.regression.own_code", lambda: "changed")
    (finding,) = judge(baseline, tmp_path / "now", STRICT)
    assert (finding.state, exit_status([finding])) == ("incomparable", 2)
    assert "other code than is installed" in finding.why
    (finding,) = judge(baseline, tmp_path / "now", STRICT, any_code=True)
    assert finding.state == "pass"


def test_no_pair_left_is_a_failure(baseline: dict, tmp_path: Path) -> None:
    records = pairs(IMAGES, energy=np.nan).assign(status="failed", reason="zero_map")
    write_cell(tmp_path / "now", "good", {"energy": records}, rank=10)
    assert judged(baseline, tmp_path / "now", Tolerances({}, failures=1.0)) == ("failed", 1)


def test_a_regression_outweighs_a_missing_cell(tmp_path: Path) -> None:
    write_cell(tmp_path / "before", "a", energies())
    write_cell(tmp_path / "before", "b", energies())
    write_cell(tmp_path / "now", "a", energies(-0.3))
    findings = judge(make_baseline(tmp_path / "before"), tmp_path / "now", STRICT)
    assert sorted(finding.state for finding in findings) == ["missing", "regressed"]
    assert exit_status(findings) == 1


def test_differences_name_every_leaf() -> None:
    before = {"a": {"x": 1, "y": [1]}, "b": None}
    assert differences(before, {"a": {"x": 2, "y": [1], "z": "new"}}) == [
        "a.x: 1 -> 2",
        "a.z: (not there) -> new",
        "b: (none) -> (not there)",
    ]
    assert differences(before, before) == []


def test_tolerances_come_from_configuration(tmp_path: Path) -> None:
    shipped = read_tolerances()
    assert shipped.of("pointing_exact", 0.5) == 0.05
    assert shipped.of("energy", 0.5) == 0.01
    assert shipped.of("efficiency_forward", 11.0) == pytest.approx(0, abs=1e-6)
    own = tmp_path / "own.yaml"
    own.write_text("tolerances: {'*': {absolute: 0.1, relative: 0.5}, 'energy': {absolute: 0.2}}\nfailures: 0.5\n")
    read = read_tolerances(str(own), ["pointing*=0.3"])
    assert (read.of("x", 1.0), read.of("x", 0.1), read.of("energy", 9.0), read.of("pointing", 1.0)) == (
        0.5,
        0.1,
        0.2,
        0.3,
    )
    assert read.failures == 0.5


@pytest.mark.parametrize(
    ("choice", "overrides", "says"),
    [
        ("nosuch", [], "unknown choice .nosuch."),
        ("no/such.yaml", [], "cannot be read"),
        ("default", ["energy"], "COLUMN=AMOUNT"),
        ("default", ["energy=-1"], "at least 0"),
        ("default", ["energy=nan"], "at least 0"),
        ("DEEP", [], "deep.yaml: cannot be read"),
        ("BYTES", [], "bytes.yaml: cannot be read"),
    ],
)
def test_wrong_tolerances_are_refused(choice: str, overrides: list[str], says: str, tmp_path: Path) -> None:
    (tmp_path / "deep.yaml").write_text("[" * 10_000)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\xff")
    choice = str(tmp_path / f"{choice.lower()}.yaml") if choice.isupper() else choice
    with pytest.raises(ConfigError, match=says):
        read_tolerances(choice, overrides)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "base.json: cannot be read as JSON"),
        ("[]", "is no baseline"),
        ('{"schema": 99, "cells": []}', "newer decomcam-bench"),
        ('{"schema": 1, "cells": []}', "has no cells"),
        ('{"schema": 1, "cells": [{"key": "x"}]}', "is damaged"),
    ],
)
def test_a_file_that_is_no_baseline_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "base.json").write_text(text)
    with pytest.raises(ConfigError, match=says):
        read_baseline(tmp_path / "base.json")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"value": float("nan")}, "nan is no number"),
        ({"value": float("inf")}, "inf is no number"),
        ({"value": "0.5"}, "'0.5' is no number"),
        ({"value": True}, "True is no number"),
        ({"direction": "up"}, "neither higher nor lower"),
    ],
)
def test_a_number_that_nothing_can_be_worse_than_is_refused(
    baseline: dict, tmp_path: Path, change: dict, says: str
) -> None:
    baseline["cells"][0]["metrics"][0]["columns"][0].update(change)
    (tmp_path / "base.json").write_text(json.dumps(baseline))
    with pytest.raises(ConfigError, match=says):
        read_baseline(tmp_path / "base.json")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"columns": []}, "has no numbers"),
        ({"images": ["one"]}, f"{IMAGES} values of energy for 1 images"),
        ({"image_values": {"energy": ["x"]}}, "'x' is no number"),
        ({"n_failed": "0"}, "'0' is no number"),
        ({"identity": None}, "is damaged"),
    ],
)
def test_a_metric_that_cannot_be_compared_is_refused(baseline: dict, tmp_path: Path, change: dict, says: str) -> None:
    baseline["cells"][0]["metrics"][0].update(change)
    (tmp_path / "base.json").write_text(json.dumps(baseline))
    with pytest.raises(ConfigError, match=says):
        read_baseline(tmp_path / "base.json")


def edited_baseline(baseline: dict, where: str, change: dict, tmp_path: Path) -> dict:
    """The baseline with one part of it edited by hand, read back."""
    cell = baseline["cells"][0]
    places = {"cell": cell, "metric": cell["metrics"][0], "column": cell["metrics"][0]["columns"][0], "all": baseline}
    places[where].update(change)
    (tmp_path / "edited.json").write_text(json.dumps(baseline))
    return read_baseline(tmp_path / "edited.json")


@pytest.mark.parametrize(
    ("where", "change", "says"),
    [
        ("cell", {"key": "deadbeefdeadbeef"}, "cell deadbeefdeadbeef has the identity of"),
        ("cell", {"identity": {"seed": 9}}, "has the identity of"),
        ("cell", {"metrics": []}, "has no"),
        ("cell", {"n_expected": "40"}, "'40' is no number"),
        ("cell", {"display": dict.fromkeys(("dataset", "model", "layer", "method", "rank"), 3)}, "3 is no name"),
        ("metric", {"key": "deadbeefdeadbeef"}, "metric deadbeefdeadbeef has the identity of"),
        ("metric", {"images": ["one"] * IMAGES}, "image of metric .* one is there more than once"),
        ("column", {"name": 3}, "3 is no name"),
        ("column", {"label": None}, "None is no name"),
    ],
)
def test_an_edited_baseline_is_refused(baseline: dict, tmp_path: Path, where: str, change: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=rf"edited.json: .*{says}"):
        edited_baseline(baseline, where, change, tmp_path)


def test_a_cell_that_is_there_twice_or_without_metrics_is_refused(baseline: dict, tmp_path: Path) -> None:
    (cell,) = baseline["cells"]
    with pytest.raises(ConfigError, match=f"cell {cell['key']} is there more than once"):
        edited_baseline(baseline, "all", {"cells": [cell, cell]}, tmp_path)
    write_cell(tmp_path / "before", "other", energies())
    (other,) = (c for c in make_baseline(tmp_path / "before")["cells"] if c["key"] != cell["key"])
    with pytest.raises(ConfigError, match=f"cell {other['key']} has no metrics"):
        edited_baseline(baseline, "all", {"cells": [cell, {**other, "metrics": []}]}, tmp_path)


@pytest.mark.parametrize(
    ("where", "change", "state", "says"),
    [
        ("column", {"direction": "lower"}, "incomparable", "better is lower in the baseline, higher in the metric"),
        ("column", {"name": "glow"}, "failed", "the metric has no such number any more"),
        ("cell", {"n_expected": 64}, "failed", "40 pairs are there, and the baseline has 64"),
        ("cell", {"n_expected": 20}, "incomparable", "40 pairs are there, and the baseline has 20"),
    ],
)
def test_an_edited_baseline_is_not_believed(
    baseline: dict, tmp_path: Path, where: str, change: dict, state: str, says: str
) -> None:
    write_cell(tmp_path / "now", "good", energies(), rank=10)
    findings = judge(edited_baseline(baseline, where, change, tmp_path), tmp_path / "now", STRICT)
    assert (findings[0].state, findings[0].why) == (state, says)
    assert exit_status(findings) == (1 if state == "failed" else 2)


def test_a_flipped_direction_hides_no_regression(baseline: dict, tmp_path: Path) -> None:
    write_cell(tmp_path / "now", "good", energies(-0.1), rank=10)
    assert judged(edited_baseline(baseline, "column", {"direction": "lower"}, tmp_path), tmp_path / "now") == (
        "regressed",
        1,
    )


def test_what_reads_alike_is_still_named() -> None:
    assert differences({"a": 1, "b": None}, {"a": 1.0, "b": ""}) == ["a: 1 -> 1.0", "b: None -> ''"]
    assert differences({"a": "x" * 50 + "1"}, {"a": "x" * 50 + "2"})[0].endswith("x2'")


def test_a_tolerance_that_matches_nothing_is_refused(baseline: dict) -> None:
    check_patterns(baseline, ["energy=0.1", "en*=0.1"])
    with pytest.raises(ConfigError, match="did you mean 'energy'"):
        check_patterns(baseline, ["enrgy=0.1"])


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, now, file = str(tmp_path / "before"), str(tmp_path / "now"), str(tmp_path / "base.json")
    write_cell(tmp_path / "before", "go|od<b>", energies())
    write_cell(tmp_path / "now", "go|od<b>", energies(-0.2))
    assert main(["baseline", "update", "--baseline", file, "--results", before]) == 0
    assert main(["check", "--baseline", file, "--results", before]) == 0
    summary = tmp_path / "summary.md"
    assert main(["check", "--baseline", file, "--results", now, "--summary", str(summary)]) == 1
    assert "regressed" in capsys.readouterr().out
    text = summary.read_text()
    assert text.startswith("## 🔴 Regression")
    assert "<b>" not in text
    assert main(["check", "--baseline", file, "--results", now, "--tolerance", "energy=0.3"]) == 0
    assert main(["check", "--baseline", file, "--results", str(tmp_path / "none")]) == 2
    assert main(["check", "--baseline", str(tmp_path / "none.json")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_an_error_of_the_gate_itself_is_no_regression(
    baseline: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise TypeError("unforeseen")

    monkeypatch.setattr("decomcam_bench.gate.regression.check", broken)
    assert main(["check", "--baseline", str(tmp_path / "base.json")]) == 2
    assert "unforeseen" in capsys.readouterr().err


def test_the_summary_has_no_marks_but_its_own(tmp_path: Path) -> None:
    write_cell(tmp_path / "before", "a_b_c ~~d~~ @someone", energies())
    page = as_markdown(judge(make_baseline(tmp_path / "before"), tmp_path / "none", STRICT), 2)
    (line,) = (line for line in page.splitlines() if line.startswith("- "))
    assert line.startswith(r"- **a\_b\_c \~\~d\~\~ \@someone layer4 on drawn, m** (missing): ")


def test_a_baseline_is_the_same_bytes_for_the_same_store(tmp_path: Path) -> None:
    write_cell(tmp_path / "s", "good", energies())
    for name in ("a.json", "b.json"):
        write_baseline(tmp_path / name, make_baseline(tmp_path / "s"))
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text())["cells"][0]["metrics"][0]["columns"][0][
        "value"
    ] == pytest.approx(0.5)
