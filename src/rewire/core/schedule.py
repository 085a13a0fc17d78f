"""Numbers that change with the step, and the steps at which a topology update is due.

A step is an optimizer step, counted from 1; a schedule also answers for step 0, the moment before training.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final


class Schedule(ABC):
    """A number for every step: a drop fraction, a density, the `c` of an exploration bonus."""

    @abstractmethod
    def __call__(self, step: int) -> float:
        """Returns the value at `step` (optimizer steps taken so far)."""


@final
@dataclass(frozen=True)
class Constant(Schedule):
    """Returns `value` at every step.

    >>> Constant(0.3)(1000)
    0.3
    """

    value: float

    def __post_init__(self) -> None:
        _require_finite(self, value=self.value)

    def __call__(self, step: int) -> float:
        return self.value


@final
@dataclass(frozen=True)
class Linear(Schedule):
    """Returns a value on the straight line from `start` at step 0 to `end` at `steps`, and `end` after it.

        f(t) = end + (start - end) (1 - t / steps)

    >>> line = Linear(start=1.0, end=0.5, steps=100)
    >>> line(0), line(50), line(100), line(200)
    (1.0, 0.75, 0.5, 0.5)
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        _require_finite(self, start=self.start, end=self.end)
        _require_steps(self, "steps", self.steps, least=1)

    def __call__(self, step: int) -> float:
        return _between(self.start, self.end, 1 - _progress(step, 0, self.steps))


@final
@dataclass(frozen=True)
class Cosine(Schedule):
    """Returns a value on the half cosine from `start` at step 0 to `end` at `steps`, and `end` after it.

        f(t) = end + (start - end) (1 + cos(pi t / steps)) / 2

    RigL's f_decay(t; alpha, T_end) is `Cosine(start=alpha, end=0.0, steps=T_end)`.

    >>> fraction = Cosine(start=0.5, end=0.0, steps=100)
    >>> fraction(0), round(fraction(50), 6), fraction(100), fraction(101)
    (0.5, 0.25, 0.0, 0.0)

    Reference: Evci, Gale, Menick, Castro, Elsen. "Rigging the Lottery: Making All Tickets Winners",
    ICML 2020, https://arxiv.org/abs/1911.11134
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        _require_finite(self, start=self.start, end=self.end)
        _require_steps(self, "steps", self.steps, least=1)

    def __call__(self, step: int) -> float:
        progress = _progress(step, 0, self.steps)
        return _between(self.start, self.end, (1 + math.cos(math.pi * progress)) / 2)


@final
@dataclass(frozen=True)
class Cubic(Schedule):
    """Returns `start` up to step `begin`, then a cubic, steep first and flat last, and `end` from `steps` on.

        f(t) = end + (start - end) (1 - (t - begin) / (steps - begin))^3

    In the paper's symbols start = s_i, end = s_f, begin = t_0 and steps = t_0 + n Delta t. `steps` is the
    last step of the change, not its length.

    >>> density = Cubic(start=1.0, end=0.0, begin=100, steps=300)
    >>> density(50), density(100), density(200), density(300), density(400)
    (1.0, 1.0, 0.125, 0.0, 0.0)

    Reference: Zhu, Gupta. "To prune, or not to prune: exploring the efficacy of pruning for model
    compression", 2017, https://arxiv.org/abs/1710.01878
    """

    start: float
    end: float
    begin: int
    steps: int

    def __post_init__(self) -> None:
        _require_finite(self, start=self.start, end=self.end)
        _require_steps(self, "begin", self.begin, least=0)
        _require_steps(self, "steps", self.steps, least=1)
        if self.steps <= self.begin:
            raise ValueError(
                f"{self} has no step to change in, because it begins at {self.begin} and ends at "
                f"{self.steps}. Give a last step after the first: steps={self.begin + 1} or more."
            )

    def __call__(self, step: int) -> float:
        return _between(self.start, self.end, (1 - _progress(step, self.begin, self.steps)) ** 3)


@final
@dataclass(frozen=True)
class Exponential(Schedule):
    """Returns `start` multiplied by `factor` once every `every` steps: a staircase, not a smooth decay.

        f(t) = start * factor^floor(t / every)

    DST-EE's link-prediction script lets its `c` decay so: 1e-2, times 0.9 every 1000 steps.

    >>> c = Exponential(start=8.0, factor=0.5, every=1000)
    >>> c(0), c(999), c(1000), c(2500)
    (8.0, 8.0, 4.0, 2.0)

    Reference: Huang, Lei, Xu, Peng, Sun, Xie, Ding. "Dynamic Sparse Training via Balancing the
    Exploration-Exploitation Trade-off", DAC 2023, https://arxiv.org/abs/2211.16667
    """

    start: float
    factor: float
    every: int

    def __post_init__(self) -> None:
        _require_finite(self, start=self.start, factor=self.factor)
        _require_steps(self, "every", self.every, least=1)
        if not 0 < self.factor <= 1:
            raise ValueError(
                f"Exponential(factor={self.factor}) does not decay, because its value is multiplied by "
                f"{self.factor} every {self.every} steps. Give a factor in (0, 1], such as factor=0.9."
            )

    def __call__(self, step: int) -> float:
        return self.start * self.factor ** (step // self.every)


class Due(ABC):
    """The steps after which the topology is updated."""

    @abstractmethod
    def __call__(self, step: int) -> bool:
        """Returns whether an update follows optimizer step `step`, counted from 1."""

    @abstractmethod
    def count(self, steps: int) -> int:
        """Returns how many of the steps 1 to `steps` are due."""


@final
@dataclass(frozen=True)
class Every(Due):
    """Says that an update is due at each multiple of `every`, up to and with step `until`.

        due(t) = t >= 1, t mod every = 0 and t <= until

    >>> due = Every(every=100, until=900)
    >>> [step for step in range(1001) if due(step)] == [100, 200, 300, 400, 500, 600, 700, 800, 900]
    True
    >>> due.count(1000), due.count(250)
    (9, 2)
    """

    every: int
    until: int

    def __post_init__(self) -> None:
        _require_steps(self, "every", self.every, least=1)
        _require_steps(self, "until", self.until, least=0)

    def __call__(self, step: int) -> bool:
        return 1 <= step <= self.until and step % self.every == 0

    def count(self, steps: int) -> int:
        return max(0, min(steps, self.until)) // self.every


@final
@dataclass(frozen=True)
class Never(Due):
    """Says that no step is due: the topology of a static method.

    >>> Never()(100), Never().count(1000)
    (False, 0)
    """

    def __call__(self, step: int) -> bool:
        return False

    def count(self, steps: int) -> int:
        return 0


def _progress(step: int, begin: int, end: int) -> float:
    """Returns how much of the way from `begin` to `end` is done at `step`, in [0, 1]."""
    return min(max((step - begin) / (end - begin), 0.0), 1.0)


def _between(start: float, end: float, remaining: float) -> float:
    """Returns the value with the share `remaining` of the way to `end` to go; exact at both ends."""
    return start if remaining == 1 else end + (start - end) * remaining


def _require_finite(schedule: Schedule, **values: float) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise ValueError(
                f"{type(schedule).__name__}({name}={value}) is not possible, because a schedule passes "
                f"through its {name} and gives numbers. Give a finite {name}."
            )


def _require_steps(owner: Schedule | Due, name: str, value: int, *, least: int) -> None:
    if not isinstance(value, int) or value < least:
        suggestion = max(least, int(value)) if math.isfinite(value) else least
        raise ValueError(
            f"{type(owner).__name__}({name}={value}) is not possible, because {name} counts optimizer steps: "
            f"a whole number of at least {least}. Give one as an int, such as {name}={suggestion}."
        )
