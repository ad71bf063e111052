"""Wrong commands: one line with the remedy, exit status 2, no traceback."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from decomcam_bench.cli import main

#: The command, and what its line has to say. ``$R`` is a store, ``$P`` a picture, ``$N`` a folder that does not exist.
WRONG = r"""
rnu | unknown command 'rnu' (did you mean 'run'?)
--foo | unrecognized arguments: --foo; see decomcam-bench --help
run --foo | unrecognized arguments: --foo (did you mean '--format'?); see decomcam-bench run --help
run metohd=gradcam | unknown key 'metohd' (did you mean 'method'?)
run method=gradcan | unknown method 'gradcan' (did you mean 'gradcam'?)
run method=GradCAM | did you mean 'gradcam'
run method='decomcam;gradcam' | unknown method 'decomcam;gradcam'
run method=decomcam, gradcam | no blanks around commas and equals signs; write method=decomcam,gradcam
run method = decomcam | no blanks around commas and equals signs
run method= | method=: an empty name; write one or several of
run method=decomcam,,gradcam | an empty name
run method=glob(decomcamm*) | matches nothing; valid: decomcam
run method=[decomcam,gradcam] | takes no brackets; write method=decomcam,gradcam
run metric=[energy,pointing] | takes no brackets; write metric=energy,pointing
run method.chanels=10 | decomcam has no option 'chanels' (did you mean 'channels'?)
run method.channels=ten | method.channels=ten: must be a whole number
run method.channels=1.5 | method.channels=1.5: must be a whole number
run method.channels=null | method.channels=null: must be a whole number
run method=gradcam method.channels=10 | gradcam has no option 'channels'; valid: score
run method.decomcam.chanels=3 | did you mean 'channels'
run method.gradcam.channels=3 | no chosen method is called 'gradcam'
run rank=0 | rank=0: must be at least 1
run rank=ten | rank=ten: must be a whole number
run rank=1-5 | rank=1-5: must be a whole number
run rank=interval(1,5) | write range(1,5), or a list such as 1,2,5
run rank=range(5,1) | no value
run limit=all | limit=all: must be a whole number
run layer=layer9 limit=1 | no such layer (did you mean 'layer4'?)
run model=toyclp | did you mean 'toyclip'
run model=ViT-B-99 | `decomcam-bench list models --all` names all
run model=openclip model.arch=RN51 limit=1 | did you mean 'RN50'
run model=rn50 model.checkpoint=$N/w.pt limit=1 | no such file
run dataset=vocc | did you mean 'voc'
run dataset=voc dataset.root=$N | data prepare voc
run dataset.split=tset limit=1 | did you mean 'test'
run dataset.ids=[nothing] limit=1 | the first is 'nothing'
run metric=pointingg | did you mean 'pointing'
run metric=energy metric.tolerance=3 | energy has no option 'tolerance'
run metric=nomod:Cls | cannot import 'nomod'
run metric=math:Cls | no such class; write it as 'package.module:Class'
run metric=decomcam_bench.methods.decomcam:DecomCAM limit=1 | no subclass of decomcam_bench.metrics.base.Metric
run dataset=decomcam_bench.metrics.energy:Energy | no subclass of decomcam_bench.datasets.base.Dataset
run model=decomcam_bench.metrics.energy:Energy | no subclass of decomcam_bench.models.base.ModelSource
run method=decomcam_bench.metrics.energy:Energy | no subclass of decomcam_bench.methods.base.Method
run precision=fp8 | did you mean 'fp32'
run device=gpu limit=1 | valid: auto, cpu, cuda, cuda:N
run device=cpu,cuda | one value per run
run batch_size=big | batch_size=big: must be a whole number
run results= | name a folder for the store
run controls=2 | controls=2: must be true or false
run strict=maybe | strict=maybe: must be true or false
run foo=1 | unknown key 'foo'
run foo | write it as key=value
run ~rank | cannot delete a key
run rank=1 rank=5 | rank= is given twice; to sweep write rank=1,5
run @nowhere.yaml | @nowhere.yaml: cannot be read
run @$P | it is no text in UTF-8
run method=files limit=1 | method.dir=FOLDER
run method=custom | method.impl=package.module:Class
run method.impl=os:path | not a dataclass
run --format xlsx | invalid choice: 'xlsx'
run --quiet --verbose | --quiet and --verbose exclude each other
run --log-file $N/x.log | --log-file
run --include $N | no such folder
run method.channels='"3' | close the bracket or the quote
table --results $N | no results there; `decomcam-bench run` makes some
table $R --where foo=1 | write it as COLUMN=VALUE
table $R --where method=centre | no row has that; there are: center, random
table $R --where method=center,misspelt | no row has method=misspelt; there are: center, random
table $R --rows foo | unknown --rows column 'foo'
table $R --columns foo | unknown --columns name 'foo'
table $R --pivot foo | unknown --pivot column 'foo'
table $R --sort foo | unknown --sort column 'foo'
table $R --reference centre | did you mean 'center'
table $R --columns energy --columns key | --columns is given twice: energy and key
table $R --format csv --format md | --format is given twice
table $R method=center | to filter rows: --where method=center
list | required: what; what is one of datasets, methods
list things | invalid choice: 'things'
list methods gradcan | did you mean 'gradcam'
list layers layer=3 | list layers takes no 'layer=3'
show method=nothing | unknown method 'nothing'
show foo | write it as key=value
doctor foo | unrecognized arguments: foo
data | required: list|verify
data verify | required: name
data verify foo | unknown dataset 'foo'
data verify toybox sizee=3 | did you mean 'size'
data verify toybox size=1,2 | give one value
data prepare foo | unknown data set 'foo'
data prepare voc --archives $N | no such folder
data export-pairs limit=1 | required: --out
data export-maps zzz $R --out $N | has no cell zzz; `decomcam-bench results list` names the keys
explain $N.png --text a | no such image
explain $P | required: --text
explain $P --text '' | none may be empty
explain $P --text a dataset=voc | explain takes no 'dataset'
explain $P --text a --out x.gif | the suffix must be one of .png, .svg, .pdf
explain $P --text a --out $P | this is the picture itself
explain $P --text a --colormap jet | valid: inferno
explain $P --text a layer=foo | no such layer
reproduce localisation | did you mean 'localization'
reproduce ./nowhere.yaml | no such file
reproduce localization dataset=foo | unknown dataset 'foo'
report --results $N | no results there
report $R --resamples 0 --no-gallery | must be at least 1
check | required: --baseline
check --baseline $N.json | `decomcam-bench baseline update` writes one
check --baseline $P | cannot be read as JSON
baseline update | required: --baseline
baseline update --baseline b.json $R --key zzz | has no cell zzz
results | action is one of list, show, compare
results foo | invalid choice: 'foo'
results show $R | takes 1 KEY
results show zzz $R | has no cell zzz
results compare a $R | takes 2 KEYs
results export $R | needs --out FILE
results export $R --out x.xlsx | must end in .csv or .parquet
completion foo | invalid choice: 'foo'
"""
CASES = [tuple(part.strip() for part in line.rsplit(" | ", 1)) for line in WRONG.strip().splitlines()]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("wrong")
    store, picture = folder / "store", folder / "p.png"
    words = ["method=center,random", "metric=energy", "limit=2", "workers=0", f"results={store}"]
    assert main(["run", "--quiet", *words]) == 0
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(picture)
    return {"$R": f"--results={store}", "$P": str(picture), "$N": str(folder / "none" / "x")}


@pytest.mark.parametrize(("command", "said"), CASES, ids=[command for command, _ in CASES])
def test_a_wrong_command_gets_one_line_with_the_remedy(
    command: str,
    said: str,
    places: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DECOMCAM_BENCH_DATA", str(tmp_path / "data"))
    for sign, place in places.items():
        command = command.replace(sign, place)
    capsys.readouterr()
    assert main(shlex.split(command)) == 2
    error = capsys.readouterr().err.rstrip("\n")
    assert said in error
    assert error.startswith("decomcam-bench: ")
    assert "\n" not in error
    assert len(error) < 600
    assert not [*tmp_path.rglob("*.parquet")]


def test_an_unforeseen_exception_is_said_to_be_our_fault(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from decomcam_bench import api

    def broken(*words: str) -> str:
        raise KeyError("something")

    monkeypatch.setattr(api, "show", broken)
    assert main(["show"]) == 1
    error = capsys.readouterr().err
    assert "KeyError: 'something'; this is a fault of decomcam-bench, not yours: please report it" in error
    assert "/issues" in error
    assert error.count("\n") == 1
    with pytest.raises(KeyError):
        main(["show", "--debug"])
