"""The study of c, from made-up records: every figure in them is invented and none comes from a run."""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from rewire import record
from rewire.cli import main
from rewire.record import Record
from rewire.report.exploration import against_c, image, sweep
from rewire.report.refresh import images, refresh
from rewire.report.sections import Section, sections

Make = Callable[..., Record]

PAGE = """<!-- table: exploration made_up mlp 98 -->
<!-- end of table -->
<!-- plot: exploration made_up mlp 98 -->
old
<!-- end of plot -->
"""
COUNTS = {"grown": [4, 3, 2, 1], "kept": [10, 30, 58, 99], "missed": [86, 67, 40, 0]}  # of 100 important weights
LARGEST = {"grown": [1, 0, 0, 0], "kept": [3, 6, 8, 10], "missed": [6, 4, 2, 0]}


def run(make: Make, c: float, seed: int, accuracy: float, diagnosed: bool = False, **settings: object) -> Record:
    """Four updates in 100 steps. 2000 of 100 000 weights are active; each update grows a half, R is 0.05 at the end."""
    counts = {"validation_accuracy": accuracy + 0.01, "steps": 100, "exploration": 0.05, "active_weights": 2000}
    made = make(
        "dst_ee", 0.98, seed, {"test_accuracy": accuracy, **counts}, c=c, **{"structure": "unstructured"} | settings
    )
    made.curves.update(update_step=[10, 25, 50, 75], churn=[0.5] * 4)
    if diagnosed:
        made.curves["exploitation"] = {"active": COUNTS, "largest": LARGEST}
    return made


@pytest.fixture
def section(make: Make) -> Section:
    runs = [run(make, 0.1, seed, accuracy) for seed, accuracy in enumerate((0.92, 0.95, 0.95))]
    runs += [run(make, 0.0, seed, accuracy, diagnosed=seed < 1) for seed, accuracy in enumerate((0.90, 0.91, 0.92))]
    runs += [run(make, 1e-5, 0, 0.9), run(make, 10.0, 0, 0.93, scale="layer"), run(make, 0.1, 0, 0.94, scale="layer")]
    return sections(runs)[0]


def cells(section: Section, sparsity: float = 0.98) -> dict[tuple[str, str], tuple[str, ...]]:
    """Returns the cells of the table by c and scale."""
    table = sweep(section, sparsity)
    assert table is not None
    return {(row[0], row[1]): row[2:] for row in table.rows}


def test_a_row_for_each_c_without_scale_and_then_with_it(section: Section) -> None:
    expected = [("0", "none"), ("1e-05", "none"), ("0.1", "none"), ("0.1", "layer"), ("10", "layer")]
    assert list(cells(section)) == expected


def test_validation_test_and_the_difference_to_no_bonus(section: Section) -> None:
    """0.02, 0.04 and 0.03: mean 0.03, deviation 0.01, t = 3 sqrt(3), so p = 0.0351; it is the only test."""
    found = cells(section)
    assert found["0.1", "none"][-4:] == ("95.00 ± 1.73 (3)", "94.00 ± 1.73 (3)", "+3.00 ± 1.00", "0.035")
    assert found["0", "none"][-3:] == ("91.00 ± 1.00 (3)", "-", "-")
    assert found["10", "layer"][-4:] == ("94.00 (1)", "93.00 (1)", "+3.00", "-")
    table = sweep(section, 0.98)
    assert table is not None
    assert "by Holm for the 1 tests of this table" in table.caption


def test_several_tests_are_one_family(make: Make) -> None:
    """The same three differences twice: both p are doubled."""
    values = (0.90, 0.91, 0.92)
    runs = [run(make, 0.0, seed, accuracy) for seed, accuracy in enumerate(values)]
    for c in (0.1, 1.0):
        runs += [run(make, c, seed, accuracy) for seed, accuracy in enumerate((0.92, 0.95, 0.95))]
    found = cells(sections(runs)[0])
    assert [found[c, "none"][-1] for c in ("0.1", "1")] == ["0.070", "0.070"]


def test_new_is_what_no_topology_held_before(section: Section) -> None:
    """Four updates grew 1000 each; 5000 were active at some time, 2000 of them from the start: 3000 of 4000."""
    assert cells(section)["0.1", "none"][:2] == ("0.050", "75.0%")


def test_important_weights_count_that_were_active_by_then(section: Section) -> None:
    """At 10 % of the steps one update has been, at 25 % two, at 50 % three; of the runs that have a diagnosis."""
    found = cells(section)
    assert found["0", "none"][2:6] == ("33.0%", "60.0%", "40.0%", "60.0%")
    assert found["0.1", "none"][2:6] == ("-",) * 4


def test_before_the_first_update_nothing_is_known(make: Make) -> None:
    made = run(make, 0.0, 0, 0.9, diagnosed=True)
    made.curves["update_step"] = [11, 26, 51, 76]
    assert cells(sections([made])[0])["0", "none"][2:6] == ("14.0%", "33.0%", "-", "40.0%")


def test_a_run_that_never_moved_has_nothing_new(make: Make) -> None:
    made = run(make, 0.0, 0, 0.9)
    made.curves["churn"] = [0.0] * 4
    assert cells(sections([made])[0])["0", "none"][1] == "-"


def test_only_runs_that_differ_in_c_and_scale_alone(make: Make) -> None:
    runs = [run(make, c, seed, 0.9) for c in (0.0, 0.1) for seed in range(2)]
    others = [
        run(make, 0.1, 0, 0.5, engine="cpu"),
        run(make, 0.1, 0, 0.5, every=25),
        run(make, 0.1, 0, 0.5, structure="fan_in"),
        run(make, 0.1, 0, 0.5, options=["window=4"]),
        run(make, 0.1, 0, 0.5, signed=True),
        make("dst_ee", 0.95, 0, c=0.5, structure="unstructured"),
        make("rigl", 0.98, 0, structure="unstructured"),
    ]
    found = cells(sections([*runs, *others])[0])
    assert [row[-3] for row in found.values()] == ["90.00 ± 0.00 (2)"] * 2
    assert list(found) == [("0", "none"), ("0.1", "none")]


def test_where_nothing_ran_there_is_nothing(section: Section) -> None:
    assert sweep(section, 0.9) is None
    assert against_c(section, 0.9) is None


def test_one_c_is_no_plot(make: Make) -> None:
    assert against_c(sections([run(make, 0.1, seed, 0.9) for seed in range(2)])[0], 0.98) is None


def test_the_plot_has_a_panel_for_each_figure_and_words_for_it(section: Section) -> None:
    figure = against_c(section, 0.98)
    assert figure is not None
    assert figure == against_c(section, 0.98)
    assert "at 98 % sparsity: c=0, explored 0.05, held early 0.33, test accuracy, % 91; c=1e-05, explored" in figure.alt
    assert figure.alt.endswith("c=10 scale=layer, explored 0.05, test accuracy, % 93.")
    words = {element.text for element in ET.fromstring(figure.svg).iter() if element.tag.endswith("}text")}
    assert {"0", "1e-5", "0.1", "10", "c", "explored", "held early", "test accuracy, %"} <= words
    assert {"dst_ee", "dst_ee scale=layer"} <= words


def test_without_a_diagnosis_its_panel_is_left_out(make: Make) -> None:
    figure = against_c(sections([run(make, c, 0, 0.9) for c in (0.0, 0.1)])[0], 0.98)
    assert figure is not None
    assert "held early" not in figure.svg + figure.alt
    assert "quarter" not in figure.caption


def test_an_image_says_what_it_shows_and_brings_its_paper(section: Section) -> None:
    figure = against_c(section, 0.98)
    assert figure is not None
    document = ET.fromstring(image(figure))
    assert [each.text for each in document.iter() if each.tag.endswith("}desc")] == [figure.alt]
    kinds = [each.tag.partition("}")[2] for each in document]
    assert kinds.index("rect") < kinds.index("g"), "the paper lies below the drawing"
    assert "--paper:#0d1117" in image(figure)


def test_a_page_has_the_table_the_plot_and_its_file(section: Section) -> None:
    records = [record for group in section.groups for record in group.records]
    page = refresh(PAGE, records)
    assert "| 0.1   | layer |" in page
    assert "](exploration-made_up-mlp-98.svg)\n\nmade_up, mlp at 98 % sparsity. From above: exploration degree" in page
    assert "old" not in page
    assert refresh(page, records) == page
    figure = against_c(section, 0.98)
    assert figure is not None
    assert images(page, records) == {"exploration-made_up-mlp-98.svg": image(figure)}


def test_a_page_without_runs_says_so(make: Make) -> None:
    records = [make("rigl", 0.98, 0)]
    page = refresh(PAGE, records)
    assert page.splitlines()[1::3] == ["No run yet.", "No runs of two values of c yet."]
    assert images(page, records) == {}
    plot = PAGE.partition("<!-- plot")[1] + PAGE.partition("<!-- plot")[2]
    assert images(plot.replace("made_up mlp", "made_up cnn"), records) == {}


@pytest.mark.parametrize("mark", ["table: exploration made_up mlp most", "plot: exploration made_up mlp 100"])
def test_a_sparsity_is_a_whole_percentage(make: Make, mark: str) -> None:
    end = "<!-- end of plot -->" if mark.startswith("plot") else "<!-- end of table -->"
    word = mark.rpartition(" ")[2]
    with pytest.raises(
        ValueError, match=rf'a sparsity of "{word}" percent. Write a whole number below 100, such as 98'
    ):
        refresh(f"<!-- {mark} -->\n{end}", [make("dst_ee", 0.98, 0)])


def test_a_run_recorded_again_with_a_diagnosis_counts_once(make: Make, tmp_path: Path) -> None:
    for file, diagnosed in (("digits.jsonl", False), ("exploration.jsonl", True)):
        for seed in range(2):
            record.append(tmp_path / file, run(make, 0.0, seed, 0.9, diagnosed=diagnosed))
    row = cells(sections(record.read(tmp_path))[0])["0", "none"]
    assert row[2] == "33.0%"
    assert row[-3] == "90.00 ± 0.00 (2)"


def test_the_command_writes_the_image_beside_the_page(
    section: Section, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for group in section.groups:
        for made in group.records:
            record.append(tmp_path / "records.jsonl", made)
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text(PAGE)
    with pytest.raises(SystemExit) as ended:
        main(["report", str(tmp_path), "--out", str(tmp_path / "report.html"), "--refresh", str(page)])
    assert ended.value.code == 0
    plot = tmp_path / "docs" / "exploration-made_up-mlp-98.svg"
    assert f"tables  {page}\nplot    {plot}\n" in capsys.readouterr().out
    assert ET.parse(plot).getroot().tag.endswith("svg")
    assert plot.name in page.read_text()
