"""Run the originals on the subjects of the parity tests and store what they return.

    python -m tests.parity.golden NAME --checkout FOLDER

``FOLDER`` holds the original's source at the commit that ``tests/data/parity/README.md`` names. Originals
are run as they are, on the CPU; imports that they do not need here are replaced by empty modules.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import random
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.parity import subjects
from tests.parity.subjects import DATA, MEAN, SIDE, STD, TEXT_OF


def photographs(_: Path) -> dict[str, Any]:
    """Store four photographs of scikit-image, all public domain or CC0."""
    from skimage import data
    from skimage.transform import resize

    names = ("astronaut", "coffee", "chelsea", "rocket")
    small = [resize(getattr(data, name)(), (SIDE, SIDE), anti_aliasing=True) for name in names]
    return {"photographs": np.stack([np.round(255 * image) for image in small]).astype(np.uint8)}


def stub(*names: str, **attributes: Any) -> None:
    """Put empty modules in the place of imports that an original does not need here."""
    for name in names:
        module = types.ModuleType(name)
        for key, value in attributes.items():
            setattr(module, key, value)
        sys.modules[name] = module


class Logits(nn.Module):
    """A CLIP as a classifier: images to 100 cosine with each text."""

    def __init__(self, tower: str) -> None:
        super().__init__()
        self.visual = subjects.clip(tower).visual
        self.text = subjects.texts()[0]

    def forward(self, images: Tensor) -> Tensor:
        return 100 * F.normalize(self.visual(images), dim=1) @ self.text.T


def on_the_cpu() -> mock._patch[Any]:
    """Make ``.cuda()`` do nothing, for originals that call it whatever there is."""
    mock.patch.object(nn.Module, "cuda", lambda self, *_: self).start()
    return mock.patch.object(Tensor, "cuda", lambda self, *_, **__: self)


def groupcam(checkout: Path) -> dict[str, Any]:
    sys.path.insert(0, str(checkout))
    module = importlib.import_module("cam.groupcam")
    out = {}
    images = subjects.normalised(subjects.photographs())
    for layer in ("layer3", "layer4"):
        for groups in (32, 5):
            with on_the_cpu():
                cam = module.GroupCAM(Logits("resnet"), f"visual.{layer}", groups)
                maps = [cam(image[None], class_idx=text) for image, text in zip(images, TEXT_OF, strict=True)]
            found = [np.zeros((SIDE, SIDE)) if m is None else m.detach().numpy()[0, 0] for m in maps]
            out[f"{layer}/{groups}"] = np.stack(found)
    return out


def decomcam2023(checkout: Path) -> dict[str, Any]:
    import scipy.ndimage
    from sklearn.decomposition import _pca
    from torchvision.transforms import Compose, Normalize, ToTensor

    sys.path.insert(0, str(checkout / "src"))
    stub("clip", "cv2", "utils.translate_tools")
    stub("scipy.ndimage.filters", gaussian_filter=scipy.ndimage.gaussian_filter)
    scipy.ndimage.filters = sys.modules["scipy.ndimage.filters"]  # type: ignore[attr-defined]
    preprocess = Compose([ToTensor(), Normalize(MEAN, STD)])
    images = subjects.photographs()
    out = {}
    # scikit-learn before 1.5, which the code ran on, decides signs by position.
    flip = _pca.svd_flip
    with mock.patch.object(_pca, "svd_flip", lambda u, v, **_: flip(u, v, u_based_decision=True)):
        for name, module, cls in (("v1", "decom_cam", "DecomCAM"), ("pp", "decom_cam_pp", "DecomCAM_PP")):
            visual = subjects.clip("resnet").visual
            cam_class = getattr(importlib.import_module(f"cam.{module}"), cls)
            for layer in ("layer3", "layer4"):
                # Centring leaves 8 components of the 3 x 3 positions of layer4.
                cam = cam_class(visual, preprocess, getattr(visual, layer), "Decom-CAM", n_components=8)
                maps = []
                for image, text in zip(images, TEXT_OF, strict=True):
                    target = subjects.texts()[0][text : text + 1]
                    result = cam.get_attn_maps(subjects.normalised(image[None]), target, image / np.float32(255))
                    maps.append(result["attn_map"])
                out[f"{name}/{layer}"] = np.stack(maps)
    return out


def decomcam_fork(checkout: Path) -> dict[str, Any]:
    import scipy.ndimage
    from sklearn.decomposition import _pca

    sys.path.insert(0, str(checkout))
    stub("clip", tokenize=lambda _: torch.zeros(1, 1))
    stub("ttach", Compose=list, HorizontalFlip=lambda: None, Multiply=lambda factors: None)
    stub("scipy.ndimage.filters", gaussian_filter=scipy.ndimage.gaussian_filter)
    scipy.ndimage.filters = sys.modules["scipy.ndimage.filters"]  # type: ignore[attr-defined]
    module = importlib.import_module("pytorch_grad_cam.decom_cam")
    targets = importlib.import_module("pytorch_grad_cam.utils.model_targets")
    embeddings = subjects.texts()[0]
    out = {}
    flip = _pca.svd_flip
    with mock.patch.object(_pca, "svd_flip", lambda u, v, **_: flip(u, v, u_based_decision=True)):
        for layer in ("layer3", "layer4"):
            maps = []
            for image, text in zip(subjects.normalised(subjects.photographs()), TEXT_OF, strict=True):
                model = subjects.clip("resnet")
                own = embeddings[text : text + 1]
                model.encode_text = lambda _, own=own: own
                cam = module.DecomCAM(model, [getattr(model.visual, layer)[-1]], n_components=8)
                # The fork overwrites the category of its target by the text's embedding.
                maps.append(cam(input_tensor=image[None], targets=[targets.ClassifierOutputTarget("a text")])[0])
            out[layer] = np.stack(maps)
    return out


def rise(checkout: Path) -> dict[str, Any]:
    sys.path.insert(0, str(checkout))
    module = importlib.import_module("explanations")
    out = {}
    images = subjects.normalised(subjects.photographs())
    for grid, size in ((7, (SIDE, SIDE)), (5, (31, 44))):
        drawn: dict[str, list[Any]] = {"grids": [], "shifts": []}
        np.random.seed(grid)
        rand, randint = np.random.rand, np.random.randint

        def kept_rand(*shape: int, rand: Any = rand, drawn: Any = drawn) -> Any:
            drawn["grids"] = rand(*shape)
            return drawn["grids"]

        def kept_randint(*bounds: float, randint: Any = randint, drawn: Any = drawn) -> Any:
            drawn["shifts"].append(randint(*bounds))
            return drawn["shifts"][-1]

        explainer = module.RISE(nn.Sequential(Logits("resnet"), nn.Softmax(1)), size)
        with (
            on_the_cpu(),
            mock.patch.object(np.random, "rand", kept_rand),
            mock.patch.object(np.random, "randint", kept_randint),
            mock.patch.object(np, "save"),
        ):
            explainer.generate_masks(24, grid, 0.4)
        out[f"{grid}/grids"] = drawn["grids"] < 0.4
        out[f"{grid}/shifts"] = np.array(drawn["shifts"]).reshape(-1, 2)
        out[f"{grid}/masks"] = explainer.masks[:4, 0].numpy()
        if size == (SIDE, SIDE):
            with torch.no_grad():
                maps = [explainer(image[None])[text] for image, text in zip(images, TEXT_OF, strict=True)]
            out["saliency"] = torch.stack(maps).numpy()
    return out


def clip_surgery(checkout: Path) -> dict[str, Any]:
    stub("ftfy", fix_text=str)
    sys.path.insert(0, str(checkout))
    model = importlib.import_module("clip.clip_surgery_model")
    functions = importlib.import_module("clip.clip")
    images = subjects.normalised(subjects.photographs())
    embeddings, empty = subjects.texts()
    out = {}
    for tower in ("vit", "resnet"):
        if tower == "vit":
            visual = model.VisionTransformer(SIDE, 16, 32, 7, 4, subjects.DIM)
        else:
            visual = model.ModifiedResNet((1, 1, 1, 1), subjects.DIM, 4, SIDE, 4)
        visual.load_state_dict(subjects.clip(tower).visual.state_dict())
        visual.eval()
        with torch.no_grad():
            tokens = visual(images)
            unit = tokens / tokens.norm(dim=-1, keepdim=True)
            old = tokens / tokens.norm(dim=1, keepdim=True)
            for name, features in (("d4696d4", unit), ("e346359", old)):
                # The function broadcasts the weights of one image alone.
                maps = [functions.clip_feature_surgery(image[None], embeddings)[0, 1:] for image in features]
                out[f"{tower}/{name}"] = torch.stack(maps)
            single = functions.clip_feature_surgery(unit, embeddings[:1], empty[None])
            out[f"{tower}/single"] = single[:, 1:]
    return {name: value.numpy() for name, value in out.items()}


def package(name: str, folder: Path) -> None:
    """Make a folder importable under a name of its own, without running its ``__init__``."""
    module = types.ModuleType(name)
    module.__path__ = [str(folder)]
    sys.modules[name] = module


def functions_of(file: Path, names: tuple[str, ...], scope: dict[str, Any]) -> dict[str, Any]:
    """Define some functions of a script that loads models when it is imported."""
    tree = ast.parse(file.read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    exec(compile(tree, str(file), "exec"), scope)
    return scope


def tokens_first(visual: Any) -> Any:
    """Run the blocks of an open_clip ViT on (T, N, D), as open_clip before 2.24 did."""
    visual.transformer.forward = lambda x, **_: [x := block(x) for block in visual.transformer.resblocks][-1]
    for block in visual.transformer.resblocks:
        block.attn.batch_first = False
    return visual


def dense(checkout: Path) -> dict[str, Any]:
    """Patch features of SCLIP, ClearCLIP or NACLIP, whichever the checkout holds: cosines with all texts."""
    images, embeddings = subjects.normalised(subjects.photographs()), subjects.texts()[0]
    state = subjects.clip("vit").visual.state_dict()
    found = {}
    if (checkout / "open_clip").is_dir():
        package("clearclip", checkout / "open_clip")
        module = importlib.import_module("clearclip.transformer")
        visual = module.VisionTransformer(
            SIDE, 16, 32, 7, 4, 4.0, output_dim=subjects.DIM, act_layer=module.QuickGELU, output_tokens=False
        )
        visual.load_state_dict(state)
        with torch.no_grad():
            found["clearclip"] = visual.eval()(images, "ClearCLIP", True)
    else:
        package("original", checkout / "clip")
        visual = importlib.import_module("original.model").VisionTransformer(SIDE, 16, 32, 7, 4, subjects.DIM)
        visual.load_state_dict(state)
        name = "sclip"
        if hasattr(visual, "set_params"):
            visual.set_params("reduced", "naclip", 5.0)
            name = "naclip"
        with torch.no_grad():
            found[name] = visual.eval()(images, return_all=True)
            if found[name].shape[1] == images.shape[0]:
                found[name] = found[name].transpose(0, 1)
    with np.load(DATA / "dense.npz") if (DATA / "dense.npz").exists() else contextlib.nullcontext({}) as known:
        out = dict(known)
    for name, features in found.items():
        out[name] = (F.normalize(features[:, -36:], dim=-1) @ embeddings.T).numpy()
    return out


def gem(checkout: Path) -> dict[str, Any]:
    sys.path.insert(0, str(checkout))
    stub("gem.gem", "cv2")
    package("gem", checkout / "gem")
    module = importlib.import_module("gem.gem_wrapper")
    images, embeddings = subjects.normalised(subjects.photographs()), subjects.texts()[0]
    model = subjects.clip("vit")
    tokens_first(model.visual)
    wrapper = module.GEMWrapper(model, None)
    wrapper.encode_text = lambda _: embeddings[None]
    with torch.no_grad():
        maps = torch.cat([wrapper(image[None], []) for image in images])
    return {"maps": torch.stack([maps[n, text] for n, text in enumerate(TEXT_OF)]).numpy()}


def legrad(checkout: Path) -> dict[str, Any]:
    stub("cv2")
    package("legrad", checkout / "legrad")
    module = importlib.import_module("legrad.wrapper")
    images, embeddings = subjects.normalised(subjects.photographs()), subjects.texts()[0]
    model = subjects.clip("vit")
    wrapper = module.LeWrapper(model)
    tokens_first(model.visual)
    maps = [
        wrapper.compute_legrad(embeddings[text : text + 1], image[None])[0, 0]
        for image, text in zip(images, TEXT_OF, strict=True)
    ]
    return {"maps": torch.stack(maps).detach().numpy()}


def grad_eclip(checkout: Path) -> dict[str, Any]:
    visual = importlib.import_module("clip.model").VisionTransformer(SIDE, 16, 32, 7, 4, subjects.DIM)
    visual.load_state_dict(subjects.clip("vit").visual.state_dict())
    model = types.SimpleNamespace(visual=visual.eval().requires_grad_(False))
    scope = functions_of(
        checkout / "generate_emap.py",
        ("attention_layer", "clip_encode_dense", "grad_eclip", "mask_clip", "compute_rollout_attention"),
        {"torch": torch, "F": F, "clipmodel": model, "device": "cpu"},
    )
    out: dict[str, list[Tensor]] = {"with": [], "without": [], "mask": []}
    embeddings = subjects.texts()[0]
    with mock.patch.object(Tensor, "half", lambda self: self):
        for image, text in zip(subjects.normalised(subjects.photographs()), TEXT_OF, strict=True):
            with torch.enable_grad():
                pixels = image[None].clone().requires_grad_()
                features, v_final, _, v, q_out, k_out, _, output, size = scope["clip_encode_dense"](pixels)
                score = F.normalize(features[:, 0], dim=-1)[0] @ embeddings[text]
            out["with"].append(scope["grad_eclip"](score, q_out, k_out, v, output, size, True))
            out["without"].append(scope["grad_eclip"](score, q_out, k_out, v, output, size, False))
            out["mask"].append((F.normalize(v_final[0], dim=-1) @ embeddings[text]).detach().reshape(size))
        weights = _attentions(visual, subjects.normalised(subjects.photographs()))
        out["rollout"] = list(scope["compute_rollout_attention"](weights))
    return {name: torch.stack(maps).numpy() for name, maps in out.items()}


def _attentions(visual: Any, images: Tensor) -> list[Tensor]:
    """Head-averaged attention of each block, by torch's own attention module."""
    found: list[Tensor] = []
    for block in visual.transformer.resblocks:
        block.attn.register_forward_pre_hook(
            lambda module, inputs, kwargs: (inputs, {**kwargs, "need_weights": True}), with_kwargs=True
        )
        block.attn.register_forward_hook(lambda module, inputs, output: found.append(output[1]))
    with torch.no_grad():
        visual(images)
    return found


class Bottlenecked(nn.Module):
    """A ViT whose blocks may return tuples, and a text tower that returns its input, as M2IB wants a CLIP."""

    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.vision_model = visual.transformer
        self.visual = [visual]

    def get_text_features(self, text: Tensor) -> Tensor:
        return text

    def get_image_features(self, images: Tensor) -> Tensor:
        (visual,) = self.visual
        x = visual._embeds(images)
        for block in self.vision_model.resblocks:
            x = block(x)
            x = x[0] if isinstance(x, tuple) else x
        return visual.ln_post(x[:, 0]) @ visual.proj


def m2ib(checkout: Path) -> dict[str, Any]:
    stub("clip", "matplotlib", "matplotlib.pyplot")
    sys.path.insert(0, str(checkout))
    module = importlib.import_module("scripts.iba")
    images, embeddings = subjects.normalised(subjects.photographs()), subjects.texts()[0]
    maps = []
    for number, (image, text) in enumerate(zip(images, TEXT_OF, strict=True)):
        model = Bottlenecked(subjects.clip("vit").visual.requires_grad_(False))
        layer = model.vision_model.resblocks[4]
        estimator = module.Estimator(layer)
        estimator.M, estimator.S, estimator.N = torch.zeros(1, 37, 32), np.ones((1, 37, 32)), 1
        interpreter = module.IBAInterpreter(model, estimator, beta=0.1)
        torch.manual_seed(100 + number)
        with torch.enable_grad():
            found = interpreter._run_vision_training(embeddings[text : text + 1], image[None])[0]
        maps.append(torch.nansum(found.detach(), -1)[1:].reshape(6, 6))
    return {"maps": torch.stack(maps).numpy()}


def captum(_: Path) -> dict[str, Any]:
    """Attributions of the captum package, signed, of channels."""
    from captum.attr import InputXGradient, IntegratedGradients

    images, target = subjects.normalised(subjects.photographs()), torch.tensor(TEXT_OF)
    out = {}
    for tower in ("vit", "resnet"):
        model = Logits(tower).requires_grad_(False)
        steps = IntegratedGradients(model).attribute(images, target=target, n_steps=12)
        product = InputXGradient(model).attribute(images.clone().requires_grad_(), target=target)
        out[f"{tower}/integrated_gradients"] = steps.abs().sum(1).numpy()
        out[f"{tower}/input_x_gradient"] = product.detach().abs().sum(1).numpy()
    return out


MAKERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    maker.__name__: maker
    for maker in (
        photographs,
        groupcam,
        decomcam2023,
        decomcam_fork,
        rise,
        clip_surgery,
        dense,
        gem,
        legrad,
        grad_eclip,
        m2ib,
        captum,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(MAKERS))
    parser.add_argument("--checkout", type=Path, default=Path())
    arguments = parser.parse_args()
    random.seed(0)
    torch.manual_seed(0)
    arrays = MAKERS[arguments.name](arguments.checkout)
    np.savez_compressed(DATA / f"{arguments.name}.npz", **{name: _small(value) for name, value in arrays.items()})


def _small(value: Any) -> Any:
    """Return single precision, and of maps at input resolution every fourth pixel along each side."""
    array = np.asarray(value)
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    return array[..., 1::4, 1::4] if array.shape[-2:] == (SIDE, SIDE) else array


if __name__ == "__main__":
    main()
