"""Methods whose density moves over training."""

from __future__ import annotations

from rewire.core.budget import Alternating, CubicDensity
from rewire.core.method import Method
from rewire.core.schedule import Constant, Cosine, Every
from rewire.core.score import Gradient, Magnitude
from rewire.core.share import Ranked
from rewire.methods.options import check, check_share
from rewire.methods.registry import method


def _last(end: float, steps: int, every: int) -> int:
    """Returns the last update at or before the share `end` of the steps, of which the last `every` have none."""
    share = int(end * steps + 1e-9)  # 0.7 * 90 is 62.99... in floating point
    return min(share, steps - every) // every * every


@method(
    "gmp",
    paper="Zhu and Gupta, 2017, https://arxiv.org/abs/1710.01878",
    keeps="nothing: the density falls to the one that was asked for",
    costs="up to dense training while it falls",
)
def gmp(steps: int = 0, *, every: int = 100, initial_sparsity: float = 0.0, end: float = 0.75) -> Method:
    """Returns gradual magnitude pruning: sparsity rises by a cubic, and the smallest abs(w) of each layer go.

        s(t) = s_f + (s_i - s_f) (1 - t / (end * steps))^3

    with s_i = `initial_sparsity` and s_f the sparsity that was asked for, reached after the share `end` of the steps.

    Reference: Zhu and Gupta, To prune, or not to prune: exploring the efficacy of pruning for model compression,
    section 3, https://arxiv.org/abs/1710.01878
    """
    check_share("end", end)
    last = _last(end, steps, every)
    check("gmp", steps, every, last)
    return Method("gmp", Magnitude(), due=Every(every, last), density=CubicDensity(initial_sparsity, 0, last))


@method(
    "granet",
    paper="Liu et al., NeurIPS 2021, https://arxiv.org/abs/2106.10404",
    keeps="nothing: the density falls to the one that was asked for, and moves between layers",
    costs="up to dense training while it falls, and the dense gradient at updates",
)
def granet(
    steps: int = 0,
    *,
    every: int = 1000,
    initial_sparsity: float = 0.5,
    end: float = 0.75,
    fraction: float = 0.5,
) -> Method:
    """Returns GraNet: gradual pruning by the magnitude over all layers at once, then drop and grow as RigL.

    Sparsity rises from `initial_sparsity` (0: dense to sparse) by the cubic of `gmp` until the share `end` of the
    steps. At each update every layer ends with its part of the largest abs(w) of all layers; `fraction` of its weights
    is dropped beyond that and grown again by abs(gradient). The fraction falls to 0 by a cosine over the run.

    Reference: Liu et al., Sparse Training via Boosting Pruning Plasticity with Neuroregeneration, NeurIPS 2021,
    section 3, https://arxiv.org/abs/2106.10404
    """
    check_share("end", end)
    last = _last(end, steps, every)
    check("granet", steps, every, last, fraction)
    due = Every(every, steps - every)
    density = CubicDensity(initial_sparsity, 0, last)
    return Method("granet", Magnitude(), Gradient(), Cosine(fraction, 0.0, steps), due, density, Ranked())


@method(
    "ac_dc",
    paper="Peste et al., NeurIPS 2021, https://arxiv.org/abs/2106.12379",
    keeps="nothing: it alternates between all weights and the density that was asked for",
    costs="dense training in every other phase",
)
def ac_dc(steps: int = 0, *, every: int = 1000, end: float = 0.85) -> Method:
    """Returns AC/DC: dense and sparse phases of `every` steps take turns, and the last, sparse, is longer.

    A sparse phase keeps the largest abs(w) of each layer; at its end all weights come back, from 0. The run begins
    dense and ends sparse: the last switch comes at or before the share `end` of the steps (in the paper 85 of 100
    epochs), so that what is kept is trained while the learning rate is not yet 0.

    Reference: Peste et al., AC/DC: Alternating Compressed/DeCompressed Training of Deep Neural Networks, NeurIPS
    2021, section 3, https://arxiv.org/abs/2106.12379
    """
    check_share("end", end)
    switches = _last(end, steps, every) // every
    check("ac_dc", steps, every, switches * every)
    last = (switches if switches % 2 else switches - 1) * every
    due = Every(every, last)
    return Method("ac_dc", Magnitude(), Magnitude(), Constant(0.0), due, Alternating(every, last))
