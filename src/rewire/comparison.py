"""The grid of a comparison: methods x sparsities x seeds, side by side in processes, no finished run repeated."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import time
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from itertools import chain
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from rewire import record
from rewire.assembly import run_name
from rewire.core.unfit import UnfitError
from rewire.methods import METHODS
from rewire.processes import Processes
from rewire.recipe import Recipe, Runtime
from rewire.record import Record
from rewire.report.sections import show
from rewire.training import Stop, Stopped, check_data, train, until
from rewire.words import value_of

RECORDS = "records.jsonl"  # in the folder of a runtime; one line a run

FAILURES = (FloatingPointError, UnfitError)  # of one run, which say nothing of the others
Failure = FloatingPointError | UnfitError
Result = tuple[str, Record | Failure]  # of the run of a key


def grid(
    recipe: Recipe,
    *,
    methods: Sequence[str],
    sparsities: Sequence[float | str],
    seeds: int,
    sweeps: Sequence[Mapping[str, Sequence[Any]]] = ({},),
    equal_updates: bool = True,
) -> list[Recipe]:
    """Returns the recipes of a comparison, seed by seed, so that one that stops early has whole seeds.

    Recipes of equal identity are one run: dense appears once a seed, and a value that a method does not read does
    not multiply its runs.

    seeds: how many, from the recipe's own upward. sweeps: values by field of the recipe, all combinations of each.
    equal_updates: every dynamic method updates as often as the others; RigL, which would stop at three quarters of the
    run, goes on like them.

    >>> [point.method for point in grid(Recipe(), methods=["dense", "set"], sparsities=[0.9, 0.95], seeds=1)]
    ['dense', 'set', 'set']
    """
    if equal_updates and recipe.stop is None:
        recipe = replace(recipe, stop=1.0)
    found: dict[str, Recipe] = {}
    for seed in numbers(seeds, recipe.seed):
        for method in methods:
            for sparsity in sparsities:
                for changes in chain.from_iterable(map(_combinations, sweeps)):
                    values: dict[str, Any] = {"seed": seed, "method": method, "sparsity": sparsity} | changes
                    point = replace(recipe, **values)
                    found.setdefault(record.key(point.identity()), point)
    return list(found.values())


def numbers(seeds: int, first: int = 0) -> range:
    """Returns so many seeds; ValueError where that is none."""
    if seeds < 1:
        raise ValueError(f"seeds={seeds} leaves no run. Use at least 1, and 3 or more to tell methods apart.")
    return range(first, first + seeds)


def parse_sweeps(words: Iterable[str]) -> list[dict[str, list[Any]]]:
    """Returns values by field of the recipe from words such as c=0,1e-5 scale=none,layer; after "or" begins another.

    >>> parse_sweeps(["c=0,1e-5", "or", "c=1", "scale=layer"])
    [{'c': [0.0, 1e-05]}, {'c': [1.0], 'scale': ['layer']}]
    """
    hints = typing.get_type_hints(Recipe)
    sweeps: list[dict[str, list[Any]]] = [{}]
    for word in words:
        if word == "or":
            sweeps.append({})
            continue
        name, equals, values = word.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or name not in hints:
            raise ValueError(
                f'sweep "{word}" names no field of the recipe. Use FIELD=VALUE,VALUE such as c=0,1e-5; the fields '
                f"are {', '.join(hints)}."
            )
        sweeps[-1][name] = [value_of(name, hints[name], value.strip()) for value in values.split(",")]
    return sweeps


def compare(
    recipes: Iterable[Recipe],
    runtime: Runtime,
    *,
    known: Iterable[Record] = (),
    jobs: int = 1,
    should_stop: Stop = lambda: None,
    announce: Callable[[str], None] = print,
) -> tuple[list[Record], int, list[tuple[str, Failure]]]:
    """Runs what is not known yet; returns all records of the recipes, the number of runs still missing, and failures.

    A run that diverges, or whose method does not go with its network, is left out, and the others go on: it has no
    record, counts as no missing one, and is tried again by the next call. A failure is the run's name and its error.

    Every finished run is appended at once to the records in the runtime's folder; models are not kept. With `jobs`
    over 1 as many processes train at the same time, on one CPU thread each, which for small models is faster than
    one run on as many threads. At the time limit, or where `should_stop` gives a reason, the runs in progress write a
    checkpoint, from which the next call goes on.
    """
    if jobs < 1:
        raise ValueError(f"jobs={jobs} runs nothing. Use 1, or as many as there are cores.")
    if Processes.started() > 1:
        raise ValueError(
            "compare trains each of its runs in one process, and torchrun started several. Type rewire compare without "
            "torchrun, or train each cell of the grid by: torchrun ... -m rewire.cli train RECIPE"
        )
    if jobs > 1 and runtime.energy:
        raise ValueError(
            f"energy is counted for the whole machine, and jobs={jobs} runs would share it. Use jobs=1 with energy."
        )
    wanted = {record.key(recipe.identity()): recipe for recipe in recipes}
    done = {key: entry for entry in known if (key := _key(entry)) in wanted}
    check_data(((wanted[key], entry) for key, entry in done.items()), runtime)
    waiting = {key: recipe for key, recipe in wanted.items() if key not in done}
    if done:
        announce(f"{len(done)} of {len(wanted)} runs have a record already and are not repeated.")
    began, before, stop = time.monotonic(), len(done), until(runtime.seconds, should_stop)
    runtime = replace(runtime, threads=runtime.threads or (1 if jobs > 1 else None), resume=True, time_limit=None)
    labels, failures = _labels(wanted), list[tuple[str, Failure]]()
    results = _side_by_side(waiting, runtime, jobs, stop) if jobs > 1 else _one_by_one(waiting, runtime, stop)
    for key, entry in results:
        if isinstance(entry, Record):
            record.append(runtime.out / RECORDS, entry)
        shutil.rmtree(_folder(runtime, key), ignore_errors=True)
        if isinstance(entry, FAILURES):
            failures.append((labels[key], entry))
            announce(f"[{len(done)}/{len(wanted)}] {labels[key]} failed: {entry}")
            continue
        done[key] = entry
        left = len(wanted) - len(done) - len(failures)
        pace = (time.monotonic() - began) / (len(done) + len(failures) - before)
        headline = entry.headline
        announce(
            f"[{len(done)}/{len(wanted)}] {labels[key]}: {headline.show(entry.result[headline.test])} in "
            f"{entry.result['seconds']:.1f} s, {pace * left / 60:.1f} min left"
        )
    found = [done[key] for key in wanted if key in done]
    return found, len(wanted) - len(done) - len(failures), failures


def _key(entry: Record) -> str:
    """The key under which today's grid looks for a recorded run, whatever fields recipes had when it ran."""
    try:
        return record.key(Recipe.of(entry.recipe).identity())
    except (TypeError, ValueError):  # from a newer version, which this one cannot repeat
        return record.key(entry.recipe)


def _one_by_one(waiting: Mapping[str, Recipe], runtime: Runtime, stop: Stop) -> Iterator[Result]:
    for key, recipe in waiting.items():
        if stop():
            return
        try:
            yield key, train(recipe, runtime, folder=_folder(runtime, key), should_stop=stop)
        except Stopped:
            return
        except FAILURES as error:
            yield key, error


def _side_by_side(waiting: Mapping[str, Recipe], runtime: Runtime, jobs: int, stop: Stop) -> Iterator[Result]:
    """Yields what comes of the runs as it comes. At the first error that is no failure of one run alone, the runs in
    progress write a checkpoint, and it is raised."""
    context = multiprocessing.get_context("spawn")
    stopping = context.Event()
    queue, error = list(waiting.items()), None
    running: dict[Future[Record | None], str] = {}
    with ProcessPoolExecutor(jobs, context, _begin_worker, (stopping,)) as pool:
        try:
            while running or (queue and not stopping.is_set()):
                while queue and len(running) < jobs and not stopping.is_set():
                    key, recipe = queue.pop(0)
                    running[pool.submit(_work, recipe, runtime, _folder(runtime, key))] = key
                finished, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in finished:
                    key = running.pop(future)
                    try:
                        if (entry := future.result()) is not None:
                            yield key, entry
                    except FAILURES as failure:
                        yield key, failure
                    except Exception as problem:
                        error = error or problem
                        stopping.set()
                if stop():
                    stopping.set()
        finally:
            stopping.set()
    if isinstance(error, BrokenProcessPool):
        raise ChildProcessError(
            "A worker process died, most likely because memory ran out. Use fewer --jobs; finished runs are kept."
        ) from error
    if error:
        raise error


_stopping: Event | None = None  # of this worker process, given when it starts


def _begin_worker(stopping: Event) -> None:
    global _stopping
    _stopping = stopping
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent passes it on


def _work(recipe: Recipe, runtime: Runtime, folder: Path) -> Record | None:
    """Trains in a worker process; None where the run was stopped and has left a checkpoint."""

    def stop() -> str | None:
        return "the comparison" if _stopping is not None and _stopping.is_set() else None

    try:
        return train(recipe, runtime, folder=folder, should_stop=stop)
    except Stopped:
        return None


def _labels(recipes: Mapping[str, Recipe]) -> dict[str, str]:
    """The names of the runs, with what else differs between them."""
    identities = {key: recipe.identity() for key, recipe in recipes.items()}
    named = ("task", "model", "method", "sparsity", "seed")  # by the name of a run
    varied = []
    for name in dict.fromkeys(name for fields in identities.values() for name in fields):
        values = {str(_field(fields, name)) for fields in identities.values() if _field(fields, name) is not None}
        if len(values) > 1 and name not in named:
            varied.append(name)
    return {
        key: " ".join(
            [run_name(recipe), *filter(None, (_said(name, _field(identities[key], name)) for name in varied))]
        )
        for key, recipe in recipes.items()
    }


def _field(identity: Mapping[str, Any], name: str) -> Any:
    """A field of an identity, with the default of one that is left out there; None where the run does not read it."""
    card = METHODS.card(identity["method"])
    if name in ("structure", "distribution") and identity[name] == getattr(card, name):
        return None  # the method's own
    left_out = None if identity["method"] == "dense" else getattr(Recipe, name)
    return identity.get(name, left_out)


def _said(name: str, value: Any) -> str:
    """A field in the words of the tables; nothing where a run does not read it. Options are words already."""
    if name == "options":
        return " ".join(value or ())
    return "" if value is None else f"{name}={show(value)}"


def _folder(runtime: Runtime, key: str) -> Path:
    return runtime.out / "unfinished" / key


def _combinations(sweep: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    points: list[dict[str, Any]] = [{}]
    for name, values in sweep.items():
        points = [point | {name: value} for point in points for value in values]
    return points
