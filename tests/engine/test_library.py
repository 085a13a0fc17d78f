"""Finding, choosing and loading the kernels, and the threads that they run on."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rewire.engine import library

HEADER = Path(__file__).parents[2] / "src" / "rewire" / "engine" / "kernels" / "rewire.h"
INSTALLED = {name: Path(library.__file__).parent / f"_rewire_{name}{library.SUFFIX}" for name in library.ISAS}
TYPES = {
    "void": None,
    "int": ctypes.c_int,
    "int64_t": ctypes.c_int64,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
}

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(autouse=True)
def _afresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test loads for itself, and leaves the choice that the environment makes to the tests after it."""

    def forget() -> None:
        library._chosen.cache_clear()
        library._warn_once.cache_clear()

    forget()
    yield
    monkeypatch.undo()
    forget()
    library._chosen()


@pytest.fixture
def best(monkeypatch: pytest.MonkeyPatch) -> str:
    """The best instruction set here, with nothing forced."""
    monkeypatch.delenv("REWIRE_ISA", raising=False)
    monkeypatch.delenv("REWIRE_KERNELS", raising=False)
    if library.why_not():
        pytest.skip(library.why_not())
    return library.isa()


@pytest.fixture
def folder(best: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with copies of the libraries, from which `load()` takes them."""
    for file in INSTALLED.values():
        if file.exists():
            shutil.copy(file, tmp_path)
    monkeypatch.setenv("REWIRE_KERNELS", str(tmp_path))
    library._chosen.cache_clear()
    return tmp_path


def warned() -> list[str]:
    """Returns the warnings of three calls of `load()`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            library.load()
    return [str(warning.message) for warning in caught]


def run(code: str, first: str = "torch", **environment: str) -> str:
    """Returns what a new Python prints, which imports a package before all others."""
    before = f"import {first}\nimport os, torch\nfrom rewire.engine import library\n"
    command = [sys.executable, "-c", before + code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_table_of_signatures_is_the_header() -> None:
    header = re.sub(r"//.*", "", HEADER.read_text(encoding="utf-8"))
    declared = {}
    for result, name, arguments in re.findall(r"REWIRE_EXPORT (\w+) (rw_\w+)\(([^)]*)\)", header):
        types = [
            ctypes.c_void_p if "*" in one else TYPES[one.split()[0]] for one in arguments.split(",") if one.strip()
        ]
        declared[name] = (TYPES[result], *types)
    assert declared == library.SIGNATURES
    assert f"#define REWIRE_INTERFACE {library.INTERFACE}\n" in header


def test_a_library_of_another_interface_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "INTERFACE", library.INTERFACE + 1)
    (text,) = warned()
    assert library.load() is None
    assert f"_rewire_base{library.SUFFIX} was compiled for another version of rewire." in text
    assert "install it again" in text


def test_the_best_library_is_loaded_once_and_in_silence(best: str) -> None:
    assert warned() == []
    assert library.load() is library.load()
    loaded = library.load()
    assert loaded is not None
    assert library.ISAS[loaded.rw_supported_isa()] == library.ISAS[loaded.rw_compiled_isa()] == library.isa() == best


@pytest.mark.parametrize("name", library.ISAS)
def test_an_instruction_set_can_be_forced(name: str, best: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if library.ISAS.index(name) > library.ISAS.index(best):
        pytest.skip(f"this processor has no {name}")
    monkeypatch.setenv("REWIRE_ISA", name)
    library._chosen.cache_clear()
    assert library.isa() == name


def test_an_unknown_instruction_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWIRE_ISA", "sse9")
    with pytest.raises(ValueError, match=r"REWIRE_ISA=sse9 is not .* Set it to one of avx512, avx2, base, or unset it"):
        library.load()


def test_an_instruction_set_that_the_processor_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_supported", lambda files: 1)
    monkeypatch.setenv("REWIRE_ISA", "avx512")
    with pytest.raises(
        ValueError, match=r"REWIRE_ISA=avx512 asks for .* does not have.* Set it to avx2 or base, or unset"
    ):
        library.load()


def test_a_slower_processor_gets_its_own_library(best: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_supported", lambda files: 0)
    library._chosen.cache_clear()
    assert library.isa() == "base"
    assert warned() == []


def spoil(file: Path, how: str) -> None:
    """Makes of a library what cannot be loaded."""
    content = bytearray(file.read_bytes())
    file.unlink()  # a copy that is loaded already keeps its own content
    if how == "cut":
        content = content[: len(content) // 2]
    elif how == "for another processor":
        content[18:20] = (0xB7 if content[18] != 0xB7 else 0x3E).to_bytes(2, "little")  # AArch64, or else x86-64
    elif how == "text":
        content = bytearray(b"version https://git-lfs.github.com/spec/v1\n")
    elif how == "empty":
        content = bytearray()
    elif how == "another library":
        content = bytearray(Path(sys.modules["_ctypes"].__file__ or "").read_bytes())
    file.write_bytes(content)


@pytest.mark.parametrize("how", ["cut", "for another processor", "text", "empty", "another library"])
def test_a_file_that_does_not_fit_is_refused_with_one_warning(how: str, folder: Path, best: str) -> None:
    worst = library.ISAS[: library.ISAS.index(best)]
    spoil(folder / f"_rewire_{best}{library.SUFFIX}", how)
    (text,) = warned()
    assert f"_rewire_{best}{library.SUFFIX} is not a library of this version of rewire for this machine: " in text
    if worst:
        assert library.isa() == worst[-1]
        assert f"rewire uses its {worst[-1]} kernels instead. With a C++ compiler" in text
    else:
        assert library.load() is None


def test_a_library_under_another_name_is_refused(folder: Path, best: str) -> None:
    if best == "base":
        pytest.skip("there is one library only")
    shutil.copy(folder / f"_rewire_base{library.SUFFIX}", folder / f"_rewire_{best}{library.SUFFIX}")
    (text,) = warned()
    assert f"was compiled for base, not for {best}." in text


def test_a_spoiled_baseline_is_not_missed(folder: Path, best: str) -> None:
    if best == "base":
        pytest.skip("there is one library only")
    spoil(folder / f"_rewire_base{library.SUFFIX}", "cut")
    assert warned() == []
    assert library.isa() == best


def test_without_any_sound_file_there_is_none(folder: Path) -> None:
    files = list(folder.iterdir())
    for file in files:
        spoil(file, "text")
    (text,) = warned()
    assert library.load() is None
    assert all(str(file) in text for file in files)


@pytest.mark.parametrize("isa", ["", "base"])
def test_without_libraries_there_is_none_and_one_warning(
    isa: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REWIRE_KERNELS", str(tmp_path))
    monkeypatch.setenv("REWIRE_ISA", isa)
    (text,) = warned()
    assert library.load() is None
    assert library.isa() == ""
    assert text == library.why_not()
    which = "base " if isa else ""
    assert text.startswith(f"There are no {which}kernels of rewire in {tmp_path}. Sparse layers run masked")
    assert "sudo apt install g++" in text
    assert "pip install --force-reinstall --no-deps rewire" in text


@linux
def test_an_import_loads_nothing(best: str) -> None:
    assert run("import rewire; print('_rewire_' in open('/proc/self/maps').read())") == "False"


@linux
@pytest.mark.parametrize("first", ["torch", "sklearn.ensemble"])  # which brings an OpenMP runtime of its own
def test_the_threads_are_those_of_torch(first: str, best: str) -> None:
    if "OpenMP" not in torch.__config__.parallel_info():
        pytest.skip("this torch has no OpenMP")
    code = """
import sklearn.ensemble
torch.set_num_threads(2)
torch.relu(torch.randn(3000, 3000)) @ torch.randn(3000, 64)
before = set(os.listdir("/proc/self/task"))
kernels = library.load()
counts = [kernels.rw_count_threads(threads) for threads in (1, 2, 2)]
print(counts, len(before) >= 2, len(set(os.listdir("/proc/self/task")) - before))
"""
    assert run(code, first) == "[1, 2, 2] True 0"


def test_without_openmp_there_is_one_thread(best: str) -> None:
    kernels = library.load()
    assert kernels is not None
    try:
        kernels.rw_set_openmp(None, None)
        assert kernels.rw_count_threads(4) == 1
    finally:
        kernels.rw_set_openmp(*library._openmp())


def test_the_shares_of_threads_that_do_not_come_are_done_too(best: str) -> None:
    if "OpenMP" not in torch.__config__.parallel_info():
        pytest.skip("this torch has no OpenMP")
    code = """
kernels = library.load()
x = torch.randn(64, 8, 3, 3)
one, four = torch.full((2, 4, 8, 3, 3, 16), float("nan"))
kernels.rw_block(*x.shape, *x.stride(), x.data_ptr(), one.data_ptr(), 1)
kernels.rw_block(*x.shape, *x.stride(), x.data_ptr(), four.data_ptr(), 4)
print(kernels.rw_count_threads(4), torch.equal(one, four))
"""
    assert run(code, OMP_THREAD_LIMIT="2") == "2 True"


def test_a_torch_without_openmp_is_not_given_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.__config__, "parallel_info", lambda: "ATen parallel backend: native thread pool")
    assert library._openmp() == (None, None)


@linux
def test_a_forked_process_works_on_one_thread(best: str) -> None:
    code = """
torch.set_num_threads(2)
torch.relu(torch.randn(3000, 3000))
kernels = library.load()
kernels.rw_count_threads(2)
child = os.fork()
if child == 0:
    os._exit(kernels.rw_count_threads(1))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run(code) == "1"
