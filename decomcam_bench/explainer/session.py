"""Keep a model loaded and explain pictures with it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from decomcam_bench.config import registry
from decomcam_bench.config.settings import RunKeys, Setting
from decomcam_bench.core.errors import ConfigError
from decomcam_bench.datasets.base import Target, printable
from decomcam_bench.engine.evidence import check_needs
from decomcam_bench.engine.plan import check_texts, label, model_label
from decomcam_bench.engine.session import ModelSession, Picture
from decomcam_bench.explainer.answers import Answer, ComponentMaps
from decomcam_bench.explainer.explained import Explained
from decomcam_bench.explainer.pictures import load_picture, override_words, parse
from decomcam_bench.methods.base import Explanation, Method, upsample
from decomcam_bench.models.clip import TextBank, resolve_device
from decomcam_bench.models.geometry import Geometry
from decomcam_bench.store.schema import key_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Asked:
    """Hold one setting and what it comes down to for its model; a request to a session."""

    setting: Setting
    method: Method
    layer: str
    rank: int | None

    @property
    def shared(self) -> str:
        """Key of the settings that differ in rank alone, which are explained in one go."""
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


class Session:
    """Keep a model on its device and explain pictures with it.

    Args:
        model: a choice of ``list models``, an architecture of open_clip, or any other word that ``model=`` takes.
        layer: where the model is explained; None for its default layer.
        overrides: as on the command line, e.g. ``"model.pretrained=openai"``.
        choices: the same as keywords: ``device``, ``precision``, ``batch_size``, ``seed``.

    Raises:
        ConfigError: for unknown names and values.
        ModelError: when the model or the layer cannot be had.

    >>> import numpy as np, decomcam_bench as bench
    >>> session = bench.Session(model="toyclip", layer="layer4", device="cpu")
    >>> picture = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    >>> shown = session.explain(picture, ["a house"], methods=["decomcam", "gradcam"])
    >>> [answer.method for answer in shown.answers], shown.original().shape
    (['decomcam', 'gradcam'], (90, 120))
    >>> shown.answers[0].components[0].maps.shape[1:]
    (160, 160)
    """

    def __init__(self, model: str = "toyclip", layer: str | None = None, *overrides: str, **choices: Any) -> None:
        words = override_words(model=model, **({"layer": layer} if layer else {}), **choices)
        config = parse([*words, *overrides])
        if len(config.settings) > 1:
            raise ConfigError("Session: takes one model, one layer and one value of each key")
        self._words = [*words, *overrides]
        self._open(config.settings[0], config.keys)

    @classmethod
    def of(cls, setting: Setting, keys: RunKeys) -> Session:
        """Return a session for the model of a setting."""
        made = cls.__new__(cls)
        made._words = []
        made._open(setting, keys)
        return made

    def _open(self, setting: Setting, keys: RunKeys) -> None:
        self.source = registry.build("model", setting.model)
        self.model = self.source.load(resolve_device(keys.device), setting.keys.precision)
        self.name = model_label(setting)
        self._told: set[str] = set()
        self.default_layer: str = self.source.layer or self.model.tower.default_layer
        self.batch_size = keys.batch_size

    def explain(
        self,
        image: str | Path | np.ndarray | Image.Image,
        texts: str | Sequence[str],
        methods: str | Sequence[str] = ("decomcam",),
        *overrides: str,
        rank: int | Sequence[int] | None = None,
    ) -> Explained:
        """Return the maps of a picture for each text and method.

        Args:
            image: a file, RGB bytes (height, width, 3), or a PIL image.
            texts: one text or several, taken as they stand, without templates.
            methods: names of methods, or ``module:Class`` of one's own.
            overrides: options of the methods, e.g. ``"method.channels=50"``.
            rank: one or several; None for the methods' own.

        Raises:
            ConfigError: for unknown names and values.
            DataError: when the picture cannot be read.
        """
        names = [methods] if isinstance(methods, str) else list(methods)
        more = override_words(method=names, **({} if rank is None else {"rank": rank}))
        settings = parse([*self._words, *more, *overrides]).settings
        picture, asked = load_picture(image), check_words(texts)
        return Explained(picture, asked, tuple(self.answers(picture, asked, settings, picture_name(image))))

    def answers(
        self, picture: np.ndarray, texts: Sequence[str], settings: Sequence[Setting], name: str
    ) -> list[Answer]:
        """Return one answer per setting; a method without rank or layer is not repeated for each of them.

        Args:
            picture: uint8 (height, width, 3).
            texts: T texts.
            settings: of this session's model.
            name: of the picture; methods that draw at random are seeded with it.
        """
        bank = self.model.text_bank([[text] for text in texts], empty=[""])
        asked = list({one.identity: one for one in (self._resolve(s, bank) for s in settings)}.values())
        self._tell(one.layer for one in asked if one.layer)
        view = self.source.view(self.model.input_size)
        height, width = picture.shape[:2]
        geometry: Geometry = view.of(width, height)
        targets = tuple(Target.of(number, text, []) for number, text in enumerate(texts))
        shown = Picture(name, geometry.to_input(picture), width, height, targets)
        answers: dict[str, Answer] = {}
        for seed in dict.fromkeys(one.setting.keys.seed for one in asked):
            session = ModelSession(self.model, bank, view, batch_size=self.batch_size, seed=seed)
            own = [one for one in asked if one.setting.keys.seed == seed]
            groups: dict[str, list[int]] = {}
            for place, one in enumerate(own):
                groups.setdefault(one.shared, []).append(place)
            # All pairs of an image stay together, so there is a single batch.
            with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
                ((_, batch),) = session.batches([shown], {one.layer for one in own})
                similarity = (batch.backbone.embeddings @ bank.embeddings.T)[0].cpu().numpy()
                for found in session.answers(batch, own, list(groups.values())):
                    for place in found.requests:
                        one, explanation = own[place], found.by_rank[own[place].rank]
                        answers[one.identity] = self._answer(session, one, explanation, similarity, geometry)
        return [answers[one.identity] for one in asked]

    def _tell(self, layers: Iterable[str]) -> None:
        """Log once what the user should know about the model and about layers that are read of it."""
        for line in [*self.source.remarks(), *map(self.model.tower.remark, layers)]:
            if line and line not in self._told:
                self._told.add(line)
                _log.info(line)

    def _resolve(self, setting: Setting, bank: TextBank) -> _Asked:
        method: Method = registry.build("method", setting.method)
        name = setting.method["name"]
        if "object_masks" in method.needs:
            raise ConfigError(f"method={name} draws the annotated region, and a picture alone has none")
        check_texts(name, method, bank)
        layer = self.model.tower.canonical(setting.keys.layer or self.default_layer) if method.uses_layer else ""
        check_needs(self.model, method, layer)
        rank = (setting.keys.rank or method.default_rank) if method.ranked else None
        return _Asked(setting, method.reporting(), layer, rank)

    def _answer(
        self, session: ModelSession, one: _Asked, explanation: Explanation, similarity: np.ndarray, geometry: Geometry
    ) -> Answer:
        maps, failures = session.maps(explanation)
        count = len(failures)
        return Answer(
            method=one.name,
            model=self.name,
            layer=one.layer,
            rank=one.rank,
            geometry=geometry,
            similarity=similarity,
            maps=maps.float().cpu().numpy(),
            reasons=tuple(str(failed or "") for failed in failures),
            components=tuple(_components(explanation, number, session.size) for number in range(count)),
        )


def check_words(texts: str | Sequence[str]) -> tuple[str, ...]:
    """Return texts as a tuple.

    Raises:
        ConfigError: for no text, an empty one, or one that is not valid UTF-8.
    """
    asked = tuple([texts] if isinstance(texts, str) else texts)
    if not asked or not all(text.strip() for text in asked):
        raise ConfigError("text: at least one is needed, and none may be empty")
    for text in asked:
        if printable(text) != text:
            raise ConfigError(f"text '{printable(text)}': is not valid UTF-8")
    return asked


def picture_name(image: Any) -> str:
    """Return the file name of a picture, or ``picture``."""
    return printable(Path(image).name) if isinstance(image, str | Path) else "picture"


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
