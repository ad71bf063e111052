"""Real CLIP models through open_clip: any architecture with a supported tower, any weights."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import open_clip
import torch
from huggingface_hub import try_to_load_from_cache
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.factory import load_checkpoint
from open_clip.pretrained import download_pretrained, get_pretrained_cfg

from decomcam_bench.core.errors import ModelError, unknown
from decomcam_bench.models.base import ModelSource, hash_file
from decomcam_bench.models.clip import ClipModel

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass
class OpenClip(ModelSource):
    """A model of open_clip.

    Attributes:
        arch: open_clip's name of the architecture, e.g. ``RN50-quickgelu`` or ``ViT-B-16``.
        pretrained: one of its pretrained tags, ``random``, or empty for ``openai`` where that
            exists.
        checkpoint: a local checkpoint file (safetensors, or a state dict that loads with
            ``weights_only=True``); it replaces ``pretrained``.
        cache_dir: where downloads are kept; empty for open_clip's own choice.
        init_seed: of random weights.
    """

    id = "openclip"

    arch: str = "RN50-quickgelu"
    pretrained: str = ""
    checkpoint: str = ""
    cache_dir: str = ""
    init_seed: int = 0

    untrained: ClassVar[dict[str, Any]] = {"pretrained": "random", "checkpoint": ""}

    def __post_init__(self) -> None:
        super().__post_init__()
        config = open_clip.get_model_config(self.arch)
        if config is None:
            raise ModelError(unknown("architecture", self.arch, open_clip.list_models()))

    @property
    def tag(self) -> str:
        """The pretrained tag in use.

        Raises:
            ModelError: for a tag that the architecture does not have.
        """
        tags = open_clip.list_pretrained_tags_by_model(self.arch)
        if self.pretrained in ("random", *tags):
            return self.pretrained
        if self.pretrained:
            raise ModelError(unknown(f"pretrained tag of {self.arch}", self.pretrained, [*tags, "random"]))
        if "openai" in tags:
            return "openai"
        raise ModelError(
            f"model {self.arch}: name its weights, model.pretrained=TAG with one of {', '.join([*tags, 'random'])}, "
            f"or model.checkpoint=FILE"
        )

    def origin(self) -> str:
        """Where the pretrained weights come from."""
        config = get_pretrained_cfg(self.arch, self.tag)
        return str(config.get("hf_hub") or config.get("url") or "nowhere").rstrip("/")

    def cached(self) -> Path | None:
        """The weights file if it is on this machine already; asks no network."""
        return _cached(get_pretrained_cfg(self.arch, self.tag), self.cache_dir)

    def _file(self) -> Path | None:
        """The weights file, downloaded if need be; None for random weights."""
        if self.checkpoint:
            path = Path(self.checkpoint).expanduser()
            if not path.is_file():
                raise ModelError(f"model.checkpoint={self.checkpoint}: no such file")
            return path
        if self.tag == "random":
            return None
        cached = self.cached()
        if cached:
            return cached
        config = get_pretrained_cfg(self.arch, self.tag)
        try:
            _require_host(config)
            with _quiet():
                return Path(download_pretrained(config, cache_dir=self.cache_dir or None))
        except Exception as error:
            raise ModelError(
                f"model {self.arch}: the weights '{self.tag}' cannot be fetched from {self.origin()} "
                f"({type(error).__name__}); connect to the network once, or give a local file with "
                f"model.checkpoint=FILE"
            ) from error

    def identity(self) -> dict[str, Any]:
        file = self._file()
        weights = hash_file(file) if file else f"random:{self.init_seed}"
        return {"arch": self.arch, "weights": weights, "geometry": self.geometry, "quick_gelu": self._quick_gelu()}

    def _quick_gelu(self) -> bool:
        """Whether the weights were trained with QuickGELU, as OpenAI's were."""
        config = open_clip.get_model_config(self.arch) or {}
        named = bool(config.get("quick_gelu", False))
        if self.checkpoint or self.tag == "random":
            return named
        return named or bool(get_pretrained_cfg(self.arch, self.tag).get("quick_gelu", False))

    def load(self, device: str, precision: str) -> ClipModel:
        file = self._file()
        try:
            with _quiet(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.init_seed)
                clip = open_clip.create_model(self.arch, pretrained=None, force_quick_gelu=self._quick_gelu())
                tokenizer = open_clip.get_tokenizer(self.arch)
        except Exception as error:
            raise ModelError(
                f"model {self.arch}: cannot be built ({_first_line(error)}); its text tower needs what is not "
                f"installed or not cached here"
            ) from error
        if file:
            try:
                load_checkpoint(clip, str(file), weights_only=True)
            except Exception as error:
                raise ModelError(
                    f"model.checkpoint={file}: not weights of {self.arch} that load safely ({_first_line(error)}); "
                    f"TorchScript archives have to be saved again as a state dict or safetensors"
                ) from error
        config = {} if self.checkpoint or self.tag == "random" else get_pretrained_cfg(self.arch, self.tag)
        size = clip.visual.image_size
        height, width = size if isinstance(size, tuple | list) else (size, size)
        if height != width:
            raise ModelError(f"model {self.arch}: input {height} x {width} is not square, which is not supported")
        return ClipModel(
            clip,
            tokenizer,
            self.name or self.arch,
            int(height),
            config.get("mean") or OPENAI_MEAN,
            config.get("std") or OPENAI_STD,
            device,
            precision,
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the libraries' log lines off the terminal: what matters is raised."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _cached(config: dict[str, Any], cache_dir: str) -> Path | None:
    """The weights file in the hub's cache, found without asking the network."""
    repository, _, file = str(config.get("hf_hub", "")).rpartition("/")
    if not repository:
        return None
    for name in (file,) if file else (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME):
        found = try_to_load_from_cache(repository, name, cache_dir=cache_dir or None)
        if isinstance(found, str):
            return Path(found)
    return None


def _require_host(config: dict[str, Any]) -> None:
    """Fails in seconds where the hub cannot be reached, instead of after a minute of retries."""
    proxied = any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HF_ENDPOINT"))
    if config.get("hf_hub") and not proxied:
        socket.create_connection(("huggingface.co", 443), timeout=5).close()
