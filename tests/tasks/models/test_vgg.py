from itertools import pairwise

import torch
from torch import nn

from rewire.tasks.models.vgg import vgg19


def test_parameters_by_hand():
    sizes = [3, 64, 64, 128, 128, *[256] * 4, *[512] * 8]
    convolutions = sum(9 * inputs * outputs for inputs, outputs in pairwise(sizes))
    norms = 2 * sum(sizes[1:])
    assert sum(p.numel() for p in vgg19(10).parameters()) == convolutions + norms + 5130 == 20_035_018
    assert 20_035_018 + sum(sizes[1:]) == 20_040_522  # the figure of those who give each convolution a bias


def test_sixteen_convolutions_and_one_linear_layer():
    model = vgg19(10, width=4)
    modules = list(model.modules())
    assert sum(isinstance(m, nn.Conv2d) for m in modules) == sum(isinstance(m, nn.BatchNorm2d) for m in modules) == 16
    assert [name for name, m in model.named_modules() if isinstance(m, nn.Linear)] == ["classifier"]
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert model.features(torch.randn(2, 3, 32, 32)).shape == (2, 32, 1, 1)
