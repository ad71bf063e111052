#!/usr/bin/env python
"""Measures how fast, and in how much memory, annotation of official size is opened.

    python scripts/bench_datasets.py
    python scripts/bench_datasets.py coco imagenet --check

Makes synthetic annotation of the size of COCO val2017 (5,000 images, about 37,000 annotations with
polygons) and of ImageNet val (50,000 images; wsolevaluation's metadata, and XML), opens each in a
fresh process, and prints the seconds and the memory above what importing the package takes. With
``--check`` the exit status is 1 if a limit is exceeded: 3 s of CPU time, which unlike the time on the
clock does not depend on what else the machine does, and 300 MiB for COCO.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

SECONDS = 3.0
MEBIBYTES = 300.0

_MEASURE = """
import json, resource, sys, time
from decomcam_bench.config import registry
from decomcam_bench.datasets.base import Dataset
name, root = sys.argv[1:]
registry.implementation("dataset", registry.read("dataset", name)["impl"])
import omegaconf
def peak():
    try:  # of this program alone; ru_maxrss would count what the parent held when it forked
        status = dict(line.split(":", 1) for line in open("/proc/self/status"))
        return int(status["VmHWM"].split()[0]) / 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)
before = peak()
start, busy = time.perf_counter(), time.process_time()
dataset = registry.build("dataset", {**registry.read("dataset", name), "root": root})
opened, busy = time.perf_counter() - start, time.process_time() - busy
memory = peak() - before
start = time.perf_counter()
dataset.fingerprint
hashed = time.perf_counter() - start
start = time.perf_counter()
samples = [dataset.sample(index) for index in range(len(dataset))]
read = time.perf_counter() - start
boxes = sum(len(target.boxes) for sample in samples for target in sample.targets)
print(json.dumps({"images": len(dataset), "boxes": boxes, "open_s": opened, "cpu_s": busy, "open_mib": memory,
                  "fingerprint_s": hashed, "all_samples_s": read, "all_mib": peak() - before}))
"""


def make_coco(root: Path) -> str:
    """5,000 images, 36,781 annotations, polygons of about as many points as the real ones."""
    dice = random.Random(0)
    from decomcam_bench.datasets.benchmarks.coco import OFFICIAL

    images = [
        {
            "id": n,
            "file_name": f"{n:012d}.jpg",
            "width": 640,
            "height": 480,
            "license": 1,
            "coco_url": f"http://images.cocodataset.org/val2017/{n:012d}.jpg",
        }
        for n in range(5000)
    ]
    annotations = []
    for number in range(36_781):
        x, y, w, h = dice.uniform(0, 500), dice.uniform(0, 400), dice.uniform(5, 130), dice.uniform(5, 70)
        points = [
            round(dice.uniform(0, 1) * side + start, 2)
            for _ in range(dice.randint(10, 40))
            for start, side in ((x, w), (y, h))
        ]
        annotations.append(
            {
                "id": number,
                "image_id": number % 5000,
                "category_id": dice.choice(OFFICIAL)[0],
                "iscrowd": 0,
                "bbox": [round(x, 2), round(y, 2), round(w, 2), round(h, 2)],
                "area": round(w * h / 2, 2),
                "segmentation": [points],
            }
        )
    categories = [{"id": number, "name": name} for number, name in OFFICIAL]
    (root / "annotations").mkdir(parents=True)
    file = root / "annotations" / "instances_val2017.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return f"{file.stat().st_size / 1e6:.0f} MB of JSON"


def make_imagenet(root: Path) -> str:
    """50,000 empty image files, lying flat, and 80,000 boxes in wsolevaluation's metadata."""
    dice = random.Random(0)
    folder, metadata = root / "ILSVRC2012_img_val", root / "wsol_metadata" / "ILSVRC" / "test"
    folder.mkdir(parents=True)
    metadata.mkdir(parents=True)
    names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 50_001)]
    for name in names:
        (folder / name).touch()
    boxes = [f"val/{name},{dice.randint(0, 200)},10,{dice.randint(210, 499)},300" for name in names]
    boxes += [f"val/{dice.choice(names)},5,10,50,60" for _ in range(30_000)]
    for file, lines in {
        "image_ids": [f"val/{name}" for name in names],
        "class_labels": [f"val/{name},{dice.randrange(1000)}" for name in names],
        "image_sizes": [f"val/{name},500,375" for name in names],
        "localization": boxes,
    }.items():
        (metadata / f"{file}.txt").write_text("\n".join(lines))
    return "wsolevaluation's metadata"


def make_imagenet_xml(root: Path) -> str:
    """50,000 empty image files in synset folders, and as many XML files."""
    from decomcam_bench.datasets.benchmarks.imagenet_wnids import WNIDS

    xml = root / "ILSVRC2012_bbox_val_v3" / "val"
    xml.mkdir(parents=True)
    for wnid in WNIDS:
        (root / "val" / wnid).mkdir(parents=True)
    for number in range(1, 50_001):
        wnid, stem = WNIDS[number % 1000], f"ILSVRC2012_val_{number:08d}"
        (root / "val" / wnid / f"{stem}.JPEG").touch()
        (xml / f"{stem}.xml").write_text(
            f"<annotation><filename>{stem}</filename><size><width>500</width><height>375</height></size><object>"
            f"<name>{wnid}</name><bndbox><xmin>3</xmin><ymin>4</ymin><xmax>200</xmax><ymax>300</ymax></bndbox>"
            "</object></annotation>"
        )
    return "XML files"


CASES: dict[str, tuple[str, Callable[[Path], str], float | None]] = {
    "coco": ("coco", make_coco, MEBIBYTES),
    "imagenet": ("imagenet", make_imagenet, None),
    "imagenet_xml": ("imagenet", make_imagenet_xml, None),
}


def measure(dataset: str, root: Path) -> dict[str, float]:
    """Opens a data set in a process of its own."""
    result = subprocess.run(
        [sys.executable, "-c", _MEASURE, dataset, str(root)], check=True, capture_output=True, text=True
    )
    return json.loads(result.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help=f"{', '.join(CASES)}; default: all")
    parser.add_argument("--check", action="store_true", help="exit with status 1 if a limit is exceeded")
    arguments = parser.parse_args()
    if unknown := [case for case in arguments.cases if case not in CASES]:
        parser.error(f"unknown case '{unknown[0]}'; valid: {', '.join(CASES)}")
    failed = False
    for case in arguments.cases or CASES:
        dataset, make, most = CASES[case]
        with tempfile.TemporaryDirectory() as folder:
            made = make(Path(folder) / case)
            figures = measure(dataset, Path(folder) / case)
        line = (
            "{images:,} images, {boxes:,} boxes; opened in {open_s:.2f} s ({cpu_s:.2f} s of CPU) with "
            "{open_mib:.0f} MiB; fingerprint {fingerprint_s:.2f} s; all samples {all_samples_s:.2f} s; "
            "peak {all_mib:.0f} MiB above the import"
        )
        print(f"{case} ({made}): {line.format(**figures)}")
        failed |= figures["cpu_s"] > SECONDS or (most is not None and figures["open_mib"] > most)
    return int(failed and arguments.check)


if __name__ == "__main__":
    sys.exit(main())
