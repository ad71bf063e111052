"""Names and templates."""

from __future__ import annotations

import subprocess
import sys

import pytest

from decomcam_bench.datasets.base import Dataset
from decomcam_bench.datasets.coco import OFFICIAL
from decomcam_bench.datasets.imagenet_wnids import WNIDS
from decomcam_bench.datasets.prompts import imagenet_names, resolve_templates
from decomcam_bench.datasets.toybox import ToyBox
from decomcam_bench.errors import ConfigError


def _texts(dataset: Dataset) -> list[list[str]]:
    return dataset.prompts.texts(dataset)


def test_named_sets() -> None:
    assert _texts(ToyBox())[0] == ["a photo of a house."]
    assert _texts(ToyBox(templates="decomcam"))[1] == ["the tree in the picture"]
    assert _texts(ToyBox(templates="bare"))[9] == ["ice cream"]
    assert _texts(ToyBox(templates=["one {}", "two {}"]))[0] == ["one house", "two house"]
    assert _texts(ToyBox(templates="my {} here"))[0] == ["my house here"]


def test_the_long_lists_are_open_clips() -> None:
    from open_clip import zero_shot_metadata as official

    expected = [template("dog") for template in official.OPENAI_IMAGENET_TEMPLATES]
    assert [template.replace("{}", "dog") for template in resolve_templates("clip80")] == expected
    assert len(expected) == 80
    assert len(resolve_templates("clip7")) == 7
    assert imagenet_names() == tuple(official.IMAGENET_CLASSNAMES)


def test_imagenet_names_and_ids_go_together() -> None:
    assert len(imagenet_names()) == len(WNIDS) == len(set(WNIDS)) == 1000
    assert list(WNIDS) == sorted(WNIDS)
    names = dict(zip(WNIDS, imagenet_names(), strict=True))
    known = {"n01440764": "tench", "n02123045": "tabby cat", "n03792782": "mountain bike", "n15075141": "toilet paper"}
    assert {wnid: names[wnid] for wnid in known} == known


def test_reading_prompts_imports_no_torch() -> None:
    code = (
        "import sys; from decomcam_bench.datasets.prompts import imagenet_names, resolve_templates;"
        "from decomcam_bench.datasets import coco, cub, custom, imagenet, imagenetv2, partimagenet, toybox, voc;"
        "imagenet_names(); resolve_templates('clip80'); assert 'torch' not in sys.modules, 'torch'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("bad", ["clip8", "", [], ["no place"], ["{} and {}"], [3], "{} {}", None])
def test_bad_templates(bad: object) -> None:
    with pytest.raises(ConfigError, match="templates"):
        ToyBox(templates=bad)


def test_prompts_are_part_of_the_key_by_content() -> None:
    named, spelt = ToyBox(templates="photo"), ToyBox(templates=["a photo of a {}."])
    assert named.prompt_identity == spelt.prompt_identity
    assert named.prompt_identity != ToyBox(templates="bare").prompt_identity
    assert named.prompt_identity != ToyBox(names="clip").prompt_identity
    assert named.identity == ToyBox(templates="bare").identity


def test_official_coco_categories() -> None:
    ids = [number for number, _ in OFFICIAL]
    assert len(OFFICIAL) == 80
    assert ids == sorted(set(ids))
    assert set(range(1, 91)) - set(ids) == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert OFFICIAL[-1] == (90, "toothbrush")
