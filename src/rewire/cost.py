"""What a run takes of the machine: memory at its highest, and energy where a counter tells it."""

from __future__ import annotations

import ctypes
import gc
import logging
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, final

import torch
from torch import distributed


@final
class PeakMemory:
    """The most memory that a run held at once, in bytes, since this was made; None where the machine does not tell.

    On CUDA, of the tensors on the device. On the CPU, of this process, Python and torch included; Linux alone tells it
    of a part of a process's life (proc(5): 5 into clear_refs, VmHWM). What lies unused in the heap is given back first,
    so that a run does not pay for the one before it in the same process.
    """

    def __init__(self, device: torch.device) -> None:
        self.bytes: int | None = 0
        self._device = device
        gc.collect()
        self.watch()

    def watch(self) -> None:
        """Forgets what was held and is no longer, unless `read` has seen it."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        elif self._device.type != "cpu" or not _forget_resident_peak():
            self.bytes = None

    def read(self) -> int | None:
        """Returns `bytes` as of now."""
        if self.bytes is not None:
            cuda = self._device.type == "cuda"
            self.bytes = max(self.bytes, torch.cuda.max_memory_allocated(self._device) if cuda else _resident_peak())
        return self.bytes

    def resume(self, earlier: int | None) -> None:
        """Goes on from what an earlier part of the run held, None where nobody recorded it."""
        self.bytes = None if self.bytes is None else earlier

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out what is held in the meantime, as while a checkpoint is written."""
        self.read()
        yield
        self.watch()


def _forget_resident_peak() -> bool:
    """Lets the kernel count the most resident memory of this process anew; False where it cannot."""
    if sys.platform != "linux":
        return False
    with suppress(AttributeError):  # a C library other than glibc
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _resident_peak() > 0
    except OSError:
        return False


def _resident_peak() -> int:
    """Returns the most resident memory of this process in bytes, 0 where the kernel does not count it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


@final
class Energy:
    """The energy of the processor, and of the GPU of a run on one, while a run trains, in kWh.

    CodeCarbon (https://codecarbon.io) reads their counters: RAPL, NVML, ... What it cannot read it estimates, memory
    always; estimates are left out. Counters do not tell programs apart: on a busy machine they count the others too.
    CodeCarbon itself takes some 40 MB, which the peak memory of the same run holds.

    make: returns a tracker for a device and for a function that hears all totals so far, as `codecarbon` does; None
    records nothing.
    """

    def __init__(self, device: torch.device, make: Callable[[torch.device, Callable[[Any], None]], Any] | None) -> None:
        self._device = device
        self._tracker: Any = make(device, self._hear) if make else None
        self._before = {"cpu": 0.0, "gpu": 0.0}
        self._since: dict[str, float] = {}  # the parts that are counted

    @property
    def kwh(self) -> dict[str, float]:
        """Energy at the last `read` or `end`, of "cpu" and "gpu", where it is counted."""
        return {part: self._before[part] + spent for part, spent in self._since.items()}

    def resume(self, before: Mapping[str, float]) -> None:
        """Goes on from the `kwh` of a part of the run that came before."""
        self._before = dict(before)

    def begin(self) -> list[str]:
        """Begins to count; returns what the user should read where it was asked for and cannot be."""
        if self._tracker is None:
            return []
        if _side_by_side():
            return ["Energy is left out: the counters do not tell processes apart that train at the same time."]
        if not self._before:
            return ["Energy is left out: the part of the run before the checkpoint was not counted."]
        self._tracker.start()
        own = {"cpu"} if self._device.type == "cpu" else {"cpu", "gpu"}
        self._since = dict.fromkeys(sorted(counted(self._tracker) & own & self._before.keys()), 0.0)
        if self._since:
            return []
        self._tracker.stop()
        return ["Energy is left out: no counter can be read here, and CodeCarbon's figures would be estimates."]

    def read(self) -> dict[str, float]:
        """Returns `kwh` as of now."""
        if self._since:
            self._tracker.flush()
        return self.kwh

    def end(self) -> None:
        """Ends the counting; `kwh` stays."""
        if self._since:
            self._tracker.stop()

    def _hear(self, totals: Any) -> None:
        self._since = {part: getattr(totals, f"{part}_energy") for part in self._since}


def counted(tracker: Any) -> set[str]:
    """Returns the parts of the machine whose counters a tracker of CodeCarbon reads once it has started: "cpu", "gpu".

    CodeCarbon does not say it in public. Where a later version keeps it elsewhere, nothing counts as read.
    """
    found = set()
    for hardware in getattr(tracker, "_hardware", ()):
        kind, mode = type(hardware).__name__, getattr(hardware, "_mode", None)
        if kind in ("AppleSiliconChip", "Raspberry"):  # powermetrics, PMIC
            found.add(hardware.chip_part.lower())
        elif kind == "CPU" and mode in ("intel_rapl", "windows_emi", "intel_power_gadget"):  # not cpu_load, constant
            found.add("cpu")
        elif kind == "GPU" and hardware.gpu_ids:  # NVML
            found.add("gpu")
    return found & {"cpu", "gpu"}


def codecarbon(device: torch.device, hear: Callable[[Any], None]) -> Any:
    """Returns a tracker of CodeCarbon for a run on `device` that stays off the network, the disk and the terminal.

    hear: called with the totals at every flush and at the end. Raises ImportError where CodeCarbon is not installed.
    """
    try:
        from codecarbon import OfflineEmissionsTracker
    except ImportError as error:
        raise ImportError(
            'codecarbon is not installed, and --energy needs it. Type: pip install "rewire[energy]"'
        ) from error
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)  # first, because it speaks before it reads log_level
    return OfflineEmissionsTracker(
        output_methods=[],
        output_handlers=[SimpleNamespace(out=lambda totals, delta: hear(totals), exit=lambda: None)],
        api_call_interval=-1,
        log_level="critical",
        gpu_ids=_gpu_ids(device),
        # What a configuration file or the environment could change otherwise. Carbon is not asked for.
        allow_multiple_runs=True,
        electricitymaps_api_token="",
        emissions_endpoint=None,
        force_carbon_intensity_g_co2e_kwh=0.0,
        force_cpu_power=None,
        force_mode_cpu_load=False,
        pue=1.0,
        tracking_mode="machine",
    )


def _gpu_ids(device: torch.device) -> list[int]:
    """Returns the driver's number of a GPU, which need not be torch's; none where the two do not know it alike."""
    if device.type != "cuda":
        return []
    from codecarbon.core.gpu import AllGPUDevices

    name = str(torch.cuda.get_device_properties(device).uuid)
    return [gpu["gpu_index"] for gpu in AllGPUDevices().get_gpu_static_info() if gpu["uuid"].endswith(name)]


def _side_by_side() -> bool:
    """Whether this is one of several processes that train, under torchrun or as a job of a comparison."""
    return multiprocessing.parent_process() is not None or (distributed.is_available() and distributed.is_initialized())
