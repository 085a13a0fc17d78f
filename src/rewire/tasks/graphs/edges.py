"""Any edge list `u v [time]` as tensors."""

import gzip
import math
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from rewire.tasks.data import fingerprint

FORMAT = "an edge is `u v`, `u v time` or `u v weight time`"
ADVICE = "Correct the line, or leave it out by a # at its start."


@dataclass(frozen=True, eq=False)
class Edges:
    """The edges of a graph, in the order of its file, without self loops and without exact repetitions.

    `pairs` are numbers of nodes, into `names`. With `times` (None for a graph without) an edge is an event: one pair
    may have several. In an undirected graph the end of the smaller number is the first. `note` says what was left out.
    """

    name: str
    pairs: Int64[Tensor, "edges 2"]
    times: Float64[Tensor, " edges"] | None
    names: tuple[str, ...]
    directed: bool
    note: str = ""

    @property
    def nodes(self) -> int:
        return len(self.names)

    @property
    def fingerprint(self) -> str:
        """Other edges, times or directions have another one, and another order too, by which nodes are numbered."""
        times = () if self.times is None else (self.times,)
        return fingerprint(self.pairs, torch.tensor([self.directed]), *times)

    def __len__(self) -> int:
        return len(self.pairs)

    def __repr__(self) -> str:
        kind = ("directed" if self.directed else "undirected") + (" with times" if self.times is not None else "")
        note = f", {self.note}" if self.note else ""
        return f"Edges({self.name}: {self.nodes} nodes, {len(self)} edges, {kind}{note})"


def read_edges(path: str | Path, directed: bool | None = None) -> Edges:
    """The edge list in a text file, plain or gzipped.

    A line is `u v`, `u v time` or `u v weight time` (the form of KONECT and Network Repository; the weight is not
    used), separated by commas or else by blanks, in all lines alike. Nodes may have any name and are numbered as they
    come. A time is any finite number; only the order counts. A third column is always read as a time; where all times
    are equal (often weights of 1) the graph has none, and `note` says so. Empty lines and those that start with # or %
    are skipped, a header must be among them. Self loops and repetitions of the same edge (at the same time) are left
    out and counted in `note`.

    directed: whether `u v` and `v u` are different edges. None: in a graph with times they are (u sends to v), in one
    without they are not.

    Raises ValueError for the first line that is none of these, with its number.
    """
    path = Path(path)
    numbers: dict[str, int] = {}
    ends, times = array("q"), array("d")
    columns = 0
    with _opened(path) as lines:
        for number, line in enumerate(lines, 1):
            fields = [field.strip() for field in line.split(",")] if "," in line else line.split()
            if not fields or fields[0][:1] in ("#", "%"):
                continue
            try:
                if len(fields) != columns or not all(fields):
                    columns = _columns(fields, columns)
                if columns > 2:
                    times.append(_time(fields[-1]))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {line.strip()!r} has {error}. {ADVICE}") from None
            ends.append(numbers.setdefault(fields[0], len(numbers)))
            ends.append(numbers.setdefault(fields[1], len(numbers)))
    names = tuple(numbers)
    if not names:
        raise ValueError(f"{path} holds no edge: {FORMAT}, one a line. Type the path of an edge list.")
    pairs = torch.from_numpy(np.array(ends, dtype=np.int64)).reshape(-1, 2)
    _check_header(path, names, pairs)
    timed = columns > 2 and min(times) < max(times)
    return without_repetitions(
        Edges(
            name=path.name.removesuffix(".gz").rpartition(".")[0] or path.name,
            pairs=pairs,
            times=torch.from_numpy(np.array(times)) if timed else None,
            names=names,
            directed=timed if directed is None else directed,
            note=f"all times are equal ({times[0]:g}) and left out" if columns > 2 and not timed else "",
        )
    )


def without_repetitions(edges: Edges) -> Edges:
    """The same graph without self loops, and with each edge once for each of its times; the first of equals stays."""
    pairs = edges.pairs if edges.directed else edges.pairs.sort(dim=1).values
    first = _first(edges, pairs, at_each_time=True)
    loop = pairs[:, 0] == pairs[:, 1]
    kept = first & ~loop
    if not kept.any():
        raise ValueError(f"{edges.name} holds no edge but self loops, so there is no link to predict.")
    repeated, loops = int((~first & ~loop).sum()), int(loop.sum())
    left_out = [f"{count} {what}" for count, what in ((repeated, "repeated edges"), (loops, "self loops")) if count]
    return replace(
        edges,
        pairs=pairs[kept],
        times=None if edges.times is None else edges.times[kept],
        note=remarks(edges.note, f"{' and '.join(left_out)} left out" if left_out else ""),
    )


def simple(edges: Edges) -> Edges:
    """The undirected graph in which every two nodes are joined at most once, since the earliest of their times."""
    pairs = edges.pairs.sort(dim=1).values
    kept = _first(edges, pairs, at_each_time=False)
    merged = int((~kept).sum())
    return replace(
        edges,
        pairs=pairs[kept],
        times=None if edges.times is None else edges.times[kept],
        directed=False,
        note=remarks(edges.note, f"{merged} edges between nodes already joined left out" if merged else ""),
    )


def remarks(*notes: str) -> str:
    """One note of several, of which some may be empty."""
    return "; ".join(note for note in notes if note)


def _first(edges: Edges, pairs: Int64[Tensor, "edges 2"], *, at_each_time: bool) -> Bool[Tensor, " edges"]:
    """True for the first edge of each pair by time (by place where times are equal), or of each pair and time."""
    keys = (pairs[:, 0] * edges.nodes + pairs[:, 1]).numpy()
    times = np.zeros(len(keys)) if edges.times is None else edges.times.numpy()
    order = np.lexsort((times, keys))  # stable, so that equals keep their order
    new = np.ones(len(keys), dtype=bool)
    new[1:] = np.diff(keys[order]) != 0
    if at_each_time:
        new[1:] |= np.diff(times[order]) != 0
    first = np.zeros(len(keys), dtype=bool)
    first[order[new]] = True
    return torch.from_numpy(first)


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    """The file as text, unpacked where its first bytes are gzip's; names that are not UTF-8 stay distinct."""
    if not path.is_file():
        raise FileNotFoundError(f"No edge list: there is no file {path}. {FORMAT[0].upper()}{FORMAT[1:]}, one a line.")
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    opened = gzip.open if packed else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", errors="surrogateescape") as lines:
            yield lines
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} cannot be unpacked: {error}. Fetch the file again.") from error


def _columns(fields: list[str], before: int) -> int:
    """How many there are; ValueError where that is no edge, or not as many as before (0: there was no line)."""
    count = f"{len(fields)} column{'s' * (len(fields) != 1)}"
    if not all(fields):
        raise ValueError(f"an empty column, and {FORMAT}")
    if len(fields) not in (2, 3, 4):
        raise ValueError(f"{count}, and {FORMAT}")
    if before:
        raise ValueError(f"{count}, and the lines before it have {before}")
    return len(fields)


def _time(field: str) -> float:
    try:
        time = float(field)
    except ValueError:
        time = math.nan
    if not math.isfinite(time):
        raise ValueError(f"the time {field!r}, which is not a finite number")
    return time


def _check_header(path: Path, names: tuple[str, ...], pairs: Int64[Tensor, "edges 2"]) -> None:
    """Raises ValueError where the first line joins two words that never come again, and all other nodes are numbers."""
    words = not any(name.isdigit() for name in names[:2]) and all(name.isdigit() for name in names[2:])
    if words and len(pairs) > 1 and pairs[1:].min() > 1:
        raise ValueError(
            f"{path}: its first edge joins {names[0]!r} and {names[1]!r}, which never come again, and all other nodes "
            "are numbers, so this seems to be a header. Put a # at its start."
        )
