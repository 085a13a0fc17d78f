"""The kernels as a shared library: chosen for this processor, loaded once, handed the threads that torch uses.

The same sources are compiled for each instruction set (`kernels/CMakeLists.txt`). The libraries lie beside this file,
or in the folder that the environment variable `REWIRE_KERNELS` names:

| `REWIRE_ISA` | file | needs |
|---|---|---|
| `avx512` | `_rewire_avx512.so` | AVX-512 F, VL, BW and DQ |
| `avx2` | `_rewire_avx2.so` | AVX2 and FMA |
| `base` | `_rewire_base.so` | SSE2, or NEON on ARM: every 64-bit processor has it |

Nothing is loaded by an import: `load()` does it when a sparse layer first needs it. Where there is no library, rewire
runs masked, and says so once.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import warnings
from collections.abc import Mapping
from ctypes import c_double, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any, Literal

import torch

ISAS = ("base", "avx2", "avx512")  # at the place that kernels/isa.cpp numbers them with
INTERFACE = 2  # REWIRE_INTERFACE of kernels/rewire.h
SUFFIX = ".dylib" if sys.platform == "darwin" else ".so"

_TENSOR = c_void_p  # Tensor.data_ptr(), or None for null

SIGNATURES: dict[str, tuple[Any, ...]] = {  # result, then arguments: kernels/rewire.h says what they mean
    "rw_set_openmp": (None, c_void_p, c_void_p),
    "rw_count_threads": (c_int, c_int),
    "rw_interface": (c_int,),
    "rw_compiled_isa": (c_int,),
    "rw_supported_isa": (c_int,),
    "rw_stream_sizes": (None, *(_TENSOR,) * 3),
    "rw_stream_build": (None, *(_TENSOR,) * 8),
    "rw_forward": (None, *(_TENSOR,) * 7, c_int, _TENSOR, c_int),
    "rw_grad_input": (None, *(_TENSOR,) * 8, c_int),
    "rw_grad_values": (None, *(_TENSOR,) * 8, c_int),
    "rw_grad_bias": (None, *(_TENSOR,) * 4, c_int),
    "rw_multiply_add": (c_double, c_int64, c_int),
    "rw_block": (None, *(c_int64,) * 8, *(_TENSOR,) * 2, c_int),
    "rw_unblock": (None, *(c_int64,) * 8, *(_TENSOR,) * 2, c_int),
    "rw_batch_norm_train": (None, *(c_int64,) * 3, *(_TENSOR,) * 4, c_int, c_double, *(_TENSOR,) * 4, c_int),
    "rw_batch_norm_eval": (None, *(c_int64,) * 3, *(_TENSOR,) * 6, c_int, c_double, _TENSOR, c_int),
    "rw_batch_norm_backward": (None, *(c_int64,) * 3, c_int, c_int, *(_TENSOR,) * 11, c_int),
    "rw_max_pool": (None, *(_TENSOR,) * 4, c_int),
    "rw_max_pool_backward": (None, *(_TENSOR,) * 4, c_int),
    "rw_average_pool": (None, *(_TENSOR,) * 2, c_int, _TENSOR, c_int),
    "rw_average_pool_backward": (None, *(_TENSOR,) * 2, c_int, _TENSOR, c_int),
}


class _UnfitError(Exception):
    """A library file that cannot be used here; its text goes into the one warning."""


def load() -> ctypes.CDLL | None:
    """Returns the kernels for this processor, or None, with one warning, where there are none that it can use.

    Raises ValueError where the environment variable `REWIRE_ISA` asks for what does not exist or cannot run here.
    """
    library, complaint = _chosen()
    if complaint:
        _warn_once(complaint)
    return library


def why_not() -> str:
    """Returns why `load()` gives None, and what to type, as one sentence or two; "" where it gives a library."""
    library, complaint = _chosen()
    return "" if library else complaint


def isa() -> str:
    """Returns the instruction set of the loaded library, such as "avx2", or "" where there is none."""
    library, _ = _chosen()
    return ISAS[library.rw_compiled_isa()] if library else ""


def kernels() -> ctypes.CDLL:
    """Returns the kernels, or raises RuntimeError that says why there are none: for what cannot run without them."""
    library = load()
    if library is None:
        raise RuntimeError(why_not())
    return library


@functools.cache
def _warn_once(complaint: str) -> None:
    warnings.warn(complaint, RuntimeWarning, stacklevel=3)


@functools.cache
def _chosen() -> tuple[ctypes.CDLL | None, str]:
    """Returns the library and what is to be said about it, which is "" where everything is as it should be."""
    asked = os.environ.get("REWIRE_ISA", "")
    if asked and asked not in ISAS:
        raise ValueError(
            f"REWIRE_ISA={asked} is not an instruction set that the kernels of rewire are compiled for. "
            f"Set it to one of {', '.join(reversed(ISAS))}, or unset it for the best that this processor has."
        )
    folder = Path(os.environ.get("REWIRE_KERNELS") or Path(__file__).parent)
    files = {name: folder / f"_rewire_{name}{SUFFIX}" for name in ISAS}
    files = {name: file for name, file in files.items() if file.exists()}
    supported = _supported(files)
    if ISAS.index(asked or "base") > supported:
        raise ValueError(
            f"REWIRE_ISA={asked} asks for instructions that this processor does not have, and the program would crash. "
            f"Set it to {' or '.join(reversed(ISAS[: supported + 1]))}, or unset it."
        )
    refused = []
    for name in [asked] if asked else reversed(ISAS[: supported + 1]):
        if name in files:
            try:
                library = _opened(files[name], name)
            except _UnfitError as error:
                refused.append(str(error))
                continue
            library.rw_set_openmp(*_openmp())
            return library, " ".join(
                [*refused, f"rewire uses its {name} kernels instead.", _INSTALL]
            ) if refused else ""
    if not refused:
        refused = [f"There are no {asked + ' ' if asked else ''}kernels of rewire in {folder}."]
    return None, " ".join([*refused, "Sparse layers run masked, as dense as without rewire.", _INSTALL])


_INSTALL = (
    "With a C++ compiler on this machine (on Debian and Ubuntu: sudo apt install g++), install it again: "
    "pip install --force-reinstall --no-deps rewire, or in a folder of its source: pip install --editable ."
)


def _supported(files: Mapping[str, Path]) -> int:
    """Returns the number of the best instruction set that this processor has, as the first sound library says."""
    for name, file in files.items():
        try:
            return int(_opened(file, name).rw_supported_isa())
        except _UnfitError:
            continue
    return len(ISAS) - 1  # no file will be used


def _opened(file: Path, name: str) -> ctypes.CDLL:
    """Returns the library of a file after checks that it is what it should be, which call what names it only."""
    try:
        _check_whole(file)
        library = ctypes.CDLL(str(file))
        for function, (result, *arguments) in SIGNATURES.items():
            entry = getattr(library, function)
            entry.restype, entry.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        reason = str(error).removeprefix(f"{file}: ")
        raise _UnfitError(f"{file} is not a library of this version of rewire for this machine: {reason}.") from error
    if library.rw_interface() != INTERFACE:
        raise _UnfitError(f"{file} was compiled for another version of rewire.")
    found = library.rw_compiled_isa()
    if found != ISAS.index(name):
        raise _UnfitError(f"{file} was compiled for {ISAS[found]}, not for {name}.")
    return library


def _check_whole(file: Path) -> None:
    """Refuses an ELF file that ends early: the loader would map what is not there, and the first look at it crash."""
    with file.open("rb") as stream:
        head = stream.read(64)
        size = os.fstat(stream.fileno()).st_size
    if head[:5] == b"\x7fELF\x02":  # 64 bits; the table of sections is the last thing in the file
        order: Literal["little", "big"] = "little" if head[5] == 1 else "big"
        start, entry, entries = (int.from_bytes(head[a:b], order) for a, b in ((40, 48), (58, 60), (60, 62)))
        if start + entry * entries > size:
            raise OSError(f"it ends after {size} bytes")


def _openmp() -> tuple[int | None, int | None]:
    """Returns the addresses of GOMP_parallel and omp_get_thread_num in the very runtime that torch runs its threads on.

    A process may hold several (scikit-learn brings its own). The search goes the way in which the dynamic linker found
    torch's: on Linux what is global first, then torch's own libraries and what they depend on, in order. Where torch
    was built without OpenMP, or its runtime has no such functions, the kernels run on one thread.
    """
    if "ATen parallel backend: OpenMP" not in torch.__config__.parallel_info():
        return None, None
    scopes = [torch._C.__file__] if sys.platform == "darwin" else [None, torch._C.__file__]
    for scope in scopes:
        try:
            runtime = ctypes.CDLL(scope)
            parallel, number = (
                ctypes.cast(runtime[name], c_void_p).value for name in ("GOMP_parallel", "omp_get_thread_num")
            )
        except (OSError, AttributeError):
            continue
        return parallel, number
    return None, None
