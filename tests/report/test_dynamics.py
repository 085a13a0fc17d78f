"""Figures of a diagnosis, from made-up records: every figure in them is invented and none comes from a run."""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from rewire.record import Record
from rewire.report import dynamics
from rewire.report.figures import Figure
from rewire.report.page import _DYNAMICS, page
from rewire.report.sections import Section, sections

Make = Callable[..., Record]


def diagnosed(record: Record, updates: int = 24) -> Record:
    """The record with what a diagnosis of so many updates adds: 100 important weights, half of them there at first."""
    seed, steps = record.recipe["seed"], range(1, updates + 1)
    grown = [2 + (update + seed) % 3 for update in steps]
    missed = [50 * (updates - update) // updates for update in steps]
    counts = {
        "grown": grown,
        "kept": [100 - new - lost for new, lost in zip(grown, missed, strict=True)],
        "missed": missed,
    }
    degree = {"mean": 12.5 + seed, "std": 3.0, "smallest": 0, "largest": 40}
    record.curves.update(
        energy=[0.03 * 0.8**update for update in steps],
        squared_gradient=[4.0 / update**0.7 for update in steps],
        gradient_flow=[1.0 / update for update in steps],
        effective_density=[0.04 + 0.0001 * update for update in steps],
        ablated_units=[update // 8 for update in steps],
        dead_units=[update // 4 for update in steps],
        exploitation={"active": counts, "largest": counts},
        layer_exploitation={name: {"active": counts, "largest": counts} for name in record.curves["layer_sparsity"]},
        layer_degrees={name: {"incoming": degree, "outgoing": degree} for name in record.curves["layer_sparsity"]},
    )
    return record


@pytest.fixture
def grid(make: Make) -> Section:
    records = [diagnosed(make(method, 0.95, seed)) for method in ("set_itop", "dst_ee") for seed in range(2)]
    return sections([*records, make("static", 0.95, 0), make("dense", 0, 0)])[0]


def texts(figure: Figure | None) -> list[str]:
    """Returns the words of a figure, which must be well-formed XML."""
    assert figure is not None
    return [element.text or "" for element in ET.fromstring(figure.svg).iter() if element.tag.endswith("}text")]


@pytest.mark.parametrize("draw", _DYNAMICS)
def test_equal_records_give_equal_bytes_and_words_for_those_who_do_not_see_them(draw: Callable, grid: Section) -> None:
    figure = draw(grid, 0.95)
    assert figure == draw(grid, 0.95)
    assert "var(--ink)" in figure.svg
    assert "at 95 % sparsity" in figure.alt.lower()
    assert figure.alt.endswith(".")
    assert figure.caption.endswith("Means over seeds.")


@pytest.mark.parametrize("draw", _DYNAMICS)
def test_a_run_without_a_diagnosis_has_no_such_figure(draw: Callable, make: Make) -> None:
    section = sections([make("dst_ee", 0.95, 0), make("static", 0.95, 0), make("dense", 0, 0)])[0]
    assert draw(section, 0.95) is None
    half = sections([diagnosed(make("dst_ee", 0.95, 0)), make("dst_ee", 0.95, 1)])[0]
    assert draw(half, 0.95) is None, "a mean over the seeds would be of one of them"


def test_axes_and_legend_name_what_is_drawn(grid: Section) -> None:
    exploitation = texts(dynamics.exploitation_over_time(grid, 0.95, "largest"))
    assert {"grown", "kept", "missed", "optimizer step", "dst_ee", "set_itop"} <= set(exploitation)
    assert "static" not in exploitation
    assert {"first", "second", "head", "after half"} <= set(texts(dynamics.exploitation_by_layer(grid, 0.95)))
    assert "energy dropped" in texts(dynamics.energy_over_time(grid, 0.95))
    gradient = texts(dynamics.gradient_decay(grid, 0.95))
    assert {"all weights", "active", "1/sqrt(step)", "100", "1000"} <= set(gradient)
    assert gradient.count("1/sqrt(step)") == 1
    assert {"effective density", "dead units", "ablated units"} <= set(
        texts(dynamics.connectivity_over_time(grid, 0.95))
    )
    assert {"first", "head", "incoming", "outgoing", "active weights of a unit", "dst_ee"} <= set(
        texts(dynamics.degrees_by_layer(grid, 0.95))
    )


def test_words_hold_the_figures(make: Make) -> None:
    record = make("dst_ee", 0.95, 0)
    counts = {"grown": [1, 2], "kept": [4, 8], "missed": [5, 0]}
    ends = {"smallest": 1, "largest": 4}
    record.curves.update(
        update_step=[10, 20],
        energy=[0.5, 0.25],
        squared_gradient=[4.0, 2.0],
        gradient_flow=[2.0, 0.0],
        exploitation={"active": counts},
        layer_exploitation={"first.weight": {"active": counts}},
        layer_degrees={"first.weight": {"incoming": {"mean": 1.5} | ends, "outgoing": {"mean": 3.0} | ends}},
    )
    section = sections([record])[0]
    found = dynamics.exploitation_over_time(section, 0.95, "active")
    assert found is not None
    assert found.alt.endswith("Missed: dst_ee 0.5 to 0.")
    assert dynamics.exploitation_over_time(section, 0.95, "largest") is None
    layers = dynamics.exploitation_by_layer(section, 0.95)
    assert layers is not None
    assert layers.alt.endswith("active already after half of the updates at 95 % sparsity: first 50%.")
    degrees = dynamics.degrees_by_layer(section, 0.95)
    assert degrees is not None
    assert degrees.alt == "Mean in-degree and out-degree by layer at 95 % sparsity: first 1.5 and 3."
    gradient = dynamics.gradient_decay(section, 0.95)
    assert gradient is not None
    assert gradient.alt.endswith("All weights: dst_ee 4 to 3. Active ones: dst_ee 2 to 1.")


def test_a_layer_without_an_important_weight_is_left_out(make: Make) -> None:
    record = diagnosed(make("dst_ee", 0.95, 0))
    none = {"grown": [0] * 24, "kept": [0] * 24, "missed": [0] * 24}
    record.curves["layer_exploitation"]["head.weight"] = {"active": none, "largest": none}
    words = texts(dynamics.exploitation_by_layer(sections([record])[0], 0.95))
    assert "first" in words
    assert "head" not in words


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ((0.9, 21.0), ["1", "2", "5", "10", "20"]),
        ((0.4, 3e3), ["1", "10", "100", "1000"]),
        ((2e-6, 3e-3), ["1e-05", "0.0001", "0.001"]),
    ],
)
def test_ticks_are_round_and_few(limits: tuple[float, float], expected: list[str]) -> None:
    class Axis:
        words: tuple[str, ...] = ()

        def set_ticks(self, places: list[float], words: list[str] | None = None, minor: bool = False) -> None:
            self.words = self.words if minor else words

    axis = Axis()
    dynamics._round_ticks(axis, limits)
    assert axis.words == expected


def test_the_page_shows_them(make: Make, tmp_path: Path) -> None:
    plain = [make("dst_ee", 0.95, 0)]
    before = page(plain, tmp_path / "plain.html").read_text().count("<figure>")
    found = page([diagnosed(make("dst_ee", 0.95, 0))], tmp_path / "diagnosed.html").read_text()
    assert found.count("<figure>") == before + len(_DYNAMICS)
