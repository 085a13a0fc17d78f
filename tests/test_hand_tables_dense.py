"""Methods that are dense for some of the run, traced by hand; and the density that every run was planned to have."""

import numpy as np
import pytest
import torch
from by_hand import FIRST, SECOND, Run, table
from torch import nn

import rewire

torch.set_num_threads(1)

WEIGHTS = "12 -1 2 -3 / 4 11 -5 6 / 7 -8 10 9", "6 -5 4 / 3 -2 1"
DENSE = "1111 1111 1111", "111 111"


# ---- GMP and AC/DC


def test_gmp_holds_the_cubic_at_every_step_by_the_largest_of_each_layer() -> None:
    """Sparsity 0.8 (1 - (1 - t / 6)^3): of 18 weights 11.9, 7.9, 5.4, 4.1, 3.7 and 3.6, rounded."""
    run = Run(rewire.gmp(8, every=1), WEIGHTS, sparsity=0.8, distribution="uniform", lr=0.0)
    assert run.masks == DENSE
    for step, masks in enumerate(
        (
            ("1000 0111 1111", "111 100"),  # 7.96 and 3.98
            ("1000 0100 0111", "111 000"),  # 5.24 and 2.62
            ("1000 0100 0010", "110 000"),  # 3.6 and 1.8
            ("1000 0100 0010", "100 000"),  # 2.76 and 1.38
            ("1000 0100 0010", "100 000"),  # 2.44 and 1.22
            ("1000 0100 0010", "100 000"),  # 2.4 and 1.2
            ("1000 0100 0010", "100 000"),
            ("1000 0100 0010", "100 000"),
        ),
        start=1,
    ):
        run.step()
        assert run.masks == masks, step
        assert sum(run.counts) == round(18 * (1 - 0.8 * (1 - (1 - min(step, 6) / 6) ** 3)))
    assert [update.step for update in run.updates] == [1, 2, 3, 4, 5, 6]


def test_gmp_goes_by_the_weights_of_the_step() -> None:
    """Every 3 steps until 0.75 of 8, so at step 3 alone: 6 of 12 and 3 of 6."""
    run = Run(rewire.gmp(8, every=3), WEIGHTS, sparsity=0.5, distribution="uniform")
    run.step("11 0 0 0 / 0 0 0 0 / 0 0 0 0", "5 0 0 / 0 0 0")  # 12 and 6 become 1
    run.step()
    assert run.masks == DENSE
    run.step("0 -20 0 0 / 0 0 0 0 / 0 0 0 0", "0 0 0 / 0 0 -20")  # -1 and 1 become 19 and 21
    assert run.masks == ("0100 0100 1111", "011 001")
    for _ in range(5):
        run.step("9 0 0 0 / 0 0 0 0 / 0 0 0 0")  # inactive by now
    run.holds("0 19 0 0 / 0 11 0 0 / 7 -8 10 9", "0 -5 4 / 0 0 21")


@pytest.mark.parametrize("distribution", ["uniform", "erk"])
def test_gmp_holds_the_planned_total_whatever_the_layers_are(distribution: str) -> None:
    """Layers of 6, 6 and 2: by largest remainder 11 are 5, 5 and 1, but 10 are 4, 4 and 2, which would have to grow."""
    layers = [nn.Linear(3, 2, bias=False), nn.Linear(2, 3, bias=False), nn.Linear(1, 2, bias=False)]
    model = nn.ModuleList(layers)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    method = rewire.gmp(200, every=1)
    sparsifier = rewire.sparsify(model, optimizer, method, sparsity=0.75, distribution=distribution)
    for step in range(1, 201):
        optimizer.step()
        active = sum(int(mask.sum()) for mask in sparsifier.masks.values())
        assert active == round(14 * method.density(step, 0.25)), step


def test_ac_dc_takes_turns() -> None:
    """Sparse after steps 1, 3 and 5, the largest 4 of 12 and 2 of 6; dense after 2 and 4, from 0."""
    run = Run(rewire.ac_dc(6, every=1), WEIGHTS, sparsity=2 / 3, distribution="uniform")
    assert run.masks == DENSE
    run.step()
    assert run.masks == ("1000 0100 0011", "110 000")
    run.step("1 1 1 1 / 1 1 1 1 / 1 1 1 1", "1 1 1 / 1 1 1")  # only what is active learns
    assert run.masks == DENSE
    run.holds("11 0 0 0 / 0 10 0 0 / 0 0 9 8", "5 -6 0 / 0 0 0")
    run.step("0 -20 0 0 / 0 0 0 0 / 0 0 0 7.5", "0 0 0 / 0 0 30")  # 0 becomes 20 and -30, 8 becomes .5
    assert run.masks == ("1100 0100 0010", "010 001")
    run.step()
    assert run.masks == DENSE
    run.holds("11 20 0 0 / 0 10 0 0 / 0 0 9 0", "0 -6 0 / 0 0 -30")
    for _ in range(2):
        run.step()
        assert run.masks == ("1100 0100 0010", "010 001")
    assert len(run.updates) == 5


# ---- ADMM


def test_admm_pulls_towards_the_nearest_sparse_weights() -> None:
    """Dense to step 4, pulled at steps 5 to 8 by rate * rho = 1/2, targets after 4 and 6; 4 of 12 and 2 of 6 stay."""
    run = Run(rewire.admm(12, every=2, rho=0.5), WEIGHTS, sparsity=2 / 3, distribution="uniform")
    for _ in range(4):
        run.step()
    run.holds(*WEIGHTS)
    assert run.kept(FIRST, "admm_target").equal(table("12 0 0 0 / 0 11 0 0 / 0 0 10 9"))
    assert run.kept(FIRST, "admm_dual").equal(table("0 -1 2 -3 / 4 0 -5 6 / 7 -8 0 0"))
    run.step()  # W - Z + U is 0 where Z is W, elsewhere 2 W
    run.holds("12 0 0 0 / 0 11 0 0 / 0 0 10 9", "6 -5 0 / 0 0 0")
    # The loss makes -3 of the 9, of which half the way back to 9 makes 3. Elsewhere half of U is taken away.
    run.step("0 0 0 0 / 0 0 0 0 / 0 0 0 12")
    run.holds("12 .5 -1 1.5 / -2 11 2.5 -3 / -3.5 4 10 3", "6 -5 -2 / -1.5 1 -.5")
    # W + U is half of what was small at first, so -4 is larger than the 3.
    assert run.kept(FIRST, "admm_target").equal(table("12 0 0 0 / 0 11 0 0 / 0 -4 10 0"))
    assert run.kept(FIRST, "admm_dual").equal(table("0 -.5 1 -1.5 / 2 0 -2.5 3 / 3.5 0 0 3"))
    run.step()  # 4 halves its way to -4, 3 + 3 halves; for the others W + U is 0
    run.holds("12 .5 -1 1.5 / -2 11 2.5 -3 / -3.5 0 10 0", "6 -5 -2 / -1.5 1 -.5")
    assert run.masks == DENSE
    run.step()  # -2 and -1.5, and then the largest stay
    assert run.masks == ("1000 0100 1010", "110 000")
    for _ in range(4):
        run.step()
    run.holds("12 0 0 0 / 0 11 0 0 / -3.5 0 10 0", "6 -5 0 / 0 0 0")
    assert [update.step for update in run.updates] == [8]


def test_admm_is_its_formulas() -> None:
    """Recomputed in numpy over a run of random gradients."""
    generator = np.random.default_rng(3)
    lr, rho, every, keep = 0.1, 0.7, 2, (5, 2)
    run = Run(rewire.admm(15, every=every, rho=rho), WEIGHTS, sparsity=11 / 18, distribution="uniform", lr=lr)
    weights = [table(text).numpy() for text in WEIGHTS]
    targets, duals, masks = ([np.zeros_like(weight) for weight in weights] for _ in range(3))

    def largest(values: np.ndarray, count: int) -> np.ndarray:
        return np.abs(values) >= np.sort(np.abs(values), axis=None)[-count]

    for step in range(1, 16):
        gradients = [generator.standard_normal(weight.shape) for weight in weights]
        run.step(*map(torch.from_numpy, gradients))
        for place, name in enumerate((FIRST, SECOND)):
            weights[place] -= lr * np.where(masks[place] if step > 10 else True, gradients[place], 0)
            if 5 < step <= 10:
                weights[place] -= lr * rho * (weights[place] - targets[place] + duals[place])
            if step in (5, 7, 9):
                moved = weights[place] + duals[place]
                targets[place] = np.where(largest(moved, keep[place]), moved, 0)
                duals[place] = moved - targets[place]
            if step == 10:
                masks[place] = largest(weights[place], keep[place])
                weights[place] *= masks[place]
            np.testing.assert_allclose(run.kept(name, "admm_target"), targets[place], atol=1e-12)
            np.testing.assert_allclose(run.kept(name, "admm_dual"), duals[place], atol=1e-12)
            np.testing.assert_allclose(run.weights[place], weights[place], atol=1e-12)
    assert run.counts == keep


# ---- the density over a run

METHODS = {
    "set": rewire.set_(12, every=2),
    "gmp": rewire.gmp(12, every=2),
    "gmp, from 0.3": rewire.gmp(11, every=3, initial_sparsity=0.3, end=1.0),
    "ac_dc": rewire.ac_dc(12, every=2),
    "mest, soft": rewire.mest(12, every=2, soft=True),
    "admm": rewire.admm(12, every=2),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("sparsity", [0.5, 0.8])
def test_the_density_that_was_planned_is_the_one_that_was_held(name: str, sparsity: float) -> None:
    method, steps = METHODS[name], 11 if name == "gmp, from 0.3" else 12
    run = Run(method, WEIGHTS, sparsity=sparsity)
    planned = run.sparsifier.planned_density(steps)
    held = {FIRST: 0, SECOND: 0}
    for _ in range(steps):
        for layer, count in zip(held, run.counts, strict=True):  # what this step trains
            held[layer] += count
        run.step(torch.randn(3, 4), torch.randn(2, 3))
    assert held == {layer: round(planned[layer] * steps * size) for layer, size in ((FIRST, 12), (SECOND, 6))}
    assert run.sparsifier.mean_density == pytest.approx(planned, abs=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_planned_for_a_run_may_be_asked_at_any_time(name: str) -> None:
    run = Run(METHODS[name], WEIGHTS, sparsity=0.5)
    planned = run.sparsifier.planned_density(12)
    for _ in range(7):
        run.step(torch.randn(3, 4), torch.randn(2, 3))
        assert run.sparsifier.planned_density(12) == planned


def test_the_density_of_a_soft_bound_by_hand() -> None:
    """6 and 3 for 2 steps; then 9 8 8 7 | 5 4 4 4 for one each, see `test_soft_mest_...`; then 6 and 3."""
    run = Run(rewire.mest(6, every=1, fraction=0.5, soft=True), WEIGHTS, sparsity=0.5, distribution="uniform")
    assert run.sparsifier.planned_density(7) == pytest.approx(
        {FIRST: (6 + 9 + 8 + 8 + 7 + 6 + 6) / (7 * 12), SECOND: (3 + 5 + 4 + 4 + 4 + 3 + 3) / (7 * 6)}
    )


def test_ac_dc_ends_at_a_share_that_floating_point_does_not_hold() -> None:
    """0.7 * 90 is 62.99... in floating point, and the last switch is after step 63."""
    assert rewire.ac_dc(90, every=21, end=0.7).due.until == 63


def test_the_density_of_ac_dc_by_hand() -> None:
    """Dense for steps 1 and 3, 4 of 12 and 2 of 6 after that for 2 and 4."""
    run = Run(rewire.ac_dc(4, every=1), WEIGHTS, sparsity=2 / 3, distribution="uniform")
    assert run.sparsifier.planned_density(4) == pytest.approx({FIRST: 4 / 6, SECOND: 4 / 6})
    for _ in range(3):
        run.step()
    assert run.sparsifier.mean_density == pytest.approx({FIRST: 7 / 9, SECOND: 7 / 9})
