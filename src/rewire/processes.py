"""The processes that train one model together under torchrun; without it there is one."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as distributed

T = TypeVar("T")

AGREE_EVERY = 10  # steps between two questions to all processes whether to stop


@dataclass(frozen=True)
class Processes:
    """This process among all: its number, how many there are, and its device."""

    rank: int
    count: int
    device: torch.device

    @staticmethod
    def started() -> int:
        """Returns how many processes torchrun started; 1 without it."""
        return int(os.environ.get("WORLD_SIZE", "1"))

    @staticmethod
    @contextmanager
    def join(device: str) -> Iterator[Processes]:
        """Joins the processes that torchrun started, and leaves them at the end."""
        count = Processes.started()
        if count == 1:
            yield Processes(0, 1, checked_device(device))
            return
        local = int(os.environ.get("LOCAL_RANK", "0"))
        found = checked_device(f"cuda:{local}" if device == "cuda" else device)
        if found.type == "cuda":
            torch.cuda.set_device(found)  # else what NCCL needs is on the first one, in every process
        # Python objects travel over the CPU where one of the backends is for it, so that no question waits for the GPU.
        _meet("cpu:gloo,cuda:nccl" if found.type == "cuda" else "gloo")
        try:
            yield Processes(distributed.get_rank(), count, found)
        finally:
            distributed.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def agree(self, reason: str | None, step: int) -> str | None:
        """Returns a reason to stop as soon as all processes have heard of it, so that they stop at one step."""
        if self.count == 1:
            return reason
        if step % AGREE_EVERY:
            return None
        reasons: list[str | None] = [None] * self.count
        distributed.all_gather_object(reasons, reason)
        return next((found for found in reasons if found), None)

    def shared(self, make: Callable[[], T]) -> T:
        """Returns in every process what the first one makes, or raises in every process what it raises.

        So files are read and written by one of them, and need no disk that all of them see.
        """
        if self.count == 1:
            return make()
        found: list[Any] = [None, None]
        if self.first:
            try:
                found[0] = make()
            except Exception as error:
                found[1] = error
        distributed.broadcast_object_list(found)
        if found[1] is not None:
            raise found[1]
        return found[0]  # type: ignore[no-any-return]


_meetings = itertools.count()  # every process counts the same ones


@cache
def _rendezvous() -> tuple[Any, int, int]:
    """The store that all share, this one's rank, and their number. Kept, as the first process may be its server."""
    return next(distributed.rendezvous("env://"))  # type: ignore[attr-defined,no-any-return]


def _meet(backend: str) -> None:
    """Joins the others in a part of the store that no earlier meeting has used.

    Otherwise a process that is early would find the address at which another one listened the last time.
    """
    store, rank, count = _rendezvous()
    store = distributed.PrefixStore(f"meeting{next(_meetings)}", store)  # type: ignore[attr-defined]
    distributed.init_process_group(backend, store=store, rank=rank, world_size=count)


def checked_device(name: str) -> torch.device:
    """Returns the device of that name. Raises ValueError where this machine does not have it."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # both are torch's, by device and build
        reason = str(error).split("\n")[0].split(". ")[0]  # torch goes on with all that it was not built for
        raise ValueError(
            f'device="{name}" cannot be used here ({reason}). Use cpu, or install a PyTorch built for that device.'
        ) from error
    return device
