"""Small CLIPs for tests: configurations, folders as open_clip saves them, and archives as OpenAI distributes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from torch import nn

from decomcam_bench.config import registry

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
VIT = {"image_size": 32, "layers": 3, "width": 64, "head_width": 32, "patch_size": 8}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}
NATIVE: dict[str, Any] = {"embed_dim": 16, "vision_cfg": VIT, "text_cfg": TEXT}
SIGLIP: dict[str, Any] = {
    "embed_dim": 16,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 160,
        "timm_model_name": "test_vit",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
    },
    "text_cfg": {**TEXT, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
}


def source(name: str = "openclip", **changed: Any) -> Any:
    return registry.build("model", {**registry.read("model", name), **changed})


def build(config: dict[str, Any], seed: int = 0) -> nn.Module:
    """Return the model of a configuration with random weights."""
    torch.manual_seed(seed)
    config = json.loads(json.dumps(config))
    kind = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    clip: nn.Module = kind(**config).eval()
    return clip


def save_folder(
    folder: Path, config: dict[str, Any], preprocess: dict[str, Any] | None, clip: nn.Module | None = None
) -> Path:
    """Write a folder as open_clip saves it: configuration and weights."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {"model_cfg": config} if preprocess is None else {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(found))
    weights = (clip or build(config)).state_dict()
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / "open_clip_model.safetensors")
    return folder


class Scripted(nn.Module):
    """A module of parameters alone, named as a state dict is, so that it can be scripted."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        groups: dict[str, dict[str, torch.Tensor]] = {}
        for name, value in tensors.items():
            first, _, rest = name.partition(".")
            if rest:
                groups.setdefault(first, {})[rest] = value
            elif value.is_floating_point():
                setattr(self, name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)
        for name, inner in groups.items():
            setattr(self, name, Scripted(inner))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def save_archive(file: Path, clip: nn.Module, half: bool = True) -> Path:
    """Write a TorchScript archive in OpenAI's form: half precision, and three extra buffers that are no weights."""
    tensors = {name: value.half() if half else value.clone() for name, value in clip.state_dict().items()}
    extras = {"input_resolution": 32, "context_length": 16, "vocab_size": 49408}
    tensors |= {name: torch.tensor(value) for name, value in extras.items()}
    torch.jit.script(Scripted(tensors)).save(str(file))
    return file
