"""Tables as spreadsheets and annotation tools write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from decomcam_bench.core.errors import ConfigError, DataError
from decomcam_bench.datasets.custom.dataset import Custom

SIZE = (640, 480)
BOX = [10, 20, 500, 90]


def _open(root: Path, content: str | bytes, images: tuple[str, ...] = ("a.jpg",), **options: Any) -> Custom:
    for name in images:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE, (9, 8, 7)).save(root / name)
    data = content if isinstance(content, bytes) else content.encode()
    (root / "annotations.csv").write_bytes(data)
    return Custom(root=str(root), **options)


def _boxes(dataset: Custom) -> list[Any]:
    assert not [p.reason for i in range(len(dataset)) for p in dataset.sample(i).problems]
    return [t.boxes.tolist() for i in range(len(dataset)) for t in dataset.sample(i).targets]


@pytest.mark.parametrize(
    "text",
    [
        "image,class,x0,y0,x1,y1\na.jpg,cat,10,20,500,90\n",
        "image;class;x0;y0;x1;y1\r\na.jpg;cat;10;20;500;90\r\n",
        "image\tclass\tx0\ty0\tx1\ty1\na.jpg\tcat\t10\t20\t500\t90\n",
        "image|class|x0|y0|x1|y1\na.jpg|cat|10|20|500|90\n",
        "sep=;\nimage;class;x0;y0;x1;y1\na.jpg;cat;10,0;20;500;90\n",
        "\n\nImage , Class,X0,y0,x1,y1\n\na.jpg , cat,10,20, 500,90\n\n",
        "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,640,480,cat,10,20,500,90\n",
        "label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name,image_width,image_height\n"
        "cat,10,20,490,70,a.jpg,640,480\n",
        "image,label,x1,y1,x2,y2\na.jpg,cat,10,20,500,90\n",
        "image,label,x,y,width,height\na.jpg,cat,10,20,490,70\n",
        "image,label,left,top,right,bottom\na.jpg,cat,10,20,500,90\n",
        "ImageID,LabelName,XMin,XMax,YMin,YMax\na,cat,10,500,20,90\n",
        "image,class,x0,y0,x1,y1,note\na.jpg,cat,10,20,500,90,\n",
    ],
)
def test_one_box_in_many_tables(tmp_path: Path, text: str) -> None:
    dataset = _open(tmp_path, text)
    assert _boxes(dataset) == [[BOX]]
    assert list(dataset.class_names) == ["cat"]


@pytest.mark.parametrize(
    ("form", "cell"),
    [("xyxy", "[10, 20, 500, 90]"), ("xywh", "10 20 490 70"), ("cxcywh", "(255; 55; 490; 70)")],
)
def test_a_box_in_one_column_needs_its_form(tmp_path: Path, form: str, cell: str) -> None:
    text = f'image,class,bbox\na.jpg,cat,"{cell}"\n'
    assert _boxes(_open(tmp_path, text, box_format=form)) == [[BOX]]
    with pytest.raises(ConfigError, match=r"dataset\.box_format=whc: no such choice"):
        _open(tmp_path, text, box_format="whc")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_encodings_are_found_out(tmp_path: Path, encoding: str) -> None:
    text = "image,class,x0,y0,x1,y1\na.jpg,Käfer,10,20,500,90\n"
    dataset = _open(tmp_path, text.encode(encoding))
    assert list(dataset.class_names) == ["Käfer"]
    assert len(dataset.remarks) == (encoding == "cp1252")


def test_an_encoding_that_cannot_be_told_is_named(tmp_path: Path) -> None:
    text = "image,class,x0,y0,x1,y1\na.jpg,汽车,10,20,500,90\n".encode("gbk")
    with pytest.raises(
        DataError, match=r"annotations\.csv: cannot be read \(not UTF-8; set dataset\.encoding=NAME \(.*gbk"
    ):
        _open(tmp_path, text)
    assert list(_open(tmp_path, text, encoding="gbk").class_names) == ["汽车"]
    with pytest.raises(ConfigError, match=r"dataset\.encoding=gbkk: no such encoding"):
        _open(tmp_path, text, encoding="gbkk")
    with pytest.raises(DataError, match="not of the encoding ascii"):
        _open(tmp_path, text, encoding="ascii")


def test_decimal_commas(tmp_path: Path) -> None:
    quoted = 'image,class,x0,y0,x1,y1\na.jpg,cat,"10,5","20,25","500,125",90\n'
    assert _boxes(_open(tmp_path, quoted)) == [[[10.5, 20.25, 500.125, 90]]]
    unclear = 'image,class,x0,y0,x1,y1\na.jpg,cat,10,20,500,90\na.jpg,dog,1,1,"1,234",90\n'
    (problem,) = _open(tmp_path, unclear).sample(0).lost
    assert problem.reason == "line 3: the number 1,234 may be 1.234 or 1234; write it plainly"


def test_rows_that_cannot_be_read_name_their_line(tmp_path: Path) -> None:
    dataset = _open(
        tmp_path,
        "image,class,x0,y0,x1,y1,difficult\n"
        "a.jpg,cat,10,20,500,90,no\n"
        "a.jpg,cat, domestic,10,20,50,90,0\n"
        "a.jpg;dog;10;20;50;90\n"
        "a.jpg,hen,10,20,50,90,maybe\n",
        ("a.jpg",),
    )
    reasons = [p.reason for i in range(len(dataset)) for p in dataset.sample(i).problems]
    assert reasons == [
        "line 3: more fields than columns; a text or number with a comma needs quotes",
        "line 5: the flag difficult is 'maybe'; write 1 or 0",
    ]
    assert "no such image" in dataset.sample(1).error


@pytest.mark.parametrize(
    "written",
    ["images\\a.jpg", "C:\\data\\images\\a.jpg", "/home/me/set/images/a.jpg", "./images/a.jpg", "a.jpg", "A.JPG",
     "/data/upload/3/1a2b3c4d-a.jpg", "/data/local-files/?d=set/a.jpg", "https://host/x/a.jpg?token=1", "s3://bucket/a.jpg"],
)  # fmt: skip
def test_images_are_found_however_their_path_is_written(tmp_path: Path, written: str) -> None:
    dataset = _open(tmp_path, f"image,class,x0,y0,x1,y1\n{written},cat,10,20,500,90\n", ("images/a.jpg",))
    assert _boxes(dataset) == [[BOX]]
    assert dataset.load_image(0).shape == (480, 640, 3)


def test_images_in_another_unicode_form(tmp_path: Path) -> None:
    dataset = _open(tmp_path, "image,class,x0,y0,x1,y1\ngru\u0308n.jpg,cat,10,20,500,90\n", ("gr\u00fcn.jpg",))
    assert _boxes(dataset) == [[BOX]]


def test_a_name_that_fits_no_image_or_two(tmp_path: Path) -> None:
    text = "image,class,x0,y0,x1,y1\nhouse1.jpg,cat,10,20,500,90\nx/b.jpg,cat,10,20,500,90\n/q/b.jpg,cat,1,2,300,4\n"
    dataset = _open(tmp_path, text, ("house01.jpg", "x/b.jpg", "y/b.jpg"))
    assert dataset.sample(0).error.endswith("house1.jpg: no such image (the nearest is house01.jpg)")
    assert not dataset.sample(1).error
    assert "fits 2 files" in dataset.sample(2).error


@pytest.mark.parametrize(("units", "scale"), [("relative", 1), ("percent", 100)])
def test_units(tmp_path: Path, units: str, scale: int) -> None:
    rows = [f"a.jpg,cat,{0.1 * scale},{0.2 * scale},{0.5 * scale},{0.9 * scale}", f"a.jpg,dog,0,0,{0.123456 * scale},1"]
    text = "image,class,x0,y0,x1,y1\n" + "\n".join(rows)
    stated = _open(tmp_path, text, box_units=units)
    assert _boxes(stated)[0] == [[64, 96, 320, 432]]
    if units == "relative":
        with pytest.raises(DataError, match=r"all boxes lie in 0\.\.1, so they are no pixels; set dataset\.box_units"):
            _open(tmp_path, text)
        assert _open(tmp_path, text, box_units="pixels").sample(0).targets[1].boxes.tolist() == [[0, 0, 0.123456, 1]]
    else:
        assert "as with boxes in per cent; set dataset.box_units=percent" in _open(tmp_path, text).doubts[0]
        assert _open(tmp_path, text, box_units="pixels").doubts == ()


def test_units_that_contradict_the_file(tmp_path: Path) -> None:
    text = "image,class,x0,y0,x1,y1\na.jpg,cat,10,20,500,90\na.jpg,dog,0.1,0.2,0.5,0.9\n"
    with pytest.raises(DataError, match=r"dataset\.box_units=relative, but a box reaches 500"):
        _open(tmp_path, text, box_units="relative")
    (problem,) = _open(tmp_path, text).sample(0).lost
    assert problem.reason.startswith("line 3: its box lies in 0..1, and other boxes of the file are in pixels")


def test_stated_sizes_are_compared(tmp_path: Path) -> None:
    text = "image,class,x0,y0,x1,y1,width,height\na.jpg,cat,10,20,500,90,{},480\na.jpg,dog,10,20,500,90,640,480\n"
    with pytest.raises(ValueError, match="640 x 480 pixels, but its annotation says 320 x 480"):
        _open(tmp_path, text.format(320)).load_image(0)
    assert "the image has 640 x 480 pixels here, and 320 x 480 in a line before" in str(
        _open(tmp_path, text.format(320)).sample(0).problems
    )
    assert not _open(tmp_path, text.format(640)).sample(0).problems


def test_copies_are_left_out_and_noted(tmp_path: Path) -> None:
    row = "a.jpg,cat,10,20,500,90\n"
    dataset = _open(tmp_path, "image,class,x0,y0,x1,y1\n" + row + row)
    assert dataset.sample(0).targets[0].boxes.tolist() == [BOX]
    assert [p.reason for p in dataset.sample(0).problems] == ["line 3 is a copy of line 2 and was left out"]


def test_a_text_that_is_a_class_as_well_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'cat' is a class in one row and a free text in another"):
        _open(tmp_path, "image,class,text,x0,y0,x1,y1\na.jpg,cat,,10,20,500,90\na.jpg,,cat,10,20,500,90\n")


def test_named_classes_compete_and_others_are_left_out(tmp_path: Path) -> None:
    text = "image,class,x0,y0,x1,y1\na.jpg,cat,10,20,500,90\na.jpg,dog,10,20,500,90\n"
    dataset = _open(tmp_path, text, classes=["emu", "cat"])
    assert list(dataset.class_names) == ["emu", "cat"]
    assert [t.class_name for t in dataset.sample(0).targets] == ["cat"]
    assert dataset.sample(0).problems == ()
    assert dataset.remarks[0].endswith("dataset.classes leaves out 1 of its classes: dog")
    (tmp_path / "names.txt").write_text("# mine\ncat\ndog\n")
    assert list(_open(tmp_path, text, classes="names.txt").class_names) == ["cat", "dog"]
    with pytest.raises(ConfigError, match="each once and none empty"):
        _open(tmp_path, text, classes=["cat", "cat"])


def test_free_texts_are_averaged_by_pair_unless_told_otherwise(tmp_path: Path) -> None:
    text = "image,text,x0,y0,x1,y1\na.jpg,a cat,10,20,500,90\n"
    assert _open(tmp_path, text).aggregation == "pair_mean"
    assert _open(tmp_path, text, aggregate="class").aggregation == "class_mean"
    assert _open(tmp_path, text.replace("text", "class")).aggregation == "class_mean"
    assert _open(tmp_path, text.replace("text", "class"), aggregate="pair").aggregation == "pair_mean"
