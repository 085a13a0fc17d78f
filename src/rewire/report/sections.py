"""Records sorted for a reader: a section a task and model, in it a group for each configuration over its seeds.

Over 300 lines, because what makes a group, its label and a fair pair all read the same entries of a recipe.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, final

from rewire.measures import Measure
from rewire.methods import METHODS, list_methods
from rewire.record import Record, key, measures_of
from rewire.report.derived import OF_MACHINE, derived, noted, one_machine, reference_epochs
from rewire.report.statistics import Difference, Summary, holm, paired, summary

FLAGSHIP: Final = "dst_ee"
"""The method that all others are compared with."""

_PLACE: Final = ("task", "model", "seed")  # what a section or a pair fixes; it is never part of a label

_LEFT_OUT: Final[dict[str, Any]] = {  # what an identity does not say where it is usual
    **{"exclude": [], "options": []},
    **{"walks": "train", "beta2": 0.999, "end_lr": 0.0, "clip": 0.0},
}


@final
@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed.

    Args:
        label: the method, followed by the settings that tell it from other groups of the section.
        sparsity: of the sparse layers, in [0, 1); 0 for dense training.
        records: one for each seed.
    """

    label: str
    sparsity: float
    records: tuple[Record, ...]

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe of the first run: that of all of them, but for the seed."""
        return self.records[0].recipe

    @property
    def method(self) -> str:
        """The method's name."""
        return str(self.recipe["method"])

    def by_seed(self, name: str) -> dict[int, float]:
        """Returns the result called `name` of every run that has it, by seed."""
        found = {record.recipe["seed"]: record.result.get(name) for record in self.records}
        return {seed: float(value) for seed, value in found.items() if value is not None}

    def summary(self, name: str) -> Summary | None:
        """Returns mean, std and n of the result called `name`, or None where no run has it.

        Nor is there a mean of time, memory or energy over runs of several machines.
        """
        values = list(self.by_seed(name).values())
        comparable = self.one_machine or name not in OF_MACHINE
        return summary(values) if values and comparable else None

    @property
    def one_machine(self) -> bool:
        """Whether all of its runs come from one machine, with as many threads."""
        return one_machine(self.records)

    @property
    def on_engine(self) -> bool:
        """Whether an engine computed a layer of one of its runs with the active weights alone."""
        return any("cpu" in _ran(record) for record in self.records)


@final
@dataclass(frozen=True)
class Comparison:
    """The flagship against another group: flagship minus other, over shared seeds.

    `p` is the difference's own p-value corrected by Holm over all comparisons of the section, or None where the
    runs allow no test.
    """

    flagship: Group
    other: Group
    difference: Difference
    p: float | None


@final
@dataclass(frozen=True)
class Section:
    """All runs of one model on one task.

    Args:
        measures: what the runs were measured by, the headline of the first run first.
        groups: in order of sparsity, and among equals as recorded.
        equal: recipe entries that all runs share.
        differing: values of the recipe entries that differ between runs.
        reference: epochs of the dense run that training FLOPs are a share of; None where all runs are of one length,
            its own.
    """

    task: str
    model: str
    measures: tuple[Measure, ...]
    groups: tuple[Group, ...]
    equal: dict[str, Any]
    differing: dict[str, list[Any]]
    reference: int | None = None

    @property
    def headline(self) -> Measure:
        """What all of its runs are compared by; runs that lack it have no figure."""
        return self.measures[0]

    @property
    def labels(self) -> list[str]:
        """The labels of the groups, each once."""
        return list(dict.fromkeys(group.label for group in self.groups))

    @property
    def sparsities(self) -> list[float]:
        """The sparsities of the sparse runs, rising."""
        return sorted({group.sparsity for group in self.groups if group.method != "dense"})

    @property
    def notes(self) -> str:
        """The notes of all runs as a sentence; "" where there is none."""
        return noted(record for group in self.groups for record in group.records)

    @property
    def unsaid(self) -> dict[str, dict[str, Any]]:
        """By method, the defaults that one of its labels leaves out and another one names."""
        found = {}
        for group in self.groups:
            labels = {other.label for other in self.groups if other.method == group.method}
            naming = {name: sum(f" {name}=" in label for label in labels) for name in _defaults(group.recipe)}
            named = {n: value for n, value in _defaults(group.recipe).items() if 0 < naming[n] < len(labels)}
            if named:
                found[group.method] = named
        return found

    def at(self, sparsity: float) -> list[Group]:
        """Returns the sparse groups of one sparsity."""
        return [group for group in self.groups if group.sparsity == sparsity and group.method != "dense"]


def sections(records: Iterable[Record]) -> list[Section]:
    """Returns a section for each task and model, in the order in which they were recorded."""
    by_place: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        place = (str(record.recipe["task"]), str(record.recipe["model"]))
        by_place.setdefault(place, []).append(record)
    return [_section(task, model, found) for (task, model), found in by_place.items()]


def compare(section: Section) -> list[Comparison]:
    """Returns the flagship against every other sparse group that it can fairly be compared with, by the headline.

    A fair pair has equal sparsity and recipes that differ in the method and its own settings only. One that differs in
    its length, too, is made where the other method begins dense and trained for longer, as in DST-EE's paper, 50 epochs
    beside 60 of ADMM: whatever the length does for accuracy, it does for the other. Where the flagship ran with several
    settings, the one nearest to its defaults stands for it, and of equals the first.
    """
    pairs: list[tuple[Group, Group, Difference]] = []
    for sparsity in section.sparsities:
        groups = section.at(sparsity)
        candidates = sorted((group for group in groups if group.method == FLAGSHIP), key=_settings_off_default)
        for other in groups:
            for allowed in (_fair, _shorter):
                flagship = next((group for group in candidates if allowed(group.recipe, other.recipe)), None)
                if flagship is None or flagship is other:
                    continue
                difference = paired(flagship.by_seed(section.headline.test), other.by_seed(section.headline.test))
                if difference is not None:
                    pairs.append((flagship, other, difference))
    corrected = iter(holm([found.p for _, _, found in pairs if found.p is not None]))
    return [
        Comparison(flagship, other, found, None if found.p is None else next(corrected))
        for flagship, other, found in pairs
    ]


def engine_pairs(section: Section) -> list[tuple[Group, Group, Difference]]:
    """Returns masked training beside the same on an engine: (masked, other, other minus masked over shared seeds).

    What was asked to run on an engine, but ran masked in every layer of a run, is left out.
    """
    found, test = [], section.headline.test
    for other in section.groups:
        for masked in section.groups:
            same = {**other.recipe, "engine": "masked"} == {**masked.recipe, "seed": other.recipe["seed"]}
            same = same and other is not masked
            ran = all("cpu" in _ran(record) for record in other.records)
            difference = paired(other.by_seed(test), masked.by_seed(test)) if same and ran else None
            if difference is not None:
                found.append((masked, other, difference))
    return found


def show(value: Any) -> str:
    """Returns a recipe's value as a reader wants to see it.

    >>> show(1e-05), show(0.01), show([256, 256]), show(None), show(True)
    ('1e-05', '0.01', '256, 256', 'default', 'yes')
    """
    if value is None:
        return "default"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(show(entry) for entry in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _section(task: str, model: str, records: list[Record]) -> Section:
    grouped: dict[str, list[Record]] = {}
    records = [replace(record, recipe=explicit(record.recipe)) for record in records]
    for record in records:
        settings = {name: value for name, value in record.recipe.items() if name != "seed"}
        grouped.setdefault(key(settings), []).append(record)
    recipes = [found[0].recipe for found in grouped.values()]
    reference = reference_epochs(recipes)
    groups = [
        Group(_label(found[0].recipe, recipes), _sparsity(found[0]), tuple(derived(each, reference) for each in found))
        for found in grouped.values()
    ]
    names = dict.fromkeys(name for record in records for name in record.recipe)
    values = {name: _distinct(entry.recipe.get(name, _LEFT_OUT.get(name)) for entry in records) for name in names}
    read = {name: [value for value in found if value is not None] for name, found in values.items()}
    return Section(
        task,
        model,
        measures_of(records),
        tuple(sorted(groups, key=lambda group: (group.sparsity, group.method != "dense"))),
        equal={name: found[0] for name, found in read.items() if len(found) == 1 and name not in _PLACE[:2]},
        differing={name: found for name, found in read.items() if len(found) > 1},
        reference=reference,
    )


def _label(recipe: Mapping[str, Any], recipes: list[dict[str, Any]]) -> str:
    """Returns the method and the settings that differ: among its own runs, or else between methods.

    A method's own setting at its default goes without saying, as masked training does, and one that a method does not
    read is no difference. That walks saw the test edges is always said.
    """
    own = [other for other in recipes if other["method"] == recipe["method"]]
    words = [str(recipe["method"])]
    for name, value in recipe.items():
        if name in (*_PLACE, "method") or (name == "sparsity" and not isinstance(value, str)):
            continue
        if (name, value) == ("engine", "masked"):
            continue
        if name == "options":
            words.extend(value)
            continue
        among_own = len(_distinct(other.get(name) for other in own)) > 1 and value != _defaults(recipe).get(name)
        read = _distinct(other[name] for other in recipes if other.get(name) is not None)
        between = name not in _settings() and value is not None and len(read) > 1
        if among_own or between or (name, value) == ("walks", "all"):
            words.append(f"{name}={show(value)}")
    return " ".join(words)


def _fair(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two recipes differ in the method and its own settings only."""
    names = (first.keys() | second.keys()) - _settings() - {"method", "seed", "options"}
    pairs = [(first.get(name, _LEFT_OUT.get(name)), second.get(name, _LEFT_OUT.get(name))) for name in names]
    return all(one == other for one, other in pairs if one is not None and other is not None)


def _shorter(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two recipes are a fair pair but for their epochs, of which the second, which begins dense, has more."""
    less, more = first.get("epochs"), second.get("epochs")
    if less is None or more is None or less >= more:
        return False
    return _fair(first, {**second, "epochs": less}) and _begins_dense(second["method"])


def _begins_dense(method: str) -> bool:
    card = METHODS.cards.get(method)
    if card is None or "steps" not in card.parameters:
        return False
    return card.make(steps=10**6).density(0, 0.5) == 1  # as in any run that is long enough


def _settings() -> set[str]:
    """The settings that belong to single methods; the length of a run and its intervals are common to all."""
    return {name for card in list_methods() for name in card.options} - {"every"}


def _defaults(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the recipe's own method with their defaults; none where this version has no such method."""
    if recipe["method"] not in METHODS:
        return {}
    card, settings = METHODS.card(recipe["method"]), _settings()
    return {name: found.default for name, found in card.parameters.items() if name in settings}


def explicit(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the recipe with what it leaves unsaid: settings of the method, None, at their defaults, and the engine.

    A structure or a distribution that is the method's own, as SRigL's constant fan-in, is none that the run was given.
    """
    card = METHODS.cards.get(recipe["method"])
    own = {"structure": "unstructured", "distribution": "erk"}
    given = {n: None for n, usual in own.items() if card and recipe.get(n) == getattr(card, n) != usual}
    recipe = {**recipe, **given}
    left = {name: value for name, value in _defaults(recipe).items() if recipe.get(name) is None}
    engine = {} if recipe["method"] == "dense" else {"engine": recipe.get("engine", "masked")}
    return {**recipe, **{name: value for name, value in left.items() if name in recipe}, **engine}


def _ran(record: Record) -> set[str]:
    """The engines that ran the layers of a run."""
    return {words.partition(" ")[0] for words in record.curves.get("layer_engine", {}).values()}


def _settings_off_default(group: Group) -> int:
    defaults = _defaults(group.recipe)
    options: list[str] = group.recipe.get("options", [])
    return len(options) + sum(bool(group.recipe.get(name, value) != value) for name, value in defaults.items())


def _sparsity(record: Record) -> float:
    asked = record.recipe["sparsity"]
    if record.recipe["method"] == "dense":
        return 0.0
    return float(asked) if isinstance(asked, int | float) else round(float(record.result["sparsity"]), 4)


def _distinct(values: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found
