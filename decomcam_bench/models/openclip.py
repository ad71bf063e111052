"""Real CLIP models through open_clip: any architecture with a supported tower, any weights."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import open_clip
import torch
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.pretrained import download_pretrained, get_pretrained_cfg
from torch import Tensor

from decomcam_bench.config.models import FOLDER, HUB
from decomcam_bench.core.errors import ModelError, unknown
from decomcam_bench.models import hub, standins
from decomcam_bench.models.base import ModelSource, hash_file
from decomcam_bench.models.building import (
    build,
    check_config,
    digest,
    first_line,
    input_size,
    quiet,
    read_config,
    without_hub,
)
from decomcam_bench.models.checkpoints import load_weights
from decomcam_bench.models.clip import ClipModel, Outline
from decomcam_bench.models.preprocessing import Preprocessing, agreed
from decomcam_bench.models.towers import tower_of

Tokenizer = Callable[[Sequence[str]], Tensor]
CONFIG_NAME = "open_clip_config.json"
#: Weights that open_clip looks for in a folder or a repository, the preferred first.
_WEIGHTS = (
    HF_SAFE_WEIGHTS_NAME,
    "open_clip_pytorch_model.safetensors",
    HF_WEIGHTS_NAME,
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".npz")


@dataclass
class OpenClip(ModelSource):
    """A model of open_clip.

    Attributes:
        arch: open_clip's name of the architecture, e.g. ``RN50-quickgelu`` or ``ViT-B-16``; ``hf-hub:ORG/NAME`` for a
            repository of the hub, or ``local-dir:FOLDER`` for a folder, each with an ``open_clip_config.json``.
        pretrained: one of its pretrained tags, ``random``, or empty for ``openai`` where that exists. Of a repository
            or folder, empty for its weights, or ``random``.
        checkpoint: a local weights file in place of ``pretrained``, see :mod:`decomcam_bench.models.checkpoints`.
        cache_dir: where downloads are kept; empty for the hub's own choice.
        init_seed: of random weights.
        mean, std: normalisation of pixels, three numbers each; None for that of the weights.
        interpolation: of resizing; empty for that of the weights.
        quick_gelu: activation, for weights of which it is not known; None to choose as :meth:`remarks` says.
        geometry: also ``own``: as the weights were trained, see :class:`Preprocessing`.
    """

    arch: str = "RN50-quickgelu"
    pretrained: str = ""
    checkpoint: str = ""
    cache_dir: str = ""
    init_seed: int = 0
    mean: list[float] | None = None
    std: list[float] | None = None
    interpolation: str = ""
    quick_gelu: bool | None = None

    id = "openclip"
    version: ClassVar[int] = 3
    geometries: ClassVar[tuple[str, ...]] = ("squash", "crop", "own")
    untrained: ClassVar[dict[str, Any]] = {"pretrained": "random", "checkpoint": ""}

    def __post_init__(self) -> None:
        super().__post_init__()
        Preprocessing().changed(self.mean, self.std, self.interpolation)
        if self._builtin:
            config = open_clip.get_model_config(self.arch)
            if config is None:
                raise ModelError(unknown("architecture", self.arch, open_clip.list_models()))
            check_config(config, self.arch)

    @property
    def _builtin(self) -> bool:
        return not self.arch.startswith((HUB, FOLDER))

    @property
    def _title(self) -> str:
        return self.name if self.name not in ("", "openclip") else self.arch

    @property
    def tag(self) -> str:
        """The pretrained tag in use; ``random``; or empty for the weights of a repository or folder.

        Raises:
            ModelError: for a tag that the architecture does not have.
        """
        tags = open_clip.list_pretrained_tags_by_model(self.arch) if self._builtin else []
        if self.pretrained in ("random", *tags):
            return self.pretrained
        if self.pretrained:
            raise ModelError(unknown(f"pretrained tag of {self.arch}", self.pretrained, [*tags, "random"]))
        if not self._builtin:
            return ""
        if "openai" in tags:
            return "openai"
        raise ModelError(
            f"model {self.arch}: name its weights, model.pretrained=TAG with one of {', '.join([*tags, 'random'])}, "
            f"or model.checkpoint=FILE"
        )

    @property
    def _random(self) -> bool:
        return not self.checkpoint and self.tag == "random"

    # Where things are

    @cached_property
    def _config(self) -> dict[str, Any]:
        """The model configuration, of a repository or folder with ``preprocess_cfg`` beside ``model_cfg``.

        Raises:
            ModelError: if it cannot be had, or is not that of a CLIP that this open_clip builds.
        """
        if self._builtin:
            return {"model_cfg": open_clip.get_model_config(self.arch)}
        if self.arch.startswith(FOLDER):
            file = self._folder / CONFIG_NAME
            if not file.is_file():
                raise ModelError(f"model {self.arch}: no file {file}; it describes the model, as open_clip saves it")
        else:
            file = self._fetched(self.arch.removeprefix(HUB), [CONFIG_NAME])
        return read_config(file, self.arch)

    @property
    def _folder(self) -> Path:
        return Path(self.arch.removeprefix(FOLDER)).expanduser()

    def origin(self) -> str:
        """Return where the pretrained weights come from."""
        if not self._builtin:
            return self.arch
        config = get_pretrained_cfg(self.arch, self.tag)
        return str(config.get("hf_hub") or config.get("url") or "nowhere").rstrip("/")

    def cached(self) -> Path | None:
        """Return the weights file if it is on this machine already; ask no network."""
        if self.arch.startswith(FOLDER):
            return _weights_in(self._folder)
        repository, names = self._repository()
        return hub.cached(repository, names, self.cache_dir) if repository else None

    def _repository(self) -> tuple[str, tuple[str, ...]]:
        """Return the repository of the hub that holds the weights, and the names that they may have there."""
        if not self._builtin:
            return self.arch.removeprefix(HUB), (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME)
        repository, _, file = str(get_pretrained_cfg(self.arch, self.tag).get("hf_hub", "")).rpartition("/")
        if not file:
            return repository, (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME)
        safe = (f"{file[:-4]}.safetensors",) if file.endswith((".bin", ".pth")) else ()
        return repository, (*safe, file)

    @cached_property
    def _file(self) -> Path | None:
        """The weights file, downloaded if need be; None for random weights."""
        if self.checkpoint:
            path = Path(self.checkpoint).expanduser()
            if not path.is_file():
                raise ModelError(f"model.checkpoint={self.checkpoint}: no such file")
            return path
        if self._random:
            return None
        if self.arch.startswith(FOLDER):
            return self._weights_of_folder()
        repository, names = self._repository()
        self._require_transformers()
        return self._fetched(repository, names, self.outline)

    def _weights_of_folder(self) -> Path:
        self._config  # noqa: B018 - a folder without a configuration says so first
        found = _weights_in(self._folder)
        if found is None:
            others = sorted(file.name for file in self._folder.iterdir() if file.suffix in _SUFFIXES)
            raise ModelError(
                f"model {self.arch}: no weights that open_clip saves ({', '.join(_WEIGHTS[:3])}, ...)"
                + (f" but {', '.join(others)}; choose one with model.checkpoint=FILE" if others else "")
            )
        return found

    def _fetched(self, repository: str, names: Sequence[str], check: Callable[[], object] = tuple) -> Path:
        """Return a file of a repository, or without one what the tag's URL holds.

        Args:
            check: called before a download begins; refuses what is not supported.
        """
        url = "" if repository else str(get_pretrained_cfg(self.arch, self.tag).get("url", ""))
        try:
            found = hub.cached(repository, names, self.cache_dir) if repository else None
            if found:
                return found
            hub.require_reachable(url or hub.ENDPOINT)
            check()
            with quiet():
                if repository:
                    return hub.fetch(repository, names, self.cache_dir)
                return Path(download_pretrained({"url": url}, cache_dir=self.cache_dir or None))
        except ModelError:
            raise
        except Exception as error:
            what = f"the weights '{self.tag}'" if self._builtin else f"'{names[0]}'"
            raise ModelError(
                f"model {self._title}: {what} cannot be fetched from {self.origin()} ({first_line(error)}); connect to "
                f"the network once, or give a local file with model.checkpoint=FILE"
                + ("" if self._builtin else f", or a folder with model={FOLDER}FOLDER")
            ) from error

    # What decides the maps

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of the weights, with the user's options in place of its own.

        Raises:
            ModelError: for a bare file of an architecture whose published weights differ in it.
        """
        return self._own_preprocessing().changed(self.mean, self.std, self.interpolation)

    def _own_preprocessing(self) -> Preprocessing:
        beside = Path(self.checkpoint).expanduser().parent / CONFIG_NAME if self.checkpoint else None
        if beside is not None and beside.is_file():
            return Preprocessing.of(read_config(beside, str(beside)).get("preprocess_cfg") or {}, str(beside))
        if not self._builtin:
            return Preprocessing.of(self._config.get("preprocess_cfg") or {}, f"model {self.arch}")
        if not self.checkpoint and not self._random:
            return Preprocessing.of(get_pretrained_cfg(self.arch, self.tag), f"model {self.arch}:{self.tag}")
        published = self._published()
        found = agreed(published) if published else Preprocessing()
        if found is not None:
            return found
        if self._random or (self.mean is not None and self.std is not None):
            return next(iter(published.values()))
        raise ModelError(f"model {self.arch}: {self._candidates(published)}")

    def _published(self) -> dict[str, Preprocessing]:
        tags = open_clip.list_pretrained_tags_by_model(self.arch)
        return {tag: Preprocessing.of(get_pretrained_cfg(self.arch, tag), f"{self.arch}:{tag}") for tag in tags}

    def _candidates(self, published: dict[str, Preprocessing]) -> str:
        """Return what to choose from where published weights of an architecture differ."""
        by_options: dict[str, list[str]] = {}
        for tag, one in published.items():
            by_options.setdefault(f"{one.describe()} model.interpolation={one.interpolation}", []).append(tag)
        listed = "; or ".join(f"{options} (as {', '.join(tags)})" for options, tags in by_options.items())
        return (
            f"model.checkpoint={self.checkpoint} does not say how its pixels were normalised, and published weights of "
            f"this architecture differ; choose {listed}"
        )

    def _quick_gelu(self) -> bool:
        """Return whether the activation is QuickGELU, as OpenAI's weights were trained with."""
        if self.quick_gelu is not None:
            return self.quick_gelu
        named = bool(self._config["model_cfg"].get("quick_gelu", False))
        if not self._builtin or named:
            return named
        if self.checkpoint or self._random:
            used = self._published_activations()
            return used == {True}
        return bool(get_pretrained_cfg(self.arch, self.tag).get("quick_gelu", False))

    def _published_activations(self) -> set[bool]:
        tags = open_clip.list_pretrained_tags_by_model(self.arch)
        return {bool(get_pretrained_cfg(self.arch, tag).get("quick_gelu", False)) for tag in tags}

    def remarks(self) -> list[str]:
        found = []
        if self.checkpoint and self._builtin and self.quick_gelu is None and not self.arch.endswith("-quickgelu"):
            used = self._published_activations()
            if used == {True}:
                found.append(
                    f"model {self.arch}: QuickGELU, as all its published weights; model.quick_gelu=false for GELU"
                )
            elif used == {True, False}:
                found.append(
                    f"model {self.arch}: GELU, but some of its published weights use QuickGELU; "
                    f"model.quick_gelu=true for those"
                )
        if self.checkpoint and not self._published_or_beside():
            chosen = self.preprocessing.describe()
            found.append(
                f"model {self.arch}: nothing says how its pixels were normalised; assumed as OpenAI's, {chosen}"
            )
        return found

    def _published_or_beside(self) -> bool:
        beside = (Path(self.checkpoint).expanduser().parent / CONFIG_NAME).is_file()
        given = self.mean is not None and self.std is not None
        return beside or given or not self._builtin or bool(self._published())

    @property
    def mode(self) -> str:
        return self.preprocessing.mode(self.geometry, self.arch)

    @property
    def resampling(self) -> str:
        return self.preprocessing.interpolation

    def identity(self) -> dict[str, Any]:
        """What decides the maps: architecture, weights, activation and preprocessing. Reads the weights file."""
        preprocessing = self.preprocessing
        arch = self.arch if self._builtin else f"config:{digest(self._config['model_cfg'])}"
        return {
            "arch": arch,
            "weights": hash_file(self._file) if self._file else f"random:{self.init_seed}",
            "geometry": self.mode,
            "quick_gelu": self._quick_gelu(),
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "interpolation": preprocessing.interpolation,
            "scores": "own scale",
        }

    # Building

    def outline(self) -> Outline:
        config = check_config(self._config["model_cfg"], self._title)
        with quiet(), torch.device("meta"):
            clip = build(without_hub(config), self._quick_gelu(), self._title)
        return Outline(tower_of(clip.visual, self._title), input_size(clip.visual, self._title), self._title)

    def load(self, device: str, precision: str) -> ClipModel:
        preprocessing, file = self.preprocessing, self._file
        config = deepcopy(self._config["model_cfg"])
        if self._random:
            config = without_hub(config)
        else:
            self._require_transformers()
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.init_seed)
            clip = self._build(config)
        tower_of(clip.visual, self._title)
        if file:
            with quiet():
                load_weights(clip, file, self.arch)
        return ClipModel(
            clip,
            self._tokenizer(config),
            self.name or self.arch,
            input_size(clip.visual, self._title),
            preprocessing.mean,
            preprocessing.std,
            device,
            precision,
        )

    def _build(self, config: dict[str, Any]) -> Any:
        if not config["text_cfg"].get("hf_model_name"):
            return build(config, self._quick_gelu(), self._title)
        try:  # its text tower takes its shape from a file of the hub
            return hub.cache_first(lambda: build(config, self._quick_gelu(), self._title))
        except hub.HubError as error:
            name = config["text_cfg"]["hf_model_name"]
            raise ModelError(
                f"model {self._title}: the configuration of its text tower ({name}) cannot be had ({error}); "
                f"connect to the network once"
            ) from error

    def _tokenizer(self, config: dict[str, Any]) -> Tokenizer:
        text = config["text_cfg"]
        if self._random and self._config["model_cfg"]["text_cfg"].get("hf_tokenizer_name"):
            return standins.tokenizer_for(text)
        try:
            with quiet():
                tokenizer: Tokenizer = hub.cache_first(
                    lambda: open_clip.get_tokenizer(self.arch, cache_dir=self.cache_dir or None)
                )
                return tokenizer
        except hub.HubError as error:
            raise ModelError(
                f"model {self._title}: its tokenizer ({text.get('hf_tokenizer_name')}) cannot be had ({error}); "
                f"connect to the network once, or use a folder that holds it with model={FOLDER}FOLDER"
            ) from error
        except Exception as error:
            raise ModelError(f"model {self._title}: its tokenizer cannot be built ({first_line(error)})") from error

    def _require_transformers(self) -> None:
        text = self._config["model_cfg"]["text_cfg"]
        needs = [key for key in ("hf_model_name", "hf_tokenizer_name") if text.get(key)]
        if needs and importlib.util.find_spec("transformers") is None:
            what = "text tower and tokenizer need" if "hf_model_name" in needs else "tokenizer needs"
            raise ModelError(
                f"model {self._title}: its {what} the package transformers; pip install 'decomcam-bench[hf]' "
                f"(model.pretrained=random works without)"
            )


def _weights_in(folder: Path) -> Path | None:
    """Return the weights in a folder: the first that open_clip would choose, or the only file of weights."""
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    files = [file for file in folder.glob("*") if file.suffix in _SUFFIXES] if folder.is_dir() else []
    return files[0] if len(files) == 1 else None
