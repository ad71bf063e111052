"""Small CLIPs with random weights and four photographs: what originals and this package are both run on.

Weights come from NumPy's legacy generator, whose stream is frozen, so that they need not be stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor

from decomcam_bench.methods.base import Evidence, Explanation, Method
from decomcam_bench.models.clip import ClipModel, TextBank, text_scores

DATA = Path(__file__).parents[1] / "data" / "parity"
SIDE, DIM, TEXTS = 96, 16, 5
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
VISION = {
    "vit": CLIPVisionCfg(layers=7, width=32, head_width=8, patch_size=16, image_size=SIDE),
    "resnet": CLIPVisionCfg(layers=(1, 1, 1, 1), width=4, head_width=32, image_size=SIDE),
}
#: The text of each photograph that methods for one text per image are run with.
TEXT_OF = (0, 1, 2, 3)


def clip(tower: str) -> CLIP:
    """Return an open_clip model with random weights, large enough for attention to differ from uniform."""
    model = CLIP(
        DIM,
        VISION[tower],
        CLIPTextCfg(context_length=8, vocab_size=32, width=16, heads=2, layers=1),
        quick_gelu=True,
    )
    random = np.random.RandomState({"vit": 1, "resnet": 2}[tower])
    for name, value in sorted(model.state_dict().items()):
        if not value.is_floating_point() or name == "logit_scale":
            continue
        noise = torch.from_numpy(random.standard_normal(tuple(value.shape)).astype(np.float32))
        if name.endswith("running_var") or (value.dim() == 1 and name.endswith("weight")):
            value.copy_(1 + 0.3 * noise.clamp(-2, 2))
        elif value.dim() < 2:
            value.copy_(0.2 * noise)
        else:
            fan = value[0].numel() if name.endswith("weight") else value.shape[-1]
            value.copy_(1.5 * noise / fan**0.5)
    return model.eval()


def texts() -> tuple[Tensor, Tensor]:
    """Return unit-length embeddings of the texts (K, d), and of the empty text (d,)."""
    rows = torch.from_numpy(np.random.RandomState(3).standard_normal((TEXTS + 1, DIM)).astype(np.float32))
    rows = torch.nn.functional.normalize(rows, dim=1)
    return rows[:-1], rows[-1]


def photographs() -> np.ndarray:
    """Return four photographs, uint8 (4, SIDE, SIDE, 3); see the README next to them."""
    with np.load(DATA / "photographs.npz") as arrays:
        return arrays["photographs"]


def normalised(images: np.ndarray) -> Tensor:
    """Return uint8 images (N, H, W, 3) as normalised model input (N, 3, H, W)."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@dataclass
class Subject:
    """This package's view of a small CLIP, the photographs and the texts."""

    model: ClipModel
    bank: TextBank
    images: Tensor

    @classmethod
    def of(cls, tower: str) -> Subject:
        embeddings, empty = texts()
        model = ClipModel(clip(tower), _no_tokenizer, tower, SIDE, MEAN, STD)
        return cls(model, TextBank(embeddings, torch.ones(TEXTS), empty), normalised(photographs()))

    def evidence(self, layer: str, method: Method, text_of: Sequence[int] = TEXT_OF) -> Evidence:
        """Return the evidence of one text per photograph, as the engine makes it."""
        from decomcam_bench.datasets.base import Target
        from decomcam_bench.engine.evidence import Batch, EvidenceMaker
        from decomcam_bench.models.geometry import Geometry

        count = len(self.images)
        name = self.model.tower.canonical(layer) if layer else ""
        batch = Batch(
            images=self.images,
            backbone=self.model.backbone(self.images, [name] if name else []),
            image_of=torch.arange(count),
            class_ids=torch.tensor(text_of),
            image_ids=[str(n) for n in range(count)],
            targets=[Target.of(k, str(k), []) for k in text_of],
            geometries=[Geometry(SIDE, SIDE, SIDE, "squash")] * count,
            region="box",
        )
        maker = EvidenceMaker(self.model, self.bank, 32, 0)
        return maker.evidence(batch, name, method.score, method.needs, method.differentiated, method.full_precision)

    def explain(
        self, method: Method, layer: str = "", rank: int | None = None, text_of: Sequence[int] = TEXT_OF
    ) -> Explanation:
        """Return the maps of a method for the photographs."""
        evidence = self.evidence(layer, method, text_of)
        with torch.no_grad():
            return method.explain(evidence, [rank])[rank]

    def logits(self) -> Callable[[Tensor], Tensor]:
        """Return a function from images to 100 cosine with each text, for comparison."""
        return lambda images: text_scores(self.model.clip.visual(images), self.bank, "logits")


def _no_tokenizer(_: Sequence[str]) -> Tensor:
    raise AssertionError("texts are given as embeddings")
