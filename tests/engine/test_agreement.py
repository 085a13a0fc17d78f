"""Engine and masked mode are one training: in every structure, at every batch size, in everybody's own loop."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from engine.reference import Run, Watched, batch, cnn, same, still
from test_contract import METHODS, OPTIMIZERS, STRUCTURES
from torch import nn
from torch.nn import functional as F

import rewire
from rewire.core.schedule import Every
from rewire.engine import library

torch.set_num_threads(1)

pytestmark = pytest.mark.skipif(library.load() is None, reason="no kernels for this machine")


# ---- updates and losses


@pytest.mark.parametrize("structure", [name for name in STRUCTURES if name != "unstructured"])
@pytest.mark.parametrize("method", ["dst_ee", "rigl", "set"])
def test_updates_pick_the_same_units_in_every_structure(method: str, structure: str, monkeypatch) -> None:
    """From the same state, 20 times; test_packed has single weights."""
    value = dataclasses.replace(METHODS[method](0.3), due=Every(1, 20))
    options = {"model": still, "structure": STRUCTURES[structure], "exclude": ["8.weight"]}
    masked, engine = Run(value, "masked", **options), Run(value, **options)
    moved = 0
    for _ in range(20):
        engine.load(masked.states())
        before, seen = masked.sparsifier.masks, Watched(monkeypatch)
        masked.step()
        monkeypatch.undo()
        engine.steps = masked.steps - 1
        engine.step()
        theirs = engine.sparsifier.masks
        for place, (name, storage) in enumerate(masked.storages().items()):
            mask = storage.mask()
            units = (storage.structure.fold(each)[..., 0] for each in (mask, theirs[name]))
            assert seen.astray(place, *units) == 0
            moved += int((mask ^ before[name]).sum())
    assert masked.sparsifier.updates == engine.sparsifier.updates == 20
    assert moved > 100


@pytest.mark.parametrize("optimizer", ["sgd nesterov", "adamw"])
def test_losses_of_a_hundred_steps_at_a_fixed_topology(optimizer: str) -> None:
    runs = [Run(rewire.static(), engine, OPTIMIZERS[optimizer], model=cnn) for engine in ("cpu", "masked")]
    engine, masked = ([run.step() for _ in range(100)] for run in runs)
    assert engine == pytest.approx(masked, rel=1e-3)


# ---- batches of any size


def smooth() -> nn.Sequential:
    """Every kind of layer, and nothing that decides by a last bit."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(4, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.SiLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 10, 1, stride=2),
        nn.Tanh(),
        nn.Conv2d(10, 8, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 6),
    )


def test_batches_of_every_size() -> None:
    """From 1 to 130, so full and part-filled blocks of 16, with the dense model's gradients each time."""
    model = smooth()
    sparsifier = rewire.sparsify(
        model, torch.optim.SGD(model.parameters()), rewire.static(), sparsity=0.5, engine="cpu"
    )
    dense, masks = sparsifier.to_dense(), sparsifier.masks
    for size in range(1, 131):
        x, y = batch(size, size)
        for each in (model, dense):
            each.zero_grad()
            out = each(x)
            assert out.shape == (size, 6)
            F.mse_loss(out, y).backward()
        for (name, own), right in zip(model.named_parameters(), dense.parameters(), strict=True):
            gradient = right.grad[masks[name]] if name in masks else right.grad
            torch.testing.assert_close(own.grad, gradient, rtol=1e-4, atol=1e-6, msg=f"{name} of {size} images")
    for own, right in zip(model.buffers(), dense.buffers(), strict=True):
        torch.testing.assert_close(own, right)


class Aside(nn.Module):
    """A batch norm whose result is thrown away, beside the way to the loss."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.conv, self.norm, self.last = nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        F.relu(self.norm(y))
        return self.last(y.mean((2, 3)))


def test_a_batch_norm_that_nobody_reads_counts_its_batches() -> None:
    engine, masked = (Run(rewire.rigl(9, every=2), engine, model=Aside).train(5) for engine in ("cpu", "masked"))
    assert masked.model.norm.running_mean.any()
    for name, value in masked.model.state_dict().items():
        torch.testing.assert_close(engine.model.state_dict()[name], value, rtol=1e-3, atol=1e-5)


# ---- the same bits


@pytest.mark.parametrize("threads", [1, 2])
def test_a_run_repeats_itself_bit_for_bit(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        first, second = (Run(METHODS["dst_ee"](0.4), optimizer=OPTIMIZERS["adamw"]).train(9) for _ in range(2))
    finally:
        torch.set_num_threads(before)
    assert first.sparsifier.updates == 3
    assert same(first, second)


WORKER = """
import torch
from engine.reference import Run, batch
import rewire

torch.set_num_threads(2)
run = Run(rewire.rigl(9, every=2)).train(5)
run.model.eval()
x = batch(0, 20)[0]
with torch.no_grad():
    right = run.model(x)

class Evaluated(torch.utils.data.Dataset):
    def __len__(self):
        return 20

    def __getitem__(self, place):
        with torch.no_grad():
            return run.model(x[place : place + 1])[0]

loader = torch.utils.data.DataLoader(Evaluated(), 4, num_workers=2, multiprocessing_context="fork")
torch.testing.assert_close(torch.cat(list(loader)), right)
run.model.train()
run.train(4)
torch.testing.assert_close(torch.cat(list(loader)).shape, right.shape)
print(run.sparsifier.updates)
"""


def test_workers_that_were_forked_from_a_training_process_compute() -> None:
    """In a process of its own, for threads that wait for one another would stop this one."""
    run = subprocess.run(
        [sys.executable, "-c", WORKER], cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=100
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert int(run.stdout) == 3


# ---- under a compiler


COMPILED = """
import sys
import torch
from engine.reference import Run, batch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
import rewire

def tiny():
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.SiLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.SiLU(),
        nn.Conv2d(12, 16, 3, padding=1), nn.SiLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 8, 3, padding=1), nn.Flatten(), nn.Linear(8, 6),
    )

method = rewire.dst_ee(9, every=1, fraction=0.4, c=1e-2)
it, other = Run(method, model=tiny), Run(method, model=tiny)
assert set(it.sparsifier.engines.values()) == {"cpu"}
counter = CompileCounterWithBackend(sys.argv[1])
eager, it.model = it.model, torch.compile(it.model, fullgraph=True, backend=counter)
for _ in range(7):
    it.step()
    other.step()
    assert all(torch.equal(mask, other.sparsifier.masks[name]) for name, mask in it.sparsifier.masks.items())
for name, weight in eager.state_dict().items():
    torch.testing.assert_close(weight, other.model.state_dict()[name], rtol=1e-3, atol=1e-5)
print(counter.frame_count, it.sparsifier.updates)
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_one_graph_lasts_for_all_updates_on_maps_of_one_place(backend: str) -> None:
    """There the length of a stream follows the topology, and a graph that saw it would be compiled anew each time."""
    command = [sys.executable, "-c", COMPILED, backend]
    run = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.split() == ["1", "7"]


# ---- loops of one's own


class Loop:
    """A model, an optimizer and a sparsifier, in which `step` is one step of a loop somebody might write."""

    def __init__(self, engine: str, step: Callable[["Loop", int], None], build: str = "sgd nesterov") -> None:
        self.model = still()
        weights = [parameter for parameter in self.model.parameters() if parameter.ndim > 1]
        biases = [parameter for parameter in self.model.parameters() if parameter.ndim == 1]
        self.optimizer = OPTIMIZERS[build]([{"params": weights}, {"params": biases, "weight_decay": 0.0}])
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 9)
        self.sparsifier = rewire.sparsify(
            self.model, self.optimizer, METHODS["dst_ee"](0.4), sparsity=0.7, engine=engine
        )
        self.second = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.9)
        for number in range(1, 10):
            step(self, number)

    def loss(self, number: int) -> torch.Tensor:
        x, y = batch(number)
        return F.mse_loss(self.model(x), y)


def groups_and_schedules(loop: Loop, number: int) -> None:
    loop.loss(number).backward()
    loop.optimizer.step()
    loop.optimizer.zero_grad()
    loop.schedule.step()
    loop.second.step()


def zeroed_in_place(loop: Loop, number: int) -> None:
    loop.loss(number).backward()
    loop.optimizer.step()
    loop.optimizer.zero_grad(set_to_none=False)


def a_closure(loop: Loop, number: int) -> None:
    def closure() -> torch.Tensor:
        loop.optimizer.zero_grad()
        loss = loop.loss(number)
        loss.backward()
        return loss

    loop.optimizer.step(closure)


def two_forwards_and_a_look_between(loop: Loop, number: int) -> None:
    loss = loop.loss(number) + loop.loss(number + 50)
    with torch.no_grad():
        loop.model.eval()
        loop.loss(99)
        loop.model.train()
    loss.backward()
    loop.loss(77)  # a graph that nobody follows
    loop.optimizer.step()
    loop.optimizer.zero_grad()


def eval_mode(loop: Loop, number: int) -> None:
    loop.model.train(number % 2 == 1)  # updates are due after even steps
    groups_and_schedules(loop, number)


def a_pass_that_is_thrown_away(loop: Loop, number: int) -> None:
    loop.loss(number + 30).backward()
    loop.optimizer.zero_grad(set_to_none=number % 4 == 0)
    zeroed_in_place(loop, number)


def a_group_that_comes_later(loop: Loop, number: int) -> None:
    if number == 3:
        loop.model.scale = nn.Parameter(torch.ones(()))
        loop.optimizer.add_param_group({"params": [loop.model.scale]})
    loss = loop.loss(number)
    (loss * loop.model.scale if number >= 3 else loss).backward()
    loop.optimizer.step()
    loop.optimizer.zero_grad()


def frozen_for_a_while(loop: Loop, number: int) -> None:
    loop.model[3].weight.requires_grad_(not 3 <= number <= 6)
    groups_and_schedules(loop, number)


def second_steps_on_one_gradient(loop: Loop, number: int) -> None:
    loop.loss(number).backward(retain_graph=True)
    loop.optimizer.step()
    loop.optimizer.zero_grad()


LOOPS = (
    groups_and_schedules,
    zeroed_in_place,
    a_closure,
    two_forwards_and_a_look_between,
    eval_mode,
    a_pass_that_is_thrown_away,
    a_group_that_comes_later,
    frozen_for_a_while,
    second_steps_on_one_gradient,
)


@pytest.mark.parametrize("build", ["sgd nesterov", "adamw"])
@pytest.mark.parametrize("step", LOOPS)
def test_loops(step: Callable[[Loop, int], None], build: str) -> None:
    engine, masked = (Loop(engine, step, build) for engine in ("cpu", "masked"))
    assert engine.sparsifier.updates == masked.sparsifier.updates == 3
    for name, mask in masked.sparsifier.masks.items():
        assert torch.equal(mask, engine.sparsifier.masks[name]), name
    for name, value in masked.model.state_dict().items():
        torch.testing.assert_close(engine.model.state_dict()[name], value, rtol=1e-3, atol=1e-5)
