"""The shipped toyclips: size, accuracy, tokenizer."""

import numpy as np
import pytest
import torch
from safetensors import safe_open

from decomcam_bench.config import registry
from decomcam_bench.datasets.toybox.scenes import CLASS_NAMES, draw_scene
from decomcam_bench.models.toyclip import CONTEXT_LENGTH, VISION, ToyTokenizer, shipped_weights

SHIPPED = {"resnet": "toyclip", "vit": "toyclip_vit"}
LEAST_RECALL = {"resnet": 0.98, "vit": 0.98}


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene("test", index) for index in range(100)]


@pytest.mark.parametrize("tower", sorted(VISION))
def test_recall_at_top_k_on_the_test_stream(tower, scenes):
    model = registry.build("model", registry.read("model", SHIPPED[tower])).load("cpu", "fp32")
    bank = model.text_bank([[f"a photo of a {name}."] for name in CLASS_NAMES])
    images = torch.from_numpy(np.stack([scene.image for scene in scenes]).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        similarity = torch.cat([model.backbone(model.prepare(part)).embeddings for part in images.split(25)])
    order = (similarity @ bank.embeddings.T).argsort(dim=1, descending=True)
    hits = present = 0
    for scene, ranked in zip(scenes, order.tolist(), strict=True):
        classes = {instance.class_id for instance in scene.instances}
        hits += len(classes & set(ranked[: len(classes)]))
        present += len(classes)
    assert hits / present >= LEAST_RECALL[tower]


@pytest.mark.parametrize("tower", sorted(VISION))
def test_weights_are_small_and_say_how_they_were_made(tower):
    file = shipped_weights(tower)
    assert file.stat().st_size <= 8_000_000
    with safe_open(file, "pt") as stream:
        card = stream.metadata()
    assert card["tower"] == tower
    assert float(card["recall_test_1000"]) >= LEAST_RECALL[tower]


def test_tokens_start_and_end_and_hash_unknown_words():
    tokenizer = ToyTokenizer()
    known, unknown, again = tokenizer(["a photo of a house", "Zebra!", "zebra"])
    assert known[0] == 1
    assert int(known.max()) == tokenizer.end == tokenizer.size - 1
    assert torch.equal(unknown, again)
    assert 2 + len(tokenizer.vocabulary) <= int(unknown[1]) < tokenizer.end
    (cut,) = tokenizer(["word " * 50])
    assert len(cut) == CONTEXT_LENGTH
    assert int(cut[-1]) == tokenizer.end
