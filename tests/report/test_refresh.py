import pytest

from rewire.report.refresh import check_folders, folders, refresh

PAGE = """before
<!-- table: accuracy made_up mlp -->
old
<!-- end of table -->
between <!-- a comment -->
<!-- table: differences made_up mlp -->
<!-- end of table -->
after
"""


@pytest.fixture
def records(make):
    runs = [make("dense", 0, seed) for seed in (0, 1)]
    return runs + [make(method, s, seed) for method in ("static", "dst_ee") for s in (0.9, 0.95) for seed in (0, 1)]


def test_tables_are_made_anew_and_the_rest_stays(records):
    page = refresh(PAGE, records)
    assert "old" not in page
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert "between <!-- a comment -->" in page
    header = next(line for line in page.splitlines() if line.startswith("| method"))
    assert [cell.strip() for cell in header.split("|")[1:-1]] == ["method", "dense", "90 %", "95 %"]
    rows = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")]
    assert rows[:4] == ["method", "dense", "static", "dst_ee"]
    assert "dst_ee minus static" in page


def test_refreshing_again_changes_nothing(records):
    page = refresh(PAGE, records)
    assert refresh(page, records) == page


def test_a_cell_is_the_mean_and_spread_of_its_runs(make):
    runs = [make("static", 0.9, seed, result={"test_accuracy": value}) for seed, value in ((0, 0.5), (1, 0.6))]
    assert "55.00 ± 7.07 (2)" in refresh(PAGE, runs)


def test_the_headline_of_a_task_stands_for_accuracy(measured):
    mark = "<!-- table: accuracy other net -->\n<!-- end of table -->"
    page = refresh(mark, [measured("static", 0.9, 0, {"loss": 1.4826})])
    assert "| static | 1.483 (1) |" in page
    assert "Test loss in nats (lower is better): mean ± standard deviation over seeds (their number)." in page


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("speed made_up mlp", r'"<!-- table: speed \.\.\." is unknown\. Use one of accuracy, results, differences'),
        ("accuracy made_up cnn", r'wants a table of "made_up cnn", but the records hold made_up mlp. Name more files'),
        ("accuracy made_up", r'accuracy made_up -->" says 1 words after "accuracy", which takes 2\. Use for example'),
        ("methods rigl", r'methods rigl -->" says 1 words after "methods", which takes 0\.'),
        ("method rigel", r'wants a table of "rigel", which is no method'),
    ],
)
def test_a_mark_that_cannot_be_served_is_refused(records, mark, message):
    with pytest.raises(ValueError, match=message):
        refresh(f"<!-- table: {mark} -->\n<!-- end of table -->", records)


def test_methods_and_what_was_measured_of_them(records):
    marks = "<!-- table: methods -->\n{}<!-- end of table -->\n<!-- table: method {} -->\n{}<!-- end of table -->\n"
    page = refresh(marks.format("", "static", "no longer true\n"), records)
    assert "| [static](#static) " in page
    assert "| made_up, mlp | " in page
    assert "-->\n| method" in page  # a table without a caption has no empty lines around it
    assert "|\n<!-- end of table -->" in page
    assert "no longer true" not in page
    assert refresh(page, records) == page
    page = refresh(marks.format("", "synflow", ""), records)
    assert "<!-- table: method synflow -->\nNo record yet.\n<!-- end of table -->" in page


def test_a_page_that_says_where_its_records_are_takes_no_others(tmp_path):
    page, results, studies = "# A\n<!-- records: results studies -->\n", tmp_path / "results", tmp_path / "studies"
    assert folders(page) == ("results", "studies")
    assert folders("# A\n") is None
    check_folders(tmp_path / "a.md", page, [studies, results])
    check_folders(tmp_path / "b.md", "# B\n", [studies])
    with pytest.raises(
        ValueError, match=r"a\.md is made of the records of results and studies, and not of .*results\."
    ):
        check_folders(tmp_path / "a.md", page, [results])


def test_the_rows_of_a_benchmark_come_from_its_files(tmp_path):
    (tmp_path / "step-one-machine.csv").write_text("model,ratio,commit\nmlp,1.5,abc\nvgg,1.25,abc\n")
    mark = "<!-- benchmark: step model ratio -->\n<!-- end of table -->"
    page = refresh(mark, [], tmp_path)
    assert "| mlp   |   1.5 |" in page
    assert "| vgg   |  1.25 |" in page
    assert "From step-one-machine.csv." in page
    assert refresh(page, [], tmp_path) == page
    with pytest.raises(ValueError, match=r'wants "speed" of the benchmark "step".*use one of: model, ratio, commit'):
        refresh("<!-- benchmark: step model speed -->\n<!-- end of table -->", [], tmp_path)
    with pytest.raises(ValueError, match=r"Run benchmarks/topology_update.py, or use one of: nothing yet"):
        refresh("<!-- benchmark: topology-update update_ms -->\n<!-- end of table -->", [], tmp_path)
