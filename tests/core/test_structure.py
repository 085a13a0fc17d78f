"""The fold: shapes by hand, inverse for every structure, refusals."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rewire.core.structure import NM, Block, FanIn, Neuron, Structure, Unstructured

SHAPES = [(8, 16), (4, 8, 3), (8, 4, 3, 3), (4, 4, 1, 3, 3)]
STRUCTURES = [Unstructured(), FanIn(), Neuron(), NM(2, 4), Block(4, 2), Block(2, 4)]


@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_unfold_is_the_inverse_of_fold(structure: Structure, shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape)
    if isinstance(structure, Block) and weight[0].numel() % structure.width:
        pytest.skip("the block does not tile this shape")
    folded = structure.fold(weight)
    assert folded.ndim == 3
    assert torch.equal(structure.unfold(folded, weight.shape), weight)


@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
def test_fold_ignores_the_memory_format(structure: Structure) -> None:
    weight = torch.randn(8, 4, 3, 3)
    if isinstance(structure, Block) and 36 % structure.width:
        pytest.skip("the block does not tile this shape")
    last = weight.to(memory_format=torch.channels_last)
    assert torch.equal(structure.fold(weight), structure.fold(last))


def test_two_of_four_groups_run_along_input_channels() -> None:
    weight = torch.arange(2 * 4 * 1 * 2).reshape(2, 4, 1, 2)
    # Output 0, kernel place 0 holds input channels 0, 2, 4, 6 of the flat weight.
    assert NM(2, 4).fold(weight)[0, :, 0].tolist() == [0, 2, 4, 6]
    assert NM(2, 4).fold(weight)[1, :, 0].tolist() == [1, 3, 5, 7]


def test_blocks_tile_rows_and_columns() -> None:
    weight = torch.arange(16).reshape(4, 4)
    assert Block(2, 2).fold(weight)[0].tolist() == [
        [0, 1, 4, 5],
        [2, 3, 6, 7],
        [8, 9, 12, 13],
        [10, 11, 14, 15],
    ]


@given(out=st.integers(1, 6), inputs=st.integers(1, 6), kernel=st.integers(1, 3))
def test_fan_in_has_one_group_per_output(out: int, inputs: int, kernel: int) -> None:
    weight = torch.randn(out, inputs, kernel)
    folded = FanIn().fold(weight)
    assert folded.shape == (out, inputs * kernel, 1)
    assert torch.equal(folded[..., 0], weight.flatten(1))


def test_an_input_that_is_no_multiple_of_m_is_refused() -> None:
    with pytest.raises(ValueError, match=r"conv1.weight has 3 input channels, not a multiple of M=4, .*exclude=") as e:
        NM(2, 4).check("conv1.weight", torch.Size([8, 3, 3, 3]))
    assert "2:4 cannot hold there" in str(e.value)


def test_a_matrix_that_blocks_do_not_tile_is_refused() -> None:
    with pytest.raises(ValueError, match=r"fc.weight is a matrix of 10 x 16, which blocks of 4 x 4 do not tile"):
        Block(4, 4).check("fc.weight", torch.Size([10, 16]))


@pytest.mark.parametrize(("n", "m"), [(0, 4), (5, 4)])
def test_nm_out_of_range_is_refused(n: int, m: int) -> None:
    with pytest.raises(ValueError, match=r"needs 1 <= n <= m. Use for example NM\(2, 4\)"):
        NM(n, m)


def test_a_block_without_a_side_is_refused() -> None:
    with pytest.raises(ValueError, match="has an empty side"):
        Block(0, 4)
