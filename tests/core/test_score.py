"""Scores: formulas by hand, sums, factors, needs."""

import dataclasses
import math

import pytest
import torch

from rewire.core.schedule import Linear
from rewire.core.score import (
    GRADIENT,
    VISITS,
    Absolute,
    Exploration,
    Gradient,
    GradientAverage,
    GradientMean,
    Layer,
    Magnitude,
    Random,
    Score,
    of_units,
)


def layer(step: int = 10, key: int = 1, size: int = 1) -> Layer:
    weight = torch.tensor([1.0, -2.0, 0.0, 0.0]).reshape(1, -1, size)
    return Layer(
        shape=torch.Size([2, 2]),
        weight=weight,
        grad=torch.tensor([0.1, 0.2, -0.3, 0.4]).reshape(1, -1, size),
        active=torch.tensor([True, True, False, False]).reshape(1, -1, size)[..., 0],
        visits=torch.tensor([3, 1, 0, 4], dtype=torch.uint8).reshape(1, -1, size)[..., 0],
        extra={"gradient_mean_0.9": torch.tensor([-1.0, 2.0, -3.0, 4.0]).reshape(1, -1, size)},
        step=step,
        key=key,
    )


def test_magnitude_gradient_and_mean() -> None:
    assert of_units(Magnitude(), layer())[0].tolist() == [1.0, 2.0, 0.0, 0.0]
    assert of_units(Gradient(), layer())[0].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert of_units(Gradient(signed=True), layer())[0].tolist() == pytest.approx([0.1, 0.2, -0.3, 0.4])
    assert of_units(GradientMean(), layer())[0].tolist() == [1.0, 2.0, 3.0, 4.0]


def test_a_unit_scores_the_mean_over_its_weights() -> None:
    assert of_units(Magnitude(), layer(size=2))[0].tolist() == [1.5, 0.0]
    assert of_units(Gradient(), layer(size=2))[0].tolist() == pytest.approx([0.15, 0.35])


def test_the_acquisition_function_by_hand() -> None:
    score = of_units(Gradient() + Exploration(c=0.5, eps=1.0), layer(step=10))[0]
    bonus = [0.5 * math.log(10) / (n + 1) for n in (3, 1, 0, 4)]
    assert score.tolist() == pytest.approx([g + b for g, b in zip((0.1, 0.2, 0.3, 0.4), bonus, strict=True)])


def test_the_signed_acquisition_function_by_hand() -> None:
    score = of_units(Absolute(Gradient(signed=True) + Exploration(c=0.5)), layer(step=10))[0]
    assert score[2].item() == pytest.approx(abs(-0.3 + 0.5 * math.log(10)))


def test_the_layer_scale_is_the_mean_gradient_over_inactive_weights() -> None:
    plain = of_units(Exploration(c=0.5), layer())
    scaled = of_units(Exploration(c=0.5, scale="layer"), layer())
    assert torch.allclose(scaled, plain * (0.3 + 0.4) / 2)


def test_c_may_follow_a_schedule() -> None:
    schedule = Linear(1.0, 0.0, 20)
    assert torch.allclose(of_units(Exploration(schedule), layer(10)), of_units(Exploration(0.5), layer(10)))


def test_no_exploration_is_the_gradient_bit_for_bit() -> None:
    assert torch.equal(of_units(Gradient() + Exploration(0.0), layer()), of_units(Gradient(), layer()))


def test_the_first_step_has_no_bonus() -> None:
    assert of_units(Exploration(1.0), layer(step=1)).tolist() == [[0.0] * 4]


def test_factors_and_sums() -> None:
    mest = of_units(Magnitude() + 0.01 * Gradient(), layer())[0]
    assert mest.tolist() == pytest.approx([1.001, 2.002, 0.003, 0.004])
    assert torch.equal(of_units(Magnitude() * 2.0, layer()), of_units(2.0 * Magnitude(), layer()))


def test_needs_add_up() -> None:
    assert Magnitude().needs == frozenset()
    assert (Gradient() + Exploration()).needs == {GRADIENT, VISITS}
    assert Exploration(scale="layer").needs == {GRADIENT, VISITS}
    assert Absolute(2.0 * GradientMean(0.8)).needs == {GradientAverage(decay=0.8)}


def test_the_running_mean_by_hand() -> None:
    need = GradientAverage(decay=0.9)
    buffer = need.start(torch.ones(2))
    assert buffer is not None
    need.observe_(buffer, torch.tensor([1.0, -2.0]))
    need.observe_(buffer, torch.tensor([1.0, 0.0]))
    assert buffer.tolist() == pytest.approx([0.19, -0.18])


def test_random_depends_on_the_key_alone() -> None:
    torch.manual_seed(0)
    first = of_units(Random(), layer(key=5))
    torch.manual_seed(1)
    assert torch.equal(first, of_units(Random(), layer(key=5, step=99)))
    assert not torch.equal(first, of_units(Random(), layer(key=6)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": 0.0}, r"eps=0.0 would divide by zero.*Use eps > 0"),
        ({"c": -1.0}, r"c=-1.0 is not a bonus.*Use c=1e-5"),
        ({"c": float("nan")}, r"c=nan is not a bonus"),
        ({"scale": "global"}, r'scale="global" is unknown. Use scale="none" or scale="layer"'),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Exploration(**options)


def test_no_bonus_is_rounded_away_beside_a_gradient_in_bf16() -> None:
    """Equal gradients of 1: the next bf16 number is 1.0078, and the bonus is 0.002 at most."""
    half = dataclasses.replace(layer(), weight=torch.zeros(1, 4, 1).bfloat16(), grad=torch.ones(1, 4, 1).bfloat16())
    score = of_units(Gradient() + Exploration(1e-3), half)[0]
    assert score.argsort(descending=True).tolist() == [2, 1, 0, 3]  # visits 0, 1, 3, 4


def test_the_bonus_is_0_before_the_first_step() -> None:
    assert Exploration(1.0)(layer(step=0)).eq(0).all()


@dataclasses.dataclass(frozen=True)
class Logarithm(Score):
    """Of the weight: NaN below 0."""

    def __call__(self, layer: Layer) -> torch.Tensor:
        return layer.weight.log()


def test_a_score_that_is_nan_is_named() -> None:
    text = r"The score Logarithm\(\) of a weight of shape \(2, 2\) is NaN at step 10, so its units cannot be ranked"
    with pytest.raises(FloatingPointError, match=text):
        of_units(Logarithm(), layer())
