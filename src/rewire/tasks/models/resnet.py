"""Residual networks: ResNet-20 and -32 for small images, ResNet-50 with a stem for small or for large ones.

Reference: K. He et al., "Deep Residual Learning for Image Recognition", 2016, https://arxiv.org/abs/1512.03385
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from rewire.tasks.models.initialise import initialised

Stem = Literal["cifar", "imagenet"]


def resnet20(classes: int, *, channels: int = 3, width: int = 16, seed: int = 0) -> nn.Sequential:
    """Section 4.2 of the paper with n = 3: 269 722 parameters for 10 classes at width 16.

    >>> sum(p.numel() for p in resnet20(10).parameters())
    269722
    """
    return _thin(3, classes, channels, width, seed)


def resnet32(classes: int, *, channels: int = 3, width: int = 16, seed: int = 0) -> nn.Sequential:
    """Section 4.2 of the paper with n = 5: 464 154 parameters for 10 classes at width 16."""
    return _thin(5, classes, channels, width, seed)


def _thin(blocks: int, classes: int, channels: int, width: int, seed: int) -> nn.Sequential:
    stages = [(width, blocks), (2 * width, blocks), (4 * width, blocks)]
    return initialised(lambda: _resnet(BasicBlock, stages, classes, channels, width, "cifar"), seed)


def resnet50(classes: int, *, stem: Stem = "cifar", channels: int = 3, width: int = 64, seed: int = 0) -> nn.Sequential:
    """ResNet-50 in the usual layout and names: 25 557 032 parameters for 1000 classes and the ImageNet stem.

    The ImageNet stem (7x7, stride 2, max pooling) is for large images, CIFAR's (3x3, stride 1) for small ones.
    """
    stages = [(4 * width, 3), (8 * width, 4), (16 * width, 6), (32 * width, 3)]
    return initialised(lambda: _resnet(Bottleneck, stages, classes, channels, width, stem), seed)


def _resnet(
    block: Callable[[int, int, int], nn.Module],
    stages: list[tuple[int, int]],
    classes: int,
    channels: int,
    width: int,
    stem: Stem,
) -> nn.Sequential:
    """A stem of `width` channels, stages of (channels, blocks), all but the first halving the image, and fc."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    kernel, stride, padding = (7, 2, 3) if stem == "imagenet" else (3, 1, 1)
    layers["conv1"] = nn.Conv2d(channels, width, kernel, stride=stride, padding=padding, bias=False)
    layers["bn1"] = nn.BatchNorm2d(width)
    layers["relu"] = nn.ReLU()
    if stem == "imagenet":
        layers["maxpool"] = nn.MaxPool2d(3, stride=2, padding=1)
    inputs = width
    for number, (outputs, count) in enumerate(stages, start=1):
        first = block(inputs, outputs, 1 if number == 1 else 2)
        layers[f"layer{number}"] = nn.Sequential(first, *(block(outputs, outputs, 1) for _ in range(count - 1)))
        inputs = outputs
    layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(inputs, classes)
    return nn.Sequential(layers)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside an option A shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut: nn.Module = nn.Identity() if same else PadShortcut(stride, outputs - inputs)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class PadShortcut(nn.Module):
    """Option A of the paper: every stride-th pixel, and zeros for the new channels. No weight."""

    def __init__(self, stride: int, new_channels: int) -> None:
        super().__init__()
        self.stride = stride
        self.new_channels = new_channels

    def forward(self, x: Tensor) -> Tensor:
        before = self.new_channels // 2
        kept = x[:, :, :: self.stride, :: self.stride]
        return F.pad(kept, (0, 0, 0, 0, before, self.new_channels - before))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 convolutions beside a projection; inside, a quarter of `outputs`."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        inner = outputs // 4
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.downsample(x))
