"""What the user of a Sparsifier reads and does."""

import copy
import io
import json
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import rewire
from rewire.core.method import Method
from rewire.core.schedule import Constant, Every
from rewire.core.score import GradientMean, Magnitude

torch.set_num_threads(1)

STEPS, EVERY = 20, 4


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 4))


class Run:
    def __init__(self, method: Method | None = None, sparsity: float = 0.8, **options) -> None:
        self.model = network()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        method = method or rewire.dst_ee(STEPS, every=EVERY, c=1e-3)
        self.sparsifier = rewire.sparsify(self.model, self.optimizer, method, sparsity=sparsity, **options)

    def train(self, steps: int = STEPS) -> "Run":
        for step in range(steps):
            generator = torch.Generator().manual_seed(step)
            x, y = (torch.randn(8, size, generator=generator) for size in (10, 4))
            F.mse_loss(self.model(x), y).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return self


# ---- what the user reads


def test_steps_updates_sparsity_and_density() -> None:
    run = Run()
    sparsifier = run.sparsifier
    assert (sparsifier.step, sparsifier.updates) == (0, 0)
    assert sparsifier.density == round(0.2 * 224) / 224
    assert sparsifier.sparsity == 1 - sparsifier.density
    run.train(STEPS)
    assert (sparsifier.step, sparsifier.updates) == (STEPS, 4)


def test_masks_are_copies_and_true_where_active() -> None:
    run = Run().train()
    masks = run.sparsifier.masks
    assert list(masks) == ["0.weight", "2.weight"]
    assert all(mask.dtype == torch.bool and mask.shape == run.model.get_parameter(n).shape for n, mask in masks.items())
    masks["0.weight"].zero_()
    assert run.sparsifier.masks["0.weight"].any()


def test_metrics_are_flat_numbers_for_any_tracker() -> None:
    run = Run().train()
    metrics = run.sparsifier.metrics()
    assert json.loads(json.dumps(metrics)) == metrics
    assert all(type(value) is float for value in metrics.values())
    names = ("sparsity", "exploration", "moved")
    assert list(metrics) == [
        *(f"rewire/{name}" for name in ("sparsity", "exploration", "updates", "moved")),
        *(f"rewire/{name}/{layer}" for layer in ("0.weight", "2.weight") for name in names),
    ]
    masks = run.sparsifier.masks
    assert metrics["rewire/updates"] == 4
    assert metrics["rewire/exploration"] == run.sparsifier.exploration
    assert metrics["rewire/moved"] == metrics["rewire/moved/0.weight"] + metrics["rewire/moved/2.weight"]
    for name, mask in masks.items():
        assert metrics[f"rewire/sparsity/{name}"] == 1 - int(mask.sum()) / mask.numel()


def test_the_printed_table() -> None:
    run = Run(rewire.static(), sparsity={"0": 0.75, "2": 0.5})
    assert repr(run.sparsifier) == (
        "Sparsifier(static, Unstructured(), 2 sparse layers, sparsity 0.6786, step 0, 0 updates)"
    )
    assert str(run.sparsifier).splitlines() == [
        repr(run.sparsifier),
        "layer     shape  sparsity  explored  moved last time",
        "0.weight  16x10  0.7500    0.2500    0",
        "2.weight  4x16   0.5000    0.5000    0",
        "stays dense: 0.bias (bias); 2.bias (bias)",
    ]
    model = nn.Linear(4, 4, bias=False)
    bare = rewire.sparsify(model, torch.optim.SGD(model.parameters(), lr=1), rewire.static(), sparsity=0.5)
    assert str(bare).endswith("stays dense: nothing")


def test_every_update_is_reported() -> None:
    updates: list[rewire.Update] = []
    run = Run(on_update=updates.append)
    masks, ever = [run.sparsifier.masks], run.sparsifier.masks
    for step in range(1, STEPS + 1):
        run.train(1)
        if step % EVERY == 0 and step < STEPS:
            masks.append(run.sparsifier.masks)
            ever = {name: ever[name] | mask for name, mask in masks[-1].items()}
            update = updates[-1]
            assert update.step == step
            moved = {name: int((mask & ~masks[-2][name]).sum()) for name, mask in masks[-1].items()}
            assert update.moved == moved
            assert update.active == {name: int(mask.sum()) for name, mask in masks[-1].items()}
            assert update.churn == sum(moved.values()) / sum(update.active.values())
            assert update.exploration == sum(int(mask.sum()) for mask in ever.values()) / 224
    assert len(updates) == run.sparsifier.updates == 4
    assert sum(update.churn for update in updates) > 0


def test_visits_saturate_instead_of_starting_anew() -> None:
    method = Run(rewire.dst_ee(700, every=2, fraction=0.1))
    for _ in range(600):
        method.optimizer.step()
        method.sparsifier.watch()
        for parameter in method.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
    visits = method.sparsifier.state_dict()["layers"]["0.weight"]["visits"]
    assert method.sparsifier.updates == 300
    assert visits.max() == 255
    assert torch.equal((visits > 0).reshape(16, 10), method.sparsifier.masks["0.weight"] | (visits > 0).reshape(16, 10))


# ---- state


def test_at_most_two_bytes_a_weight_are_kept_between_steps() -> None:
    for method, most in ((rewire.dst_ee(100, every=4), 2), (rewire.rigl(100, every=4), 2), (rewire.static(), 2)):
        sparsifier = Run(method).sparsifier
        kept = [value for s in sparsifier._storages.values() for value in vars(s).values() if torch.is_tensor(value)]
        own = [value for value in kept if not isinstance(value, nn.Parameter)]
        assert sum(value.nbytes for value in own) <= most * 224


@pytest.mark.parametrize(("method", "bits"), [(rewire.static(), 2), (rewire.dst_ee(100, every=4), 9)], ids=str)
def test_a_state_is_packed(method: Method, bits: int) -> None:
    """One bit a weight for the mask, one for "ever active" or eight for visits."""
    layers = Run(method).sparsifier.state_dict()["layers"]
    tensors = [value for layer in layers.values() for value in layer.values() if torch.is_tensor(value)]
    assert sum(value.nbytes for value in tensors) == bits * 224 / 8


def test_a_state_is_plain_and_survives_a_file_without_running_code() -> None:
    run = Run(Method("snfs", Magnitude(), GradientMean(), Constant(0.3), Every(4, 16))).train(9)
    file = io.BytesIO()
    torch.save(run.sparsifier.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert state["format"] == 1
    assert (state["step"], state["updates"], state["seed"]) == (9, 2, 0)
    assert "snfs" in state["method"]
    again = Run(run.sparsifier.method, seed=7)
    again.sparsifier.load_state_dict(state)
    assert again.sparsifier.seed == 0
    assert again.sparsifier.metrics() == run.sparsifier.metrics()
    assert str(again.sparsifier) == str(run.sparsifier)


def test_a_state_is_a_snapshot() -> None:
    run = Run(rewire.set_(STEPS, every=EVERY)).train(5)
    state = run.sparsifier.state_dict()
    before = copy.deepcopy(state)
    run.train(STEPS)
    for name, layer in state["layers"].items():
        assert torch.equal(layer["active"], before["layers"][name]["active"])
        assert torch.equal(layer["visits"], before["layers"][name]["visits"])
    assert state["moved"] == before["moved"]


def test_loading_zeroes_what_the_saved_topology_does_not_hold() -> None:
    run = Run().train(5)
    again = Run(seed=1).train(3)
    again.sparsifier.load_state_dict(run.sparsifier.state_dict())
    for name, mask in run.sparsifier.masks.items():
        weight = again.model.get_parameter(name)
        assert not weight[~mask].any()
        assert not again.optimizer.state[weight]["exp_avg"][~mask].any()


# ---- removal


def test_remove_leaves_a_plain_model_with_zeros() -> None:
    run = Run().train()
    masks = run.sparsifier.masks
    run.sparsifier.remove()
    for name, mask in masks.items():
        assert torch.equal(run.model.get_parameter(name) != 0, mask & (run.model.get_parameter(name) != 0))
    assert not any(p._post_accumulate_grad_hooks for p in run.model.parameters())
    plain, optimizer = copy.deepcopy(run.model), torch.optim.AdamW(run.model.parameters(), lr=0.01)
    other = torch.optim.AdamW(plain.parameters(), lr=0.01)
    run.optimizer = optimizer
    run.train(3)
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        x, y = (torch.randn(8, size, generator=generator) for size in (10, 4))
        F.mse_loss(plain(x), y).backward()
        other.step()
        other.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(run.model.parameters(), plain.parameters(), strict=True))
    assert run.sparsifier.step == STEPS  # it counts no more
    run.sparsifier.remove()  # twice is no error


def test_a_removed_sparsifier_makes_room_for_another_that_keeps_the_topology() -> None:
    run = Run().train()
    masks = run.sparsifier.masks
    run.sparsifier.remove()
    weight = run.model[0].weight.detach().clone()
    again = rewire.sparsify(run.model, run.optimizer, rewire.rigl(STEPS, every=EVERY), start=masks)
    assert torch.equal(run.model[0].weight, weight)
    assert all(torch.equal(mask, masks[name]) for name, mask in again.masks.items())


def test_a_model_that_is_gone_is_not_held() -> None:
    import gc
    import weakref

    run = Run().train(2)
    weight = weakref.ref(run.model[0].weight)
    del run
    gc.collect()
    assert weight() is None


def test_an_abandoned_sparsifier_makes_room_for_another() -> None:
    """Training twice in a function that keeps nothing but the model."""
    model = network()

    def train_(**options) -> dict[str, torch.Tensor]:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return rewire.sparsify(model, optimizer, rewire.static(), **options).masks

    masks = train_(sparsity=0.5)
    again = train_(start=masks)
    assert all(torch.equal(again[name], mask) for name, mask in masks.items())


def test_a_model_loaded_before_sparsify_is_noticed() -> None:
    """sparsify() zeroes by its first topology, so a model that is loaded before it has lost the rest."""
    run = Run().train(EVERY + 2)
    saved = copy.deepcopy((run.model.state_dict(), run.optimizer.state_dict(), run.sparsifier.state_dict()))
    for late in (True, False):
        again = Run()
        again.optimizer.load_state_dict(saved[1])
        again.sparsifier.load_state_dict(saved[2])
        if late:
            again.model.load_state_dict(saved[0])
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                again.train(2)
        else:
            with pytest.warns(
                UserWarning, match=r"are 0 that were not .* Call model.load_state_dict\(\) after sparsify"
            ):
                again.train(2)


def test_a_copy_is_refused_because_its_hooks_would_be_dead() -> None:
    model = torch.nn.Linear(8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = rewire.sparsify(model, optimizer, rewire.static(), sparsity=0.5)
    with pytest.raises(TypeError, match=r"A Sparsifier cannot be copied.*Copy the model alone"):
        copy.deepcopy(sparsifier)
    copy.deepcopy(model)


def test_a_state_of_another_budget_is_refused() -> None:
    def made(sparsity: float, distribution: str) -> rewire.Sparsifier:
        model = torch.nn.Linear(8, 8)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return rewire.sparsify(model, optimizer, rewire.static(), sparsity=sparsity, distribution=distribution)

    state = made(0.5, "erk").state_dict()
    made(0.5, "erk").load_state_dict(state)
    for other in (made(0.75, "erk"), made(0.5, "uniform")):
        before = other.masks["weight"]
        with pytest.raises(
            ValueError, match=r"budget: saved sparsity 0\.5, erk, here sparsity 0\.[75]+, (erk|uniform)"
        ):
            other.load_state_dict(state)
        assert torch.equal(other.masks["weight"], before)


def test_a_running_mean_follows_the_type_of_its_weight() -> None:
    model = torch.nn.Linear(8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    snfs = rewire.Method("snfs", rewire.Magnitude(), rewire.GradientMean(), rewire.Constant(0.5), rewire.Every(2, 9))
    rewire.sparsify(model, optimizer, snfs, sparsity=0.5)
    model.double()
    for _ in range(4):
        model(torch.randn(4, 8, dtype=torch.float64)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_two_running_means_are_two_buffers() -> None:
    model = torch.nn.Linear(8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    both = rewire.GradientMean(0.9) + rewire.GradientMean(0.5)
    sparsifier = rewire.sparsify(model, optimizer, rewire.Method("two", rewire.Magnitude(), both), sparsity=0.5)
    assert sparsifier.nbytes == 64 * (1 + 1 + 4 + 4)  # mask, visits, two means
