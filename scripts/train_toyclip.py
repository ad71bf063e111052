#!/usr/bin/env python
"""Trains toyclip on toybox's train stream and writes its weights as safetensors.

    python scripts/train_toyclip.py --tower resnet
    python scripts/train_toyclip.py --tower vit --precision fp32 --teacher RESNET_WEIGHTS

Seeded and resumable: a checkpoint lies beside the cached scenes, and the same command continues
from it. The loss is CLIP's softmax over texts at a fixed scale of 100, with every class that the
scene shows as a positive, and the same over phrases that name a part. Words outside the vocabulary
are negatives, so that an unknown word looks like nothing. Both towers learn the same from their
uniformly pooled image too: without that, places that attention ignores project onto the classes at
random, and maps of the last layer show them.

With ``--teacher FILE``, a trained ResNet, a tower also learns what the teacher makes of the same
picture: the softmax over all texts of the image, and that of every place of the teacher's last layer
(of a ViT the patches are averaged over the teacher's grid).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from decomcam_bench.datasets.toybox.scenes import CLASS_NAMES, OBJECTS, SCENE_VERSION, draw_scene
from decomcam_bench.models.toyclip import IMAGE_SIZE, MEAN, STD, TEMPLATES, ToyTokenizer, build_toyclip

LOGIT_SCALE = 100.0
STEPS = {"resnet": 2400, "vit": 3500}
#: Weight of the loss of uniformly pooled images.
UNIFORM = {"resnet": 1.0, "vit": 0.5}
#: What cosines are multiplied with before the teacher's and the learner's softmax are compared.
TEACHER_SCALE = 20.0
PHRASES = tuple((class_id, part.name) for class_id, drawing in enumerate(OBJECTS) for part in drawing.parts)


def _scene(split: str, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One scene as an image, a class vector and a part-phrase vector."""
    scene = draw_scene(split, index, IMAGE_SIZE)
    classes = np.zeros(len(CLASS_NAMES), dtype=bool)
    phrases = np.zeros(len(PHRASES), dtype=bool)
    for instance in scene.instances:
        classes[instance.class_id] = True
        for name in instance.parts:
            phrases[PHRASES.index((instance.class_id, name))] = True
    return scene.image, classes, phrases


def load_scenes(split: str, count: int, cache: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draws the first ``count`` scenes of a split, or reads them from the cache."""
    file = cache / f"{split}_v{SCENE_VERSION}_{count}.npz"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            drawn = pool.map(partial(_scene, split), range(count), chunksize=16)
            images, classes, phrases = zip(*tqdm(drawn, total=count, desc=f"draw {split}"), strict=True)
        temporary = file.with_suffix(".tmp.npz")
        np.savez(temporary, images=np.stack(images), classes=np.stack(classes), phrases=np.stack(phrases))
        temporary.replace(file)
    with np.load(file) as data:
        images = torch.from_numpy(data["images"]).permute(0, 3, 1, 2)
        return images, torch.from_numpy(data["classes"]), torch.from_numpy(data["phrases"])


def normalise(images: torch.Tensor) -> torch.Tensor:
    mean = torch.tensor(MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(STD, device=images.device).view(1, 3, 1, 1)
    return ((images.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Random flip, zoom and shift (one affine resampling), brightness and colour balance."""
    count = len(images)
    zoom = 0.80 + 0.35 * torch.rand(count, generator=generator)
    flip = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    shift = (torch.rand(count, 2, generator=generator) - 0.5) * 0.25
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = zoom * flip, zoom
    theta[:, :, 2] = shift
    grid = F.affine_grid(theta, [count, 3, IMAGE_SIZE, IMAGE_SIZE], align_corners=False)
    images = F.grid_sample(images, grid.to(images.device), padding_mode="reflection", align_corners=False)
    gain = 1.0 + 0.2 * (torch.rand(count, 3, 1, 1, generator=generator) - 0.5)
    offset = 0.4 * (torch.rand(count, 1, 1, 1, generator=generator) - 0.5)
    return images * gain.to(images.device) + offset.to(images.device)


def multi_positive_loss(similarity: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
    """Cross entropy of softmax(100 cosine) against equal weight on each positive text.

    Positives do not compete with each other: each is contrasted with the negatives alone.
    """
    logits = LOGIT_SCALE * similarity
    padded = F.pad(positive, (0, logits.shape[1] - positive.shape[1]))
    negatives = logits.masked_fill(padded, -torch.inf).logsumexp(dim=1, keepdim=True)
    loss = F.softplus(negatives - logits)[:, : positive.shape[1]]
    return (loss * positive).sum() / positive.sum()


class Learner:
    """A model with what it sees of images: one feature an image, and one for each place of its last layer."""

    def __init__(self, model: torch.nn.Module, tower: str) -> None:
        self.model = model
        self._states: list[torch.Tensor] = []
        last = model.visual.layer4 if tower == "resnet" else model.visual.ln_post
        last.register_forward_hook(lambda module, inputs, output: self._states.append(output))

    def features(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, D), and (N, D, h, w): what the tower gives if it attends to one place alone.

        The mean over places is the feature of the uniformly pooled image.
        """
        self._states.clear()
        whole = self.model.encode_image(images)
        return whole, self._places(self._states[0])

    def _places(self, states: torch.Tensor) -> torch.Tensor:
        """Of (N, C, h, w) before a ResNet's attention pooling, or a ViT's normalised tokens (N, 1 + P, C)."""
        visual = self.model.visual
        if states.ndim == 3:
            side = math.isqrt(states.shape[1] - 1)
            return (states[:, 1:] @ visual.proj).mT.unflatten(2, (side, side))
        pool = visual.attnpool
        places = pool.c_proj(pool.v_proj(states.flatten(2).mT + pool.positional_embedding[1:]))
        return places.mT.unflatten(2, states.shape[2:])


def load_learner(file: str, tower: str, device: str) -> Learner:
    """A trained model that learns no more."""
    model = build_toyclip(tower)
    model.load_state_dict({name: value.float() for name, value in load_file(file).items()})
    return Learner(model.to(device, memory_format=torch.channels_last).requires_grad_(False), tower)


def similarities(features: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Cosines of features (N, D, ...) with texts (D, T): (N, T, ...)."""
    return torch.einsum("nd...,dt->nt...", F.normalize(features.float(), dim=1), text)


def teacher_loss(features: torch.Tensor, text: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of the softmax over texts from the teacher's, mean over images and places.

    Args:
        features: (N, D), or (N, D, h, w), which is averaged over the teacher's grid.
        text: (D, T), unit length.
        teacher: its similarities, (N, T) or (N, T, h', w').
    """
    if features.ndim == 4:
        features = F.adaptive_avg_pool2d(features, teacher.shape[2:])
    ours = (TEACHER_SCALE * similarities(features, text)).log_softmax(1)
    theirs = (TEACHER_SCALE * teacher).log_softmax(1)
    return F.kl_div(ours, theirs, reduction="none", log_target=True).sum(1).mean()


def recall_at_present(model: torch.nn.Module, images: torch.Tensor, classes: torch.Tensor, device: str) -> float:
    """Zero-shot recall at top k, k the number of classes present, with 'a photo of a {}.'."""
    model.eval()
    tokenizer = ToyTokenizer()
    with torch.inference_mode():
        texts = tokenizer(f"a photo of a {name}." for name in CLASS_NAMES).to(device)
        text = model.encode_text(texts, normalize=True)
        image = torch.cat(
            [model.encode_image(normalise(batch.to(device)), normalize=True) for batch in images.split(250)]
        )
        order = (image @ text.T).argsort(dim=1, descending=True, stable=True).cpu()
    present = classes.sum(dim=1)
    ranks = torch.zeros_like(order).scatter_(1, order, torch.arange(order.shape[1]).expand_as(order))
    hits = (classes & (ranks < present[:, None])).sum()
    return float(hits / present.sum())


def draw_texts(rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Class prompts followed by unknown words, and part phrases, in fresh wordings."""

    def template() -> str:
        return TEMPLATES[rng.integers(len(TEMPLATES))]

    def unknown() -> str:
        return "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), size=6))

    texts = [template().format(name) for name in CLASS_NAMES]
    texts += [template().format(unknown()) for _ in range(6)]
    phrases = []
    for class_id, part in PHRASES:
        name = CLASS_NAMES[class_id]
        phrases.append(template().format(f"{part} of a {name}" if rng.random() < 0.6 else f"{name} {part}"))
    return texts, phrases


def train(arguments: argparse.Namespace) -> None:
    torch.manual_seed(arguments.seed)
    cache, device = Path(arguments.cache), arguments.device
    checkpoint = cache / f"checkpoint_{arguments.tower}_{arguments.steps}_{arguments.seed}.pt"
    images, classes, phrases = load_scenes("train", arguments.scenes, cache)
    validation = load_scenes("val", 1000, cache)

    model = build_toyclip(arguments.tower, arguments.seed)
    teacher = load_learner(arguments.teacher, "resnet", device) if arguments.teacher else None
    model = model.to(device, memory_format=torch.channels_last)
    model.logit_scale.data.fill_(math.log(LOGIT_SCALE))
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for n, p in model.named_parameters() if p.ndim < 2 and n != "logit_scale"]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": arguments.decay}, {"params": plain, "weight_decay": 0.0}],
        lr=arguments.lr,
        betas=(0.9, 0.98),
    )
    warmup = max(1, min(300, arguments.steps // 10))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / arguments.steps)) + 0.005),
    )
    start = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        start = state["step"]
        print(f"resumed at step {start} from {checkpoint}")

    weight = UNIFORM[arguments.tower] if arguments.uniform is None else arguments.uniform
    learner = Learner(model, arguments.tower)
    tokenizer = ToyTokenizer()
    began, total = time.monotonic(), 0.0
    progress = tqdm(range(start, arguments.steps), initial=start, total=arguments.steps, mininterval=5)
    for step in progress:
        model.train()
        rng = np.random.default_rng([arguments.seed, step])
        generator = torch.Generator().manual_seed(arguments.seed * 1_000_003 + step)
        pick = torch.from_numpy(rng.integers(len(images), size=arguments.batch))
        batch = augment(normalise(images[pick].to(device)), generator)
        class_texts, part_texts = draw_texts(rng)
        tokens = tokenizer(class_texts + part_texts).to(device)
        batch = batch.contiguous(memory_format=torch.channels_last)
        with (  # on CPUs with bfloat16 units twice as fast; the fused attention's backward pass is not
            torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=arguments.precision == "bf16"),
            sdpa_kernel(SDPBackend.MATH),
        ):
            text = model.encode_text(tokens)
            seen = learner.features(batch)
        text, split, loss = F.normalize(text.float(), dim=-1).T, len(class_texts), torch.zeros((), device=device)
        if teacher:
            with torch.no_grad():
                known_text = teacher.model.encode_text(tokens, normalize=True).T
                known = [similarities(features, known_text) for features in teacher.features(batch)]
            for features, similarity in zip(seen, known, strict=True):
                loss = loss + teacher_loss(features, text, similarity)
        for share, image in ((1.0, seen[0]), (weight, seen[1].mean(dim=(2, 3)))):
            similarity = similarities(image, text)
            loss = loss + share * multi_positive_loss(similarity[:, :split], classes[pick].to(device))
            loss = loss + share * 0.3 * multi_positive_loss(similarity[:, split:], phrases[pick].to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        total = 0.98 * total + 0.02 * float(loss.detach())
        if (step + 1) % 250 == 0 or step + 1 == arguments.steps:
            recall = recall_at_present(model, validation[0][:300], validation[1][:300], device)
            progress.write(f"step {step + 1}: loss {total:.3f}, recall on 300 validation scenes {recall:.3f}")
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "step": step + 1,
            }
            torch.save(state, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)

    half = {
        name: value.half().contiguous() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    model.load_state_dict(half)
    test = load_scenes("test", 1000, cache)
    card = {
        "tower": arguments.tower,
        "steps": arguments.steps,
        "batch": arguments.batch,
        "lr": arguments.lr,
        "decay": arguments.decay,
        "seed": arguments.seed,
        "precision": arguments.precision,
        "uniform": weight,
        "teacher": Path(arguments.teacher).name if arguments.teacher else "none",
        "scenes": arguments.scenes,
        "scene_version": SCENE_VERSION,
        "minutes_of_last_session": round((time.monotonic() - began) / 60, 1),
        "recall_val_1000": recall_at_present(model, validation[0], validation[1], device),
        "recall_test_1000": recall_at_present(model, test[0], test[1], device),
    }
    out = Path(arguments.out) / f"toyclip_{arguments.tower}.safetensors"
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file({n: v.cpu().contiguous() for n, v in half.items()}, out, metadata={n: str(v) for n, v in card.items()})
    print(json.dumps(card, indent=2))
    print(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tower", choices=("resnet", "vit"), default="resnet")
    parser.add_argument("--steps", type=int, help=f"default: {STEPS}")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--decay", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="of the matrix products")
    parser.add_argument("--scenes", type=int, default=24000, help="scenes of the train stream to draw")
    parser.add_argument("--uniform", type=float, help=f"weight of the loss of uniformly pooled images: {UNIFORM}")
    parser.add_argument("--teacher", metavar="FILE", help="weights of a ResNet to learn from")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--cache", default=".cache/toyclip", help="drawn scenes and checkpoints")
    parser.add_argument("--out", default="decomcam_bench/models/weights")
    arguments = parser.parse_args()
    arguments.steps = arguments.steps or STEPS[arguments.tower]
    train(arguments)


if __name__ == "__main__":
    main()
