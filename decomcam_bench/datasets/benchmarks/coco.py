"""MS COCO instances (val2017, val2014 and the train sets) in their official layout.

Lin et al., Microsoft COCO, ECCV 2014. ``annotations/instances_<split><year>.json`` next to the
image folder ``<split><year>``. Boxes are x, y, width, height in continuous coordinates, which are
half-open as they are. TorchRay's protocol takes crowds into the region, so they are kept unless
told otherwise; entries that hold key points only are no instances and are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from decomcam_bench.core.validation import check_choice
from decomcam_bench.datasets.files import Gathering, inside
from decomcam_bench.datasets.formats.coco_json import CocoDataset, CocoImage, has_box, is_set, read_box
from decomcam_bench.datasets.formats.coco_masks import CocoMask, coco_mask, segmentation_box

#: The 80 official categories: id in the file, name.
OFFICIAL: tuple[tuple[int, str], ...] = (
    (1, "person"), (2, "bicycle"), (3, "car"), (4, "motorcycle"), (5, "airplane"), (6, "bus"), (7, "train"),
    (8, "truck"), (9, "boat"), (10, "traffic light"), (11, "fire hydrant"), (13, "stop sign"),
    (14, "parking meter"), (15, "bench"), (16, "bird"), (17, "cat"), (18, "dog"), (19, "horse"), (20, "sheep"),
    (21, "cow"), (22, "elephant"), (23, "bear"), (24, "zebra"), (25, "giraffe"), (27, "backpack"),
    (28, "umbrella"), (31, "handbag"), (32, "tie"), (33, "suitcase"), (34, "frisbee"), (35, "skis"),
    (36, "snowboard"), (37, "sports ball"), (38, "kite"), (39, "baseball bat"), (40, "baseball glove"),
    (41, "skateboard"), (42, "surfboard"), (43, "tennis racket"), (44, "bottle"), (46, "wine glass"), (47, "cup"),
    (48, "fork"), (49, "knife"), (50, "spoon"), (51, "bowl"), (52, "banana"), (53, "apple"), (54, "sandwich"),
    (55, "orange"), (56, "broccoli"), (57, "carrot"), (58, "hot dog"), (59, "pizza"), (60, "donut"), (61, "cake"),
    (62, "chair"), (63, "couch"), (64, "potted plant"), (65, "bed"), (67, "dining table"), (70, "toilet"),
    (72, "tv"), (73, "laptop"), (74, "mouse"), (75, "remote"), (76, "keyboard"), (77, "cell phone"),
    (78, "microwave"), (79, "oven"), (80, "toaster"), (81, "sink"), (82, "refrigerator"), (84, "book"),
    (85, "clock"), (86, "vase"), (87, "scissors"), (88, "teddy bear"), (89, "hair drier"), (90, "toothbrush"),
)  # fmt: skip
#: The wording of TorchRay's class list, which gScoreCAM took over, where it differs.
_TORCHRAY = {
    "motorcycle": "motorbike", "airplane": "aeroplane", "couch": "sofa", "potted plant": "pottedplant",
    "dining table": "diningtable", "tv": "tvmonitor",
}  # fmt: skip
SPLITS = ("val", "train")
YEARS = (2017, 2014)
CROWDS = ("keep", "drop")


@dataclass
class COCO(CocoDataset):
    """COCO instances: one target for each category present, with boxes and masks.

    Attributes:
        year: 2017 or 2014.
        split: ``val`` or ``train``.
        crowds: ``keep`` them in boxes and masks, flagged (TorchRay), or ``drop`` them.
    """

    id = "coco"

    year: int = 2017
    split: str = "val"
    crowds: str = "keep"

    region: ClassVar[str] = "mask"
    folder: ClassVar[str] = "coco"
    name_choices: ClassVar[tuple[str, ...]] = ("own", "clip", "torchray")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("dataset.year", self.year, YEARS)
        check_choice("dataset.split", self.split, SPLITS)
        check_choice("dataset.crowds", self.crowds, CROWDS)
        name = f"instances_{self.split}{self.year}.json"
        file = self.find(f"annotations/{name}", name)
        self._images = self._image_folder(file)
        self._open(file)
        official = set(self._index.categories) <= set(OFFICIAL)
        categories = list(OFFICIAL) if official else self._index.categories
        self._class_of = {number: class_id for class_id, (number, _) in enumerate(categories)}
        self._class_names = tuple(name for _, name in categories)

    def _image_folder(self, file: Path) -> Path:
        name = f"{self.split}{self.year}"
        above = file.parent.parent if file.parent.name == "annotations" else file.parent
        places = (above / name, above / "images" / name)
        return next((place for place in places if place.is_dir()), places[0])

    @property
    def class_names(self) -> Sequence[str]:
        return self._class_names

    def worded(self, names: str) -> Sequence[str]:
        """``torchray``: the wording of TorchRay's list, which gScoreCAM took over ('sofa', 'tvmonitor')."""
        if names == "torchray":
            return tuple(_TORCHRAY.get(name, name) for name in self._class_names)
        return super().worded(names)

    @property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, "year": self.year, "split": self.split, "crowds": self.crowds}

    def image_file(self, index: int) -> Path:
        return inside(self._images, self._index.images[index].file_name)

    def _gather(self, gathering: Gathering, image: CocoImage, rows: Sequence[dict[str, Any]]) -> str:
        for row in rows:
            self._add(gathering, row)
        return ""

    def _add(self, gathering: Gathering, row: dict[str, Any]) -> None:
        """Adds one annotation, or notes what is wrong with it."""
        class_id = self._class_of.get(row.get("category_id"), -1)  # type: ignore[arg-type]
        if class_id < 0:
            gathering.refuse(f"{row['label']}: unknown category {row.get('category_id')!r}")
            return
        name = self._class_names[class_id]
        crowd = is_set(row.get("iscrowd"))
        if crowd and self.crowds == "drop":
            return
        try:
            if "copy" in row:
                gathering.note(row["error"], class_id, name)
                return
            if "error" in row:
                raise ValueError(row["error"])
            mask = None if has_box(row) else _mask(row, gathering.height, gathering.width)
            box = read_box(row) if mask is None else _box_of(row, mask)
            mask = mask or _mask(row, gathering.height, gathering.width)
        except ValueError as error:
            gathering.refuse(str(error), class_id, name)
            return
        gathering.add(class_id, name, box, crowd=crowd, mask=mask, label=row["label"])


def _box_of(row: dict[str, Any], mask: CocoMask) -> tuple[float, float, float, float]:
    """Return the box round a mask, for an annotation that states none.

    Raises:
        ValueError: if the mask has no pixel; names the annotation.
    """
    box = segmentation_box(mask)
    if box is None:
        raise ValueError(f"{row['label']}: no box, and a segmentation without a pixel")
    return box


def _mask(row: dict[str, Any], height: int, width: int) -> CocoMask:
    """Return the checked mask of an annotation.

    Raises:
        ValueError: if it has none that can be decoded; names the annotation.
    """
    try:
        return coco_mask(row.get("segmentation"), height, width)
    except ValueError as error:
        raise ValueError(f"{row['label']}: {error}") from error
