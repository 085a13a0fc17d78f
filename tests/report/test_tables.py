from collections.abc import Callable
from dataclasses import replace

import pytest

from rewire.record import Record
from rewire.report.sections import sections
from rewire.report.tables import differences, engines, headlines, markdown, results, size

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


def test_seconds_of_another_machine_are_not_beside_each_other(make: Make) -> None:
    masked, others = on_engine(make, [0.90, 0.91]), on_engine(make, [0.91, 0.93], engine="cpu")
    assert "several machines" not in engines(sections(masked + others)[0]).caption
    others = [replace(entry, hardware=entry.hardware | {"processor": "another"}) for entry in others]
    table = engines(sections(masked + others)[0])
    assert table.rows[0][-2:] == ("-", "-")
    assert "several machines" in table.caption


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
    assert table.caption.endswith("Where it names no other, dst_ee has c=1e-05.")


def test_no_default_is_named_that_no_row_has(make: Make) -> None:
    table = results(sections([make("dst_ee", 0.95, 0, c=0.01), make("dst_ee", 0.95, 0, c=0.1)])[0])
    assert [row[0] for row in table.rows] == ["dst_ee c=0.01", "dst_ee c=0.1"]
    assert "names no other" not in table.caption


def test_parameters_are_those_of_the_whole_model_without_inactive_weights(make: Make) -> None:
    counts = {"model_weights": 1000, "total_weights": 800, "active_weights": 40}
    old = make("rigl", 0.95, 0)
    del old.result["model_weights"]
    table = results(sections([make("dst_ee", 0.95, 0, counts), old])[0])
    at = table.header.index("parameters")
    assert table.header[at - 1] == "active weights"
    assert [(row[0], row[at]) for row in table.rows] == [("dst_ee", "240"), ("rigl", "-")]


def test_notes_stand_in_captions_once_and_those_of_some_runs_are_marked(make: Make) -> None:
    notes = ["invented data; a leak", "invented data", "invented data"]
    section = sections([make("rigl", 0.95, seed, {"note": note}) for seed, note in enumerate(notes)])[0]
    for table in (results(section), headlines(section)):
        assert table.caption.endswith(" Notes: invented data; a leak (some runs).")
    assert "Notes" not in headlines(sections([make("rigl", 0.95, 0, {"note": ""})])[0]).caption


def test_training_flops_are_a_share_of_one_dense_run_whatever_the_length(make: Make) -> None:
    ratios = {"training_flops_ratio": 0.1, "training_flops_ratio_published": 0.2}
    records = [make("dense", 0, 0, epochs=50), make("dst_ee", 0.9, 0, ratios, epochs=50)]
    equal = results(sections(records)[0])
    assert "one dense run" not in equal.caption
    table = results(sections([*records, make("dst_ee", 0.9, 0, ratios, epochs=100)])[0])
    at = table.header.index("training FLOPs")
    assert [row[at : at + 2] for row in table.rows] == [("100.0 %",) * 2, ("10.0 %", "20.0 %"), ("20.0 %", "40.0 %")]
    assert " Training FLOPs: share of one dense run of 50 epochs." in table.caption
    assert records[1].result["training_flops_ratio"] == 0.1  # what was recorded stays as it is


def test_time_of_several_machines_has_no_mean(make: Make) -> None:
    records = [make("rigl", 0.9, seed, {"peak_memory": 1e9}) for seed in range(2)]
    for other in ({"threads": 1}, {"accelerator": "an invented one"}, {"processor": "another"}):
        mixed = [records[0], replace(records[1], hardware=records[1].hardware | other)]
        table = results(sections(mixed)[0])
        row = dict(zip(table.header, table.rows[0], strict=True))
        assert (row["seconds"], row["peak memory"], row["updates"]) == ("-", "-", "24")
        assert "- where the runs of a row come from several machines." in table.caption
    table = results(sections(records)[0])
    assert dict(zip(table.header, table.rows[0], strict=True))["seconds"] == "12.2"
    assert "several machines" not in table.caption


def test_a_pair_of_two_lengths_has_both_in_its_name(make: Make) -> None:
    records = [make("dst_ee", 0.9, seed, epochs=50) for seed in range(2)]
    records += [admm_of(make("rigl", 0.9, seed, epochs=60)) for seed in range(2)]
    table = differences(sections(records)[0])
    assert table is not None
    assert [row[0] for row in table.rows] == ["dst_ee epochs=50 minus admm epochs=60"]
    assert table.caption.endswith(" Pairs of two lengths set fewer epochs beside more of a method that begins dense.")


def admm_of(record: Record) -> Record:
    return replace(record, recipe=record.recipe | {"method": "admm"})


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


def test_results_have_a_column_for_each_measure(measured: Make) -> None:
    figures = [{"auc": 0.5, "hits_at_20": 0.25}, {"auc": 0.75, "hits_at_20": None}]
    table = results(sections([measured("rigl", 0.9, seed, each) for seed, each in enumerate(figures)])[0])
    assert table.header[:5] == ("method", "sparsity", "test AUC", "test hits@20", "active weights")
    assert table.rows[0][:4] == ("rigl", "90 %", "62.50 ± 17.68 (2)", "25.00 (1)")  # 25 / sqrt(2)
    assert table.caption.startswith(
        "Test AUC in percent, test hits@20 in percent: mean ± standard deviation over seeds (their number). Active "
    )


def test_a_loss_is_in_nats_with_three_decimals(measured: Make) -> None:
    runs = [measured("rigl", 0.9, seed, {"loss": 1.5 + seed / 16, "bits_per_character": 2.0}) for seed in range(3)]
    runs.append(measured("dense", 0, 0, {"loss": 1.25}))
    table = results(sections(runs)[0])
    assert [row[:4] for row in table.rows] == [
        ("dense", "0 %", "1.250 (1)", "-"),
        ("rigl", "90 %", "1.562 ± 0.062 (3)", "2.000 ± 0.000 (3)"),
    ]
    assert table.caption.startswith("Test loss in nats (lower is better), test bits per character (lower is better): ")
    alone = headlines(sections(runs)[0])
    assert alone.header == ("method", "dense", "90 %")
    assert alone.rows == (("dense", "1.250 (1)", "-"), ("rigl", "-", "1.562 ± 0.062 (3)"))
    assert alone.caption.startswith("Test loss in nats (lower is better): mean ± standard deviation over seeds")


@pytest.mark.parametrize(
    ("flagship", "other", "difference", "reading"),
    [
        ((1.25, 1.5, 1.75), (1.5, 1.625, 2.125), "-0.250 ± 0.125", "not shown"),  # t = 2 sqrt(3), p = 0.074
        ((1.25, 1.375, 1.5), (1.75, 1.8125, 2.0625), "-0.500 ± 0.062", "dst_ee ahead"),
        ((1.75, 1.8125, 2.0625), (1.25, 1.375, 1.5), "+0.500 ± 0.062", "dst_ee behind"),
        ((1.25,), (1.5,), "-0.250", "not shown (one seed)"),
    ],
)
def test_of_losses_the_lower_is_ahead(
    measured: Make, flagship: tuple, other: tuple, difference: str, reading: str
) -> None:
    records = [measured("dst_ee", 0.95, seed, {"loss": loss}) for seed, loss in enumerate(flagship)]
    records += [measured("rigl", 0.95, seed, {"loss": loss}) for seed, loss in enumerate(other)]
    table = differences(sections(records)[0])
    assert table is not None
    row = dict(zip(table.header, table.rows[0], strict=True))
    assert (row["difference"], row["reading"]) == (difference, reading)
    assert table.caption.startswith(
        "Differences in test loss (lower is better), run by run on the same seeds, in nats: mean ± standard deviation. "
    )


def test_a_measure_without_a_unit_is_compared_without_one(measured: Make) -> None:
    records = [measured(method, 0.95, 0, {"bits_per_character": 2.0}) for method in ("dst_ee", "rigl")]
    table = differences(sections(records)[0])
    assert table is not None
    assert table.caption.startswith(
        "Differences in test bits per character (lower is better), run by run on the same seeds: mean ± standard"
    )


def test_losses_on_the_engine(measured: Make) -> None:
    masked = [measured("set_itop", 0.95, seed, {"loss": 1.5}) for seed in range(3)]
    others = [measured("set_itop", 0.95, seed, {"loss": 1.51 + seed / 100}, engine="cpu") for seed in range(3)]
    for entry in others:
        entry.curves["layer_engine"] = {"first.weight": "cpu"}
    table = engines(sections(masked + others)[0])
    assert table is not None
    assert table.rows[0][2:6] == ("1.500 ± 0.000 (3)", "1.520 ± 0.010 (3)", "+0.020", "+0.003 to +0.037")
    assert table.caption.startswith("Test loss in nats (lower is better) of masked training and of the same on the ")
    assert "engine minus masked on the same seeds, in nats, with the interval" in table.caption


def test_runs_that_lack_the_headline_of_the_first_have_no_figure(measured: Make) -> None:
    records = [measured("dst_ee", 0.95, 0, {"auc": 0.75}), measured("rigl", 0.95, 0, {"loss": 1.5})]
    section = sections(records)[0]
    table = results(section)
    assert table.header[2:4] == ("test AUC", "test loss")
    assert [row[2:4] for row in table.rows] == [("75.00 (1)", "-"), ("-", "1.500 (1)")]
    assert [row[1] for row in headlines(section).rows] == ["75.00 (1)", "-"]
    assert differences(section) is None


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
        "2.5 GB",
    ]
