"""Tables inside Markdown pages, made from records: no figure in README or docs is typed by hand.

A page marks the place of a table, and everything up to the end mark is replaced:

    <!-- table: accuracy digits mlp -->
    <!-- end of table -->

The words are the kind (accuracy, results or differences), the task and the model.
"""

import re
from collections.abc import Callable, Sequence

from rewire.record import Record
from rewire.report.sections import Section, sections
from rewire.report.tables import Table, accuracies, differences, markdown, results

KINDS: dict[str, Callable[[Section], Table | None]] = {
    "accuracy": accuracies,
    "results": results,
    "differences": differences,
}
PLACE = re.compile(r"<!-- table: (\w+) (\w+) (\w+) -->\n.*?<!-- end of table -->", re.DOTALL)


def refresh(page: str, records: Sequence[Record]) -> str:
    """Returns the page with every marked table made anew from the records, each with its caption below it.

    Raises ValueError where a mark asks for an unknown kind of table or for runs that are not among the records.
    """
    by_place = {(section.task, section.model): section for section in sections(records)}

    def made(match: re.Match[str]) -> str:
        kind, task, model = match.groups()
        if kind not in KINDS:
            raise ValueError(f'"<!-- table: {kind} ..." is unknown. Use one of {", ".join(KINDS)}.')
        if (task, model) not in by_place:
            known = ", ".join(" ".join(place) for place in by_place) or "none"
            raise ValueError(
                f'The page wants a table of "{task} {model}", but the records hold {known}. Name more files.'
            )
        table = KINDS[kind](by_place[task, model])
        body = f"{markdown(table)}\n\n{table.caption}\n" if table else "No runs to compare yet.\n"
        return f"<!-- table: {kind} {task} {model} -->\n{body}<!-- end of table -->"

    return PLACE.sub(made, page)
