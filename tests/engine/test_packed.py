"""The contract of tests/test_contract.py, for the CPU engine; and that engine and masked mode are one training."""

import copy
import dataclasses
import gc
import io
import itertools
import math
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from engine.reference import Run, Watched, batch, cnn, mlp, same, sgd, still
from test_contract import METHODS, MOVING, OPTIMIZERS, STRUCTURES
from torch import nn
from torch.nn import functional as F

import rewire
from rewire.core.budget import ConstantDensity, CubicDensity
from rewire.core.method import Method
from rewire.core.schedule import Constant, Every
from rewire.core.score import Gradient, Magnitude, Need, Random, Score
from rewire.core.share import Keep, Proportional
from rewire.core.structure import NM, Block
from rewire.engine import library, ops
from rewire.engine.packed import Packed

torch.set_num_threads(1)

pytestmark = pytest.mark.skipif(library.load() is None, reason="no kernels for this machine")

STEPS = 9
# The others follow the dense gradient over steps, or keep a number for every weight.
PACKED = [
    name
    for name in METHODS
    if name not in ("snfs", "dst_ee, window of 2", "deep_r", "top_kast", "admm", "str", "srigl")
]
MOVES = [name for name in PACKED if METHODS[name](0.4).dynamic]
CASES = [(name, list(OPTIMIZERS)[place % len(OPTIMIZERS)]) for place, name in enumerate(PACKED)]
covering = pytest.mark.parametrize(("method", "optimizer"), CASES)


def run(method: str | Method, engine: str = "cpu", optimizer: str = "sgd nesterov", **options) -> Run:
    value = METHODS[method](0.4) if isinstance(method, str) else method
    return Run(value, engine, OPTIMIZERS[optimizer], **options)


# ---- zeros, budgets, exploration


@covering
def test_after_every_step_exactly_the_planned_number(method: str, optimizer: str) -> None:
    it = run(method, optimizer=optimizer)
    value, sparsifier = it.sparsifier.method, it.sparsifier
    assert set(sparsifier.engines.values()) == {"cpu"}
    first = {name: int(mask.sum()) for name, mask in sparsifier.masks.items()}
    ever, weights = sparsifier.masks, sum(mask.numel() for mask in sparsifier.masks.values())
    last, changes = 0, 0
    for step in range(1, STEPS + 1):
        before = sparsifier.masks
        it.step()
        masks = sparsifier.masks
        moved = any(not torch.equal(before[name], masks[name]) for name in masks)
        due = value.dynamic and value.due(step)
        last, changes = step if due else last, changes + moved
        assert due or not moved
        for name, storage in it.storages().items():
            ever[name] |= masks[name]
            assert isinstance(storage, Packed)
            assert storage.parameter.shape == (int(masks[name].sum()),)
            assert all(v.shape in ((), storage.parameter.shape) for v in it.optimizer.state[storage.parameter].values())
            assert torch.equal(it.model.state_dict()[name] != 0, masks[name] & (storage.dense() != 0))
        counts = {name: int(mask.sum()) for name, mask in masks.items()}
        if method == "mest, soft":
            fraction = value.fraction(last) if last else 0.0
            assert counts == {name: count + math.ceil(fraction * count) for name, count in first.items()}
        elif isinstance(value.share, Keep) and value.density == ConstantDensity():
            assert counts == first
        else:
            assert sum(counts.values()) == round(value.density(last, 0.3) * weights)
        assert sparsifier.exploration == sum(int(mask.sum()) for mask in ever.values()) / weights
    assert sparsifier.updates == value.updates(STEPS)
    assert changes >= value.dynamic


@pytest.mark.parametrize(
    ("method", "structure"),
    [
        *itertools.product(["dst_ee", "dst_ee, no regrowth", "set", "mest"], ["2:4", "block", "fan-in", "neuron"]),
        *itertools.product(["srigl", "chts", "mest, soft", "dst_ee, epsilon-greedy"], ["fan-in"]),
    ],
)
def test_structures_hold(method: str, structure: str) -> None:
    it, other = (
        run(method, engine, model=mlp, structure=STRUCTURES[structure], exclude=["*5.*"])
        for engine in ("cpu", "masked")
    )
    assert set(it.sparsifier.engines.values()) == {"cpu"}
    for _ in range(STEPS):
        it.step()
        other.step()
        for name, mask in it.sparsifier.masks.items():
            units = it.sparsifier.structure.fold(mask)
            assert torch.equal(units, units[..., :1].expand_as(units))
            assert torch.equal(mask, other.sparsifier.masks[name])


class Rising(CubicDensity):
    """From a tenth of the weights to the target, so that the number of active weights changes for some updates."""

    def __call__(self, step: int, target: float) -> float:
        return min(target, 0.1 + 0.05 * step)


def test_a_density_that_rises_grows_the_parameter() -> None:
    """A parameter of another size while the graph of the last step still lives, as it does in every loop."""
    value = dataclasses.replace(METHODS["rigl"](0.4), density=Rising(0.0, 0, 9), due=Every(1, STEPS))
    it, other = run(value), run(value, "masked")
    for step in range(1, 7):
        loss = F.mse_loss(it.model(batch(step)[0]), batch(step)[1])
        loss.backward()
        it.optimizer.step()
        it.optimizer.zero_grad()
        other.step()
    assert it.sparsifier.density == pytest.approx(0.3, abs=1e-3)
    assert all(torch.equal(mask, other.sparsifier.masks[name]) for name, mask in it.sparsifier.masks.items())


# ---- one training, two storages


@pytest.mark.parametrize(
    ("method", "model"),
    [
        pytest.param(method, model, marks=() if method == "dst_ee" else pytest.mark.slow)  # 20 seconds
        for method in MOVES
        for model in (cnn, mlp)
    ],
)
def test_updates_pick_the_same_units_as_masked_mode(method: str, model, monkeypatch) -> None:
    every = {"due": Every(1, 20)}
    if method in MOVING:
        every["density"] = CubicDensity(0.2, 0, 18)
    value = dataclasses.replace(METHODS[method](0.3), **every)
    masked, engine = run(value, "masked", model=model), run(value, model=model)
    for _ in range(20):
        engine.load(masked.states())
        seen = Watched(monkeypatch)
        masked.step()
        monkeypatch.undo()
        engine.steps = masked.steps - 1
        engine.step()
        for place, (name, mask) in enumerate(masked.sparsifier.masks.items()):
            assert seen.astray(place, mask, engine.sparsifier.masks[name]) == 0
    assert masked.sparsifier.updates == engine.sparsifier.updates == 20


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_at_a_fixed_topology_is_masked_training(optimizer: str) -> None:
    value = dataclasses.replace(METHODS["dst_ee"](0.0), density=ConstantDensity())
    static = METHODS["static"](0.0)
    runs = [run(value, optimizer=optimizer), run(static, optimizer=optimizer), run(static, "masked", optimizer)]
    losses = [[it.step() for _ in range(30)] for it in runs]
    for name, weight in runs[0].model.state_dict().items():
        assert torch.equal(weight, runs[1].model.state_dict()[name])  # fraction 0 is static, bit for bit
    assert losses[1] == pytest.approx(losses[2], rel=1e-3)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_kept_weights_keep_their_state_and_grown_ones_start_at_0(optimizer: str) -> None:
    it = run("dst_ee", optimizer=optimizer)
    it.step()
    it.steps += 1
    it.backward(it.steps)
    seen = {}

    def before_update(storage: Packed) -> None:
        rewire_ = storage.rewire_

        def spy(active: torch.Tensor, state: dict[str, torch.Tensor], *more: object) -> None:
            name = storage.name
            seen[name] = (
                storage.mask(),
                storage.dense(),
                storage.scatter(storage.parameter.grad),
                it.dense_state(name),
            )
            rewire_(active, state, *more)

        storage.rewire_ = spy

    memory = {name: storage.parameter.data_ptr() for name, storage in it.storages().items()}
    for storage in it.storages().values():
        before_update(storage)
    it.optimizer.step()
    assert it.sparsifier.updates == 1
    for name, storage in it.storages().items():
        mask, weight, gradient, state = seen[name]
        kept = mask & storage.mask()
        assert 0 < int(kept.sum()) < int(mask.sum())
        after = {"weight": storage.dense(), "gradient": storage.scatter(storage.parameter.grad), **it.dense_state(name)}
        for key, old in {"weight": weight, "gradient": gradient, **state}.items():
            assert torch.equal(after[key], torch.where(kept, old, 0)), key
        assert len(state) == {"sgd": 0, "adam": 3, "rmsprop": 3, "sgd nesterov": 1, "lion": 1}.get(optimizer, 2)
        assert storage.parameter.data_ptr() == memory[name]


# ---- one run, however it is cut


ORDERS = [(0, 1, 2), (2, 1, 0), (1, 2, 0)]  # of sparsifier, model, optimizer


@pytest.mark.parametrize(
    ("method", "optimizer", "order"),
    [(*case, order) for case in CASES for order in ORDERS if order == ORDERS[0] or case[0] in ("dst_ee", "granet")],
)
def test_save_load_continue_is_never_having_stopped(method: str, optimizer: str, order) -> None:
    whole = run(method, optimizer=optimizer).train(STEPS)
    for cut in (3, 4):  # before and after an update
        first = run(method, optimizer=optimizer).train(cut)
        file = io.BytesIO()
        torch.save(first.states(), file)
        file.seek(0)
        again = run(method, optimizer=optimizer, seed=5).load(torch.load(file, weights_only=True), order)
        again.model.eval()(batch(0)[0])  # somebody looks at it first
        again.model.train()
        again.steps = cut
        assert same(whole, again.train(STEPS - cut))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("optimizer", ["sgd nesterov", "adam", "lion", "rmsprop"])
def test_a_checkpoint_goes_from_masked_to_the_engine_and_back(optimizer: str, order) -> None:
    first = run("dst_ee", "masked", optimizer, model=still).train(4)
    engine = run("dst_ee", optimizer=optimizer, seed=5, model=still).load(first.states(), order)
    engine.steps = 4
    assert all(torch.equal(value, first.model.state_dict()[name]) for name, value in engine.model.state_dict().items())
    engine.backward(5)  # which brings the optimizer's state into shape
    for name in first.sparsifier.masks:
        assert all(torch.equal(v, first.dense_state(name)[key]) for key, v in engine.dense_state(name).items())
        assert len(engine.dense_state(name)) == len(first.dense_state(name)) > 0
    engine.optimizer.step()
    engine.optimizer.zero_grad()
    back = run("dst_ee", "masked", optimizer, seed=6, model=still).load(engine.states(), order)
    back.backward(6)
    back.optimizer.zero_grad()
    assert same(engine, back)
    back.steps = engine.steps = 5
    back.train(4)
    engine.train(4)
    for name, value in back.model.state_dict().items():
        torch.testing.assert_close(value, engine.model.state_dict()[name], rtol=1e-3, atol=1e-4)


def test_state_of_another_topology_is_refused() -> None:
    it, other = run("rigl").train(3), Run(METHODS["rigl"](0.4), "cpu", OPTIMIZERS["sgd nesterov"], sparsity=0.9)
    other.optimizer.load_state_dict(it.optimizer.state_dict())
    with pytest.raises(
        ValueError, match=r"momentum_buffer of 0\.weight is of .* active weights, but .* are active"
    ) as e:
        other.backward(1)
    assert "sparsifier.load_state_dict()" in str(e.value)


def test_a_topology_loaded_after_training_takes_nothing_of_a_model_loaded_before() -> None:
    it = run("dst_ee")
    start = it.sparsifier.state_dict()
    it.model.load_state_dict(cnn().state_dict())
    it.train(4)
    mine = it.model.state_dict()
    it.sparsifier.load_state_dict(start)
    for name, mask in it.sparsifier.masks.items():
        assert torch.equal(it.model.state_dict()[name], mine[name] * mask)


def test_a_topology_loaded_alone_moves_what_is_there() -> None:
    it = run("dst_ee")
    start = it.sparsifier.state_dict()
    it.train(6)
    before, state = it.model.state_dict(), it.dense_state("0.weight")
    it.sparsifier.load_state_dict(start)
    mask = it.sparsifier.masks["0.weight"]
    assert torch.equal(it.model.state_dict()["0.weight"], before["0.weight"] * mask)
    assert torch.equal(it.dense_state("0.weight")["momentum_buffer"], state["momentum_buffer"] * mask)


# ---- growth inside the backward pass


@pytest.mark.parametrize("parts", [2, 5])
@pytest.mark.parametrize("method", ["dst_ee", "dst_ee, scaled by layer", "granet", "mest", "set"])
def test_micro_batches_are_one_batch(method: str, parts: int) -> None:
    whole, cut = (run(method, model=still, parts=n).train(STEPS) for n in (1, parts))
    assert all(torch.equal(mask, cut.sparsifier.masks[name]) for name, mask in whole.sparsifier.masks.items())
    masked = run(method, "masked", model=still, parts=parts).train(STEPS)
    assert all(torch.equal(mask, cut.sparsifier.masks[name]) for name, mask in masked.sparsifier.masks.items())


def test_fewer_micro_batches_than_announced_are_what_there_is() -> None:
    it, other = run("rigl", micro_batches=4), run("rigl")
    assert it.train(4).sparsifier.updates == other.train(4).sparsifier.updates == 2
    assert all(torch.equal(mask, other.sparsifier.masks[name]) for name, mask in it.sparsifier.masks.items())


def test_an_unannounced_second_backward_is_an_error_on_due_steps() -> None:
    it = run("dst_ee")
    it.backward(1)
    it.backward(1)
    it.optimizer.step()
    it.optimizer.zero_grad()
    it.backward(2)
    with pytest.raises(RuntimeError) as error:
        it.backward(2)
    assert str(error.value) == (
        "8.weight got a gradient from backward pass 2 of step 2, which moves the topology, but 1 was announced, so "
        "growth would be decided by a part of the gradient. Where several micro-batches make one step, say "
        "sparsify(..., micro_batches=2) or how many there are; where a pass is a step of its own, call "
        "optimizer.zero_grad() before it."
    )


@pytest.mark.parametrize("to_none", [True, False])
def test_a_backward_pass_whose_gradients_were_cleared_does_not_count(to_none: bool) -> None:
    """As after a step that a gradient scaler skipped."""
    it, other = (run("rigl", model=still).train(1) for _ in "ab")
    it.backward(7)
    it.optimizer.zero_grad(set_to_none=to_none)
    for each in (it, other):
        each.step()
        each.optimizer.zero_grad(set_to_none=to_none)
        each.train(2)
    assert same(it, other)


def test_a_gradient_asked_for_on_its_own_does_not_count() -> None:
    it, other = (run("rigl", model=still).train(1) for _ in "ab")
    x, y = batch(9)
    torch.autograd.grad(F.mse_loss(it.model(x), y), list(it.model.parameters()))
    assert same(it.train(3), other.train(3))


class Twice(nn.Module):
    """One layer used three times in a forward pass, and one that is used by another name."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.last = nn.Linear(256, 20), nn.Linear(20, 20), nn.Linear(20, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.first(x.flatten(1)))
        for _ in range(3):
            x = torch.tanh(self.again(x))
        return self.last(x)


def twice() -> nn.Module:
    torch.manual_seed(4)
    return Twice()


@pytest.mark.parametrize("parts", [1, 2])
def test_a_layer_used_several_times_is_summed(parts: int) -> None:
    it, masked = (run("dst_ee", engine, model=twice, parts=parts).train(STEPS) for engine in ("cpu", "masked"))
    assert it.sparsifier.engines["again.weight"] == "cpu"
    assert all(torch.equal(mask, masked.sparsifier.masks[name]) for name, mask in it.sparsifier.masks.items())


def test_no_two_dense_gradients_live_at_once(monkeypatch) -> None:
    it = run("dst_ee").train(1)
    alive: list[weakref.ref] = []
    most = 0
    compute = ops.dense_weight_gradient

    def watch(*arguments):
        nonlocal most
        gradient = compute(*arguments)
        alive.append(weakref.ref(gradient))
        most = max(most, sum(reference() is not None for reference in alive))
        return gradient

    monkeypatch.setattr(ops, "dense_weight_gradient", watch)
    it.train(1)
    assert len(alive) == 4
    assert most == 1
    assert it.sparsifier.updates == 1
    it.train(1)
    assert len(alive) == 4  # and none on other steps


def test_methods_that_do_not_grow_by_gradient_never_compute_it(monkeypatch) -> None:
    monkeypatch.setattr(ops, "dense_weight_gradient", None)
    for method in ("static", "set", "mest", "gmp"):
        run(method).train(STEPS)


def test_a_layer_without_a_gradient_stays_as_it_is() -> None:
    it, masked = run("rigl"), run("rigl", "masked")
    for each in (it, masked):
        each.train(1)
        each.model[8].weight.requires_grad_(False)
        each.train(3)
    assert all(torch.equal(mask, masked.sparsifier.masks[name]) for name, mask in it.sparsifier.masks.items())
    assert it.sparsifier.updates == 2


def test_a_gradient_set_by_hand_on_a_due_step_is_refused() -> None:
    it = run("rigl").train(1)
    for parameter in it.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    with pytest.raises(RuntimeError, match="no backward pass went through the layer since that was known"):
        it.optimizer.step()


def test_gradients_of_autograd_grad_set_by_hand_are_refused() -> None:
    it = run("rigl").train(1)
    x, y = batch(9)
    gradients = torch.autograd.grad(F.mse_loss(it.model(x), y), list(it.model.parameters()))
    for parameter, gradient in zip(it.model.parameters(), gradients, strict=True):
        parameter.grad = gradient
    with pytest.raises(RuntimeError, match=r"its \.grad was set by hand"):
        it.optimizer.step()


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_a_gradient_that_is_not_finite_moves_nothing(bad: float) -> None:
    it = run("dst_ee").train(1)
    masks = it.sparsifier.masks
    x, y = batch(1)
    y[0, 0] = bad
    F.mse_loss(it.model(x), y).backward()
    with pytest.raises(FloatingPointError, match="NaN or inf at step 2, so its weights cannot be ranked"):
        it.optimizer.step()
    assert all(torch.equal(mask, it.sparsifier.masks[name]) for name, mask in masks.items())


def test_growth_reads_places_that_are_not_active_even_if_they_alone_are_not_finite() -> None:
    model = nn.Linear(4, 1, bias=False)
    optimizer = torch.optim.SGD([model.weight], lr=0.1)
    start = {"weight": torch.tensor([[True, True, False, False]])}
    rigl = dataclasses.replace(METHODS["rigl"](0.5), due=Every(1, 1))
    sparsifier = rewire.sparsify(model, optimizer, rigl, start=start, engine="cpu")
    model(torch.tensor([[1.0, 2.0, 1e38, 1e38]])).mul(1e10).sum().backward()
    assert bool(model.weight.grad.isfinite().all())
    with pytest.raises(FloatingPointError, match="The gradient of weight has NaN or inf"):
        optimizer.step()
    assert torch.equal(sparsifier.masks["weight"], start["weight"])


class Broken(Score):
    needs = frozenset({Need("gradient", "due")})

    def __call__(self, layer):
        return layer.dense_grad() * torch.nan


def test_a_score_that_is_not_a_number_is_said_by_the_update() -> None:
    it = run(Method("broken", Magnitude(), Broken(), Constant(0.3), Every(1, 5)))
    it.backward(1)
    with pytest.raises(FloatingPointError, match="no mask was changed"):
        it.optimizer.step()


def test_an_update_by_hand() -> None:
    value = dataclasses.replace(METHODS["dst_ee"](0.4), due=Every(100, 200))
    it, masked = run(value), run(value, "masked")
    for each in (it, masked):
        each.train(1)
        each.sparsifier.watch()
        each.backward(2)
        each.optimizer.step()
        assert sum(each.sparsifier.update().moved.values()) > 0
        each.optimizer.zero_grad()
        each.train(2)
        with pytest.raises(RuntimeError, match="watch"):
            each.sparsifier.update()
    assert all(torch.equal(mask, masked.sparsifier.masks[name]) for name, mask in it.sparsifier.masks.items())


def test_a_share_of_ones_own_sees_all_layers() -> None:
    value = Method("own", Magnitude(), Gradient(), Constant(0.3), Every(2, 6), share=Proportional(Magnitude()))
    it, masked = run(value).train(7), run(value, "masked").train(7)
    assert it.sparsifier.updates == 3
    assert all(torch.equal(mask, masked.sparsifier.masks[name]) for name, mask in it.sparsifier.masks.items())


def test_clipping_is_that_of_masked_mode() -> None:
    """Where a dropped weight may come back, masked mode sees its gradient clipped, the engine as it was."""
    norms = {}
    for engine in ("cpu", "masked"):
        it = run("dst_ee, no regrowth", engine)
        norms[engine] = []
        for step in range(1, 7):
            it.backward(step)
            norms[engine].append(float(it.sparsifier.clip_grad_norm_(0.01)))
            it.optimizer.step()
            it.optimizer.zero_grad()
    assert norms["cpu"] == pytest.approx(norms["masked"], rel=1e-4)


# ---- what is kept


@pytest.mark.parametrize(("sparsity", "most"), [(0.95, 0.22), (0.98, 0.16)])
def test_what_is_kept_between_steps_is_small(sparsity: float, most: float) -> None:
    model = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 64, 64))
    weights = 64 * 64 * 9 + 64 * 64 * 64
    optimizer = sgd([p for p in model.parameters() if p.ndim > 1])
    sparsifier = rewire.sparsify(model, optimizer, METHODS["dst_ee"](0.4), sparsity=sparsity, engine="cpu")
    for _ in range(4):
        model(torch.randn(16, 64, 8, 8)).square().mean().backward()
        optimizer.step()
    held = list(optimizer.param_groups[0]["params"])
    kept = sum(p.nbytes + p.grad.nbytes + optimizer.state[p]["momentum_buffer"].nbytes for p in held)
    assert (kept + sparsifier.nbytes) / (12 * weights) < most
    gc.collect()
    big = [o for o in gc.get_objects() if torch.is_tensor(o) and o.numel() == 64 * 64 * 64 and o.element_size() > 1]
    assert big == []


def test_visits_are_bits_where_no_score_counts_them() -> None:
    it = run("rigl").train(5)
    for storage in it.storages().values():
        assert storage._visits.nbytes == -(-storage.numel // 8)
        assert not hasattr(storage, "active")


def test_an_abandoned_layer_leaves_no_watcher() -> None:
    gc.collect()
    before = set(ops.watchers)
    it = run("rigl").train(1)
    assert set(ops.watchers) != before
    del it
    gc.collect()
    assert set(ops.watchers) == before


def test_the_same_parameter_is_trained_in_the_same_place() -> None:
    model = cnn()
    groups = [{"params": [model[0].weight], "lr": 0.1}, {"params": list(model[3].parameters())}]
    optimizer = torch.optim.SGD(groups, lr=0.2)
    rewire.sparsify(model, optimizer, rewire.static(), sparsity=0.8, engine="cpu", exclude=["5", "8"])
    assert [[tuple(p.shape) for p in group["params"]] for group in optimizer.param_groups] == [
        [tuple(model[0].weight.shape)],
        [tuple(model[3].weight.shape), (12,)],
    ]
    assert optimizer.param_groups[0]["params"][0] is model[0].weight


# ---- back to dense


def test_remove_gives_the_dense_model_back_which_goes_on_training() -> None:
    it = run("dst_ee", optimizer="adam").train(5)
    masks, before = it.sparsifier.masks, {k: v.clone() for k, v in it.model.state_dict().items()}
    state = {name: it.dense_state(name) for name in masks}
    it.sparsifier.remove()
    assert [type(module) for module in it.model] == [type(module) for module in cnn()]
    assert all(torch.equal(value, before[name]) for name, value in it.model.state_dict().items())
    for name in masks:
        weight = it.model.get_parameter(name)
        kept = {key: value for key, value in it.optimizer.state[weight].items() if value.shape == weight.shape}
        assert kept.keys() == state[name].keys()
        assert all(torch.equal(value, state[name][key]) for key, value in kept.items())
    assert len(it.optimizer.state) == len(list(it.model.parameters()))
    out = it.model(batch(1)[0])
    assert type(out) is torch.Tensor
    it.step()
    assert it.model[0].weight[~masks["0.weight"]].any()  # nothing masks it any more
    rewire.sparsify(it.model, sgd(it.model.parameters()), rewire.static(), sparsity=0.5, engine="cpu")


def test_to_dense_is_a_copy_and_training_goes_on() -> None:
    it, other = run("dst_ee").train(3), run("dst_ee").train(3)
    dense = it.sparsifier.to_dense()
    assert [type(module) for module in dense] == [type(module) for module in cnn()]
    assert all(torch.equal(v, it.model.state_dict()[name]) for name, v in dense.state_dict().items())
    assert not dense._forward_hooks
    x = batch(1)[0]
    torch.testing.assert_close(dense.eval()(x), it.model.eval()(x), rtol=1e-4, atol=1e-5)
    it.model.train()
    assert same(it.train(3), other.train(3))
    masked = run("dst_ee", "masked")
    assert masked.sparsifier.to_dense().state_dict().keys() == dense.state_dict().keys()


def test_a_file_of_rewire_save_holds_the_engines_model(tmp_path) -> None:
    it = run("dst_ee").train(3)
    rewire.save(it.model, tmp_path / "model.safetensors", it.sparsifier.masks)
    loaded = rewire.load(tmp_path / "model.safetensors", cnn())
    assert all(torch.equal(v, loaded.state_dict()[name]) for name, v in it.model.state_dict().items())
    again = run("static", seed=3)
    rewire.load(tmp_path / "model.safetensors", again.model)  # takes what is active there
    for name, mask in again.sparsifier.masks.items():
        assert torch.equal(again.model.state_dict()[name], it.model.state_dict()[name] * mask)


# ---- what cannot work


def refused(kind: type[Exception], method: Method | None = None, **options) -> str:
    model = options.pop("model", None) or cnn()
    optimizer = options.pop("optimizer", None) or sgd(model.parameters())
    before, types = copy.deepcopy(model.state_dict()), [type(module) for module in model.modules()]
    with pytest.raises(kind) as error:
        rewire.sparsify(model, optimizer, method or METHODS["rigl"](0.3), sparsity=0.9, **{"engine": "cpu"} | options)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert types == [type(module) for module in model.modules()]
    assert {id(p) for p in model.parameters()} == {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert not model._forward_hooks
    assert not getattr(optimizer, "_optimizer_step_post_hooks", None)
    return str(error.value)


def test_an_optimizer_with_state_is_refused() -> None:
    model = cnn()
    optimizer = sgd(model.parameters())
    model(batch(1)[0]).sum().backward()
    optimizer.step()
    assert refused(ValueError, model=model, optimizer=optimizer) == (
        'The optimizer has taken steps already and keeps momentum_buffer of 0.weight, but engine="cpu" puts the active '
        "weights in the place of the dense ones before the first step. Call sparsify() with a new optimizer, and load "
        "a checkpoint's state after that."
    )


def test_state_that_an_optimizer_makes_before_its_first_step_moves_along() -> None:
    it = run("dst_ee", optimizer="sgd")
    it.optimizer.zero_grad()
    model = cnn()
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.01, initial_accumulator_value=0.5)
    rewire.sparsify(model, optimizer, METHODS["rigl"](0.3), sparsity=0.9, engine="cpu")
    assert torch.equal(optimizer.state[model[0].weight]["sum"], torch.full(model[0].weight.shape, 0.5))
    for step in range(1, 4):
        F.mse_loss(model(batch(step)[0]), batch(step)[1]).backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"engine": "gpu"}, 'engine=\'gpu\' is unknown. Use "masked" on any device, or "cpu" for speed on the CPU.'),
        ({"micro_batches": 0}, "micro_batches=0 is not the number of backward passes"),
        (
            {"method": METHODS["snfs"](0.3)},
            'snfs follows the dense gradient at every step, but engine="cpu" has it for a moment at an update only. '
            'Use engine="masked", or a method that reads the gradient only then, such as dst_ee(steps=...).',
        ),
        (
            {"method": METHODS["top_kast"](0.3)},
            'top_kast keeps a number of its own for every weight, active or not, but engine="cpu" keeps active weights '
            'alone. Use engine="masked", or another method, such as dst_ee(steps=...).',
        ),
    ],
)
def test_what_cannot_work_is_said(options: dict, text: str) -> None:
    assert text in refused(ValueError, options.pop("method", None), **options)


def test_several_processes_are_refused(monkeypatch) -> None:
    monkeypatch.setattr("rewire.checks.distributed_processes", lambda: 2)
    assert refused(ValueError).startswith('engine="cpu" trains in one process')


def test_a_model_that_is_packed_already_is_refused() -> None:
    it = run("rigl")
    with pytest.raises(ValueError, match=r"Call \.remove\(\) on that"):
        rewire.sparsify(it.model, sgd(it.model.parameters()), rewire.static(), sparsity=0.9)
    copied = copy.deepcopy(it.model)
    rewire.sparsify(copied, sgd(copied.parameters()), rewire.static(), sparsity=0.9)


def test_without_kernels_everything_stays_masked(monkeypatch) -> None:
    monkeypatch.setattr(library, "load", lambda: None)
    it = run("dst_ee")
    assert set(it.sparsifier.engines.values()) == {"masked: no kernels"}
    assert [type(module) for module in it.model] == [type(module) for module in cnn()]
    assert same(it.train(5), run("dst_ee", "masked").train(5))


class Everything(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.groups = nn.Conv2d(8, 8, 3, groups=4)
        self.dilation = nn.Conv2d(8, 8, 3, dilation=2)
        self.stride = nn.Conv2d(8, 8, 3, stride=4)
        self.uneven = nn.Conv2d(8, 8, 3, stride=(1, 2))
        self.mode = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.same = nn.Conv2d(8, 8, 2, padding="same")
        self.one = nn.Conv1d(8, 8, 3)
        self.double = nn.Linear(8, 8).double()
        self.tied = nn.Linear(8, 8)
        self.other = nn.Linear(8, 8)
        self.other.weight = self.tied.weight
        self.hooked = nn.Linear(8, 8)
        self.hooked.weight.register_hook(lambda gradient: gradient * 2)
        self.attention = nn.MultiheadAttention(8, 2)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.replaced = nn.Linear(8, 8)
        self.replaced.forward = lambda x: x  # type: ignore[method-assign]
        self.good = nn.Conv2d(8, 8, (3, 5), padding="same")
        self.valid = nn.Conv2d(8, 8, 1, stride=2, padding="valid")


def test_what_the_engine_cannot_run_stays_masked_and_says_why() -> None:
    model = Everything()
    sparsifier = rewire.sparsify(model, sgd(model.parameters()), rewire.static(), sparsity=0.5, engine="cpu")
    assert sparsifier.engines == {
        "groups.weight": "masked: groups=4",
        "dilation.weight": "masked: dilation=(2, 2)",
        "stride.weight": "masked: stride=(4, 4)",
        "uneven.weight": "masked: stride=(1, 2)",
        "mode.weight": "masked: padding_mode=reflect",
        "same.weight": "masked: padding='same' of an even kernel",
        "one.weight": "masked: a Conv1d",
        "double.weight": "masked: torch.float64",
        "tied.weight": "masked: shared with other.weight",
        "hooked.weight": "masked: its weight has hooks",
        "attention.in_proj_weight": "masked: a MultiheadAttention",
        "attention.out_proj.weight": "masked: a NonDynamicallyQuantizableLinear",
        "encoder.self_attn.in_proj_weight": "masked: a MultiheadAttention",
        "encoder.self_attn.out_proj.weight": "masked: a NonDynamicallyQuantizableLinear",
        "encoder.linear1.weight": "masked: nn.TransformerEncoderLayer reads the weight itself",
        "encoder.linear2.weight": "masked: nn.TransformerEncoderLayer reads the weight itself",
        "replaced.weight": "masked: a Linear of its own",
        "good.weight": "cpu",
        "valid.weight": "cpu",
    }
    assert "masked: groups=4" in str(sparsifier)


def test_an_engine_that_can_run_nothing_says_so() -> None:
    model = nn.Sequential(nn.Conv1d(4, 8, 3), nn.Conv1d(8, 8, 3))
    with pytest.warns(UserWarning, match=r"can run none of the sparse layers \(0.weight: a Conv1d, \.\.\.\)"):
        sparsifier = rewire.sparsify(model, sgd(model.parameters()), rewire.static(), sparsity=0.5, engine="cpu")
    assert set(sparsifier.engines.values()) == {"masked: a Conv1d"}
    assert not model._forward_hooks


def test_masked_and_packed_layers_train_side_by_side() -> None:
    def mixed() -> nn.Module:
        model = cnn()
        model[3] = nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=2)
        return model

    it, masked = (run("dst_ee", engine, model=mixed).train(STEPS) for engine in ("cpu", "masked"))
    assert sorted(it.sparsifier.engines.values()) == ["cpu", "cpu", "cpu", "masked: groups=2"]
    assert all(torch.equal(mask, masked.sparsifier.masks[name]) for name, mask in it.sparsifier.masks.items())
    assert not it.model[3].weight[~it.sparsifier.masks["3.weight"]].any()


def test_random_growth_and_first_topologies_are_those_of_masked_mode() -> None:
    for options in ({}, {"start": Magnitude(), "distribution": "global"}, {"start": Random(), "seed": 7}):
        it, masked = run("set", **options), run("set", "masked", **options)
        assert all(torch.equal(mask, masked.sparsifier.masks[name]) for name, mask in it.sparsifier.masks.items())
        assert same(it, masked)


def test_n_m_and_blocks_need_no_sparsity_argument() -> None:
    for structure in (NM(2, 4), Block(2, 2)):
        it = run("set", model=mlp, structure=structure, exclude=["5"]).train(3)
        assert it.sparsifier.updates == 1


# ---- under a compiler


COMPILED = """
import dataclasses, sys

import torch
from engine.reference import Run, still
from torch._dynamo.testing import CompileCounterWithBackend

import rewire

backend, density = sys.argv[1:]
value = rewire.dst_ee(9, every=1, fraction=0.4, c=1e-2)
if density == "rising":
    value = dataclasses.replace(value, density=rewire.CubicDensity(0.9, 0, 4))
it, other = Run(value, model=still), Run(value, model=still)
counter = CompileCounterWithBackend(backend)
eager, it.model = it.model, torch.compile(it.model, fullgraph=True, backend=counter)
for _ in range(7):
    it.step()
    other.step()
    assert all(torch.equal(mask, other.sparsifier.masks[name]) for name, mask in it.sparsifier.masks.items())
for name, weight in eager.state_dict().items():
    torch.testing.assert_close(weight, other.model.state_dict()[name], rtol=1e-4, atol=1e-6)
assert set(it.sparsifier.engines.values()) == {"cpu"}
print(counter.frame_count)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "density", "graphs"), [("eager", "constant", 1), ("aot_eager", "rising", 5)])
def test_a_compiled_graph_sees_new_topologies(backend: str, density: str, graphs: int) -> None:
    """In a process of its own: the compiler cannot see through the tests' checker of shapes."""
    run = subprocess.run(
        [sys.executable, "-c", COMPILED, backend, density],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert int(run.stdout) == graphs
