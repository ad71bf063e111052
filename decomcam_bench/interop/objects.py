"""Evaluate objects of a Python session: methods, metrics and data sets that no YAML names, and plain functions.

Keys of the store need to know what an object is: its class, its options and the source of both. A class that can
be imported is known by its module, one of a notebook cell by its source. Of what has no source nothing can be
kept: such results go to a store that is deleted.
"""

from __future__ import annotations

import hashlib
import inspect
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from decomcam_bench.config import registry
from decomcam_bench.config.overrides import quoted
from decomcam_bench.config.settings import RunConfig, load_config
from decomcam_bench.core.console import log
from decomcam_bench.core.errors import ConfigError, MethodError, unknown
from decomcam_bench.engine.engine import execute
from decomcam_bench.engine.estimate import warn_if_long
from decomcam_bench.engine.plan import Plan, make_plan, method_label
from decomcam_bench.explainer.pictures import override_words
from decomcam_bench.methods.base import Cost, Evidence, Explanation, MapMethod, Method
from decomcam_bench.metrics.base import Metric
from decomcam_bench.models.clip import ClipModel

if TYPE_CHECKING:
    import pandas as pd

    from decomcam_bench.datasets.base import Dataset


@dataclass(frozen=True)
class Seen:
    """Hold what a plain function sees in addition to picture and text.

    Attributes:
        model: the loaded CLIP.
        layer: that the run explains, by its canonical name.
        score: from images (n, 3, H, W), normalised for the model, to their scores for the text, (n,).
        image: the picture as the model sees it, normalised, (3, H, W).
    """

    model: ClipModel
    layer: str
    score: Callable[[torch.Tensor], torch.Tensor]
    image: torch.Tensor


MapFunction = Callable[[Seen, np.ndarray, str], Any]


@dataclass
class FunctionMethod(MapMethod):
    """Call a function for each pair, as a method.

    Attributes:
        source: digest of the function's source, for the key.
    """

    id = "function"
    uses_layer: ClassVar[bool] = False
    needs = frozenset({"class_ids"})

    source: str = ""
    function: MapFunction | None = field(default=None, init=False, repr=False, compare=False)
    seen: tuple[ClipModel, str, Sequence[str]] | None = field(default=None, init=False, repr=False, compare=False)

    def bind(self, model: ClipModel, layer: str, texts: Sequence[str]) -> None:
        """Say what the function is called with; ``texts`` by class id."""
        self.seen = model, layer, texts

    def map(self, evidence: Evidence) -> Explanation:
        """Call the function for each pair; its map may be of any size and covers the model's input."""
        assert self.function is not None
        assert self.seen is not None
        model, layer, texts = self.seen
        size = (evidence.images.shape[-2], evidence.images.shape[-1])
        mean, std = (torch.tensor(v, device=evidence.device).view(3, 1, 1) for v in (evidence.mean, evidence.std))
        maps = []
        for pair, (image, class_id) in enumerate(
            zip(evidence.image_of.tolist(), evidence.extras["class_ids"]().tolist(), strict=True)
        ):
            pixels = evidence.images[image]
            position = torch.tensor([pair], device=evidence.device)

            def score(images: torch.Tensor, position: torch.Tensor = position) -> torch.Tensor:
                return evidence.score(images, position.expand(len(images)))

            plain = (pixels * std + mean) * 255
            picture = plain.round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
            with torch.enable_grad():
                made = self.function(Seen(model, layer, score, pixels), picture, texts[class_id])
            maps.append(_as_map(made, size).to(evidence.device))
        return Explanation(torch.stack(maps), mode="none")

    def cost(self, rank: int | None, channels: int) -> Cost:
        """Return no passes: nobody knows what a function does."""
        return Cost()


def _as_map(made: Any, size: tuple[int, int]) -> torch.Tensor:
    """Return a function's answer at the model's input size, float32.

    Raises:
        MethodError: for something else than a two-dimensional array of numbers.
    """
    try:
        found = torch.as_tensor(made.detach() if isinstance(made, torch.Tensor) else np.asarray(made)).float()
    except (TypeError, ValueError, RuntimeError) as error:
        raise MethodError(f"a method answers with {type(made).__name__} instead of a map (h, w)") from error
    if found.ndim != 2:
        raise MethodError(f"a method answers with shape {tuple(found.shape)} instead of a map (h, w)")
    if tuple(found.shape) != size:
        found = torch.nn.functional.interpolate(found[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    return found


def evaluate(
    methods: Any,
    dataset: Any = "toybox",
    metrics: Any = None,
    results: str | Path | None = None,
    intervals: bool = False,
    reference: str | None = None,
    **keys: Any,
) -> pd.DataFrame:
    """Evaluate methods that are objects, functions or names, next to one another.

    Args:
        methods: by name, or a list: objects of :class:`~decomcam_bench.methods.base.Method`, functions
            ``(seen, image, text) -> map`` with a :class:`Seen`, a picture uint8 (H, W, 3) as the model sees it and
            a text, or names of choices. A function's map may be of any size; it covers the picture.
        dataset: a name, ``module:Class``, or an object.
        metrics: names or objects of :class:`~decomcam_bench.metrics.base.Metric`; the data set's own by default.
        results: root of the store; without one nothing is kept.
        intervals: also 95 % intervals by resampling images.
        reference: the method, by its name here, that every other is compared with.
        keys: of a run, such as ``model="rn50"``, ``layer="layer4"``, ``limit=50``, ``device="cuda"``; with
            underscores twice for options, ``dataset__root="data/voc"``.

    Returns:
        The table, one row per method, in the given order.

    Raises:
        UserError: for something that the caller can put right.

    >>> table = evaluate({"middle": "center"}, metrics=["energy"], limit=2, workers=0)
    >>> list(table["method"]), list(table.columns)[5:6]
    (['middle'], ['energy'])
    """
    from decomcam_bench.tables.tables import load_table

    named = _named(methods)
    held: list[tuple[str, str]] = []
    with ExitStack() as stack:
        stack.callback(registry.release, held)
        known = [True]

        def word(group: str, name: str, thing: Any) -> str:
            found, sourced = _word(group, name, thing)
            known[0] &= sourced
            if found.startswith(registry.HELD):
                held.append((group, found))
            return found

        methods_words = {name: word("method", name, thing) for name, thing in named.items()}
        words = [f"dataset={word('dataset', type(dataset).__name__, dataset)}"]
        if metrics is not None:
            several = [metrics] if isinstance(metrics, str | Metric) else list(metrics)
            words.append("metric=" + ",".join(word("metric", type(one).__name__, one) for one in several))
        if not known[0]:
            log.warning("something here has no source that could identify it, so its results are not kept")
        if results is None or not known[0]:
            results = stack.enter_context(tempfile.TemporaryDirectory(prefix="decomcam-bench-"))
        words += [
            f"results={quoted(str(results))}",
            *override_words(**{k.replace("__", "."): v for k, v in keys.items()}),
        ]
        configs = {name: load_config([*words, f"method={own}"]) for name, own in methods_words.items()}
        plan = make_plan(_joined(list(configs.values())))
        _bind(plan)
        warn_if_long(plan)
        execute(plan)
        labels = _labels(configs)
        chosen = _by_label(reference, labels)
        table = load_table(results, [cell.key for cell in plan.cells], intervals=intervals, reference=chosen)
    table["method"] = [labels.get(label, label) for label in table["method"]]
    return table


def _named(methods: Any) -> dict[str, Any]:
    """Return methods by name; those of a list are called what they are called."""
    if isinstance(methods, Mapping) and methods:
        return {str(name): thing for name, thing in methods.items()}
    several = [methods] if isinstance(methods, str | Method) or callable(methods) else list(methods)
    found: dict[str, Any] = {}
    for thing in several:
        name = thing if isinstance(thing, str) else getattr(thing, "__name__", type(thing).__name__)
        if name in found:
            raise ConfigError(f"methods: several are called {name}; give a dict of names")
        found[name] = thing
    if not found:
        raise ConfigError("methods: give at least one")
    return found


def _word(group: str, name: str, thing: Any) -> tuple[str, bool]:
    """Return the word that names a thing in an override, and whether its code is known."""
    if isinstance(thing, str):
        return thing, True
    if group == "method" and not isinstance(thing, Method | type) and callable(thing):
        made = FunctionMethod(source=_digest(thing))
        made.function = thing
        return registry.hold(group, name, made), bool(made.source)
    if isinstance(thing, type):
        thing = thing()
    if not is_dataclass(thing):
        raise ConfigError(f"{group}={name}: {type(thing).__name__} is no dataclass; its fields are its options")
    registry.check_kind(group, type(thing), name)
    sourced = registry.is_own(type(thing)) or bool(registry.code_identity(type(thing)).get("source"))
    return registry.hold(group, name, thing), sourced


def _digest(function: Any) -> str:
    """Return a digest of a function's source, or an empty string where there is none."""
    try:
        target = function if inspect.isfunction(function) or inspect.ismethod(function) else type(function)
        return hashlib.sha256(inspect.getsource(target).encode()).hexdigest()[:16]
    except (OSError, TypeError):
        return ""


def _joined(configs: Sequence[RunConfig]) -> RunConfig:
    return RunConfig(
        tuple(setting for config in configs for setting in config.settings),
        tuple(metrics for config in configs for metrics in config.metrics),
        configs[0].keys,
        (),
    )


def _bind(plan: Plan) -> None:
    """Give plain functions the model and the texts of the run."""
    for group in plan.groups:
        dataset: Dataset = group.dataset
        texts = [several[0] for several in dataset.prompts.texts(dataset)]
        layer = group.source.layer or group.model.tower.default_layer
        for cell in group.cells:
            if isinstance(cell.method, FunctionMethod):
                cell.method.bind(group.model, group.model.tower.canonical(layer), texts)


def _labels(configs: Mapping[str, RunConfig]) -> dict[str, str]:
    """Return the caller's names of methods by their labels in the store.

    Raises:
        ConfigError: for two names of one method.
    """
    found: dict[str, str] = {}
    for name, config in configs.items():
        for setting in config.settings:
            other = found.setdefault(method_label(setting), name)
            if other != name:
                raise ConfigError(f"methods: {other} and {name} are the same method")
    return found


def _by_label(reference: str | None, labels: Mapping[str, str]) -> str | None:
    """Return the label in the store of a method that goes by a name of the caller's.

    Raises:
        ConfigError: for a name that is none of theirs.
    """
    if reference is None:
        return None
    found = [label for label, name in labels.items() if name == reference]
    if not found:
        raise ConfigError(unknown("reference", reference, list(dict.fromkeys(labels.values()))))
    return found[0]
