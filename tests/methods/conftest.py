"""Evidence for the tests: from plain tensors with a linear scorer, and from small CLIPs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor

from decomcam_bench.core.errors import ModelError
from decomcam_bench.methods.base import Evidence
from decomcam_bench.models.clip import ClipModel, TextBank, text_scores
from decomcam_bench.models.toyclip import ToyClip

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
TINY = {
    "resnet": CLIPVisionCfg(layers=(1, 2, 1, 1), width=8, head_width=64, image_size=96),
    "vit": CLIPVisionCfg(layers=3, width=48, head_width=16, patch_size=16, image_size=96),
}


@dataclass
class Scorer:
    """A linear score of images and of activations, which counts what it is asked and keeps it."""

    image_weights: Tensor
    head_weights: Tensor
    largest: int = 0
    scored: int = 0
    headed: int = 0
    differentiated: int = 0
    images: list[Tensor] = field(default_factory=list)

    def score(self, images: Tensor, pair: Tensor) -> Tensor:
        self.scored += len(images)
        self.largest = max(self.largest, len(images))
        self.images.append(images.detach().clone())
        return (images.float() * self.image_weights.to(images.device)[pair]).flatten(1).sum(1) + 1

    def image_gradients(self, images: Tensor, pair: Tensor) -> Tensor:
        self.differentiated += len(images)
        self.largest = max(self.largest, len(images))
        return self.image_weights.to(images.device)[pair] * images.float().cos()

    def score_images(self, images: Tensor, image: Tensor) -> Tensor:
        self.scored += len(images)
        self.largest = max(self.largest, len(images))
        self.images.append(images.detach().clone())
        return images.float().flatten(1) @ self.image_weights.to(images.device).flatten(1).T + 1

    def head(self, activations: Tensor, pair: Tensor, beside: tuple[Tensor, Tensor] | None = None) -> Tensor:
        self.headed += len(activations)
        self.largest = max(self.largest, len(activations))
        weights = self.head_weights.to(activations.device)[pair]
        return (activations.float() * weights).flatten(1).sum(1).tanh() + 2


def plain_evidence(
    channels: int = 12,
    grid: tuple[int, int] = (5, 4),
    size: tuple[int, int] = (24, 20),
    images: int = 2,
    image_of: tuple[int, ...] = (0, 0, 1),
    batch_size: int = 7,
    seed: int = 0,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> tuple[Evidence, Scorer]:
    """Evidence of random tensors, activations like those behind a ReLU."""
    g = torch.Generator().manual_seed(seed)
    pairs = len(image_of)
    pictures = (torch.rand(images, 3, *size, generator=g) - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(
        3, 1, 1
    )
    activations = (torch.randn(images, channels, *grid, generator=g) + 0.3).relu()
    gradients = torch.randn(pairs, channels, *grid, generator=g)
    scorer = Scorer(
        torch.randn(pairs, 3, *size, generator=g) / 30, torch.randn(pairs, channels, *grid, generator=g) / 10
    )
    masks = torch.zeros(pairs, *size, dtype=torch.bool)
    masks[:, 3:9, 2:11] = True
    tokens = 1 + grid[0] * grid[1]
    attentions = torch.rand(pairs, 2, tokens, tokens, generator=g)
    features = (torch.randn(images, 6, generator=g), torch.randn(images, 6, *grid, generator=g))
    texts = torch.nn.functional.normalize(torch.randn(4, 6, generator=g), dim=1)
    own = torch.arange(pairs) % 4
    weights = torch.randn(images, 3, tokens, tokens, generator=g).softmax(-1)
    slopes = torch.randn(pairs, 2, *grid, generator=g).relu()
    at_token = torch.randn(pairs, 6, generator=g), torch.rand(images, *grid, generator=g)
    evidence = Evidence(
        images=pictures.to(device, dtype),
        image_of=torch.tensor(image_of, device=device),
        image_activations=activations.to(device, dtype),
        gradients_source=gradients.to(device),
        score=scorer.score,
        score_images=scorer.score_images,
        head=scorer.head,
        mean=MEAN,
        std=STD,
        seeds=list(range(100, 100 + pairs)),
        image_seeds=list(range(200, 200 + images)),
        object_masks=lambda: masks.to(device),
        extras={
            "attentions": lambda: attentions.to(device),
            "surgery_features": lambda blocks, values: tuple(x.to(device) for x in features),
            "attention_weights": lambda: (weights.to(device), grid),
            "dense_features": lambda attention, blocks, std: features[1].to(device),
            "legrad_gradients": lambda blocks: slopes.to(device),
            "class_token_gradients": lambda single: tuple(
                x.to(device) for x in (at_token[0], features[1], at_token[1])
            ),
            "image_gradients": scorer.image_gradients,
            "bottleneck_capacity": lambda block, beta, steps, samples, seeds: slopes[:, 0].to(device) + 0.1,
            "text_embeddings": lambda: texts.to(device),
            "empty_text": lambda: texts[-1].to(device),
            "class_ids": lambda: own.to(device),
        },
        batch_size=batch_size,
    )
    return evidence, scorer


def select(evidence: Evidence, pairs: list[int]) -> Evidence:
    """The evidence of some pairs, in that order."""
    chosen = torch.tensor(pairs, dtype=torch.int64, device=evidence.device)
    masks = evidence.object_masks()
    return Evidence(
        images=evidence.images,
        image_of=evidence.image_of[chosen],
        image_activations=evidence.image_activations,
        gradients_source=evidence.gradients[chosen],
        score=lambda images, pair: evidence.score(images, chosen[pair]),
        score_images=lambda images, image: evidence.score_images(images, image)[:, chosen],
        head=lambda activations, pair, *beside: evidence.head(activations, chosen[pair], *beside),
        mean=evidence.mean,
        std=evidence.std,
        image_seeds=evidence.image_seeds,
        seeds=[evidence.seeds[p] for p in pairs],
        object_masks=lambda: masks[chosen],
        extras={
            **evidence.extras,
            "attentions": lambda: evidence.extras["attentions"]()[chosen],
            "legrad_gradients": lambda blocks: evidence.extras["legrad_gradients"](blocks)[chosen],
            "class_token_gradients": lambda single: (
                evidence.extras["class_token_gradients"](single)[0][chosen],
                *evidence.extras["class_token_gradients"](single)[1:],
            ),
            "bottleneck_capacity": lambda *options: evidence.extras["bottleneck_capacity"](*options)[chosen],
            "image_gradients": lambda images, pair: evidence.extras["image_gradients"](images, chosen[pair]),
            "class_ids": lambda: evidence.extras["class_ids"]()[chosen],
        },
        batch_size=evidence.batch_size,
    )


@dataclass
class ClipCase:
    """A CLIP, a few pictures and texts, and evidence at any layer and score."""

    name: str
    model: ClipModel
    images: Tensor
    bank: TextBank
    image_of: Tensor
    class_ids: Tensor

    def evidence(self, layer: str, kind: str = "logits", batch_size: int = 32, slope: str | None = None) -> Evidence:
        canonical = self.model.tower.canonical(layer)
        state = self.model.backbone(self.images, [canonical]).states[canonical]
        text = self.bank.embeddings

        def score(images: Tensor, pair: Tensor) -> Tensor:
            scores = text_scores(self.model.embed(images, unit=False), self.bank, kind)
            return scores.gather(1, self.class_ids[pair, None])[:, 0]

        def score_images(images: Tensor, image: Tensor) -> Tensor:
            return text_scores(self.model.embed(images, unit=False), self.bank, kind)[:, self.class_ids]

        def head(activations: Tensor, pair: Tensor, beside: tuple[Tensor, Tensor] | None = None) -> Tensor:
            context = tuple(c[self.image_of[pair]] for c in state.context)
            features = self.model.head(canonical, activations, context, beside, unit=False)
            return text_scores(features, self.bank, kind).gather(1, self.class_ids[pair, None])[:, 0]

        return Evidence(
            images=self.images,
            image_of=self.image_of,
            image_activations=state.activations,
            gradients_source=lambda: self.model.gradients(
                canonical, state, self.image_of, self.class_ids, self.bank, slope or kind
            ),
            score=score,
            score_images=score_images,
            head=head,
            mean=self.model.mean,
            std=self.model.std,
            extras={
                "attentions": lambda: self.model.attentions(
                    canonical, state, self.image_of, self.class_ids, self.bank, kind, batch_size
                ),
                "surgery_features": lambda blocks, values: self.model.surgery_features(self.images, blocks, values),
                "text_embeddings": lambda: text,
                "empty_text": lambda: self.bank.empty,
                "class_ids": lambda: self.class_ids,
            },
            batch_size=batch_size,
        )


def _case(name: str, model: ClipModel) -> ClipCase:
    g = torch.Generator().manual_seed(5)
    side = model.input_size
    coarse = torch.rand(2, 3, 6, 6, generator=g)
    pictures = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1)
    bank = model.text_bank([["a house"], ["a cat"], ["a tree"]], empty=["a"])
    return ClipCase(
        name=name,
        model=model,
        images=model.prepare((pictures * 255).to(torch.uint8)),
        bank=bank,
        image_of=torch.tensor([0, 0, 1]),
        class_ids=torch.tensor([0, 1, 2]),
    )


def _tiny(tower: str) -> ClipModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        text = CLIPTextCfg(context_length=8, vocab_size=64, width=32, heads=2, layers=1)
        clip = CLIP(32, TINY[tower], text, init_logit_scale=math.log(100))
    clip.eval()
    torch.manual_seed(2)
    for module in clip.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            # The last norm of a block starts at zero, which would switch the block off.
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)

    def tokenizer(texts: list[str]) -> Tensor:
        rows = [[*(1 + sum(map(ord, word)) % 60 for word in text.split()[:6]), 63] for text in texts]
        return torch.tensor([row + [0] * (8 - len(row)) for row in rows])

    return ClipModel(clip, tokenizer, f"tiny-{tower}", 96, MEAN, STD)


@pytest.fixture(scope="session")
def clip_case() -> Callable[[str], ClipCase]:
    """A case by name: ``tiny`` (random weights) or ``toyclip`` (trained), ``double`` or ``double_toyclip`` (the same
    in double precision), then ``-resnet`` or ``-vit``."""
    made: dict[str, ClipCase] = {}

    def get(name: str) -> ClipCase:
        if name not in made:
            family, tower = name.split("-")
            if not family.endswith("toyclip"):
                made[name] = _case(name, _tiny(tower))
            else:
                try:
                    made[name] = _case(name, ToyClip(name=name, tower=tower).load("cpu", "fp32"))
                except ModelError as error:
                    pytest.skip(f"the trained {name} is not in the package: {error}")
            if family.startswith("double"):
                made[name].model.clip.visual.double()
                made[name].images = made[name].images.double()
        return made[name]

    return get


class PgcModel(torch.nn.Module):
    """A CLIP as the ``grad-cam`` package wants one: images to 100 cosine with each text."""

    def __init__(self, case: ClipCase) -> None:
        super().__init__()
        self.visual = case.model.clip.visual
        self.text = case.bank.embeddings

    def forward(self, images: Tensor) -> Tensor:
        return 100 * torch.nn.functional.normalize(self.visual(images).float(), dim=1) @ self.text.T


@pytest.fixture
def pgc_maps() -> Callable[..., np.ndarray]:
    """Maps (P, H, W) in [0, 1] of a class of the ``grad-cam`` package."""
    pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    def run(cam_class: type, case: ClipCase, layer: str, **options: object) -> np.ndarray:
        model = PgcModel(case)
        frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(True)
        visual = model.visual
        reshape = None
        if layer.startswith("block"):
            number, _, point = layer.removeprefix("block").partition(".")
            block = visual.transformer.resblocks[int(number)]
            target = block if point == "out" else getattr(block, point or "ln_1")
            rows, columns = visual.grid_size

            def reshape(tokens: Tensor) -> Tensor:
                return tokens[:, 1:].transpose(1, 2).unflatten(2, (rows, columns))

        else:
            name, _, position = layer.partition(".")
            target = getattr(visual, name)[int(position or -1)]
        try:
            cam = cam_class(model=model, target_layers=[target], reshape_transform=reshape, **options)
            targets = [ClassifierOutputTarget(int(c)) for c in case.class_ids]
            # The package reorders memory with view(), which needs contiguous activations.
            return cam(input_tensor=case.images[case.image_of].contiguous(), targets=targets)
        finally:
            for parameter in frozen:
                parameter.requires_grad_(False)

    return run


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    """Inputs and outputs of the official DecomCAM code, some of its cases."""
    file = Path(__file__).parents[1] / "data" / "decomcam_official.npz"
    with np.load(file) as arrays:
        return dict(arrays)
