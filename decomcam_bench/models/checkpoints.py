"""Weights files in the forms that people have, read safely and brought to open_clip's names.

Read are safetensors, PyTorch state dicts and training checkpoints, OpenAI's TorchScript archives, and big_vision's
``.npz`` of SigLIP. Nothing that a file says is executed: pickles load with ``weights_only=True``.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from open_clip.convert import convert_state_dict, load_big_vision_weights
from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from decomcam_bench.core.errors import ModelError
from decomcam_bench.models import torchscript

#: Keys under which training scripts keep the weights.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "ema")
#: Prefixes that wrappers of a module leave before every key.
_PREFIXES = ("module.", "_orig_mod.", "model.")
#: Attributes of OpenAI's archives that are no weights.
_OPENAI_EXTRAS = ("input_resolution", "context_length", "vocab_size")


def load_weights(clip: nn.Module, file: Path, arch: str) -> None:
    """Fill a model with the weights of a file.

    The model's own parameters are dropped before the file is read, so that one copy of the weights is in memory.

    Args:
        clip: a model of open_clip on the CPU.
        file: the weights.
        arch: named in messages.

    Raises:
        ModelError: if the file cannot be read safely or holds weights of another model.
    """
    if file.suffix in (".npz", ".npy"):
        try:
            load_big_vision_weights(clip, str(file))
        except Exception as error:
            raise _refusal(file, arch, f"no SigLIP weights of big_vision ({_first_line(error)})") from error
        return
    shapes = {name: value.shape for name, value in clip.state_dict().items()}
    dtypes = {name: value.dtype for name, value in clip.state_dict().items()}
    _drop(clip)
    state = _adapted(clip, read_state_dict(file, arch), file, arch)
    own = {name for name, _ in clip.named_buffers()} - shapes.keys()
    state = {name: value for name, value in state.items() if name not in own}
    _check(shapes, state, file, arch)
    with torch.no_grad():
        clip.load_state_dict({name: value.to(dtypes[name]) for name, value in state.items()}, assign=True)


def read_state_dict(file: Path, arch: str) -> dict[str, Tensor]:
    """Return the tensors of a file by name, without the wrapping that training scripts add.

    Raises:
        ModelError: if the file cannot be read safely, or holds no tensors by name.
    """
    try:
        found = _read(file)
    except (SafetensorError, torchscript.ArchiveError) as error:
        raise _refusal(file, arch, f"cannot be read: {_first_line(error)}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError, KeyError, AttributeError) as error:
        raise _refusal(file, arch, _unreadable(file, error)) from error
    for key in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    tensors = (
        {str(key): value for key, value in found.items() if isinstance(value, Tensor)}
        if isinstance(found, Mapping)
        else {}
    )
    if not tensors:
        raise _refusal(file, arch, "it holds no tensors by name; save model.state_dict() of the model")
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def _read(file: Path) -> Any:
    with file.open("rb") as stream:
        head = stream.read(64)
    if head.startswith(b"version https://git-lfs"):
        raise ValueError("it is a Git LFS pointer, not the weights; run `git lfs pull` where it came from")
    if not head:
        raise ValueError("it is empty")
    if file.suffix == ".safetensors":
        return load_file(file)
    if torchscript.is_archive(file):
        found = torchscript.read_archive(file)
        return {name: value for name, value in found.items() if name not in _OPENAI_EXTRAS}
    zipped = head.startswith(b"PK")
    return torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)


def _unreadable(file: Path, error: Exception) -> str:
    """Return why torch cannot read a file safely, in our words."""
    text = str(error)
    found = re.search(r"(?:GLOBAL|Unsupported global:? ?GLOBAL|class) [`']?([\w.]+)", text)
    if "weights_only" in text or "Unsupported global" in text:
        what = f" ({found.group(1)})" if found else ""
        return (
            f"it holds Python objects{what} that only running code could load safely; where it was made, save "
            f"torch.save(model.state_dict(), FILE) or safetensors"
        )
    return f"cannot be read: {_first_line(error)}"


def _adapted(clip: nn.Module, state: dict[str, Tensor], file: Path, arch: str) -> dict[str, Tensor]:
    """Return the tensors by open_clip's names and shapes, as ``open_clip.load_checkpoint`` makes them."""
    if any(key.startswith(("vision_model.", "text_model.")) for key in state):
        raise _refusal(
            file,
            arch,
            "it is a checkpoint of Hugging Face transformers (vision_model...), whose names open_clip does not read; "
            "name the model instead (model=openai/clip-vit-base-patch32), or convert the file to open_clip",
        )
    model: Any = clip
    try:
        state = convert_state_dict(model, state)
        if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
            state = convert_to_custom_text_state_dict(state)
        for key in ("logit_scale", "logit_bias"):
            own = getattr(model, key, None)
            if key in state and own is not None and own.ndim != state[key].ndim:
                state[key] = state[key].reshape(own.shape)
        if getattr(model, "logit_bias", None) is not None and "logit_bias" not in state and "logit_scale" in state:
            state["logit_bias"] = torch.zeros_like(state["logit_scale"])
        state.pop("text.transformer.embeddings.position_ids", None)
        resize_pos_embed(state, model)
        resize_text_pos_embed(state, model)
    except (AssertionError, RuntimeError, KeyError, AttributeError) as error:
        raise _refusal(file, arch, f"its tensors do not fit ({_first_line(error)})") from error
    return state


def _check(shapes: Mapping[str, torch.Size], state: Mapping[str, Tensor], file: Path, arch: str) -> None:
    """Refuse weights whose names or shapes are not the model's.

    Raises:
        ModelError: naming the first of each kind.
    """
    missing = [name for name in shapes if name not in state]
    foreign = [name for name in state if name not in shapes]
    differ = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(shape)}"
        for name, shape in shapes.items()
        if name in state and state[name].shape != shape
    ]
    told = [
        _some("missing", missing, len(shapes)),
        _some("unknown", foreign, len(state)),
        _some("of another shape", differ, len(shapes)),
    ]
    if any(told):
        raise _refusal(
            file, arch, f"tensors {'; '.join(filter(None, told))}; choose the architecture that it was trained as"
        )


def _some(kind: str, names: list[str], of: int) -> str:
    return f"{kind}: {', '.join(names[:2])}{', ...' if len(names) > 2 else ''} ({len(names)} of {of})" if names else ""


def _drop(clip: nn.Module) -> None:
    """Free the memory of a model's parameters and persistent buffers."""
    kept = {name for name, _ in clip.named_buffers()} - clip.state_dict().keys()
    for name, module in clip.named_modules():
        for key, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, key, nn.Parameter(parameter.to("meta"), requires_grad=False))
        for key, buffer in list(module.named_buffers(recurse=False)):
            if f"{name}.{key}".lstrip(".") not in kept:
                module._buffers[key] = buffer.to("meta")


def _refusal(file: Path, arch: str, reason: str) -> ModelError:
    return ModelError(f"{file}: not weights of {arch} that load safely: {reason}")


def _first_line(error: BaseException) -> str:
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip() or type(error).__name__
    lines: Iterable[str] = (line.strip() for line in text.splitlines())
    return next(line for line in lines if line)[:200]
