"""Stand-ins for text parts that live on the hub, used with random weights alone.

A tokenizer of transformers and a text tower of its models need files from the hub. With random weights their content
means nothing, so that anything that gives different texts different features serves as well: words become numbers by a
hash, and open_clip's own text transformer reads them.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

#: Text tower in place of one of transformers.
_TEXT = {"vocab_size": 49408, "width": 256, "heads": 4, "layers": 4}


class HashTokenizer:
    """Turns words into ids by CRC-32: 1 starts a text, the highest id (or the tower's own) ends it, 0 pads.

    Args:
        context_length: ids per text.
        vocab_size: ids are below it.
        end: the id that ends a text.
    """

    def __init__(self, context_length: int, vocab_size: int, end: int | None = None) -> None:
        self.context_length, self.vocab_size = context_length, vocab_size
        self.end = vocab_size - 1 if end is None else end

    def __call__(self, texts: str | Iterable[str]) -> Tensor:
        """Return token ids, int64 (len(texts), context_length); a longer text is cut at the end."""
        batch = [texts] if isinstance(texts, str) else list(texts)
        tokens = torch.zeros(len(batch), self.context_length, dtype=torch.long)
        for row, text in enumerate(batch):
            words = re.findall(r"\w+", text.lower())[: self.context_length - 2]
            ids = [1, *(3 + zlib.crc32(word.encode()) % (self.vocab_size - 4) for word in words), self.end]
            tokens[row, : len(ids)] = torch.tensor(ids)
        return tokens


def with_native_text(text: Mapping[str, Any]) -> dict[str, Any]:
    """Return a text configuration that needs no file of the hub: its own, or a small one in place of transformers'."""
    if not text.get("hf_model_name"):
        return dict(text)
    return {"context_length": text.get("context_length") or 77, **_TEXT}


def tokenizer_for(text: Mapping[str, Any]) -> HashTokenizer:
    """Return the stand-in tokenizer for a native text configuration."""
    return HashTokenizer(
        int(text.get("context_length", 77)),
        int(text.get("vocab_size", 49408)),
        int(text.get("eos_id", 2)) if text.get("pool_type") == "eos" else None,
    )
