"""The command `rewire`: train, compare, plan, list, report."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import sys
import typing
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewire.cli.flags import Compare, List, Plan, Published, Report, Train, parsed, summary
from rewire.recipe import Recipe
from rewire.recipes import RECIPES
from rewire.recipes.published import PUBLISHED

if TYPE_CHECKING:
    from rewire.record import Record
    from rewire.training import Stop

FAILED, INTERRUPTED = 2, 130  # exit statuses: something is wrong; someone asked to stop

# What the library raises with a message that says what to do. Anything else is a bug and shows its traceback.
ERRORS = (ValueError, OSError, ImportError, ArithmeticError)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits: 0 done, 2 something is wrong, 130 stopped by Ctrl-C."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = words[0] if words else "--help"
    if command in ("-h", "--help"):
        print(_usage())
        return
    if command not in COMMANDS:
        sys.exit(_failure(f'"{command}" is no command of rewire. Use one of {", ".join(COMMANDS)}.'))
    kind, action = COMMANDS[command]
    try:
        with _plain_warnings():
            status = action(parsed(kind, command, words[1:]), words)
        sys.exit(status)
    except KeyboardInterrupt:
        print(f"Stopped at once.{_goes_on(words)}", flush=True)
        sys.exit(INTERRUPTED)
    except ERRORS as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        sys.exit(_failure(_message(error) + (_goes_on(words) if full else "")))


def train(command: Train, words: Sequence[str]) -> int:
    """Trains, the dense baseline too where it is wanted, and prints the table and the path of the report."""
    from rewire import record, training
    from rewire.assembly import folder_name, run_name
    from rewire.cli.table import train_table
    from rewire.comparison import RECORDS
    from rewire.processes import Processes
    from rewire.progress import progress_of
    from rewire.report.page import page

    records_path = command.runtime.out / RECORDS
    recipes = [command.recipe]  # first, because what is wrong with it should be told before the baseline is trained
    if command.baseline and command.recipe.method != "dense":
        recipes.append(replace(command.recipe, method="dense"))

    def read() -> dict[str, Record]:
        there = command.runtime.resume and records_path.exists()
        return {record.key(entry.recipe): entry for entry in record.read(records_path)} if there else {}

    with Processes.join("cpu") as processes:
        known = processes.shared(read)
    finished = [(recipe, known[key]) for recipe in recipes if (key := record.key(recipe.identity())) in known]
    training.check_data(finished, command.runtime)
    writes = os.environ.get("RANK", "0") == "0"
    runtime = replace(command.runtime, time_limit=None)
    found: list[Record] = []
    with _signals() as stop:
        should_stop = training.until(command.runtime.seconds, stop)
        for recipe in recipes:
            entry = known.get(record.key(recipe.identity()))
            if entry is None:
                progress = progress_of(run_name(recipe)) if writes else None
                try:
                    entry = training.train(recipe, runtime, progress=progress, should_stop=should_stop)
                except training.Stopped as stopped:
                    return _stopped(stopped, words) if writes else 0
                if writes:
                    record.append(records_path, entry)
            found.insert(0, entry)
    if writes:
        print(f"\n{train_table(found)}\n")
        print(f"model   {command.runtime.out / folder_name(command.recipe) / 'model.safetensors'}")
        path = command.runtime.out / "report.html"
        page(found, path)
        print(f"report  {path.resolve()}")
    return 0


def compare(command: Compare | Published, words: Sequence[str]) -> int:
    """Runs the grid, or what a published table needs, and prints its tables."""
    from rewire import comparison, record

    if isinstance(command, Published):
        recipes = [point for seed in comparison.numbers(command.seeds) for point in PUBLISHED[command.table](seed)]
        asked = {name: getattr(command, name) for name in ("compile", "bf16", "epochs")}
        given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
        recipes = [replace(point, **given) for point in recipes]
    else:
        recipes = comparison.grid(
            command.recipe,
            methods=command.methods,
            sparsities=command.sparsities,
            seeds=command.seeds,
            sweeps=comparison.parse_sweeps(command.sweep),
            equal_updates=command.equal_updates,
        )
    local = command.runtime.out / comparison.RECORDS
    known = record.read([*command.records, *([local] if local.exists() else [])])
    with _signals() as stop:
        found, missing, failures = comparison.compare(
            recipes, command.runtime, known=known, jobs=command.jobs, should_stop=stop, announce=_announce
        )
        reason = stop()
    if found:
        _show(found, command.runtime.out / "report.html")
    if missing:
        print(f"{missing} of {len(recipes)} runs are still missing. The same command goes on:\n  {_typed(words)}")
    if failures:
        runs = "1 run" if len(failures) == 1 else f"{len(failures)} runs"
        told = "".join(f"\n  {name}: {error}" for name, error in failures)
        return _failure(f"{runs} of {len(recipes)} failed; the same command tries them again and nothing else:{told}")
    return INTERRUPTED if reason else 0


def plan(command: Plan, words: Sequence[str]) -> int:
    """Prints the plan."""
    from rewire import planning

    print(planning.text(planning.plan(command.recipe, command.data)))
    return 0


def list_(command: List, words: Sequence[str]) -> int:
    """Prints all names that the other commands take."""
    from rewire.methods import METHODS
    from rewire.tasks import TASKS
    from rewire.tasks.graphs.message_passing import ENCODERS
    from rewire.tasks.models import MODELS, TEXT_MODELS

    print("recipes")
    for name, recipe in RECIPES.items():
        print(f"  {name:<21}{summary(recipe)}")
    print("tables, for compare")
    for name, table in PUBLISHED.items():
        print(f"  {name:<21}{summary(table)}")
    print("methods")
    for name, method in METHODS.items():
        print(f"  {name:<21}{summary(method)}")
    engines = ", ".join(typing.get_args(typing.get_type_hints(Recipe)["engine"]))
    print(
        f"models\n  {', '.join((*MODELS, *TEXT_MODELS, *ENCODERS))}\ntasks\n  {', '.join(TASKS)}\nengines\n  {engines}"
    )
    return 0


def report(command: Report, words: Sequence[str]) -> int:
    """Builds the page from records, and the tables inside other pages."""
    from rewire import record
    from rewire.atomic import atomic_write
    from rewire.report.refresh import check_folders, images, refresh

    if not command.runs:
        raise ValueError("No records to report on. Name a file of records or a folder with some, such as results/.")
    texts = {path: path.read_text() for path in command.refresh}
    for path, text in texts.items():
        check_folders(path, text, command.runs)
    records = record.read(command.runs)
    # All pages are made before any is written.
    pages = {path: refresh(text, records, command.benchmarks) for path, text in texts.items()}
    plots = {path.parent / name: plot for path, page in pages.items() for name, plot in images(page, records).items()}
    first = command.runs[0]
    _show(records, command.out or (first if first.is_dir() else first.parent) / "report.html")
    for kind, files in (("tables", pages), ("plot  ", plots)):
        for path, content in files.items():
            atomic_write(path, methodcaller("write", content.encode()))
            print(f"{kind}  {path.resolve()}")
    return 0


COMMANDS: dict[str, tuple[type, Callable[[Any, Sequence[str]], int]]] = {
    "train": (Train, train),
    "compare": (Compare, compare),
    "plan": (Plan, plan),
    "list": (List, list_),
    "report": (Report, report),
}


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Prints a warning as its words, without the line of code that gave it."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *where, **more: f"rewire: warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


@contextmanager
def _signals() -> Iterator[Stop]:
    """Turns the first Ctrl-C or SIGTERM into a reason to stop; the second one is not waited for."""
    reasons: list[str] = []

    def heard(number: int, frame: object) -> None:
        if reasons:
            raise KeyboardInterrupt
        reasons.append("Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name)

    before = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: reasons[0] if reasons else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stopped(stopped: Exception, words: Sequence[str]) -> int:
    """Says how to resume; a time limit is what was asked for, a signal is an interruption."""
    print(f"{stopped}\n{_resume(words)}", flush=True)
    return 0 if "time limit" in str(stopped) else INTERRUPTED


def _goes_on(words: Sequence[str]) -> str:
    """Says, after a stop without a new checkpoint, what is kept and what to type; other commands keep nothing."""
    if words[0] == "compare":
        return f" Finished runs are kept. The same command goes on:\n  {_typed(words)}"
    return f" The last checkpoint, if one was written, is whole.\n{_resume(words)}" if words[0] == "train" else ""


def _resume(words: Sequence[str]) -> str:
    if "WORLD_SIZE" in os.environ:
        return "Resume it with the same torchrun command and --resume at its end."
    return f"Resume it with\n  {_typed(words if '--resume' in words else [*words, '--resume'])}"


def _typed(words: Sequence[str]) -> str:
    return shlex.join(["rewire", *words])


def _show(records: list[Record], path: Path) -> None:
    """Prints the tables of the records and writes the page."""
    from rewire.report.page import page
    from rewire.report.sections import sections
    from rewire.report.tables import differences, engines, markdown, results

    for section in sections(records):
        print(f"\n{section.task}, {section.model}")
        for table in (results(section), differences(section), engines(section)):
            if table is not None:
                print(f"\n{table.caption}\n{markdown(table)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    page(records, path)
    print(f"\nreport  {path.resolve()}")


def _announce(line: str) -> None:
    print(line, flush=True)


def _usage() -> str:
    lines = [f"  {name:<10}{summary(kind)}" for name, (kind, _) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: rewire COMMAND ...",
            "",
            "Dynamic sparse training for PyTorch.",
            "",
            *lines,
            "",
            "rewire COMMAND --help says more; rewire train digits is a good start.",
        ]
    )


def _message(error: Exception) -> str:
    """The words of an error; Python puts a number in front of a system error's."""
    if isinstance(error, OSError) and error.strerror and error.filename is None:
        return error.strerror
    return str(error)


def _failure(message: str) -> int:
    print(f"rewire: {message}", file=sys.stderr)
    return FAILED
