"""What is known about each benchmark: licence, citation, official archives, expected counts.

Checksums are those that publishers or long-standing loaders (torchvision, for one) state; where
none is known the entry is empty, and the program says "unverified".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Archive:
    """One file to fetch.

    Attributes:
        url: where its publisher offers it; for a ``manual`` one, the page that leads to it.
        megabytes: about, for the user's information.
        checksum: ``md5:…`` or ``sha256:…``, or empty.
        into: folder under the root where its content goes.
        only: shell patterns of the members that are needed; empty for all.
        nested: archives inside it that are unpacked as well, by name.
        plain: a file that is no archive and is moved to ``into`` as it is.
        manual: cannot be fetched without an account.
        optional: a data set works without it.
        name: its file name; that of the URL unless given.
    """

    url: str
    megabytes: int
    checksum: str = ""
    into: str = ""
    only: tuple[str, ...] = ()
    nested: tuple[str, ...] = ()
    plain: bool = False
    manual: bool = False
    optional: bool = False
    name: str = ""

    @property
    def file_name(self) -> str:
        return self.name or self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Variant:
    """A split or year that can be prepared and verified by itself.

    Attributes:
        options: of the data set.
        archives: that it needs.
        images: official number.
        boxes: official number of annotated boxes, or None where no figure is known.
        megabytes: on disk, about.
    """

    options: Mapping[str, Any]
    archives: tuple[Archive, ...]
    images: int
    megabytes: int
    boxes: int | None = None


@dataclass(frozen=True)
class Entry:
    """A benchmark.

    Attributes:
        title, licence, citation: one line each.
        variants: by name; the first is the default.
        manual: what to do by hand, step by step, with ``{root}`` for the target folder.
    """

    title: str
    licence: str
    citation: str
    variants: Mapping[str, Variant]
    manual: tuple[str, ...] = field(default_factory=tuple)


_VOC = "http://host.robots.ox.ac.uk/pascal/VOC"
_COCO = "http://images.cocodataset.org"
_WSOL = "https://raw.githubusercontent.com/clovaai/wsolevaluation/master/metadata/ILSVRC"
_V2 = "https://huggingface.co/datasets/vaishaal/ImageNetV2/resolve/main"
_PART = "https://huggingface.co/datasets/turkeyju/PartImageNet/resolve/main"


def _wsol(split: str) -> tuple[Archive, ...]:
    files = ("image_ids", "class_labels", "image_sizes", "localization")
    return tuple(
        Archive(f"{_WSOL}/{split}/{name}.txt", 4, into=f"wsol_metadata/ILSVRC/{split}", plain=True) for name in files
    )


def _coco(year: int, images: int, checksum: str, annotations: str, megabytes: int) -> Variant:
    return Variant(
        {"year": year, "split": "val"},
        (
            Archive(f"{_COCO}/zips/val{year}.zip", megabytes, f"md5:{checksum}"),
            Archive(
                f"{_COCO}/annotations/annotations_trainval{year}.zip",
                241,
                f"md5:{annotations}",
                only=(f"annotations/instances_val{year}.json",),
            ),
        ),
        images,
        megabytes + 20,
    )


def _imagenette(size: str, megabytes: int, checksum: str, disk: int) -> Variant:
    """A size of Imagenette; addresses and checksums are those of torchvision's ``Imagenette``."""
    name = "imagenette2.tgz" if size == "full" else f"imagenette2-{size.removesuffix('px')}.tgz"
    archive = Archive(f"https://s3.amazonaws.com/fast-ai-imageclas/{name}", megabytes, f"md5:{checksum}")
    return Variant({"size": size, "split": "boxed"}, (archive,), 500, disk, 813)


def _v2(variant: str, boxes: int | None = None) -> Variant:
    archive = Archive(f"{_V2}/imagenetv2-{variant}.tar.gz", 1200)
    return Variant({"variant": variant}, (archive, *(_wsol("val") if boxes else ())), 10_000, 1300, boxes)


CATALOGUE: dict[str, Entry] = {
    "voc": Entry(
        "PASCAL VOC 2007 test and 2012 val",
        "images under Flickr's terms; annotations free for research",
        "Everingham et al., The PASCAL Visual Object Classes (VOC) Challenge, IJCV 88, 2010",
        {
            "2007": Variant(
                {"year": 2007, "split": "test"},
                (Archive(f"{_VOC}/voc2007/VOCtest_06-Nov-2007.tar", 430, "md5:b6e924de25625d8de591ea690078ad9f"),),
                4952,
                470,
            ),
            "2012": Variant(
                {"year": 2012, "split": "val"},
                (Archive(f"{_VOC}/voc2012/VOCtrainval_11-May-2012.tar", 1908, "md5:6cd6e144f989b92b3379bac3b3de84fd"),),
                5823,
                2000,
            ),
        },
    ),
    "coco": Entry(
        "MS COCO val2017 and val2014 (instances)",
        "annotations CC BY 4.0; images under Flickr's terms",
        "Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014",
        {
            "2017": _coco(2017, 5000, "442b8da7639aecaf257c1dceb8ba8c80", "f4bbac642086de4f52a3fdda2de5fa2c", 778),
            "2014": _coco(2014, 40_504, "a3d79f5ed8d289b7a7554ce06a5782b3", "0a379cfc70b0e71301e0f377548639bd", 6340),
        },
    ),
    "imagenette": Entry(
        "Imagenette: ten classes of ImageNet, of which 500 photographs have boxes",
        "images under ImageNet's terms; boxes MIT",
        "Howard, Imagenette, https://github.com/fastai/imagenette; boxes: Choe et al., CVPR 2020",
        {
            "160px": _imagenette("160px", 94, "e793b78cc4c9e9a4ccc0c1155377a412", 120),
            "320px": _imagenette("320px", 326, "3df6f0d01a2c9592104656642f5e78a3", 360),
            "full": _imagenette("full", 1557, "fe2fc210e6bb7c5664d602c3cd71e612", 1600),
        },
    ),
    "imagenet": Entry(
        "ImageNet (ILSVRC2012) validation",
        "non-commercial research and education, by agreement with image-net.org",
        "Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 115, 2015",
        {
            "val": Variant(
                {},
                (
                    *_wsol("test"),
                    Archive(
                        "https://image-net.org/challenges/LSVRC/2012/2012-downloads.php",
                        6300,
                        "md5:29b22e2961454d5413ddabcf34fc5622",
                        into="ILSVRC2012_img_val",
                        manual=True,
                        name="ILSVRC2012_img_val.tar",
                    ),
                    Archive(
                        "https://image-net.org/challenges/LSVRC/2012/2012-downloads.php",
                        3,
                        "md5:f4cd18b5ea29fe6bbea62ec9c20d80f0",
                        into="ILSVRC2012_bbox_val_v3",
                        manual=True,
                        optional=True,
                        name="ILSVRC2012_bbox_val_v3.tgz",
                    ),
                ),
                50_000,
                6700,
                80_477,
            ),
        },
        (
            "make an account at https://image-net.org/signup and ask for access to ILSVRC2012",
            "open https://image-net.org/challenges/LSVRC/2012/2012-downloads.php",
            "download 'Validation images (all tasks)', ILSVRC2012_img_val.tar (6.3 GB), to {root}/archives/",
            "if you want the official boxes instead of wsolevaluation's copy of them: download 'Validation bounding "
            "box annotations (all tasks)', ILSVRC2012_bbox_val_v3.tgz (2 MB), to {root}/archives/ as well",
            "run 'decomcam-bench data prepare imagenet --root {root}' again: it checks and unpacks them",
        ),
    ),
    "imagenetv2": Entry(
        "ImageNet-V2 (threshold-0.7 with boxes; matched-frequency and top-images without)",
        "images under Flickr's terms; boxes MIT",
        "Recht et al., Do ImageNet Classifiers Generalize to ImageNet?, ICML 2019; boxes: Choe et al., CVPR 2020",
        {
            "threshold0.7": _v2("threshold0.7", 18_532),
            "matched-frequency": _v2("matched-frequency"),
            "top-images": _v2("top-images"),
        },
    ),
    "partimagenet": Entry(
        "PartImageNet (OOD test split)",
        "non-commercial research; images under ImageNet's terms",
        "He et al., PartImageNet: A Large, High-Quality Dataset of Parts, ECCV 2022",
        {
            "test": Variant(
                {"split": "test"},
                (Archive(f"{_PART}/PartImageNet_OOD.zip", 3000, nested=("test.zip",)),),
                4598,
                3500,
            ),
        },
    ),
    "cub": Entry(
        "CUB-200-2011 test",
        "non-commercial research and education; images under Flickr's terms",
        "Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, CNS-TR-2011-001, 2011",
        {
            "test": Variant(
                {"split": "test"},
                (
                    Archive(
                        "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
                        1150,
                        "md5:97eceeb196236b17998738112f37df78",
                    ),
                ),
                5794,
                1200,
                5794,
            ),
        },
    ),
}


def variant_of(dataset: Any) -> Variant | None:
    """The official variant that a data set is, or None for one of one's own."""
    variants = CATALOGUE[dataset.name].variants.values() if dataset.name in CATALOGUE else ()
    fits = (all(getattr(dataset, key) == value for key, value in variant.options.items()) for variant in variants)
    return next((variant for variant, fit in zip(variants, fits, strict=True) if fit), None)
