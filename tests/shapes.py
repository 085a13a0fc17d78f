"""The checker of tensor shapes that tests run the package under.

Only annotations that name a tensor are checked: wrong strings and numbers must reach the package's own errors, and an
int is welcome where a float is meant.
"""

from collections.abc import Callable
from typing import Any

from beartype import beartype


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function with its tensor annotations, and only those, checked at every call."""
    if isinstance(function, type):
        return function
    kept = {name: hint for name, hint in function.__annotations__.items() if "Tensor" in str(hint)}
    function.__annotations__ = kept
    return beartype(function)
