"""Every table and plot of the README and the docs is what the committed records give: no figure is typed by hand."""

import inspect
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from rewire import METHODS, ConstantDensity, Method, record
from rewire.record import Record
from rewire.report.refresh import BENCHMARK, PLACE, folders, images, refresh

ROOT = Path(__file__).parents[1]
RESULTS = [ROOT / "results"]
STUDIES = [*RESULTS, *ROOT.glob("studies")]  # studies vary what the tables of results would have to name in every row
PAGES = [
    page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if PLACE.search(page.read_text()) or BENCHMARK.search(page.read_text())
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tables_of_a_page_come_from_the_records(page: Path) -> None:
    text = page.read_text()
    assert refresh(text, records_of(page), ROOT / "benchmarks" / "results") == text, (
        f"{page.name} and its records disagree. Type: make pages"
    )


def records_of(page: Path) -> list[Record]:
    named = folders(page.read_text())
    assert named, f"{page.name} does not say of which folders its records are"
    return read(*(ROOT / name for name in named))


@cache
def read(*folders: Path) -> list[Record]:
    return record.read(folders)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "<!-- plot:" in page.read_text()], ids=lambda page: page.name
)
def test_the_plots_of_a_page_come_from_the_records(page: Path) -> None:
    """By their words, which hold the figures: where a line is drawn to the last digit is a matter of versions."""
    made = images(page.read_text(), records_of(page))
    found = {path.name: path.read_text() for path in page.parent.glob(f"{page.stem}-*.svg")} if made else {}
    assert {name: words_of(image) for name, image in found.items()} == {
        name: words_of(image) for name, image in made.items()
    }


def words_of(image: str) -> list[str]:
    return re.findall(r"<desc>(.*?)</desc>", image, re.DOTALL)


def test_the_readme_has_tables() -> None:
    assert ROOT / "README.md" in PAGES


def test_every_recorded_run_of_a_dynamic_method_made_at_least_twenty_updates() -> None:
    """Those whose density moves, as AC/DC's, have a schedule of their own, and a fixed mask never moves."""
    constant = [name for name, make in METHODS.items() if _moves_at_a_constant_density(make)]
    assert {"set", "rigl", "dst_ee", "snfs"} <= set(constant)
    short = [
        entry.recipe for entry in read(*STUDIES) if entry.recipe["method"] in constant and entry.result["updates"] < 20
    ]
    assert not short


def _moves_at_a_constant_density(make: Callable[..., Method]) -> bool:
    options = {"steps": 1000} if "steps" in inspect.signature(make).parameters else {}
    every = {"every": 10} if "every" in inspect.signature(make).parameters else {}
    method = make(**options, **every)
    return method.dynamic and method.density == ConstantDensity()


def test_every_record_names_a_clean_commit() -> None:
    assert not [entry.recipe for entry in read(*STUDIES) if len(entry.commit) != 40]
