"""Tables for papers, terminals and spreadsheets."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from decomcam_bench.cli import main
from decomcam_bench.core.errors import ConfigError
from decomcam_bench.tables import formats
from decomcam_bench.tables.paper import Style, check_names, fitted, paper, read_names, same


@pytest.fixture
def table() -> pd.DataFrame:
    rows = [
        ("toybox", "toyclip", "layer4", "gradcam", None, 0.5, 0.3),
        ("toybox", "toyclip", "layer4", "decomcam[channels=5]", 10, 0.75, 0.1),
        ("toybox", "toyclip", "", "random", None, 0.9, 0.05),
        ("toybox", "toyclip[weights=untrained]", "layer4", "decomcam", 10, 0.95, 0.02),
    ]
    made = pd.DataFrame(rows, columns=["dataset", "model", "layer", "method", "rank", "energy", "deletion"])
    made["n_expected"] = 4
    made["key"] = list("abcd")
    return made.astype({"rank": "Int64"})


BETTER = {"energy": "higher", "deletion": "lower"}


def test_constant_columns_go_into_the_caption_and_controls_below_a_rule(table: pd.DataFrame) -> None:
    text = paper(table, BETTER, "md", Style({"decomcam": "DecomCAM", "energy": "Energy"}, 1, True))
    lines = text.splitlines()
    assert lines[0] == "dataset: toybox; layer: layer4; rank: 10; n_expected: 4"
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == ["model", "method", "Energy ↑", "deletion ↓"]
    assert "**75.0**" in lines[5]
    assert "DecomCAM[channels=5]" in lines[5]
    assert "*controls*" in lines[6]
    assert "90.0" in lines[7]
    assert "95.0" in lines[8]
    assert not any("**" in line or "_9" in line for line in lines[7:9])
    assert "shares in percent" in text


def test_latex_says_what_it_needs_and_compiles(table: pd.DataFrame, tmp_path: Path) -> None:
    text = paper(table, BETTER, "latex", Style(decimals=2))
    assert text.startswith("% Preamble: \\usepackage{booktabs}")
    assert text.count("\\midrule") == 2
    assert "\\textbf{0.75}" in text
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed: that the table compiles is not covered here")
    document = f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}{text}\\end{{document}}"
    (tmp_path / "t.tex").write_text(document)
    subprocess.run(["pdflatex", "-interaction=nonstopmode", "t.tex"], cwd=tmp_path, check=True, capture_output=True)


def test_html_and_csv_hold_the_same(table: pd.DataFrame) -> None:
    page = paper(table, BETTER, "html", Style({"gradcam": "<Grad>"}))
    assert "&lt;Grad&gt;" in page
    assert page.count("<tbody") == 2
    rows = paper(table, BETTER, "csv", Style({"gradcam": "Grad-CAM"})).splitlines()
    assert rows[0] == "model,method,energy,deletion"
    assert rows[1] == "toyclip,Grad-CAM,0.5,0.3"
    assert rows[-1].startswith("toyclip[weights=untrained]")
    with pytest.raises(ConfigError, match="--paper prints md, latex, html, csv"):
        paper(table, BETTER, "json", Style())


def test_names_come_from_a_file_and_from_the_command_line(table: pd.DataFrame, tmp_path: Path) -> None:
    file = tmp_path / "names.yaml"
    file.write_text("gradcam: Grad-CAM\nenergy: E\n")
    assert read_names(str(file), ["energy=Energy=1"]) == {"gradcam": "Grad-CAM", "energy": "Energy=1"}
    with pytest.raises(ConfigError, match="write it as OLD=NEW"):
        read_names(None, ["energy"])
    with pytest.raises(ConfigError, match=r"unknown name 'decomcan' .did you mean 'decomcam'"):
        check_names(table, {}, ["decomcan=x"])


def test_a_wide_table_is_split_for_a_terminal_and_loses_nothing(table: pd.DataFrame) -> None:
    for number in range(6):
        table.insert(6, f"another_number_{number}", 0.25 + number)
    parts = fitted(table, 100)
    assert len(parts) > 1
    assert all(len(line) <= 100 for part in parts for line in formats.plain_markdown(part).splitlines())
    assert {name for part in parts for name in part} | {"dataset", "n_expected"} == set(table)
    assert same(table) == "dataset: toybox; n_expected: 4"
    assert fitted(table, 1000)[0] is table


def test_no_cell_of_a_csv_is_a_formula(tmp_path: Path) -> None:
    table = pd.DataFrame({"name": ["=1+1", "+a", "-b", "@c", "\td", "fine"], "value": [-1.5, 2, 3, 4, 5, 6]})
    rows = formats.csv_text(table).splitlines()
    assert [row.partition(",")[0].strip('"') for row in rows[1:]] == ["'=1+1", "'+a", "'-b", "'@c", "'\td", "fine"]
    assert rows[1].endswith(",-1.5")


def test_the_command_line_prints_paper_tables_and_legends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["method=gradcam,random", "metric=energy", "limit=2", "workers=0", f"results={tmp_path}"]
    assert main(["run", "--quiet", *words]) == 0
    capsys.readouterr()
    options = ["--paper", "--rename", "gradcam=Grad-CAM", "--decimals", "2", "--exclude", "method=random"]
    assert main(["table", "--results", str(tmp_path), *options]) == 0
    out = capsys.readouterr().out
    assert "Grad-CAM" in out
    assert "random" not in out
    assert main(["table", "--results", str(tmp_path), "--legend"]) == 0
    assert "energy  share; higher is better; from 0 to 1; energy: share of the map" in capsys.readouterr().out
    assert main(["table", "--results", str(tmp_path), "--percent"]) == 2
    assert "--percent shapes tables for a paper; add --paper" in capsys.readouterr().err
