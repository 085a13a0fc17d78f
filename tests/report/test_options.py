"""What validation chooses, and how that does on test sets: every figure here is invented and none comes from a run."""

from collections.abc import Callable

import pytest

from rewire.record import Record
from rewire.report.options import Place, choice, options
from rewire.report.refresh import refresh
from rewire.report.sections import sections
from rewire.report.settings import settings
from rewire.report.tables import Table

Make = Callable[..., Record]

PLACES = (("digits", 0.98), ("cifar", 0.95), ("cora", 0.9))
SEEDS = range(5)
SPREAD = (0.0, 0.001, -0.001, 0.002, -0.002)  # of differences, by seed; their deviation is 0.00158
MARK = "digits mlp 98 cifar mlp 95 cora mlp 90"


def runs(
    make: Make,
    validation: float,
    test: float = 0.8,
    flops: float = 0.1,
    places: int = 3,
    seeds: int = 5,
    **recipe: object,
) -> list[Record]:
    """A setting at so many of the places, over so many seeds."""
    return [
        make(
            "dst_ee",
            sparsity,
            seed,
            {
                "validation_accuracy": validation,
                "test_accuracy": test + SPREAD[seed] * (test != 0.8),
                "training_flops_ratio": flops,
            },
            task=task,
            **{"structure": "unstructured"} | recipe,
        )
        for task, sparsity in PLACES[:places]
        for seed in range(seeds)
    ]


def places(records: list[Record]) -> list[Place]:
    found = {section.task: section for section in sections(records)}
    return [(found[task], sparsity) for task, sparsity in PLACES]


def table(kind: Callable[[list[Place]], Table | None], records: list[Record]) -> list[tuple[str, ...]]:
    found = kind(places(records))
    assert found is not None
    return list(found.rows)


def test_settings_are_named_by_what_sets_them_apart(make: Make) -> None:
    made = [
        *runs(make, 0.9, c=0.0),
        *runs(make, 0.9, c=0.01, options=["c_decay=0.9", "c_decay_every=100"]),
        *runs(make, 0.9, c=0.1, scale="layer", signed=True),
        *runs(make, 0.9, options=["acquisition=epsilon", "epsilon=0.3"]),
        *runs(make, 0.9, c=0.1, every=26),
        *runs(make, 0.9, c=0.1, structure="fan_in"),
        *runs(make, 0.9, c=0.0, structure="fan_in"),
    ]
    found = {each.name: " ".join(each.kind) for each in settings(*places(made)[0])}
    assert found == {
        "c=0": "",
        "c=0.1 every=26": "",
        "acquisition=epsilon epsilon=0.3": "acquisition=epsilon epsilon",
        "c=0.01 c_decay=0.9 c_decay_every=100": "c_decay c_decay_every",
        "c=0.1 scale=layer signed=yes": "scale=layer signed=yes",
        "structure=fan_in c=0": "structure=fan_in c=0",
        "structure=fan_in c=0.1": "structure=fan_in",
    }


def test_the_best_of_a_kind_has_the_highest_mean_over_the_places(make: Make) -> None:
    """c=0.1 is worse at one place and far better at another."""
    better = [(0.8, 0.9, 0.7)[place // 5] for place in range(15)]
    made = runs(make, 0.78, c=0.0) + runs(make, 0.0, c=0.1) + runs(make, 0.7, scale="layer", c=1.0)
    for record, value in zip(made[15:30], better, strict=True):
        record.result["validation_accuracy"] = value
    assert [(row[0], *row[-2:]) for row in table(choice, made)] == [
        ("c=0", "78.00", ""),
        ("c=0.1", "80.00", "the formula"),
        ("c=1 scale=layer", "70.00", "scale=layer"),
    ]


def test_an_option_that_an_engine_has_not_stands_beside_masked_runs(make: Make) -> None:
    """The formula ran on both; the one of equal cost that ran masked is what the window stands beside."""
    engine = runs(make, 0.7, 0.9, c=0.1, engine="cpu")
    engine += [record for c in (0.0, 1.0, 2.0) for record in runs(make, 0.6, c=c, engine="cpu")]
    masked = runs(make, 0.1, 0.82, c=0.1) + runs(make, 0.5, 0.85, flops=0.12, c=0.1, options=["window=4"])
    names = [row[0] for row in table(choice, engine + masked)]
    assert names == ["c=0", "c=0.1", "c=1", "c=2", "c=0.1 window=4 engine=masked"]
    alone = runs(make, 0.1, 0.84, flops=0.12, c=0.1, every=26)
    assert [row[:2] for row in table(options, engine + masked + alone)] == [
        ("c=0.1 window=4 engine=masked", "c=0.1 every=26 engine=masked")
    ] * 3
    assert options(places(engine + masked[15:])) is None


def test_precision_sets_masked_runs_apart_and_not_those_of_an_engine(make: Make) -> None:
    """An engine computes in float32, whatever a recipe says of bf16; so masked runs in float32 stand beside it."""
    engine = [record for c in (0.0, 0.1) for record in runs(make, 0.6, c=c, engine="cpu", bf16=True)]
    window = runs(make, 0.5, 0.85, flops=0.12, c=0.0, options=["window=4"], bf16=False)
    float32 = runs(make, 0.1, 0.84, flops=0.12, c=0.0, every=26, bf16=False)
    bf16 = runs(make, 0.1, 0.8, flops=0.12, c=0.0, every=26, bf16=True)
    names = [row[0] for row in table(choice, engine + window + float32 + bf16)]
    assert names == ["c=0", "c=0.1", "c=0 window=4 engine=masked"]
    pair = ("c=0 window=4 engine=masked", "c=0 every=26 engine=masked")
    assert [row[:2] for row in table(options, engine + window + float32 + bf16)] == [pair] * 3
    assert options(places(engine + window + bf16)) is None
    found = {each.name for each in settings(*places(engine + bf16)[0])}
    assert found == {"c=0", "c=0.1", "c=0 every=26 engine=masked bf16=true"}
    partly = runs(make, 0.6, c=0.0, engine="cpu", bf16=True, exclude=["fc1"])
    whole = [record for c in (1.0, 2.0) for record in runs(make, 0.6, c=c, engine="cpu", exclude=["fc1"])]
    assert {each.name for each in settings(*places(partly + whole)[0])} == {"c=0 engine=cpu bf16=true", "c=1", "c=2"}


def test_of_equals_the_smallest_c_is_the_best(make: Make) -> None:
    made = runs(make, 0.9, c=0.1) + runs(make, 0.9, c=0.0)
    assert [(row[0], row[-1]) for row in table(choice, made)] == [("c=0", "the formula"), ("c=0.1", "")]


def test_seeds_that_one_setting_lacks_count_for_none(make: Make) -> None:
    few, many = runs(make, 0.5, c=0.0, seeds=2), runs(make, 0.6, c=0.1)
    for record in many:
        record.result["validation_accuracy"] += record.recipe["seed"] > 1
    assert [row[1] for row in table(choice, few + many)] == ["50.00 ± 0.00", "60.00 ± 0.00"]
    found = choice(places(few + many))
    assert found is not None
    assert "(2, 2, 2, by column)" in found.caption


def test_what_not_all_places_have_is_left_out_and_named(make: Make) -> None:
    made = runs(make, 0.5, c=0.0) + runs(make, 0.9, c=0.1, places=2) + runs(make, 0.9, c=0.2, places=1)
    found = choice(places(made))
    assert found is not None
    assert [row[0] for row in found.rows] == ["c=0"]
    assert found.caption.endswith("because not all columns have runs of them: c=0.1, c=0.2.")


def test_where_less_is_better_the_lowest_is_the_best(make: Make, measured: Callable[..., Record]) -> None:
    made = [
        measured("dst_ee", sparsity, 0, {"loss": 2.0}, task=task, c=c) for task, sparsity in PLACES for c in (0.0, 0.1)
    ]
    for record in made:
        record.result["validation_loss"] = 2.0 - record.recipe["c"]
    assert [(row[0], *row[-2:]) for row in table(choice, made)] == [
        ("c=0", "2.000", ""),
        ("c=0.1", "1.900", "the formula"),
    ]


def test_an_option_stands_beside_the_formula_with_the_chosen_c(make: Make) -> None:
    """A mean of 3 points and a deviation of 0.16 over five seeds: t = 42, p = 0.000002, and Holm over three places."""
    made = runs(make, 0.6, c=0.0) + runs(make, 0.7, c=0.1) + runs(make, 0.5, c=1.0)
    made += runs(make, 0.7, 0.83, c=0.1, scale="layer") + runs(make, 0.6, 0.9, c=1.0, scale="layer")
    rows = table(options, made)
    assert rows[0] == (
        *("c=0.1 scale=layer", "c=0.1", "digits, mlp, 98 %", "1.000", "+3.00 ± 0.16"),
        *("5", "< 0.001", "< 0.001", "ahead"),
    )
    assert [row[2] for row in rows] == ["digits, mlp, 98 %", "cifar, mlp, 95 %", "cora, mlp, 90 %"]


def test_all_rows_are_one_family(make: Make) -> None:
    """Worse by 0.1 points at each place: t = -1.41, p = 0.230, three times which is 0.691."""
    made = runs(make, 0.6, c=0.0) + runs(make, 0.6, 0.799, c=1.0, scale="layer")
    rows = table(options, made)
    assert [row[-3:] for row in rows] == [("0.230", "0.691", "not shown")] * 3
    made += runs(make, 0.6, 0.7, c=1.0, options=["window=1"])
    found = options(places(made))
    assert found is not None
    assert found.rows[0][-3:] == ("0.230", "0.691", "not shown")
    assert found.rows[-1][-1] == "behind"
    assert "tests in this table, 6." in found.caption


def test_what_costs_more_stands_beside_more_updates_of_the_same_cost(make: Make) -> None:
    made = runs(make, 0.6, c=0.0) + runs(make, 0.9, 0.9, 0.151, c=0.0, options=["window=4"])
    alone = table(options, made)
    assert alone[0][1:4] == ("c=0", "digits, mlp, 98 %", "1.510")
    assert alone[0][-1] == "ahead, not at equal FLOPs"
    made += runs(make, 0.9, 0.8, 0.15, c=0.0, every=25) + runs(make, 0.9, 0.8, 0.2, c=0.0, every=10)
    made += runs(make, 0.9, 0.8, 0.151, c=0.1, every=26)  # of another c
    beside = table(options, made)
    assert beside[0][1:4] == ("c=0 every=25", "digits, mlp, 98 %", "1.007")
    assert beside[0][-1] == "ahead"
    assert table(choice, made)[0][-1] == "the formula", "what costs more is not chosen from"
    assert "every" not in str(table(choice, made))


def test_on_a_structure_the_bonus_stands_beside_none(make: Make) -> None:
    made = runs(make, 0.6, c=0.0)
    for structure in ("fan_in", "2:4"):
        for c, test in ((0.0, 0.8), (0.1, 0.85), (1.0, 0.9)):
            made += runs(make, 0.7 - 0.1 * c, test, c=c, structure=structure)
    for record in made:
        if record.recipe["structure"] == "2:4":
            record.recipe["sparsity"] = 0.5
    rows = table(options, made)
    assert [row[:3] for row in rows[::3]] == [
        ("structure=2:4 c=0.1", "structure=2:4 c=0", "digits, mlp, 50 %"),
        ("structure=fan_in c=0.1", "structure=fan_in c=0", "digits, mlp, 98 %"),
    ]
    assert len(rows) == 6


@pytest.mark.parametrize("seeds", [0, 1])
def test_without_a_shared_seed_nothing_is_compared(make: Make, seeds: int) -> None:
    made = runs(make, 0.6, c=0.0, seeds=2)
    for record in runs(make, 0.6, 0.9, c=1.0, scale="layer", seeds=1):
        record.recipe["seed"] = 7 if seeds == 0 else 0
        made.append(record)
    if seeds == 0:
        assert choice(places(made)) is None
        assert options(places(made)) is None
    else:
        assert table(options, made)[0][4:] == ("+10.00", "1", "-", "-", "not shown")


def test_pages_ask_for_both(make: Make) -> None:
    made = runs(make, 0.6, c=0.0)
    page = (
        f"<!-- table: choice {MARK} -->\n<!-- end of table -->\n<!-- table: options {MARK} -->\n<!-- end of table -->\n"
    )
    found = refresh(page, made)
    assert "| setting | digits, mlp, 98 % | cifar, mlp, 95 % | cora, mlp, 90 % |" in found
    assert "-->\nNo runs at all of these places yet.\n" in found
    assert "| option " in refresh(page, made + runs(make, 0.6, c=1.0, scale="layer"))
    alone = refresh("<!-- table: choice digits mlp 98 -->\n<!-- end of table -->", made)
    assert "| setting | digits, mlp, 98 % |" in alone
    for words in ("digits mlp", "digits mlp 98 cifar"):
        with pytest.raises(ValueError, match=rf'says {len(words.split())} words after "choice", which takes 3'):
            refresh(f"<!-- table: choice {words} -->\n<!-- end of table -->", made)
