"""What a run says about its engine and its precision: in its checkpoint, in its record, and in words.

A choice that engine="auto" has made is a plain value here, `Choices`: by the name of the weight its "engine", "cpu" or
"masked", the "words" for people, and where it was measured the milliseconds of `engine.choice.Choice`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from rewire.engine import library
from rewire.recipe import Recipe
from rewire.sparsifier import Sparsifier

NAMED = 4  # masked layers that a line names
Choices = Mapping[str, Mapping[str, Any]]


def choices_of(recipe: Recipe, sparsifier: Sparsifier | None) -> Choices:
    """Returns what engine="auto" has chosen; nothing where it was not asked."""
    if sparsifier is None or recipe.engine != "auto":
        return {}
    return {
        name: {"engine": "cpu" if words == "cpu" else "masked", "words": words}
        | (asdict(sparsifier.choices[name]) if name in sparsifier.choices else {})
        for name, words in sparsifier.engines.items()
    }


def engines_of(choices: Choices) -> dict[str, str]:
    """Returns the choice as `sparsify(engine=...)` takes it, to repeat it."""
    return {name: str(choice["engine"]) for name, choice in choices.items()}


def runs_packed(sparsifier: Sparsifier) -> bool:
    """Returns whether a layer of the model holds its active weights alone."""
    return "cpu" in sparsifier.engines.values()


def engine_figures(
    recipe: Recipe, sparsifier: Sparsifier | None, choices: Choices
) -> tuple[dict[str, str], dict[str, Any]]:
    """Returns what a record says of the engine beside its recipe: of the hardware, and of every layer.

    layer_engine: what ran it, with the reason where it is masked. layer_milliseconds, of engine="auto": a training step
    masked, on the engine, and what the conversions around it would cost there.
    """
    if sparsifier is None or recipe.engine == "masked":
        return {}, {}
    layers: dict[str, Any] = {"layer_engine": words_of(sparsifier, choices)}
    measured = {
        name: [choice[kind] for kind in ("masked_ms", "engine_ms", "converting_ms")]
        for name, choice in choices.items()
        if "masked_ms" in choice
    }
    return {"isa": library.isa()}, layers | ({"layer_milliseconds": measured} if measured else {})


def words_of(sparsifier: Sparsifier, choices: Choices) -> dict[str, str]:
    """Returns what runs every layer; where a choice was repeated, in the words in which it was made."""
    return {
        name: str(choices[name]["words"])
        if name in choices and (words == "cpu") == (choices[name]["engine"] == "cpu")
        else words
        for name, words in sparsifier.engines.items()
    }


def engine_lines(recipe: Recipe, sparsifier: Sparsifier | None, choices: Choices) -> list[str]:
    """Returns what a user of the engine should know when a run begins; nothing where all is masked as asked."""
    if sparsifier is None or recipe.engine == "masked":
        return []
    words = words_of(sparsifier, choices)
    masked = {name: word for name, word in words.items() if word != "cpu"}
    packed = len(words) - len(masked)
    reasons = [f"{name} ({word.removeprefix('masked: ')})" for name, word in masked.items()]
    rest = "; ".join(reasons[:NAMED]) + (f"; and {len(masked) - NAMED} more" if len(masked) > NAMED else "")
    if not packed:
        return [f"engine={recipe.engine}: all {len(words)} sparse layers run masked: {rest}"]
    lines = [
        f"engine={recipe.engine}: {packed} of {len(words)} sparse layers hold and compute active weights alone, with "
        f"{library.isa()} kernels" + (f"; masked: {rest}" if rest else "")
    ]
    if recipe.bf16:
        lines.append(
            f"bf16 is left out in {'all' if packed == len(words) else packed} sparse layers, because the engine "
            "computes in float32. --no-bf16 gives float32 throughout."
        )
    if recipe.compile:
        lines.append(
            "compile: every layer of the engine converts what comes in and goes out, where without --compile "
            "activations stay in the engine's layout from layer to layer. Measure which is faster."
        )
    return lines


def precision_lines(recipe: Recipe, sparsifier: Sparsifier | None, device: torch.device) -> list[str]:
    """Returns a warning where bfloat16 makes a run slower: torch's CPU kernels for it need AVX-512 on x86.

    Without, products in bfloat16 take a slow path, many times slower than those in float32.
    """
    if not recipe.bf16 or device.type != "cpu" or torch.backends.cpu.get_cpu_capability() != "AVX2":
        return []
    if sparsifier is not None and all(words == "cpu" for words in sparsifier.engines.values()):
        return []  # the engine computes in float32, and says so
    return [
        "bf16 is slow on this processor, which has no AVX-512: float32 may be many times faster. Give --no-bf16, or "
        "--engine cpu where the model is sparse."
    ]
