"""What can be read but may not be meant is found, and what is fine is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from decomcam_bench.cli import main
from decomcam_bench.datasets.acquire import known_flaws
from decomcam_bench.datasets.acquire.known_flaws import KnownFlaw
from decomcam_bench.datasets.acquire.plausibility import count_findings
from decomcam_bench.datasets.acquire.verify import Report, verify
from decomcam_bench.datasets.benchmarks.coco import COCO
from decomcam_bench.datasets.custom.dataset import Custom
from tests.datasets import layouts

WIDTH, HEIGHT = 160, 120
HEAD = "image,class,x0,y0,x1,y1,mask\n"


def _root(root: Path, rows: str, head: str = HEAD) -> Path:
    for number, name in enumerate(("a.png", "b.png")):
        pixels = np.random.default_rng(number).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name)
    (root / "annotations.csv").write_text(head + rows)
    return root


def _verify(root: Path, **options: Any) -> Report:
    return verify(Custom(name="custom", root=str(root), **options))


def _mask(rows: slice, columns: slice, value: int = 255, other: int = 0) -> np.ndarray:
    mask = np.full((HEIGHT, WIDTH), other, np.uint8)
    mask[rows, columns] = value
    return mask


ALL, DISAGREE = "masks that cover nearly everything", "masks that disagree with their boxes"
FULL = _mask(slice(0, HEIGHT), slice(0, WIDTH))
RAMP = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))


@pytest.mark.parametrize(
    ("mask", "row", "kind", "words"),
    [
        (FULL, ",,,,", ALL, "covers 100% of the image; if it is inverted, set dataset.mask_value=0"),
        (_mask(slice(20, 60), slice(20, 90), 0, 255), ",,,,", ALL, "covers 85%"),
        (_mask(slice(0, 0), slice(0, 0)), "10,10,140,50,", "masks without a pixel", "the mask has no pixel"),
        (RAMP, ",,,,", "masks with values between the ends", "79% of its pixels are neither black nor white"),
        (_mask(slice(80, 110), slice(100, 150)), "10,10,40,40,", DISAGREE, "its box is (10, 10, 40, 40)"),
        (_mask(slice(10, 20), slice(10, 20)), "5,5,150,110,", DISAGREE, "its mask fills (10, 10, 20, 20)"),
        (None, "10.2,10,10.4,110,", "regions without a pixel", "no pixel lies in its box (10.2, 10, 10.4, 110)"),
    ],
)  # fmt: skip
def test_one_finding(tmp_path: Path, mask: np.ndarray | None, row: str, kind: str, words: str) -> None:
    root = _root(tmp_path, f"a.png,cat,{row}{'m.png' if mask is not None else ''}\nb.png,cat,10,10,140,50,\n")
    if mask is not None:
        Image.fromarray(mask).save(root / "m.png")
    report = _verify(root)
    assert list(report.findings) == [kind]
    assert words in report.findings[kind][0]
    assert report.verdict == f"not sound: 1 {kind}"


def test_what_is_fine_is_not_found(tmp_path: Path) -> None:
    root = _root(tmp_path, "a.png,cat,10,10,40,40,m.png\na.png,dog,100,5,140,70,\nb.png,cat,,,,,m.png\n")
    Image.fromarray(_mask(slice(12, 38), slice(10, 39))).save(root / "m.png")
    assert _verify(root).verdict == "sound"


@pytest.mark.parametrize("turn", [3, 6, 8])
def test_turned_photographs_give_the_same_numbers_upright(tmp_path: Path, turn: int, bench: Any) -> None:
    row = "p.png,house,20,30,110,100\n"
    pixels = np.asarray(Image.fromarray(layouts.scenes(1)[0].image).resize((WIDTH, HEIGHT)))
    back = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    tables = {}
    for name in ("upright", "turned"):
        (tmp_path / name).mkdir()
        picture, exif = Image.fromarray(pixels), Image.Exif()
        if name == "turned":
            picture, exif[0x0112] = picture.transpose(back[turn]), turn
        picture.save(tmp_path / name / "p.png", exif=exif)
        (tmp_path / name / "annotations.csv").write_text("image,class,x0,y0,x1,y1\n" + row)
        options = ["dataset=custom", f"dataset.root={tmp_path / name}", "dataset.exif=upright", "method=gradcam"]
        _, tables[name] = bench(tmp_path / f"{name}_store", *options, "model=toyclip", "metric=energy,pointing_exact")
    for column in ("energy", "pointing_exact", "n_evaluated"):
        assert tables["upright"][column].iloc[0] == tables["turned"][column].iloc[0]
    report = _verify(tmp_path / "turned")
    assert "stored turned (EXIF orientation" in report.findings["turned photographs"][0]
    assert "dataset.exif=upright" in report.findings["turned photographs"][0]
    assert _verify(tmp_path / "turned", exif="upright").sound
    assert _verify(tmp_path / "upright").sound


def test_a_stated_size_upright_names_the_option(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.jpg", exif=exif)
    head = "image,class,x0,y0,x1,y1,width,height\n"
    (tmp_path / "annotations.csv").write_text(f"{head}a.jpg,cat,20,30,110,150,{HEIGHT},{WIDTH}\n")
    with pytest.raises(ValueError, match=r"means the photograph upright: dataset\.exif=upright"):
        Custom(root=str(tmp_path)).load_image(0)
    assert Custom(root=str(tmp_path), exif="upright").load_image(0).shape == (WIDTH, HEIGHT, 3)


def test_copies_and_long_texts(tmp_path: Path) -> None:
    words = "a very long tale " * 20
    root = _root(tmp_path, f"a.png,{words},10,10,140,50,\nb.png,cat,10,10,140,50,\n", HEAD.replace("class", "text"))
    (root / "b.png").write_bytes((root / "a.png").read_bytes())
    report = _verify(root)
    assert report.findings["images that occur twice"] == [
        f"{root / 'b.png'}: the same picture as {root / 'a.png'}; leave one of them out"
    ]
    (line,) = report.findings["texts longer than the model reads"]
    assert "has 82 tokens, and CLIP reads 77; shorten it" in line
    exact = "cat " * 75
    assert not _verify(_root(tmp_path, f"a.png,{exact},10,10,140,50,\n", HEAD.replace("class", "text"))).findings


def test_known_flaws_leave_a_copy_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    root = layouts.write_coco(tmp_path, layouts.scenes(2))
    file = root / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    row = {**content["annotations"][0], "id": 918, "bbox": [5.0, 5.0, 1.0, 0.0]}
    content["annotations"] += [row, {**row, "id": 919}]
    file.write_text(json.dumps(content))
    dataset = COCO(name="coco", root=str(root))
    assert verify(dataset).verdict == "not sound: 2 annotations mended or left out"
    flaw = KnownFlaw(
        "coco", r"annotation 91[89]: .* has no area$", "a box of height 0", "https://host/1", options={"year": 2017}
    )
    monkeypatch.setattr(known_flaws, "KNOWN_FLAWS", (flaw,))
    report = verify(dataset)
    assert report.verdict == "sound, with 2 known flaws"
    assert report.known[0].endswith("has no area (a box of height 0: https://host/1)")
    monkeypatch.setattr(known_flaws, "KNOWN_FLAWS", (KnownFlaw("coco", "", "x", "y", options={"year": 2014}),))
    assert not verify(dataset).sound


def test_every_known_flaw_names_its_source() -> None:
    assert all(flaw.source.startswith("https://") and flaw.reason for flaw in known_flaws.KNOWN_FLAWS)


def test_a_run_counts_the_findings_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = _root(tmp_path, "a.png,cat,10,10,140,50,m.png\nb.png,cat,10,10,10.4,50,\n")
    Image.fromarray(FULL).save(root / "m.png")
    words = [
        "run",
        "dataset=custom",
        f"dataset.root={root}",
        "model=toyclip",
        "method=center",
        "metric=energy",
        "workers=0",
    ]
    for _ in range(2):
        assert main([*words, f"results={tmp_path / 'store'}"]) == 0
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("data:")]
        assert lines == [
            "data: 2 findings that `data verify` lists with what to set: 1 masks that cover nearly everything, "
            "1 masks that disagree with their boxes"
        ]
    dataset = Custom(root=str(root))
    assert count_findings(dataset, range(2)) == count_findings(dataset, [0])
    assert count_findings(dataset, [1]) == {}
