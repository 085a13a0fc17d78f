"""Drop the weakest, grow the most promising, as many as before.

`steps` is the number of optimizer steps of the whole run; schedules are laid over it. `every` is the number of steps
between two updates of the topology. No update is due in the last `every` steps, so that what was grown last is
trained. `fraction` is the share of active weights that moves at an update.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

from rewire.core.acquisition import EpsilonGreedy, Exploration, Thompson
from rewire.core.groups import Ablating
from rewire.core.method import Method
from rewire.core.normed import Normed
from rewire.core.reservoir import ExplorationPenalty, StoredMagnitude
from rewire.core.schedule import Constant, Cosine, Every, Exponential, Linear, Schedule
from rewire.core.score import Absolute, Gradient, Magnitude, Random, RecentGradientMean, Score
from rewire.core.share import Soft
from rewire.core.structure import FanIn
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
    return _rigl("rigl", steps, every, fraction, stop)


def _rigl(name: str, steps: int, every: int, fraction: float, stop: float) -> Method:
    if not 0 < stop <= 1:
        raise ValueError(
            f"stop={stop} is outside (0, 1]: it is the share of the run after which RigL moves nothing. Use 0.75."
        )
    last = min(int(stop * steps), steps - every)
    check(name, steps, every, last, fraction)
    schedule = Cosine(fraction, 0.0, int(stop * steps))
    return Method(name, Magnitude(), Gradient(), schedule, Every(every, last))


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
    acquisition: Literal["ucb", "thompson", "epsilon"] = "ucb",
    epsilon: float = 0.1,
    c_decay: float = 1.0,
    c_decay_every: int = 1000,
    window: int = 1,
    relative: bool = False,
) -> Method:
    """Returns DST-EE: drop the smallest abs(w), grow the highest acquisition score

        S = abs(dL/dw) + c * ln(t) / (N + eps)

    with t the optimizer steps so far and N the number of topologies so far that held the weight.

    c: weight of exploration against exploitation; 0 is RigL-ITOP, by the same path. It adds to a gradient, so it
    depends on the scale of the loss: ``scale="layer"`` measures it in units of the layer's mean abs(gradient) over
    inactive weights. signed: abs(dL/dw + bonus), with the signed gradient, as in the authors' code. regrow: whether a
    weight dropped at an update may be grown at the same one.

    Beyond the paper, each to be measured against the above:
    acquisition: "thompson" puts c * z / sqrt(N + eps) in the place of the bonus, with z drawn from a standard normal;
    "epsilon" grows the share `epsilon` at random and the rest by abs(dL/dw), and does not read c, eps, scale, signed.
    c_decay: c is multiplied by it every `c_decay_every` steps; the authors' link-prediction script has c=1e-2, and 0.9
    every 1000. window: dL/dw is the mean over that many steps before an update, its own included, at one float a
    weight and the dense gradient at each of these steps. relative: drop by abs(w) / norm and grow by abs(dL/dw) * norm
    plus the bonus, with the norm of the weights of the same output, which are the two in a network whose outputs are
    normalised: batch norm makes the gradients of an output large where its weights are small. The norms for growth are
    those after the step; on the CPU engine, which scores growth in the backward pass, before it.

    Reference: Huang et al., Dynamic Sparse Training via Balancing the Exploration-Exploitation Trade-off, DAC 2023,
    section III, https://arxiv.org/abs/2211.16667

    >>> print(dst_ee(steps=30_000))
    dst_ee
    """
    check("dst_ee", steps, every, steps - every, fraction, end_fraction)
    schedule = Cosine(fraction, end_fraction, steps)
    if window > every:
        raise ValueError(
            f"window={window} is longer than the {every} steps between two updates, and each update begins a window "
            f"anew. Use at most window={every}."
        )
    if acquisition not in ("ucb", "thompson", "epsilon"):
        raise ValueError(f'acquisition="{acquisition}" is unknown. Use "ucb", "thompson" or "epsilon".')
    if relative and scale == "layer" and acquisition != "epsilon":
        raise ValueError(
            'relative=True with scale="layer" would measure the bonus in units of gradients, and add it to gradients '
            'times a norm. Use one of the two: relative=True, or scale="layer".'
        )
    signed = signed and acquisition != "epsilon"
    gradient: Score = Gradient(signed) if window == 1 else RecentGradientMean(window, signed)
    drop: Score = Magnitude()
    if relative:
        gradient, drop = Normed(gradient, 1), Normed(drop, -1)
    if acquisition == "epsilon":
        grow: Score = EpsilonGreedy(gradient, epsilon)
    else:
        bonus = (Exploration if acquisition == "ucb" else Thompson)(c, eps, scale)
        if c_decay != 1:
            if isinstance(c, Schedule) or not 0 < c_decay < 1:
                raise ValueError(
                    f"c_decay={c_decay} with c={c} cannot be, because c must be a number, which is multiplied by "
                    "c_decay, in (0, 1], again and again. Use c_decay=0.9, or c_decay=1 to leave c as it is."
                )
            bonus = replace(bonus, c=Exponential(c, c_decay, c_decay_every))
        grow = Absolute(gradient + bonus) if signed else gradient + bonus
    return Method("dst_ee", drop, grow, schedule, Every(every, steps - every), regrow=regrow)


@method(
    "mest",
    paper="Yuan et al., NeurIPS 2021, https://arxiv.org/abs/2110.14032",
    keeps="the active weights of every layer",
    costs="the dense gradient at updates",
)
def mest(
    steps: int = 0, *, every: int = 1000, fraction: float = 0.3, penalty: float = 0.01, soft: bool = False
) -> Method:
    """Returns MEST: drop the smallest abs(w) + penalty * abs(gradient), grow at random, ever less (elastic mutation).

    The fraction falls to 0 along a line over the run. soft: grow first and drop at the next update (soft memory
    bound), so that in between every layer holds `fraction` more than its budget; the last update drops only.

    Reference: Yuan et al., MEST: Accurate and Fast Memory-Economic Sparse Training Framework on the Edge, NeurIPS
    2021, section 3, https://arxiv.org/abs/2110.14032
    """
    check("mest", steps, every, steps - every, fraction)
    drop, due = Magnitude() + penalty * Gradient(), Every(every, steps - every)
    if soft:
        last = (steps - every) // every * every
        return Method("mest", drop, Random(), Linear(fraction, 0.0, last), due, share=Soft())
    return Method("mest", drop, Random(), Linear(fraction, 0.0, steps), due)


@method(
    "top_kast",
    paper="Jayakumar et al., NeurIPS 2020, https://arxiv.org/abs/2106.03517",
    keeps="the active weights of every layer",
    costs="the gradient of `trained` weights for each active one, and dense weights in memory",
)
def top_kast(steps: int = 0, *, every: int = 100, trained: float = 2.0, penalty: float = 1e-4) -> Method:
    """Returns Top-KAST: forward with the largest abs(w) of each layer, backward for `trained` times as many.

    Every weight has a value; those beyond the trained ones keep theirs, the initial one at first. After each step the
    trained weights shrink by learning rate * `penalty`, those that the forward pass does not see by 1 / density times
    as much, and every `every` steps both sets are chosen anew.

    Reference: Jayakumar et al., Top-KAST: Top-K Always Sparse Training, NeurIPS 2020, section 2,
    https://arxiv.org/abs/2106.03517
    """
    check("top_kast", steps, every, steps - every)
    if not (math.isfinite(trained) and trained >= 1):
        raise ValueError(
            f"trained={trained} would leave active weights untrained: it is the number of trained weights for each "
            "active one. Use trained=2.0, or 1 for none beyond the active ones."
        )
    if not (math.isfinite(penalty) and penalty >= 0):
        raise ValueError(f"penalty={penalty} is below 0 or no number. Use penalty=1e-4, say, or 0 for none.")
    score = StoredMagnitude()
    return Method(
        "top_kast",
        score,
        score,
        Constant(1.0),
        Every(every, steps - every),
        trained=trained,
        pull=ExplorationPenalty(penalty),
        start=Magnitude(),
    )


@method(
    "srigl",
    paper="Lasby et al., ICLR 2024, https://arxiv.org/abs/2305.02299",
    keeps="the fan-in of all neurons of a layer that are not ablated",
    costs="the dense gradient at updates",
    structure="fan_in",
)
def srigl(
    steps: int = 0, *, every: int = 100, fraction: float = 0.3, stop: float = 0.75, ablation: float = 0.3
) -> Method:
    """Returns SRigL: RigL with a constant fan-in, where neurons with few salient weights are ablated.

    A neuron that has fewer salient weights than `ablation` times the layer's weights per neuron ends empty, and the
    others share the layer's budget in equal parts (see `Ablating`). 0 ablates none.

    Reference: Lasby et al., Dynamic Sparse Training with Structured Sparsity, ICLR 2024, section 3,
    https://arxiv.org/abs/2305.02299
    """
    rigl = _rigl("srigl", steps, every, fraction, stop)
    return replace(rigl, groups=Ablating(ablation), structure=FanIn())
