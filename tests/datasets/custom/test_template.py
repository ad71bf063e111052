"""``data new`` writes a table that can be filled in and read."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from decomcam_bench.cli import main
from decomcam_bench.datasets.custom.dataset import Custom


def test_a_template_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("b.jpg", "sub/a.png", "masks/m.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (300, 200)).save(tmp_path / name, exif=exif if name == "b.jpg" else Image.Exif())
    assert main(["data", "new", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "2 images; fill in" in printed
    assert "1 of them are stored turned" in printed
    file = tmp_path / "annotations.csv"
    lines = file.read_text().splitlines()
    assert lines == [
        "image,class,text,x0,y0,x1,y1,mask,width,height",
        "b.jpg,,,,,,,,300,200",
        "sub/a.png,,,,,,,,300,200",
    ]
    file.write_text("\n".join([lines[0], "b.jpg,cat,,10,20,150,120,,300,200", "sub/a.png,dog,,10,20,150,120,,300,200"]))
    assert [t.class_name for i in range(2) for t in Custom(root=str(tmp_path)).sample(i).targets] == ["cat", "dog"]
    assert main(["data", "new", str(tmp_path)]) == 2
    assert "is there already; rename it to get a new one" in capsys.readouterr().err
    file.unlink()
    assert main(["data", "new", str(tmp_path), "--exif", "upright"]) == 0
    assert "b.jpg,,,,,,,,200,300" in file.read_text()
    assert main(["data", "new", str(tmp_path / "absent")]) == 2
    (tmp_path / "empty").mkdir()
    assert main(["data", "new", str(tmp_path / "empty")]) == 2
    assert "no image (.jpg" in capsys.readouterr().err
