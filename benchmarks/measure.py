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
    made.add_argument("--rounds", type=int, default=rounds, help="calls that are timed")
    made.add_argument("--json", action="store_true", help="print one line of JSON")
    made.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV that the row is appended to")
    return made


def restart_with_allocator_settings() -> None:
    """Starts the script again under ALLOCATOR unless it already runs so; they are read when a process starts."""
    if any(os.environ.get(key) != value for key, value in ALLOCATOR.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)


def interleaved(contenders: Mapping[str, Callable[[], object]], rounds: int, warmup: int) -> dict[str, list[float]]:
    """Returns seconds of every call by contender, in rounds A B A B, after `warmup` rounds that are not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(warmup + rounds):
        for name, call in contenders.items():
            start = time.perf_counter()
            call()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def median_ms(seconds: list[float]) -> float:
    """Returns the median in milliseconds."""
    return round(1e3 * statistics.median(seconds), 3)


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
