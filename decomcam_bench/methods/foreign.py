"""Other packages' own code as methods: ``method=pgc:GradCAM``, ``captum:IntegratedGradients``, ``torchcam:LayerCAM``.

Each adapter hands the package a plain classifier, from images to the score of every text, and the module
of the layer, and takes its maps as they are. The packages are not required otherwise.
"""

from __future__ import annotations

import abc
import importlib
import importlib.metadata
import inspect
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from decomcam_bench.core.errors import ConfigError, unknown
from decomcam_bench.methods.base import Cost, Evidence, Explanation, MapMethod
from decomcam_bench.methods.ops.validity import Failures, finish
from decomcam_bench.models.network import differentiable


@dataclass
class ForeignMethod(MapMethod):
    """Base of adapters. Passes are counted as they are taken; none are known before the run.

    Attributes:
        algorithm: the name of the package's class.
    """

    algorithm: str = ""

    package: ClassVar[str]
    module: ClassVar[str]
    distribution: ClassVar[str]

    needs: ClassVar[frozenset[str]] = frozenset({"network", "class_ids"})

    @property
    def identity(self) -> dict[str, Any]:
        """The options, and the version of the package."""
        return {**super().identity, "package": importlib.metadata.version(self.distribution)}

    def found(self) -> Any:
        """Return the class.

        Raises:
            ConfigError: if the package is not installed or has no such class.
        """
        try:
            module = importlib.import_module(self.module)
        except ImportError as error:
            raise ConfigError(
                f"method={self.package}:{self.algorithm}: {self.distribution} is not installed ({error}); "
                f"pip install {self.distribution}"
            ) from error
        names = sorted(name for name, value in vars(module).items() if isinstance(value, type))
        if self.algorithm not in names:
            raise ConfigError(unknown(f"class of {self.distribution}", self.algorithm, names))
        return getattr(module, self.algorithm)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.found()

    def map(self, evidence: Evidence) -> Explanation:
        network = evidence.extras["network"]()
        images = evidence.images[evidence.image_of].contiguous()
        texts = evidence.extras["class_ids"]()
        with torch.enable_grad(), differentiable(network):
            maps = self.run(network, images, texts, max(1, evidence.batch_size))
        native = maps.detach().float().to(evidence.device)
        failures = Failures(len(evidence), evidence.device)
        same = tuple(native.shape[1:]) == evidence.input_size
        answer = finish(native, "none" if same else "bilinear", failures)
        answer.scored = torch.full((len(evidence),), network.images // max(1, len(evidence)), dtype=torch.int64)
        return answer

    @abc.abstractmethod
    def run(self, network: Any, images: Tensor, texts: Tensor, batch_size: int) -> Tensor:
        """Return maps (P, h, w) of images (P, 3, H, W) for texts (P,)."""

    def cost(self, rank: int | None, channels: int) -> Cost:
        return Cost()


def _batches(count: int, size: int) -> list[Tensor]:
    """Return the positions 0 .. count-1, at most ``size`` at a time."""
    return [torch.arange(start, min(start + size, count)) for start in range(0, count, size)]


@dataclass
class PytorchGradCam(ForeignMethod):
    """A class of pytorch-grad-cam (``grad-cam``); its maps are min-maxed at input resolution."""

    id = "pgc"
    package: ClassVar[str] = "pgc"
    module: ClassVar[str] = "pytorch_grad_cam"
    distribution: ClassVar[str] = "grad-cam"

    def run(self, network: Any, images: Tensor, texts: Tensor, batch_size: int) -> Tensor:
        targets = importlib.import_module("pytorch_grad_cam.utils.model_targets")
        maps = []
        for some in _batches(len(images), batch_size):
            cam = self.found()(model=network, target_layers=[network.layer], reshape_transform=network.reshape)
            chosen = [targets.ClassifierOutputTarget(int(texts[p])) for p in some]
            maps.append(torch.from_numpy(cam(input_tensor=images[some], targets=chosen)))
            cam.activations_and_grads.release()
        return torch.cat(maps) if maps else images.new_zeros(0, *images.shape[2:])


@dataclass
class Captum(ForeignMethod):
    """A class of captum; magnitudes of pixel attributions are summed over channels, those of a layer as they are."""

    id = "captum"
    package: ClassVar[str] = "captum"
    module: ClassVar[str] = "captum.attr"
    distribution: ClassVar[str] = "captum"

    def run(self, network: Any, images: Tensor, texts: Tensor, batch_size: int) -> Tensor:
        kind = self.found()
        of_layer = "layer" in inspect.signature(kind.__init__).parameters
        made = kind(network, network.layer) if of_layer else kind(network)
        maps = []
        for some in _batches(len(images), batch_size):
            found = made.attribute(images[some].clone().requires_grad_(), target=texts[some])
            if of_layer:
                found = network.reshape(found) if network.reshape is not None and found.dim() == 3 else found
                maps.append(found.sum(1))
            else:
                maps.append(found.abs().sum(1))
        return torch.cat(maps) if maps else images.new_zeros(0, *images.shape[2:])


@dataclass
class TorchCam(ForeignMethod):
    """A class of torch-cam, one image at a time; it reads convolutional layers only."""

    id = "torchcam"
    package: ClassVar[str] = "torchcam"
    module: ClassVar[str] = "torchcam.methods"
    distribution: ClassVar[str] = "torchcam"

    def run(self, network: Any, images: Tensor, texts: Tensor, batch_size: int) -> Tensor:
        if network.reshape is not None:
            raise ConfigError(
                f"method=torchcam:{self.algorithm}: torch-cam reads no tokens; use a model with a CNN tower"
            )
        maps = []
        with self.found()(network, target_layer=network.layer) as extractor:
            for image, text in zip(images, texts.tolist(), strict=True):
                scores = network(image[None].clone().requires_grad_())
                (found,) = extractor(text, scores)
                maps.append(found.reshape(-1, *found.shape[-2:])[0])
        return torch.stack(maps) if maps else images.new_zeros(0, 1, 1)
