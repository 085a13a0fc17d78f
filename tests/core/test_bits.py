"""Bit-packing against a table, against numpy, and back."""

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rewire.core.bits import pack_bits, unpack_bits


@pytest.mark.parametrize(
    ("bits", "packed"),
    [
        ("", []),
        ("1", [1]),
        ("01", [2]),
        ("00000001", [128]),
        ("11111111", [255]),
        ("000000001", [0, 1]),
        ("10100000" "01000000" "1", [5, 2, 1]),
    ],
)  # fmt: skip
def test_the_lowest_bit_comes_first(bits: str, packed: list[int]) -> None:
    mask = torch.tensor([bit == "1" for bit in bits], dtype=torch.bool)
    assert pack_bits(mask).tolist() == packed
    assert pack_bits(mask).dtype == torch.uint8
    assert torch.equal(unpack_bits(pack_bits(mask), mask.shape), mask)


@given(shape=st.lists(st.integers(0, 7), max_size=4), seed=st.integers(0, 1000))
def test_there_and_back_and_equal_to_numpy(shape: list[int], seed: int) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.3
    packed = pack_bits(mask)
    assert packed.tolist() == numpy.packbits(mask.numpy().reshape(-1), bitorder="little").tolist()
    assert torch.equal(unpack_bits(packed, mask.shape), mask)


def test_the_order_is_the_logical_one_in_any_memory_layout() -> None:
    mask = torch.rand(4, 3, 5, 5) < 0.5
    for layout in (mask.to(memory_format=torch.channels_last), mask.flip(0).flip(0), mask.mT.contiguous().mT):
        assert torch.equal(pack_bits(layout), pack_bits(mask))


def test_packing_leaves_the_mask_alone() -> None:
    mask = torch.tensor([True, False] * 8)
    pack_bits(mask)
    assert mask.tolist() == [True, False] * 8


@pytest.mark.parametrize("size", [1, 3])
def test_bytes_of_another_mask_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="bytes") as error:
        unpack_bits(torch.zeros(size, dtype=torch.uint8), (3, 3))
    assert str(error.value) == (
        f"{size} bytes are not a mask of shape (3, 3), because its 9 weights at eight to a byte take 2. "
        "Give the bytes and the shape of the same mask."
    )
