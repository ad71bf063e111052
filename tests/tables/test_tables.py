"""Tables: what they show, how sure, and in which form."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from decomcam_bench.cli import main
from decomcam_bench.core.errors import ConfigError
from decomcam_bench.metrics.boxes import MaxBoxAcc
from decomcam_bench.metrics.energy import Energy
from decomcam_bench.stats.comparison import compare
from decomcam_bench.stats.intervals import intervals, intervals_of_many
from decomcam_bench.store.reader import evaluated, image_values, metric_of
from decomcam_bench.store.store import Store
from decomcam_bench.tables import formats, layout
from decomcam_bench.tables.cells import directions
from decomcam_bench.tables.tables import load_table, render
from tests.store.stores import pairs, write_cell

IMAGES = 40
RNG = np.random.default_rng(3)
BASE = RNG.uniform(0.2, 0.8, IMAGES)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for method, shift in (("good", 0.1), ("plain", 0.0), ("bad", -0.15)):
        write_cell(
            tmp_path,
            method,
            {
                "energy": pairs(IMAGES, energy=BASE + shift + RNG.normal(0, 0.01, IMAGES)),
                "deletion": pairs(IMAGES, deletion=BASE - shift),
                "pointing_exact": pairs(IMAGES, hit=RNG.uniform(size=IMAGES) < 0.5 + shift, difficult=False),
            },
        )
    return tmp_path


def test_the_default_columns_stay_as_they_are(store: Path) -> None:
    table = load_table(store)
    assert list(table.columns) == [
        "dataset", "model", "layer", "method", "rank", "energy", "deletion", "pointing_exact",
        "n_expected", "n_evaluated", "n_skipped", "n_failed", "key",
    ]  # fmt: skip
    assert list(table["method"]) == ["bad", "good", "plain"]


def test_intervals_are_those_of_the_statistics(store: Path) -> None:
    table = load_table(store, intervals=True, resamples=500).set_index("method")
    for name in ("energy", "deletion", "pointing_exact"):
        assert (table[f"{name}_low"] < table[name]).all()
        assert (table[f"{name}_high"] > table[name]).all()
    for cell in Store(store).cells():
        for key, content in cell.metrics().items():
            limits = {column.name: (column.low, column.high) for column in content.columns}
            alone = intervals(metric_of(content).image_sums(evaluated(cell.read(key))), limits, 500)
            for column in content.columns:
                if not column.detail:
                    low = table.loc[cell.labels["method"], f"{column.label}_low"]
                    assert low == pytest.approx(alone[column.name].low, abs=1e-9)


def test_intervals_stay_in_the_range_of_their_number(tmp_path: Path) -> None:
    write_cell(tmp_path, "sharp", {"energy": pairs(8, energy=np.array([0.2] + [1.0] * 7))})
    (cell,) = Store(tmp_path).cells()
    ((key, content),) = cell.metrics().items()
    own = metric_of(content).image_sums(evaluated(cell.read(key)))
    with pytest.warns(UserWarning, match="8 images: intervals of fewer than 12 images may hold less often"):
        (row,) = load_table(tmp_path, intervals=True).to_dict("records")
    assert 0 < row["energy_low"] < row["energy"] < row["energy_high"] <= 1
    # Student's interval, which knows no bounds, leaves the range.
    assert intervals(own)["energy"].high > 1


def test_drawing_once_for_many_cells_changes_nothing() -> None:
    metric = Energy(name="energy", region="mask")
    sums = {i: metric.image_sums(pairs(30, energy=RNG.uniform(size=30))) for i in range(50)}
    sums[50] = metric.image_sums(pairs(20, energy=RNG.uniform(size=20)))
    best = MaxBoxAcc(name="m")
    several = [(metric, sums[place]) for place in sums]
    for images in (30, 30, 20):
        several.append((best, best.image_sums(pairs(images, best_iou=list(RNG.random((images, 100)))))))
    limits = {"energy": (0.0, 1.0), "m": (0.0, 1.0)}
    together = intervals_of_many({place: (own, limits) for place, (_, own) in enumerate(several)}, 300)
    for place, (_, own) in enumerate(several):
        assert together[place] == intervals(own, limits, 300)


def test_values_of_images_average_to_the_number() -> None:
    metric = Energy(name="energy", region="mask")
    records = pairs(2500, energy=RNG.uniform(size=2500))
    each = image_values(metric.image_sums(records))
    assert list(each.index) == list(records["image_id"])
    assert each["energy"].to_numpy() == pytest.approx(records["energy"].to_numpy())


def test_comparison_with_a_reference(store: Path) -> None:
    table = load_table(store, reference="plain", resamples=500).set_index("method")
    assert np.isnan(table.loc["plain", "energy_diff"])
    assert table.loc["good", "energy_diff"] == pytest.approx(
        table.loc["good", "energy"] - table.loc["plain", "energy"], abs=1e-12
    )
    assert (
        table.loc["good", "energy_diff_low"] < table.loc["good", "energy_diff"] < table.loc["good", "energy_diff_high"]
    )
    # Six comparisons: the smallest possible p, 1 / 501, is multiplied by at least 3 of them.
    assert 3 / 501 <= table.loc["good", "energy_p"] <= 6 / 501
    assert table.loc["good", "deletion_diff"] == pytest.approx(-0.1)


def test_p_values_carry_holms_correction_over_the_whole_table(store: Path) -> None:
    from decomcam_bench.store.store import Store

    table = load_table(store, reference="plain", resamples=200).set_index("method")
    cells = {cell.labels["method"]: cell for cell in Store(store).cells()}
    raw = {}
    for method in ("good", "bad"):
        for key, content in cells[method].metrics().items():
            both = [evaluated(cells[name].read(key)) for name in (method, "plain")]
            found = compare(metric_of(content), *both, resamples=200)
            label = content.columns[0].label
            raw[method, label] = found[content.columns[0].name].p
    ordered = sorted(raw, key=raw.__getitem__)
    highest = 0.0
    for place, key in enumerate(ordered):
        highest = max(highest, min(1.0, raw[key] * (len(ordered) - place)))
        assert table.loc[key[0], f"{key[1]}_p"] == pytest.approx(highest)


def test_comparisons_take_enough_permutations_unless_told(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Six tests at the default 10,000 permutations.
    assert load_table(store, reference="plain").set_index("method").loc["good", "energy_p"] <= 6 / 10_001
    command = ["table", "--results", str(store), "--reference", "plain"]
    assert main([*command, "--resamples", "118"]) == 0
    assert capsys.readouterr().err == (
        "--resamples 118: no difference of this table can be significant after Holm's correction of 6 tests; "
        "choose at least 120, or fewer rows with --where\n"
    )
    assert main([*command, "--resamples", "119"]) == 0
    assert capsys.readouterr().err == ""


def test_pairs_that_a_comparison_leaves_out_are_named(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    some = pairs(IMAGES, energy=BASE)
    some.loc[:6, ["status", "reason", "energy"]] = "failed", "zero_map", np.nan
    write_cell(store, "some", {"energy": some})
    assert main(["table", "--results", str(store), "--reference", "plain", "--resamples", "500"]) == 0
    assert capsys.readouterr().err == (
        "--reference plain: 1 of 7 comparisons leave out pairs that only one of the two methods has a value of; "
        "most, 7 in energy of some\n"
    )
    with pytest.warns(UserWarning, match="1 of 7 comparisons leave out"):
        table = load_table(store, reference="plain", resamples=500).set_index("method")
    assert table["energy_diff_n"].dropna().to_dict() == {"bad": IMAGES, "good": IMAGES, "some": IMAGES - 7}
    assert "deletion_diff_n" not in table  # no pair of these is left out


def test_the_cost_of_a_method_is_not_tested(store: Path) -> None:
    for method, forward in (("cheap", 1), ("plain", 11)):
        write_cell(store, method, {"efficiency": pairs(IMAGES, forward=forward, head=0, backward=0)}, rank=9)
    table = load_table(store, reference="plain", resamples=100)
    assert "efficiency_forward" in table
    assert "efficiency_forward_p" not in table


def test_an_unknown_or_ambiguous_reference_is_refused(store: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown reference method 'plian' .did you mean 'plain'"):
        load_table(store, reference="plian")
    write_cell(store, "twice", {"energy": pairs(IMAGES, energy=BASE)}, rank=1)
    write_cell(store, "twice", {"energy": pairs(IMAGES, energy=BASE)}, rank=2)
    with pytest.raises(ConfigError, match="several cells"):
        load_table(store, reference="twice")


def test_a_method_without_any_pair_can_be_in_a_comparison(store: Path) -> None:
    nothing = pairs(IMAGES, energy=np.nan).assign(status="failed", reason="zero_map")
    write_cell(store, "broken", {"energy": nothing})
    table = load_table(store, intervals=True, reference="broken", resamples=50).set_index("method")
    assert table["energy_p"].isna().all()
    assert np.isnan(table.loc["broken", "energy"])


def test_a_metric_without_a_value_says_why(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nothing = pairs(IMAGES, energy=np.nan).assign(status="failed", reason="no_remap")
    write_cell(store, "files[dir=maps]", {"adcc": nothing})
    assert main(["table", "--results", str(store)]) == 0
    assert capsys.readouterr().err == (
        "adcc of files[dir=maps] is empty: 40 no_remap (maps from files or at random cannot be made again for the "
        "masked image)\n"
    )


def _failing(store: Path, method: str, lost: slice, value: float) -> None:
    records = pairs(IMAGES, energy=BASE)
    records.loc[lost, ["status", "reason", "energy"]] = "failed", "zero_map", value
    write_cell(store, method, {"energy": records})


def test_a_method_does_not_gain_by_failing(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Failing on its worst half would lift the mean of what is left."""
    worst_half = slice(0, 19)
    order = np.argsort(BASE)
    records = pairs(IMAGES, energy=BASE[order])
    records.loc[worst_half, ["status", "reason", "energy"]] = "failed", "zero_map", 0.0
    write_cell(store, "failing", {"energy": records})
    table = load_table(store).set_index("method")
    assert table.loc["failing", "energy"] == pytest.approx(BASE[order][20:].sum() / IMAGES)
    assert table.loc["failing", "energy"] < table.loc["plain", "energy"]
    assert (table.loc["failing", "energy_n"], table.loc["failing", "energy_failed"]) == (IMAGES, 20)
    assert (table.loc["plain", "energy_n"], table.loc["plain", "energy_failed"]) == (IMAGES, 0)
    # Without computing anything again.
    dropped = load_table(store, failure="drop").set_index("method")
    assert dropped.loc["failing", "energy"] == pytest.approx(BASE[order][20:].mean())
    assert dropped.loc["failing", "energy_n"] == IMAGES - 20
    common = load_table(store, failure="common").set_index("method")
    assert list(common["energy_n"]) == [IMAGES - 20] * 4
    assert common.loc["plain", "energy"] != table.loc["plain", "energy"]
    assert main(["table", "--results", str(store), "--failure", "never"]) == 2


def test_the_policy_and_the_failed_pairs_stand_next_to_the_number(store: Path) -> None:
    _failing(store, "failing", slice(0, 3), 0.0)
    text = render(layout.choose(load_table(store, intervals=True), "method", "energy"), "md", store)
    header = [name.strip() for name in text.splitlines()[0].split("|")]
    assert header[1:-1] == ["method", "energy", "energy_n", "energy_failed"]
    row = next(line for line in text.splitlines() if " failing " in line)
    assert [cell.strip() for cell in row.split("|")][3:5] == ["40", "4"]
    assert "pairs without a usable map count as misses (failure=worst): energy" in text
    rows = json.loads(render(load_table(store), "json", store))
    failing = next(row for row in rows if row["method"] == "failing")
    assert (failing["metrics"]["energy"]["failure"], failing["metrics"]["energy"]["n_failed"]) == ("worst", 4)


def test_nothing_is_best_where_rows_are_over_different_pairs(store: Path) -> None:
    # As many pairs, but others.
    _failing(store, "first", slice(0, 3), 0.0)
    _failing(store, "last", slice(IMAGES - 4, IMAGES), 0.0)
    for policy, best in (("worst", 1), ("common", 1), ("drop", 0)):
        table = layout.choose(load_table(store, failure=policy), "method", "energy")
        text = formats.latex(table, directions(store))
        assert text.count(r"\textbf{") == best
        assert ("no best is marked where rows are over different pairs: energy" in text) == (not best)


def test_marks_have_a_direction(store: Path) -> None:
    table = load_table(store, reference="plain", resamples=2000)
    marks = {"md": ("⁺", "⁻"), "html": ("<sup>+</sup>", "<sup>−</sup>"), "latex": ("$^{+}$", "$^{-}$")}
    for form, (better, worse) in marks.items():
        lines = {
            method: next(line for line in render(table, form, store).splitlines() if method in line)
            for method in ("good", "bad")
        }
        # Energy and deletion differ, pointing does not; a lower deletion is better.
        assert (lines["good"].count(better), lines["good"].count(worse)) == (2, 0)
        assert (lines["bad"].count(worse), lines["bad"].count(better)) == (2, 0)


def test_differences_and_p_values_are_shown_on_request_in_every_format(store: Path) -> None:
    names = ["energy", "energy_diff", "energy_p"]
    table = layout.choose(load_table(store, reference="plain", resamples=200), "method", ",".join(names))
    assert [name.strip() for name in render(table, "md", store).splitlines()[0].split("|")][1:-1] == ["method", *names]
    for form in ("html", "latex"):
        text = render(table, form, store)
        assert all(name.replace("_", r"\_") in text or name in text for name in names)
    assert render(table, "csv", store).splitlines()[0].startswith("method,energy,energy_diff")
    compared = load_table(store, reference="plain", resamples=200)
    wide = layout.pivot(layout.choose(compared, "method,dataset", ",".join(names)), "dataset")
    assert "drawn: energy_p" in render(wide, "md", store)


def test_rows_of_one_label_over_different_images_are_told_apart(store: Path) -> None:
    write_cell(store, "lucky", {"energy": pairs(IMAGES - 1, energy=0.99)})
    table = load_table(store)
    labels = set(table["dataset"])
    assert len(labels) == 2
    assert all(label.startswith("drawn#") for label in labels)
    text = formats.latex(layout.choose(table, "method", "energy"), directions(store))
    assert text.count(r"\textbf{") == 1
    assert r"\textbf" not in next(line for line in text.splitlines() if line.startswith("lucky"))


def test_a_table_of_four_images_says_that_nothing_can_be_significant(tmp_path: Path) -> None:
    for method, value in (("a", 0.9), ("b", 0.1)):
        write_cell(tmp_path, method, {"energy": pairs(4, energy=value + np.arange(4) / 100)})
    lines: list[str] = []
    table = load_table(tmp_path, reference="b", note=lines.append).set_index("method")
    assert table.loc["a", "energy_p"] > 0.05
    assert lines == [
        "--reference b: no difference of this table can be significant: 4 images allow no p below 0.12, and 1 tests "
        "are corrected for; at least 6 images are needed"
    ]


def test_an_interval_of_no_width_is_printed_with_a_mark(tmp_path: Path) -> None:
    write_cell(tmp_path, "exact", {"efficiency": pairs(20, forward=11, head=0, backward=1)})
    text = render(load_table(tmp_path, intervals=True), "md", tmp_path)
    assert "11 [11, 11]°" in text
    assert "° an interval of no width: the number is the same for every image" in text


def test_where_sort_choose_pivot(store: Path) -> None:
    for method in ("good", "plain"):
        write_cell(store, method, {"energy": pairs(IMAGES, energy=BASE / 2)}, dataset="drawn[limit=40]")
    table = load_table(store)
    assert len(layout.where(table, ["method=good,pl*"])) == 4
    assert len(layout.where(table, ["method=good", "dataset=drawn[limit=40]"])) == 1
    assert len(layout.where(table, ["dataset=drawn"])) == 5
    assert len(layout.where(table, ["dataset=drawn[]"])) == 3
    assert len(layout.where(table, ["dataset=drawn[]", "method=good"])) == 1
    with pytest.raises(ConfigError, match="no row has that; there are: bad, good, plain"):
        layout.where(table, ["method=gradcam"])
    with pytest.raises(ConfigError, match="COLUMN=VALUE"):
        layout.where(table, ["energy=1"])
    descending = layout.sort(table, "-energy")["energy"]
    assert list(descending) == sorted(table["energy"], reverse=True)
    chosen = layout.choose(table, "method,dataset", "energy")
    assert list(chosen.columns) == ["method", "dataset", "energy"]
    assert list(layout.choose(table, " method , dataset", "energy ").columns) == list(chosen.columns)
    bare = layout.pivot(layout.choose(table.assign(layer=""), "method,dataset,layer", "energy"), "layer")
    assert list(bare.columns) == ["dataset", "method", "no layer: energy"]
    wide = layout.pivot(chosen, "dataset")
    assert list(wide.columns) == ["method", "drawn: energy", "drawn[limit=40]: energy"]
    assert wide["drawn[limit=40]: energy"].notna().sum() == 2
    counted = layout.pivot(layout.choose(table, "method,dataset", None), "dataset").set_index("method")
    assert list(counted["drawn: n_expected"]) == [len(pairs(IMAGES, energy=BASE))] * 3
    assert counted["drawn[limit=40]: n_failed"].isna().sum() == 1
    with pytest.raises(ConfigError, match="several rows"):
        layout.pivot(layout.choose(pd.concat([table, table]), "method,dataset", "energy"), "dataset")
    with pytest.raises(ConfigError, match="unknown --columns name 'enery'"):
        layout.choose(table, None, "enery")


def test_latex_marks_best_and_second_by_direction(store: Path) -> None:
    table = layout.choose(load_table(store), "method", "energy,deletion")
    text = formats.latex(table, directions(store))
    lines = {line.split(" & ")[0]: line for line in text.splitlines() if " & " in line}
    assert r"energy $\uparrow$ & deletion $\downarrow$" in lines["method"]
    assert lines["good"].count(r"\textbf{") == 2
    assert lines["plain"].count(r"\underline{") == 2
    assert "\\textbf" not in lines["bad"]
    assert text.startswith("\\begin{tabular}{lrr}\n\\toprule")


def test_rows_of_another_data_set_do_not_compete(store: Path) -> None:
    write_cell(store, "easy", {"energy": pairs(IMAGES, energy=0.99)}, dataset="other")
    text = formats.latex(layout.choose(load_table(store), "dataset,method", "energy"), directions(store))
    assert sum(r"\textbf{" in line for line in text.splitlines()) == 1


def test_numbers_that_read_the_same_share_a_place() -> None:
    table = pd.DataFrame({"method": ["a", "b", "c"], "energy": [0.50001, 0.50004, 0.4]})
    text = formats.latex(table, {"energy": "higher"})
    assert text.count(r"\textbf{0.500}") == 2
    assert text.count(r"\underline{0.400}") == 1


HOSTILE = r"""*a_b "x" & 50% <script>alert(1)</script> ~^\{}#$ | [x]"""


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(store: Path, tmp_path: Path) -> None:
    write_cell(store, HOSTILE, {"energy": pairs(IMAGES, energy=BASE)})
    body = render(load_table(store, intervals=True, reference="plain", resamples=50), "latex", store)
    (tmp_path / "t.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n" + body + "\\end{document}\n"
    )
    made = subprocess.run(
        ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stdout[-2000:]


def test_labels_are_escaped_everywhere(store: Path) -> None:
    write_cell(store, HOSTILE, {"energy": pairs(IMAGES, energy=BASE)})
    table = load_table(store)

    class Tags(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.tags: set[str] = set()
            self.text = ""

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.tags.add(tag)

        def handle_data(self, data: str) -> None:
            self.text += data

    read = Tags()
    read.feed(render(table, "html", store))
    assert "script" not in read.tags
    assert HOSTILE in read.text
    assert r"{*}a\_b \char34{}x\char34{} \& 50\%" in render(table, "latex", store)
    rows = [line for line in render(table, "md", store).splitlines() if "script" in line]
    assert len(rows) == 1
    assert rows[0].replace("\\|", "").count("|") == len(table.columns) + 1


def test_csv_and_json_have_every_digit(store: Path) -> None:
    table = load_table(store, intervals=True, resamples=50)
    read = pd.read_csv(io.StringIO(render(table, "csv", store)), float_precision="round_trip")
    for name in ("energy", "energy_low", "pointing_exact_high"):
        assert list(read[name]) == list(table[name])
    rows = json.loads(render(table, "json", store))
    assert [row["energy"] for row in rows] == list(table["energy"])
    assert rows[0]["metrics"]["energy"]["n_evaluated"] == IMAGES


def test_markdown_puts_the_interval_beside_the_number(store: Path) -> None:
    text = render(load_table(store, intervals=True, reference="plain", resamples=200), "md", store)
    assert "energy_low" not in text
    assert "⁺ [" in next(line for line in text.splitlines() if " good " in line)


def test_command_line(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = ["table", "--results", str(store)]
    assert main([*table, "--rows", "method", "--columns", "energy", "--sort=-energy", "--format", "csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["method", "good", "plain", "bad"]
    for wrong, says in (
        (["--where", "method=x"], "no row has that"),
        (["--sort", "x"], "unknown --sort column"),
        (["--rows", "x"], "unknown --rows column"),
        (["--pivot", "energy"], "unknown --pivot column"),
        (["--rows", "method", "--pivot", "dataset"], "valid: method; add it to --rows"),
        (["--intervals", "--resamples", "0"], "must be at least 1"),
        (["--intervals", "--seed", "-1"], "seed=-1: must be at least 0"),
    ):
        assert main([*table, *wrong]) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1


def test_options_in_brackets_are_no_part_of_a_name_but_counts_are(store: Path) -> None:
    assert layout.bare("energy[limit=4]") == "energy"
    assert layout.bare("energy[limit=4].n_failed") == "energy[limit=4].n_failed"
    assert layout.bare("energy") == "energy"


def test_rates_over_orders_of_magnitude_all_stay_readable() -> None:
    table = pd.DataFrame({"method": list("abc"), "speed": [1082.3, 23.456, 0.4321], "count": [257.0, 1.0, 11.0]})
    text = formats.latex(table, {"speed": "higher", "count": "lower"})
    for number in ("1082", "23.5", "0.43", "257", " \\textbf{1} ", "\\underline{11} "):
        assert number in text, number
