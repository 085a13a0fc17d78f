import dataclasses
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rewire.record import Record
from rewire.report.page import html, page

Make = Callable[..., Record]

VOID = {"meta", "img", "br"}


class Outline(HTMLParser):
    """Collects the tags, attributes and words of a page, and fails where tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(" ".join(data.split()))

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def written(records: list[Record], tmp_path: Path) -> Path:
    return page(records, tmp_path / "new" / "report.html")


def test_needs_nothing_from_elsewhere(written: Path) -> None:
    text = written.read_text()
    outline = Outline(text)
    assert not outline.attributes("script")
    assert not outline.attributes("link")
    assert not re.search(r"@import|url\(", text)
    assert all((image["src"] or "").startswith("data:image/svg+xml;base64,") for image in outline.attributes("img"))
    assert all((link["href"] or "").startswith("#") for link in outline.attributes("a"))


def test_is_for_all_readers(written: Path) -> None:
    outline = Outline(written.read_text())
    assert outline.attributes("html") == [{"lang": "en"}]
    assert len(outline.attributes("h1")) == 1
    assert all(len(image["alt"] or "") > 40 for image in outline.attributes("img"))
    assert all(cell.get("scope") in ("col", "row") for cell in outline.attributes("th"))
    identities = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(identities) == len(set(identities))
    assert {link["href"] for link in outline.attributes("a")} <= {f"#{identity}" for identity in identities}


def test_holds_every_part(written: Path) -> None:
    outline = Outline(written.read_text())
    for heading in ("made_up, mlp", "made_up_too, mlp", "Paired differences", "Recipe"):
        assert heading in outline.words
    for words in (
        "dst_ee c=0.1 scale=layer",
        "p after Holm",
        "What differs between the runs",
        "What is equal in all that read it",
        "Not saved: time and memory.",
        "processor An invented processor",
        "torch 2.13.0",
        "0123456789abcdef0123456789abcdef01234567",
    ):
        assert words in outline.text
    # made_up: accuracy, exploration, layers and three sparsities over time; made_up_too: the same for one, without
    # accuracy against exploration, which a single method does not show; each the legend of costs and six of them
    assert len(outline.attributes("img")) == 6 + 3 + 2 * 7


def test_equal_records_give_equal_bytes(make: Make, tmp_path: Path) -> None:
    records = [make("dense", 0, 0), make("dst_ee", 0.95, 0)]
    assert page(records, tmp_path / "a.html").read_bytes() == page(records, tmp_path / "b.html").read_bytes()


def test_a_page_holds_sections_of_several_measures(make: Make, measured: Make, tmp_path: Path) -> None:
    records = [make("dst_ee", 0.95, 0), make("rigl", 0.95, 0)]
    records += [measured(method, 0.95, 0, {"loss": 1.4826}) for method in ("dst_ee", "rigl")]
    outline = Outline(page(records, tmp_path / "report.html").read_text())
    for word in ("test accuracy", "test loss", "1.483 (1)"):
        assert word in outline.words
    assert "Test loss (lower is better) against sparsity." in outline.text
    assert "in percentage points" in outline.text
    assert "in nats" in outline.text


def test_remark_on_the_data_stands_beside_its_figures_once(make: Make, tmp_path: Path) -> None:
    records = [make("dst_ee", 0.95, seed, {"note": "an invented remark"}) for seed in range(2)]
    assert page(records, tmp_path / "a.html").read_text().count("an invented remark") == 1


def test_records_cannot_write_markup_into_the_page(make: Make, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    entry = dataclasses.replace(
        make("dst_ee", 0.95, 0, {"note": evil}, task=evil, optimizer=evil),
        commit=evil,
        hardware={evil: evil},
        versions={evil: evil},
    )
    text = page([entry], tmp_path / "a.html").read_text()
    assert not Outline(text).attributes("script")
    assert Outline(text).words.count(evil) >= 2
    assert f"Notes: {evil}." in Outline(text).text


def test_masked_training_is_said_of_the_rows_that_it_is_true_of(make: Make) -> None:
    masked, engine, dense = make("rigl", 0.95, 0), make("dst_ee", 0.95, 0, engine="cpu"), make("dense", 0, 0)
    engine.curves["layer_engine"] = {"first.weight": "cpu", "second.weight": "masked (slower)"}
    asked = make("dst_ee", 0.9, 0, engine="cpu")
    asked.curves["layer_engine"] = {"first.weight": "masked (slower)"}
    none, some, all_on_it = (html(found, "t") for found in ([masked, dense], [masked, engine, asked], [engine, dense]))
    assert "<p>These networks were trained in masked mode: an inactive weight" in none
    assert "in the layers that it took: dst_ee engine=cpu (made_up, mlp) at 95 %. All other sparse networks" in some
    assert "masked mode" not in all_on_it


def test_seconds_from_several_machines_are_not_compared(make: Make, tmp_path: Path) -> None:
    one = make("dense", 0, 0)
    other = dataclasses.replace(make("dense", 0, 1), hardware={"processor": "Another invented processor"})
    warning = "Seconds are comparable only within one row."
    assert warning in page([one, other], tmp_path / "a.html").read_text()
    assert warning not in page([one], tmp_path / "b.html").read_text()


def test_no_records_say_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"There are no records, so there is nothing to report. Run `rewire train"):
        page([], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
