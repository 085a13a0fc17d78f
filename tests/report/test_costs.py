"""The figures of what runs cost; every record in them is made up."""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewire import METHODS
from rewire.record import Record
from rewire.report.costs import COSTS, Cost
from rewire.report.drawing import by_what_is_missing, canvas, looks_of
from rewire.report.figures import Figure, headline_against_costs
from rewire.report.sections import Section, sections
from rewire.report.tables import energy, results

Make = Callable[..., Record]

NAMES = [cost.name for cost in COSTS]
MEMORY = {"dst_ee": 4.25e8, "rigl": 4e8, "dense": 12e9}
ENERGY = {"dst_ee": 3e-6, "rigl": 5e-6}


def texts(figure: Figure) -> list[str]:
    return [element.text or "" for element in ET.fromstring(figure.svg).iter() if element.tag.endswith("}text")]


def section_of(make: Make, **results: dict[str, float]) -> Section:
    """One run of each method, with the results named first and then by method."""
    methods = ("dense", "rigl", "dst_ee")
    found = {method: {name: value[method] for name, value in results.items() if method in value} for method in methods}
    return sections([make(method, 0.95, 0, found[method]) for method in methods])[0]


def test_every_cost_that_was_recorded_has_a_figure_after_the_legend(make: Make) -> None:
    old = headline_against_costs(section_of(make))
    assert [figure.alt.partition(".")[0] for figure in old] == [
        "The marks of the figures that follow, one for each of dense, rigl, dst_ee",
        "Test accuracy against parameters",
        "Test accuracy against active weights",
        "Test accuracy against size of the model file",
        "Test accuracy against inference FLOPs",
        "Test accuracy against training FLOPs",
        "Test accuracy against time of training",
    ]
    new = headline_against_costs(section_of(make, peak_memory=MEMORY, cpu_energy_kwh=ENERGY))
    assert [figure.alt.partition(".")[0] for figure in new[len(old) :]] == [
        "Test accuracy against peak memory",
        "Test accuracy against energy of the processor",
    ]
    assert {"dense", "dst_ee", "rigl"} <= set(texts(new[0]))
    assert not {"dense", "dst_ee", "rigl"} & set(texts(new[1]))
    assert "Only comparable on one machine, and a quiet one." in new[6].caption


def test_costs_are_in_the_unit_that_suits_them(make: Make) -> None:
    accuracy = {"dense": 0.975, "rigl": 0.95, "dst_ee": 0.9525}
    section = section_of(make, peak_memory=MEMORY, cpu_energy_kwh=ENERGY, test_accuracy=accuracy)
    *_, memory, spent = headline_against_costs(section)
    assert memory.alt == (
        "Test accuracy against peak memory. dense: 12 GB, 97.5 %; rigl at 95 %: 0.4 GB, 95.0 %; "
        "dst_ee at 95 %: 0.425 GB, 95.2 %."
    )
    assert spent.alt == (
        "Test accuracy against energy of the processor. rigl at 95 %: 5 mWh, 95.0 %; dst_ee at 95 %: 3 mWh, 95.2 %."
    )
    assert {"peak memory, GB", "0.5", "1", "2", "5", "10", "test accuracy, %"} <= set(texts(memory))
    assert {"energy of the processor, mWh", "3.0", "5.0"} <= set(texts(spent))  # not over a decade: equal steps


def test_what_all_paid_alike_tells_nothing(make: Make) -> None:
    records = [make(method, 0.95, 0, {"seconds": seconds}) for method, seconds in (("set_itop", 12.0), ("rigl", 13.0))]
    legend, time = headline_against_costs(sections(records)[0])
    assert time.alt.startswith("Test accuracy against time of training.")
    assert legend.alt == "The marks of the figures that follow, one for each of set_itop, rigl."
    assert headline_against_costs(sections(records[:1])[0]) == []


def test_only_a_share_of_which_more_is_better_is_spaced_by_what_is_missing(measured: Make) -> None:
    for name, spaced in (("auc", True), ("loss", False)):
        records = [measured(method, 0.95, 0, {name: value}) for method, value in (("dense", 0.6), ("rigl", 0.97))]
        legend, *panels = headline_against_costs(sections(records)[0])
        assert ("logarithm of what is missing to 100 %" in legend.caption) == spaced
        assert ("95" in texts(panels[0])) == spaced


def test_spacing_by_what_is_missing_is_in_order_and_has_room_for_all(make: Make) -> None:
    _, (axes,) = canvas()
    axes.plot([1, 2, 3], [60, 99.5, 100])
    by_what_is_missing(axes)
    assert axes.get_ylim()[1] == 100
    at = [axes.transScale.transform((1, value))[1] for value in (0, 50, 90, 99, 100)]
    assert at == sorted(at)
    assert at[3] - at[2] > at[1] - at[0]
    assert list(axes.get_yticks()) == [100, 99, 98, 95, 90, 80, 70]


def test_a_narrow_range_keeps_the_ticks_of_equal_steps() -> None:
    _, (axes,) = canvas()
    axes.plot([1, 2], [96.2, 97.4])
    by_what_is_missing(axes)
    assert len(axes.get_yticks()) > 3


def test_no_two_methods_look_alike() -> None:
    labels = [*METHODS, "dst_ee engine=cpu", "mest soft=true", "granet initial_sparsity=0"]
    looks = [(look["color"], look["marker"]) for look in looks_of(labels).values()]
    assert not [pair for pair in combinations(looks, 2) if pair[0] == pair[1]]


@given(st.lists(st.floats(1e-9, 1e12), min_size=1, max_size=5), st.sampled_from(COSTS))
def test_a_unit_is_one_of_its_own_whatever_the_values(values: list[float], cost: Cost) -> None:
    assert cost.unit(values) in cost.units


@pytest.mark.parametrize(
    ("values", "unit"),
    [([999.0], "B"), ([1000.0], "kB"), ([2e3, 8e5], "kB"), ([1e3, 1e9], "MB"), ([4e8, 12e9], "GB"), ([1e15], "GB")],
)
def test_units_of_bytes_by_hand(values: list[float], unit: str) -> None:
    assert COSTS[NAMES.index("peak_memory")].unit(values) == unit


def test_tables_have_a_column_for_what_only_later_records_hold(make: Make) -> None:
    columns = {"peak memory", "energy of the processor", "energy of the GPU"}
    old, new = results(section_of(make)), results(section_of(make, peak_memory=MEMORY, cpu_energy_kwh=ENERGY))
    assert not columns & set(old.header)
    assert "memory" not in old.caption
    rows = {row[0]: dict(zip(new.header, row, strict=True)) for row in new.rows}
    assert columns & set(new.header) == {"peak memory", "energy of the processor"}
    assert {method: row["peak memory"] for method, row in rows.items()} == {
        "dense": "12.0 GB",
        "rigl": "400.0 MB",
        "dst_ee": "425.0 MB",
    }
    assert {method: row["energy of the processor"] for method, row in rows.items()} == {
        "dense": "-",
        "rigl": "5.0 mWh",
        "dst_ee": "3.0 mWh",
    }
    assert " Peak memory: on a CPU that of the whole process, Python and torch included; " in new.caption


def test_energies_by_hand() -> None:
    assert [energy(kwh) for kwh in (1e-9, 0.0009994, 0.001, 1.0, 12_345)] == [
        "0.0 mWh",
        "999.4 mWh",
        "1.0 Wh",
        "1.0 kWh",
        "12,345.0 kWh",
    ]
