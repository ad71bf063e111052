"""Write ``docs/parity.md``: run the parity tests and list the largest deviation of each.

python -m tests.parity.table
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.parity import test_parity

#: Of each test: method, original, commit or version, models and layers.
ROWS = {
    "test_group_cam": ("groupcam", "wofmanaf/Group-CAM", "cc85ed2", "ResNet layer3, layer4; 5 and 32 groups"),
    "test_decomcam_of_2023[v1": ("decomcam_v1", "CapricornGuang/DecomCAM", "6272700", "ResNet layer3, layer4"),
    "test_decomcam_of_2023[pp": ("decomcam_pp", "CapricornGuang/DecomCAM", "6272700", "ResNet layer3, layer4"),
    "test_decomcam_of_the_fork": ("decomcam_v25", "CapricornGuang/DecomCAM", "332c35e", "ResNet layer3, layer4"),
    "test_rise": ("rise", "eclique/RISE", "d91ea00", "ResNet; the masks of the original"),
    "test_clip_surgery[d4696d4": ("clip_surgery", "xmed-lab/CLIP_Surgery", "d4696d4", "ViT, ResNet"),
    "test_clip_surgery[e346359": ("clip_surgery_2023", "xmed-lab/CLIP_Surgery", "e346359", "ViT, ResNet"),
    "test_clip_surgery_of_a_single_text": ("clip_surgery, one text", "xmed-lab/CLIP_Surgery", "d4696d4", "ViT, ResNet"),
    "test_dense_family[sclip": ("dense, attention=sclip", "wangf3014/SCLIP", "b56bd30", "ViT"),
    "test_dense_family[clearclip": ("dense, attention=clearclip", "mc-lan/ClearCLIP", "ad68a40", "ViT"),
    "test_dense_family[naclip": ("dense, attention=naclip", "sinahmr/NACLIP", "0cac3a6", "ViT"),
    "test_gem": ("dense, attention=gem", "WalBouss/GEM", "5fa677c", "ViT"),
    "test_maskclip_on_a_vit": ("dense, attention=mask", "MaskCLIP as in Cyang-Zhao/Grad-Eclip", "5c1b5cc", "ViT"),
    "test_legrad": ("legrad", "WalBouss/LeGrad", "a9edb03", "ViT"),
    "test_grad_eclip": ("grad_eclip", "Cyang-Zhao/Grad-Eclip", "5c1b5cc", "ViT; with and without similarity"),
    "test_m2ib": ("m2ib", "YingWANGG/M2IB", "ce4d7a0", "ViT, block 4 of 7"),
    "test_rollout": ("rollout", "Cyang-Zhao/Grad-Eclip", "5c1b5cc", "ViT"),
    "test_pixel_attributions[integrated": ("integrated_gradients", "captum", "0.9.0", "ViT, ResNet"),
    "test_pixel_attributions[input": ("input_x_gradient", "captum", "0.9.0", "ViT, ResNet"),
}
REASONS = {
    "decomcam_v1": "masked pixels are cut to 8 bits: rounding puts one on the other side of an edge now and then",
    "decomcam_pp": "masked pixels are cut to 8 bits: rounding puts one on the other side of an edge now and then",
}
HEAD = """# Parity with the originals

The largest deviation of any map from the original's, relative to the map's largest magnitude. Originals were
run on four photographs and small CLIPs with random weights; `tests/data/parity/README.md` says how, with
which libraries, and what was stored. `pytest -m parity` checks the numbers; this table is written by
`python -m tests.parity.table`.

| method | original | commit or version | models and layers | deviation | reason above 1e-3 |
|---|---|---|---|---|---|
"""
TAIL = """
The methods that pytorch-grad-cam (`grad-cam` on the package index) has are compared with that package as
installed, on the toyclips and on random weights, by `tests/methods/test_gradient.py`,
`tests/methods/test_spectral.py` and `tests/methods/test_perturbation.py`; `tests/methods/test_foreign.py`
does the same for captum and torch-cam. DecomCAM is also compared with vectors of its official code at every
stage (`tests/methods/test_decomcam.py`). GAE is compared with a slow definition
(`tests/methods/test_clip_methods.py`), SmoothGrad and raw attention with their formulas.

What differs from an original on purpose:

- `decomcam_v25` leaves out the factor ln 100 = 4.6 of the fork's score, which scales the map and matters
  otherwise only to scores between 0.0002 and 0.001.
- `grad_eclip` attends with a single head in the last block by default, as the authors' code does;
  `method.heads=model` takes the model's own heads.
- Methods that cannot make a map say why; originals return zeros, NaN or nothing.
"""


def main() -> int:
    root = Path(__file__).parents[2]
    test_parity.MEASURED.clear()
    status = pytest.main(["-q", "-p", "no:cacheprovider", str(root / "tests" / "parity")])
    if status:
        return int(status)
    lines = []
    for prefix, (method, original, commit, models) in ROWS.items():
        found = [value for name, value in test_parity.MEASURED if re.match(rf"{re.escape(prefix)}(\W|_|$)", name)]
        if not found:
            print(f"no test measured {method}", file=sys.stderr)
            return 1
        worst = max(found)
        reason = REASONS.get(method, "") if worst > 1e-3 else ""
        lines.append(f"| {method} | {original} | {commit} | {models} | {worst:.1e} | {reason} |")
    (root / "docs" / "parity.md").write_text(HEAD + "\n".join(lines) + "\n" + TAIL)
    return 0


if __name__ == "__main__":
    sys.exit(main())
