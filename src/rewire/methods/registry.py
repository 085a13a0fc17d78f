"""Every method by name, with what it keeps and what it costs; other packages add theirs by an entry point.

    [project.entry-points."rewire.methods"]
    mine = "my_package:mine"

where `mine` is a function, decorated with `method`, that returns a `Method`. It is imported when methods are first
listed, or one is asked for that is not among ours, and not by `import rewire`.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, TypeVar, cast

from rewire.core.method import Method

GROUP = "rewire.methods"

Make = TypeVar("Make", bound=Callable[..., Method])


@dataclass(frozen=True)
class Card:
    """What is said of a method.

    name: in recipes, records and on the command line. idea: one line. paper: authors, venue and address.
    keeps: what stays constant while it trains. costs: what a step costs beyond that of a fixed mask.
    structure, distribution: its own, in the words of a recipe. make: the function that returns it.
    """

    name: str
    idea: str
    paper: str
    keeps: str
    costs: str
    structure: str
    distribution: str
    make: Callable[..., Method]

    @functools.cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """What the function takes by name."""
        return _named(self.make)

    @functools.cached_property
    def options(self) -> tuple[str, ...]:
        """What the function takes beside the number of steps."""
        return tuple(name for name in self.parameters if name != "steps")


class Registry(Mapping[str, Callable[..., Method]]):
    """The functions that return methods, by name, in the order in which they were registered."""

    def __init__(self) -> None:
        self.cards: dict[str, Card] = {}
        self._complete = False

    def add(self, make: Callable[..., Method]) -> None:
        """Adds a function that `method` has decorated; TypeError for another, ValueError where the name is taken."""
        card: Card | None = getattr(make, "card", None)
        if card is None:
            raise TypeError(f"{make!r} is not decorated with rewire.method(...), so nothing is known of it")
        if card.name in self.cards:
            raise ValueError(
                f'there is a method "{card.name}" already, of {self.cards[card.name].make.__module__}; use another name'
            )
        self.cards[card.name] = card

    def complete(self) -> Registry:
        """Returns self after the methods of other packages have joined; one that cannot is left out, with a warning."""
        if not self._complete:
            self._complete = True
            for point in entry_points(group=GROUP):
                try:
                    self.add(point.load())
                except Exception as error:  # whatever a stranger's package raises
                    warnings.warn(
                        f'The method "{point.name}" of the package {point.dist.name if point.dist else "?"} is left '
                        f"out: {error}. Mend or uninstall that package.",
                        RuntimeWarning,
                        stacklevel=3,
                    )
        return self

    def card(self, name: str) -> Card:
        """Returns what is said of a method; KeyError for another name."""
        if name not in self.cards and name not in self.complete().cards:
            raise KeyError(f'there is no method "{name}"; use one of {", ".join(self.cards)}')
        return self.cards[name]

    def __getitem__(self, name: str) -> Callable[..., Method]:
        return self.card(name).make

    def __iter__(self) -> Iterator[str]:
        return iter(self.complete().cards)

    def __len__(self) -> int:
        return len(self.complete().cards)


def _named(make: Callable[..., Method]) -> dict[str, inspect.Parameter]:
    """The parameters that can be given by name."""
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: each for name, each in inspect.signature(make).parameters.items() if each.kind in by_name}


METHODS = Registry()


def method(
    name: str, *, paper: str, keeps: str, costs: str, structure: str = "unstructured", distribution: str = "erk"
) -> Callable[[Make], Make]:
    """Says of a function that it returns a method, under this name; the first line of its docstring is the idea.

    A method of another package is known once its entry point is installed; one that is decorated in a script can be
    given to `sparsify` as it is.
    """

    def decorate(make: Make) -> Make:
        idea = (inspect.getdoc(make) or "").partition("\n")[0].removeprefix("Returns ").removesuffix(".")
        parameters, called = _named(make), getattr(make, "__name__", name)
        any_name = any(each.kind is each.VAR_KEYWORD for each in inspect.signature(make).parameters.values())

        @functools.wraps(make)
        def checked(*arguments: Any, **options: Any) -> Method:
            unknown = [option for option in options if option not in parameters]
            if unknown and not any_name:
                raise TypeError(f"{called}() takes no {unknown[0]}. It takes {', '.join(parameters) or 'nothing'}.")
            return make(*arguments, **options)

        card = Card(name, idea, paper, keeps, costs, structure, distribution, checked)
        checked.card = card  # type: ignore[attr-defined]
        return cast(Make, checked)

    return decorate


def list_methods() -> list[Card]:
    """Returns what is said of every method, those of other packages included.

    >>> [card.name for card in list_methods()][:3]
    ['dense', 'static', 'magnitude']
    """
    return list(METHODS.complete().cards.values())
