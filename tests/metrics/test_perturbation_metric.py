"""Positive and negative perturbation: against the reference's loop written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from decomcam_bench.core.errors import ConfigError
from decomcam_bench.metrics.perturbation import Perturbation
from tests.metrics.conftest import Counting, batch


def test_equal_to_the_reference_with_the_point_at_0() -> None:
    random = torch.Generator().manual_seed(0)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    scale, shift = torch.tensor(std).view(1, 3, 1, 1), torch.tensor(mean).view(1, 3, 1, 1)
    pixels, maps = torch.rand(3, 3, 7, 9, generator=random), torch.rand(3, 7, 9, generator=random)
    model = Counting(torch.randn(4, 3, 7, 9, generator=random) / 1500)
    images = (pixels - shift) / scale
    outcomes = Perturbation().evaluate_batch(batch(maps, images, model, [1, 0, 3], mean=mean, std=std, batch_size=2))
    assert model.scored == 3 * Perturbation().scored_per_pair((7, 9))
    for place, own in enumerate([1, 0, 3]):
        for name, sign in (("positive", 1), ("negative", -1)):
            probabilities, right = [], []
            for share in np.arange(10) / 10:
                data = pixels[place : place + 1].clone().reshape(1, 3, -1)
                _, index = torch.topk(sign * maps[place].flatten(), int(63 * share), dim=-1)
                data[:, :, index] = 0
                logits = 100 * model((data.view(1, 3, 7, 9) - shift) / scale, torch.zeros(1))
                probabilities.append(float(logits.softmax(dim=1)[0, own]))
                right.append(float(logits.argmax() == own))
            area = [(sum(v) - v[0] / 2 - v[-1] / 2) / 9 for v in (probabilities, right)]
            found = [outcomes[place][name], outcomes[place][f"{name}_accuracy"]]
            assert found == pytest.approx(area, abs=1e-5)


def test_a_pair_without_a_map_is_scored_as_zeros() -> None:
    random = torch.Generator().manual_seed(1)
    images, model = torch.randn(1, 3, 8, 8, generator=random), Counting(torch.randn(2, 3, 8, 8, generator=random) / 99)
    failed = torch.tensor([True, False])
    outcomes = Perturbation().evaluate_batch(
        batch(torch.zeros(2, 8, 8), images.expand(2, -1, -1, -1), model, [0, 0], valid=~failed, failed=failed)
    )
    assert outcomes[0].reason == "no_map"
    assert outcomes[0].values["positive"] == outcomes[1]["positive"] == pytest.approx(outcomes[1]["negative"])
    with pytest.raises(ConfigError, match="steps=0"):
        Perturbation(steps=0)
