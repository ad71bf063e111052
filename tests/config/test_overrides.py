"""Values are taken as people type them."""

from __future__ import annotations

from pathlib import Path

import pytest

from decomcam_bench.config.overrides import check_repeated, read_overrides
from decomcam_bench.config.settings import load_config, resolved
from decomcam_bench.core.errors import ConfigError


@pytest.mark.parametrize(
    "path",
    [
        "my data",
        "a=b",
        "a&b",
        "it's",
        'a "quoted" name',
        "[x]",
        "{y}",
        "(z",
        "ünïcode/日本",
        "50%",
        "a;b",
        "a:b",
        "#1",
        "x$y",
    ],
)
@pytest.mark.parametrize("key", ["results", "dataset.root", "method.dir", "dataset.annotations", "model.checkpoint"])
def test_a_path_needs_no_quotes_inside_quotes(key: str, path: str) -> None:
    assert read_overrides([f"{key}={path}"]) == {key: [path]}
    assert read_overrides([f"{key}='{path}'"]) == {key: [path]}


def test_the_home_folder_is_found_after_an_equals_sign(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_overrides(["results=~/r", "dataset.root=~"]) == {
        "results": [str(tmp_path / "r")],
        "dataset.root": [str(tmp_path)],
    }


def test_folders_sweep_and_a_folder_may_have_a_comma(tmp_path: Path) -> None:
    assert read_overrides(["method.dir=maps a,maps b"]) == {"method.dir": ["maps a", "maps b"]}
    (tmp_path / "a,b").mkdir()
    assert read_overrides([f"method.dir={tmp_path}/a,b"]) == {"method.dir": [f"{tmp_path}/a,b"]}
    assert read_overrides(["results=a,b"]) == {"results": ["a,b"]}


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("rank=1,5", [1, 5]),
        ("rank=range(1,4)", [1, 2, 3]),
        ("rank=null", [None]),
        ("method=[a,b]", [["a", "b"]]),
        ("dataset.templates=a photo of a {}", ["a photo of a {}"]),
        ("dataset.templates=['a {}','b {}']", [["a {}", "b {}"]]),
        ("dataset.names=Größe", ["Größe"]),
        ("model.checkpoint=", [""]),
        ("layer=block-2, block-1", ["block-2", "block-1"]),
        ("x='a,b',c", ["a,b", "c"]),
    ],
)
def test_values(word: str, values: list[object]) -> None:
    assert list(read_overrides([word]).values()) == [values]


def test_a_glob_chooses_among_names() -> None:
    (found,) = read_overrides(["method=glob(decomcam_v*)"]).values()
    assert set(found) >= {"decomcam_v1", "decomcam_v25"}
    assert all(name.startswith("decomcam_v") for name in found)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("method=glob(nothing*)", "matches nothing; valid: "),
        ("method.channels=glob(1*)", "only groups of choices take a glob"),
        ("dataset.classes=[cat,dog", "close the bracket or the quote"),
        ("dataset.classes='cat", "close the bracket or the quote"),
        ("=3", "write it as key=value"),
        ("rank", "write it as key=value"),
        ("ra nk=3", "write it as key=value"),
        ("~rank", "overrides cannot delete a key"),
        ("metric=[energy,pointing]", "write metric=energy,pointing"),
        ("rank=[1,5]", "write rank=1,5"),
    ],
)
def test_what_cannot_be_read_is_one_line_with_the_remedy(word: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config([word])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_that_is_given_twice_is_refused() -> None:
    check_repeated(["rank=1", "rank=1", "@file"])
    with pytest.raises(ConfigError, match="rank= is given twice; to sweep write rank=1,5"):
        check_repeated(["rank=1", "rank=5"])


def test_options_reach_one_of_several() -> None:
    words = ["method=decomcam,decomcam_v1,gradcam", "method.channels=7", "method.decomcam_v1.channels=9,11"]
    found = [(s.method["name"], s.method.get("channels")) for s in load_config(words).settings]
    assert found == [("decomcam", 7), ("decomcam_v1", 9), ("decomcam_v1", 11), ("gradcam", None)]
    assert load_config(["method=decomcam", "decomcam.channels=3"]).settings[0].method["channels"] == 3
    config = load_config(["metric=pointing,pointing_exact", "metric.pointing.tolerance=3"])
    assert [metric.config["tolerance"] for metric in config.metrics[0]] == [3, 0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["method.decomcm.channels=3"],
            "no chosen method is called 'decomcm' (did you mean 'decomcam'?); chosen: decomcam",
        ),
        (["method=gradcam", "method.gradcam.channels=3"], "gradcam has no option 'channels'; valid: "),
        (["method=gradcam", "decomcam.channels=3"], "unknown key 'decomcam.channels'"),
        (["method.chanels=10"], "decomcam has no option 'chanels' (did you mean 'channels'?)"),
    ],
)
def test_an_option_that_reaches_nothing_says_what_it_could_reach(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(words)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "text",
    [
        "# a week\n- method=decomcam,gradcam   # two\n- rank=1,5\n- limit=2\n",
        "# a week\nmethod=decomcam,gradcam   # two\n\nrank=1,5\nlimit=2\n",
        "method: [decomcam, gradcam]  # two\nrank: [1, 5]\nlimit: 2\n",
        "method: decomcam,gradcam\nrank: 1,5\nlimit: 2\n",
    ],
)
def test_a_command_file_holds_overrides(text: str, tmp_path: Path) -> None:
    file = tmp_path / "week.yaml"
    file.write_text(text)
    typed = load_config(["method=decomcam,gradcam", "rank=1,5", "limit=2"])
    read = load_config([f"@{file}"])
    assert (read.settings, read.metrics) == (typed.settings, typed.metrics)
    assert {setting.keys.limit for setting in load_config([f"@{file}", "limit=9"]).settings} == {9}


def test_what_show_prints_can_be_fed_back(tmp_path: Path) -> None:
    words = [
        "method=decomcam,gradcam",
        "method.channels=7",
        "rank=1,5",
        "metric=pointing,energy",
        "metric.tolerance=0,3",
    ]
    typed = load_config(words)
    file = tmp_path / "shown.yaml"
    file.write_text(resolved(typed))
    read = load_config([f"@{file}"])
    cells = {(repr(s.method), repr(s.model), repr(s.dataset), s.keys) for s in typed.settings}
    assert {(repr(s.method), repr(s.model), repr(s.dataset), s.keys) for s in read.settings} == cells
    wanted = {repr(dict(metric.config)) for metrics in typed.metrics for metric in metrics}
    assert {repr(dict(metric.config)) for metrics in read.metrics for metric in metrics} == wanted
    other = load_config([f"@{file}", "method=gradcam", "metric=energy"])
    assert {setting.method["name"] for setting in other.settings} == {"gradcam"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no override"),
        ("- 3\n", "write a list of overrides"),
        ("- nokey\n", "write it as key=value"),
        ("1: 2\n", "1 is no key of a run"),
        ("metrics: [{tolerance: 3}]\n", "metric needs a name"),
    ],
)
def test_a_command_file_that_cannot_be_read_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "week.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_config([f"@{file}"])


def test_command_files_that_name_one_another_end(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(f"- '@{file}'\n")
    with pytest.raises(ConfigError, match="in a circle"):
        load_config([f"@{file}"])
    with pytest.raises(ConfigError, match=r"@nowhere\.yaml: cannot be read \(No such file"):
        load_config(["@nowhere.yaml"])
