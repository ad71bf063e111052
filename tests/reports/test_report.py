"""The report: complete, self-contained, escaped, and alive in a real browser."""

from __future__ import annotations

import base64
import io
import json
import re
import shlex
import shutil
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from decomcam_bench.config.settings import load_config
from decomcam_bench.core.errors import StoreError
from decomcam_bench.engine.engine import run
from decomcam_bench.reports.gallery import choose_label, pick
from decomcam_bench.reports.report import write_report
from decomcam_bench.store.store import Store, write_json
from decomcam_bench.tables.formats import rich_markdown
from decomcam_bench.tables.upkeep import describe_cell
from tests.store.stores import pairs, write_cell

HOSTILE = 'x"><script>document.title="hacked"</script><img src=x onerror=alert(1)> $a_{ $'
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """Tags with their attributes, and the texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of a real, small run with pictures."""
    folder = tmp_path_factory.mktemp("report")
    common = ["limit=6", "workers=0", "device=cpu", f"results={folder}"]
    run(load_config(["method=decomcam,gradcam,center", "metric=pointing_exact,energy,efficiency", *common]))
    run(load_config(["method=decomcam", "rank=2", "metric=energy", *common]))
    return write_report(folder, folder / "report.html", resamples=100)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    for number, method in enumerate((HOSTILE, "plain", "other")):
        curve = [np.linspace(1, number / 10, 5).astype(np.float32)] * 40
        frame = pairs(40, deletion=np.linspace(0, 1, 40) / (number + 1)).assign(deletion_curve=curve)
        write_cell(tmp_path, method, {"energy": pairs(40, energy=0.9 - number / 5), "deletion": frame})
    return write_report(tmp_path, tmp_path / "report.html", gallery=False, resamples=50)


def test_nothing_is_loaded_from_elsewhere(drawn: Path) -> None:
    text = drawn.read_text()
    for tag, attributes in Page(text).tags:
        for name in ("src", "href", "xlink:href"):
            value = attributes.get(name) or ""
            assert not value or value.startswith(("data:image/", "#")), (tag, value)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_everything_is_escaped(made: Path) -> None:
    page = Page(made.read_text())
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert any(HOSTILE in text for text in page.texts)


def test_all_parts_are_there(drawn: Path) -> None:
    text = drawn.read_text()
    for heading in ("Leaderboard", "Quality against cost", "By rank", "Worst", "Largest disagreement", "Best", "OSSMs"):
        assert heading in text, heading
    assert "decomcam-bench run dataset=toybox model=toyclip method=decomcam rank=2 limit=6 metric=energy" in text
    assert text.count("<svg") == 2
    sources = [a["src"] for tag, a in Page(text).tags if tag == "img"]
    # Annotation and three methods for every strip of up to three headings; then the components.
    assert len(sources) > 12
    picture = Image.open(io.BytesIO(base64.b64decode(str(sources[1]).partition(",")[2])))
    assert picture.size == (192, 192)
    assert np.asarray(picture).std() > 5


def test_the_gallery_shows_the_values_of_the_records(drawn: Path) -> None:
    from decomcam_bench.store.store import Store

    shown = [text for text in Page(drawn.read_text()).texts if re.fullmatch(r"[01]\.\d{3}", text)]
    labels = {cell.key: cell.labels for cell in Store(drawn.parent).cells()}
    chosen = next(k for k, own in labels.items() if (own["method"], own["rank"]) == ("decomcam", 10))
    cell = Store(drawn.parent).cell(chosen)
    key = next(key for key, content in cell.metrics().items() if content.name == "energy")
    values = cell.read(key)["energy"]
    assert f"{values.min():.3f}" in shown
    assert f"{values.max():.3f}" in shown


def test_pairs_are_picked_by_worst_disagreement_and_best() -> None:
    index = pd.MultiIndex.from_tuples([(i, 0) for i in range(6)])
    focus = pd.Series([0.1, 0.9, 0.5, 0.5, 0.6, 0.4], index)
    other = pd.Series([0.1, 0.9, 0.5, 0.0, 0.6, 0.4], index)
    picked = pick({"a": focus, "b": other}, "a", 1)
    assert picked == {"worst": [(0, 0)], "largest disagreement": [(3, 0)], "best": [(1, 0)]}
    assert "largest disagreement" not in pick({"a": focus}, "a", 2)


def test_pictures_stay_when_cells_of_another_experiment_have_other_metrics(tmp_path: Path) -> None:
    common = ["limit=2", "workers=0", "device=cpu", f"results={tmp_path}"]
    run(load_config(["method=decomcam,center", "metric=energy,pointing", *common]))
    run(load_config(["method=decomcam,dff", "rank=3", "metric=parts", *common]))
    text = write_report(tmp_path, tmp_path / "r.html", resamples=10).read_text()
    assert "No pictures" not in text
    assert "Pairs chosen by <b>energy</b>" in text
    captions = [text for text in Page(text).texts if text in ("decomcam rank 10", "dff rank 3", "center")]
    assert {"decomcam rank 10", "dff rank 3", "center"} == set(captions)


def test_kept_maps_are_shown_and_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["method=gradcam,center", "metric=energy", "limit=3", "workers=0", "device=cpu", f"results={tmp_path}"]
    run(load_config([*words, "save_maps=true"]))

    def pictures() -> list[np.ndarray]:
        page = Page(write_report(tmp_path, tmp_path / "r.html", resamples=10).read_text())
        urls = [str(attributes["src"]) for tag, attributes in page.tags if tag == "img"]
        return [np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))) for url in urls]

    with monkeypatch.context() as patch:
        patch.setattr("decomcam_bench.reports.gallery._computed", lambda *_: pytest.fail("computed again"))
        kept = pictures()
    for cell in Store(tmp_path).cells():
        shutil.rmtree(cell.folder / "maps")
    again = pictures()
    assert len(kept) == len(again) > 5
    # Batches differ in their size, and so the maps in their last digits.
    assert all(np.abs(a.astype(float) - b).mean() < 0.5 for a, b in zip(kept, again, strict=True))


def test_the_label_that_pairs_are_chosen_by() -> None:
    both, parts = {"pointing": 1, "energy": 1}, {"parts_energy": 1, "energy[a=1]": 1}
    assert choose_label([parts, both, both]) == "energy"
    assert choose_label([{"pointing": 1}, {"parts_energy": 1}, {"parts_energy": 1}]) == "pointing"
    assert choose_label([{"deletion": 1}, {"parts_energy": 1, "deletion": 1}]) == "deletion"
    assert choose_label([{}]) is None


def test_curves_are_drawn_of_the_numbers_that_have_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = []
    monkeypatch.setattr(
        "decomcam_bench.reports.report.figures.lines",
        lambda data, x, names, *rest: tables.append((x, data, names, rest[-1])) or Figure(),
    )
    values = dict.fromkeys(("adcc", "coherency", "complexity", "drop", "increase"), 0.5)
    write_cell(tmp_path, "a", {name: pairs(20, **values) for name in ("adcc", "average_drop")}, rank=2)
    write_cell(tmp_path, "b", {"energy": pairs(20, energy=0.3)}, rank=2)
    write_cell(tmp_path, "a", {"energy": pairs(20, energy=0.4)}, rank=3)
    write_cell(tmp_path, "a", {"energy": pairs(20, energy=0.5)}, rank=5)
    write_cell(tmp_path, "random", {"energy": pairs(20, energy=0.1)}, layer="")
    write_report(tmp_path, tmp_path / "r.html", gallery=False, resamples=10)
    ((x, data, names, levels),) = tables
    assert (x, names, sorted(data["rank"]), set(data["series"])) == ("rank", ["energy"], [3, 5], {"a"})
    assert levels["energy"].tolist() == pytest.approx([0.1])


def test_counts_are_whole_and_an_interval_of_no_width_is_marked() -> None:
    table = pd.DataFrame(
        {
            "label": ["a", "b", "c"],
            "passes": [0.0, 1.0, 12.0],
            "passes_low": [0.0, 1.0, 11.0],
            "passes_high": [0.0, 1.0, 13.0],
            "pointing": [1.0, 0.0, 1.0],
            "pointing_low": [0.75, 0.0, 1.0],
            "pointing_high": [1.0, 0.0, 1.0],
        }
    )
    lines = [line for line in rich_markdown(table, {}).splitlines() if line.startswith("|")]
    rows = [line.split("|")[2:4] for line in lines[2:]]
    assert [[text.strip() for text in row] for row in rows] == [
        ["0 [0, 0]°", "1.000 [0.750, 1.000]"],
        ["1 [1, 1]°", "0.000 [0.000, 0.000]°"],
        ["12 [11, 13]", "1.000 [1.000, 1.000]°"],
    ]


def test_commands_to_repeat_name_every_option_and_can_be_pasted(tmp_path: Path) -> None:
    words = ["method=center", "metric=energy,pointing", "metric.tolerance=0,15", "limit=3", "workers=0"]
    (key,) = run(load_config([*words, "device=cpu", f"results={tmp_path / 's'}"])).keys
    cell = Store(tmp_path / "s").cell(key)
    assert cell is not None
    commands = describe_cell(cell.key, cell.folder.parents[1])["repeat"]
    assert [command.partition(" metric=")[2] for command in commands] == [
        "energy,pointing",
        "pointing metric.tolerance=0",
    ]
    for command in commands:
        again = [*shlex.split(command)[2:], "workers=0", "device=cpu", f"results={tmp_path / 'again'}"]
        assert run(load_config(again)).keys == [key]
    repeated = Store(tmp_path / "again").cell(key)
    assert repeated is not None
    assert set(repeated.metrics()) == set(cell.metrics())
    page = write_report(tmp_path / "s", tmp_path / "r.html", gallery=False, resamples=20).read_text()
    assert "metric=pointing metric.tolerance=0" in page


def test_a_run_that_says_little_is_shown_with_what_it_says(tmp_path: Path) -> None:
    write_cell(tmp_path, "good", {"energy": pairs(20, energy=0.5)})
    write_json(tmp_path / "runs" / "20260101-000000-1.json", {"schema": 1, "torch": "9.9"})
    assert "<td>9.9</td>" in write_report(tmp_path, tmp_path / "r.html", gallery=False, resamples=20).read_text()


def test_pictures_that_cannot_be_made_leave_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = write_cell(tmp_path, "good", {"energy": pairs(20, energy=0.5)})
    text = write_report(tmp_path, tmp_path / "r.html", resamples=20).read_text()
    assert "No pictures: the data set, the model or a method has changed" in text
    file = cell.folder / "cell.json"
    content = json.loads(file.read_text().replace('"overrides": []', '"overrides": ["dataset=voc"]'))
    del content["digest"]
    write_json(file, content)
    monkeypatch.setenv("DECOMCAM_BENCH_DATA", str(tmp_path / "nothing"))
    text = write_report(tmp_path, tmp_path / "r.html", resamples=20).read_text()
    assert "No pictures: the data set is not there" in text


def test_an_unfinished_cell_is_named(tmp_path: Path) -> None:
    cell = write_cell(tmp_path, "good", {"energy": pairs(40, energy=0.5)})
    cell.shard("records", 1).unlink()
    assert "is unfinished" in write_report(tmp_path, tmp_path / "r.html", gallery=False, resamples=20).read_text()
    with pytest.raises(StoreError, match="no results there"):
        write_report(tmp_path / "none", tmp_path / "r.html")


def test_fifty_thousand_records_stay_a_small_page(tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(size=50_000)
    write_cell(tmp_path, "good", {"energy": pairs(50_000, energy=values)})
    began = time.monotonic()
    page = write_report(tmp_path, tmp_path / "r.html", gallery=False, resamples=100)
    assert time.monotonic() - began < 30
    assert page.stat().st_size < 500_000


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.slow
def test_in_a_browser_sorting_works_and_the_console_is_silent(made: Path, tmp_path: Path) -> None:
    page = made.with_name("sorted.html")
    click = """<script>
      var buttons = document.querySelectorAll("th button");
      var column = Array.from(buttons).findIndex(function (b) { return b.textContent.startsWith("energy"); });
      function order() { return Array.from(document.querySelectorAll("table.sortable tbody tr"),
        function (row) { return row.cells[column].dataset.value; }).join(" "); }
      buttons[column].click(); var first = order(); buttons[column].click();
      document.body.dataset.sorted = first + " | " + order();
      document.body.dataset.wide = document.documentElement.scrollWidth > window.innerWidth;
    </script></body>"""
    page.write_text(made.read_text().replace("</body>", click))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update", "--enable-logging=stderr"]
    made_dom = subprocess.run(
        [
            str(CHROMIUM),
            *flags,
            f"--user-data-dir={tmp_path}/profile",
            "--window-size=500,900",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    sorted_by = re.search(r'data-sorted="([^"]*)"', made_dom.stdout)
    assert sorted_by, made_dom.stderr[-2000:]
    descending, ascending = (list(map(float, part.split())) for part in sorted_by[1].split(" | "))
    assert descending == sorted(descending, reverse=True) != ascending == sorted(descending)
    assert 'data-wide="false"' in made_dom.stdout
    assert "CONSOLE" not in made_dom.stderr
    assert "hacked" not in re.findall(r"<title>(.*?)</title>", made_dom.stdout)[0]


def test_pictures_of_methods_that_read_more_than_activations(tmp_path: Path) -> None:
    common = ["limit=1", "workers=0", "device=cpu", f"results={tmp_path}", "metric=energy"]
    run(load_config(["model=toyclip_vit", "method=gae,clip_surgery", *common]))
    page = write_report(tmp_path, tmp_path / "report.html", resamples=10).read_text(encoding="utf-8")
    assert "data:image/" in page
