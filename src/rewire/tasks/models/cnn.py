"""A small convolutional network that trains on a CPU."""

from collections import OrderedDict

from torch import nn

from rewire.tasks.models.initialise import initialised


def cnn(classes: int, *, channels: int = 3, width: int = 16, seed: int = 0) -> nn.Sequential:
    """Four 3x3 convolutions of 1, 2, 4 and 4 times `width` channels with batch norm and ReLU, and one linear.

    Max pooling after the first, second and fourth; then the mean over what is left of the image, so that any
    image of at least 8x8 pixels will do. 5.2 M multiply-adds for a 3x32x32 image at width 16.

    >>> sum(p.numel() for p in cnn(10).parameters())
    61338
    """

    def build() -> nn.Sequential:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        inputs = channels
        for number, outputs in enumerate((width, 2 * width, 4 * width, 4 * width), start=1):
            layers[f"conv{number}"] = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
            layers[f"bn{number}"] = nn.BatchNorm2d(outputs)
            layers[f"relu{number}"] = nn.ReLU()
            if number != 3:
                layers[f"pool{number}"] = nn.MaxPool2d(2)
            inputs = outputs
        layers["mean"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["fc"] = nn.Linear(inputs, classes)
        return nn.Sequential(layers)

    return initialised(build, seed)
