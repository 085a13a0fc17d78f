"""Scores that do not depend on the scale of an output, and what batch norm does to those that do."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import rewire
from rewire.core.score import Layer
from rewire.core.structure import Structure

torch.set_num_threads(1)

STRUCTURES = [rewire.Unstructured(), rewire.FanIn(), rewire.NM(1, 2), rewire.Block(1, 2)]
SCORES = [rewire.Normed(rewire.Magnitude(), -1), rewire.Normed(rewire.Gradient(), 1)]


def layer(weight: torch.Tensor, grad: torch.Tensor, structure: Structure) -> Layer:
    folded = structure.fold(weight)
    active = (folded != 0).any(-1)
    return Layer(weight.shape, folded, structure.fold(grad), active, active, {}, 10, 1, structure)


def test_by_hand() -> None:
    """Norms 5, 0 and 13 of the three outputs."""
    weight = torch.tensor([[3.0, 0, -4], [0, 0, 0], [5, 12, 0]])
    grad = torch.tensor([[1.0, -2, 0], [7, 8, 9], [-1, 0, 2]])
    case = layer(weight, grad, rewire.Unstructured())
    drop, grow = (score(case).reshape(3, 3) for score in SCORES)
    torch.testing.assert_close(drop, torch.tensor([[0.6, 0, 0.8], [0, 0, 0], [5 / 13, 12 / 13, 0]]))
    torch.testing.assert_close(grow, torch.tensor([[5.0, 10, 0], [0, 0, 0], [13, 0, 26]]))


def test_a_block_takes_the_norms_of_all_its_outputs() -> None:
    """A column of two outputs, of norms 5 and 10, whose gradients are 1 and -2: the mean of 5 and 20."""
    weight, structure = torch.tensor([[3.0, 4], [6, 8]]), rewire.Block(2, 1)
    grad = torch.tensor([[1.0, 0], [-2, 0]])
    scores = SCORES[1](layer(weight, grad, structure)).mean(-1)
    torch.testing.assert_close(scores, torch.tensor([[12.5, 0.0]]))


@given(seed=st.integers(0, 1000), structure=st.sampled_from(STRUCTURES), score=st.sampled_from(SCORES))
def test_the_scale_of_an_output_changes_nothing(seed: int, structure: Structure, score: rewire.Score) -> None:
    """Where the loss does not see the scale of an output, its weights times a have gradients over a."""
    generator = torch.Generator().manual_seed(seed)
    weight, grad = (torch.randn(4, 2, 3, 2, generator=generator) for _ in range(2))
    weight *= torch.rand(weight.shape, generator=generator) < 0.5
    scale = torch.rand(4, 1, 1, 1, generator=generator) + 0.1
    found = [score(layer(w, g, structure)) for w, g in ((weight, grad), (weight * scale, grad / scale))]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("acquisition", ["ucb", "thompson"])
def test_a_bonus_in_units_of_another_score_is_refused(acquisition: str) -> None:
    with pytest.raises(ValueError, match=r"Use one of the two: relative=True, or scale=\"layer\"\.$"):
        rewire.dst_ee(100, every=10, scale="layer", relative=True, acquisition=acquisition)


def small_output() -> tuple[nn.Sequential, torch.optim.Optimizer]:
    """A convolution of 8 outputs under batch norm, one of them a hundredth as large as the others."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 5))
    with torch.no_grad():
        model[0].weight[3] /= 100
    return model, torch.optim.SGD(model.parameters(), lr=0.0)


@pytest.mark.parametrize(("relative", "least", "most"), [(False, 1.0, 1.0), (True, 0.0, 0.5)])
def test_under_batch_norm_growth_by_the_gradient_goes_to_small_outputs(
    relative: bool, least: float, most: float
) -> None:
    """All of it; relative to the norms of outputs they have no privilege: an eighth would be their fair share."""
    model, optimizer = small_output()
    method = rewire.dst_ee(3, every=1, c=0.0, fraction=0.3, end_fraction=0.3, relative=relative)
    sparsifier = rewire.sparsify(model, optimizer, method, sparsity={"*": 0.75, "3": 0.5})
    before = sparsifier.masks["0.weight"]
    images = torch.randn(16, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    nn.functional.cross_entropy(model(images), torch.arange(16) % 5).backward()
    optimizer.step()
    grown = (sparsifier.masks["0.weight"] & ~before).flatten(1).sum(1)
    assert least <= grown[3] / grown.sum() <= most
