"""Dead units and collapsed layers, against a model that shows them by what it computes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rewire.metrics.health import collapsed_layers, dead_inputs, dead_units, health_warnings


def mask(*rows: str) -> Tensor:
    return torch.tensor([[bit == "1" for bit in row] for row in rows])


@pytest.mark.parametrize(
    ("weight", "outputs", "inputs"),
    [
        (mask("111", "111"), 0, 0),
        (mask("100", "000"), 1, 2),
        (mask("010", "010"), 0, 2),
        (mask("000", "000"), 2, 3),
        (mask("110", "001"), 0, 0),
        (torch.tensor([True, False, True]), 1, 0),
    ],
)
def test_dead_units_worked_by_hand(weight: Tensor, outputs: int, inputs: int) -> None:
    assert dead_units({"fc.weight": weight}) == {"fc.weight": outputs}
    assert dead_inputs({"fc.weight": weight}) == {"fc.weight": inputs}


def test_a_channel_lives_by_any_weight_of_its_kernels() -> None:
    weight = torch.zeros(4, 3, 5, 5, dtype=torch.bool)
    weight[2, 1, 4, 4] = True
    assert dead_units({"conv.weight": weight}) == {"conv.weight": 3}
    assert dead_inputs({"conv.weight": weight}) == {"conv.weight": 2}


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(8, 6),
        nn.Conv1d(8, 6, 3),
        nn.Conv2d(8, 6, 3, groups=2),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv3d(4, 6, 2),
        nn.ConvTranspose1d(8, 6, 3),
        nn.ConvTranspose2d(8, 6, 3, groups=2),
        nn.ConvTranspose3d(4, 6, 2),
    ],
    ids=str,
)
@given(density=st.floats(0, 0.3), seed=st.integers(0, 20))
def test_dead_is_what_does_not_act(layer: nn.Module, density: float, seed: int) -> None:
    """An output is dead if nothing moves it, and an input if it moves nothing: seen from the layer's Jacobian."""
    torch.manual_seed(seed)
    masks = {"weight": torch.rand(layer.weight.shape) < density}
    layer.weight.data = masks["weight"] * torch.rand(layer.weight.shape)
    channels = layer.weight.shape[1] if isinstance(layer, nn.Linear) else layer.in_channels
    kernel = layer.weight.shape[2:]
    x = torch.ones(1, channels, *kernel, requires_grad=True)
    y = layer(x.flatten(1) if isinstance(layer, nn.Linear) else x)
    moved_outputs = (y - (layer.bias if y.ndim == 2 else layer.bias.view(-1, *[1] * len(kernel)))).abs()
    y.sum().backward()
    assert dead_units(masks, layer)["weight"] == int((moved_outputs.flatten(2).amax((0, -1)) == 0).sum()) if (
        kernel
    ) else int((moved_outputs == 0).sum())
    assert dead_inputs(masks, layer)["weight"] == int((x.grad.reshape(channels, -1).amax(1) == 0).sum())
