"""With `untouched=True` inactive weights that are 0 by arithmetic are not zeroed again, and nothing else changes."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import rewire

torch.set_num_threads(1)

STEPS, EVERY = 12, 4
SGD = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, **SGD),
    "sgd fused": lambda p: torch.optim.SGD(p, fused=True, **SGD),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, weight_decay=0.1),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
}
METHODS = {
    "static": rewire.static(),
    "set": rewire.set_(STEPS, every=EVERY),
    "dst_ee": rewire.dst_ee(STEPS, every=EVERY),
    "snfs": rewire.snfs(STEPS, every=EVERY),
    "top_kast": rewire.top_kast(STEPS, every=EVERY),
    "gmp": rewire.gmp(STEPS, every=EVERY),
}
Loop = Callable[[nn.Module, torch.optim.Optimizer, int], None]


class Wheres(TorchDispatchMode):
    """Counts what masks."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket.__name__ == "where"
        return function(*args, **(kwargs or {}))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    backward(model, number)
    optimizer.step()
    optimizer.zero_grad()


def backward(model: nn.Module, number: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(number)
    loss = F.mse_loss(model(torch.randn(8, 10, generator=generator)), torch.randn(8, 4, generator=generator))
    loss.backward()
    return loss


def trained(method: str, optimizer: str, untouched: bool, loop: Loop = step) -> tuple[nn.Module, dict, list[int]]:
    """The model after STEPS, the optimizer's state, and how often each step masked; all is 0 where it must be."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 4))
    stepper = OPTIMIZERS[optimizer](model.parameters())
    sparsifier = rewire.sparsify(model, stepper, METHODS[method], sparsity=0.8, untouched=untouched)
    counts = []
    for number in range(1, STEPS + 1):
        with Wheres() as wheres:
            loop(model, stepper, number)
        counts.append(wheres.count)
        for name, mask in sparsifier.masks.items():
            weight = model.get_parameter(name)
            assert not weight[~mask].any()
            for value in stepper.state[weight].values():
                assert value.shape != weight.shape or not value[~sparsifier.trained[name]].any()
    return model, stepper.state_dict(), counts


def same(first: tuple, second: tuple) -> bool:
    states = [[v for s in run[1]["state"].values() for v in s.values()] for run in (first, second)]
    pairs = [*zip(first[0].parameters(), second[0].parameters(), strict=True), *zip(*states, strict=True)]
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_it_is_the_same_training_bit_for_bit(method: str, optimizer: str) -> None:
    assert same(trained(method, optimizer, True), trained(method, optimizer, False))


@pytest.mark.parametrize(("optimizer", "states"), [("sgd fused", 1), ("adam", 3), ("adamw fused", 2)])
def test_a_step_then_masks_gradients_alone(optimizer: str, states: int) -> None:
    assert trained("static", optimizer, False)[2] == STEPS * [2 * (2 + states)]
    assert trained("static", optimizer, True)[2] == STEPS * [2]


def clipped(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    backward(model, number)
    nn.utils.clip_grad_norm_(model.parameters(), 0.1, foreach=False)  # what foreach writes is not counted
    optimizer.step()
    optimizer.zero_grad()


def noisy(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    backward(model, number)
    for parameter in model.parameters():
        parameter.grad = parameter.grad + 0.1
    optimizer.step()
    optimizer.zero_grad()


def disturbed(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    backward(model, number)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    optimizer.step()
    optimizer.zero_grad()


def loaded(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    backward(model, number)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    optimizer.step()
    optimizer.zero_grad()


def closure(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    optimizer.step(lambda: backward(model, number))
    optimizer.zero_grad()


@pytest.mark.parametrize("loop", [clipped, noisy, disturbed, loaded, closure])
@pytest.mark.parametrize("optimizer", ["sgd fused", "adamw fused"])
def test_what_anybody_touches_is_zeroed(optimizer: str, loop: Loop) -> None:
    plain, quick = (trained("dst_ee", optimizer, untouched, loop) for untouched in (False, True))
    assert same(plain, quick)
    assert quick[2][1:] == plain[2][1:]  # before the first step the optimizer has no state that could be loaded


def test_an_optimizer_that_may_leave_something_else_is_not_trusted(monkeypatch) -> None:
    class Noisy(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            with torch.no_grad():
                for group in self.param_groups:
                    for parameter in group["params"]:
                        parameter.add_(0.1)

    for make in (Noisy, lambda p, **kw: torch.optim.Adam(p, lr=0.01, eps=0.0)):
        monkeypatch.setitem(OPTIMIZERS, "this", lambda p, make=make: make(p, **SGD))
        runs = [trained("static", "this", untouched) for untouched in (True, False)]
        assert runs[0][2] == runs[1][2]
