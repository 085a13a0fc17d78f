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
    """With positive weights and inputs, an output is dead if it stays 0, and an input if it has no gradient."""
    torch.manual_seed(seed)
    active = torch.rand(layer.weight.shape) < density
    layer.weight.data = active * torch.rand(layer.weight.shape).add(0.1)
    layer.bias.data.zero_()
    inputs = getattr(layer, "in_channels", layer.weight.shape[1])
    x = torch.ones(1, inputs, *layer.weight.shape[2:], requires_grad=True)
    y = layer(x)
    y.sum().backward()
    silent = y.reshape(y.shape[1], -1).amax(1) == 0
    unread = x.grad.reshape(inputs, -1).amax(1) == 0
    assert dead_units({"weight": active}, layer) == {"weight": int(silent.sum())}
    assert dead_inputs({"weight": active}, layer) == {"weight": int(unread.sum())}


def test_layers_are_found_in_a_wrapped_model() -> None:
    model = nn.Sequential(nn.Linear(3, 3), torch.compile(nn.ConvTranspose1d(2, 3, 1)))
    active = {"1.weight": mask("100", "100").unsqueeze(-1)}
    for wrapped in (model, nn.DataParallel(model)):
        assert dead_units(active, wrapped) == {"1.weight": 2}
        assert dead_inputs(active, wrapped) == {"1.weight": 0}


def test_a_layer_has_collapsed_below_a_thousandth() -> None:
    masks = {name: torch.zeros(100, 100, dtype=torch.bool) for name in "abcd"}
    for name, active in {"b": 9, "c": 10, "d": 5000}.items():
        masks[name].view(-1)[:active] = True
    assert collapsed_layers(masks) == {"a": 0, "b": 9}
    assert collapsed_layers(masks, density=0.5) == {"a": 0, "b": 9, "c": 10}
    assert collapsed_layers(masks, density=0.0) == {"a": 0}


@pytest.mark.parametrize(
    ("active", "share", "lines"),
    [
        (mask("11", "11"), 0.1, []),
        (
            mask("00", "00"),
            0.1,
            [
                "fc.weight: 0 of 4 weights are active, so no signal passes this layer. "
                'Lower the sparsity of this layer with sparsity={"*": ..., "fc": ...}, '
                'or leave it dense with exclude=["fc"].'
            ],
        ),
        (
            torch.eye(2000, dtype=torch.bool),
            0.1,
            [
                "fc.weight: 2000 of 4000000 weights are active, so hardly any signal passes this layer. "
                'Lower the sparsity of this layer with sparsity={"*": ..., "fc": ...}, '
                'or leave it dense with exclude=["fc"].'
            ],
        ),
        (
            mask("11", "00"),
            0.1,
            [
                "fc.weight: 1 of 2 outputs have no active weight, so they are constant. "
                'Lower the sparsity of this layer with sparsity={"*": ..., "fc": ...}, '
                "or give every output as many inputs with structure=FanIn()."
            ],
        ),
        (
            mask("10", "10"),
            0.1,
            [
                "fc.weight: 1 of 2 inputs have no active weight, so what comes before works for them in vain. "
                'Lower the sparsity of this layer with sparsity={"*": ..., "fc": ...}, '
                "or expect no harm where they are pixels that are always the same."
            ],
        ),
        (mask("10", "00"), 0.5, []),
    ],
)
def test_warnings_name_the_layer_and_say_what_to_do(active: Tensor, share: float, lines: list[str]) -> None:
    assert health_warnings({"fc.weight": active}, share=share) == lines


def test_warnings_speak_of_sick_layers_only() -> None:
    masks = {"a.weight": mask("10", "01"), "b.weight": mask("10", "00"), "c.weight": mask("00", "00")}
    assert [line.split(":")[0] for line in health_warnings(masks)] == ["b.weight", "b.weight", "c.weight"]
