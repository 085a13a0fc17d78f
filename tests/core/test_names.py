"""Names are those of the user's own model, in whatever it is wrapped."""

import pytest
import torch
from torch import nn

from rewire.core.names import plain_name, unwrap


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: model,
        torch.compile,
        nn.DataParallel,
        lambda model: nn.DataParallel(torch.compile(model)),
        lambda model: torch.compile(nn.DataParallel(model)),
    ],
)
def test_the_user_s_own_module_comes_out(wrap) -> None:
    model = nn.Linear(2, 3)
    assert unwrap(wrap(model)) is model


def test_an_attribute_called_module_is_the_user_s_own() -> None:
    model = nn.Module()
    model.module = nn.Linear(2, 3)
    assert unwrap(model) is model


def test_a_compiled_submodule_has_its_plain_name() -> None:
    model = nn.Sequential(nn.Linear(2, 3), torch.compile(nn.Linear(3, 4)))
    assert [plain_name(name) for name, _ in model.named_parameters()] == [
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
    ]
