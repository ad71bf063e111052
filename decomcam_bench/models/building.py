"""Building models of open_clip from their configurations, and refusing those of families that are not known."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip

from decomcam_bench.core.errors import ModelError
from decomcam_bench.models import standins


def build(config: dict[str, Any], quick_gelu: bool, title: str) -> Any:
    """Return the model of a configuration, with random weights.

    Raises:
        ModelError: if open_clip or its libraries cannot build it.
    """
    config = deepcopy(config)
    config["quick_gelu"] = quick_gelu
    config["text_cfg"]["hf_model_pretrained"] = False
    config["vision_cfg"]["timm_model_pretrained"] = False
    custom = config.pop("custom_text", False) or bool(config["text_cfg"].get("hf_model_name"))
    kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP if custom else open_clip.CLIP
    try:
        return kind(**config).eval()
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"model {title}: cannot be built by open_clip {open_clip.__version__} ({first_line(error)})"
        ) from error


def without_hub(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration whose text tower needs no file of the hub, see :mod:`decomcam_bench.models.standins`."""
    return {**deepcopy(config), "text_cfg": standins.with_native_text(config["text_cfg"])}


def check_config(config: Any, title: str) -> dict[str, Any]:
    """Refuse a configuration of a family that is not known.

    Raises:
        ModelError: if it has no image or text tower, or keys that this open_clip does not take.
    """
    absent = [
        key for key in ("embed_dim", "vision_cfg", "text_cfg") if not isinstance(config, dict) or key not in config
    ]
    if absent:
        raise ModelError(
            f"model {title}: its configuration has no {', '.join(absent)}, so it is no CLIP of images and texts"
        )
    kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP
    known = {*inspect.signature(kind).parameters, *inspect.signature(open_clip.CLIP).parameters, "custom_text"}
    for where, keys, valid in (
        ("", config, known),
        ("vision_cfg.", config["vision_cfg"], open_clip.CLIPVisionCfg.__dataclass_fields__),
        ("text_cfg.", config["text_cfg"], open_clip.CLIPTextCfg.__dataclass_fields__),
    ):
        foreign = [key for key in keys if key not in valid]
        if foreign:
            raise ModelError(
                f"model {title}: its configuration has {where}{foreign[0]}, which open_clip {open_clip.__version__} "
                f"does not know; it is of a family that is not supported here"
            )
    return dict(config)


def read_config(file: Path, title: str) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"model {title}: {file} is no JSON ({first_line(error)})") from error
    if not isinstance(found, dict) or not isinstance(found.get("model_cfg"), dict):
        raise ModelError(f"model {title}: {file} has no 'model_cfg'; open_clip saves it with push_to_hf_hub")
    check_config(found["model_cfg"], title)
    return found


def digest(config: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def input_size(visual: Any, title: str) -> int:
    size = visual.image_size
    height, width = size if isinstance(size, tuple | list) else (size, size)
    if height != width:
        raise ModelError(f"model {title}: input {height} x {width} is not square, which is not supported")
    return int(height)


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep log lines and warnings of the libraries off the terminal: what matters is raised."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
