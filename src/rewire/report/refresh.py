"""Tables inside Markdown pages, made from records: no figure in README or docs is typed by hand.

A page marks the place of a table, and everything up to the end mark is replaced:

    <!-- table: accuracy digits mlp -->
    <!-- end of table -->

The words are the kind (accuracy, results, differences, engines, or published: figures of papers beside ours), the
task and the model; accuracy is the headline measure, whatever the task is measured by. `methods` stands for the list of
all methods, and `method <name>` for what was measured of one. `exploration <task> <model> <percent>` is a sweep of
DST-EE's c; `choice` and `options`, with such places, are what validation chooses and how that does on test sets.
A page may say of which folders its records are, and is then made of these alone:

    <!-- records: results studies -->

The CPU engine's times come from the CSV files of its benchmarks: `engine <network> <budget>`, "all" for every one, and
`linear <size> <layer or step>`. The rows of any other benchmark come from its CSV files whole, and its mark names the
columns to show:

    <!-- benchmark: masked-step model compile ratio -->
    <!-- end of table -->

A plot is an image beside the page, which the marks take in with its words and its caption:

    <!-- plot: exploration digits mlp 98 -->
    <!-- end of plot -->
"""

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from rewire.record import Record
from rewire.report import exploration, methods, options, speed
from rewire.report.figures import Figure
from rewire.report.published import beside_published
from rewire.report.sections import Section, sections
from rewire.report.tables import Table, differences, engines, headlines, markdown, results

KINDS: dict[str, Callable[[Section], Table | None]] = {
    "accuracy": headlines,
    "results": results,
    "differences": differences,
    "engines": engines,
}
MEASURED: dict[str, Callable[[str, str, Path], Table | None]] = {"engine": speed.networks, "linear": speed.linear}
STUDIES: dict[str, Callable[[Sequence[options.Place]], Table | None]] = {
    "choice": options.choice,
    "options": options.options,
}
WORDS = {
    **dict.fromkeys(KINDS, 2),
    **dict.fromkeys(MEASURED, 2),
    "published": 2,
    "method": 1,
    "methods": 0,
    "exploration": 3,
    **dict.fromkeys(STUDIES, 3),  # for each place
}  # after the kind
END = "<!-- end of table -->"
PLACE = re.compile(rf"<!-- table: (\w+)([\w -]*) -->\n.*?{END}", re.DOTALL)
PLOT = re.compile(r"<!-- plot: exploration ([\w-]+) ([\w-]+) (\w+) -->\n.*?<!-- end of plot -->", re.DOTALL)
RECORDS = re.compile(r"<!-- records: ([\w ./-]+) -->")
BENCHMARK = re.compile(rf"<!-- benchmark: ([\w-]+) ([\w ]+) -->\n.*?{END}", re.DOTALL)


def folders(page: str) -> tuple[str, ...] | None:
    """Returns the names of the folders whose records the page is made of; None where it does not say."""
    found = RECORDS.search(page)
    return tuple(found[1].split()) if found else None


def check_folders(path: Path, page: str, named: Sequence[Path]) -> None:
    """Raises ValueError where a page says of which folders its records are, and others were named."""
    wanted = folders(page)
    if wanted is not None and {each.resolve().name for each in named} != {*wanted}:
        raise ValueError(
            f"{path} is made of the records of {' and '.join(wanted)}, and not of {' and '.join(map(str, named))}. "
            f"Type: rewire report {' '.join(wanted)} --refresh {path}"
        )


def refresh(page: str, records: Sequence[Record], benchmarks: Path = Path("benchmarks/results")) -> str:
    """Returns the page with every marked table made anew, each with its caption below it.

    benchmarks: folder of the benchmarks' CSV files. Raises ValueError where a mark asks for an unknown kind of table,
    or for runs or benchmarks that are not there; but the engine's may still have to be measured.
    """
    found = sections(records)
    by_place = {(section.task, section.model): section for section in found}

    def at(task: str, model: str) -> Section:
        if (task, model) not in by_place:
            known = ", ".join(" ".join(place) for place in by_place) or "none"
            raise ValueError(
                f'The page wants a table of "{task} {model}", but the records hold {known}. Name more files.'
            )
        return by_place[task, model]

    def made(match: re.Match[str]) -> str:
        kind, words = match[1], match[2].split()
        if kind not in WORDS:
            raise ValueError(f'"<!-- table: {kind} ..." is unknown. Use one of {", ".join(WORDS)}.')
        places = max(1, len(words) // 3) if kind in STUDIES else 1
        if len(words) != WORDS[kind] * places:
            raise ValueError(
                f'"{match[0].splitlines()[0]}" says {len(words)} words after "{kind}", which takes {WORDS[kind]}. Use '
                "for example accuracy digits mlp, method rigl, or methods."
            )
        if kind == "methods":
            return _written(match, methods.overview(), "")
        if kind == "method":
            return _written(match, methods.measured(words[0], found), "No record yet.")
        if kind == "exploration":
            return _written(match, exploration.sweep(at(*words[:2]), _share(words[2])), "No run yet.")
        if kind in STUDIES:
            asked = [(at(*words[i : i + 2]), _share(words[i + 2])) for i in range(0, len(words), 3)]
            return _written(match, STUDIES[kind](asked), "No runs at all of these places yet.")
        task, model = words
        if kind == "published":
            return _written(match, beside_published(task, model, by_place.get((task, model))), "")
        if kind in MEASURED:
            return _written(match, MEASURED[kind](task, model, benchmarks), "No figures yet.")
        return _written(match, KINDS[kind](at(task, model)), "No runs to compare yet.")

    def measured(match: re.Match[str]) -> str:
        return _written(match, _benchmark(match[1], match[2].split(), benchmarks), "")

    def drawn(match: re.Match[str]) -> str:
        figure = _plot(match, found)
        body = f"![{figure.alt}]({_file(match)})\n\n{figure.caption}" if figure else "No runs of two values of c yet."
        return f"{match[0].splitlines()[0]}\n{body}\n<!-- end of plot -->"

    return PLOT.sub(drawn, BENCHMARK.sub(measured, PLACE.sub(made, page)))


def images(page: str, records: Sequence[Record]) -> dict[str, str]:
    """Returns the images of the page's plots, as SVG documents by the name of their file beside the page."""
    found = sections(records)
    plots = {_file(match): _plot(match, found) for match in PLOT.finditer(page)}
    return {name: exploration.image(figure) for name, figure in plots.items() if figure}


def _plot(match: re.Match[str], found: Sequence[Section]) -> Figure | None:
    section = next((section for section in found if (section.task, section.model) == (match[1], match[2])), None)
    return section and exploration.against_c(section, _share(match[3]))


def _file(match: re.Match[str]) -> str:
    return f"exploration-{match[1]}-{match[2]}-{match[3]}.svg"


def _share(word: str) -> float:
    if not word.isdigit() or int(word) >= 100:
        raise ValueError(f'The page wants a sparsity of "{word}" percent. Write a whole number below 100, such as 98.')
    return int(word) / 100


def _written(match: re.Match[str], table: Table | None, otherwise: str) -> str:
    """Returns the marks with the table between them, or with what is said where there is none."""
    body = "\n\n".join(filter(None, (markdown(table), table.caption))) if table else otherwise
    return f"{match[0].splitlines()[0]}\n{body}\n{END}"


def _benchmark(name: str, columns: Sequence[str], folder: Path) -> Table:
    files = sorted(folder.glob(f"{name}-*.csv"))
    rows = [row for path in files for row in csv.DictReader(path.read_text().splitlines())]
    unknown = [column for column in columns if not rows or column not in rows[0]]
    if unknown:
        raise ValueError(
            f'The page wants "{unknown[0]}" of the benchmark "{name}", which {folder} does not hold. Run '
            f"benchmarks/{name.replace('-', '_')}.py, or use one of: {', '.join(rows[0]) if rows else 'nothing yet'}."
        )
    cells = tuple(tuple(row[column] for column in columns) for row in rows)
    return Table(f"From {', '.join(path.name for path in files)}.", tuple(columns), cells)
