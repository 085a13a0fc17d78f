"""The flags of the commands, typed from the dataclasses of `recipe.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from rewire.methods import METHODS, list_methods
from rewire.recipe import Recipe, Runtime
from rewire.recipes import RECIPES
from rewire.recipes.published import PUBLISHED

if TYPE_CHECKING:
    Table = str
else:
    Table = Literal[tuple(PUBLISHED)]


class RecipeFlags(Recipe):
    __doc__ = Recipe.__doc__

    def __post_init__(self) -> None:
        """Checks nothing: `parsed` does, so that the message comes as it is and not in tyro's frame."""


class RuntimeFlags(Runtime):
    __doc__ = Runtime.__doc__

    def __post_init__(self) -> None:
        """As above."""


@dataclass(frozen=True)
class Train:
    """Train one recipe and write its record, its model file and a report."""

    recipe: RecipeFlags
    runtime: RuntimeFlags = field(default_factory=RuntimeFlags)
    baseline: bool = False
    """Train the dense network too, to stand beside the method in the table; the default for digits only."""


@dataclass(frozen=True)
class Compare:
    """Run methods x sparsities x seeds and test the differences; finished runs are never repeated.

    In the place of a recipe may stand a published table: paper/cifar, paper/linkpred, paper/imagenet.
    """

    recipe: RecipeFlags
    runtime: RuntimeFlags = field(default_factory=RuntimeFlags)
    methods: tuple[str, ...] = ("dense", "static", "set_itop", "rigl_itop", "rigl", "dst_ee")
    """Methods to compare."""
    sparsities: tuple[float | str, ...] = (0.9, 0.95, 0.98)
    """Sparsities to compare at; dense runs once for all of them."""
    seeds: int = 3
    """Number of seeds, from --seed upward, the same for every method."""
    sweep: tuple[str, ...] = ()
    """Fields to vary, such as c=0,1e-5,1e-3 scale=none,layer hidden=256+256,512+512: all combinations. After the word
    "or" stand further ones: c=0,1e-5 or c=1 scale=layer or options=window=4,acquisition=epsilon+epsilon=0.3."""
    jobs: int = 1
    """Runs at the same time, each on one CPU thread: for small models faster than one run on all threads."""
    records: tuple[Path, ...] = ()
    """Records of runs that need not be repeated, files or folders, besides those in --out."""
    equal_updates: bool = True
    """RigL updates until the end, like the others, instead of stopping at three quarters."""


@dataclass(frozen=True)
class Published:
    """Run what is missing of a published table, the cells that are worth most first, one seed after the other."""

    table: Table
    """The published table."""
    runtime: RuntimeFlags = field(default_factory=RuntimeFlags)
    seeds: int = 3
    """Number of seeds, from 0 upward."""
    jobs: int = 1
    """Runs at the same time, each on one CPU thread."""
    records: tuple[Path, ...] = ()
    """Records of runs that need not be repeated, files or folders, such as those of other machines."""
    epochs: int | None = None
    """Another length for all runs, to try the table out; these are runs of their own, not the table's."""
    compile: bool = False
    """Compile the models, on a GPU with CUDA graphs. Cells of the table are taken from compiled runs as from others."""
    bf16: bool | None = None
    """Forward passes in bfloat16, or not; None leaves it to the recipes. Cells are taken from either."""


@dataclass(frozen=True)
class Plan:
    """Print what a recipe makes of every layer, what it saves and what not, before training."""

    recipe: RecipeFlags
    data: Path | None = None
    """Folder of the data, for a task whose image size is not known beforehand."""


@dataclass(frozen=True)
class List:
    """List recipes, methods, models and tasks."""


@dataclass(frozen=True)
class Report:
    """Build the page and the tables from records."""

    runs: tuple[Path, ...]
    """Files of records, or folders with some."""
    out: Path | None = None
    """The page to write; None writes report.html beside the first of the records."""
    refresh: tuple[Path, ...] = ()
    """Markdown pages in which to make the marked tables anew, such as README.md."""
    benchmarks: Path = Path("benchmarks/results")
    """Folder of the benchmarks' CSV files, for the pages that show some."""


def parsed(kind: type, command: str, words: Sequence[str]) -> Any:
    """Returns the command's dataclass, with flags over the defaults of the recipe that the first word names."""
    try:
        import tyro
    except ImportError as error:
        raise ImportError(
            'The command line needs tyro, which is not part of the bare library. Type: pip install "rewire[cli]"'
        ) from error
    if kind in (Train, Compare, Plan) and words and not words[0].startswith("-"):
        _check_name(words[0], tables=kind is Compare)
    settings = (tyro.conf.OmitArgPrefixes, tyro.conf.PositionalRequiredArgs)
    if kind is Compare and words and words[0] in PUBLISHED:
        asked = words[1:] if {"-h", "--help"} & {*words} else words  # tyro's help leaves out what is there already
        found = tyro.cli(Published, prog=f"rewire {command}", args=asked, config=settings)
        runtime: dict[str, Any] = {"runtime": Runtime(**vars(found.runtime))}
        return replace(found, **runtime)
    if kind in (List, Report):
        return tyro.cli(kind, prog=f"rewire {command}", args=words, config=settings)
    choices = []
    for name, recipe in RECIPES.items():
        given = {"baseline": name == "digits"} if kind is Train else {}
        default = kind(RecipeFlags(**vars(recipe())), **given)
        choice = tyro.conf.subcommand(name, default=default, description=summary(recipe))
        choices.append(Annotated[kind, choice])
    any_choice: Any = Union[tuple(choices)]  # noqa: UP007 (the choices are not known to the type checker)
    parsed = tyro.cli(
        any_choice,
        prog=f"rewire {command}",
        args=words,
        config=settings,
    )
    checked: dict[str, Any] = {"recipe": Recipe(**vars(parsed.recipe))}
    if kind is not Compare:
        _check_options(checked["recipe"], RECIPES[words[0]]())
    if kind is not Plan:
        checked["runtime"] = Runtime(**vars(parsed.runtime))
    return replace(parsed, **checked)


def _check_name(name: str, *, tables: bool) -> None:
    """Raises ValueError where a word is no recipe, nor a published table where there may be one."""
    if name in RECIPES or (tables and name in PUBLISHED):
        return
    graph = name.partition("-")[2]
    raise ValueError(
        f'"{name}" is no recipe{" and no published table" if tables else ""}. Use one of the recipes '
        + ", ".join(RECIPES)
        + (f", or of the tables {', '.join(PUBLISHED)}." if tables else ".")
        + (f" For the graph {graph}: linkpred --task {name}." if name.startswith("linkpred-") else "")
        + (f" For the graph {graph}: gnn-gcn --task {name}." if name.startswith("gnn-") else "")
    )


def _check_options(recipe: Recipe, before: Recipe) -> None:
    """Raises ValueError where a flag was given for an option that the method does not take.

    `compare` takes it: it may be for another of its methods.
    """
    taken = METHODS.card(recipe.method).options
    known = {option for card in list_methods() for option in card.options}
    for name in vars(recipe):
        value = getattr(recipe, name)
        if name in known and name not in taken and value != getattr(before, name):
            raise ValueError(
                f"{recipe.method} takes no {name}, so --{name.replace('_', '-')} {value} would change nothing. It "
                f"takes {', '.join(taken) or 'no option'}. Leave that flag out, or choose another method."
            )


def summary(thing: Any) -> str:
    """The first line of a docstring, without the verb of a function."""
    first = (thing.__doc__ or "").strip().split("\n")[0].removeprefix("Returns ").rstrip(":.")
    return first[:1].upper() + first[1:]
