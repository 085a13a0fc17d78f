"""Peak memory of a run, and its energy: of a made-up tracker, and of CodeCarbon where it is installed."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import distributed

from rewire import checkpoint, cost, training
from rewire.cost import Energy, PeakMemory, counted
from rewire.recipe import Recipe, Runtime
from rewire.record import Record
from rewire.training import Stopped, train

torch.set_num_threads(1)

TINY = Recipe(hidden=(32,), epochs=3, batch_size=64, every=10)  # 60 steps
CPU_DEVICE, CUDA = torch.device("cpu"), torch.device("cuda")
MEGABYTE = 1 << 20

linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process does not forget an earlier peak")


class CPU:
    """Stands for CodeCarbon's class of that name, which alone says what is read and what is estimated."""

    def __init__(self, mode: str) -> None:
        self._mode = mode


class GPU:
    def __init__(self, gpu_ids: list[int]) -> None:
        self.gpu_ids = gpu_ids


class AppleSiliconChip:
    def __init__(self, chip_part: str) -> None:
        self.chip_part = chip_part


class Tracker:
    """Says at every reading that the processor took 1 kWh more, and the GPU 10 kWh more."""

    def __init__(self, hear: Callable[[Any], None], *hardware: object) -> None:
        self.hear, self._hardware, self.calls = hear, hardware, list[str]()

    def start(self) -> None:
        self.calls.append("start")

    def flush(self) -> None:
        self.calls.append("flush")
        readings = len(self.calls) - 1
        self.hear(SimpleNamespace(cpu_energy=1.0 * readings, gpu_energy=10.0 * readings))

    def stop(self) -> None:
        self.flush()
        self.calls[-1] = "stop"


def energy(device: torch.device, *hardware: object) -> Energy:
    return Energy(device, lambda _, hear: Tracker(hear, *hardware))


def tracked(monkeypatch: pytest.MonkeyPatch, *hardware: object) -> None:
    """Lets runs find made-up hardware in the place of this machine's."""
    monkeypatch.setattr(training, "codecarbon", lambda device, hear: Tracker(hear, *hardware))


def run(folder: Path, **runtime: Any) -> Record:
    return train(TINY, Runtime(**runtime), folder=folder)


def stopped(folder: Path, steps: int, **runtime: Any) -> None:
    asked = iter([None] * steps)
    with pytest.raises(Stopped):
        train(TINY, Runtime(**runtime), folder=folder, should_stop=lambda: next(asked, "the test"))


@linux
def test_peak_memory_is_the_most_that_was_held_and_not_what_was_freed_before() -> None:
    before = PeakMemory(CPU_DEVICE).read()
    assert before is not None
    cycle: list[object] = [torch.ones(64 * MEGABYTE)]  # 256 MB
    cycle.append(cycle)
    heap = [bytearray(60_000) for _ in range(3000)]  # 180 MB in pieces too small for pages of their own
    top = heap.pop()  # so that the C library alone gives nothing below it back
    del cycle, heap
    memory = PeakMemory(CPU_DEVICE)
    idle = memory.read()
    assert idle is not None
    assert idle < before + 32 * MEGABYTE
    values = torch.ones(32 * MEGABYTE)  # 128 MB
    del values
    found = memory.read()
    assert found is not None
    assert 120 * MEGABYTE < found - idle < 160 * MEGABYTE
    assert memory.read() == found
    assert len(top) == 60_000


@linux
def test_what_is_held_in_a_pause_does_not_count() -> None:
    memory = PeakMemory(CPU_DEVICE)
    before = memory.read()
    with memory.paused():
        torch.ones(32 * MEGABYTE)
    found = memory.read()
    assert before is not None
    assert found is not None
    assert found - before < 32 * MEGABYTE


@linux
def test_a_resumed_run_keeps_the_larger_peak() -> None:
    large, small, unknown = (PeakMemory(CPU_DEVICE) for _ in range(3))
    large.resume(10**15)
    small.resume(1)
    unknown.resume(None)
    assert large.read() == 10**15
    found = small.read()
    assert found is not None
    assert found > MEGABYTE
    assert unknown.read() is None


def test_a_machine_that_does_not_tell_leaves_the_figure_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert PeakMemory(torch.device("meta")).read() is None
    monkeypatch.setattr(cost, "_forget_resident_peak", lambda: False)
    memory = PeakMemory(CPU_DEVICE)
    memory.resume(10**15)
    assert memory.read() is None
    assert "peak_memory" not in run(tmp_path).result


def test_on_cuda_it_is_that_of_the_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks, asked = iter([100, 300, 200]), []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", asked.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: next(peaks))
    memory = PeakMemory(CUDA)
    assert [memory.read() for _ in range(3)] == [100, 300, 300]
    assert asked == [CUDA]


@pytest.mark.parametrize(
    ("hardware", "parts"),
    [
        ([CPU("intel_rapl")], {"cpu"}),
        ([CPU("cpu_load"), GPU([0])], {"gpu"}),
        ([CPU("constant"), GPU([])], set()),
        ([AppleSiliconChip("CPU"), AppleSiliconChip("GPU")], {"cpu", "gpu"}),
        ([SimpleNamespace(), object()], set()),  # memory; what a later version may bring
    ],
)
def test_estimates_do_not_count_as_read(hardware: list[object], parts: set[str]) -> None:
    assert counted(SimpleNamespace(_hardware=hardware)) == parts
    assert counted(SimpleNamespace()) == set()


def test_energy_by_hand() -> None:
    found = energy(CPU_DEVICE, CPU("intel_rapl"), GPU([0]))
    assert found.kwh == {}
    assert found.begin() == []
    assert found.kwh == {"cpu": 0}
    assert found.read() == {"cpu": 1}
    assert found.read() == {"cpu": 2}
    found.end()
    assert found.kwh == {"cpu": 3}


def test_the_gpu_counts_in_a_run_on_one_and_parts_of_a_run_add_up() -> None:
    found = energy(CUDA, CPU("intel_rapl"), GPU([0]))
    found.resume({"cpu": 0.5, "gpu": 0.25})
    assert found.begin() == []
    assert found.read() == {"cpu": 1.5, "gpu": 10.25}
    found = energy(CUDA, CPU("intel_rapl"), GPU([0]))
    found.resume({"gpu": 0.25})  # before it, the processor could not be read
    assert found.begin() == []
    assert found.read() == {"gpu": 10.25}


@pytest.mark.parametrize("side_by_side", ["torchrun", "a job of a comparison"])
def test_processes_that_share_counters_have_no_energy(side_by_side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if side_by_side == "torchrun":
        monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    else:
        monkeypatch.setattr(cost.multiprocessing, "parent_process", lambda: object())
    found = energy(CPU_DEVICE, CPU("intel_rapl"))
    assert found.begin() == [
        "Energy is left out: the counters do not tell processes apart that train at the same time."
    ]
    found.end()
    assert found.read() == {}


def test_a_run_is_counted_from_its_first_step_to_its_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracked(monkeypatch, CPU("intel_rapl"))
    result = run(tmp_path, energy=True).result
    assert result["cpu_energy_kwh"] == 1  # the reading at the end
    assert "gpu_energy_kwh" not in result
    assert not any("energy" in name for name in run(tmp_path / "unasked").result)


def test_a_resumed_run_adds_its_energy_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracked(monkeypatch, CPU("intel_rapl"))
    stopped(tmp_path, 30, energy=True)
    assert checkpoint.load(tmp_path / "checkpoint.pt", TINY.identity())["energy"] == {"cpu": 1}
    assert run(tmp_path, energy=True, resume=True).result["cpu_energy_kwh"] == 2


@pytest.mark.parametrize("counted_part", ["the first", "the second"])
def test_half_of_a_run_is_not_the_energy_of_a_run(
    counted_part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked(monkeypatch, CPU("intel_rapl"))
    stopped(tmp_path, 30, energy=counted_part == "the first")
    lines: list[str] = []
    heard = training.Progress()
    monkeypatch.setattr(heard, "warn", lines.append)
    runtime = Runtime(energy=counted_part == "the second", resume=True)
    assert "cpu_energy_kwh" not in train(TINY, runtime, folder=tmp_path, progress=heard).result
    before = "Energy is left out: the part of the run before the checkpoint was not counted."
    assert (before in lines) == (counted_part == "the second")


def test_an_estimate_is_no_figure_and_a_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracked(monkeypatch, CPU("cpu_load"))
    lines: list[str] = []
    heard = training.Progress()
    monkeypatch.setattr(heard, "warn", lines.append)
    entry = train(TINY, Runtime(energy=True), folder=tmp_path, progress=heard)
    assert not any("energy" in name for name in entry.result)
    assert lines[0] == ("Energy is left out: no counter can be read here, and CodeCarbon's figures would be estimates.")


def test_a_counter_that_stands_still_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tracker, "flush", lambda self: self.hear(SimpleNamespace(cpu_energy=0.0, gpu_energy=0.0)))
    tracked(monkeypatch, CPU("intel_rapl"))
    monkeypatch.setattr(Tracker, "stop", Tracker.flush)
    assert "cpu_energy_kwh" not in run(tmp_path, energy=True).result


def test_a_run_that_breaks_ends_the_counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Tracker] = []
    monkeypatch.setattr(
        training, "codecarbon", lambda device, hear: made.append(Tracker(hear, CPU("intel_rapl"))) or made[0]
    )
    with pytest.raises(FloatingPointError):
        train(replace(TINY, method="static", lr=1e6, weight_decay=1.0), Runtime(energy=True), folder=tmp_path)
    assert made[0].calls == ["start", "stop"]


@linux
def test_a_checkpoint_carries_the_peak_and_one_without_leaves_it_out(tmp_path: Path) -> None:
    stopped(tmp_path, 30)
    state = checkpoint.load(tmp_path / "checkpoint.pt", TINY.identity())
    assert state["peak_memory"] > 10 * MEGABYTE
    state["peak_memory"] = 10**15
    rest = {name: value for name, value in state.items() if name not in ("format", "recipe")}
    checkpoint.save(tmp_path / "checkpoint.pt", TINY.identity(), rest)
    assert run(tmp_path, resume=True).result["peak_memory"] == 10**15
    for name in ("peak_memory", "energy"):  # as checkpoints of earlier versions
        del rest[name]
    checkpoint.save(tmp_path / "checkpoint.pt", TINY.identity(), rest)
    assert "peak_memory" not in run(tmp_path, resume=True).result


def test_without_codecarbon_the_command_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with pytest.raises(ImportError) as found:
        run(tmp_path, energy=True)
    assert str(found.value) == 'codecarbon is not installed, and --energy needs it. Type: pip install "rewire[energy]"'
    run(tmp_path)  # which does not ask for it


def test_codecarbon_is_quiet_and_only_counters_make_a_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With the package itself, on whatever machine this is."""
    pytest.importorskip("codecarbon")
    monkeypatch.setattr("socket.socket.connect", lambda self, address: pytest.fail(f"it calls {address}"))
    monkeypatch.chdir(tmp_path)
    trackers: list[Any] = []
    make = cost.codecarbon
    monkeypatch.setattr(training, "codecarbon", lambda *given: trackers.append(make(*given)) or trackers[-1])
    result = run(tmp_path / "run", energy=True).result
    readable = counted(trackers[0]) & {"cpu"}
    assert {name for name in result if "energy" in name} <= {f"{part}_energy_kwh" for part in readable}
    assert trackers[0]._hardware, "this version keeps what it reads elsewhere: see rewire.cost.counted"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert capfd.readouterr() == ("", "")
