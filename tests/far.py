"""A device apart: it computes on the CPU, but what waits for it, or is copied to it or from it, is written down.

Where there is no GPU it says what a GPU would wait for. To torch it is a backend written in Python (`PrivateUse1`),
which a process cannot take back: run what uses it in a process of its own, as `steps_of` does.

    python tests/far.py '{"method": "dst_ee"}' ...

prints a line of JSON for each case that is given so: see `first_steps`.
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "far"
READS = ("_local_scalar_dense", "equal", "is_nonzero", "item", "masked_select", "nonzero", "unique", "_unique2")
STEPS, EVERY = 6, 4


def steps_of(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns `first_steps` of each case, from a process of its own."""
    command = [sys.executable, __file__, *map(json.dumps, cases)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


class Far(Tensor):
    """A tensor on that device; `near` holds its values."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor) -> "Far":
        layout = {"strides": near.stride(), "storage_offset": near.storage_offset(), "dtype": near.dtype}
        made: Far = torch.Tensor._make_wrapper_subclass(cls, near.shape, device=f"{NAME}:0", **layout)
        made.near = near
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function} outside of Watched")


class Watched(TorchDispatchMode):
    """Computes what is asked of the device; launches: calls by op, views apart. waits: what the host waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = [x for x in _pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        far = [x for x in given if isinstance(x, Far)]
        name = function.overloadpacket.__name__
        device = torch.device(kwargs["device"]).type if kwargs.get("device") else None
        away = name in READS or (far and device == "cpu")
        if far or device == NAME:
            # A number of the host is an argument of the kernel, but `where` copies even that.
            copies = any(x.ndim > 0 or name == "where" for x in given if not isinstance(x, Far))
            by_mask = name in ("index", "index_put_", "index_put") and _has_mask(args)
            if away or copies or by_mask:
                self.waits[name] += 1
            if not function.is_view and not name.startswith("empty"):
                self.launches[name] += 1
        found = function(*_pytree.tree_map(_near, args), **_pytree.tree_map(_near, kwargs))
        if away or not (far or device == NAME):
            return found
        return _pytree.tree_map(partial(_far, {id(x.near): x for x in far}), found)


def _has_mask(args: Any) -> bool:
    return any(isinstance(x, Tensor) and x.dtype == torch.bool for x in _pytree.tree_leaves(args[1]))


def _near(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value.near if isinstance(value, Far) else value


def _far(known: dict[int, Far], value: Any) -> Any:
    if not isinstance(value, Tensor) or isinstance(value, Far):
        return value
    return known[id(value)] if id(value) in known else Far(value)


def register() -> None:
    from torch.utils import backend_registration

    class Module(backend_registration._DummyBackendModule):
        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16, torch.float16]

    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=Module())


# What a careless step might do with its loss.
CARELESS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda loss: loss.item(),
    "if": lambda loss: bool(loss > 0),
    "cpu": lambda loss: loss.cpu(),
    "mask": lambda loss: loss.reshape(1)[torch.ones(1, dtype=torch.bool, device=NAME)],
    "nonzero": lambda loss: loss.reshape(1).nonzero(),
    "copy": lambda loss: loss + torch.arange(3).to(NAME),
}


def _scaled(run: Any, scaler: torch.amp.GradScaler, inputs: Tensor, target: Tensor) -> None:
    """One step of somebody's loop with a gradient scaler."""
    scaler.scale(run.task.loss(run.model(inputs), target)).backward()
    scaler.step(run.optimizer)
    scaler.update()
    run.optimizer.zero_grad()


def _careless(run: Any, what: Callable[[Tensor], object], inputs: Tensor, target: Tensor) -> None:
    run._learn(inputs, target, 0.1)
    what(run.loss_sum)


def first_steps(case: dict[str, Any], device: str = NAME) -> dict[str, Any]:
    """Returns what the first steps of a run did: "steps" by op, batches included, and "masks", where they have led.

    case: fields of the recipe; careless: something of CARELESS that each step does as well; scaled: whether a
    GradScaler takes the steps.
    """
    from rewire.processes import Processes
    from rewire.recipe import Recipe, Runtime
    from rewire.training import Run

    usual = {"model": "cnn", "batch_size": 64, "augment": "crop_flip", "every": EVERY, "channels_last": True}
    careless, scaled = case.get("careless"), case.get("scaled")
    fields = {name: value for name, value in case.items() if name not in ("careless", "scaled")}
    found = []
    with Watched() as watched:
        with Processes.join(device) as processes:
            run = Run(Recipe(**(usual | fields)), Runtime(device=device), Path(), processes)
        step = partial(run._learn, rate=0.1)
        if scaled:
            step = partial(_scaled, run, torch.amp.GradScaler(device))
        if careless:
            step = partial(_careless, run, CARELESS[careless])
        batches = run.batches.epoch(0)
        for _ in range(STEPS):
            watched.launches.clear()
            watched.waits.clear()
            step(*next(batches))
            found.append({"launches": dict(watched.launches), "waits": dict(watched.waits)})
        masks = {name: "".join("01"[bit] for bit in mask.cpu().flatten().tolist()) for name, mask in run.masks.items()}
    return {"steps": found, "masks": masks}


if __name__ == "__main__":
    torch.set_num_threads(1)
    register()
    for case in sys.argv[1:]:
        print(json.dumps(first_steps(json.loads(case))))
