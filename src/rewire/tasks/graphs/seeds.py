"""Random numbers of graphs: streams that share nothing, whole numbers below a bound of their own, and their copies."""

import hashlib

import torch
from jaxtyping import Int64
from torch import Tensor


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A generator on the CPU, determined by both; that of one purpose tells nothing of another's.

    >>> [torch.randint(100, (), generator=generator(0, "walks")).item() for _ in range(2)]
    [6, 6]
    """
    digest = hashlib.blake2b(repr((seed, *purpose)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)


def below(bounds: Int64[Tensor, " n"], draws: torch.Generator) -> Int64[Tensor, " n"]:
    """One whole number for each bound, uniform in 0 .. bound - 1 (but for a bias below bound / 2**62)."""
    return torch.randint(2**62, bounds.shape, generator=draws) % bounds


def moved(numbers: Int64[Tensor, "*shape"], device: torch.device) -> Int64[Tensor, "*shape"]:
    """The same numbers on the device, which a GPU fetches when it comes to it, while the host goes on."""
    if device.type == "cuda":
        return numbers.pin_memory().to(device, non_blocking=True)
    return numbers.to(device)
