"""Saliency maps of one picture and a few texts, from Python.

In a notebook::

    import decomcam_bench as bench

    shown = bench.explain("photo.jpg", ["a cat", "a dog"], method="decomcam,gradcam", model="rn50")
    shown

To explain many pictures with one model, keep a :class:`~decomcam_bench.explainer.session.Session`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from decomcam_bench.config.settings import RunConfig, Setting
from decomcam_bench.explainer.answers import Answer
from decomcam_bench.explainer.explained import Explained
from decomcam_bench.explainer.pictures import load_picture, override_words, parse
from decomcam_bench.explainer.session import Session, check_words, picture_name
from decomcam_bench.store.schema import key_of


def explain(
    image: str | Path | np.ndarray | Image.Image, texts: str | Sequence[str], *overrides: str, **choices: Any
) -> Explained:
    """Explain what of a picture speaks for each text.

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
    return explain_as(parse([*overrides, *override_words(**choices)]), image, texts)


def explain_as(
    config: RunConfig, image: str | Path | np.ndarray | Image.Image, texts: str | Sequence[str]
) -> Explained:
    """:func:`explain` with settings that :func:`parse` has read; raises the same."""
    picture, asked = load_picture(image), check_words(texts)
    answers: list[Answer] = []
    for settings in _by(config, lambda s: key_of({"model": s.model, "precision": s.keys.precision})):
        session = Session.of(settings[0], config.keys)
        answers += session.answers(picture, asked, settings, picture_name(image))
    return Explained(picture, asked, tuple(answers))


def _by(config: RunConfig, key: Callable[[Setting], str]) -> list[list[Setting]]:
    """Return settings in groups of equal key, in order of first appearance."""
    groups: dict[str, list[Setting]] = {}
    for setting in config.settings:
        groups.setdefault(key(setting), []).append(setting)
    return list(groups.values())
