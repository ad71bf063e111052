"""Names and templates."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.datasets.base import Dataset
from decomcam_bench.datasets.benchmarks.coco import COCO, OFFICIAL
from decomcam_bench.datasets.benchmarks.imagenet_wnids import WNIDS
from decomcam_bench.datasets.custom.dataset import Custom
from decomcam_bench.datasets.prompts import imagenet_names, resolve_templates
from decomcam_bench.datasets.toybox.dataset import ToyBox
from tests.datasets import layouts


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
        "from decomcam_bench.datasets.benchmarks import coco, cub, imagenet, imagenetv2, partimagenet, voc;"
        "import decomcam_bench.datasets.custom.dataset;"
        "from decomcam_bench.datasets.toybox import dataset;"
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


def test_the_key_holds_every_text_and_not_only_those_of_classes_that_images_show(tmp_path: Path) -> None:
    root = layouts.write_coco(tmp_path, layouts.scenes(2))
    file = root / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    shown = {annotation["category_id"] for annotation in content["annotations"]}
    unseen = next(category for category in content["categories"] if category["id"] not in shown)
    found = {}
    for name in (unseen["name"], "renamed", "renamed"):
        unseen["name"] = name
        file.write_text(json.dumps(content))
        (root / "val2017" / "annotations.json").write_text(file.read_text())
        own = Custom(root=str(root / "val2017"))
        for dataset in (COCO(root=str(root)), own):
            found.setdefault(type(dataset), []).append(json.dumps(dataset.prompt_identity))
    for before, after, same in found.values():
        assert before != after == same


def test_a_free_text_is_another_prompt_than_a_class_of_that_name(tmp_path: Path) -> None:
    layouts.save(tmp_path / "a.png", np.zeros((20, 20, 3), np.uint8))
    identities = []
    for column in ("class", "text"):
        (tmp_path / "annotations.csv").write_text(f"image,{column},x0,y0,x1,y1\na.png,dog,1,1,9,9\n")
        identities.append(Custom(root=str(tmp_path)).prompt_identity)
    assert identities[0] != identities[1]
