from collections.abc import Callable

import pytest

from rewire.record import Record
from rewire.report.sections import sections
from rewire.report.tables import differences, engines, markdown, results, size

Make = Callable[..., Record]


def test_results_by_hand(make: Make) -> None:
    figures = {"active_weights": 5000, "bytes_on_disk": 24_500, "training_flops_ratio": 0.0525, "seconds": 61.26}
    records = [make("set_itop", 0.95, seed, figures | {"test_accuracy": 0.9 + 0.01 * seed}) for seed in range(3)]
    table = results(sections(records)[0])
    row = dict(zip(table.header, table.rows[0], strict=True))
    assert row["method"] == "set_itop"
    assert row["sparsity"] == "95 %"
    assert row["test accuracy"] == "91.00 ± 1.00 (3)"
    assert row["active weights"] == "5,000"
    assert row["size on disk"] == "24.5 kB"
    assert row["training FLOPs"] == "5.2 %"
    assert row["seconds"] == "61.3"
    assert row["updates"] == "24"


def on_engine(make: Make, accuracies: list[float], ran: str = "cpu", **settings: str) -> list[Record]:
    records = [make("set_itop", 0.95, seed, {"test_accuracy": a}, **settings) for seed, a in enumerate(accuracies)]
    for entry in records:
        entry.curves["layer_engine"] = {"first.weight": ran, "second.weight": "masked (groups=2)"}
    return records


def test_masked_training_beside_the_engine_by_hand(make: Make) -> None:
    masked = on_engine(make, [0.90, 0.91, 0.92])
    others = [*on_engine(make, [0.91, 0.93, 0.95], engine="cpu"), make("static", 0.95, 0), make("dense", 0, 0)]
    table = engines(sections(masked + others)[0])
    assert table is not None
    (row,) = (dict(zip(table.header, line, strict=True)) for line in table.rows)
    assert row["runs"] == "set_itop engine=cpu"
    assert (row["masked"], row["engine"]) == ("91.00 ± 1.00 (3)", "93.00 ± 2.00 (3)")
    assert (row["difference"], row["90 % interval"]) == ("+2.00", "+0.31 to +3.69")  # 1, 2, 3: 2 -+ 2.920 / sqrt(3)
    assert (row["seconds, masked"], row["seconds, engine"]) == ("12.3", "12.3")


def test_what_never_ran_on_an_engine_is_not_beside_it(make: Make) -> None:
    masked = on_engine(make, [0.90, 0.91])
    assert engines(sections(masked + on_engine(make, [0.90, 0.91], ran="masked (slower)", engine="auto"))[0]) is None
    (line,) = engines(sections(masked + on_engine(make, [0.90, 0.91], engine="auto"))[0]).rows
    assert (line[0], line[5]) == ("set_itop engine=auto", "equal in every run")


def test_one_seed_has_no_spread_and_a_missing_figure_no_number(make: Make) -> None:
    entry = make("static", 0.9, 0, {"test_accuracy": 0.875, "seconds": None})
    del entry.result["bytes_on_disk"]
    table = results(sections([entry])[0])
    row = dict(zip(table.header, table.rows[0], strict=True))
    assert (row["test accuracy"], row["seconds"], row["size on disk"]) == ("87.50 (1)", "-", "-")


def test_caption_says_what_a_bare_name_stands_for(make: Make) -> None:
    table = results(sections([make("dst_ee", 0.95, 0), make("dst_ee", 0.95, 0, c=0.1)])[0])
    assert [row[0] for row in table.rows] == ["dst_ee", "dst_ee c=0.1"]
    assert table.caption.endswith("dst_ee alone stands for c=1e-05.")


@pytest.mark.parametrize(
    ("flagship", "other", "reading"),
    [
        ((0.90, 0.91, 0.93), (0.80, 0.82, 0.82), "dst_ee ahead"),
        ((0.80, 0.82, 0.82), (0.90, 0.91, 0.93), "dst_ee behind"),
        ((0.90, 0.91, 0.93), (0.91, 0.90, 0.92), "not shown"),
        ((0.90,), (0.50,), "not shown (one seed)"),
        ((0.75, 0.5), (0.5, 0.25), "not shown (no spread)"),
        ((0.75, 0.5), (0.75, 0.5), "equal in every run"),
    ],
)
def test_reading(make: Make, flagship: tuple, other: tuple, reading: str) -> None:
    records = [make("dst_ee", 0.95, seed, {"test_accuracy": accuracy}) for seed, accuracy in enumerate(flagship)]
    records += [make("rigl", 0.95, seed, {"test_accuracy": accuracy}) for seed, accuracy in enumerate(other)]
    table = differences(sections(records)[0])
    assert table is not None
    row = dict(zip(table.header, table.rows[0], strict=True))
    assert row["comparison"] == "dst_ee minus rigl"
    assert row["reading"] == reading
    assert row["seeds"] == str(len(flagship))
    assert (row["p after Holm"] == "-") == (len(flagship) < 2 or "spread" in reading or "equal" in reading)


def test_differences_are_in_points_and_signed(make: Make) -> None:
    records = [make("dst_ee", 0.95, 0, {"test_accuracy": 0.75}), make("rigl", 0.95, 0, {"test_accuracy": 0.8})]
    table = differences(sections(records)[0])
    assert table is not None
    assert dict(zip(table.header, table.rows[0], strict=True))["difference"] == "-5.00"


def test_no_table_of_differences_without_a_pair(make: Make) -> None:
    assert differences(sections([make("dense", 0, 0), make("dst_ee", 0.95, 0)])[0]) is None


def test_markdown_lines_are_of_one_width(records: list[Record]) -> None:
    section = sections(records)[0]
    for table in (results(section), differences(section)):
        assert table is not None
        lines = markdown(table).splitlines()
        assert len({len(line) for line in lines}) == 1
        assert len(lines) == 2 + len(table.rows)


def test_size_changes_unit_where_rounding_does() -> None:
    assert [size(count) for count in (0, 999, 1000, 999_499, 999_500, 2.5e9)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "999.5 kB",
        "1.0 MB",
        "2,500.0 MB",
    ]
