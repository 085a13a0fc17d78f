"""STR traced by hand: the learned threshold, the fold, and what is saved of either phase."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from by_hand import FIRST, SECOND, Run, bits, table
from torch.optim import lr_scheduler

import rewire

torch.set_num_threads(1)

WEIGHTS = "12 -1 2 -3 / 4 .25 -5 6 / 7 -8 10 -.5", "6 -5 4 / 3 -2 1"


def thresholds(run: Run) -> list[float]:
    return [float(layer.parametrizations.weight[0].s.detach()) for layer in run.model]


def test_str_learns_its_thresholds_and_folds_them_away() -> None:
    """Over 3 steps 12, 9 and 9 of 18 stay above the thresholds, where the cubic leaves 11.7, 9.3 and 9."""
    run = Run(rewire.str_(6, decay=0.5, fold=0.5), WEIGHTS, sparsity=0.5)
    held = [layer.parametrizations.weight.original for layer in run.model]
    keys = [f"{place}.parametrizations.weight.{what}" for place in (0, 1) for what in ("original", "0.s")]
    assert sorted(run.model.state_dict()) == sorted(keys)
    assert thresholds(run) == [-10.0, -10.0]
    for weight, text in zip(run.weights, WEIGHTS, strict=True):
        torch.testing.assert_close(weight, table(text) - np.exp(-10) * table(text).sign(), rtol=0, atol=1e-12)

    run.step()  # both thresholds are 2, the sixth smallest abs(w)
    assert thresholds(run) == pytest.approx([np.log(2), np.log(2)], abs=1e-12)
    run.holds("10 0 0 -1 / 2 0 -3 4 / 5 -6 8 0", "4 -3 2 / 1 0 0")

    # No gradient passes a weight below its threshold. dL/ds = -2 sum of sign(w) dL/dw, over those above: -2 and 0. So s
    # differ by 2, of which the decay leaves 1: the first threshold is e times the second. The ninth smallest of
    # abs(w) / threshold is that of the 2 in the second layer, after .25 .5 1 2 3 4 5 in the first and the 1.
    run.step("1 5 5 0 / 0 5 0 0 / 0 0 0 0", "0 0 0 / 0 5 0")
    assert held[0].detach().equal(table("11 -1 2 -3 / 4 .25 -5 6 / 7 -8 10 -.5"))
    assert held[1].detach().equal(table(WEIGHTS[1]))
    assert thresholds(run) == pytest.approx([np.log(2) + 1, np.log(2)], abs=1e-12)
    assert run.masks == ("1111 1111 1111", "111 111")
    mask = bits("1000 0001 1110")
    first = torch.where(mask, held[0] - 2 * np.e * held[0].sign(), 0)
    torch.testing.assert_close(run.weights[0], first.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(run.weights[1], table("4 -3 2 / 1 0 0"), rtol=0, atol=1e-12)

    # The decay leaves 1/2, and the ninth smallest is the 3 of the second layer, after .25 .5 1 2 3 4 in the first. The
    # layers become what they computed by, and the nine above the thresholds stay.
    run.step()
    assert run.masks == ("1000 0011 1110", "111 000")
    assert sorted(run.model.state_dict()) == [FIRST, SECOND]
    optimized = run.optimizer.param_groups[0]["params"]
    after = table("11 0 0 0 / 0 0 -5 6 / 7 -8 10 0")
    after = after - 3 * np.exp(0.5) * after.sign()
    for place, expected in enumerate((after, table("3 -2 1 / 0 0 0"))):
        assert run.model[place].weight is held[place] is optimized[place]
        torch.testing.assert_close(run.weights[place], expected, rtol=0, atol=1e-12)

    run.step("1 1 1 1 / 1 1 1 1 / 1 1 1 1")  # a sparse layer like any other: no threshold, inactive places masked
    torch.testing.assert_close(run.weights[0], after - bits(run.masks[0]).double(), rtol=0, atol=1e-12)
    assert [update.step for update in run.updates] == [3]


def test_the_fold_holds_the_budget_where_ties_left_less() -> None:
    """All thresholds are 1, and four weights above them; five zeros stay active, the first places first."""
    weights = "1 -1 1 1 / 1 1 2 1 / 1 1 -3 1", "1 1 -1 / 1 3 4"
    run = Run(rewire.str_(4, fold=0.5), weights, sparsity=0.5)
    run.step()
    run.step()
    assert run.masks == ("1111 1010 0010", "000 011")
    run.holds("0 0 0 0 / 0 0 1 0 / 0 0 -2 0", "0 0 0 / 0 2 3")
    assert run.sparsifier.density == 0.5


def test_weights_of_0_and_large_ones_have_thresholds_too() -> None:
    """After the only step before the fold the thresholds are 70, which leaves three weights."""
    run = Run(rewire.str_(2, fold=0.5), ("0 0 0 0 / 0 0 0 0 / 0 0 -85 20", "90 80 70 / 60 0 0"), sparsity=15 / 18)
    run.step()
    assert run.masks == ("0000 0000 0010", "110 000")
    run.holds("0 0 0 0 / 0 0 0 0 / 0 0 -15 0", "20 10 0 / 0 0 0")


@pytest.mark.parametrize(("parts", "scale"), [(4, 1.0), (1, 1024.0)], ids=["micro-batches", "a loss scale"])
def test_micro_batches_and_a_loss_scale_change_nothing(parts: int, scale: float) -> None:
    """What moves the thresholds beside the loss must not be part of the gradient."""
    inputs, targets = torch.randn(8, 4, dtype=torch.float64), torch.randn(8, 2, dtype=torch.float64)
    runs = [Run(rewire.str_(8, fold=0.75), WEIGHTS, sparsity=0.5, lr=1e-3) for _ in range(2)]
    for _ in range(5):
        for run, count, factor in ((runs[0], 1, 1.0), (runs[1], parts, scale)):
            for x, y in zip(inputs.chunk(count), targets.chunk(count), strict=True):
                ((run.model(x) - y).square().mean() * factor / count).backward()
            for parameter in run.optimizer.param_groups[0]["params"]:
                parameter.grad /= factor
            run.optimizer.step()
            run.optimizer.zero_grad()
    assert thresholds(runs[1]) == pytest.approx(thresholds(runs[0]), rel=1e-9)
    assert thresholds(runs[0])[0] != thresholds(runs[0])[1]
    torch.testing.assert_close(runs[1].weights, runs[0].weights, rtol=1e-9, atol=0)


def test_a_step_that_was_skipped_moves_no_threshold() -> None:
    def trained(*attempts: float) -> list[float]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
        scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
        sparsifier = rewire.sparsify(model, optimizer, rewire.str_(9), sparsity=0.5)
        for factor in attempts:
            scaler.scale(model(torch.ones(5, 4)).square().mean() * factor).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        assert sparsifier.step == 3
        return [float(layer.parametrizations.weight[0].s.detach()) for layer in model]

    assert trained(1.0, float("inf"), 1.0, 1.0) == trained(1.0, 1.0, 1.0)


@pytest.mark.parametrize("decay", [-1.0, float("nan")])
def test_a_decay_must_be_a_number(decay: float) -> None:
    with pytest.raises(ValueError, match=r"is below 0 or no number. Use decay=0.5, say, or 0 for none."):
        rewire.str_(8, decay=decay)


@pytest.mark.parametrize("stop", [2, 6], ids=["while it is dense", "after the fold"])
@pytest.mark.parametrize("model_first", [True, False])
def test_a_run_that_was_saved_goes_on_alike(stop: int, model_first: bool) -> None:
    if stop == 6 and model_first:
        pytest.skip("the end of the dense phase renames the weights, so the sparsifier comes first")
    method = rewire.str_(8, fold=0.5)

    def made() -> Run:
        return Run(method, WEIGHTS, sparsity=0.5, lr=0.1, momentum=0.9)

    gradients = [(torch.randn(3, 4), torch.randn(2, 3)) for _ in range(8)]
    run, other = made(), made()
    for step in range(stop):
        run.step(*gradients[step])
    parts = [("model", "optimizer", "sparsifier"), ("sparsifier", "model", "optimizer")][not model_first]
    states = copy.deepcopy({part: getattr(run, part).state_dict() for part in parts})
    for part in parts:
        getattr(other, part).load_state_dict(states[part])
    for step in range(stop, 8):
        run.step(*gradients[step])
        other.step(*gradients[step])
        assert run.masks == other.masks
        assert all(map(torch.equal, run.weights, other.weights))
    assert run.sparsifier.density == 0.5
    assert run.sparsifier.mean_density == other.sparsifier.mean_density


def test_a_state_of_the_dense_phase_is_refused_after_the_fold() -> None:
    run = Run(rewire.str_(4, fold=0.5), WEIGHTS, sparsity=0.5)
    state = run.sparsifier.state_dict()
    run.step()
    run.step()
    with pytest.raises(
        ValueError, match="The saved state is of the dense phase of str, which this sparsifier has left"
    ):
        run.sparsifier.load_state_dict(state)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "make",
    [
        lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5**epoch),
        lambda optimizer: lr_scheduler.LinearLR(optimizer, 0.5, 1.0, total_iters=4),
        lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=9),
    ],
    ids=["LambdaLR", "LinearLR", "OneCycleLR"],
)
def test_a_learning_rate_scheduler_may_be_made_before_or_after(when: str, make: Callable) -> None:
    """And the threshold learns at the rate of its layer."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 3, bias=False), torch.nn.Linear(3, 2, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = make(optimizer) if when == "before" else None
    sparsifier = rewire.sparsify(model, optimizer, rewire.str_(8), sparsity=0.5)
    scheduler = scheduler or make(optimizer)
    for _ in range(8):
        model(torch.randn(5, 4)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        assert len({group["lr"] for group in optimizer.param_groups}) == 1
    assert sparsifier.density == 0.5
