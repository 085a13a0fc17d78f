"""The methods as values: each function returns a `Method`, with its formula and its source.

`steps` is the number of optimizer steps of the whole run; schedules are laid over it. `every` is the number of steps
between two updates of the topology. No update is due in the last `every` steps, so that what was grown last is
trained. `fraction` is the share of active weights that moves at an update.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from rewire.core.method import Method
from rewire.core.schedule import Constant, Cosine, Every, Schedule
from rewire.core.score import Absolute, Exploration, Gradient, Magnitude, Random, Score


def dense() -> Method:
    """Returns ordinary training, for use with sparsity=0: the baseline of every comparison."""
    return Method("dense")


def static() -> Method:
    """Returns a fixed mask, drawn once before training.

    Reference: Liu et al., The Unreasonable Effectiveness of Random Pruning, https://arxiv.org/abs/2202.02643
    """
    return Method("static")


def set_(steps: int = 0, *, every: int = 100, fraction: float = 0.3) -> Method:
    """Returns SET: drop the smallest abs(w), grow at random, a constant fraction.

    Reference: Mocanu et al., Scalable Training of Artificial Neural Networks with Adaptive Sparse Connectivity
    Inspired by Network Science, Nature Communications 2018, https://arxiv.org/abs/1707.04780
    """
    _check("set_", steps, every, steps - every, fraction)
    return Method("set", Magnitude(), Random(), Constant(fraction), Every(every, steps - every))


def set_itop(steps: int = 0, *, every: int = 1500, fraction: float = 0.5, end_fraction: float = 0.005) -> Method:
    """Returns SET-ITOP: SET with long intervals and a fraction that falls by a cosine over the whole run.

    Reference: Liu et al., Do We Actually Need Dense Over-Parameterization? In-Time Over-Parameterization in Sparse
    Training, ICML 2021, https://arxiv.org/abs/2102.02887
    """
    _check("set_itop", steps, every, steps - every, fraction, end_fraction)
    schedule = Cosine(fraction, end_fraction, steps)
    return Method("set_itop", Magnitude(), Random(), schedule, Every(every, steps - every))


def rigl(steps: int = 0, *, every: int = 100, fraction: float = 0.3, stop: float = 0.75) -> Method:
    """Returns RigL: drop the smallest abs(w), grow the largest abs(gradient), until `stop` of the steps.

    The fraction falls from `fraction` to 0 at ``stop * steps``: fraction / 2 * (1 + cos(pi t / (stop * steps))).

    Reference: Evci et al., Rigging the Lottery: Making All Tickets Winners, ICML 2020, section 3,
    https://arxiv.org/abs/1911.11134
    """
    if not 0 < stop <= 1:
        raise ValueError(
            f"stop={stop} is outside (0, 1]: it is the share of the run after which RigL moves nothing. Use 0.75."
        )
    last = min(int(stop * steps), steps - every)
    _check("rigl", steps, every, last, fraction)
    schedule = Cosine(fraction, 0.0, int(stop * steps))
    return Method("rigl", Magnitude(), Gradient(), schedule, Every(every, last))


def rigl_itop(steps: int = 0, *, every: int = 4000, fraction: float = 0.5, end_fraction: float = 0.005) -> Method:
    """Returns RigL-ITOP: RigL with long intervals and a fraction that falls by a cosine over the whole run.

    Reference: as `set_itop`.
    """
    _check("rigl_itop", steps, every, steps - every, fraction, end_fraction)
    schedule = Cosine(fraction, end_fraction, steps)
    return Method("rigl_itop", Magnitude(), Gradient(), schedule, Every(every, steps - every))


def dst_ee(
    steps: int = 0,
    *,
    every: int = 1000,
    c: float | Schedule = 1e-5,
    eps: float = 1.0,
    fraction: float = 0.5,
    end_fraction: float = 0.005,
    signed: bool = False,
    regrow: bool = True,
    scale: Literal["none", "layer"] = "none",
) -> Method:
    """Returns DST-EE: drop the smallest abs(w), grow the highest acquisition score

        S = abs(dL/dw) + c * ln(t) / (N + eps)

    with t the optimizer steps so far and N the number of topologies so far that held the weight.

    c: weight of exploration against exploitation; 0 is RigL-ITOP, by the same path. It adds to a gradient, so it
    depends on the scale of the loss: ``scale="layer"`` measures it in units of the layer's mean abs(gradient) over
    inactive weights. signed: abs(dL/dw + bonus), with the signed gradient, as in the authors' code. regrow: whether a
    weight dropped at an update may be grown at the same one.

    Reference: Huang et al., Dynamic Sparse Training via Balancing the Exploration-Exploitation Trade-off, DAC 2023,
    section III, https://arxiv.org/abs/2211.16667

    >>> print(dst_ee(steps=30_000))
    dst_ee
    """
    _check("dst_ee", steps, every, steps - every, fraction, end_fraction)
    schedule = Cosine(fraction, end_fraction, steps)
    bonus = Exploration(c, eps=eps, scale=scale)
    grow: Score = Absolute(Gradient(signed=True) + bonus) if signed else Gradient() + bonus
    return Method("dst_ee", Magnitude(), grow, schedule, Every(every, steps - every), regrow=regrow)


METHODS: dict[str, Callable[..., Method]] = {
    "dense": dense,
    "static": static,
    "set": set_,
    "set_itop": set_itop,
    "rigl": rigl,
    "rigl_itop": rigl_itop,
    "dst_ee": dst_ee,
}


def _check(name: str, steps: int, every: int, last: int, *fractions: float) -> None:
    """Raises ValueError unless the options make sense and at least one update is due."""
    if steps < 1:
        raise ValueError(
            f"{name}() does not know how long the run is (steps={steps}), and its schedule is laid over the whole "
            f"run. Say how many optimizer steps it takes: {name}(steps=epochs * len(loader))."
        )
    if every < 1:
        raise ValueError(f"every={every} is not an interval in optimizer steps. Use every=100, say.")
    if last < every:
        raise ValueError(
            f"{name}(steps={steps}, every={every}) would never update: the first update would be at step {every}, "
            f"and the last may be at step {max(last, 0)}. Use a shorter interval, such as "
            f"every={max(1, steps // 25)}, or static() for a fixed mask."
        )
    for what, fraction in zip(("fraction", "end_fraction"), fractions, strict=False):
        if not 0 <= fraction <= 1:
            raise ValueError(
                f"{what}={fraction} is outside [0, 1]: it is the share of active weights that moves at an update. "
                "Use fraction=0.5, say."
            )
