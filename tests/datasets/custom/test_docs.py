"""The examples of docs/custom-data.md are read as the page says, and it names every option, column and format."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from decomcam_bench.config import registry
from decomcam_bench.datasets.acquire.verify import verify
from decomcam_bench.datasets.custom.csv_file import ALIASES, BOXES
from decomcam_bench.datasets.custom.dataset import Custom
from decomcam_bench.datasets.custom.formats import READERS
from tests.datasets import layouts

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "custom-data.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"<!-- example: (\w+)[^>]*-->(.*?)(?=<!-- example|\Z)", PAGE, re.DOTALL))
EXPECTED: dict[str, dict[str, list[list[float]]]] = {
    "csv": {"cat": [[10, 20, 150, 120], [160, 40, 290, 180]], "dog": [[30, 25, 200, 190]]},
    "csv_semicolon": {"cat": [[10.5, 20, 150, 120]]},
    "phrases": {"the cat on the left, asleep": [[10, 20, 150, 120]], "the lamp": [[200, 10, 240, 60]]},
    "coco": {"cat": [[10, 20, 150, 120]]},
    "voc": {"cat": [[10, 20, 150, 120]]},
    "yolo": {"cat": [[10, 20, 150, 120]]},
}


def _write(root: Path, text: str) -> None:
    for name, body in re.findall(r"```\w+ (\S+)\n(.*?)```", text, re.DOTALL):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(body, encoding="utf-8")
    folder = root / "images" if (root / "labels").is_dir() else root
    for number, name in enumerate(("cat.jpg", "garden/dog.jpg") if "dog.jpg" in text else ("cat.jpg",)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (320, 200), (number, 7, 9)).save(folder / name)
    if "masks/lamp.png" in text:
        mask = np.zeros((200, 320), np.uint8)
        mask[10:60, 200:240] = 255
        layouts.save(root / "masks" / "lamp.png", mask)


@pytest.mark.parametrize("name", EXPECTED)
def test_examples(tmp_path: Path, name: str) -> None:
    _write(tmp_path, EXAMPLES[name])
    dataset = Custom(name="custom", root=str(tmp_path))
    found: dict[str, list[list[float]]] = {}
    for index in range(len(dataset)):
        dataset.load_image(index)
        for target in dataset.sample(index).targets:
            found.setdefault(target.class_name, []).extend(target.boxes.tolist())
    assert found == EXPECTED[name]
    assert verify(dataset).verdict == "sound"


def test_every_example_is_tested() -> None:
    assert set(EXAMPLES) == {*EXPECTED, "semantic"}


def test_the_page_names_every_option_column_and_format() -> None:
    general = {field.name for field in fields(Custom)} - {"name", "names", "templates", "ids"}
    options = {name for name in general if not name.startswith("subset")}
    assert all(f"`{name}`" in PAGE for name in options)
    assert all(f"`{name}`" in PAGE for name in READERS)
    columns: set[Any] = {alias for aliases in ALIASES.values() for alias in aliases}
    columns |= {name for box, _ in BOXES for name in box}
    lower = PAGE.lower()
    missing = {name for name in columns if name not in lower}
    assert missing <= {"labelname", "maskpath", "xcenter", "ycenter", "bbox_w", "bbox_h", "x_max", "y_min", "y_max"}


def test_the_yaml_names_every_option() -> None:
    config = registry.read("dataset", "custom")
    assert {field.name for field in fields(Custom)} - {"name"} == set(config) - set(registry.DESCRIPTIVE)
