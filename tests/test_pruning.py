"""Pruning before training: scores by hand and against torch's Hessian, rounds, what stays untouched, bad input.

Over 300 lines, because three pruners share every check.
"""

import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

import rewire.start
from rewire.core.pruner import Pruner
from rewire.core.score import Magnitude
from rewire.core.structure import NM, Block, FanIn, Neuron, Structure, Unstructured
from rewire.layers import choose
from rewire.masked import Masked
from rewire.methods import static
from rewire.pruning import GraSP, Snip, SynFlow
from rewire.start import begin
from rewire.tasks.models import build

torch.set_num_threads(1)

PRUNERS = (Snip(), GraSP(), SynFlow(rounds=5))


def by_hand() -> nn.Sequential:
    """y = W2 W1 x with W1 = [[1, -1], [2, 1]] and W2 = [[3, 0.5]]."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -1.0], [2.0, 1.0]]))
        model[1].weight.copy_(torch.tensor([[3.0, 0.5]]))
    return model


def half_square(output: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (output - target).square().mean()


def scores(pruner: Pruner, model: nn.Module, batches: list, loss=F.cross_entropy) -> dict[str, Tensor]:
    weights = {weight.name: weight.parameter.detach() for weight in choose(model)[0]}
    return pruner.scores(model, weights, batches, loss)


def masks(
    model: nn.Module,
    start,
    batches,
    sparsity: float | None = 0.8,
    *,
    loss=F.cross_entropy,
    distribution: str = "global",
    structure: Structure = Unstructured(),
) -> dict[str, Tensor]:
    """The first masks, in the weights' shapes."""
    storages = {weight.name: Masked(weight, structure, ()) for weight in choose(model)[0]}
    keys = dict.fromkeys(storages, 0)
    _, topologies = begin(storages, static(), structure, start, sparsity, distribution, keys, model, batches, loss)
    for name, topology in topologies.items():
        storages[name].rewire_(topology, {})
    return {name: storage.mask() for name, storage in storages.items()}


def images(count: int = 4) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 3, 8, 8, generator=generator), torch.arange(8)) for _ in range(count)]


def convolutions() -> nn.Module:
    """A ResNet-20 of 4, 8 and 16 channels, with batch norms, in training mode."""
    return build("resnet20", classes=10, size=8, width=0.25)


def perceptron(*widths: int) -> nn.Sequential:
    return nn.Sequential(*(layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.Tanh())))[:-1]


# ---- scores


def test_snip_by_hand() -> None:
    # x = (1, 2): h = (-1, 4), y = -1, so e = y - 1 = -2. dW2 = e h = (2, -8); dW1 = e W2' x' = [[-6, -12], [-1, -2]].
    first = (torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0]]))
    found = scores(Snip(), by_hand(), [first], half_square)
    assert found["0.weight"].tolist() == [[6.0, 12.0], [2.0, 2.0]]
    assert found["1.weight"].tolist() == [[6.0, 4.0]]
    # x = (1, 0): h = (1, 2), y = 4 = e. dW2 = (4, 8), dW1 = [[12, 0], [2, 0]]; the means are (3, 0), [[3, -6], ...].
    second = (torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0]]))
    found = scores(Snip(batches=2), by_hand(), [first, second], half_square)
    assert found["0.weight"].tolist() == [[3.0, 6.0], [1.0, 1.0]]
    assert found["1.weight"].tolist() == [[9.0, 0.0]]


def test_synflow_by_hand() -> None:
    # abs(W1) (1, 1) = (2, 3), so R = 3 * 2 + 0.5 * 3 = 7.5, and the scores of both layers sum to it.
    found = scores(SynFlow(), by_hand(), [(torch.tensor([[7.0, -7.0], [9.0, 9.0]]), None)])
    assert found["0.weight"].tolist() == [[3.0, 3.0], [1.0, 0.5]]
    assert found["1.weight"].tolist() == [[6.0, 1.5]]
    assert found["0.weight"].dtype == torch.float64


def test_grasp_by_hand() -> None:
    """L = (a b / T - 1)^2 / 2 at a = 2, b = 3: g = e (b, a) / T, H = [[b^2, ab + T e], [ab + T e, a^2]] / T^2."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(2.0)
        model[1].weight.fill_(3.0)
    one = [(torch.ones(1, 1), torch.ones(1, 1))]
    # T = 1: e = 5, g = (15, 10), H g = (9 * 15 + 11 * 10, 11 * 15 + 4 * 10) = (245, 205).
    found = scores(GraSP(temperature=1), model, one, half_square)
    assert {name: values.item() for name, values in found.items()} == {"0.weight": 490.0, "1.weight": 615.0}
    # T = 2: e = 2, g = (3, 2), H = [[2.25, 2.5], [2.5, 1]], H g = (11.75, 9.5).
    found = scores(GraSP(temperature=2), model, one, half_square)
    assert {name: values.item() for name, values in found.items()} == {"0.weight": 23.5, "1.weight": 28.5}


def test_grasp_is_the_weight_times_hessian_times_gradient() -> None:
    model = perceptron(3, 4, 3).double()
    batches = [(torch.randn(5, 3).double(), torch.randint(3, (5,))) for _ in range(2)]
    first, second = model[0].weight, model[2].weight

    def mean_loss(flat: Tensor) -> Tensor:
        one, two = flat[: first.numel()].view_as(first), flat[first.numel() :].view_as(second)
        outputs = [F.linear(F.linear(x, one, model[0].bias).tanh(), two, model[2].bias) / 200 for x, _ in batches]
        return sum(F.cross_entropy(out, y) for out, (_, y) in zip(outputs, batches, strict=True)) / 2

    flat = torch.cat([first.detach().flatten(), second.detach().flatten()])
    hessian = torch.autograd.functional.hessian(mean_loss, flat)
    gradient = torch.autograd.functional.jacobian(mean_loss, flat)
    found = scores(GraSP(batches=2), model, batches)
    torch.testing.assert_close(torch.cat([v.flatten() for v in found.values()]), flat * (hessian @ gradient))


def test_grasp_keeps_what_the_gradient_needs() -> None:
    """A little of the weight that scores highest is taken away, and the gradient's norm falls; the lowest: it rises."""
    model = perceptron(3, 4, 3).double()
    batch = (torch.randn(5, 3).double(), torch.randint(3, (5,)))
    weights = [model[0].weight, model[2].weight]

    def norm() -> float:
        gradients = torch.autograd.grad(F.cross_entropy(model(batch[0]), batch[1]), weights)
        return sum(float(gradient.square().sum()) for gradient in gradients)

    whole = norm()
    for name, values in scores(GraSP(temperature=1), model, [batch]).items():
        weight = model.get_parameter(name)
        for place in (values.argmax(), values.argmin()):
            before = weight.detach().clone()
            with torch.no_grad():
                weight.view(-1)[place] *= 1 - 1e-6
            change = (norm() - whole) / 1e-6
            assert change == pytest.approx(-2 * float(values.flatten()[place]), rel=1e-4)
            with torch.no_grad():
                weight.copy_(before)
        assert values.min() < 0 < values.max()


@pytest.mark.parametrize("seed", range(4))
def test_grasp_leaves_a_network_with_more_gradient_than_before(seed: int) -> None:
    """Half of the weights are kept; the half of lowest scores, kept instead, lets hardly any through."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)).double()
    batches = [(torch.randn(64, 8).double(), torch.randint(4, (64,)))]

    def flow(kept: dict[str, Tensor]) -> float:
        parameters = {name: weight.detach().requires_grad_() for name, weight in model.named_parameters()}
        pruned = {name: weight * kept.get(name, 1) for name, weight in parameters.items()}
        loss = F.cross_entropy(torch.func.functional_call(model, pruned, batches[0][0]), batches[0][1])
        return sum(float(g.square().sum()) for g in torch.autograd.grad(loss, [parameters[name] for name in kept]))

    highest = masks(model, GraSP(), batches, 0.5)
    lowest = masks(model, {name: -values for name, values in scores(GraSP(), model, batches).items()}, batches, 0.5)
    whole = flow({name: torch.ones_like(mask) for name, mask in highest.items()})
    assert all(not bool((highest[name] & lowest[name]).any()) for name in highest)
    assert flow(highest) > whole > 50 * flow(lowest)


@given(st.lists(st.integers(1, 6), min_size=3, max_size=6), st.integers(0, 99))
def test_synaptic_flow_is_conserved_from_layer_to_layer(widths: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(*(nn.Linear(*pair, bias=False) for pair in pairwise(widths)))
    found = scores(SynFlow(), model, [(torch.zeros(1, widths[0]), None)])
    sums = [float(values.sum()) for values in found.values()]
    assert sums == pytest.approx([sums[0]] * len(sums), rel=1e-12)
    assert sums[0] > 0


def test_a_tied_weight_has_the_score_of_all_its_uses() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    model[1].weight = model[0].weight
    with torch.no_grad():
        model[0].weight.fill_(3.0)
    one = [(torch.ones(1, 1), torch.zeros(1, 1))]
    assert scores(Snip(), model, one, half_square)["0.weight"].item() == 162.0  # L = a^4 / 2, a dL/da = 2 a^4
    assert scores(SynFlow(), model, one)["0.weight"].item() == 18.0  # R = a^2


def test_few_bits_do_not_lose_small_scores() -> None:
    model = by_hand().half()
    batch = (torch.tensor([[1.0, 2.0]]).half(), torch.tensor([[1.0]]).half())
    small = scores(Snip(), model, [batch], lambda output, target: half_square(output, target) * 2**-14)
    assert small["0.weight"].dtype == torch.float32
    assert small["0.weight"].tolist() == [[6 * 2**-14, 12 * 2**-14], [2 * 2**-14, 2 * 2**-14]]


# ---- inputs and models of every kind


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(5, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.first(a) * self.second(b)


@pytest.mark.parametrize("pruner", PRUNERS, ids=repr)
def test_inputs_are_arguments_or_keyword_arguments(pruner: Pruner) -> None:
    model, a, b, y = TwoInputs(), torch.randn(6, 4), torch.randn(6, 5), torch.randint(3, (6,))
    ordered = scores(pruner, model, [((a, b), y)])
    named = scores(pruner, model, [({"b": b, "a": a}, y)])
    assert all(torch.equal(ordered[name], named[name]) for name in ("first.weight", "second.weight"))


class Tokens(nn.Module):
    """A recurrent model, which returns a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.lstm = nn.LSTM(4, 6, batch_first=True)
        self.head = nn.Linear(6, 5)

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        hidden, _ = self.lstm(self.embed(ids))
        return {"logits": self.head(hidden[:, -1])}


@pytest.mark.parametrize("pruner", [Snip(), GraSP(temperature=1), SynFlow()], ids=repr)
def test_token_ids_and_outputs_of_other_types(pruner: Pruner) -> None:
    model, ids = Tokens(), torch.tensor([[4, 3, 2], [0, 1, 2]])
    before = model(ids)["logits"]
    found = scores(pruner, model, [({"ids": ids}, ids[:, 0])], lambda out, y: F.cross_entropy(out["logits"], y))
    assert {name: values.shape for name, values in found.items()} == {
        name: model.get_parameter(name).shape for name in ("lstm.weight_ih_l0", "lstm.weight_hh_l0", "head.weight")
    }
    assert all(bool(values.any()) for values in found.values())
    after = model(ids)["logits"]
    assert torch.equal(before, after)
    after.sum().backward()
    assert all(parameter.grad is not None for parameter in model.lstm.parameters())  # it holds its own weights again


@pytest.mark.parametrize("pruner", PRUNERS, ids=repr)
@pytest.mark.parametrize("structure", [Unstructured(), Block(2, 2), FanIn(), NM(2, 4)], ids=str)
def test_structures_hold(pruner: Pruner, structure: Structure) -> None:
    model = nn.Sequential(nn.ConvTranspose2d(4, 8, 2, groups=2), nn.Conv2d(8, 4, 2), nn.Flatten(), nn.Linear(16, 4))
    batch = (torch.randn(6, 4, 2, 2), torch.randint(4, (6,)))
    fixed = isinstance(structure, NM)
    if fixed:
        model[0] = nn.Conv2d(4, 8, 1)
        model[3] = nn.Linear(4, 4)
    made = masks(model, pruner, [batch], None if fixed else 0.5, structure=structure)
    storages = {weight.name: Masked(weight, structure, ()) for weight in choose(model)[0]}
    for name, storage in storages.items():
        folded = storage.fold(made[name])
        assert bool((folded == folded[..., :1]).all())
        assert folded[..., 0].sum(1).unique().numel() == 1
        if fixed:
            assert bool((folded[..., 0].sum(1) == 2).all())
    total = sum(mask.numel() for mask in made.values())
    step = max(structure.quantum(storage.shape) for storage in storages.values())
    assert abs(sum(int(mask.sum()) for mask in made.values()) - total // 2) < (1 if fixed else step)


def test_a_unit_scores_by_the_mean_of_its_weights() -> None:
    model = nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 9.0, 6.0, 6.0], [3.0, 3.0, 5.0, 6.0]]))
    made = masks(model, SynFlow(rounds=1), [(torch.zeros(1, 4), None)], 0.5, structure=Block(1, 2))
    assert made["weight"].tolist() == [[False, False, True, True], [False, False, True, True]]  # 5, 6, 3 and 5.5


# ---- budgets


@pytest.mark.parametrize("pruner", PRUNERS, ids=repr)
@pytest.mark.parametrize("distribution", ["global", "erk", "er", "uniform"])
def test_the_total_is_exact_on_convolutions_with_batch_norm(pruner: Pruner, distribution: str) -> None:
    made = masks(convolutions(), pruner, images(), 0.9, distribution=distribution)
    total = sum(mask.numel() for mask in made.values())
    assert sum(int(mask.sum()) for mask in made.values()) == round(0.1 * total)
    assert all(mask.any() for mask in made.values())


@given(
    st.lists(st.integers(1, 8), min_size=2, max_size=5),
    st.floats(0.0, 0.99),
    st.sampled_from(["global", "erk", "uniform"]),
    st.sampled_from([Snip(), GraSP(), SynFlow(rounds=3), SynFlow(rounds=7)]),
)
def test_the_total_is_exact(widths: list[int], sparsity: float, distribution: str, pruner: Pruner) -> None:
    model = perceptron(*widths, 3)
    total = round((1 - sparsity) * sum(p.numel() for p in model.parameters() if p.ndim > 1))
    assume(total >= len(widths))
    batch = (torch.randn(4, widths[0]), torch.tensor([0, 1, 2, 0]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = masks(model, pruner, [batch], sparsity, distribution=distribution)
    assert sum(int(mask.sum()) for mask in made.values()) == total
    assert all(mask.any() for mask in made.values())


@pytest.mark.parametrize("pruner", PRUNERS, ids=repr)
@pytest.mark.parametrize("structure", [Block(2, 2), Neuron()], ids=repr)
def test_the_total_counts_weights_where_units_have_several(pruner: Pruner, structure: Structure) -> None:
    model = perceptron(4, 8, 10, 4)  # 32, 80 and 40 weights: units of 4, or of 4, 8 and 10
    batch = (torch.randn(4, 4), torch.tensor([0, 1, 2, 0]))
    made = masks(model, pruner, [batch], 0.5, distribution="global", structure=structure)
    largest = max(structure.quantum(mask.shape) for mask in made.values())
    assert 0 <= 76 - sum(int(mask.sum()) for mask in made.values()) < largest


@pytest.mark.parametrize("structure", [Unstructured(), Block(2, 2), FanIn(), Neuron()], ids=repr)
@pytest.mark.parametrize("seed", range(3))
def test_topologies_of_rounds_lie_in_each_other(structure: Structure, seed: int, monkeypatch) -> None:
    torch.manual_seed(seed)
    rounds = []

    def watched(*arguments, **options):
        rounds.append(best(*arguments, **options))
        return rounds[-1]

    best = rewire.start.best
    monkeypatch.setattr(rewire.start, "best", watched)
    made = masks(perceptron(12, 48, 96, 96), SynFlow(rounds=40), [(torch.zeros(1, 12), None)], 0.9, structure=structure)
    assert len(rounds) == 40
    for earlier, later in pairwise(rounds):
        assert all((earlier[name] | ~later[name]).all() for name in made)


def test_a_floor_is_said_once_whatever_the_rounds() -> None:
    model = perceptron(8, 30, 30, 2)
    with torch.no_grad():
        model.get_parameter(next(n for n, p in model.named_parameters() if p.shape == (2, 30))).mul_(1e-3)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        made = masks(model, SynFlow(rounds=9), [(torch.zeros(1, 8), None)], 0.995)
    assert len([each for each in said if "The budget would leave" in str(each.message)]) == 1
    assert sum(int(mask.sum()) for mask in made.values()) == 6


def test_global_keeps_the_best_scores_of_all_layers() -> None:
    made = masks(by_hand(), Snip(), [(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0]]))], 0.5, loss=half_square)
    # Scores 6, 12, 2, 2 and 6, 4: the three highest.
    assert made["0.weight"].tolist() == [[True, True], [False, False]]
    assert made["1.weight"].tolist() == [[True, False]]


def test_a_round_scores_what_the_last_one_left() -> None:
    # Scores are 3, 3, 1, 0.5 and 6, 1.5. Of six, the first round keeps round(6 * sqrt(1 / 3)) = 3: 6, 3 and 3.
    # R is now 6, scored 3, 3 and 6, and the second keeps two: of equal scores the first.
    one = [(torch.zeros(1, 2), None)]
    made = masks(by_hand(), SynFlow(rounds=2), one, 2 / 3)
    assert made["0.weight"].tolist() == [[True, False], [False, False]]
    assert made["1.weight"].tolist() == [[True, False]]
    seen = []

    class Watching(SynFlow):
        def scores(self, model, weights, batches, loss):
            seen.append({name: int((weight != 0).sum()) for name, weight in weights.items()})
            return super().scores(model, weights, batches, loss)

    masks(by_hand(), Watching(rounds=2), one, 2 / 3)
    assert seen == [{"0.weight": 4, "1.weight": 2}, {"0.weight": 2, "1.weight": 1}]


def test_what_a_round_has_pruned_stays_pruned() -> None:
    class Turns(Snip):
        """Keeps the largest at first and the smallest then, for which 0 would be the best."""

        rounds = 2

        def scores(self, model, weights, batches, loss):
            first = all(bool(weight.all()) for weight in weights.values())
            return {name: weight if first else -weight for name, weight in weights.items()}

    model = nn.Linear(8, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.arange(1.0, 9.0))
    made = masks(model, Turns(), [(torch.ones(1, 8), None)], 0.75, loss=half_square)  # 4 of 8, then 2
    assert made["weight"].nonzero()[:, 1].tolist() == [4, 5]


@pytest.mark.filterwarnings("ignore:The budget would leave")
def test_density_falls_exponentially_in_every_layer() -> None:
    seen = []

    class Watching(SynFlow):
        def scores(self, model, weights, batches, loss):
            seen.append([int((weight != 0).sum()) for weight in weights.values()])
            return super().scores(model, weights, batches, loss)

    model = perceptron(10, 10, 20)
    for distribution in ("uniform", "global"):
        seen.clear()
        masks(model, Watching(rounds=2), [(torch.zeros(1, 10), None)], 0.96, distribution=distribution)
        assert [sum(counts) for counts in seen] == [300, 60]  # sqrt(0.04) = 0.2
        assert distribution == "global" or seen[1] == [20, 40]


def test_rounds_keep_layers_from_collapsing() -> None:
    """At once, magnitude empties a layer of small weights, and SynFlow a wide one, where R is spread over many."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 400, bias=False), nn.Linear(400, 2, bias=False))
    with torch.no_grad():
        for layer, scale in zip(model, (1.0, 1e-3, 1.0), strict=True):
            layer.weight.normal_(std=scale)
    batch = [(torch.zeros(1, 8), None)]
    for start, floored in ((Magnitude(), "1.weight"), (SynFlow(rounds=1), "1.weight, 2.weight")):
        with pytest.warns(UserWarning, match=f"The budget would leave {floored} without an active weight; each keeps"):
            made = masks(model, start, batch, 0.99)
        assert int(made["1.weight"].sum()) == 1  # the floor
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = masks(model, SynFlow(), batch, 0.99)
    counts = [int(mask.sum()) for mask in made.values()]
    assert sum(counts) == round(0.01 * 4064)
    assert min(counts) > 5
    with torch.no_grad():
        for name, mask in made.items():
            model.get_parameter(name).mul_(mask).abs_()
    assert bool(model(torch.ones(1, 8)).sum() > 0)


# ---- what stays as it is


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Asserts that weights, buffers, gradients, flags, modes and torch's random state are the same bits afterwards."""

    def picture() -> list:
        tensors = [t.detach().clone() for t in (*model.parameters(), *model.buffers(), torch.get_rng_state())]
        gradients = [p.grad if p.grad is None else p.grad.clone() for p in model.parameters()]
        flags = [p.requires_grad for p in model.parameters()] + [module.training for module in model.modules()]
        return [tensors, gradients, flags, [id(p) for p in model.parameters()], [id(b) for b in model.buffers()]]

    before = picture()
    try:
        yield
    finally:
        after = picture()
        assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
        assert [a is None for a in before[1]] == [b is None for b in after[1]]
        assert all(a is None or torch.equal(a, b) for a, b in zip(before[1], after[1], strict=True))
        assert before[2:] == after[2:]


def with_dropout() -> nn.Module:
    model = convolutions()
    model.avgpool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Dropout(0.5))
    model.layer2.eval()
    model.bn1.weight.requires_grad_(False)
    model.conv1.weight.grad = torch.ones_like(model.conv1.weight)
    return model


@pytest.mark.parametrize("pruner", PRUNERS, ids=repr)
def test_the_model_stays_as_it_is(pruner: Pruner) -> None:
    model = with_dropout()
    with unchanged(model), torch.no_grad():
        first = masks(model, pruner, images(), 0.9)
        torch.testing.assert_close(masks(model, pruner, images(), 0.9), first)  # dropout draws nothing
    assert not torch.is_inference_mode_enabled()


class Fails(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("on purpose")


@pytest.mark.parametrize("pruner", PRUNERS, ids=repr)
def test_the_model_stays_as_it_is_where_it_fails(pruner: Pruner) -> None:
    model = with_dropout()
    model.append(Fails())
    with unchanged(model), pytest.raises((RuntimeError, ValueError), match="on purpose"):
        masks(model, pruner, images())
    model = with_dropout()

    def failing(output: Tensor, target: Tensor) -> Tensor:
        raise KeyError("in the loss")

    if pruner.labelled:
        with unchanged(model), pytest.raises(KeyError, match="in the loss"):
            masks(model, pruner, images(), loss=failing)


def test_snip_takes_batch_norms_in_the_mode_they_are_in() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    batch = (torch.randn(6, 4), torch.randint(3, (6,)))
    gradients = {}
    for mode in (True, False):
        model.train(mode)
        found = scores(Snip(), model, [batch])["0.weight"]
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(batch[0]), batch[1]), [model[0].weight])
        torch.testing.assert_close(found, (model[0].weight * gradient).abs().detach())
        gradients[mode] = found
    assert not torch.allclose(gradients[True], gradients[False])


class Gathering(nn.Module):
    """Sums what a layer makes of the nodes at one end of each edge."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 1, bias=False)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        return self.fc(nodes)[edges[1]].sum()


def test_synflow_keeps_inputs_whole_that_refer_to_each_other() -> None:
    """R = sum over the three edges of |w1| + |w2|."""
    model = Gathering()
    with torch.no_grad():
        model.fc.weight.copy_(torch.tensor([[1.0, -2.0]]))
    inputs = (torch.randn(4, 2), torch.tensor([[0, 1, 2], [3, 3, 0]]))
    assert scores(SynFlow(), model, [(inputs, None)])["fc.weight"].tolist() == [[3.0, 6.0]]


def test_synflow_does_not_depend_on_the_mode_nor_on_the_data() -> None:
    model = convolutions()
    first = scores(SynFlow(), model, images())
    model.eval()
    again = scores(SynFlow(), model, [(100 * torch.randn(1, 3, 8, 8), None)], None)
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_wrapped_model_has_the_masks_of_its_inside() -> None:
    model = convolutions()
    plain, wrapped = masks(model, Snip(), images()), masks(nn.DataParallel(model), Snip(), images())
    assert plain.keys() == wrapped.keys()
    assert all(torch.equal(plain[name], wrapped[name]) for name in plain)


def test_only_as_many_batches_are_read_as_asked_for() -> None:
    batches = iter(images(3))
    masks(convolutions(), Snip(batches=2), batches)
    assert len(list(batches)) == 1


@pytest.mark.parametrize("pruner", PRUNERS, ids=repr)
def test_a_pruner_starts_a_dynamic_method(pruner: Pruner) -> None:
    model, batches = convolutions(), images()
    expected = masks(model, pruner, batches, 0.9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = rewire.dst_ee(steps=8, every=2)
    sparsifier = rewire.sparsify(model, optimizer, method, sparsity=0.9, start=pruner, distribution="global",
                                 batches=batches, loss=F.cross_entropy)  # fmt: skip
    assert all(torch.equal(sparsifier.masks[name], mask) for name, mask in expected.items())
    for x, y in batches:
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert sparsifier.updates == 2
    assert {n: int(m.sum()) for n, m in sparsifier.masks.items()} == {n: int(m.sum()) for n, m in expected.items()}


def test_pruners_are_values() -> None:
    for pruner in (Snip(), Snip(batches=3), GraSP(), GraSP(temperature=1), SynFlow(), SynFlow(rounds=7)):
        assert eval(repr(pruner), {"Snip": Snip, "GraSP": GraSP, "SynFlow": SynFlow}) == pruner
        assert hash(pruner) == hash(eval(repr(pruner)))
    assert (repr(Snip()), repr(GraSP()), repr(SynFlow())) == (
        "Snip(batches=1)",
        "GraSP(batches=1, temperature=200)",
        "SynFlow(rounds=100)",
    )
    assert [(p.batches, p.rounds, p.labelled) for p in (Snip(), GraSP(), SynFlow())] == [
        (1, 1, True),
        (1, 1, True),
        (1, 100, False),
    ]


# ---- bad input


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Snip(batches=0), "batches=0 gives nothing to score by. Use a whole number of at least 1."),
        (lambda: GraSP(batches=1.5), "batches=1.5 gives nothing to score by. Use a whole number of at least 1."),
        (lambda: SynFlow(rounds=0), "rounds=0 gives nothing to score by. Use a whole number of at least 1."),
        (
            lambda: GraSP(temperature=0),
            "temperature=0 divides the model's output, which leaves no loss to score by. Use a positive number, such "
            "as temperature=200.",
        ),
        (lambda: GraSP(temperature=math.inf), "temperature=inf divides the model's output"),
    ],
)
def test_options_that_cannot_work(make, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        make()


def refused(
    text: str, pruner: Pruner, model: nn.Module | None = None, batches="two", kind: type = ValueError, **options
) -> None:
    model = perceptron(4, 5, 3) if model is None else model
    given = [(torch.randn(6, 4), torch.randint(3, (6,))) for _ in range(2)] if batches == "two" else batches
    with unchanged(model), pytest.raises(kind, match=re.escape(text)):
        masks(model, pruner, given, **options)


PAIRS = "Give pairs (input, target), such as batches=loader or batches=[(x, y)]."


@pytest.mark.parametrize(
    ("text", "kind", "pruner", "batches", "options"),
    [
        (
            "start=Snip(batches=1) runs the model before training, which needs batches and loss. Give for example "
            "batches=loader, loss=torch.nn.functional.cross_entropy.",
            ValueError,
            Snip(),
            None,
            {"loss": None},
        ),
        ("before training, which needs batches and loss. Give", ValueError, GraSP(), "two", {"loss": None}),
        ("before training, which needs batches and loss. Give", ValueError, GraSP(), None, {}),
        (
            "start=SynFlow(rounds=100) runs the model before training, which needs batches. Give for example "
            "batches=loader.",
            ValueError,
            SynFlow(),
            None,
            {"loss": None},
        ),
        (
            "start=Snip(batches=3) reads 3 of batches, which ended after 2. Give more, or a pruner that reads fewer.",
            ValueError,
            Snip(batches=3),
            "two",
            {},
        ),
        (f"Batch 1 is a Tensor and not a pair. {PAIRS}", TypeError, Snip(), (torch.ones(6, 4), torch.ones(6)), {}),
        (f"Batch 1 is a tuple and not a pair. {PAIRS}", TypeError, SynFlow(), [(torch.ones(6, 4),)], {}),
        (f"batches is a int, which cannot be iterated over. {PAIRS}", TypeError, Snip(), 3, {}),
    ],
)
def test_batches_and_losses_that_are_not_there(text: str, kind: type, pruner: Pruner, batches, options) -> None:
    refused(text, pruner, batches=batches, kind=kind, **options)


@pytest.mark.parametrize("pruner", [Snip(), GraSP()], ids=repr)
@pytest.mark.parametrize(
    ("loss", "kind", "text"),
    [
        (
            lambda output, target: F.cross_entropy(output, target, reduction="none"),
            TypeError,
            "The loss of batch 1 is a Tensor of shape (6,), but {} needs one number that remembers how it was made. "
            "Return a mean, such as loss=torch.nn.functional.cross_entropy gives.",
        ),
        (
            lambda output, target: F.cross_entropy(output, target).item(),
            TypeError,
            "The loss of batch 1 is a float, but {} needs one number that remembers how it was made.",
        ),
        (
            lambda output, target: F.cross_entropy(output.detach(), target),
            ValueError,
            "The loss of batch 1 has no gradient, so {} has nothing to score by: it does not depend on the model's "
            "weights, or was cut off from them by detach() or argmax(). Make it from the model's output, such as "
            "loss=torch.nn.functional.cross_entropy.",
        ),
        (
            lambda output, target: F.cross_entropy(output, target) * math.nan,
            FloatingPointError,
            "The loss of batch 1 is nan, so its gradient ranks nothing for {}. Look for inputs or initial weights that "
            "overflow, or give other batches.",
        ),
    ],
    ids=["vector", "float", "detached", "nan"],
)
def test_losses_without_a_gradient(pruner: Pruner, loss, kind: type, text: str) -> None:
    refused(text.format(pruner), pruner, kind=kind, loss=loss)


class HalfUsed(nn.Module):
    """The second layer's output does not reach the loss."""

    def __init__(self, wall) -> None:
        super().__init__()
        self.first, self.second, self.last, self.wall = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(3, 3), wall

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x) + self.wall(self.second(x)))


@pytest.mark.parametrize("pruner", [Snip(), GraSP(), SynFlow()], ids=repr)
@pytest.mark.parametrize("wall", [torch.detach, torch.round, lambda x: x.argmax(1)[:, None], lambda x: 0], ids=range(4))
def test_a_layer_that_no_gradient_reaches(pruner: Pruner, wall) -> None:
    refused(
        f"{pruner} scores every weight of second.weight 0, so nothing says which to keep: no gradient reaches them, "
        "because loss or output does not depend on them, or they are 0 themselves. Initialise them, or leave them "
        'dense with exclude=["second.weight"].',
        pruner,
        HalfUsed(wall),
    )


@pytest.mark.parametrize("pruner", PRUNERS, ids=repr)
def test_weights_of_zero(pruner: Pruner) -> None:
    model = perceptron(4, 5, 5, 5, 5, 3)
    nn.init.zeros_(model[8].weight)
    names = "0.weight, 2.weight, 4.weight, 6.weight, ..." if not isinstance(pruner, GraSP) else "8.weight"
    refused(f"scores every weight of {names} 0, so nothing says which to keep", pruner, model)


def test_a_pruner_of_the_users_own_must_score_every_sparse_layer() -> None:
    class Forgets(Snip):
        def scores(self, model, weights, batches, loss):
            return {name: weight for name, weight in weights.items() if name != "2.weight"}

    refused("start lacks 2.weight: scores must name exactly the sparse layers. These are 0.weight, 2.w", Forgets())


def test_a_gradient_that_is_no_number() -> None:
    refused(
        "Snip(batches=1) gives 0.weight scores that are NaN or infinite, which have no place in an order. Look for an "
        'overflow in the model or the loss, or leave the layer dense with exclude=["0.weight"].',
        Snip(),
        kind=FloatingPointError,
        loss=lambda output, target: (0 * output).sqrt().sum(),
    )


def test_grasp_needs_a_second_derivative() -> None:
    refused(
        "GraSP(batches=1, temperature=200) scores by the second derivative of the loss, which is 0 everywhere. Use "
        "Snip(), or a loss that is not linear in the output, such as torch.nn.functional.cross_entropy.",
        GraSP(),
        nn.Linear(4, 3),
        loss=lambda output, target: output.mean(),
    )

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.square()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, dy):
            return 2 * ctx.saved_tensors[0] * dy

    class Squares(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Once.apply(x)

    refused(
        "GraSP(batches=1, temperature=200) needs the second derivative of the loss, which a part of the model does not "
        "have (it is marked once_differentiable). Use Snip(), or "
        "another implementation of that part.",
        GraSP(),
        nn.Sequential(nn.Linear(4, 3), Squares()),
    )
    refused(
        "GraSP(batches=1, temperature=200) needs the second derivative of the loss, which a part of the model does not "
        "have (derivative for aten::_scaled_dot_product_flash_attention_for_cpu_backward is not implemented",
        GraSP(),
        Attends(4, 3),
    )


class Attends(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        row = super().forward(x)[None, None]
        return F.scaled_dot_product_attention(row, row, row)[0, 0]


def test_grasp_divides_one_tensor_by_its_temperature() -> None:
    refused(
        "GraSP(batches=1, temperature=200) divides the model's output by its temperature, but the output is a dict, "
        "not a Tensor. Use temperature=1, and divide the logits in the loss.",
        GraSP(),
        Tokens(),
        [({"ids": torch.tensor([[1, 2]])}, torch.tensor([0]))],
        TypeError,
    )


class Changes(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.clamp_(-1, 1), self.bias)


class Casts(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float())


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (Changes, "a leaf Variable that requires grad is being used in an in-place operation."),
        (Casts, "mat1 and mat2 must have the same dtype"),
    ],
)
def test_synflow_on_a_model_that_float64_or_gradients_cannot_pass(layer: type, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"on an input of ones, which failed ({why}")) as caught:
        masks(layer(4, 3), SynFlow(), [(torch.ones(1, 4), None)])
    assert str(caught.value).startswith("SynFlow(rounds=100) differentiates the model in float64, with absolute")
    assert str(caught.value).endswith(
        "Let it compute in its weights' type and change none of them in place, or use Snip()."
    )
    model = layer(4, 3)
    with unchanged(model), pytest.raises(ValueError, match="differentiates the model in float64"):
        masks(model, SynFlow(), [(torch.ones(1, 4), None)])


def test_synflow_overflows_late_and_says_so() -> None:
    deep = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(60)))
    with torch.no_grad():
        for layer in deep:
            layer.weight.fill_(250.0)  # R = 1000^60 * 4: above float32, within float64
    assert all(
        mask.any()
        for mask in masks(deep, SynFlow(rounds=2), [(torch.ones(1, 4), None)], 0.5, distribution="erk").values()
    )
    with torch.no_grad():
        for layer in deep:
            layer.weight.fill_(1e6)
    refused(
        "SynFlow(rounds=100) sums the outputs to inf, because absolute weights overflow float64 in this model. Scale "
        "its initial weights down, or use Snip().",
        SynFlow(),
        deep,
        [(torch.ones(1, 4), None)],
        FloatingPointError,
    )


def test_batches_of_one_process_are_no_ground_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewire.start, "distributed_processes", lambda: 2)
    refused(
        "start=Snip(batches=1) scores by the batches of one process, so that each would get a topology of its own. "
        "Make the masks in one process, and give all of them start=masks.",
        Snip(),
    )
    assert masks(perceptron(4, 5, 3), SynFlow(rounds=2), [(torch.ones(1, 4), None)])
