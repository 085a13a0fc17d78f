"""Several processes: each on its own device, of one mind, and without a disk that all of them see."""

import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from rewire import processes
from rewire.processes import Processes

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("cuda", [("set_device", "cuda:1"), ("init", "cpu:gloo,cuda:nccl"), ("destroy",)]),
        ("cpu", [("init", "gloo"), ("destroy",)]),
    ],
)
def test_a_process_takes_its_gpu_before_it_joins(
    device: str, expected: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[str, ...]] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(processes, "checked_device", torch.device)
    monkeypatch.setattr(torch.cuda, "set_device", lambda found: heard.append(("set_device", str(found))))
    monkeypatch.setattr(processes, "_meet", lambda backend: heard.append(("init", backend)))
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: heard.append(("destroy",)))
    monkeypatch.setattr(distributed, "get_rank", lambda: 1)
    with Processes.join(device) as joined:
        assert (joined.rank, joined.count) == (1, 2)
    assert heard == expected


def test_one_process_shares_with_itself() -> None:
    alone = Processes(0, 1, torch.device("cpu"))
    assert alone.shared(lambda: 3) == 3
    assert alone.agree("a reason", step=1) == "a reason"


def _takes_part(rank: int, folder: Path) -> None:
    distributed.init_process_group("gloo", f"file://{folder / 'store'}", rank=rank, world_size=2)
    here = Processes(rank, 2, torch.device("cpu"))
    (folder / str(rank)).mkdir()  # a disk of each

    def make() -> dict[str, Any]:
        (folder / str(rank) / "file").write_text("written")
        return {"weight": torch.arange(3), "step": 7}

    found = here.shared(make)
    assert found["step"] == 7
    assert torch.equal(found["weight"], torch.arange(3))
    with pytest.raises(FileNotFoundError, match="nothing in 0"):
        here.shared(lambda: _refuse(rank))
    assert here.agree("of the second" if rank else None, step=10) == "of the second"
    distributed.destroy_process_group()


def _refuse(rank: int) -> None:
    raise FileNotFoundError(f"nothing in {rank}")


def test_what_the_first_process_reads_is_known_to_all(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_takes_part, args=(rank, tmp_path), daemon=True) for rank in (0, 1)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert (tmp_path / "0" / "file").exists()
    assert not (tmp_path / "1" / "file").exists()


def _meets_twice(rank: int, port: int) -> None:
    """As under torchrun, whose store outlives the meetings; the first process is late for the second one."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
            patch.setenv(name, str(value))
        patch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
        for meeting in range(2):
            time.sleep(meeting * (1 - rank))
            with Processes.join("cpu") as joined:
                assert joined.shared(lambda meeting=meeting: meeting) == meeting  # type: ignore[misc]


def test_processes_that_meet_again_do_not_look_for_each_other_where_they_were() -> None:
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_meets_twice, args=(rank, store.port), daemon=True) for rank in (0, 1)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
