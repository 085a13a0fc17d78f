"""Every table of the README and the docs is what the committed records give: no figure is typed by hand."""

from pathlib import Path

import pytest

from rewire import record
from rewire.report.refresh import BENCHMARK, PLACE, refresh

ROOT = Path(__file__).parents[1]
PAGES = [
    page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if PLACE.search(page.read_text()) or BENCHMARK.search(page.read_text())
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tables_of_a_page_come_from_the_records(page: Path) -> None:
    text = page.read_text()
    assert refresh(text, record.read(ROOT / "results"), ROOT / "benchmarks" / "results") == text, (
        f"{page.name} and results/ disagree. Type: rewire report results/ --refresh {page.relative_to(ROOT)}"
    )


def test_the_readme_has_tables() -> None:
    assert ROOT / "README.md" in PAGES


def test_every_recorded_run_made_at_least_twenty_updates() -> None:
    short = [
        entry.recipe
        for entry in record.read(ROOT / "results")
        if entry.recipe["method"] not in ("dense", "static") and entry.result["updates"] < 20
    ]
    assert not short


def test_every_record_names_a_clean_commit() -> None:
    assert not [entry.recipe for entry in record.read(ROOT / "results") if len(entry.commit) != 40]
