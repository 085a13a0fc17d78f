"""VGG-19 as it is used on CIFAR: 16 convolutions with batch norm and a single linear layer."""

from collections import OrderedDict

from torch import nn

from rewire.tasks.models.initialise import initialised

STAGES = ((1, 2), (2, 2), (4, 4), (8, 4), (8, 4))  # (multiple of the width, convolutions) before each pooling


def vgg19(classes: int, *, channels: int = 3, width: int = 64, seed: int = 0) -> nn.Sequential:
    """VGG-19 for images of at least 32x32 pixels; 20 035 018 parameters for 10 classes at width 64.

    The convolutions have no bias, for the batch norm behind each has one: with theirs it would be 20 040 522.

    Reference: K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
    Recognition", 2015, https://arxiv.org/abs/1409.1556
    """

    def build() -> nn.Sequential:
        features: list[nn.Module] = []
        inputs = channels
        for multiple, convolutions in STAGES:
            outputs = multiple * width
            for _ in range(convolutions):
                convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
                features += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
                inputs = outputs
            features.append(nn.MaxPool2d(2))
        return nn.Sequential(
            OrderedDict(
                features=nn.Sequential(*features),
                avgpool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                classifier=nn.Linear(inputs, classes),
            )
        )

    return initialised(build, seed)
