"""Second paths through CLIP's image towers, for methods that explain CLIP by its own attention.

CLIP Surgery (Li et al. 2023) lets tokens attend by the similarity of their values instead of that of query and key, so
that like attends to like. In a ViT, a second residual stream branches off at a block and adds only these attentions, no
MLP; the original stream runs on unchanged next to it and provides the values. A ResNet has one attention, the pool,
which is replaced for the patches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import AttentionPool2d
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

#: How values enter the attention: unchanged, or scaled to length 1 and sharpened.
VALUES = ("plain", "unit")


def heads_of(x: Tensor, count: int) -> Tensor:
    """Reshape (N, T, d) to (N, heads, T, d / heads)."""
    return x.reshape(*x.shape[:2], count, -1).transpose(1, 2)


def query_key_value(attention: nn.MultiheadAttention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the projections of tokens (N, T, d), each (N, heads, T, d / heads)."""
    projected = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = (heads_of(part, attention.num_heads) for part in projected.chunk(3, dim=2))
    return q, k, v


def probabilities(q: Tensor, k: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(d)): (N, heads, T, T)."""
    scores: Tensor = q @ k.mT * q.shape[-1] ** -0.5
    return scores.softmax(-1)


def attend(attention: nn.MultiheadAttention, weights: Tensor, v: Tensor) -> Tensor:
    """Return the output (N, T, d) of an attention with given ``weights`` (N, heads, T, T)."""
    output: Tensor = attention.out_proj((weights @ v).transpose(1, 2).flatten(2))
    return output


def value_attention(v: Tensor, values: str) -> Tensor:
    """Return the attention by the similarity of values (N, heads, T, d): (N, heads, T, T)."""
    if values == "unit":
        unit = v / (v.norm(dim=-1, keepdim=True) + 1e-6)
        scores: Tensor = unit @ unit.mT * (8 * v.shape[-1] ** -0.5)
        return scores.softmax(-1)
    return probabilities(v, v)


def surgery_of_blocks(x: Tensor, blocks: Sequence[ResidualAttentionBlock], values: str) -> tuple[Tensor, Tensor]:
    """Return both residual streams (N, T, d) after ``blocks``, from the tokens before them.

    Returns:
        the original stream and the second one.
    """
    second = x
    for block in blocks:
        q, k, v = query_key_value(block.attn, block.ln_1(x))
        second = second + block.ls_1(attend(block.attn, value_attention(v, values), v))
        x = x + block.ls_1(attend(block.attn, probabilities(q, k), v))
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
    return x, second


def surgery_of_pool(pool: AttentionPool2d, x: Tensor, values: str) -> tuple[Tensor, Tensor]:
    """Return features by value attention from the pool's input (N, C, h, w): pooled (N, d) and grid (N, d, h, w).

    The pooled token attends by plain values: the authors' code replaces query and key before it computes
    that token too.
    """
    tokens = x.flatten(2).mT
    tokens = torch.cat((tokens.mean(1, keepdim=True), tokens), 1) + pool.positional_embedding.to(x.dtype)
    v = heads_of(pool.v_proj(tokens), pool.num_heads)
    weights = torch.cat((value_attention(v, "plain")[:, :, :1], value_attention(v, values)[:, :, 1:]), 2)
    mixed: Tensor = pool.c_proj((weights @ v).transpose(1, 2).flatten(2))
    return mixed[:, 0], mixed[:, 1:].mT.reshape(len(x), -1, *x.shape[2:])


def open_block(block: ResidualAttentionBlock, read: Tensor, stream: Tensor) -> tuple[Tensor, Tensor]:
    """Run a block and show its attention: return the tokens after it (N, T, d) and the weights (N, heads, T, T).

    Args:
        read: the tokens that the attention reads (after ``ln_1``).
        stream: the residual stream before the block.
    """
    q, k, v = query_key_value(block.attn, read)
    weights = probabilities(q, k)
    x = stream + block.ls_1(attend(block.attn, weights, v))
    return x + block.ls_2(block.mlp(block.ln_2(x))), weights
