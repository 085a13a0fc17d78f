"""The build backend: scikit-build-core, which asks for CMake only where there is a compiler to use it with.

A machine without a C++ compiler still installs rewire, as a pure package that runs masked. Where compiling fails,
scikit-build-core itself tries again without it (`if.failed` in pyproject.toml); what it cannot know is that CMake,
which pip may have to download first, would be of no use.
"""

import os
import shlex
import shutil
import sys
from typing import Any

from scikit_build_core import build
from scikit_build_core.build import build_sdist, get_requires_for_build_sdist

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
]

Settings = dict[str, Any] | None


def compiler() -> str | None:
    """Returns the C++ compiler that CMake would find, or None; the kernels need GCC or Clang, so on Windows None."""
    if sys.platform == "win32":
        return None
    chosen = shlex.split(os.environ.get("CXX", ""))
    return next(filter(None, map(shutil.which, chosen[:1] or ("c++", "g++", "clang++"))), None)


def adapted(settings: Settings) -> Settings:
    """Returns the settings of pip's call, without CMake where there is no compiler."""
    return settings if compiler() else {**(settings or {}), "wheel.cmake": "false"}


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    return build.get_requires_for_build_wheel(adapted(config_settings))


def get_requires_for_build_editable(config_settings: Settings = None) -> list[str]:
    return build.get_requires_for_build_editable(adapted(config_settings))


def build_wheel(wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None) -> str:
    return build.build_wheel(wheel_directory, adapted(config_settings), metadata_directory)


def build_editable(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    return build.build_editable(wheel_directory, adapted(config_settings), metadata_directory)
