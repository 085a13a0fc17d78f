"""What cannot work is refused with what is wrong, why, and what to type; and nothing has changed after it."""

import copy
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import rewire
from rewire.core.method import Method
from rewire.core.schedule import Constant, Every
from rewire.core.score import GradientMean, Magnitude

torch.set_num_threads(1)


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 4))


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    F.mse_loss(model(torch.randn(8, 10)), torch.randn(8, 4)).backward()
    optimizer.step()


def refused(kind: type[Exception], model: nn.Module, optimizer, method: Method | None = None) -> str:
    """Returns the text of the error that sparsify() raises, after which the model is what it was."""
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(kind) as error:
        rewire.sparsify(model, optimizer, method or rewire.static(), sparsity=0.9)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model(torch.randn(2, 10)).sum().backward()
    assert all(p.grad.count_nonzero() > 0.2 * p.numel() for p in model.parameters())  # no hook masks it
    assert not getattr(optimizer, "_optimizer_step_post_hooks", None)
    return str(error.value)


# ---- the optimizer


def test_lbfgs_is_refused() -> None:
    model = network()
    assert refused(TypeError, model, torch.optim.LBFGS(model.parameters())) == (
        "LBFGS evaluates its closure several times in one step and mixes all weights in its history, so masks cannot "
        "hold. Use SGD, Adam, AdamW or any optimizer that works weight by weight."
    )


def test_what_is_no_optimizer_is_refused(monkeypatch) -> None:
    class DeepSpeedEngine:
        pass

    from rewire.checks import check_optimizer

    with pytest.raises(TypeError) as error:
        getattr(check_optimizer, "__wrapped__", check_optimizer)(DeepSpeedEngine(), [])
    assert str(error.value) == (
        "optimizer is a DeepSpeedEngine, not a torch.optim.Optimizer, so there is no step to hook. Pass the optimizer "
        "that updates the weights."
    )


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (
            {"method": rewire.rigl},
            "method=rigl is not a Method, because it was not called or is only a name. Give a value, such as "
            "method=rewire.dst_ee(steps=30_000).",
        ),
        ({"method": "rigl"}, "method='rigl' is not a Method"),
        ({"structure": rewire.Unstructured}, "structure=Unstructured is not a Structure"),
        ({"start": "magnitude"}, "start='magnitude' is not a Score"),
    ],
)
def test_what_is_no_value_is_refused(wrong: dict[str, object], text: str) -> None:
    from rewire.checks import check_values

    values = {"method": rewire.static(), "structure": rewire.Unstructured(), "start": rewire.Random()} | wrong
    with pytest.raises(TypeError, match=re.escape(text)):
        getattr(check_values, "__wrapped__", check_values)(**values)


def test_an_optimizer_without_these_weights_is_refused() -> None:
    model = network()
    stranger = torch.optim.SGD(network().parameters(), lr=0.1)
    assert refused(ValueError, model, stranger) == (
        "The optimizer does not hold 0.weight, 2.weight, so their masks would never move. Build it from "
        'model.parameters() (after moving the model), or leave them out with exclude=["0.weight"].'
    )
    partly = torch.optim.SGD(model[0].parameters(), lr=0.1)
    assert refused(ValueError, model, partly).startswith(
        "The optimizer does not hold 2.weight, so its masks would never move."
    )
    rewire.sparsify(model, partly, rewire.static(), sparsity=0.9, exclude=["2.weight"])


def test_an_optimizer_inside_backward_is_refused() -> None:
    from torch.distributed.optim import _apply_optimizer_in_backward

    model = network()
    _apply_optimizer_in_backward(torch.optim.SGD, model.parameters(), {"lr": 0.0})
    with pytest.raises(TypeError) as error:
        rewire.sparsify(model, torch.optim.SGD(model.parameters(), lr=0.1), rewire.static(), sparsity=0.9)
    assert str(error.value) == (
        "0.weight is updated inside backward, where there is no step to hook. Use an ordinary optimizer.step()."
    )


def test_a_sharded_weight_is_refused() -> None:
    model = network()
    model[0].weight.device_mesh = object()  # what tells a DTensor from a tensor
    with pytest.raises(TypeError) as error:
        rewire.sparsify(model, torch.optim.SGD(model.parameters(), lr=0.1), rewire.static(), sparsity=0.9)
    assert str(error.value) == (
        "0.weight is a DTensor (FSDP2 or tensor parallelism), which is not supported yet. Use DDP."
    )


def test_a_second_sparsifier_is_refused_until_the_first_is_removed() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = rewire.sparsify(model, optimizer, rewire.static(), sparsity=0.5)
    masks = first.masks
    text = r"^0.weight already has a sparsifier, and two would fight over it. Call .remove\(\) on the first.$"
    for other in (optimizer, torch.optim.AdamW(model.parameters())):  # one weight in two optimizers, too
        with pytest.raises(ValueError, match=text):
            rewire.sparsify(model, other, rewire.static(), sparsity=0.9)
    step(model, optimizer)
    assert all(torch.equal(mask, masks[name]) for name, mask in first.masks.items())
    first.remove()
    assert rewire.sparsify(model, optimizer, rewire.static(), sparsity=0.9).sparsity == pytest.approx(0.9, abs=0.01)


# ---- gradients at an update

SNFS = Method("snfs", Magnitude(), GradientMean(), Constant(0.3), Every(2, 8))


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", ["active", "inactive"])
def test_a_gradient_that_cannot_be_ranked_raises_and_moves_nothing(poison: float, where: str) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = rewire.sparsify(model, optimizer, rewire.rigl(8, every=2), sparsity=0.8)
    step(model, optimizer)
    masks = sparsifier.masks
    F.mse_loss(model(torch.randn(8, 10)), torch.randn(8, 4)).backward()
    place = masks["2.weight"] if where == "active" else ~masks["2.weight"]
    model[2].weight.grad[place] = poison
    weight = model[2].weight.detach().clone()
    with pytest.raises(FloatingPointError) as error:
        optimizer.step()
    what = "weight" if where == "active" else "gradient"  # the step has carried it into active weights
    assert str(error.value) == (
        f"The {what} of 2.weight has NaN or inf at step 2, so its weights cannot be ranked; no mask was changed. Lower "
        "the learning rate, clip with sparsifier.clip_grad_norm_(1.0), or use torch.amp.GradScaler under float16."
    )
    assert all(torch.equal(mask, masks[name]) for name, mask in sparsifier.masks.items())
    assert sparsifier.updates == 0
    assert not model[2].weight[~masks["2.weight"]].any()
    with torch.no_grad():
        model[2].weight.copy_(weight)
    for _ in range(6):  # and training can go on
        step(model, optimizer)
        if sparsifier.step in (3, 5, 7):
            assert not model[0].weight.grad[~sparsifier.masks["0.weight"]].any()
    assert sparsifier.updates == 2


def test_a_running_mean_that_was_poisoned_between_updates_is_noticed() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = rewire.sparsify(model, optimizer, SNFS, sparsity=0.8)
    masks = sparsifier.masks
    F.mse_loss(model(torch.randn(8, 10)), torch.randn(8, 4)).backward()
    model[0].weight.grad[~masks["0.weight"]] = torch.nan
    optimizer.step()
    with pytest.raises(FloatingPointError, match=r"The gradient mean 0.9 of 0.weight has NaN or inf at step 2"):
        step(model, optimizer)
    assert all(torch.equal(mask, masks[name]) for name, mask in sparsifier.masks.items())


def test_weights_that_have_diverged_are_not_ranked_either() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = rewire.sparsify(model, optimizer, rewire.set_(8, every=1), sparsity=0.8)
    masks = sparsifier.masks
    with torch.no_grad():
        model[0].weight[masks["0.weight"]] = torch.nan
    with pytest.raises(FloatingPointError, match=r"The weight of 0.weight has NaN or inf at step 1"):
        step(model, optimizer)
    assert all(torch.equal(mask, masks[name]) for name, mask in sparsifier.masks.items())


# ---- saved states


def saved(**options) -> dict:
    return made(**options).state_dict()


def made(
    method: Method | None = None, model: nn.Module | None = None, sparsity: float | None = 0.8, **options
) -> rewire.Sparsifier:
    model = model or network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return rewire.sparsify(model, optimizer, method or rewire.dst_ee(20, every=2), sparsity=sparsity, **options)


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (
            lambda: network().state_dict(),  # of a dense model
            "This is not a sparsifier state of format 1 (it says None), so it cannot be read. Pass what "
            "sparsifier.state_dict() returned.",
        ),
        (lambda: {**saved(), "format": 2}, "This is not a sparsifier state of format 1 (it says 2)"),
        (lambda: {}, "This is not a sparsifier state of format 1 (it says None)"),
        (
            lambda: saved(method=rewire.set_(20, every=2)),
            "The saved state does not belong to this sparsifier; nothing was changed. method: saved Method(name='set',",
        ),
        (
            lambda: saved(method=rewire.dst_ee(20, every=2, c=1e-3)),
            "Exploration(c=0.001, eps=1.0, scale='none')",
        ),
        (
            lambda: saved(structure=rewire.Block(2, 2)),
            "nothing was changed. structure: saved Block(height=2, width=2), here Unstructured(). Call sparsify() with "
            "the model, method and structure of the saved run.",
        ),
        (
            lambda: saved(model=nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 5))),
            "nothing was changed. 2.weight: saved (5, 16), here (4, 16). Call sparsify()",
        ),
        (
            lambda: saved(model=nn.Sequential(nn.Linear(10, 16), nn.Linear(16, 4))),
            "nothing was changed. 1.weight: saved (4, 16), here nothing; 2.weight: saved nothing, here (4, 16). Call",
        ),
        (
            lambda: {key: value for key, value in saved().items() if key != "updates"},
            "The saved state is not whole (it lacks updates); nothing was changed. Load another checkpoint.",
        ),
        (
            lambda: (state := saved(), state["layers"]["2.weight"].pop("visits"))[0],
            "The saved state of 2.weight is not whole ('visits'); nothing was changed. Load another checkpoint.",
        ),
        (
            lambda: (state := saved(), state["layers"]["2.weight"].update(active=torch.zeros(3, dtype=torch.uint8)))[0],
            "The saved state of 2.weight is not whole (3 bytes are not a mask of shape (4, 16)",
        ),
    ],
)
def test_a_state_that_does_not_belong_says_what_differs_and_changes_nothing(other, text: str) -> None:
    sparsifier = made()
    before = sparsifier.state_dict()
    with pytest.raises(ValueError, match=re.escape(text)):
        sparsifier.load_state_dict(other())
    after = sparsifier.state_dict()
    layers, others = before.pop("layers"), after.pop("layers")
    assert before == after
    for name in layers:
        assert all(
            torch.equal(torch.as_tensor(layers[name][key]), torch.as_tensor(others[name][key]))
            for key in ("active", "visits")
        )
