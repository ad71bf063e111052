"""toyclip: a small CLIP trained on toybox, whose weights ship in the package.

The network is open_clip's own :class:`open_clip.model.CLIP`; only its sizes, its tokenizer and the
ViT's stem of convolutions are ours. ``scripts/train_toyclip.py`` makes the weights.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from decomcam_bench.core.errors import ModelError
from decomcam_bench.core.validation import check_choice
from decomcam_bench.datasets.toybox.scenes import OBJECTS
from decomcam_bench.models.base import ModelSource, hash_file
from decomcam_bench.models.clip import ClipModel
from decomcam_bench.models.scoring import CLIP_SCALE

IMAGE_SIZE = 160
CONTEXT_LENGTH = 16
HASH_BUCKETS = 256
MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)

VISION: dict[str, CLIPVisionCfg] = {
    "resnet": CLIPVisionCfg(layers=(1, 2, 2, 1), width=16, head_width=64, image_size=IMAGE_SIZE),
    "vit": CLIPVisionCfg(layers=6, width=128, head_width=32, patch_size=16, image_size=IMAGE_SIZE),
}
#: Names in cell keys; give a tower a new one when it changes.
ARCHITECTURES = {"resnet": "toyclip-resnet", "vit": "toyclip-vit-2"}
EMBED_DIM = 128

TEMPLATES: tuple[str, ...] = (
    "{}",
    "a {}",
    "the {}",
    "a photo of a {}",
    "a picture of a {}",
    "a drawing of a {}",
    "an image of the {}",
    "the {} in the picture",
    "a photo of the {}",
    "there is a {}",
    "a small {}",
    "a large {}",
)


def _vocabulary() -> tuple[str, ...]:
    words: set[str] = {"of", "on", "and", "with", "my", "one", "many", "background", "clean", "origami"}
    for template in TEMPLATES:
        words.update(template.replace("{}", "").split())
    for drawing in OBJECTS:
        words.update(drawing.name.split())
        words.update(part.name for part in drawing.parts)
    return tuple(sorted(words))


class ToyTokenizer:
    """Turn any text into token ids: known words by index, other words by a hash.

    Ids: 0 pads, 1 starts, then the vocabulary, then ``HASH_BUCKETS`` ids for unknown words (CRC-32
    of the lower-case word), and the highest id ends the text, where CLIP reads its feature.
    """

    def __init__(self) -> None:
        self.vocabulary = _vocabulary()
        self._ids = {word: number for number, word in enumerate(self.vocabulary, start=2)}
        self._first_bucket = 2 + len(self.vocabulary)
        self.end = self._first_bucket + HASH_BUCKETS
        self.size = self.end + 1

    def encode(self, text: str) -> list[int]:
        words = re.findall(r"\w+", text.lower())
        return [self._ids.get(word, self._first_bucket + zlib.crc32(word.encode()) % HASH_BUCKETS) for word in words]

    def __call__(self, texts: str | Iterable[str]) -> torch.Tensor:
        """Return token ids, int64 (len(texts), CONTEXT_LENGTH); a longer text is cut at the end."""
        batch: Sequence[str] = [texts] if isinstance(texts, str) else list(texts)
        tokens = torch.zeros(len(batch), CONTEXT_LENGTH, dtype=torch.long)
        for row, text in enumerate(batch):
            ids = [1, *self.encode(text)[: CONTEXT_LENGTH - 2], self.end]
            tokens[row, : len(ids)] = torch.tensor(ids)
        return tokens


class ConvStem(nn.Sequential):
    """Embed patches of 16 x 16 pixels by four convolutions of stride 2 instead of one of stride 16.

    Early convolutions let a small ViT learn from few pictures (Xiao et al. 2021, arXiv 2106.14881).
    """

    def __init__(self, width: int) -> None:
        channels = (3, width // 8, width // 4, width // 2, width)
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        super().__init__(*layers, nn.Conv2d(width, width, 1))


def build_toyclip(tower: str, seed: int = 0) -> CLIP:
    """Build a toyclip with random weights drawn from ``seed``.

    Args:
        tower: ``resnet`` or ``vit``.
    """
    text = CLIPTextCfg(context_length=CONTEXT_LENGTH, vocab_size=ToyTokenizer().size, width=64, heads=4, layers=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip = CLIP(EMBED_DIM, VISION[tower], text, init_logit_scale=math.log(CLIP_SCALE))
        if tower == "vit":
            clip.visual.conv1 = ConvStem(VISION[tower].width)
        return clip.eval()


def shipped_weights(tower: str) -> Path:
    """Return the path of the safetensors file in the package."""
    return Path(__file__).parent / "weights" / f"toyclip_{tower}.safetensors"


@dataclass
class ToyClip(ModelSource):
    """toyclip with the shipped weights, random ones, or those of a file.

    Attributes:
        tower: ``resnet`` or ``vit``.
        weights: ``shipped``, ``untrained``, or the path of a safetensors file.
        init_seed: of the random weights.
    """

    id = "toyclip"

    tower: str = "resnet"
    weights: str = "shipped"
    init_seed: int = 0

    untrained: ClassVar[dict[str, Any]] = {"weights": "untrained"}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("model.tower", self.tower, VISION)

    def _file(self) -> Path | None:
        if self.weights == "untrained":
            return None
        path = shipped_weights(self.tower) if self.weights == "shipped" else Path(self.weights)
        if not path.is_file():
            raise ModelError(
                f"model.weights={self.weights}: no file {path}; use 'shipped', 'untrained' or a .safetensors file"
            )
        return path

    def available(self) -> str:
        """Return the weights file, for people, or why there is none."""
        try:
            return str(self._file() or "random weights, no file needed")
        except ModelError as error:
            return f"missing: {error}"

    def identity(self) -> dict[str, Any]:
        file = self._file()
        weights = hash_file(file) if file else f"random:{self.init_seed}"
        return {"arch": ARCHITECTURES[self.tower], "weights": weights, "geometry": self.geometry, "size": IMAGE_SIZE}

    def load(self, device: str, precision: str) -> ClipModel:
        clip = build_toyclip(self.tower, self.init_seed)
        file = self._file()
        if file:
            try:
                clip.load_state_dict({name: value.float() for name, value in load_file(file).items()})
            except (SafetensorError, RuntimeError) as error:
                reason = str(error).splitlines()[0]
                raise ModelError(f"model.weights={file}: not a toyclip-{self.tower} ({reason})") from error
        return ClipModel(clip, ToyTokenizer(), self.name, IMAGE_SIZE, MEAN, STD, device, precision)
