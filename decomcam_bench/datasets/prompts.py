"""Prompt templates by name, and the class names that CLIP's authors wrote for ImageNet.

The long lists are open_clip's (``zero_shot_metadata.py``); they are read from its file without
importing open_clip, and so without torch.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from types import ModuleType
from typing import Any

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.core.validation import check_choice

#: Named sets: CLIP's plain prompt, the wording of DecomCAM's official code, bare names as
#: gScoreCAM uses them, CLIP's prompt for birds, and CLIP's 80 and 7 templates for ImageNet.
TEMPLATE_SETS: dict[str, tuple[str, ...]] = {
    "photo": ("a photo of a {}.",),
    "decomcam": ("the {} in the picture",),
    "bare": ("{}",),
    "bird": ("a photo of a {}, a type of bird.",),
    "clip80": (),
    "clip7": (),
}
_FROM_OPEN_CLIP = {"clip80": "OPENAI_IMAGENET_TEMPLATES", "clip7": "SIMPLE_IMAGENET_TEMPLATES"}


@lru_cache(maxsize=1)
def _metadata() -> ModuleType:
    """open_clip's ``zero_shot_metadata``, loaded by file so that torch is not imported."""
    package = importlib.util.find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        raise ConfigError("open_clip is not installed: pip install open_clip_torch")
    file = f"{package.submodule_search_locations[0]}/zero_shot_metadata.py"
    spec = importlib.util.spec_from_file_location("_open_clip_zero_shot_metadata", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@lru_cache(maxsize=1)
def imagenet_names() -> tuple[str, ...]:
    """CLIP's names of the 1,000 ImageNet classes, in the order of the sorted WordNet ids."""
    return tuple(_metadata().IMAGENET_CLASSNAMES)


def resolve_templates(choice: Any) -> tuple[str, ...]:
    """The templates that a configuration names.

    Args:
        choice: a key of :data:`TEMPLATE_SETS`, one template, or a list of templates.

    Raises:
        ConfigError: for an unknown set, an empty list, or a template without exactly one ``{}``.
    """
    if isinstance(choice, str) and "{" not in choice:
        check_choice("dataset.templates", choice, TEMPLATE_SETS)
        if choice in _FROM_OPEN_CLIP:
            return tuple(template("{}") for template in getattr(_metadata(), _FROM_OPEN_CLIP[choice]))
        return TEMPLATE_SETS[choice]
    templates = (choice,) if isinstance(choice, str) else tuple(choice or ())
    if not templates:
        raise ConfigError("dataset.templates: an empty list; name a set or give at least one template")
    for template in templates:
        if not isinstance(template, str) or template.count("{}") != 1:
            raise ConfigError(f"dataset.templates: '{template}' must hold '{{}}' exactly once, for the class name")
    return templates
