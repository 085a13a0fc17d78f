"""What the options of all methods must hold."""

from __future__ import annotations


def check(name: str, steps: int, every: int, last: int, *fractions: float) -> None:
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


def check_share(what: str, value: float) -> None:
    """Raises ValueError unless the value is a share of the run."""
    if not 0 < value <= 1:
        raise ValueError(f"{what}={value} is outside (0, 1]: it is a share of the steps. Use {what}=0.75.")
