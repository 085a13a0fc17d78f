"""Records: one JSON line a run, with all that a reported figure needs to be traced back to it.

A file of records is plain JSON Lines: it is appended to while a comparison runs, read back to resume it,
committed with the results, and turned into tables and a page by `rewire.report`.

Over 300 lines, because what a record holds, how a line is checked, and when two of them disagree must stay in step.
"""

import hashlib
import json
import math
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, final

import torch

from rewire.measures import ACCURACY, Measure, measure_named

FORMAT = 1
"""The number written into every record; it grows when a field changes its meaning."""


@final
@dataclass(frozen=True)
class Record:
    """One run: what was asked for, where it ran, what happened over time, and what came out.

    Args:
        recipe: all settings of the run, plain JSON values: `task`, `model`, `method`, `sparsity`, `seed`, ...
        commit: of the code that ran, or "" where there is none.
        versions: of Python and the packages that matter, by name.
        hardware: processor, cores, threads, and the accelerator's name where one was used.
        curves: what happened over time, lists by name, and what was at the end of each layer.
            One entry an epoch: `epoch`, `train_loss`, and `validation_<headline>`, null where it was not measured.
            One entry an update: `update_step`, `exploration`, `churn`, `energy`; with a diagnosis (`rewire.diagnosis`)
            also `squared_gradient`, `gradient_flow`, `effective_density`, `ablated_units`, `dead_units`, and nested:
            `exploitation` by kind ("active", "largest") and then count ("grown", "kept", "missed");
            `layer_exploitation` by layer, kind and count.
            By layer: `layer_sparsity`; with an engine `layer_engine` and, where both ways were timed,
            `layer_milliseconds`; with a diagnosis `layer_degrees`, in which "incoming" and "outgoing" each have
            "mean", "std", "smallest" and "largest".
        result: figures at the end by name. `measures`: names of what the task was measured by, the headline first;
            `test_<name>` and `validation_<name>` of each, a share in [0, 1] or whatever unit the measure has. That of
            the headline on the test set is always there. `data`: the fingerprint of the data. Where the machine tells
            it (`rewire.cost`): `peak_memory` in bytes, and with --energy `cpu_energy_kwh`, `gpu_energy_kwh`.
        format: of the line itself.
    """

    recipe: dict[str, Any]
    commit: str
    versions: dict[str, str]
    hardware: dict[str, Any]
    curves: dict[str, Any]
    result: dict[str, Any]
    format: int = FORMAT

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What the run was measured by, the headline first."""
        return tuple(map(measure_named, self.result.get("measures", [ACCURACY.name])))

    @property
    def data(self) -> str:
        """The fingerprint of the data; "" in records of earlier versions."""
        return str(self.result.get("data", ""))

    @property
    def headline(self) -> Measure:
        """What the run is compared by."""
        return self.measures[0]


def append(path: str | os.PathLike[str], record: Record) -> None:
    """Adds `record` to the file as one line, whole or not at all, and waits until the disk has it.

    Values that JSON does not know are written as it can hold them: nan and infinity as null, tuples as lists.
    Raises OSError, with the file as it was, where the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (json.dumps(_plain(asdict(record)), allow_nan=False) + "\n").encode()
    with path.open("ab+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":  # an earlier line was cut short: `read` will name it, this one stays whole
                line = b"\n" + line
        try:
            written = file.write(line)
            if written != len(line):
                raise OSError(f"only {written} of {len(line)} bytes were written")
            os.fsync(file.fileno())
        except OSError as error:
            file.truncate(size)
            raise OSError(
                error.errno,
                f"{path}: the record could not be written ({error.strerror or error}), so the file was left "
                "as it was. Free some space and run the same command again; finished runs are not repeated.",
            ) from error


def read(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Record]:
    """Returns the records of the given files, in order; a folder stands for every `*.jsonl` below it.

    A recipe that was recorded more than once counts once, with its last record, so that no run weighs double; where
    the figures of the two differ, a warning says so.
    Raises FileNotFoundError for a path that is not there, and ValueError, with file and line number, for a
    line that is not a whole record.
    """
    records: dict[str, Record] = {}
    origins: dict[str, Path] = {}
    conflicts: dict[tuple[Path, Path], list[tuple[Record, Record]]] = {}
    for path in [paths] if isinstance(paths, str | os.PathLike) else paths:
        for file in _files(Path(path)):
            for number, line in enumerate(file.read_bytes().splitlines(), start=1):
                if line.strip():
                    record = _parse(line, where=f"{file}, line {number}")
                    name = key(record.recipe)
                    if name in records and _figures_differ(records[name], record):
                        conflicts.setdefault((origins[name], file), []).append((records[name], record))
                    records[name], origins[name] = record, file
    for (earlier, later), pairs in conflicts.items():
        warnings.warn(_conflict(earlier, later, pairs), stacklevel=2)
    return list(records.values())


def key(recipe: Mapping[str, Any]) -> str:
    """Returns the identity of a recipe: 16 hexadecimal digits that depend on its content alone.

    The order of the entries does not matter, and a number is the same number as int and as float.

    >>> key({"seed": 0, "c": 0.0}) == key({"c": 0, "seed": 0})
    True
    >>> key({"seed": 0}) == key({"seed": 1})
    False
    """
    text = json.dumps(_whole_floats_as_int(_plain(recipe)), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def measures_of(records: Iterable[Record]) -> tuple[Measure, ...]:
    """Returns what the runs were measured by, each measure once, the headline of the first run first."""
    return tuple(dict.fromkeys(measure for record in records for measure in record.measures))


def commit() -> str:
    """Returns the commit of the running code, with "+changes" where files differ from it; "" outside git."""
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", __file__)  # an installed copy may lie inside some other repository
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--", str(folder)) else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


@cache
def commit_at_start() -> str:
    """Returns `commit` as it was when this process first asked: its code does not change with the files."""
    return commit()


def versions() -> dict[str, str]:
    """Returns the versions of Python, torch and rewire, and of numpy where it is installed."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("rewire", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware(device: str | torch.device = "cpu") -> dict[str, Any]:
    """Returns the processor, its cores, torch's threads, and the accelerator that `device` stands for."""
    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if torch.device(device).type == "cuda":
        found["accelerator"] = torch.cuda.get_device_name(device)
    elif torch.device(device).type != "cpu":
        found["accelerator"] = torch.device(device).type
    return found


def _figures_differ(earlier: Record, later: Record) -> bool:
    """Whether two records of one recipe disagree in what both know, but for what a machine takes for it."""
    ours, theirs = _plain(earlier.result), _plain(later.result)
    names = ours.keys() & theirs.keys() - {"note", "seconds", "peak_memory", "cpu_energy_kwh", "gpu_energy_kwh"}
    return any(ours[name] != theirs[name] for name in names)


def _conflict(earlier: Path, later: Path, pairs: list[tuple[Record, Record]]) -> str:
    """Says which files hold other figures for the same runs, what differs in the first of them, and which counts."""
    recipe, headline = pairs[0][0].recipe, pairs[0][0].headline.test
    where = [{"commit": each.commit, "data": each.data, **each.versions, **each.hardware} for each in pairs[0]]
    sides = [{headline: each.result.get(headline), **more} for each, more in zip(pairs[0], where, strict=True)]
    both = {name: [side.get(name) for side in sides] for side in sides for name in side}
    told = "; ".join(f"{name} is {one} and {other}" for name, (one, other) in both.items() if one != other)
    run = f"{recipe['task']} {recipe['model']} {recipe['method']} {recipe['sparsity']} seed {recipe['seed']}"
    runs = f"{len(pairs)} run" + "s" * (len(pairs) > 1)
    if earlier == later:
        return f"{earlier} holds {runs} twice with other figures; the last line counts. Of {run}, {told or 'others'}."
    return (
        f"{earlier} and {later} hold {runs} with other figures; the second file counts, as it was read last. Of {run}, "
        f"{told or 'others'}. Leave out one of the files, or name the one that shall count last."
    )


def _processor() -> str:
    """Returns the processor's name as Linux gives it, else as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _files(path: Path) -> list[Path]:
    files = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    if not files or not files[0].exists():
        what = "has no .jsonl file in it" if path.is_dir() else "does not exist"
        raise FileNotFoundError(
            f"{path} {what}, so there are no records to read. "
            "Name a file of records or a folder with some, such as results/; `rewire compare` writes them."
        )
    return files


def _parse(line: bytes, where: str) -> Record:
    """Returns the record on one line, or raises ValueError with `where` in it."""

    def refuse(why: str) -> ValueError:
        return ValueError(
            f"{where} is not a record of a run: {why}. "
            "Delete that line and run the same comparison again: only that run is repeated."
        )

    try:
        content = json.loads(line)
    except ValueError as error:  # covers text that is not UTF-8
        raise refuse(f"it is not whole JSON ({error}), as when a write was cut short") from error
    if not isinstance(content, dict):
        raise refuse(f"it holds a {type(content).__name__}, not an object")
    names = [field.name for field in fields(Record)]
    if content.get("format", FORMAT) != FORMAT:
        raise ValueError(
            f"{where} has format {content['format']!r}, but this version of rewire reads format {FORMAT}. "
            "Install the version that wrote it."
        )
    missing = [name for name in names if name not in content]
    foreign = [name for name in content if name not in names]
    if missing or foreign:
        parts = ["it lacks " + ", ".join(missing)] * bool(missing) + ["it has " + ", ".join(foreign)] * bool(foreign)
        raise refuse(" and ".join(parts))
    for name in ("recipe", "versions", "hardware", "curves", "result"):
        if not isinstance(content[name], dict):
            raise refuse(f"its {name} is a {type(content[name]).__name__}, not an object")
    missing = [name for name in ("task", "model", "method", "sparsity", "seed") if name not in content["recipe"]]
    if missing:
        raise refuse(f"its recipe lacks {', '.join(missing)}")
    measures = content["result"].get("measures", [ACCURACY.name])
    if not isinstance(measures, list) or not measures or not all(isinstance(name, str) for name in measures):
        raise refuse(f"its result's measures is {measures!r}, not a list of names")
    record = Record(**content)
    headline, value = record.headline, record.result.get(record.headline.test)
    low, high = (0, 1) if headline.share else (-sys.float_info.max, sys.float_info.max)
    if not isinstance(value, int | float) or not low <= value <= high:
        kind = "a fraction in [0, 1]" if headline.share else "a finite number"
        raise refuse(f"its result's {headline.test} is {value!r}, not {kind}")
    return record


def _plain(value: Any) -> Any:
    """Returns `value` as JSON can hold it; what JSON cannot hold at all is left for json.dumps to refuse."""
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _whole_floats_as_int(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _whole_floats_as_int(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_whole_floats_as_int(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
