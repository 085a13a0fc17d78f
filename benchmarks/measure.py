"""What the benchmark scripts share: interleaved timing, and rows that name the hardware."""

import argparse
import csv
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewire import record

RESULTS = Path(__file__).parent / "results"

# glibc gives large tensors back to the system and faults them in again at every step, which slows the dense side.
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "1000000000000",
    "MALLOC_TOP_PAD_": "268435456",
}


def parser(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """Returns a parser with the flags that every benchmark has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=rounds, help="turns that are timed")
    made.add_argument("--json", action="store_true", help="print one line of JSON")
    made.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV that the row is appended to")
    return made


def restart_with_allocator_settings(**more: str) -> None:
    """Starts the script again under ALLOCATOR, and more, unless it runs so; they are read when a process starts."""
    settings = ALLOCATOR | more
    if any(os.environ.get(key) != value for key, value in settings.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | settings)


def clock(threads: int) -> Callable[[], float]:
    """Returns the clock to measure with: CPU time of the calling thread, the wall clock where more than one works."""
    return (lambda: time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID)) if threads == 1 else time.perf_counter


def interleaved(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    warmup: int,
    now: Callable[[], float] = time.perf_counter,
    turn_s: float = 0,
) -> dict[str, list[float]]:
    """Returns seconds of a call by contender, in rounds A B A B, after `warmup` rounds that are not counted.

    turn_s: with it a turn is as many calls as the contender makes in about so many seconds, at least one, and their
    mean counts. In training a step follows its like; a single short call after another contender's finds the caches
    full of that one's data, and measures how they are filled. Wants a warmup, from which it knows how long a call is.
    """
    assert warmup or not turn_s
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    calls = dict.fromkeys(contenders, 1)
    for turn in range(warmup + rounds):
        for name, call in contenders.items():
            start = now()
            for _ in range(calls[name]):
                call()
            took = (now() - start) / calls[name]
            if turn >= warmup:
                seconds[name].append(took)
            else:
                calls[name] = max(1, round(turn_s / took))
    return seconds


def median_ms(seconds: list[float]) -> float:
    """Returns the median in milliseconds."""
    return round(1e3 * statistics.median(seconds), 3)


class PackedLinear(torch.autograd.Function):
    """A dense linear layer in oneDNN's packed form, which is the faster one on some processors."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _packed(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        dx = _packed(dy, weight.T.contiguous(), None) if ctx.needs_input_grad[0] else None
        return dx, _packed(dy.T.contiguous(), x.T.contiguous(), None), dy.sum(0)


def _packed(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Returns x W^T + b; the weight has changed since the last step and is packed anew."""
    form = torch.ops.mkldnn._reorder_linear_weight(weight, len(x))
    return torch.ops.mkldnn._linear_pointwise(x, form, bias, "none", [], "")


def write(what: str, row: Mapping[str, Any], arguments: argparse.Namespace) -> None:
    """Appends a row to <results>/<what>-<hardware>-torch<version>.csv and prints it."""
    hardware = record.hardware()
    name = re.sub(r"[^a-z0-9]+", "-", f"{hardware['processor']}-{hardware['cores']}cores".lower()).strip("-")
    path = arguments.results / f"{what}-{name}-torch{torch.__version__.split('+')[0]}.csv"
    row = {**row, "commit": record.commit()}
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(json.dumps(row) if arguments.json else "\n".join(f"{key:24} {value}" for key, value in row.items()))
