"""DST-EE's runs by what sets them apart: c, the options beyond the printed formula, the structure.

A *setting* is one value of each, at one task, model and sparsity. Settings that are compared differ in nothing else,
but for the interval of updates where runs are made to cost as much as others. An option that only masked training has
stands beside masked runs, where all others are an engine's. What a recipe says of bfloat16 counts unless the engine ran
every layer, which it does in float32.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar, final

from rewire.measures import Measure
from rewire.record import key
from rewire.report.sections import FLAGSHIP, Group, Section, show
from rewire.report.statistics import Difference, Summary, holm
from rewire.report.tables import NOTHING

FORMULA: Final[Mapping[str, Any]] = {"scale": "none", "signed": False, "regrow": True, "eps": 1.0}
"""The printed formula, whatever the defaults of the method are; `options` of a recipe go beyond it."""

_Name = TypeVar("_Name")

_FREE: Final = (  # what settings may differ in
    *("seed", "sparsity", "c", "every", "options", "structure", "engine", "bf16"),
    *FORMULA,
)


@final
@dataclass(frozen=True)
class Setting:
    """Runs of DST-EE, one a seed, and what sets them apart.

    c: None where the options leave it unread. structure, options: in words, none for unstructured runs of the printed
    formula. interval: of updates, and engine, with its precision: None where it is that of most settings.
    """

    group: Group
    c: float | None
    structure: tuple[str, ...]
    options: tuple[str, ...]
    interval: int | None
    engine: str | None

    @property
    def name(self) -> str:
        """Returns all of it: "c=0.1 scale=layer"."""
        c = () if self.c is None else (f"c={show(float(self.c))}",)
        interval = () if self.interval is None else (f"every={self.interval}",)
        engine = () if self.engine is None else (f"engine={self.engine}",)
        return " ".join((*self.structure, *c, *self.options, *interval, *engine))

    @property
    def kind(self) -> tuple[str, ...]:
        """Returns structure and options without their numbers, which are chosen: scale=layer, window.

        On a structure c=0, growth without a bonus, is a kind of its own.
        """
        pairs = (word.partition("=") for word in self.options)
        without = ("c=0",) if self.structure and self.c == 0 else ()
        return (*self.structure, *without, *(name if _number(value) else f"{name}={value}" for name, _, value in pairs))


def settings(section: Section, sparsity: float) -> list[Setting]:
    """Returns the settings at that sparsity, and those of N:M, which has its own; by structure, options and c.

    Where runs differ in more, such as the number of epochs, those count that there are most of, structure by structure.
    """
    alike: dict[str, dict[str, list[Group]]] = {}
    for group in section.groups:
        structure = str(group.recipe.get("structure", "unstructured"))
        if group.method == FLAGSHIP and (group.sparsity == sparsity or structure[0].isdigit()):
            rest = key({name: value for name, value in group.recipe.items() if name not in _FREE})
            alike.setdefault(structure, {}).setdefault(rest, []).append(group)
    found = []
    for structure, rests in alike.items():
        groups = max(rests.values(), key=len)
        every, _ = Counter(group.recipe["every"] for group in groups).most_common(1)[0]
        engine, _ = Counter(map(_engine, groups)).most_common(1)[0]
        words = () if structure == "unstructured" else (f"structure={structure}",)
        found += [_setting(group, words, every, engine) for group in groups]
    most = {each.name: each for each in sorted(found, key=lambda s: len(s.group.records))}  # of one name the larger one
    return sorted(most.values(), key=lambda s: (s.structure, s.options, s.interval or 0, s.engine or "", s.c or 0.0))


def usual(section: Section, sparsity: float) -> list[Setting]:
    """Returns those with the interval of most, and with the engine of most where their kind ran on it at all."""
    found = [each for each in settings(section, sparsity) if each.interval is None]
    kinds = {each.kind for each in found if each.engine is None}
    return [each for each in found if each.engine is None or each.kind not in kinds]


def spread(found: Summary | Difference, measure: Measure, sign: str = "") -> str:
    """Returns mean ± standard deviation, which one value alone has not, as a table holds them."""
    return measure.number(found.mean, sign) + ("" if found.std is None else f" ± {measure.number(found.std)}")


def corrected(differences: Mapping[_Name, Difference]) -> dict[_Name, float]:
    """Returns the p-values after Holm of those that have one, over all that are given."""
    found = {name: difference.p for name, difference in differences.items() if difference.p is not None}
    return dict(zip(found, holm(list(found.values())), strict=True))


def probability(value: float | None) -> str:
    """Returns a p-value as a table holds it."""
    return NOTHING if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def validation(measure: Measure) -> str:
    """Returns the entry of a record's result that holds the measure on the validation split."""
    return f"validation_{measure.name}"


def _setting(group: Group, structure: tuple[str, ...], every: int, engine: str) -> Setting:
    recipe = group.recipe
    off = [f"{name}={show(recipe[name])}" for name, value in FORMULA.items() if recipe.get(name, value) != value]
    options = (*off, *recipe.get("options", []))
    c = None if "acquisition=epsilon" in options else float(recipe["c"])
    interval = None if recipe["every"] == every else recipe["every"]
    return Setting(group, c, structure, options, interval, None if _engine(group) == engine else _engine(group))


def _engine(group: Group) -> str:
    """Returns the engine, and that a part of the model computes in bfloat16 where one does."""
    engine, bf16 = str(group.recipe["engine"]), group.recipe.get("bf16")
    layers = {words for record in group.records for words in record.curves.get("layer_engine", {}).values()}
    packed = engine == "cpu" and layers <= {"cpu"} and not group.recipe.get("exclude")
    return f"{engine} bf16=true" if bf16 and not packed else engine


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
