"""The rules of the house, read from the code's own imports."""

import ast
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "rewire"

ROWS = (  # a module imports from the rows above its own and from its own folder; two modules of one row are strangers
    ("core", "atomic", "measures"),
    ("pruning", "words"),
    ("methods", "layers", "sharding", "metrics", "tasks", "record", "files", "checkpoint", "processes", "cost"),
    ("engine.library", "engine.op", "engine.places", "storage"),
    ("engine.stream",),
    ("engine.ops", "engine.layout_ops", "engine.streams"),
    ("engine.norm_ops", "engine.pooling_ops"),
    ("engine.pending",),
    ("engine.activation",),
    ("engine.functions",),
    ("engine.blocked",),
    ("masked", "engine.growth"),
    ("checks",),
    ("engine.packed",),
    ("engine.modules",),
    ("engine.swap", "engine"),
    ("engine.choice",),
    ("accounts",),
    ("start",),
    ("sparsifier",),
    ("recipe",),
    ("recipes", "engines", "outcome", "diagnosis"),
    ("report",),
    ("assembly", "engine_plan"),
    ("training", "planning"),
    ("comparison", "progress"),
    ("cli",),
    ("__init__",),
)
ROW = {name: place for place, row in enumerate(ROWS) for name in row}

SPARSITY = {"core", "methods", "pruning", "layers", "metrics", "storage", "masked", "checks", "start", "sparsifier"}
EVERYWHERE = {"torch", "jaxtyping", "numpy"}  # what every install has; any other package has one door
HEAVY = (
    *("matplotlib", "scipy", "sklearn", "PIL", "tyro", "rich", "safetensors", "datasets", "pandas"),
    *("gensim", "torch_geometric", "codecarbon"),
)


def imported(source: str, modules: set[str]) -> set[str]:
    """Returns the full names of all that `source` imports, inside functions too; `from a import b` may mean a.b."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write imports in full, as `from rewire.core.score import ...`"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & modules) or {str(node.module)}
    return found


def unit(module: str) -> str:
    """Returns the folder or file below rewire that a module belongs to; the engine's files have rows of their own."""
    _, first, *rest = [*module.split("."), "__init__"]
    return f"{first}.{rest[0]}" if first == "engine" and rest[0] != "__init__" else first


def upward(imports: Mapping[str, set[str]]) -> list[str]:
    """Returns what imports against the order of the rows."""
    return [
        f"{module} imports {other}"
        for module, others in imports.items()
        for other in sorted(others)
        if other.split(".")[0] == "rewire" and unit(other) != unit(module) and ROW[unit(other)] >= ROW[unit(module)]
    ]


def doors(imports: Mapping[str, set[str]]) -> dict[str, list[str]]:
    """Returns, for each package that is not of the standard library, the modules that import it."""
    found: dict[str, list[str]] = {}
    for module, others in imports.items():
        for package in sorted({other.split(".")[0] for other in others}):
            if package not in sys.stdlib_module_names and package != "rewire":
                found.setdefault(package, []).append(module)
    return found


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    """The text of every module of the package by its full name."""
    files = sorted(SOURCE.rglob("*.py"))
    names = [".".join(("rewire", *file.relative_to(SOURCE).with_suffix("").parts)) for file in files]
    return {
        name.removesuffix(".__init__"): file.read_text(encoding="utf-8")
        for name, file in zip(names, files, strict=True)
    }


@pytest.fixture(scope="module")
def imports(sources: dict[str, str]) -> dict[str, set[str]]:
    return {name: imported(source, set(sources)) for name, source in sources.items()}


def test_every_module_has_a_row(imports: dict[str, set[str]]) -> None:
    assert {unit(module) for module in imports} <= set(ROW), "a new module needs a place in ROWS"


def test_modules_import_downward_only(imports: dict[str, set[str]]) -> None:
    assert upward(imports) == []


def test_tasks_and_sparsity_do_not_know_each_other(imports: dict[str, set[str]]) -> None:
    for module, others in imports.items():
        known = {unit(other) for other in others if other.split(".")[0] == "rewire"}
        if unit(module) == "tasks":
            assert known <= {"tasks", "atomic", "measures"}, module
        elif unit(module) in SPARSITY:
            assert "tasks" not in known, module


def test_core_is_torch_and_the_standard_library(imports: dict[str, set[str]]) -> None:
    core = {module: others for module, others in imports.items() if unit(module) == "core"}
    assert set(doors(core)) <= {"torch", "jaxtyping"}


def test_other_packages_have_one_door_each(imports: dict[str, set[str]]) -> None:
    found = {package: modules for package, modules in doors(imports).items() if package not in EVERYWHERE}
    assert {package: modules for package, modules in found.items() if len(modules) > 1} == {}
    assert {"matplotlib", "scipy", "safetensors", "sklearn", "PIL", "tyro"} <= set(found)


def test_only_sharding_knows_sharded_tensors(imports: dict[str, set[str]]) -> None:
    tensors = [module for module, others in imports.items() if any("distributed.tensor" in other for other in others)]
    assert set(tensors) <= {"rewire.sharding"}


def test_import_loads_nothing_heavy() -> None:
    code = f"import sys, rewire; print(*sorted({set(HEAVY)} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_long_files_say_why(sources: dict[str, str]) -> None:
    long = {name: source for name, source in sources.items() if source.count("\n") > 300}
    silent = [name for name, source in long.items() if "300 lines" not in (ast.get_docstring(ast.parse(source)) or "")]
    assert silent == [], 'split them, or say in the docstring at their top why they are over "300 lines"'


def test_the_checks_see_what_they_forbid() -> None:
    modules = {"rewire.core.score", "rewire.sparsifier", "rewire.record", "rewire.report.page"}
    hidden = "def f():\n    from rewire import sparsifier\n    import scipy.stats\n"
    assert imported(hidden, modules) == {"rewire.sparsifier", "scipy.stats"}
    assert upward({"rewire.core.score": {"rewire.sparsifier"}}) == ["rewire.core.score imports rewire.sparsifier"]
    assert upward({"rewire.methods": {"rewire.record"}}) == ["rewire.methods imports rewire.record"]
    assert upward({"rewire.recipe": {"rewire"}}) == ["rewire.recipe imports rewire"]
    assert upward({"rewire.report.page": {"rewire.report.tables", "rewire.record", "json"}}) == []
    assert doors({"a": {"scipy.stats"}, "b": {"scipy", "json"}}) == {"scipy": ["a", "b"]}
