"""Drop the weakest, grow the most promising, as many as before.

`steps` is the number of optimizer steps of the whole run; schedules are laid over it. `every` is the number of steps
between two updates of the topology. No update is due in the last `every` steps, so that what was grown last is
trained. `fraction` is the share of active weights that moves at an update.
"""

from __future__ import annotations

from typing import Literal

from rewire.core.method import Method, Proportional
from rewire.core.schedule import Constant, Cosine, Every, Linear, Schedule
from rewire.core.score import Absolute, Exploration, Gradient, GradientMean, Magnitude, Random, Score
from rewire.methods.options import check
from rewire.methods.registry import method


@method(
    "set",
    paper="Mocanu et al., Nature Communications 2018, https://arxiv.org/abs/1707.04780",
    keeps="the active weights of every layer",
    costs="nothing",
)
def set_(steps: int = 0, *, every: int = 100, fraction: float = 0.3) -> Method:
    """Returns SET: drop the smallest abs(w), grow at random, a constant fraction.

    Reference: Mocanu et al., Scalable Training of Artificial Neural Networks with Adaptive Sparse Connectivity
    Inspired by Network Science, Nature Communications 2018, https://arxiv.org/abs/1707.04780
    """
    check("set_", steps, every, steps - every, fraction)
    return Method("set", Magnitude(), Random(), Constant(fraction), Every(every, steps - every))


@method(
    "set_itop",
    paper="Liu et al., ICML 2021, https://arxiv.org/abs/2102.02887",
    keeps="the active weights of every layer",
    costs="nothing",
)
def set_itop(steps: int = 0, *, every: int = 1500, fraction: float = 0.5, end_fraction: float = 0.005) -> Method:
    """Returns SET-ITOP: SET with long intervals and a fraction that falls by a cosine over the whole run.

    Reference: Liu et al., Do We Actually Need Dense Over-Parameterization? In-Time Over-Parameterization in Sparse
    Training, ICML 2021, https://arxiv.org/abs/2102.02887
    """
    check("set_itop", steps, every, steps - every, fraction, end_fraction)
    schedule = Cosine(fraction, end_fraction, steps)
    return Method("set_itop", Magnitude(), Random(), schedule, Every(every, steps - every))


@method(
    "rigl",
    paper="Evci et al., ICML 2020, https://arxiv.org/abs/1911.11134",
    keeps="the active weights of every layer",
    costs="the dense gradient at updates",
)
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
    check("rigl", steps, every, last, fraction)
    schedule = Cosine(fraction, 0.0, int(stop * steps))
    return Method("rigl", Magnitude(), Gradient(), schedule, Every(every, last))


@method(
    "rigl_itop",
    paper="Liu et al., ICML 2021, https://arxiv.org/abs/2102.02887",
    keeps="the active weights of every layer",
    costs="the dense gradient at updates",
)
def rigl_itop(steps: int = 0, *, every: int = 4000, fraction: float = 0.5, end_fraction: float = 0.005) -> Method:
    """Returns RigL-ITOP: RigL with long intervals and a fraction that falls by a cosine over the whole run.

    Reference: as `set_itop`.
    """
    check("rigl_itop", steps, every, steps - every, fraction, end_fraction)
    schedule = Cosine(fraction, end_fraction, steps)
    return Method("rigl_itop", Magnitude(), Gradient(), schedule, Every(every, steps - every))


@method(
    "dst_ee",
    paper="Huang et al., DAC 2023, https://arxiv.org/abs/2211.16667",
    keeps="the active weights of every layer",
    costs="the dense gradient at updates, one byte of visits a weight",
)
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
    check("dst_ee", steps, every, steps - every, fraction, end_fraction)
    schedule = Cosine(fraction, end_fraction, steps)
    bonus = Exploration(c, eps=eps, scale=scale)
    grow: Score = Absolute(Gradient(signed=True) + bonus) if signed else Gradient() + bonus
    return Method("dst_ee", Magnitude(), grow, schedule, Every(every, steps - every), regrow=regrow)


@method(
    "snfs",
    paper="Dettmers and Zettlemoyer, 2019, https://arxiv.org/abs/1907.04840",
    keeps="the active weights of all layers together",
    costs="the dense gradient at every step, one float a weight",
)
def snfs(steps: int = 0, *, every: int = 1000, fraction: float = 0.5, decay: float = 0.9) -> Method:
    """Returns SNFS: drop the smallest abs(w), grow the largest abs(running mean of the gradient), shared by its mean.

    What all layers drop is handed back in proportion to the mean abs(running mean) over each layer's active weights.
    The running mean, m = decay * m + (1 - decay) * gradient, is kept at every step and for every weight. The fraction
    falls to 0 by a cosine.

    Reference: Dettmers and Zettlemoyer, Sparse Networks from Scratch: Faster Training without Losing Performance,
    section 3, https://arxiv.org/abs/1907.04840
    """
    check("snfs", steps, every, steps - every, fraction)
    mean = GradientMean(decay)
    due = Every(every, steps - every)
    return Method("snfs", Magnitude(), mean, Cosine(fraction, 0.0, steps), due, share=Proportional(mean))


@method(
    "mest",
    paper="Yuan et al., NeurIPS 2021, https://arxiv.org/abs/2110.14032",
    keeps="the active weights of every layer",
    costs="the dense gradient at updates",
)
def mest(steps: int = 0, *, every: int = 1000, fraction: float = 0.3, penalty: float = 0.01) -> Method:
    """Returns MEST: drop the smallest abs(w) + penalty * abs(gradient), grow at random, ever less (elastic mutation).

    The fraction falls to 0 along a line over the run.

    Reference: Yuan et al., MEST: Accurate and Fast Memory-Economic Sparse Training Framework on the Edge, NeurIPS
    2021, section 3, https://arxiv.org/abs/2110.14032
    """
    check("mest", steps, every, steps - every, fraction)
    drop = Magnitude() + penalty * Gradient()
    return Method("mest", drop, Random(), Linear(fraction, 0.0, steps), Every(every, steps - every))
