"""DST-EE's options: which setting of each kind validation chooses, and whether it is better on the test sets.

A place is a section and a sparsity. One setting stands for its kind at all places, as a default would.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final, final

from rewire.measures import Measure
from rewire.report.sections import Section
from rewire.report.settings import Setting, corrected, probability, settings, spread, usual, validation
from rewire.report.statistics import LEVEL, Difference, Summary, paired, summary
from rewire.report.tables import Table, percent

Place = tuple[Section, float]

EQUAL: Final = 0.02
"""Training FLOPs that differ by no more than this share are called equal."""


@final
@dataclass(frozen=True)
class _Candidate:
    """A setting at every place, and its validation there over the seeds that all candidates have."""

    name: str
    settings: tuple[Setting, ...]
    validation: tuple[Summary, ...]

    @property
    def kind(self) -> tuple[str, ...]:
        return self.settings[0].kind

    @property
    def mean(self) -> float:
        """The mean over the places, none weighing more than another."""
        return fmean(found.mean for found in self.validation)


@final
@dataclass(frozen=True)
class _Pair:
    """An option and what it stands beside, at one place."""

    place: Place
    setting: Setting
    other: Setting
    difference: Difference

    def row(self, p: float | None) -> tuple[str, ...]:
        """Returns the cells; p is corrected."""
        cost, measure, found = _cost(self.setting, self.other), self.place[0].headline, self.difference
        reading = "not shown"
        if p is not None and p < LEVEL:
            reading = "ahead" if measure.improves(found.mean) else "behind"
            reading += "" if abs(cost - 1) <= EQUAL else ", not at equal FLOPs"
        return (
            self.setting.name,
            self.other.name,
            _words((self.place[0], self.setting.group.sparsity)),
            f"{cost:.3f}",
            spread(found, measure, sign="+"),
            str(found.n),
            probability(found.p),
            probability(p),
            reading,
        )


def choice(places: Sequence[Place]) -> Table | None:
    """Returns the validation of every setting that all places have, and of which kind it is the best."""
    candidates, headline = _candidates(places), places[0][0].headline
    if not candidates:
        return None
    best = {found.name: " ".join(kind) or "the formula" for kind, found in _best(candidates, headline).items()}
    rows = [
        (
            found.name,
            *(spread(one, section.headline) for one, (section, _) in zip(found.validation, places, strict=True)),
            headline.number(found.mean),
            best.get(found.name, ""),
        )
        for found in candidates
    ]
    counts = ", ".join(str(found.n) for found in candidates[0].validation)
    elsewhere = dict.fromkeys(each.name for place in places for each in usual(*place))
    missing = [name for name in elsewhere if name not in {found.name for found in candidates}]
    return Table(
        f"Validation {headline.quantity}: mean ± standard deviation over the seeds that all of these settings have "
        f"({counts}, by column), and the mean of the columns. Best of: its mean is the best among settings that differ "
        "from it in c and the numbers of the options alone."
        + (f" Left out, because not all columns have runs of them: {', '.join(missing)}." if missing else ""),
        ("setting", *map(_words, places), "mean", "best of"),
        tuple(rows),
    )


def options(places: Sequence[Place]) -> Table | None:
    """Returns the chosen setting of each kind beside the formula with the chosen c, on the test set of every place.

    On a structure, what it stands beside is growth without a bonus there. None where nothing can be compared yet.
    """
    candidates, headline = _candidates(places), places[0][0].headline
    best = _best(candidates, headline)
    pairs: list[_Pair] = []
    for found in best.values():
        structure = found.settings[0].structure
        plain = best.get((*structure, "c=0") if structure else ())
        if plain and found is not plain:
            for place, setting, other in zip(places, found.settings, plain.settings, strict=True):
                if beside := _of_equal_cost(setting, other, place):
                    pairs += _pair(place, setting, beside)
    if not pairs:
        return None
    p = corrected({number: pair.difference for number, pair in enumerate(pairs)})
    return Table(
        "Each option against the printed formula, and on a structure against c=0 there, all with the numbers that are "
        f"best on validation: difference in test {headline.words}{headline.remark}, run by run on the same seeds: mean "
        "± standard deviation. FLOPs: of training, as a multiple of what it stands against, which where an option "
        "costs more has the interval of updates that comes nearest to its cost. Paired t-test, two-sided; p after Holm "
        f"is corrected for the number of tests in this table, {len(p)}. A difference counts as shown where it is below "
        f"{LEVEL:g}.",
        ("option", "against", "at", "FLOPs", "difference", "seeds", "p", "p after Holm", "reading"),
        tuple(pair.row(p.get(number)) for number, pair in enumerate(pairs)),
        words=3,
    )


def _candidates(places: Sequence[Place]) -> list[_Candidate]:
    by_place = [{each.name: each for each in usual(*place)} for place in places]
    names = [name for name in by_place[0] if all(name in others for others in by_place)]
    columns = [
        _over_shared_seeds([found[name] for name in names], section.headline)
        for found, (section, _) in zip(by_place, places, strict=True)
    ]
    return [
        _Candidate(name, tuple(found[name] for found in by_place), figures)
        for name, figures in zip(names, zip(*columns, strict=False), strict=False)
    ]


def _over_shared_seeds(found: Sequence[Setting], measure: Measure) -> list[Summary]:
    """Returns the validation of each setting over the seeds that all of them have; empty where there is none."""
    values = [each.group.by_seed(validation(measure)) for each in found]
    seeds = set.intersection(*map(set, values)) if values else set()
    return [summary([one[seed] for seed in sorted(seeds)]) for one in values] if seeds else []


def _best(candidates: Iterable[_Candidate], measure: Measure) -> dict[tuple[str, ...], _Candidate]:
    """Returns the candidate of best mean by kind, of equals but for rounding the first."""
    best: dict[tuple[str, ...], _Candidate] = {}
    for found in candidates:
        if found.kind not in best or measure.improves(round(found.mean - best[found.kind].mean, 12)):
            best[found.kind] = found
    return best


def _of_equal_cost(setting: Setting, plain: Setting, place: Place) -> Setting | None:
    """Returns the plain setting with the interval of updates that comes nearest to the cost of the other.

    None where the plain one did not run on the same engine.
    """
    wanted = (plain.structure, plain.options, plain.c, setting.engine)
    same = [each for each in settings(*place) if (each.structure, each.options, each.c, each.engine) == wanted]
    return min(same, key=lambda each: abs(_cost(setting, each) - 1), default=None)


def _cost(setting: Setting, other: Setting) -> float:
    """Returns the training FLOPs of one as a multiple of another's; nan where they are not recorded."""
    found = [each.group.summary("training_flops_ratio") for each in (setting, other)]
    return found[0].mean / found[1].mean if found[0] and found[1] else float("nan")


def _pair(place: Place, setting: Setting, other: Setting) -> list[_Pair]:
    """Returns the pair, or nothing where the two share no seed."""
    measure = place[0].headline
    difference = paired(setting.group.by_seed(measure.test), other.group.by_seed(measure.test))
    return [_Pair(place, setting, other, difference)] if difference else []


def _words(place: Place) -> str:
    section, sparsity = place
    return f"{section.task}, {section.model}, {percent(sparsity)}"
