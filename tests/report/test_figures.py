import xml.etree.ElementTree as ET
from collections.abc import Callable

import pytest

from rewire.record import Record
from rewire.report import figures
from rewire.report.figures import Figure
from rewire.report.sections import Section, sections

Make = Callable[..., Record]

ALL = [
    figures.headline_against_sparsity,
    lambda section: figures.headline_against_costs(section)[-1],
    figures.headline_against_exploration,
    lambda section: figures.topology_over_time(section, section.sparsities[0]),
    figures.sparsity_per_layer,
]


def texts(figure: Figure | None) -> list[str]:
    """Returns the words of a figure, which must be well-formed XML."""
    assert figure is not None
    return [element.text or "" for element in ET.fromstring(figure.svg).iter() if element.tag.endswith("}text")]


@pytest.fixture
def grid(records: list[Record]) -> Section:
    return sections(records)[0]


@pytest.mark.parametrize("draw", ALL)
def test_equal_records_give_equal_bytes_in_the_colours_of_the_reader(draw: Callable, grid: Section) -> None:
    figure = draw(grid)
    assert figure == draw(grid)
    assert "var(--ink)" in figure.svg
    assert "prefers-color-scheme:dark" in figure.svg
    assert "DejaVu" not in figure.svg
    assert figure.alt.endswith(".")


def test_axes_and_legend_name_what_is_drawn(grid: Section) -> None:
    words = texts(figures.headline_against_sparsity(grid))
    assert {"sparsity", "test accuracy, %", "90 %", "95 %", "98 %"} <= set(words)
    assert set(grid.labels) <= set(words)
    assert {"exploration", "churn", "optimizer step"} <= set(texts(figures.topology_over_time(grid, 0.95)))
    assert {"first", "second", "head"} <= set(texts(figures.sparsity_per_layer(grid)))


def test_words_for_those_who_do_not_see_it_hold_the_figures(make: Make) -> None:
    accuracy = {"dense": 0.975, "dst_ee": 0.9525}
    section = sections([make(method, 0.95, 0, {"test_accuracy": value}) for method, value in accuracy.items()])[0]
    against_sparsity = figures.headline_against_sparsity(section)
    assert against_sparsity is not None
    assert against_sparsity.alt == "Test accuracy against sparsity. dense: 97.5 %; dst_ee at 95 %: 95.2 %."
    layers = figures.sparsity_per_layer(section)
    assert layers is not None
    assert layers.alt == "Sparsity of each layer. At 95 %: first 97 %, second 90 %, head 50 %."


def test_another_measure_has_its_name_on_axes_and_in_words(measured: Make) -> None:
    losses = {"dense": 1.25, "static": 1.75, "rigl": 1.5, "dst_ee": 1.375}
    section = sections([measured(method, 0.95, 0, {"loss": loss}) for method, loss in losses.items()])[0]
    for draw in ALL[:3]:
        figure = draw(section)
        assert "test loss, nats" in texts(figure)
        assert figure.alt.startswith("Test loss against ")
        assert "1.375 nats" in figure.alt
        assert figure.caption.startswith("Test loss (lower is better) against ")
    against_sparsity = figures.headline_against_sparsity(section)
    assert against_sparsity is not None
    assert against_sparsity.alt == (
        "Test loss against sparsity. dense: 1.250 nats; static at 95 %: 1.750 nats; rigl at 95 %: 1.500 nats; "
        "dst_ee at 95 %: 1.375 nats."
    )


def test_runs_without_the_headline_are_not_drawn(measured: Make) -> None:
    dense, rigl = measured("dense", 0, 0, {"auc": 0.75}), measured("rigl", 0.95, 0, {"loss": 1.5})
    assert figures.headline_against_sparsity(sections([dense, rigl])[0]) is None
    assert figures.headline_against_costs(sections([dense, rigl])[0]) == []
    both = figures.headline_against_sparsity(sections([rigl, dense, measured("dst_ee", 0.95, 0, {"loss": 1})])[0])
    assert both is not None
    assert both.alt == "Test loss against sparsity. rigl at 95 %: 1.500 nats; dst_ee at 95 %: 1.000 nats."


def test_nothing_to_draw_is_no_figure(make: Make) -> None:
    dense = sections([make("dense", 0, 0)])[0]
    assert figures.headline_against_sparsity(dense) is None
    assert figures.headline_against_costs(dense) == []
    static = sections([make("static", 0.9, 0)])[0]
    assert figures.topology_over_time(static, 0.9) is None
    assert figures.headline_against_exploration(static) is None
    static.groups[0].records[0].curves.clear()
    assert figures.sparsity_per_layer(static) is None


def test_curve_is_the_mean_at_the_steps_that_all_seeds_reached(make: Make) -> None:
    records = [make("dst_ee", 0.95, seed) for seed in range(2)]
    records[0].curves.update(update_step=[10, 20, 30], churn=[0.5, 0.25, 0.125])
    records[1].curves.update(update_step=[10, 20], churn=[0.25, None])
    (group,) = sections(records)[0].groups
    assert figures.curve(group, figures.named("churn")) == {10: 0.375}


def test_a_label_cannot_write_markup_into_a_figure(make: Make) -> None:
    section = sections([make("dst_ee", 0.95, 0, optimizer=name) for name in ("</text><script>", "$x_1$")])[0]
    words = texts(figures.headline_against_sparsity(section))
    assert {"dst_ee optimizer=</text><script>", "dst_ee optimizer=$x_1$"} <= set(words)
