"""The photographs that ship: complete, credited, small, and known to photoclip."""

from __future__ import annotations

import re

import pytest

from decomcam_bench.config import registry
from decomcam_bench.core.errors import ConfigError
from decomcam_bench.datasets.acquire.verify import verify
from decomcam_bench.datasets.custom import dataset as custom
from decomcam_bench.datasets.photos.dataset import FOLDER, Photos
from decomcam_bench.models.photoclip import PhotoTokenizer


@pytest.fixture(scope="module")
def photos():
    return registry.build("dataset", registry.read("dataset", "photos"))


def test_every_photograph_is_annotated_sound_and_credited(photos):
    report = verify(photos)
    assert report.sound, report.findings
    assert (report.images, report.pairs, report.boxes) == (32, 36, 54)
    files = {file.name for file in (FOLDER / "images").iterdir()}
    assert files == {f"{photos.image_id(index)}.jpg" for index in range(len(photos))}
    credits = dict(
        re.findall(r"^\| (\w+\.jpg) \|(.*)$", (FOLDER / "CREDITS.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert credits.keys() == files
    free = ("public domain", "CC0 1.0", "CC BY 2.0", "CC BY 3.0")
    for name, line in credits.items():
        author, source, licence, package, _ = (part.strip() for part in line.rstrip("|").split(" |"))
        assert author, name
        assert source, name
        assert package, name
        assert any(one in licence for one in free), name


def test_they_are_small():
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.suffix != ".py") < 2_500_000


def test_photoclip_knows_every_name(photos):
    tokenizer = PhotoTokenizer()
    for (text,) in photos.prompts.texts(photos):
        reading = tokenizer.read(text)
        assert len(reading.phrases) == 1, text
        assert not reading.unknown, text


def test_the_files_are_in_the_format_of_custom_data(photos):
    own = registry.build("dataset", {**registry.read("dataset", "custom"), "root": str(FOLDER)})
    assert isinstance(own, custom.Custom)
    assert len(own) == len(photos)
    for index in range(len(own)):
        ours, theirs = photos.sample(index), own.sample(index)
        assert [t.class_name for t in ours.targets] == [t.class_name for t in theirs.targets]
        for one, other in zip(ours.targets, theirs.targets, strict=True):
            assert one.boxes.tolist() == other.boxes.tolist()


def test_another_root_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="photos ship with the package; use dataset=custom for your own"):
        Photos(root=str(tmp_path))
