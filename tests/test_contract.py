"""What holds for every method, every structure and every optimizer."""

import copy
import dataclasses
import functools
import importlib
import io
import itertools
import math
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from reference.lion import Lion
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

import rewire
import rewire.layers
from rewire.core.acquisition import Exploration
from rewire.core.budget import ConstantDensity, CubicDensity
from rewire.core.method import Method
from rewire.core.schedule import Constant, Cosine, Every, Exponential, Linear
from rewire.core.score import Absolute
from rewire.core.share import Keep
from rewire.core.structure import NM, Block, FanIn, Neuron, Structure, Unstructured

torch.set_num_threads(1)

STEPS, EVERY = 9, 2
SPARSITY = 0.7

# fraction -> Method
METHODS: dict[str, Callable[[float], Method]] = {
    "static": lambda fraction: rewire.static(),
    "magnitude": lambda fraction: rewire.magnitude(),
    "snip": lambda fraction: rewire.snip(),
    "grasp": lambda fraction: rewire.grasp(temperature=2.0),
    "synflow": lambda fraction: rewire.synflow(rounds=3),
    "set": lambda fraction: rewire.set_(STEPS, every=EVERY, fraction=fraction),
    "set_itop": lambda fraction: rewire.set_itop(STEPS, every=EVERY, fraction=fraction, end_fraction=fraction / 9),
    "rigl": lambda fraction: rewire.rigl(STEPS, every=EVERY, fraction=fraction),
    "rigl_itop": lambda fraction: rewire.rigl_itop(STEPS, every=EVERY, fraction=fraction, end_fraction=fraction / 9),
    "dst_ee": lambda fraction: _dst_ee(fraction),
    "dst_ee, scaled by layer": lambda fraction: _dst_ee(fraction, c=1.0, scale="layer"),
    "dst_ee, signed": lambda fraction: _dst_ee(fraction, signed=True),
    "dst_ee, no regrowth": lambda fraction: _dst_ee(fraction, regrow=False),
    "dst_ee, Thompson": lambda fraction: _dst_ee(fraction, acquisition="thompson"),
    "dst_ee, epsilon-greedy": lambda fraction: _dst_ee(fraction, acquisition="epsilon", epsilon=0.3),
    "dst_ee, window of 2": lambda fraction: _dst_ee(fraction, window=2),
    "dst_ee, relative": lambda fraction: _dst_ee(fraction, relative=True),
    "chts": lambda fraction: rewire.chts(STEPS, every=EVERY, fraction=fraction),
    "snfs": lambda fraction: rewire.snfs(STEPS, every=EVERY, fraction=fraction),
    "mest": lambda fraction: rewire.mest(STEPS, every=EVERY, fraction=fraction),
    "mest, soft": lambda fraction: rewire.mest(STEPS, every=EVERY, fraction=fraction, soft=True),
    "deep_r": lambda fraction: rewire.deep_r(STEPS, every=EVERY, decay=20 * fraction, temperature=fraction / 4000),
    "dsr": lambda fraction: rewire.dsr(STEPS, every=EVERY, fraction=fraction, threshold=0.05),
    "top_kast": lambda fraction: rewire.top_kast(STEPS, every=EVERY, penalty=5 * fraction),
    "srigl": lambda fraction: rewire.srigl(STEPS, every=EVERY, fraction=fraction, stop=1.0),
    "admm": lambda fraction: rewire.admm(STEPS, every=EVERY, rho=0.1),
    "str": lambda fraction: rewire.str_(STEPS, fold=0.5),
    "gmp": lambda fraction: rewire.gmp(STEPS, every=EVERY),
    "granet": lambda fraction: rewire.granet(STEPS, every=EVERY, fraction=fraction, initial_sparsity=0.2),
    "ac_dc": lambda fraction: rewire.ac_dc(STEPS, every=EVERY),
}
STRUCTURES: dict[str, Structure] = {
    "unstructured": Unstructured(),
    "2:4": NM(2, 4),
    "block": Block(4, 2),
    "fan-in": FanIn(),
    "neuron": Neuron(),
}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "sgd nesterov": lambda parameters: torch.optim.SGD(
        parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
    ),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01, amsgrad=True),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    "adamw fused": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, fused=True),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.01, momentum=0.9, centered=True),
    "radam": lambda parameters: torch.optim.RAdam(parameters, lr=0.01),
    "lion": lambda parameters: Lion(parameters, lr=0.01, weight_decay=0.1),
}
BETWEEN_LAYERS = ("granet", "snfs", "deep_r", "dsr", "str")  # move units: not equal groups, not units of unlike sizes
MOVING = ("gmp", "granet", "ac_dc", "admm", "str")  # the density over training
STILL = ("static", "magnitude", "snip", "grasp", "synflow")  # the topology
ONCE = ("admm", "str")  # they prune at one step alone
EQUAL_GROUPS = ("2:4", "fan-in")
OWN_PACE = ("deep_r", "dsr", "top_kast", "admm")  # no fraction says how much moves


def fits(method: str, structure: str) -> bool:
    """Whether a method makes sense on a structure; what does not is refused, see test_start.py."""
    if method == "srigl":
        return structure == "fan-in"
    if method == "mest, soft":
        return structure != "2:4"
    if method == "chts":
        return structure not in ("block", "neuron")
    if method == "dst_ee, relative":
        return structure != "neuron"
    return not (method in BETWEEN_LAYERS and structure in (*EQUAL_GROUPS, "neuron"))


PRODUCT = [case for case in itertools.product(METHODS, STRUCTURES, OPTIMIZERS) if fits(*case[:2])]
EVERYWHERE = ("sgd nesterov", "adamw")  # with the other optimizers most methods are slow tests: minutes together


def marked(case: tuple[str, str, str]) -> object:
    """A case of the product as a parameter."""
    method, structure, optimizer = case
    usual = (optimizer in EVERYWHERE and (structure != "neuron" or method in ("set", "dst_ee"))) or (
        structure == "unstructured" and method in ("set", "dst_ee", "snfs", "gmp")
    )
    return pytest.param(*case, marks=() if usual else pytest.mark.slow)


# Every method, structure and optimizer at least once; STR, another model while it is dense, has tests of its own.
COVERING = [
    (
        method,
        next(s for s in [list(STRUCTURES)[place // 3 % 5], "block", "fan-in"] if fits(method, s)),
        list(OPTIMIZERS)[place % 8],
    )
    for place, method in enumerate(METHODS)
    if method != "str"
]

product = pytest.mark.parametrize(("method", "structure", "optimizer"), [marked(case) for case in PRODUCT])
covering = pytest.mark.parametrize(("method", "structure", "optimizer"), COVERING)


def _dst_ee(fraction: float, c: float = 1e-2, **options) -> Method:
    return rewire.dst_ee(STEPS, every=EVERY, c=c, fraction=fraction, end_fraction=fraction / 9, **options)


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(4, 8, 2, bias=False), nn.BatchNorm2d(8), nn.Tanh(), nn.Flatten(), nn.Linear(32, 8, bias=False)
    ).to(dtype)


def batch(step: int, dtype: torch.dtype = torch.float32, size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(size, 4, 3, 3, generator=generator, dtype=dtype)
    return x, torch.randn(size, 8, generator=generator, dtype=dtype)


class Run:
    """A model in somebody's own loop."""

    def __init__(
        self,
        method: Method,
        structure: str,
        optimizer: str,
        sparsity: float = SPARSITY,
        dtype: torch.dtype = torch.float32,
        model: nn.Module | None = None,
        **options,
    ) -> None:
        self.model, self.dtype = model or network(dtype), dtype
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        values = STRUCTURES[structure]
        if sparsity == 0 and isinstance(values, NM):
            values = NM(4, 4)
        self.sparsifier = rewire.sparsify(
            self.model,
            self.optimizer,
            method,
            sparsity=None if isinstance(values, NM) else sparsity,
            structure=values,
            batches=[batch(0, dtype)],
            loss=F.mse_loss,
            **options,
        )
        self.steps = 0

    def step(self) -> None:
        self.steps += 1
        x, y = batch(self.steps, self.dtype)
        F.mse_loss(self.model(x), y).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def weights(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if name in self.sparsifier.masks}


def same(first: Run, second: Run) -> bool:
    """Whether two runs agree bit for bit: model, optimizer state, masks and figures."""
    pairs = [
        (first.model.state_dict(), second.model.state_dict()),
        (first.sparsifier.masks, second.sparsifier.masks),
        *zip(
            first.optimizer.state_dict()["state"].values(),
            second.optimizer.state_dict()["state"].values(),
            strict=True,
        ),
    ]
    return first.sparsifier.metrics() == second.sparsifier.metrics() and all(
        a.keys() == b.keys() and all(torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key])) for key in a)
        for a, b in pairs
    )


def test_the_covering_set_has_every_value() -> None:
    assert {method for method, _, _ in COVERING} == set(METHODS) - {"str"}
    assert {structure for _, structure, _ in COVERING} == set(STRUCTURES)
    assert {optimizer for _, _, optimizer in COVERING} == set(OPTIMIZERS)
    assert set(COVERING) <= set(PRODUCT)


# ---- 1 to 3: zeros, budgets, exploration


@product
def test_zeros_budgets_and_exploration_hold_after_every_step(method: str, structure: str, optimizer: str) -> None:
    value = METHODS[method](0.4)
    run = Run(value, structure, optimizer)
    sparsifier = run.sparsifier
    fold = sparsifier.structure.fold
    masks = first = sparsifier.masks
    ever = {name: mask.clone() for name, mask in masks.items()}
    weights = sum(mask.numel() for mask in masks.values())
    last_update, explored, changes = 0, sparsifier.exploration, 0
    assert explored == sparsifier.density
    for step in range(1, STEPS + 1):
        run.step()
        previous, masks = masks, sparsifier.masks
        if value.dynamic and value.due(step):
            last_update = step
            changes += any(not torch.equal(previous[name], masks[name]) for name in masks)
        else:
            assert all(torch.equal(previous[name], masks[name]) for name in masks)
        for name, weight in run.weights().items():
            inactive = ~masks[name]
            states = [v for v in run.optimizer.state[weight].values() if v is not None and v.shape == weight.shape]
            assert len(states) == {"sgd": 0, "adam": 3, "rmsprop": 3, "sgd nesterov": 1, "lion": 1}.get(optimizer, 2)
            trained = masks[name] if value.trained == 1 else sparsifier.trained[name]
            assert not weight[inactive].any()
            assert all(not tensor[~trained].any() for tensor in states)
            ever[name] |= masks[name]
        held = sum(int(mask.sum()) for mask in masks.values())
        if method == "srigl":  # all neurons that are not ablated have the same fan-in
            for name, mask in masks.items():
                counts = fold(mask).sum((1, 2))
                assert len(counts[counts > 0].unique()) == 1
                assert 0 <= int(first[name].sum()) - int(mask.sum()) < int((counts > 0).sum())
        elif method == "mest, soft":
            for name, mask in masks.items():
                budget, groups = int(first[name].sum()), fold(mask).shape[0]
                units, size = fold(mask)[..., 0].numel(), fold(mask).shape[2]
                fraction = value.fraction(last_update) if last_update else 0.0
                extra = math.ceil(fraction * budget / size / groups) * groups
                assert int(mask.sum()) == min(budget + extra * size, units * size)
        elif isinstance(value.share, Keep) and value.density == ConstantDensity():
            for name, mask in masks.items():
                assert torch.equal(fold(mask).sum((1, 2)), fold(first[name]).sum((1, 2)))
        else:
            planned = round(value.density(last_update, 0.5 if structure == "2:4" else 1 - SPARSITY) * weights)
            quantum = {"unstructured": 1, "2:4": 64, "block": 8, "fan-in": 8, "neuron": 32}[structure]
            assert 0 <= planned - held < quantum
            assert all(mask.any() for mask in masks.values())
        for mask in masks.values():  # a unit switches as a whole
            units = fold(mask)
            assert torch.equal(units, units[..., :1].expand_as(units))
        assert sparsifier.exploration == sum(int(mask.sum()) for mask in ever.values()) / weights
        assert sparsifier.exploration >= max(explored, sparsifier.density)
        explored = sparsifier.exploration
    assert sparsifier.step == STEPS
    assert sparsifier.updates == value.updates(STEPS) == (0 if method in STILL else 1 if method in ONCE else 3)
    # Top-KAST's neurons that are trained unseen grow from 0, and under RMSprop none overtakes one that is seen so soon.
    assert changes >= (method not in STILL and (method, structure, optimizer) != ("top_kast", "neuron", "rmsprop"))


MANY_UPDATES = [
    ("granet", "unstructured"),
    ("snfs", "block"),
    ("mest", "2:4"),
    ("dst_ee, no regrowth", "fan-in"),
    ("dst_ee, scaled by layer", "block"),
]
ALL_MANY_UPDATES = [
    pytest.param(method, structure, 400, marks=pytest.mark.slow)  # half a minute together
    for method, structure in itertools.product(METHODS, STRUCTURES)
    if method not in (*STILL, "gmp", "ac_dc", *ONCE, "mest, soft", "srigl") and fits(method, structure)
]


@pytest.mark.parametrize(
    ("method", "structure", "updates"),
    [
        *((*case, 250) for case in MANY_UPDATES),
        *(pytest.param(*case, 3000, marks=pytest.mark.slow) for case in MANY_UPDATES),  # ten seconds each
        *ALL_MANY_UPDATES,
    ],
)
def test_the_total_holds_over_many_updates_with_ties_everywhere(method: str, structure: str, updates: int) -> None:
    value = dataclasses.replace(
        METHODS[method](0.5), due=Every(1, updates), fraction=Constant(0.5), density=ConstantDensity()
    )
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 4, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    dense = structure == "2:4"
    sparsifier = rewire.sparsify(
        model, optimizer, value, sparsity=None if dense else 0.6, structure=STRUCTURES[structure]
    )
    total = sum(int(mask.sum()) for mask in sparsifier.masks.values())
    generator = torch.Generator().manual_seed(3)
    for _ in range(updates):
        for parameter in model.parameters():  # one of three values: nearly all scores are equal
            parameter.grad = torch.randint(-1, 2, parameter.shape, generator=generator).float()
        optimizer.step()
        assert sum(int(mask.sum()) for mask in sparsifier.masks.values()) == total
        assert all(mask.any() for mask in sparsifier.masks.values())
    assert sparsifier.updates == updates
    assert sparsifier.exploration > sparsifier.density


# ---- 5: the limits are ordinary training


@pytest.mark.parametrize(("method", "structure", "optimizer"), [marked(case) for case in PRODUCT if case[0] != "str"])
def test_sparsity_0_is_plain_training_bit_for_bit(method: str, structure: str, optimizer: str) -> None:
    value = _from_dense_granet() if method == "granet" else METHODS[method](0.0 if method in OWN_PACE else 0.4)
    run = Run(value, structure, optimizer, sparsity=0)
    plain = network()
    other = OPTIMIZERS[optimizer](plain.parameters())
    for step in range(1, 4):
        run.step()
        x, y = batch(step)
        F.mse_loss(plain(x), y).backward()
        other.step()
        other.zero_grad()
    assert run.sparsifier.updates == (method not in (*STILL, "admm"))
    assert all(torch.equal(a, b) for a, b in zip(run.model.parameters(), plain.parameters(), strict=True))
    for mine, theirs in zip(run.optimizer.state.values(), other.state.values(), strict=True):
        assert all(torch.equal(torch.as_tensor(mine[key]), torch.as_tensor(theirs[key])) for key in theirs)


def _from_dense_granet() -> Method:
    return dataclasses.replace(METHODS["granet"](0.4), density=CubicDensity(0.0, 0, STEPS))


class Fixed(nn.Module):
    """torch's own way to train under a mask: a parametrization."""

    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * self.mask


@pytest.mark.parametrize(
    ("method", "structure", "optimizer"), [marked(case) for case in PRODUCT if case[0] not in (*OWN_PACE, *ONCE)]
)
def test_fraction_0_is_training_under_a_fixed_mask_bit_for_bit(method: str, structure: str, optimizer: str) -> None:
    value = dataclasses.replace(METHODS[method](0.0), density=ConstantDensity())
    run = Run(value, structure, optimizer)
    other = copy.deepcopy(run.model)
    for name, mask in run.sparsifier.masks.items():
        parametrize.register_parametrization(other.get_submodule(name.removesuffix(".weight")), "weight", Fixed(mask))
    others = OPTIMIZERS[optimizer](other.parameters())
    for step in range(1, 5):
        run.step()
        x, y = batch(step)
        F.mse_loss(other(x), y).backward()
        others.step()
        others.zero_grad()
    assert run.sparsifier.updates == 2 * (method not in STILL)
    for name in run.sparsifier.masks:
        assert torch.equal(run.model.get_parameter(name), other.get_submodule(name.removesuffix(".weight")).weight)
    dense = dict(other.named_parameters())
    assert all(torch.equal(run.model.get_parameter(name), dense[name]) for name in run.sparsifier.dense)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_prints_without_an_address_and_reads_back_equal(method: str) -> None:
    value = METHODS[method](0.3)
    assert " at 0x" not in repr(value)
    names = {kind.__name__: kind for kind in (Constant, Cosine, Linear, Every, Absolute, Exploration, Exponential)}
    assert eval(repr(value), {**names, **_words()}) == value
    assert METHODS[method](0.3) == value
    assert method in STILL or dataclasses.replace(value, regrow=not value.regrow) != value


def _words() -> dict[str, object]:
    modules = ("acquisition", "budget", "groups", "method", "normed", "reservoir", "schedule", "score", "share", "sign")
    ours = [importlib.import_module(f"rewire.core.{name}") for name in (*modules, "structure", "topological")]
    ours.append(importlib.import_module("rewire.pruning"))
    ours.append(importlib.import_module("rewire.methods.dense_to_sparse"))
    return {name: item for module in ours for name, item in vars(module).items()}


# ---- 4: one run, however it is cut


@covering
def test_save_load_continue_is_never_having_stopped(method: str, structure: str, optimizer: str) -> None:
    value = METHODS[method](0.4)
    whole = Run(value, structure, optimizer)
    for _ in range(STEPS):
        whole.step()
    for cut in (3, 4):  # before and after an update
        run = Run(value, structure, optimizer)
        for _ in range(cut):
            run.step()
        file = io.BytesIO()
        parts = (run.sparsifier, run.model, run.optimizer)
        torch.save([part.state_dict() for part in parts], file)
        file.seek(0)
        states = torch.load(file, weights_only=True)
        again = Run(value, structure, optimizer, seed=5)  # another topology, until the state is loaded
        for part, state in zip((again.sparsifier, again.model, again.optimizer), states, strict=True):
            part.load_state_dict(state)
        assert same(run, again)
        again.steps = cut
        for _ in range(cut, STEPS):
            again.step()
        assert same(whole, again)


@covering
def test_loading_in_the_other_order_is_the_same(method: str, structure: str, optimizer: str) -> None:
    value = METHODS[method](0.4)
    run = Run(value, structure, optimizer)
    for _ in range(4):
        run.step()
    again = Run(value, structure, optimizer, seed=5)
    again.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))
    again.model.load_state_dict(run.model.state_dict())
    again.sparsifier.load_state_dict(run.sparsifier.state_dict())
    again.steps = run.steps
    for _ in range(2):
        run.step()
        again.step()
    assert same(run, again)


def _train(
    run: Run, *, parts: int = 1, scaler: torch.amp.GradScaler | None = None, overflow: tuple[int, ...] = (), clip=None
) -> Run:
    """Trains STEPS real steps, in micro-batches, under a gradient scaler; `overflow` lists attempts that fail."""
    attempt = 0
    while run.steps < STEPS:
        attempt += 1
        x, y = batch(run.steps + 1, run.dtype)
        for part_x, part_y in zip(x.chunk(parts), y.chunk(parts), strict=True):
            loss = F.mse_loss(run.model(part_x), part_y) / parts
            (loss if scaler is None else scaler.scale(loss)).backward()
        if attempt in overflow:
            run.model[0].weight.grad.view(-1)[0] = math.inf
            run.model[0].weight.grad.view(-1)[1] = math.nan
        if clip == "by rewire":
            scaler and scaler.unscale_(run.optimizer)
            run.sparsifier.clip_grad_norm_(0.5)
        if scaler is None:
            run.optimizer.step()
        else:
            scaler.step(run.optimizer)
            scaler.update()
        run.optimizer.zero_grad()
        run.steps += attempt not in overflow
        assert run.sparsifier.step == run.steps
    return run


def close(first: Run, second: Run) -> bool:
    """Whether two runs made the same topologies, and the same weights up to rounding in float64."""
    assert first.sparsifier.metrics() == second.sparsifier.metrics()
    masks = second.sparsifier.masks
    return all(torch.equal(mask, masks[name]) for name, mask in first.sparsifier.masks.items()) and all(
        torch.allclose(a, b, rtol=1e-9, atol=1e-12)
        for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True)
    )


def no_norm(run: Run) -> Run:
    """The same run without batch norm, whose statistics depend on the micro-batch."""
    run.model[1] = nn.Identity()
    return run


@covering
def test_micro_batches_are_one_batch(method: str, structure: str, optimizer: str) -> None:
    start = functools.partial(Run, METHODS[method](0.4), structure, optimizer, dtype=torch.float64)
    assert close(_train(no_norm(start())), _train(no_norm(start()), parts=4))


@covering
def test_a_loss_scale_changes_no_mask(method: str, structure: str, optimizer: str) -> None:
    start = functools.partial(Run, METHODS[method](0.4), structure, optimizer)
    plain = _train(start())
    for scale in (2.0**4, 2.0**14):  # powers of two scale without rounding
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        scaled = _train(start(), scaler=scaler)
        assert all(torch.equal(mask, scaled.sparsifier.masks[name]) for name, mask in plain.sparsifier.masks.items())
        assert optimizer == "adamw fused" or same(plain, scaled)  # the fused kernel divides by the scale


FUSED = {
    "sgd": lambda parameters, fused: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, fused=fused),
    "adam": lambda parameters, fused: torch.optim.Adam(parameters, lr=0.01, fused=fused),
    "adamw": lambda parameters, fused: torch.optim.AdamW(parameters, lr=0.01, fused=fused),
}


@pytest.mark.parametrize("clip", [pytest.param(None, marks=pytest.mark.slow), "by rewire"])
@pytest.mark.parametrize("overflow", [(), (3, 6), (2, 4, 5, 8)], ids=["no overflow", "between", "on due steps"])
@pytest.mark.parametrize("method", [method for method, _, _ in COVERING])
def test_plain_amp_is_fused_amp_and_is_no_amp(method: str, overflow, clip, monkeypatch) -> None:
    optimizer = list(FUSED)[len(method) % 3]
    runs = []
    for fused, scaled in ((False, True), (True, True), (False, False)):
        monkeypatch.setitem(OPTIMIZERS, "this", functools.partial(FUSED[optimizer], fused=fused))
        structure = "unstructured" if fits(method, "unstructured") else "fan-in"
        run = Run(METHODS[method](0.4), structure, "this", dtype=torch.float64)
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0) if scaled else None
        runs.append(_train(no_norm(run), scaler=scaler, overflow=overflow if scaled else (), clip=clip))
    assert close(runs[0], runs[1])
    assert close(runs[0], runs[2])


@pytest.mark.parametrize("method", ["set", "rigl", "snfs", "dst_ee"])
def test_a_run_of_overflows_repeats_no_update(method: str, monkeypatch) -> None:
    updates: list[int] = []
    value = dataclasses.replace(METHODS[method](0.4), due=Every(1, STEPS - 1))
    monkeypatch.setitem(OPTIMIZERS, "this", functools.partial(FUSED["adamw"], fused=True))
    run = Run(value, "unstructured", "this", on_update=lambda update: updates.append(update.step))
    _train(run, scaler=torch.amp.GradScaler("cpu", init_scale=256.0), overflow=(1, 3, 4, 5, 9))
    assert updates == list(range(1, STEPS))


def _rank(rank: int, port: int, method: str, structure: str, optimizer: str, folder: str) -> None:
    """One of two processes under DDP: half of every batch each, two micro-batches a step."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    run = no_norm(Run(METHODS[method](0.4), structure, optimizer, dtype=torch.float64))
    whole, model = run.model, nn.parallel.DistributedDataParallel(run.model)
    assert list(rewire.layers.choose(model)[1]) == list(rewire.layers.choose(whole)[1])
    for step in range(1, STEPS + 1):
        x, y = batch(step, torch.float64)
        (x, xx), (y, yy) = x.chunk(2)[rank].chunk(2), y.chunk(2)[rank].chunk(2)
        with model.no_sync():
            (F.mse_loss(model(x), y) / 2).backward()
        (F.mse_loss(model(xx), yy) / 2).backward()
        inactive = ~run.sparsifier.trained["0.weight"]
        value = run.sparsifier.method
        read = any(value.due(step + ahead) for ahead in range(value.window))
        dense = value.gradient == "always" or (value.gradient == "due" and read)
        assert bool(whole[0].weight.grad[inactive].any()) == (dense and bool(inactive.any()))
        run.optimizer.step()
        run.optimizer.zero_grad()
    torch.save(
        {"model": whole.state_dict(), "masks": run.sparsifier.masks, "metrics": run.sparsifier.metrics()},
        f"{folder}/{rank}",
    )
    del model  # its threads must not outlive the group, nor one rank's group the other's
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


# SNIP and GraSP score a process's own batches, and are refused where there are several.
@pytest.mark.slow  # two processes that each import torch
@pytest.mark.parametrize(
    ("method", "structure", "optimizer"), [case for case in COVERING if case[0] not in ("snip", "grasp")]
)
def test_two_ranks_are_one_process(method: str, structure: str, optimizer: str, tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1])  # where the ranks find this module again
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = (port, method, structure, optimizer, str(tmp_path))
    torch.multiprocessing.start_processes(_rank, arguments, nprocs=2, start_method="spawn")
    alone = _train(no_norm(Run(METHODS[method](0.4), structure, optimizer, dtype=torch.float64)))
    for rank in ("0", "1"):
        state = torch.load(tmp_path / rank, weights_only=True)
        assert state["metrics"] == alone.sparsifier.metrics()
        assert all(torch.equal(mask, state["masks"][name]) for name, mask in alone.sparsifier.masks.items())
        for name, value in alone.model.state_dict().items():
            torch.testing.assert_close(value, state["model"][name], rtol=1e-9, atol=1e-12)


# ---- 6: what people do with a model


def test_one_compiled_graph_before_and_after_updates() -> None:
    from torch._dynamo.testing import CompileCounter

    for method, structure, optimizer in COVERING:
        run, counter = Run(METHODS[method](0.4), structure, optimizer), CompileCounter()
        run.model = no_norm(run).model  # running statistics are a matter of their own
        whole, run.model = run.model, torch.compile(run.model, fullgraph=True, backend=counter)
        for _ in range(STEPS):
            run.step()
        assert counter.frame_count == 1, (method, structure, optimizer)
        eager = no_norm(Run(METHODS[method](0.4), structure, optimizer))
        for _ in range(STEPS):
            eager.step()
        run.model = whole
        assert same(run, eager)
        torch._dynamo.reset()


@pytest.mark.slow  # the C++ compiler takes about ten seconds
@pytest.mark.parametrize("method", ["dst_ee", "snfs"])
def test_inductor_gives_the_same_masks(method: str) -> None:
    run, eager = (no_norm(Run(METHODS[method](0.4), "unstructured", "adamw", dtype=torch.float64)) for _ in "ab")
    whole, run.model = run.model, torch.compile(run.model, fullgraph=True)
    for _ in range(STEPS):
        run.step()
        eager.step()
    run.model = whole
    assert close(run, eager)


@covering
def test_a_deep_copy_is_a_plain_model_and_follows_as_an_average(method: str, structure: str, optimizer: str) -> None:
    run = Run(METHODS[method](0.4), structure, optimizer)
    average = torch.optim.swa_utils.AveragedModel(run.model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0))
    for _ in range(3):
        run.step()
        average.update_parameters(run.model)
    for mine, theirs in zip(run.model.parameters(), average.module.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    twin = copy.deepcopy(run.model)
    twin(batch(0)[0]).sum().backward()
    inactive = ~run.sparsifier.masks["0.weight"]
    assert twin[0].weight.grad[inactive].any() or not inactive.any()  # no hook came along
    run.step()
    assert not run.model[0].weight[~run.sparsifier.masks["0.weight"]].any()


@covering
def test_a_whole_model_can_be_saved(method: str, structure: str, optimizer: str) -> None:
    run = Run(METHODS[method](0.4), structure, optimizer)
    run.step()
    file = io.BytesIO()
    torch.save(run.model, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert all(torch.equal(a, b) for a, b in zip(run.model.parameters(), again.parameters(), strict=True))
    again(batch(0)[0]).sum().backward()


@pytest.mark.parametrize("moved", ["before", "after"])
@covering
def test_channels_last_is_the_same_training(method: str, structure: str, optimizer: str, moved: str) -> None:
    model = network(torch.float64)
    if moved == "before":
        model.to(memory_format=torch.channels_last)
    plain = Run(METHODS[method](0.4), structure, optimizer, dtype=torch.float64)
    run = Run(METHODS[method](0.4), structure, optimizer, dtype=torch.float64, model=model)
    if moved == "after":
        model.to(memory_format=torch.channels_last)
    assert run.model[0].weight.is_contiguous(memory_format=torch.channels_last)
    for _ in range(STEPS):
        plain.step()
        run.step()
        for name, weight in run.weights().items():
            assert not weight[~run.sparsifier.masks[name]].any()
    assert run.model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert close(plain, run)


@covering
def test_bf16_autocast_keeps_the_contract(method: str, structure: str, optimizer: str) -> None:
    run = Run(METHODS[method](0.4), structure, optimizer)
    before = run.sparsifier.density
    for step in range(1, STEPS + 1):
        x, y = batch(step)
        with torch.autocast("cpu", torch.bfloat16):
            output = run.model(x)
        assert output.dtype == torch.bfloat16
        F.mse_loss(output.float(), y).backward()
        run.optimizer.step()
        run.optimizer.zero_grad()
        for name, weight in run.weights().items():
            assert not weight[~run.sparsifier.masks[name]].any()
    assert run.sparsifier.updates == METHODS[method](0.4).updates(STEPS)
    assert run.sparsifier.density == before or method in MOVING


@pytest.mark.parametrize(
    ("method", "structure"), dict.fromkeys((method, structure) for method, structure, _ in PRODUCT)
)
def test_a_model_in_bf16_keeps_the_contract(method: str, structure: str) -> None:
    run = Run(METHODS[method](0.4), structure, "sgd nesterov", dtype=torch.bfloat16)
    counts = {name: int(mask.sum()) for name, mask in run.sparsifier.masks.items()}
    for _ in range(STEPS):
        run.step()
        for name, weight in run.weights().items():
            assert not weight[~run.sparsifier.masks[name]].any()
    if method not in (*MOVING, *BETWEEN_LAYERS):
        assert {name: int(mask.sum()) for name, mask in run.sparsifier.masks.items()} == counts
