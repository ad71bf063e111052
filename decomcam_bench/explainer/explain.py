"""Saliency maps of one picture and a few texts, from Python.

In a notebook::

    from decomcam_bench.explainer.explain import explain

    shown = explain("photo.jpg", ["a cat", "a dog"], method="decomcam,gradcam", model="rn50")
    shown
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from decomcam_bench.config import registry
from decomcam_bench.config.settings import RunConfig, Setting, load_config
from decomcam_bench.core.errors import ConfigError, DataError, did_you_mean
from decomcam_bench.datasets.base import Target, printable
from decomcam_bench.datasets.images import orientation, rgb, turned, upright
from decomcam_bench.engine.evidence import Batch, EvidenceMaker, check_needs
from decomcam_bench.engine.plan import check_texts, label, model_label
from decomcam_bench.engine.session import map_failures
from decomcam_bench.explainer.answers import Answer, ComponentMaps
from decomcam_bench.explainer.figures import draw
from decomcam_bench.explainer.files import check_path, save_figure, writing
from decomcam_bench.methods.base import EXTRAS, Evidence, Explanation, Method, explained, upsample
from decomcam_bench.models.clip import ClipModel, TextBank, resolve_device
from decomcam_bench.store.schema import key_of

#: Keys of a run that mean something for a single picture.
KEYS = ("model", "method", "layer", "rank", "seed", "precision", "device", "batch_size")


@dataclass(frozen=True)
class Explained:
    """Maps of one picture: texts by settings.

    Attributes:
        image: uint8 (height, width, 3), the picture upright.
        texts: T texts.
        answers: one a setting, in the order in which they were asked for.
    """

    image: np.ndarray
    texts: tuple[str, ...]
    answers: tuple[Answer, ...]

    def original(self, answer: int = 0, text: int = 0) -> np.ndarray:
        """A map in the pixels of the picture, float32 (height, width), non-negative."""
        chosen = self.answers[answer]
        return chosen.geometry.to_original(chosen.maps[text])

    def figure(self, colormap: str = "inferno") -> Figure:
        """Draw the picture, the map of each setting, and the components of those that decompose."""
        return draw(self.image, self.texts, self.answers, colormap)

    def save(self, path: str | Path, colormap: str = "inferno", dpi: int = 200) -> None:
        """Write the figure as .png, .svg or .pdf, by the suffix of ``path``.

        Raises:
            ConfigError: for another suffix or colour map, or a missing folder.
        """
        save_figure(self.figure(colormap), Path(path), dpi)

    def save_maps(self, path: str | Path) -> None:
        """Writes the numbers as .npz: no pickled objects, names as text.

        Arrays: ``texts`` (T,), and of the settings S in order ``methods``, ``models``, ``layers``,
        ``ranks`` (0 for none), ``reasons`` (S, T), ``similarity`` (S, T), ``maps`` (S, T, height,
        width) in the picture's pixels. For setting s and text t with components, at the model's
        input resolution: ``components_s_t`` (q, H, W) and ``weights_s_t``, ``scores_s_t``,
        ``differences_s_t``, ``singular_values_s_t``, ``explained_s_t`` (q,).

        Raises:
            ConfigError: for another suffix, a folder that is not there, or a file that cannot be written.
        """
        path = Path(path)
        check_path(path, (".npz",), "--maps")
        arrays: dict[str, Any] = {
            "texts": np.array(self.texts),
            "methods": np.array([a.method for a in self.answers]),
            "models": np.array([a.model for a in self.answers]),
            "layers": np.array([a.layer for a in self.answers]),
            "ranks": np.array([a.rank or 0 for a in self.answers]),
            "reasons": np.array([a.reasons for a in self.answers]),
            "similarity": np.stack([a.similarity for a in self.answers]),
            "maps": np.stack([[self.original(s, t) for t in range(len(self.texts))] for s in range(len(self.answers))]),
        }
        for s, answer in enumerate(self.answers):
            for t, components in enumerate(answer.components):
                if components is None:
                    continue
                arrays[f"components_{s}_{t}"] = components.maps
                for name in ("weights", "scores", "differences", "singular_values", "explained"):
                    values = getattr(components, name)
                    if values is not None:
                        arrays[f"{name}_{s}_{t}"] = values
        with writing(path), path.open("wb") as file:  # NumPy would add a suffix to the name
            np.savez_compressed(file, **arrays)

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        buffer = io.BytesIO()
        self.figure().savefig(buffer, format="png", dpi=120, bbox_inches="tight")
        return buffer.getvalue()


def explain(
    image: str | Path | np.ndarray | Image.Image, texts: str | Sequence[str], *overrides: str, **choices: Any
) -> Explained:
    """Explains what of a picture speaks for each text.

    The texts are taken as they stand, without templates. With ``score=softmax`` they compete with
    one another.

    Args:
        image: a file, RGB bytes (height, width, 3), or a PIL image.
        texts: one text or several.
        overrides: as on the command line, e.g. ``"method.channels=50"``.
        choices: the same as keywords, e.g. ``method="decomcam,gradcam", layer="layer3"``; comma
            lists sweep. Without a model it is toyclip, which knows drawn scenes alone.

    Raises:
        ConfigError: for unknown names and values, and for keys that make no sense for one picture.
        DataError: when the picture cannot be read.
        ModelError: when the model or the layer cannot be had, or no gradient reaches the layer.
    """
    return explain_as(parse([*overrides, *(f"{key}={_word(value)}" for key, value in choices.items())]), image, texts)


def explain_as(
    config: RunConfig, image: str | Path | np.ndarray | Image.Image, texts: str | Sequence[str]
) -> Explained:
    """:func:`explain` with settings that :func:`parse` has read; raises the same."""
    picture = load_picture(image)
    asked = tuple([texts] if isinstance(texts, str) else texts)
    if not asked or not all(text.strip() for text in asked):
        raise ConfigError("text: at least one is needed, and none may be empty")
    for text in asked:
        if printable(text) != text:
            raise ConfigError(f"text '{printable(text)}': is not valid UTF-8")
    name = str(image) if isinstance(image, str | Path) else "picture"
    answers: list[Answer] = []
    for settings in _by(config, lambda s: key_of({"model": s.model, "precision": s.keys.precision})):
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            answers += _Session(config, settings[0], picture, asked, printable(Path(name).name)).answers(settings)
    return Explained(picture, asked, tuple(answers))


def parse(overrides: Sequence[str]) -> RunConfig:
    """The settings that overrides ask for.

    Raises:
        ConfigError: for keys that make no sense for one picture, and as
            :func:`~decomcam_bench.config.settings.load_config`.
    """
    for word in overrides:
        key = word.partition("=")[0].lstrip("+").partition(".")[0]
        if key not in KEYS:
            raise ConfigError(f"explain takes no '{key}'{did_you_mean(key, KEYS)}; valid: {', '.join(KEYS)}")
    return load_config(overrides)


def load_picture(image: str | Path | np.ndarray | Image.Image) -> np.ndarray:
    """RGB bytes (height, width, 3), turned upright as a camera noted in the file.

    Raises:
        DataError: when it cannot be read, or an array is not of that kind.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise DataError(f"image: an array must be uint8 (height, width, 3), not {image.dtype} {image.shape}")
        return np.ascontiguousarray(image)
    try:
        if isinstance(image, Image.Image):
            image.load()  # which turns a TIFF already
            return turned(rgb(image.copy()), orientation(image))
        return upright(Path(image))
    except (OSError, ValueError) as error:
        raise DataError(f"{error}; give a picture that Pillow reads, such as JPEG or PNG") from error


def _word(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(_word(item) for item in value) if isinstance(value, list | tuple) else str(value)


def _by(config: RunConfig, key: Any) -> list[list[Setting]]:
    """Settings in groups of equal key, in order of first appearance."""
    groups: dict[str, list[Setting]] = {}
    for setting in config.settings:
        groups.setdefault(key(setting), []).append(setting)
    return list(groups.values())


@dataclass(frozen=True)
class _Asked:
    """One setting, with what it comes down to for its model."""

    setting: Setting
    method: Method
    layer: str
    rank: int | None

    @property
    def shared(self) -> str:
        """Settings that differ in rank alone are explained in one go."""
        return key_of({"method": self.setting.method, "layer": self.layer, "seed": self._seed})

    @property
    def _seed(self) -> int:
        return self.setting.keys.seed if self.method.random else 0

    @property
    def identity(self) -> str:
        return f"{self.shared}/{self.rank}"

    @property
    def name(self) -> str:
        seed = {"seed": self._seed} if self._seed else {}
        return label(self.setting.method["name"], {**self.setting.changed["method"], **seed})


class _Session:
    """One model and one picture: a single backbone pass for all settings and texts."""

    def __init__(
        self, config: RunConfig, first: Setting, picture: np.ndarray, texts: tuple[str, ...], name: str
    ) -> None:
        keys = first.keys
        source = registry.build("model", first.model)
        self.model: ClipModel = source.load(resolve_device(config.keys.device), keys.precision)
        self.model_name = model_label(first)
        self.default_layer = source.layer or self.model.tower.default_layer
        self.bank: TextBank = self.model.text_bank([[text] for text in texts], empty=[""])
        self.texts, self.name, self.batch_size = texts, name, config.keys.batch_size
        height, width = picture.shape[:2]
        self.geometry = source.view(self.model.input_size).of(width, height)
        self.images = self.model.prepare(torch.from_numpy(self.geometry.to_input(picture))[None])

    def answers(self, settings: Sequence[Setting]) -> list[Answer]:
        """One answer a setting; a method without rank or layer is not repeated for each of them."""
        asked = list({one.identity: one for one in map(self._resolve, settings)}.values())
        layers = list(dict.fromkeys(one.layer for one in asked if one.layer))
        backbone = self.model.backbone(self.images, layers)
        count = len(self.texts)
        batch = Batch(
            images=self.images,
            backbone=backbone,
            image_of=torch.zeros(count, dtype=torch.long, device=self.model.device),
            class_ids=torch.arange(count, device=self.model.device),
            image_ids=[self.name],
            targets=[Target.of(number, text, []) for number, text in enumerate(self.texts)],
            geometries=[self.geometry],
            region="box",
        )
        similarity = (backbone.embeddings @ self.bank.embeddings.T)[0].cpu().numpy()
        evidences: dict[tuple[str, str, str, bool, int], Evidence] = {}
        done: dict[str, dict[int | None, Explanation]] = {}
        for one in asked:
            if one.shared in done:
                continue
            method = one.method.reporting()
            share = (
                one.layer,
                method.score,
                method.differentiated,
                method.full_precision,
                one.setting.keys.seed,
            )
            if share not in evidences:
                maker = EvidenceMaker(self.model, self.bank, self.batch_size, one.setting.keys.seed)
                evidences[share] = maker.evidence(
                    batch, one.layer, method.score, frozenset(EXTRAS), method.differentiated, method.full_precision
                )
            ranks = [other.rank for other in asked if other.shared == one.shared]
            with torch.no_grad():
                done[one.shared] = explained(method, evidences[share], ranks)
        return [self._answer(one, done[one.shared][one.rank], similarity) for one in asked]

    def _resolve(self, setting: Setting) -> _Asked:
        method: Method = registry.build("method", setting.method)
        name = setting.method["name"]
        if "object_masks" in method.needs:
            raise ConfigError(f"method={name} draws the annotated region, and a picture alone has none")
        check_texts(name, method, self.bank)
        layer = self.model.tower.canonical(setting.keys.layer or self.default_layer) if method.uses_layer else ""
        check_needs(self.model, method, layer)
        rank = (setting.keys.rank or method.default_rank) if method.ranked else None
        return _Asked(setting, method, layer, rank)

    def _answer(self, one: _Asked, explanation: Explanation, similarity: np.ndarray) -> Answer:
        size = (self.model.input_size, self.model.input_size)
        maps = explanation.maps(size).float()
        failures = map_failures(maps, explanation)
        good = torch.tensor([failed is None for failed in failures], device=maps.device)
        return Answer(
            method=one.name,
            model=self.model_name,
            layer=one.layer,
            rank=one.rank,
            geometry=self.geometry,
            similarity=similarity,
            maps=torch.where(good[:, None, None], maps, 0.0).cpu().numpy(),
            reasons=tuple(str(failed or "") for failed in failures),
            components=tuple(_components(explanation, number, size) for number in range(len(self.texts))),
        )


def _components(explanation: Explanation, number: int, size: tuple[int, int]) -> ComponentMaps | None:
    found = explanation.components
    if found is None:
        return None
    present = found.native[number].flatten(1).any(1).nonzero().flatten().tolist()
    last = max(present, default=-1) + 1

    def row(values: Tensor | None) -> np.ndarray | None:
        return None if values is None else values[number, :last].float().cpu().numpy()

    weights = row(found.weights)
    assert weights is not None
    return ComponentMaps(
        maps=upsample(found.native[number, :last], size, found.mode).relu().float().cpu().numpy(),
        weights=weights,
        scores=row(found.scores),
        differences=row(found.differences),
        singular_values=row(found.singular_values),
        explained=row(found.explained),
    )
