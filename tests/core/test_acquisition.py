"""Acquisition functions: formulas by hand, randomness by key, exact shares, and units of every structure."""

import dataclasses
import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rewire.core.acquisition import Bonus, EpsilonGreedy, Exploration, Thompson
from rewire.core.schedule import Linear
from rewire.core.score import GRADIENT, VISITS, Absolute, Gradient, Layer, Magnitude, Random, Score, of_units
from rewire.core.select import top
from rewire.core.structure import NM, Block, FanIn, Structure

torch.set_num_threads(1)
BOTH = pytest.mark.parametrize("kind", [Exploration, Thompson])


def layer(step: int = 10, key: int = 1) -> Layer:
    return Layer(
        shape=torch.Size([2, 2]),
        weight=torch.tensor([1.0, -2.0, 0.0, 0.0]).reshape(1, 4, 1),
        grad=torch.tensor([0.1, 0.2, -0.3, 0.4]).reshape(1, 4, 1),
        active=torch.tensor([[True, True, False, False]]),
        visits=torch.tensor([[3, 1, 0, 4]], dtype=torch.uint8),
        extra={},
        step=step,
        key=key,
    )


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    """Layers of one group or many, with few different gradients, so that there are ties."""
    groups, units, size = draw(st.sampled_from([(1, 12, 1), (1, 40, 1), (1, 9, 4), (3, 8, 1), (16, 4, 1), (1, 1, 1)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    active = torch.rand(groups, units, generator=generator) < draw(st.sampled_from([0.0, 0.2, 0.6, 1.0]))
    return Layer(
        torch.Size((groups * units, size)),
        torch.randn(groups, units, size, generator=generator) * active[..., None],
        torch.randint(-3, 4, (groups, units, size), generator=generator).float(),
        active,
        torch.randint(0, 256, (groups, units), generator=generator, dtype=torch.uint8),
        {},
        step=draw(st.integers(0, 10**6)),
        key=draw(st.integers(0, 2**63 - 1)),
    )


# ---- the bonus of DST-EE


def test_the_acquisition_function_by_hand() -> None:
    score = of_units(Gradient() + Exploration(c=0.5, eps=1.0), layer(step=10))[0]
    bonus = [0.5 * math.log(10) / (n + 1) for n in (3, 1, 0, 4)]
    assert score.tolist() == pytest.approx([g + b for g, b in zip((0.1, 0.2, 0.3, 0.4), bonus, strict=True)])


def test_the_signed_acquisition_function_by_hand() -> None:
    score = of_units(Absolute(Gradient(signed=True) + Exploration(c=0.5)), layer(step=10))[0]
    assert score[2].item() == pytest.approx(abs(-0.3 + 0.5 * math.log(10)))


def test_the_first_step_has_no_bonus() -> None:
    assert of_units(Exploration(1.0), layer(step=1)).tolist() == [[0.0] * 4]


def test_the_bonus_is_0_before_the_first_step() -> None:
    assert Exploration(1.0)(layer(step=0)).eq(0).all()


def test_no_bonus_is_rounded_away_beside_a_gradient_in_bf16() -> None:
    """Equal gradients of 1: the next bf16 number is 1.0078, and the bonus is 0.002 at most."""
    half = dataclasses.replace(layer(), weight=torch.zeros(1, 4, 1).bfloat16(), grad=torch.ones(1, 4, 1).bfloat16())
    score = of_units(Gradient() + Exploration(1e-3), half)[0]
    assert score.argsort(descending=True).tolist() == [2, 1, 0, 3]  # visits 0, 1, 3, 4


# ---- Thompson sampling


def test_thompson_by_hand() -> None:
    fresh = dataclasses.replace(layer(), visits=torch.zeros(1, 4, dtype=torch.uint8))
    z = Thompson(c=1.0, eps=1.0)(fresh).flatten()
    assert Thompson(c=2.0, eps=4.0)(fresh).flatten().tolist() == z.tolist()  # 2 z / sqrt(0 + 4)
    sample = Thompson(c=6.0, eps=1.0)(layer()).flatten()  # visits 3, 1, 0, 4
    deviation = torch.tensor([3.0, 6 / math.sqrt(2), 6.0, 6 / math.sqrt(5)])
    assert torch.allclose(sample, z * deviation)
    assert torch.allclose(
        of_units(Gradient() + Thompson(6.0), layer())[0], z * deviation + torch.tensor([0.1, 0.2, 0.3, 0.4])
    )


def test_thompson_draws_from_a_standard_normal() -> None:
    n = 20_000
    zeros = torch.zeros(1, n, 1)
    many = Layer(
        torch.Size([n]), zeros, None, zeros[..., 0].bool(), torch.zeros(1, n, dtype=torch.uint8), {}, step=5, key=77
    )
    z = Thompson(c=1.0)(many).flatten().sort().values.double()
    normal = 0.5 * (1 + torch.erf(z / math.sqrt(2)))
    gap = (normal - (torch.arange(n) + 0.5) / n).abs().max()
    assert gap < 1.63 / math.sqrt(n)  # Kolmogorov-Smirnov at 1 %


@given(layers(), st.integers(0, 2**63 - 1), st.integers(0, 2**31))
def test_thompson_depends_on_key_and_visits_alone(case: Layer, key: int, seed: int) -> None:
    first = Thompson(1.0)(case)
    torch.manual_seed(seed)
    other = dataclasses.replace(case, step=case.step + 1, grad=None, active=~case.active, weight=case.weight + 1)
    assert torch.equal(first, Thompson(1.0)(other))
    if key != case.key:
        assert not torch.equal(first, Thompson(1.0)(dataclasses.replace(case, key=key)))


def test_thompson_has_a_stream_of_its_own() -> None:
    fresh = dataclasses.replace(layer(key=5), visits=torch.zeros(1, 4, dtype=torch.uint8))
    same = torch.randn(4, generator=torch.Generator().manual_seed(5))  # what the key of `Random` would give
    assert not torch.isclose(Thompson(1.0)(fresh).flatten(), same).any()


def test_every_type_has_the_same_draw() -> None:
    plain = Thompson(1.0)(layer())
    for dtype in (torch.bfloat16, torch.float64):
        other = dataclasses.replace(layer(), weight=layer().weight.to(dtype))
        assert Thompson(1.0)(other).dtype == torch.promote_types(dtype, torch.float32)
        assert torch.allclose(Thompson(1.0)(other).float(), plain)


# ---- what both share


@BOTH
@given(case=layers())
def test_no_exploration_is_the_gradient_bit_for_bit(kind: type[Bonus], case: Layer) -> None:
    for scale in ("none", "layer"):
        assert torch.equal(of_units(Gradient() + kind(0.0, scale=scale), case), of_units(Gradient(), case))


@BOTH
def test_the_layer_scale_is_the_mean_gradient_over_inactive_weights(kind: type[Bonus]) -> None:
    scaled = of_units(kind(c=0.5, scale="layer"), layer())
    assert torch.allclose(scaled, of_units(kind(c=0.5), layer()) * (0.3 + 0.4) / 2)


@BOTH
def test_c_may_follow_a_schedule(kind: type[Bonus]) -> None:
    assert torch.allclose(of_units(kind(Linear(1.0, 0.0, 20)), layer(10)), of_units(kind(0.5), layer(10)))


@BOTH
def test_what_a_bonus_needs(kind: type[Bonus]) -> None:
    assert (Gradient() + kind()).needs == {GRADIENT, VISITS}
    assert kind().needs == {VISITS}
    assert kind(scale="layer").needs == {GRADIENT, VISITS}


@BOTH
def test_the_visits_are_left_as_they_were(kind: type[Bonus]) -> None:
    counted = dataclasses.replace(layer(), visits=torch.tensor([[3.0, 1.0, 0.0, 4.0]]))
    kind(1.0)(counted)
    assert counted.visits.tolist() == [[3.0, 1.0, 0.0, 4.0]]


@BOTH
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": 0.0}, r"eps=0.0 would divide by zero.*Use eps > 0"),
        ({"c": -1.0}, r"c=-1.0 is not a bonus.*Use c=1e-5"),
        ({"c": float("nan")}, r"c=nan is not a bonus"),
        ({"scale": "global"}, r'scale="global" is unknown. Use scale="none" or scale="layer"'),
    ],
)
def test_options_that_make_no_sense_are_refused(kind: type[Bonus], options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**options)


# ---- units of every structure: (structure, gradients of a weight, units, visits of units, mean abs(gradient) of units)

STRUCTURES: list[tuple[Structure, list[list[float]], list[list[int]], list[list[float]]]] = [
    (
        Block(1, 2),
        [[0.4, -0.2, 0.1, 0.3], [-0.5, -0.1, 0.0, 0.2]],
        [[5, 0, 2, 1]],
        [[0.3, 0.2, 0.3, 0.1]],
    ),
    (
        NM(2, 4),
        [[0.4, -0.3, 0.2, 0.1], [0.1, 0.2, -0.3, 0.4]],
        [[1, 2, 3, 0], [0, 1, 7, 3]],
        [[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]],
    ),
    (
        FanIn(),
        [[0.4, -0.3, 0.2], [0.1, 0.2, -0.3]],
        [[1, 3, 0], [0, 1, 7]],
        [[0.4, 0.3, 0.2], [0.1, 0.2, 0.3]],
    ),
]
structures = pytest.mark.parametrize(("structure", "gradient", "visits", "means"), STRUCTURES)


def folded(structure: Structure, gradient: list[list[float]], visits: list[list[int]]) -> Layer:
    grad = structure.fold(torch.tensor(gradient))
    counts = torch.tensor(visits, dtype=torch.uint8)
    active = torch.zeros_like(counts, dtype=torch.bool)
    return Layer(torch.Size((2, len(gradient[0]))), torch.zeros_like(grad), grad, active, counts, {}, step=10, key=3)


@structures
def test_the_bonus_counts_units(structure, gradient, visits, means) -> None:
    c = 0.8 / math.log(10)
    wanted = [[g + 0.8 / (n + 1) for g, n in zip(*rows, strict=True)] for rows in zip(means, visits, strict=True)]
    scores = of_units(Gradient() + Exploration(c), folded(structure, gradient, visits))
    assert torch.allclose(scores, torch.tensor(wanted))


@structures
def test_a_unit_has_one_sample(structure, gradient, visits, means) -> None:
    case = folded(structure, gradient, visits)
    z = torch.randn(case.active.shape, generator=torch.Generator().manual_seed(3 ^ 0x7503))
    assert Thompson(0.8)(case).shape == (*case.active.shape, 1)
    wanted = torch.tensor(means) + 0.8 * z / (torch.tensor(visits) + 1).sqrt()
    assert torch.allclose(of_units(Gradient() + Thompson(0.8), case), wanted)


def test_a_unit_that_was_never_active_is_grown_before_one_of_a_larger_gradient() -> None:
    """2:4, the first two of each four active: by gradient units 2 and 3 are grown, by the bonus 3 and 2."""
    structure, gradient, visits, _ = STRUCTURES[1]
    case = folded(structure, gradient, visits)
    candidates, one = torch.tensor([[False, False, True, True]] * 2), torch.tensor([1, 1])
    chosen = [top(of_units(score, case), candidates, one) for score in (Gradient(), Gradient() + Exploration(1.0))]
    assert [row.nonzero()[:, 1].tolist() for row in chosen] == [[2, 3], [3, 3]]  # 0.4 + ln 10 / 4 > 0.3 + ln 10 / 8


# ---- epsilon-greedy


def ranking(scores: torch.Tensor, among: torch.Tensor) -> list[int]:
    """The units of one group among some, best first, ties by index."""
    return sorted(among.nonzero()[:, 0].tolist(), key=lambda unit: (-scores[unit].item(), unit))


@given(layers(), st.sampled_from([0.01, 0.1, 0.3, 0.5, 0.75, 0.99]))
def test_the_best_k_are_the_first_of_both_orders(case: Layer, epsilon: float) -> None:
    """Of some m picks floor or ceil(epsilon m) are of the random order, the others of the greedy one."""
    mixed, greedy, chance = (of_units(s, case) for s in (EpsilonGreedy(Gradient(), epsilon), Gradient(), Random()))
    for group, inactive in enumerate(~case.active):
        order, best, drawn = (ranking(scores[group], inactive) for scores in (mixed, greedy, chance))
        picks = range(2 * len(order) + 1)
        unions = [
            set(best[: m - b]) | set(drawn[:b])
            for m in picks
            for b in {math.floor(epsilon * m + 1e-9), math.ceil(epsilon * m - 1e-9)}
        ]
        assert all(set(order[:k]) in unions for k in range(len(order) + 1))


def test_epsilon_greedy_by_its_formula() -> None:
    case = dataclasses.replace(layer(), active=torch.zeros(1, 4, dtype=torch.bool))
    u = torch.rand(1, generator=torch.Generator().manual_seed(case.key ^ 0xE951)).item()
    chance = Random()(case).flatten().argsort(descending=True).argsort().tolist()
    wanted = [-min((3 - unit + u) / 0.75, (chance[unit] + 1 - u) / 0.25) for unit in range(4)]  # gradients ascend
    assert of_units(EpsilonGreedy(Gradient(), 0.25), case)[0].tolist() == pytest.approx(wanted)


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(("dropped", "share"), [(None, 2 / 3), (0.0, 3 / 4), (9.0, 3 / 4)])
def test_small_groups_have_the_share_on_average(epsilon: float, dropped: float | None, share: float) -> None:
    """Of 6000 groups of three units, or four with the one that was just dropped, each grows one: another than the best
    with probability epsilon * 2 / 3, or 3 / 4.
    """
    groups = 6000
    active = torch.tensor([[False, True, False, False]]).expand(groups, 4)
    grad = torch.tensor([1.0, dropped or 0.0, 3.0, 2.0]).reshape(1, 4, 1).expand(groups, 4, 1)
    case = Layer(torch.Size([groups, 4]), torch.zeros(groups, 4, 1), grad, active, active.byte(), {}, step=10, key=8)
    candidates = ~active if dropped is None else torch.ones_like(active)
    scores = of_units(EpsilonGreedy(Gradient(), epsilon), case)
    chosen = top(scores, candidates, torch.ones(groups, dtype=torch.int64)).sum(0)
    wanted = groups * epsilon * share
    deviation = math.sqrt(wanted * (1 - epsilon * share))
    assert abs(groups - int(chosen[1 if dropped == 9.0 else 2]) - wanted) < 4 * deviation


def test_large_layers_have_the_share_exactly() -> None:
    """Of 1000 picks 100 are random; the two orders share about 100 * 900 / 100000 units."""
    n = 100_000
    grad = torch.randn(1, n, 1, generator=torch.Generator().manual_seed(1))
    active = torch.zeros(1, n, dtype=torch.bool)
    case = Layer(torch.Size([n]), torch.zeros(1, n, 1), grad, active, active.byte(), {}, step=10, key=8)
    chosen = top(of_units(EpsilonGreedy(Gradient(), 0.1), case), ~active, torch.tensor([1000]))
    best = top(grad.abs()[..., 0], ~active, torch.tensor([900]))
    assert int((chosen & ~best).sum()) in range(95, 101)


@given(layers())
def test_an_epsilon_of_0_is_the_score_and_of_1_is_random(case: Layer) -> None:
    score = Gradient() + Exploration(0.1)
    assert torch.equal(EpsilonGreedy(score, 0.0)(case), score(case))
    assert torch.equal(EpsilonGreedy(score, 1.0)(case), Random()(case))


@given(layers(), st.booleans())
def test_active_units_keep_their_places_among_the_others(case: Layer, random: bool) -> None:
    """With next to no epsilon, or nearly 1, the whole order is that of the score, dropped units included."""
    mixed = of_units(EpsilonGreedy(Gradient(), 1 - 1e-9 if random else 1e-9), case)
    plain = of_units(Random() if random else Gradient(), case)
    everything = torch.ones_like(case.active[0])
    for group in range(len(mixed)):
        assert ranking(mixed[group], everything) == ranking(plain[group], everything)


@given(layers(), st.integers(0, 10**6))
def test_active_units_use_up_no_place(case: Layer, seed: int) -> None:
    """Whatever the gradients of active units, the scores of inactive ones are the same."""
    assert case.grad is not None
    other = torch.randn(case.grad.shape, generator=torch.Generator().manual_seed(seed)) * 5
    changed = dataclasses.replace(case, grad=torch.where(case.active[..., None], other, case.grad))
    score = EpsilonGreedy(Gradient(), 0.3)
    assert torch.equal(of_units(score, case)[~case.active], of_units(score, changed)[~case.active])


def test_epsilon_greedy_by_key_and_step() -> None:
    generator = torch.Generator().manual_seed(0)
    grad, active = torch.randn(1, 50, 1, generator=generator), torch.zeros(1, 50, dtype=torch.bool)
    cases = [
        Layer(torch.Size([50]), torch.zeros(1, 50, 1), grad, active, active.byte(), {}, 10, key) for key in (1, 1, 2)
    ]
    torch.manual_seed(0)
    first, again, other = (EpsilonGreedy(Gradient(), 0.5)(case) for case in cases)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_epsilon_greedy_scores_units_of_a_block() -> None:
    structure, gradient, visits, _ = STRUCTURES[0]
    scores = EpsilonGreedy(Gradient(), 1e-9)(folded(structure, gradient, visits))
    assert scores.shape == (1, 4, 1)
    assert scores.flatten().argsort(descending=True).tolist() == [0, 2, 1, 3]  # means 0.3, 0.2, 0.3, 0.1


def test_epsilon_greedy_needs_what_its_score_needs() -> None:
    assert EpsilonGreedy(Gradient() + Exploration()).needs == {GRADIENT, VISITS}
    assert EpsilonGreedy(Magnitude()).needs == frozenset()


@pytest.mark.parametrize("epsilon", [-0.1, 1.1, math.nan])
def test_an_epsilon_outside_0_to_1_is_refused(epsilon: float) -> None:
    text = "is outside [0, 1]: it is the share of grown weights that is picked at random. Use epsilon=0.1."
    with pytest.raises(ValueError, match=re.escape(f"epsilon={epsilon} {text}")):
        EpsilonGreedy(Gradient(), epsilon)


@dataclasses.dataclass(frozen=True)
class Logarithm(Score):
    """Of the weight: NaN below 0."""

    def __call__(self, layer: Layer) -> torch.Tensor:
        return layer.weight.log()


def test_an_inner_score_that_is_nan_is_named() -> None:
    with pytest.raises(FloatingPointError, match=r"The score Logarithm\(\) of a weight of shape \(2, 2\) is NaN"):
        EpsilonGreedy(Logarithm())(layer())
