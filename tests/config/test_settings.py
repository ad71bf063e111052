"""Overrides: sweeps, defaults that follow a choice, and one clear line for what is wrong."""

import pytest

from decomcam_bench.config.settings import load_config
from decomcam_bench.core.errors import ConfigError, UserError
from decomcam_bench.engine.plan import make_plan


def settings(*overrides):
    return load_config(overrides).settings


def test_no_override_is_the_embedded_default():
    (setting,) = settings()
    assert (setting.dataset["name"], setting.model["name"], setting.method["name"]) == ("toybox", "toyclip", "decomcam")
    assert setting.keys.precision == "fp32"


def test_the_model_follows_the_data_set_unless_named():
    assert settings("dataset=voc", "dataset.root=x")[0].model["arch"] == "RN50-quickgelu"
    assert settings("dataset=voc", "model=toyclip")[0].model["name"] == "toyclip"


def test_comma_lists_sweep():
    found = settings("method=decomcam,gradcam", "layer=layer3,layer4", "rank=1,5,10")
    assert len(found) == 12
    assert {s.keys.rank for s in found} == {1, 5, 10}


def test_controls_add_floor_ceiling_and_the_first_method_on_random_weights():
    found = settings("method=decomcam,random,gradcam", "rank=1,5", "controls=true")
    trained = [s.method["name"] for s in found if s.model["weights"] == "shipped" and s.keys.rank == 5]
    assert trained == ["decomcam", "random", "gradcam", "center", "oracle"]
    untrained = [s for s in found if s.model["weights"] == "untrained"]
    assert [(s.method["name"], s.keys.rank) for s in untrained] == [("decomcam", 1), ("decomcam", 5)]
    assert untrained[0].changed["model"] == {"weights": "untrained"}
    (real,) = [
        s
        for s in settings("dataset=voc", "dataset.root=x", "model.checkpoint=file", "controls=true")
        if s.model["pretrained"] == "random"
    ]
    assert (real.model["checkpoint"], real.changed["model"]) == ("", {"pretrained": "random"})


def test_hydra_ranges_sweep():
    assert [s.keys.rank for s in settings("rank=range(1,4)")] == [1, 2, 3]


def test_an_option_reaches_the_chosen_that_have_it():
    decomcam, gradcam = settings("method=decomcam,gradcam", "method.channels=7")
    assert decomcam.method["channels"] == 7
    assert decomcam.changed["method"] == {"channels": 7}
    assert "channels" not in gradcam.method


def test_options_sweep():
    assert [s.method["channels"] for s in settings("method.channels=10,100")] == [10, 100]
    config = load_config(["metric=pointing", "metric.tolerance=0,15"])
    assert [metric.config["tolerance"] for metric in config.metrics[0]] == [0, 15]


def test_an_architecture_can_be_the_model():
    (setting,) = settings("model=ViT-B-32")
    assert setting.model["arch"] == "ViT-B-32"


def test_lists_are_values():
    (setting,) = settings("dataset.templates=['a {}','the {}']")
    assert setting.dataset["templates"] == ["a {}", "the {}"]


@pytest.mark.parametrize(
    ("written", "ids"),
    [
        ("[2007_000033,2007_000061]", ["2007_000033", "2007_000061"]),
        ("[ 1_0 ,'a,b', \"x y\",1e5,true,007,a\\,b]", ["1_0", "a,b", "x y", "1e5", "true", "007", "a,b"]),
        ("['2007_000033']", ["2007_000033"]),
        ("2007_000033", "2007_000033"),
        ("ids.txt", "ids.txt"),
        ("'2007_000033'", "2007_000033"),
        ("[]", []),
        ("null", None),
    ],
)
def test_ids_are_texts_as_they_are_written(written, ids):
    (setting,) = settings(f"dataset.ids={written}")
    assert setting.dataset["ids"] == ids


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("modle=toyclip", "unknown key 'modle' (did you mean 'model'?); valid: dataset, model"),
        ("rnak=3", "did you mean 'rank'"),
        ("dataset=vocc", "unknown dataset 'vocc' (did you mean 'voc'?); valid:"),
        ("method=gradcan", "did you mean 'gradcam'"),
        ("metric=pointig", "did you mean 'pointing'"),
        ("model=toyclp", "did you mean 'toyclip'"),
        ("model.towr=vit", "did you mean 'tower'"),
        ("method.chanels=3", "did you mean 'channels'"),
        ("method.channels=0", "method.channels=0"),
        ("method.channels=many", "method.channels=many"),
        ("rank=0", "rank=0: must be at least 1"),
        ("rank=two", "rank=two"),
        ("rank=1.5", "rank=1.5"),
        ("limit=-1", "limit=-1"),
        ("seed=x", "seed=x"),
        ("strict=maybe", "strict=maybe"),
        ("precision=fp8", "fp32, fp16, bf16"),
        ("batch_size=0", "batch_size=0"),
        ("device=cpu,cuda", "one value per run"),
        ("foo", "key=value"),
        ("~rank", "delete"),
        ("results=", "results="),
        ("method=custom", "method.impl=package.module:Class"),
        ("method.impl=nowhere:Thing", "cannot import 'nowhere'"),
        ("method.impl=decomcam_bench.methods.controls:Nothing", "no such class"),
        ("dataset.size=few", "dataset.size=few"),
        ("metric.tolerance=-1", "tolerance"),
    ],
)
def test_what_is_wrong_is_one_line(override, said):
    with pytest.raises(UserError) as caught:
        load_config([override])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    ("override", "said"), [("dataset.split=testt", "did you mean 'test'"), ("dataset.templates=photos", "templates")]
)
def test_what_a_data_set_refuses_is_one_line(override, said):
    with pytest.raises(UserError, match=said):
        make_plan(load_config([override]))


def test_a_type_that_nothing_has_is_refused():
    with pytest.raises(ConfigError, match="has no option"):
        load_config(["method=gradcam", "method.channels=3"])
