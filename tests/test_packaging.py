"""The wheel that pip makes of this repository, with a compiler and without one, and what it does once installed."""

import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = str(Path(sys.executable).parent)  # a PATH with no compiler
COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
LIBRARIES = {"_rewire_base"} | ({"_rewire_avx2", "_rewire_avx512"} if platform.machine() == "x86_64" else set())

pytestmark = pytest.mark.slow  # each compiles the kernels, or makes pip try it


def pip(*arguments: str, at: Path, **environment: str) -> str:
    """Runs pip and returns what it said; skips where pip cannot get the packages that a build needs."""
    constraints = str(ROOT / "constraints.txt")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments],
        cwd=at,
        env={**os.environ, "PIP_CONSTRAINT": constraints, "PIP_BUILD_CONSTRAINT": constraints, **environment},
        capture_output=True,
        text=True,
    )
    if done.returncode and "No matching distribution found" in done.stderr:
        pytest.skip("pip does not reach a registry")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the repository holds, without anything built."""
    copy = tmp_path_factory.mktemp("source") / "rewire"
    built = (".git", ".venv", "build", "dist", "runs", "results", "__pycache__", "*.so", "*.dylib", ".*_cache")
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*built))
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that this machine's compiler makes."""
    if COMPILER is None:
        pytest.skip("no C++ compiler here")
    return built(source, tmp_path_factory.mktemp("wheel"))


def built(source: Path, to: Path, **environment: str) -> Path:
    """Returns the wheel that pip makes."""
    to.mkdir(exist_ok=True)
    pip("wheel", "--no-deps", "--wheel-dir", str(to), str(source), at=to, **environment)
    (file,) = to.glob("*.whl")
    return file


def content(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def libraries(wheel: Path) -> set[str]:
    return {Path(name).stem for name in content(wheel) if re.search(r"\.(so|dylib)$", name)}


def installed(wheel: Path, to: Path, code: str, **environment: str) -> str:
    """Returns what a Python prints that has this wheel in place of the package under test."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(to)
    others = [path for path in sys.path if path.endswith("-packages")]
    path = os.pathsep.join([str(to), *others])
    # -S: no site, whose .pth files would bring the package under test back
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import rewire; assert rewire.__file__.startswith({str(to)!r})\n{code}"],
        env=plain_environment() | environment | {"PYTHONPATH": path},
        cwd=to,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def plain_environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("REWIRE_")}


def test_one_wheel_serves_every_python(wheel: Path, source: Path) -> None:
    assert re.fullmatch(r"rewire-[\d.]+-py3-none-(?!any)\w+\.whl", wheel.name)
    assert libraries(wheel) == LIBRARIES
    files = {str(file.relative_to(source / "src")) for file in (source / "src").rglob("*.*") if file.is_file()}
    own = {file for file in files if "engine/kernels" not in file}
    assert {name for name in content(wheel) if name.startswith("rewire/")} - own == {
        name for name in content(wheel) if Path(name).stem in LIBRARIES
    }
    assert own <= content(wheel)


def test_a_build_leaves_the_source_as_it_was(wheel: Path, source: Path) -> None:
    assert not list(source.rglob("*.so")) + list(source.rglob("CMakeCache.txt"))


def test_an_installed_wheel_loads_its_kernels(wheel: Path, tmp_path: Path) -> None:
    said = installed(wheel, tmp_path, "from rewire.engine import library; library.load(); print(library.isa())")
    assert said.strip() in ("avx512", "avx2", "base")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into an ELF file")
def test_the_libraries_need_no_runtime_but_the_systems(wheel: Path, tmp_path: Path) -> None:
    objdump = shutil.which("objdump")
    if objdump is None:
        pytest.skip("no objdump here")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    for file in tmp_path.rglob("_rewire_*.so"):
        headers = subprocess.run([objdump, "-p", file], capture_output=True, text=True, check=True).stdout
        needed = set(re.findall(r"NEEDED +(\w+)", headers))
        assert needed <= {"libc", "libm", "libpthread", "ld"}, file.name


def test_an_sdist_builds_the_same(wheel: Path, source: Path, tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, 'tools'); import backend; print(backend.build_sdist({str(tmp_path)!r}))"
    tools = tmp_path / "tools"
    pip("install", "--quiet", "--target", str(tools), "scikit-build-core", at=tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tools)}
    subprocess.run([sys.executable, "-c", code], cwd=source, env=environment, check=True, capture_output=True)
    (sdist,) = tmp_path.glob("*.tar.gz")
    assert content(built(sdist, tmp_path / "wheel")) == content(wheel)


@pytest.mark.parametrize(
    "environment",
    [{"PATH": SCRIPTS, "CXX": ""}, {"CXX": "/nowhere/g++"}, {"CXX": shutil.which("false") or "/bin/false"}],
    ids=["no compiler", "a wrong CXX", "a compiler that fails"],
)
def test_without_a_compiler_a_pure_package_is_installed(
    environment: dict[str, str], source: Path, tmp_path: Path
) -> None:
    wheel = built(source, tmp_path / "wheel", **environment)
    assert re.fullmatch(r"rewire-[\d.]+-py3-none-any\.whl", wheel.name)
    assert libraries(wheel) == set()
    code = "from rewire.engine import library; print(library.load(), library.load())"
    said = installed(wheel, tmp_path / "installed", code)
    assert said.startswith("None None\n")
    assert said.count("RuntimeWarning: There are no kernels of rewire in") == 1


def test_a_users_own_flags_do_not_lift_the_baseline(source: Path, tmp_path: Path) -> None:
    if COMPILER is None or platform.machine() != "x86_64":
        pytest.skip("needs a compiler for x86-64")
    wheel = built(source, tmp_path / "wheel", CXXFLAGS="-march=native")
    code = "from rewire.engine import library; library.load(); print(library.isa())"
    assert installed(wheel, tmp_path / "installed", code, REWIRE_ISA="base").strip() == "base"


@pytest.mark.parametrize("compiler", ["", "/nowhere/g++"])
def test_an_editable_install_takes_what_the_source_has_now(compiler: str, source: Path, tmp_path: Path) -> None:
    if COMPILER is None and not compiler:
        pytest.skip("no C++ compiler here")
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    environment = {"CXX": compiler} if compiler else {}
    arguments = ("--python", python, "install", "--no-deps", "--editable", str(copy))
    pip(*arguments, at=tmp_path, **environment)
    (copy / "src" / "rewire" / "later.py").write_text("from rewire.engine.library import isa\n", encoding="utf-8")
    (own,) = (tmp_path / "venv").glob("lib/*/site-packages")
    others = [path for path in sys.path if path.endswith("-packages")]  # torch and the rest, behind its own
    (own / "others.pth").write_text("\n".join(others), encoding="utf-8")
    done = subprocess.run(
        [python, "-c", "from rewire import later; print(later.__file__, later.isa())"],
        env=plain_environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    file, *isa = done.stdout.split()
    assert file == str(copy / "src" / "rewire" / "later.py")
    assert isa == [] if compiler else isa[0] in ("avx512", "avx2", "base")
    assert {file.stem for file in copy.rglob("_rewire_*")} == (set() if compiler else LIBRARIES)
