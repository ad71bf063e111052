"""What explainers of CLIP's own attention read inside an open_clip ViT, and in the pool of a ResNet.

Shapes: N images, P pairs, T tokens (class token first) of width D, d the dimension of the embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from decomcam_bench.models.surgery import attend, heads_of, probabilities, query_key_value, surgery_of_blocks
from decomcam_bench.models.towers.base import Tower
from decomcam_bench.models.towers.openai import ResNetTower, ViTTower

#: Attentions of the dense family, see :func:`dense_features`.
ATTENTIONS = ("mask", "sclip", "clearclip", "naclip", "gem", "surgery")
_NEEDS = ("attention_weights", "dense_features", "legrad_gradients", "class_token_gradients", "bottleneck_capacity")


def lacking(tower: Tower, need: str) -> str:
    """Return why a tower cannot give one of the extras of this module, or ''."""
    if need not in _NEEDS or (need == "dense_features" and isinstance(tower, ResNetTower)):
        return ""
    if not isinstance(tower, ViTTower) or tower.visual.attn_pool is not None or tower.visual.pool_type != "tok":
        return "it reads the attention of an open_clip ViT that pools by its class token"
    return ""


def _batches(count: int, size: int, device: torch.device) -> list[Tensor]:
    """Return the positions 0 .. count-1 on a device, at most ``size`` at a time."""
    return [torch.arange(start, min(start + size, count), device=device) for start in range(0, count, size)]


def _tokens_before(tower: ViTTower, images: Tensor, blocks: int) -> tuple[Tensor, list[Any]]:
    """Return the tokens (N, T, D) before the last ``blocks`` blocks, and these blocks; all if there are fewer."""
    x = tower.visual._embeds(images)
    first = max(0, len(tower.blocks) - blocks)
    for block in tower.blocks[:first]:
        x = block(x)
    return x, tower.blocks[first:]


def _projected(tower: ViTTower, tokens: Tensor) -> Tensor:
    """Return tokens (..., D) after the last norm and the projection: (..., d)."""
    read: Tensor = tower.visual.ln_post(tokens)
    return read @ tower.visual.proj if tower.visual.proj is not None else read


def attention_weights(tower: Tower, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Return the attention of every block, averaged over heads, (N, B, T, T), and the grid of the patches."""
    assert isinstance(tower, ViTTower)
    x, blocks = _tokens_before(tower, images, len(tower.blocks))
    found = []
    for block in blocks:
        q, k, _ = query_key_value(block.attn, block.ln_1(x))
        found.append(probabilities(q, k).mean(1))
        x = block(x)
    return torch.stack(found, 1), tower.grid


def dense_features(tower: Tower, images: Tensor, attention: str, blocks: int, std: float) -> Tensor:
    """Return patch features (N, d, h, w), not normalised, with the attention of the last blocks replaced.

    - ``mask`` (MaskCLIP, Zhou et al. 2022): each token attends to itself; residual and MLP stay. In the
      pool of a ResNet: value and output projections of each position, without positional embedding.
    - ``sclip`` (Wang et al. 2024): softmax(q q^T) + softmax(k k^T); residual and MLP stay.
    - ``clearclip`` (Lan et al. 2024): softmax(q q^T); the attention's output alone.
    - ``naclip`` (Hajimiri et al. 2025): softmax(k k^T + Gaussian of the distance, ``std`` in patches); the
      attention's output alone.
    - ``gem`` (Bousselham et al. 2024): mean of self-self attentions of q, k and v, each normalised, in the
      last ``blocks`` blocks, as a stream of its own without MLPs.
    - ``surgery`` (Li et al. 2023): value attention in such a stream, see :mod:`decomcam_bench.models.surgery`.

    All but the last two change the last block alone.
    """
    if isinstance(tower, ResNetTower):
        pool = tower.visual.attnpool
        x = tower.visual.stem(images)
        for stage in (tower.visual.layer1, tower.visual.layer2, tower.visual.layer3, tower.visual.layer4):
            x = stage(x)
        mixed: Tensor = pool.c_proj(pool.v_proj(x.flatten(2).mT))
        return mixed.mT.reshape(len(x), -1, *x.shape[2:])
    assert isinstance(tower, ViTTower)
    if attention == "gem":
        x, last = _tokens_before(tower, images, blocks)
        tokens = _gem(x, last)
    elif attention == "surgery":
        x, last = _tokens_before(tower, images, blocks)
        tokens = surgery_of_blocks(x, last, "plain")[1]
    else:
        x, (block,) = _tokens_before(tower, images, 1)
        q, k, v = query_key_value(block.attn, block.ln_1(x))
        mixed = attend(block.attn, _weights(q, k, attention, tower.grid, std), v)
        tokens = mixed
        if attention in ("mask", "sclip"):
            tokens = x + block.ls_1(mixed)
            tokens = tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
    features: Tensor = _projected(tower, tokens[:, 1:]).mT
    folded: Tensor = features.reshape(*features.shape[:2], *tower.grid)
    return folded


def _weights(q: Tensor, k: Tensor, attention: str, grid: tuple[int, int], std: float) -> Tensor:
    """Return the replaced attention (N, heads, T, T)."""
    if attention == "mask":
        return torch.eye(q.shape[2], device=q.device, dtype=q.dtype).expand(*q.shape[:3], -1)
    if attention == "clearclip":
        return probabilities(q, q)
    if attention == "sclip":
        return probabilities(q, q) + probabilities(k, k)
    near = torch.zeros(k.shape[2], k.shape[2], device=k.device, dtype=k.dtype)
    near[1:, 1:] = _neighbourhood(grid, std).to(near)
    found: Tensor = (k @ k.mT * k.shape[-1] ** -0.5 + near).softmax(-1)
    return found


def _neighbourhood(grid: tuple[int, int], std: float) -> Tensor:
    """Return exp(-distance^2 / (2 std^2)) between all patches of a grid, (h w, h w)."""
    rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.float32) for side in grid), indexing="ij")
    places = torch.stack((rows.flatten(), columns.flatten()), 1)
    return (-(places[:, None] - places).square().sum(2) / (2 * std**2)).exp()


def _gem(x: Tensor, blocks: list[Any]) -> Tensor:
    """Return the self-self stream (N, T, D) after ``blocks``."""
    stream = x
    for block in blocks:
        read = block.ln_1(x)
        q, k, v = query_key_value(block.attn, read)
        sharpness = read.norm(dim=-1).mean(-1).view(-1, 1, 1, 1) * v.shape[-1] ** -0.5
        found = [_self_self(part, v, sharpness) for part in (v, k, q)]
        mixed = sum(found[1:], found[0]) / 3
        stream = stream + block.ls_1(block.attn.out_proj(mixed.transpose(1, 2).flatten(2)))
        x = block(x)
    return stream


def _self_self(part: Tensor, v: Tensor, sharpness: Tensor) -> Tensor:
    """Return values mixed by a self-self attention, after one iteration on the part itself."""
    unit = F.normalize(part, dim=-1)
    unit = F.normalize((unit @ unit.mT * sharpness).softmax(-1) @ unit, dim=-1)
    return (unit @ unit.mT * sharpness).softmax(-1) @ v


def legrad_gradients(
    tower: Tower,
    images: Tensor,
    blocks: int,
    image_of: Tensor,
    score: Callable[[Tensor, Tensor], Tensor],
    batch_size: int,
) -> Tensor:
    """Return what LeGrad adds up (Bousselham et al. 2025): (P, B, h, w) for the last B ``blocks``.

    For each block, the score of the mean of its output tokens is differentiated with respect to the block's
    own attention; the positive part is averaged over heads and over the tokens that attend.

    Args:
        score: from features (m, d), not normalised, and pairs (m,) to scores (m,).
    """
    assert isinstance(tower, ViTTower)
    with torch.no_grad():
        x, last = _tokens_before(tower, images, blocks)
        inputs = []
        for block in last:
            inputs.append(x)
            x = block(x)
    out = torch.zeros(len(image_of), len(last), *tower.grid, device=images.device)
    for number, (block, entering) in enumerate(zip(last, inputs, strict=True)):
        for pair in _batches(len(image_of), batch_size, images.device):
            stream = entering[image_of[pair]].detach()
            with torch.enable_grad():
                q, k, v = query_key_value(block.attn, block.ln_1(stream))
                weights = probabilities(q, k).detach().requires_grad_()
                tokens = stream + block.ls_1(attend(block.attn, weights, v))
                tokens = tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
                total = score(_projected(tower, tokens.mean(1)).float(), pair).sum()
                (slope,) = torch.autograd.grad(total, weights)
            out[pair, number] = slope.float().relu().mean((1, 2))[:, 1:].reshape(len(pair), *tower.grid)
    return out


def class_token_gradients(
    tower: Tower,
    images: Tensor,
    single_head: bool,
    image_of: Tensor,
    score: Callable[[Tensor, Tensor], Tensor],
    batch_size: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what Grad-ECLIP multiplies (Zhao et al. 2024), of the last block.

    Args:
        single_head: whether the last block attends with one head of full width, as the authors' code does.
        score: as for :func:`legrad_gradients`.

    Returns:
        The gradient (P, D) of the score with respect to the attention's output at the class token, before
        its output projection; the values (N, D, h, w); and the cosine (N, h, w) of the class token's query
        and the patches' keys, both after the output projection.
    """
    assert isinstance(tower, ViTTower)
    with torch.no_grad():
        x, (block,) = _tokens_before(tower, images, 1)
        read = block.ln_1(x)
        q, k, v = F.linear(read, block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, dim=2)
        heads = 1 if single_head else block.attn.num_heads
        mixed = probabilities(heads_of(q, heads), heads_of(k, heads)) @ heads_of(v, heads)
        mixed = mixed.transpose(1, 2).flatten(2)
        query, key = block.attn.out_proj(q[:, :1]), block.attn.out_proj(k[:, 1:])
        cosine = (F.normalize(query, dim=-1) * F.normalize(key, dim=-1)).sum(-1)
    slopes = torch.zeros(len(image_of), x.shape[2], device=images.device)
    for pair in _batches(len(image_of), batch_size, images.device):
        image = image_of[pair]
        with torch.enable_grad():
            # Only the class token reaches the score.
            output = mixed[image, :1].detach().requires_grad_()
            token = x[image, :1] + block.ls_1(block.attn.out_proj(output))
            token = token + block.ls_2(block.mlp(block.ln_2(token)))
            (slope,) = torch.autograd.grad(score(_projected(tower, token[:, 0]).float(), pair).sum(), output)
        slopes[pair] = slope[:, 0].float()
    values = v[:, 1:].mT.reshape(len(x), -1, *tower.grid)
    return slopes, values.float(), cosine.reshape(len(cosine), *tower.grid).float()


def bottleneck_capacity(
    tower: Tower,
    images: Tensor,
    block: int,
    image_of: Tensor,
    text: Tensor,
    beta: float,
    steps: int,
    samples: int,
    seeds: Sequence[int],
) -> Tensor:
    """Return the information that M2IB lets through (Wang et al. 2023), summed over channels: (P, h, w).

    After a block, each entry x of each token is replaced by lambda x + (1 - lambda) noise, lambda the sigmoid
    of a parameter that starts at 5. Adam (learning rate 1) minimises beta times the mean Kullback-Leibler
    divergence to a standard normal minus the cosine of image and text; the divergence of the last step is
    the map.

    Args:
        block: after which block, negative from the last.
        text: (P, d), the embedding of each pair's text.
        samples: number of noisy copies per step.
        seeds: one per pair; the noise is drawn on the CPU.
    """
    assert isinstance(tower, ViTTower)
    count = len(tower.blocks)
    later = tower.blocks[block % count + 1 :]
    with torch.no_grad():
        entering, _ = _tokens_before(tower, images, len(later))
    maps = torch.zeros(len(image_of), *tower.grid, device=images.device)
    for pair, (image, seed) in enumerate(zip(image_of.tolist(), seeds, strict=True)):
        x = entering[image : image + 1].float()
        generator = torch.Generator().manual_seed(int(seed) % 2**63)
        with torch.enable_grad():
            alpha = torch.full_like(x, 5.0).requires_grad_()
            optimizer = torch.optim.Adam([alpha], lr=1.0)
            for _ in range(steps):
                optimizer.zero_grad()
                share = alpha.sigmoid()
                mean, variance = x * share, (1 - share) ** 2
                capacity = -0.5 * (1 + variance.log() - mean**2 - variance)
                noise = torch.empty(samples, *x.shape[1:]).normal_(generator=generator).to(x.device)
                tokens = mean + variance.sqrt() * noise
                for rest in later:
                    tokens = rest(tokens)
                features = _projected(tower, tokens[:, 0]).float()
                fit = F.cosine_similarity(features, text[pair : pair + 1], eps=1e-6).mean()
                torch.autograd.backward(beta * capacity.mean() - fit)
                optimizer.step()
        maps[pair] = capacity.detach()[0, 1:].nansum(-1).reshape(tower.grid)
    return maps
