"""What every test may count on: checked shapes, one seed, and real data where it is at hand."""

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import hypothesis
import pytest
import torch
import tyro  # noqa: F401 (doctest leaves its last value in builtins._, and tyro cannot be imported beside a list there)
from jaxtyping import install_import_hook

install_import_hook("rewire", "shapes.check")  # before anything imports rewire

hypothesis.settings.register_profile("rewire", deadline=None, derandomize=True, database=None, max_examples=50)
hypothesis.settings.load_profile("rewire")
torch.set_num_threads(1)  # tensors this small only wait for a second thread

DATA = Path(os.environ.get("REWIRE_DATA", Path(__file__).parents[2] / "shared" / "data"))
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "rewire-tests"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """A test that draws from torch's global state draws the same numbers alone and among others."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def cifar10_folder() -> Path:
    return unpacked("cifar10", "cifar-10-batches-py")


@pytest.fixture(scope="session")
def cifar100_folder() -> Path:
    return unpacked("cifar100", "cifar-100-python")


@pytest.fixture(scope="session")
def graphs_folder() -> Path:
    return unpacked("graphs", "graphs")


def unpacked(name: str, layout: str, data: Path = DATA, cache: Path = CACHE) -> Path:
    """The folder `layout` that the data's own prepare.py makes of `name`, unpacked once per version of the data."""
    script = data / "prepare.py"
    if not script.is_file():
        pytest.skip(f"no real data: {script} is not there; set REWIRE_DATA to the folder that has it")
    files = sorted(path for path in data.rglob("*") if path.is_file())
    version = hashlib.sha256(repr([(path.name, path.stat().st_size) for path in files]).encode()).hexdigest()[:12]
    whole = cache / f"{name}-{version}"
    if not whole.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as unfinished:
            subprocess.run([sys.executable, script, f"{unfinished}/new", name], check=True, capture_output=True)
            try:
                os.rename(f"{unfinished}/new", whole)
            except OSError:  # another test run was first, and its copy is as good
                if not whole.is_dir():
                    raise
    return whole / layout
