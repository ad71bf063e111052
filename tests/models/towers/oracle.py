"""What every tower is held to: the model's own forward pass, and autograd through the unsplit model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from decomcam_bench.models.towers import Tower


def shaken(module: nn.Module, seed: int = 0) -> nn.Module:
    """Return the module with noise on every parameter, so that no layer scale, bias or norm is trivial."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in module.named_buffers():
            if name.endswith("running_var"):
                buffer.mul_(1.5)
            elif name.endswith("running_mean"):
                buffer.add_(0.05)
    return module.eval().requires_grad_(False)


def check_split(tower: Tower, visual: nn.Module, images: Tensor, layers: Sequence[str]) -> None:
    """Assert that the head resumes at each layer with the features of the whole model, batch and single alike."""
    with torch.no_grad():
        expected = visual(images)
        expected = expected[0] if isinstance(expected, tuple) else expected
        features, states = tower.forward(images, layers)
        torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)
        assert set(states) == set(layers)
        for layer in layers:
            state = states[layer]
            again = tower.head(layer, state.activations, state.context)
            torch.testing.assert_close(again, expected, atol=1e-5, rtol=1e-5, msg=layer)
            one = tower.head(layer, state.activations[1:2], tuple(part[1:2] for part in state.context))
            torch.testing.assert_close(one, expected[1:2], atol=1e-5, rtol=1e-5, msg=layer)


def check_gradients(
    tower: Tower,
    visual: nn.Module,
    images: Tensor,
    hooked: dict[str, nn.Module],
    as_map: Callable[[Tensor], Tensor] = lambda x: x,
) -> None:
    """Assert that gradients through the head equal autograd through the unsplit model at hooked modules.

    Args:
        hooked: by layer, the module whose output it is.
        as_map: from that output's gradient to (N, C, h, w).
    """
    for layer, module in hooked.items():
        kept: list[Tensor] = []
        handle = module.register_forward_hook(lambda m, i, o, kept=kept: kept.append(o.requires_grad_()) or o)
        try:
            features = visual(images)
        finally:
            handle.remove()
        features = features[0] if isinstance(features, tuple) else features
        weights = torch.linspace(-1, 1, features.shape[1])
        (expected,) = torch.autograd.grad((torch.nn.functional.normalize(features) * weights).sum(), kept[0])
        with torch.no_grad():
            _, states = tower.forward(images, [layer])
        state = states[layer]
        activations = state.activations.detach().requires_grad_()
        found = tower.head(layer, activations, state.context)
        (gradient,) = torch.autograd.grad((torch.nn.functional.normalize(found) * weights).sum(), activations)
        expected = as_map(expected)
        assert float(expected.abs().max()) > 0, layer
        scale = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5 * scale, msg=layer)
