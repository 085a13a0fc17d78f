"""The training step as a GPU sees it: it waits for nothing, launches little for masks, and compiles once."""

import csv
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import far
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from rewire import assembly
from rewire.processes import Processes
from rewire.recipe import Recipe, Runtime
from rewire.record import Record
from rewire.training import Run, Stopped, train, until

torch.set_num_threads(1)

pytestmark = pytest.mark.slow  # a simulated device and what torch compiles

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "accelerator.py"
TINY = Recipe(model="cnn", width=0.5, epochs=2, batch_size=64, every=10, c=1e-3, lr=0.02)  # 20 steps an epoch
LAYERS = 5  # sparse ones of the cnn
COPY = {"_to_copy": 1}  # of what an epoch draws, to the device
METHODS = ("dense", "set", "dst_ee", "snfs", "top_kast", "deep_r", "granet")
CASES = {
    **{name: {"method": name} for name in METHODS},
    "adamw": {"optimizer": "adamw"},
    "dense adamw": {"method": "dense", "optimizer": "adamw"},
    "scaled": {"scaled": True},
    "scaled adamw": {"optimizer": "adamw", "scaled": True},
    "clipped": {"clip": 1.0},
    **{how: {"method": "dense", "careless": how} for how in far.CARELESS},
}


@pytest.fixture(scope="module")
def runs() -> dict[str, dict[str, Any]]:
    """By case: what a run on a device apart has done, see far.first_steps. The topology moves in step far.EVERY."""
    return dict(zip(CASES, far.steps_of(list(CASES.values())), strict=True))


@pytest.fixture(scope="module")
def steps(runs) -> dict[str, list[dict[str, dict[str, int]]]]:
    return {case: run["steps"] for case, run in runs.items()}


# ---- waiting


@pytest.mark.parametrize("case", [case for case in CASES if case not in far.CARELESS])
def test_a_step_waits_for_the_device_at_updates_only(case: str, steps) -> None:
    waits = [step["waits"] for step in steps[case]]
    assert waits[0] == COPY
    due = {far.EVERY - 1} if "dense" not in case else set()
    # Before it GraNet plans its budget, and the steps that AMP has skipped are counted.
    planned = {far.EVERY - 2} if case == "granet" or "scaled" in case else set()
    assert {index for index, waited in enumerate(waits) if index and waited} == due | planned


@pytest.mark.parametrize("how", far.CARELESS)
def test_a_step_that_waits_is_found_out(how: str, steps) -> None:
    assert all(step["waits"] for step in steps[how])


def test_an_update_waits_a_few_times_a_layer(steps) -> None:
    waits = Counter(steps["dst_ee"][far.EVERY - 1]["waits"])
    assert waits["_local_scalar_dense"] <= 14 * LAYERS + 1
    assert waits["_to_copy"] <= LAYERS
    assert waits.keys() == {"_local_scalar_dense", "_to_copy"}


@pytest.mark.parametrize("case", ["set", "dst_ee", "granet", "scaled adamw"])
def test_topologies_are_those_of_the_cpu(case: str, runs) -> None:
    assert runs[case]["masks"] == far.first_steps(CASES[case], "cpu")["masks"]


# ---- launches


@pytest.mark.parametrize(("case", "dense"), [("dst_ee", "dense"), ("adamw", "dense adamw")])
def test_masking_launches_one_kernel_a_layer(case: str, dense: str, steps) -> None:
    """The gradient alone: weights and states are 0 where inactive by arithmetic."""
    masked, plain = (Counter(steps[name][1]["launches"]) for name in (case, dense))
    assert masked - plain == {"where": LAYERS}
    assert not plain - masked


# ---- compiling


def counted(monkeypatch: pytest.MonkeyPatch, compiler: str = "eager") -> CompileCounterWithBackend:
    """Has torch.compile call another compiler, and returns what counts its graphs."""
    counter, compile_ = CompileCounterWithBackend(compiler), torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, options: compile_(model, backend=counter))
    torch._dynamo.reset()
    return counter


def finish(recipe: Recipe, folder: Path, **changes: object) -> tuple[Record, bytes]:
    entry = train(recipe, Runtime(**changes), folder=folder)  # type: ignore[arg-type]
    return entry, (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("change", [{"method": "snfs"}, {"bf16": True, "channels_last": True}], ids=str)
def test_one_graph_serves_a_whole_run(change: dict[str, object], tmp_path: Path, monkeypatch) -> None:
    """Updates, the learning rate, validation on batches of another size and a checkpoint: none compiles anew."""
    recipe = replace(TINY, schedule="cosine", **change)  # type: ignore[arg-type]
    plain, saved = finish(recipe, tmp_path / "plain")
    counter = counted(monkeypatch)
    entry, compiled = finish(replace(recipe, compile=True), tmp_path / "compiled", checkpoint_seconds=0)
    assert entry.result["updates"] == 3
    assert counter.frame_count == 1
    assert entry.curves == plain.curves
    assert compiled == saved


def test_what_recompiles_is_found_out(tmp_path: Path, monkeypatch) -> None:
    counter = counted(monkeypatch)
    with Processes.join("cpu") as processes:
        run = Run(replace(TINY, compile=True), Runtime(), tmp_path, processes)
    for size in (64, 64, 32):
        run._learn(torch.rand(size, 1, 8, 8), torch.randint(10, (size,)), 0.1)
    assert counter.frame_count == 2


def test_on_a_gpu_each_pass_is_one_cuda_graph_of_kernels_chosen_by_rule(monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(torch, "compile", lambda model, options: asked.append(options))
    for exact in (True, False):
        monkeypatch.setattr(torch.backends.cudnn, "deterministic", exact)
        for alone in (True, False):
            assembly.compiled(torch.nn.Linear(2, 2), torch.device("cuda"), alone=alone)
            assert asked.pop() == {"triton.cudagraphs": alone, "deterministic": exact}
    assembly.compiled(torch.nn.Linear(2, 2), torch.device("cpu"))
    assert asked == [{}]


@pytest.mark.slow  # the C++ compiler takes a minute
@pytest.mark.parametrize("change", [{"channels_last": True}, {"bf16": True, "optimizer": "adamw"}], ids=str)
def test_inductor_trains_the_same_and_resumes_exactly(change: dict[str, object], tmp_path: Path) -> None:
    recipe = replace(TINY, **change)  # type: ignore[arg-type]
    plain, _ = finish(recipe, tmp_path / "plain")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    entry, saved = finish(replace(recipe, compile=True), tmp_path / "whole")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    tolerance = 0.05 if recipe.bf16 else 1e-3  # rounded elsewhere, and topologies follow what is rounded
    assert entry.curves["train_loss"] == pytest.approx(plain.curves["train_loss"], rel=tolerance)
    with pytest.raises(Stopped, match="after 33 of 40 steps"):
        train(replace(recipe, compile=True), Runtime(), folder=tmp_path / "parts", should_stop=after(33))
    torch._dynamo.reset()  # as in another process
    assert finish(replace(recipe, compile=True), tmp_path / "parts", resume=True)[1] == saved


# ---- the time limit


def after(steps: int) -> Callable[[], str | None]:
    """A reason to stop before step `steps`, counted from the start of this call."""
    asked = iter([None] * steps)
    return lambda: next(asked, "the test")


def test_a_limit_that_passes_while_torch_compiles_stops_after_that_step(tmp_path: Path, monkeypatch) -> None:
    recipe = replace(TINY, bf16=True, channels_last=True, compile=True)
    clock = [0.0]
    monkeypatch.setattr("rewire.training.time.monotonic", lambda: clock[0])

    def slow(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., object]:
        clock[0] += 600.0
        return graph.forward

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, options: compile_(model, backend=slow))
    torch._dynamo.reset()
    with pytest.raises(Stopped, match=r"Stopped by the time limit after 1 of 40 steps\. .* holds the run"):
        train(recipe, Runtime(time_limit="9m"), folder=tmp_path / "parts")
    resumed, parts = finish(recipe, tmp_path / "parts", resume=True, time_limit="30m")
    whole, saved = finish(recipe, tmp_path / "whole")
    assert parts == saved
    assert resumed.curves == whole.curves


def test_a_limit_counts_from_the_call_and_leaves_other_reasons_their_say(monkeypatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("rewire.training.time.monotonic", lambda: clock[0])
    reasons = [None, None, None, "Ctrl-C"]
    stop = until(10.0, lambda: reasons.pop(0))
    found = []
    for now in (100.0, 110.0, 110.1, 111.0):
        clock[0] = now
        found.append(stop())
    assert found == [None, None, "the time limit", "Ctrl-C"]


# ---- on a GPU

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
FAST = replace(TINY, bf16=True, channels_last=True, augment="crop_flip")


@on_a_gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("method", ["dense", "set", "dst_ee", "snfs"])
def test_a_gpu_is_not_waited_for(method: str, compiled: bool, tmp_path: Path) -> None:
    with Processes.join("cuda") as processes:
        run = Run(replace(FAST, method=method, compile=compiled), Runtime(), tmp_path, processes)
    batches = run.batches.epoch(0)
    for _ in range(4):  # kernels are loaded, compiled and recorded
        run._learn(*next(batches), 0.1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(4):
            run._learn(*next(batches), 0.1)
        with pytest.raises(RuntimeError, match="synchronizing"):
            run.loss_sum.item()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_a_gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("method", ["dense", "dst_ee", "snfs"])
def test_a_run_on_a_gpu_resumes_exactly(method: str, compiled: bool, tmp_path: Path) -> None:
    recipe, there = replace(FAST, method=method, compile=compiled), {"device": "cuda"}
    whole, saved = finish(recipe, tmp_path / "whole", **there)
    with pytest.raises(Stopped):
        train(recipe, Runtime(**there), folder=tmp_path / "parts", should_stop=after(33))  # type: ignore[arg-type]
    resumed, parts = finish(recipe, tmp_path / "parts", resume=True, **there)
    assert parts == saved
    assert resumed.curves == whole.curves


@on_a_gpu
def test_cuda_graphs_train_like_plain_steps(tmp_path: Path) -> None:
    plain, _ = finish(FAST, tmp_path / "plain", device="cuda")
    graphs, _ = finish(replace(FAST, compile=True), tmp_path / "graphs", device="cuda")
    assert graphs.result["updates"] == plain.result["updates"] == 3
    assert graphs.curves["train_loss"] == pytest.approx(plain.curves["train_loss"], rel=0.05)


# ---- the benchmark


@pytest.mark.slow  # trains three networks in a process of its own
def test_the_benchmark_of_an_accelerator_appends_a_row(tmp_path: Path) -> None:
    flags = "--model resnet20 --width 0.25 --device cpu --images 300 --batch 16 --rounds 1 --turn 0 --epochs 2"
    command = [sys.executable, BENCHMARK, *flags.split(), "--json", "--results", tmp_path]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = tmp_path.glob("accelerator-cpu-*.csv")
    with path.open() as file:
        (row,) = csv.DictReader(file)
    assert row["steps"] == "16"  # a tenth of 300 images is held out
    assert float(row["minutes"]) > 0
    average = (999 * float(row["masked_ms"]) + float(row["update_ms"])) / 1000
    assert float(row["ratio"]) == pytest.approx(average / float(row["dense_ms"]), abs=1e-4)
