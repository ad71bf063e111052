"""The dispatcher and the small sub-commands."""

import os
import subprocess
import sys

import pytest

from decomcam_bench.cli import COMMANDS, main
from decomcam_bench.config import registry


def test_help_is_quick_and_imports_no_torch():
    for arguments in (["--help"], *([command, "--help"] for command in COMMANDS)):
        code = f"import sys; from decomcam_bench.cli import main\ntry: main({arguments!r})\nexcept SystemExit: pass\n"
        code += "print('torch' in sys.modules or 'hydra' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout.strip().endswith("False"), arguments
        assert "examples:" in done.stdout


@pytest.mark.slow
def test_help_answers_in_half_a_second():
    def seconds():
        """Of processor time, which other programs of the machine hardly change."""
        before = os.times()
        subprocess.run([sys.executable, "-m", "decomcam_bench", "--help"], capture_output=True, check=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(seconds() for _ in range(5)) < 0.5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rnu"], "unknown command 'rnu' (did you mean 'run'?)"),
        (["run", "metohd=gradcam"], "did you mean 'method'"),
        (["run", "--dry"], "--dry"),
        (["run", "dataset=voc"], "VOC2007"),
        (["table", "--results", "/nowhere"], "decomcam-bench run"),
        (["table", "--format", "xlsx"], "xlsx"),
        (["list", "things"], "things"),
        (["show", "method=nothing"], "unknown method"),
        (["list", "layers", "model=nothing"], "unknown model"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_2(arguments, said, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("DECOMCAM_BENCH_DATA", str(tmp_path))
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "\n" not in error


def test_debug_shows_the_traceback():
    from decomcam_bench.core.errors import UserError

    with pytest.raises(UserError):
        main(["--debug", "show", "method=nothing"])


@pytest.mark.parametrize(
    ("kind", "group"), [("datasets", "dataset"), ("methods", "method"), ("models", "model"), ("metrics", "metric")]
)
def test_list_names(kind, group, capsys):
    assert main(["list", kind, "--format", "names"]) == 0
    names = capsys.readouterr().out.split()
    assert names == registry.names(group)
    assert main(["list", kind]) == 0
    table = capsys.readouterr().out
    assert all(registry.read(group, name)["description"] in table for name in names)


def test_layers_are_listed_without_weights(capsys):
    assert main(["list", "layers", "model=rn50"]) == 0
    assert "layer4    2048      7 x 7" in capsys.readouterr().out
    assert main(["list", "layers", "model=toyclip,toyclip_vit"]) == 0
    rows = capsys.readouterr().out
    assert rows.splitlines()[0].split() == ["layer", "channels", "grid", "default", "model"]
    assert "block5    128       10 x 10  default  toyclip_vit" in rows
    assert "other places: block0.ln_2, block0.out" in rows


def test_list_layers(capsys):
    assert main(["list", "layers", "model=toyclip"]) == 0
    assert "layer3    256       10 x 10" in capsys.readouterr().out


def test_show_prints_yaml(capsys):
    import yaml

    assert main(["show", "method=gradcam", "layer=layer4"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["method"]["name"], shown["layer"], shown["model"]["name"]) == ("gradcam", "layer4", "toyclip")


def test_doctor_says_what_is_missing(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("DECOMCAM_BENCH_DATA", str(tmp_path))
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "toybox" in said
    assert "data prepare voc" in said
    assert "torch" in said


def test_run_prints_its_table_and_table_prints_it_again(capsys, tmp_path):
    run = ["run", "limit=4", "method=random,center", "metric=pointing_exact", f"results={tmp_path}", "workers=0"]
    assert main([*run, "--format", "csv"]) == 0
    first = capsys.readouterr()
    assert first.out.startswith(
        "dataset,model,layer,method,rank,pointing_exact,n_expected,n_evaluated,n_skipped,n_failed,key\n"
    )
    assert main(["table", "--results", str(tmp_path), "--format", "csv"]) == 0
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(first.out.splitlines())
    assert main([run[0], "-m", *run[1:]]) == 0
    assert "nothing to compute" in capsys.readouterr().err
    assert main([*run, "--dry-run"]) == 0
    assert "; done" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("method", "metric", "told"),
    [("eigencam", "energy", True), ("eigencam", "efficiency", False), ("eigencam,random", "energy", False)],
)
def test_numbers_that_look_at_annotations_ask_for_controls(capsys, tmp_path, method, metric, told):
    run = ["run", "limit=2", f"method={method}", f"metric={metric}", f"results={tmp_path}", "workers=0"]
    assert main(run) == 0
    assert ("controls=true adds some" in capsys.readouterr().err) == told


def test_a_run_without_a_single_map_fails(capsys, tmp_path, monkeypatch):
    from decomcam_bench.datasets.toybox.dataset import ToyBox

    def broken(self, index):
        raise OSError(f"scene {index}: truncated")

    monkeypatch.setattr(ToyBox, "load_image", broken)
    assert main(["run", "limit=2", "method=center", f"results={tmp_path}", "workers=0", "metric=energy"]) == 1
    assert "truncated" in capsys.readouterr().err
