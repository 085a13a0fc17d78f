"""The options of DST-EE beyond the paper: which values they make, and what they do in a run."""

import math
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import rewire
from rewire.core.acquisition import EpsilonGreedy, Exploration, Thompson
from rewire.core.normed import Normed
from rewire.core.schedule import Cosine, Every, Exponential, Linear
from rewire.core.score import Absolute, Gradient, Magnitude, RecentGradientMean, Score
from rewire.core.structure import NM, Block, FanIn, Structure, Unstructured

torch.set_num_threads(1)


def grow(**options) -> Score | None:
    return rewire.dst_ee(1000, every=100, **options).grow


# ---- values


def test_plain_dst_ee_is_what_it_was() -> None:
    made = rewire.dst_ee(1000, every=100)
    plain = rewire.Method(
        "dst_ee", Magnitude(), Gradient() + Exploration(1e-5), Cosine(0.5, 0.005, 1000), Every(100, 900)
    )
    assert made == plain
    assert repr(made) == repr(plain)
    assert "grow=Sum(first=Gradient(signed=False), second=Exploration(c=1e-05, eps=1.0, scale='none'))" in repr(made)


def test_what_each_option_makes() -> None:
    assert grow(signed=True, c=0.1) == Absolute(Gradient(signed=True) + Exploration(0.1))
    assert grow(acquisition="thompson", c=0.1, eps=2.0, scale="layer") == Gradient() + Thompson(0.1, 2.0, "layer")
    assert grow(acquisition="thompson", signed=True) == Absolute(Gradient(signed=True) + Thompson(1e-5))
    assert grow(acquisition="epsilon") == EpsilonGreedy(Gradient(), 0.1)
    assert grow(acquisition="epsilon", epsilon=0.5, window=3) == EpsilonGreedy(RecentGradientMean(3), 0.5)
    assert grow(window=4) == RecentGradientMean(4) + Exploration(1e-5)
    assert grow(window=4, signed=True) == Absolute(RecentGradientMean(4, signed=True) + Exploration(1e-5))
    assert grow(relative=True, window=4) == Normed(RecentGradientMean(4), 1) + Exploration(1e-5)
    assert rewire.dst_ee(1000, every=100, relative=True).drop == Normed(Magnitude(), -1)
    falling = Exponential(1e-2, 0.9, 1000)
    assert grow(c=1e-2, c_decay=0.9) == Gradient() + Exploration(falling)
    assert grow(c=1e-2, c_decay=0.9, c_decay_every=50, acquisition="thompson") == Gradient() + Thompson(
        Exponential(1e-2, 0.9, 50)
    )


def test_options_that_an_acquisition_does_not_read_change_nothing() -> None:
    assert grow(epsilon=0.7) == grow()
    assert grow(c_decay_every=7) == grow()
    assert grow(acquisition="epsilon", signed=True, c=3.0, scale="layer", c_decay=0.5) == grow(acquisition="epsilon")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"acquisition": "ts"}, 'acquisition="ts" is unknown. Use "ucb", "thompson" or "epsilon".'),
        ({"acquisition": "epsilon", "epsilon": 2.0}, "epsilon=2.0 is outside [0, 1]"),
        ({"acquisition": "thompson", "c": -1.0}, "c=-1.0 is not a bonus"),
        ({"c": -1.0, "c_decay": 0.5}, "c=-1.0 is not a bonus"),
        (
            {"c_decay": 1.5},
            "c_decay=1.5 with c=1e-05 cannot be, because c must be a number, which is multiplied by c_decay, in (0, "
            "1], again and again. Use c_decay=0.9, or c_decay=1 to leave c as it is.",
        ),
        ({"c_decay": 0.0}, "c_decay=0.0 with c=1e-05 cannot be"),
        ({"c_decay": math.nan}, "c_decay=nan with c=1e-05 cannot be"),
        (
            {"c_decay": 0.9, "c": Linear(1.0, 0.0, 9)},
            "c_decay=0.9 with c=Linear(start=1.0, end=0.0, steps=9) cannot be",
        ),
        ({"c_decay": 0.9, "c_decay_every": 0}, "Exponential(every=0) is not possible"),
        ({"window": 0}, "window=0 is not a number of steps to average the gradient over"),
        (
            {"window": 101},
            "window=101 is longer than the 100 steps between two updates, and each update begins a window anew. Use at "
            "most window=100.",
        ),
    ],
)
def test_options_that_cannot_be(options: dict, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        grow(**options)


# ---- runs


def run(method: rewire.Method, structure: Structure = Unstructured()) -> tuple[rewire.Sparsifier, list[torch.Tensor]]:
    """A short run of one layer; its masks after the start and after every update."""
    torch.manual_seed(3)
    model = nn.Linear(16, 12, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    masks: list[torch.Tensor] = []
    sparsifier = rewire.sparsify(
        model,
        optimizer,
        method,
        sparsity=None if isinstance(structure, NM) else 0.75,
        structure=structure,
        on_update=lambda _: masks.append(sparsifier.masks["weight"]),
    )
    masks.append(sparsifier.masks["weight"])
    for _ in range(30):
        F.mse_loss(model(torch.randn(8, 16)), torch.randn(8, 12)).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert len(masks) == 10
    return sparsifier, masks


@pytest.mark.parametrize("structure", [Unstructured(), Block(2, 4), NM(1, 4), FanIn()], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {"c": 0.1},
        {"c": 0.1, "acquisition": "thompson"},
        {"acquisition": "epsilon"},
        {"c": 1e-2, "window": 2},
        {"relative": True},
    ],
    ids=str,
)
def test_every_acquisition_on_every_structure(options: dict, structure: Structure) -> None:
    """Groups keep their number, units switch as a whole, and visits count the topologies that held a unit."""
    sparsifier, masks = run(rewire.dst_ee(30, every=3, **options), structure)
    folded = torch.stack([structure.fold(mask) for mask in masks])
    assert torch.equal(folded.all(-1), folded.any(-1))
    units = folded.all(-1)
    assert (units.sum(-1) == units.sum(-1)[0]).all()
    visits = sparsifier.state_dict()["layers"]["weight"]["visits"]
    counted = "epsilon" not in options.values()  # one flag where no score reads visits
    assert counted == (visits.shape == units[0].shape)
    if counted:
        assert torch.equal(visits, units.sum(0).to(visits.dtype))
    assert sparsifier.exploration > 1.2 * sparsifier.density  # something moved


def test_the_acquisitions_are_not_the_same_run() -> None:
    options: list[dict] = [
        {"c": 0.3},
        {"c": 0.3, "acquisition": "thompson"},
        {"acquisition": "epsilon", "epsilon": 0.5},
        {"c": 0.3, "c_decay": 0.1, "c_decay_every": 3},
        {"c": 0.3, "window": 3},
    ]
    ends = [run(rewire.dst_ee(30, every=3, **option))[1][-1] for option in options]
    again = [run(rewire.dst_ee(30, every=3, **option))[1][-1] for option in options]
    assert all(torch.equal(first, second) for first, second in zip(ends, again, strict=True))
    assert all(not torch.equal(ends[i], ends[j]) for i in range(len(ends)) for j in range(i))


def test_thompson_without_c_and_epsilon_0_are_rigl_itop() -> None:
    plain = run(rewire.rigl_itop(30, every=3))[1]
    for options in ({"acquisition": "thompson", "c": 0.0}, {"acquisition": "epsilon", "epsilon": 0.0}):
        other = run(rewire.dst_ee(30, every=3, **options))[1]
        assert all(torch.equal(first, second) for first, second in zip(plain, other, strict=True))


def test_an_epsilon_of_1_is_set_itop() -> None:
    plain = run(rewire.set_itop(30, every=3))[1]
    other = run(rewire.dst_ee(30, every=3, acquisition="epsilon", epsilon=1.0))[1]
    assert all(torch.equal(first, second) for first, second in zip(plain, other, strict=True))


def test_a_window_grows_by_the_mean_of_its_steps() -> None:
    """The loss is linear, so that a step's dense gradient is known; the learning rate is 0, so that weights stay."""
    torch.manual_seed(5)
    model = nn.Linear(6, 5, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    method = rewire.dst_ee(40, every=4, c=0.0, window=3, fraction=0.5, end_fraction=0.5)
    sparsifier = rewire.sparsify(model, optimizer, method, sparsity=0.6)
    weight, mask = model.weight.detach().clone(), sparsifier.masks["weight"]
    gradients = []
    for step in range(1, 41):
        x, y = torch.randn(3, 6), torch.randn(3, 5)
        (model(x) * y).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        gradients.append(y.T @ x)
        if step % 4 == 0 and step <= 36:
            kept = mask.clone()
            moved = math.ceil(0.5 * int(mask.sum()))
            weakest = weight.abs().masked_fill(~mask, torch.inf).flatten().argsort(stable=True)[:moved]
            kept.view(-1)[weakest] = False
            mean = torch.stack(gradients[-3:]).mean(0).abs().masked_fill(kept, -torch.inf)
            kept.view(-1)[mean.flatten().argsort(descending=True, stable=True)[:moved]] = True
            mask, weight = kept, torch.where(kept, weight, 0)
        assert torch.equal(sparsifier.masks["weight"], mask), step
    assert sparsifier.updates == 9


def test_a_window_that_is_cut_by_a_checkpoint_goes_on(tmp_path) -> None:
    def made() -> tuple[nn.Linear, torch.optim.Optimizer, rewire.Sparsifier]:
        torch.manual_seed(1)
        model = nn.Linear(12, 10)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return model, optimizer, rewire.sparsify(model, optimizer, rewire.dst_ee(40, every=8, window=5), sparsity=0.8)

    def steps(model: nn.Linear, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
        for step in range(first, last):
            generator = torch.Generator().manual_seed(step)
            x, y = torch.randn(4, 12, generator=generator), torch.randn(4, 10, generator=generator)
            F.mse_loss(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()

    model, optimizer, sparsifier = made()
    steps(model, optimizer, 0, 6)  # two of the five steps before the update are seen
    state = (model.state_dict(), optimizer.state_dict(), sparsifier.state_dict())
    torch.save(state, tmp_path / "cut.pt")
    steps(model, optimizer, 6, 30)
    other, other_optimizer, other_sparsifier = made()
    loaded = torch.load(tmp_path / "cut.pt", weights_only=True)
    for part, saved in zip((other, other_optimizer, other_sparsifier), loaded, strict=True):
        part.load_state_dict(saved)
    steps(other, other_optimizer, 6, 30)
    assert torch.equal(sparsifier.masks["weight"], other_sparsifier.masks["weight"])
    assert torch.equal(model.weight, other.weight)
