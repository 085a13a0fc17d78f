"""Time of a training step of `rewire train`, masked and dense, on one accelerator, interleaved in one run.

    python benchmarks/accelerator.py --model resnet50 --device cuda --sparsity 0.95 --compile [--json]

The steps are those of the training loop itself: batches that are drawn, cropped and mirrored on the device, bfloat16,
channels_last, SGD with momentum. The images are made up, as many as CIFAR has. On a GPU a turn ends when the device
has done its steps; the CPU only serves to see that the script runs.

  dense_ms, masked_ms  a step without a topology update; update_ms  a step with one (DST-EE, every layer)
  host_ms              what Python takes to launch a masked step; where it is above masked_ms the GPU waits for it
  ratio                a masked step, an update in one of `--every` averaged in, over a dense one
  minutes              of `--epochs` at `steps` steps each, masked, updates included; validation and checkpoints are not
  peak_gb              most memory of the masked run, the images included
  waits                what made the host wait for the GPU in a masked step without an update; empty: nothing did
"""

import argparse
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from measure import interleaved, median_ms, parser, write

from rewire import assembly
from rewire.processes import Processes
from rewire.recipe import Recipe, Runtime
from rewire.tasks.data import Dataset
from rewire.training import Run

RATE = 0.01  # learning rate; what it is costs no time
WARMUP = 6  # rounds; torch compiles in the first step, and records its CUDA graphs in the next two
ISSUED = 4  # steps that are launched at once to time the host: few enough for the driver's queue


def main() -> None:
    flags = parser(__doc__, rounds=20)
    flags.add_argument("--model", default="resnet50", help="resnet50, vgg19 or another that `rewire list` shows")
    flags.add_argument("--width", type=float, default=1.0)
    flags.add_argument("--device", default="cuda")
    flags.add_argument("--batch", type=int, default=128)
    flags.add_argument("--sparsity", type=float, default=0.95)
    flags.add_argument("--every", type=int, default=1000, help="steps between two updates, in the stated ratio")
    flags.add_argument("--epochs", type=int, default=160, help="that the stated minutes are of")
    flags.add_argument("--images", type=int, default=50_000)
    flags.add_argument("--compile", action="store_true", help="torch.compile, with CUDA graphs on a GPU")
    flags.add_argument("--float32", action="store_true", help="no bfloat16")
    flags.add_argument("--any-order", action="store_true", help="kernels may add in any order; a run's may not")
    flags.add_argument("--turn", type=float, default=0.3, help="seconds of steps before it is the other's turn")
    arguments = flags.parse_args()
    torch.backends.cudnn.deterministic = not arguments.any_order
    with Processes.join(arguments.device) as processes:
        row = measured(arguments, processes)
    write(re.sub(r"[^a-z0-9]+", "-", f"accelerator {row['device']}".lower()), row, arguments)


def measured(arguments: argparse.Namespace, processes: Processes) -> dict[str, Any]:
    on_gpu = processes.device.type == "cuda"
    recipe = Recipe(
        task="cifar10",
        model=arguments.model,
        width=arguments.width,
        sparsity=arguments.sparsity,
        epochs=arguments.epochs,
        batch_size=arguments.batch,
        augment="crop_flip",
        bf16=not arguments.float32,
        compile=arguments.compile,
        channels_last=True,
    )
    steps = int(0.9 * arguments.images) // arguments.batch  # a tenth is held out
    methods: dict[str, dict[str, Any]] = {
        "masked": {"every": arguments.epochs * steps // 2},  # first, so that its memory is its own; no update comes
        "dense": {"method": "dense"},
        "update": {"every": 1},
    }
    runs: dict[str, Run] = {}
    calls: dict[str, Callable[[], object]] = {}
    peak = ""
    for name, fields in methods.items():
        with mock.patch.object(assembly, "build_dataset", return_value=made_up(arguments.images)):
            runs[name] = Run(replace(recipe, **fields), Runtime(), Path(), processes)
        calls[name] = endless(runs[name]).__next__
        for _ in range(WARMUP):
            calls[name]()
        if on_gpu and name == "masked":
            peak = f"{torch.cuda.max_memory_allocated() / 1e9:.2f}"
    now = synchronised if on_gpu else time.perf_counter
    seconds = interleaved(calls, arguments.rounds, WARMUP, now, arguments.turn)
    ms = {name: median_ms(values) for name, values in seconds.items()}
    average = ((arguments.every - 1) * ms["masked"] + ms["update"]) / arguments.every
    return {
        "model": arguments.model,
        "width": arguments.width,
        "device": torch.cuda.get_device_name() if on_gpu else str(processes.device),
        "batch": arguments.batch,
        "sparsity": arguments.sparsity,
        "compile": arguments.compile,
        "bf16": not arguments.float32,
        "any_order": arguments.any_order,
        "rounds": arguments.rounds,
        **{f"{name}_ms": ms[name] for name in ("dense", "masked", "update")},
        "host_ms": host_ms(calls["masked"]) if on_gpu else "",
        "every": arguments.every,
        "ratio": round(average / ms["dense"], 4),
        "epochs": arguments.epochs,
        "steps": steps,
        "minutes": round(arguments.epochs * steps * average / 60_000, 2),
        "peak_gb": peak,
        "waits": waits(runs["masked"], calls["masked"]) if on_gpu else "",
    }


def made_up(count: int) -> Dataset:
    """Returns random images of CIFAR-10's shape, with random labels."""
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=draws)
    labels = torch.randint(10, (count,), generator=draws)
    mean, std = torch.full((3,), 127.5), torch.full((3,), 73.9)
    return Dataset("made up", images, labels, images[:10], labels[:10], 10, mean, std)


def endless(run: Run) -> Iterator[None]:
    """Takes one step of the run at each call of next, from epoch to epoch."""
    while True:
        for inputs, target in run.batches.epoch(run.epoch):
            run._learn(inputs, target, RATE)
            yield


def synchronised() -> float:
    """Returns the time at which the GPU has done all that was asked of it, in seconds."""
    torch.cuda.synchronize()
    return time.perf_counter()


def host_ms(step: Callable[[], object]) -> float:
    """Returns the milliseconds in which the host launches a step that the GPU need not have done."""
    found = []
    for _ in range(20):
        start = synchronised()
        for _ in range(ISSUED):
            step()
        found.append((time.perf_counter() - start) / ISSUED)
    return median_ms(found)


def waits(run: Run, step: Callable[[], object]) -> str:
    """Returns what torch says where a step within an epoch makes the host wait for the GPU, else nothing."""
    while not 0 < run.step % len(run.batches) <= len(run.batches) - ISSUED:
        step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(ISSUED):
            step()
    except RuntimeError as error:
        return str(error).split("\n")[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return ""


if __name__ == "__main__":
    main()
