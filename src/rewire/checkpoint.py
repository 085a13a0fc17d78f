"""Checkpoints: plain containers and tensors, written whole or not at all, read without running any code."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rewire.atomic import atomic_write

FORMAT = 1


def make_folder(folder: Path) -> None:
    """Makes the folder of a run. Raises OSError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{folder} cannot be made ({error.strerror}), so there is no place for checkpoints and the model. Give "
            "a folder of your own: --out DIR.",
        ) from error


def save(path: Path, recipe: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Writes the state of a run with the identity of its recipe; an older file stays until the new one is whole."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "recipe": dict(recipe), **state}, buffer)
    atomic_write(path, lambda file: file.write(buffer.getbuffer()))


def load(path: Path, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the state of a run. Raises ValueError where the file is not whole or is of another recipe."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # torch, zipfile and pickle each raise their own; torch's advice is to run any code
        raise ValueError(
            f"{path} is not a whole checkpoint of {path.stat().st_size:,} bytes: it was cut off, or is another kind "
            "of file. Put a copy of it back, or leave out --resume to start again."
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT or "recipe" not in state:
        found = state.get("format", "none") if isinstance(state, dict) else "none"
        raise ValueError(
            f"{path} is not a checkpoint of this version of rewire: its format number is {found}, and {FORMAT} is "
            "needed. Leave out --resume to start again."
        )
    if differences := compare(state["recipe"], recipe):
        dense = state["recipe"].get("method") == "dense" and recipe["method"] != "dense"
        raise ValueError(
            f"{path} is of {'a dense run, which has no masks to continue from' if dense else 'another run'}. "
            f"Fields that differ: {'; '.join(differences)}. Give the flags of that run, or leave out --resume to "
            "start again."
        )
    return state


def check_data(path: Path, there: str, here: str) -> None:
    """Raises ValueError where a checkpoint is of other data; "" is the fingerprint of data that is not known."""
    if there and here and there != here:
        raise ValueError(
            f"{path} is of a run on other data: the fingerprint of its data is {there}, and that of the data here is "
            f"{here}. Give the --data of that run, or delete that file to start again."
        )


def compare(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Returns one line for every field that differs between the recipe of a checkpoint and another.

    >>> compare({"lr": 0.1, "seed": 0}, {"lr": 0.2, "seed": 0})
    ['lr is 0.1 in the checkpoint and 0.2 here']
    """
    names = [*there, *(name for name in here if name not in there)]
    return [
        f"{name} is {there.get(name)} in the checkpoint and {here.get(name)} here"
        for name in names
        if there.get(name) != here.get(name)
    ]
