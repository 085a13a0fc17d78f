"""The CPU engine in the main job: recipe, training, checkpoint, record, plan and command line."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import rewire
from rewire import assembly, checkpoint, comparison, record
from rewire.cli import main
from rewire.engine import choice, library
from rewire.engines import engine_lines, precision_lines
from rewire.planning import plan, text
from rewire.recipe import Recipe, Runtime
from rewire.report.sections import compare, engine_pairs, sections
from rewire.training import Progress, Run, Stopped, train

needs_kernels = pytest.mark.skipif(library.load() is None, reason="no kernels for this machine")

TINY = Recipe(hidden=(32, 32), epochs=3, batch_size=64, every=10, c=1e-3, sparsity=0.8, engine="cpu")
WORDS = ["--hidden", "32", "32", "--epochs", "3", "--batch-size", "64", "--every", "10", "--sparsity", "0.8"]
LAYERS = ["fc1.weight", "fc2.weight", "fc3.weight"]


def after(steps: int) -> Callable[[], str | None]:
    asked = iter([None] * steps)
    return lambda: next(asked, "the test")


@pytest.fixture
def mixed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Figures by which engine="auto" leaves fc2 masked; the names of the layers that were measured."""
    measured = []

    def figures(module: torch.nn.Linear, mask: torch.Tensor, sample: choice.Sample) -> tuple[float, float]:
        measured.append("x".join(map(str, mask.shape)))
        return (1.0, 2.0) if mask.shape == (32, 32) else (2.0, 1.0)

    monkeypatch.setattr(choice, "layer_milliseconds", figures)
    monkeypatch.setattr(choice, "conversion_milliseconds", lambda sample: (0.25, 0.25))
    return measured


# ---- the recipe


def test_a_masked_recipe_is_the_run_it_was_before_there_was_an_engine() -> None:
    assert "engine" not in Recipe().identity()
    assert "engine" not in Recipe(method="dense", engine="cpu").identity()
    assert replace(TINY, engine="auto").identity()["engine"] == "auto"
    assert Recipe.of(TINY.identity()) == TINY
    with pytest.raises(ValueError, match=r'engine="gpu" is unknown. Use one of masked, cpu, auto'):
        Recipe(engine="gpu")  # type: ignore[arg-type]


def test_committed_records_are_found_again() -> None:
    entries = record.read(Path(__file__).parents[1] / "results")
    assert entries
    for entry in entries:
        assert comparison._key(entry) == record.key(entry.recipe)


# ---- training


@needs_kernels
@pytest.mark.parametrize("method", ["static", "set", "dst_ee"])
def test_a_run_ends_with_a_record_and_a_dense_model_file(method: str, tmp_path: Path) -> None:
    recipe = replace(TINY, method=method)
    entry = train(recipe, Runtime(), folder=tmp_path)
    assert entry.curves["layer_engine"] == dict.fromkeys(LAYERS, "cpu")
    assert "layer_milliseconds" not in entry.curves
    assert entry.hardware["isa"] == library.isa()
    masked = train(replace(recipe, engine="masked"), Runtime(), folder=tmp_path / "masked")
    assert "isa" not in masked.hardware
    assert "layer_engine" not in masked.curves
    for name in ("active_weights", "total_weights", "model_weights", "inference_flops", "training_flops", "updates"):
        assert entry.result[name] == masked.result[name]
    assert abs(entry.result["bytes_on_disk"] - masked.result["bytes_on_disk"]) < 64
    dataset = assembly.build_dataset(recipe, None)
    model = rewire.load(tmp_path / "model.safetensors", assembly.build_model(replace(recipe, seed=5), dataset))
    assert type(model.fc1) is torch.nn.Linear
    images = (dataset.test_images.float() - dataset.mean.reshape(-1, 1, 1)) / dataset.std.reshape(-1, 1, 1)
    right = (model(images).argmax(1) == dataset.test_labels).float().mean()
    assert float(right) == pytest.approx(entry.result["test_accuracy"])


@needs_kernels
@pytest.mark.parametrize("method", ["set", "dst_ee"])
@pytest.mark.parametrize("steps", [7, *(pytest.param(steps, marks=pytest.mark.slow) for steps in (1, 10, 39))])
@pytest.mark.parametrize("engine", ["cpu", pytest.param("auto", marks=pytest.mark.slow)])
def test_stopped_and_resumed_is_never_stopped(
    engine: str, steps: int, method: str, tmp_path: Path, mixed: list[str]
) -> None:
    recipe = replace(TINY, method=method, engine=engine)  # type: ignore[arg-type]
    whole = train(recipe, Runtime(), folder=tmp_path / "whole")
    with pytest.raises(Stopped, match=f"after {steps} of 60 steps"):
        train(recipe, Runtime(), folder=tmp_path / "parts", should_stop=after(steps))
    mixed.clear()
    resumed = train(recipe, Runtime(resume=True), folder=tmp_path / "parts")
    assert mixed == [], "a choice that was made is not measured again"
    files = [tmp_path / name / "model.safetensors" for name in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert resumed.curves == whole.curves
    measured = {"seconds": 0, "peak_memory": 0}
    assert resumed.result | measured == whole.result | measured


@needs_kernels
def test_auto_measures_once_and_the_record_says_what(tmp_path: Path, mixed: list[str]) -> None:
    entry = train(replace(TINY, engine="auto"), Runtime(), folder=tmp_path)
    assert mixed == ["32x64", "32x32", "10x32"]
    words = {"fc1.weight": "cpu", "fc2.weight": "masked: 1.00 ms, cpu with conversions 1.50 ms", "fc3.weight": "cpu"}
    assert entry.curves["layer_engine"] == words
    assert entry.curves["layer_milliseconds"]["fc2.weight"] == [1.0, 2.0, -0.5]
    json.dumps(entry.curves)


@needs_kernels
def test_a_checkpoint_holds_the_choice_as_plain_values(tmp_path: Path, mixed: list[str]) -> None:
    recipe = replace(TINY, engine="auto")
    with pytest.raises(Stopped):
        train(recipe, Runtime(), folder=tmp_path, should_stop=after(3))
    choices = checkpoint.load(tmp_path / "checkpoint.pt", recipe.identity())["choices"]
    assert {name: made["engine"] for name, made in choices.items()} == {
        "fc1.weight": "cpu", "fc2.weight": "masked", "fc3.weight": "cpu",
    }  # fmt: skip
    with pytest.raises(ValueError, match="engine is auto in the checkpoint and cpu here"):
        train(TINY, Runtime(resume=True), folder=tmp_path)


def test_without_kernels_all_is_masked_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rewire.engine.swap.library.load", lambda: None)
    said: list[str] = []

    class Hears(Progress):
        def warn(self, line: str) -> None:
            said.append(line)

    for engine in ("cpu", "auto"):
        recipe = replace(TINY, engine=engine)  # type: ignore[arg-type]
        entry = train(recipe, Runtime(), folder=tmp_path / engine, progress=Hears())
        assert entry.curves["layer_engine"] == dict.fromkeys(LAYERS, "masked: no kernels")
        assert said.pop(0).startswith(f"engine={engine}: all 3 sparse layers run masked: fc1.weight (no kernels); fc2")
    masked = replace(TINY, engine="masked")
    train(masked, Runtime(), folder=tmp_path / "masked")
    files = [tmp_path / name / "model.safetensors" for name in ("cpu", "auto", "masked")]
    assert len({file.read_bytes() for file in files}) == 1


@needs_kernels
def test_what_the_engine_does_not_do_is_said_once(tmp_path: Path) -> None:
    dataset = assembly.build_dataset(TINY, None)

    def lines(**changes: object) -> list[str]:
        recipe = replace(TINY, **changes)  # type: ignore[arg-type]
        model = assembly.build_model(recipe, dataset)
        optimizer = assembly.build_optimizer(recipe, model)
        sparsifier = assembly.build_sparsifier(recipe, model, optimizer, recipe.build_method(60))
        return engine_lines(recipe, sparsifier, {})

    assert lines(engine="masked", bf16=True) == lines(method="dense", bf16=True) == []
    (first,) = lines()
    assert first.startswith("engine=cpu: 3 of 3 sparse layers hold and compute active weights alone, with ")
    assert lines(bf16=True)[1].startswith(
        "bf16 is left out in all sparse layers, because the engine computes in float32"
    )
    assert lines(compile=True)[1].startswith("compile: every layer of the engine converts what comes in and goes out")
    train(replace(TINY, bf16=True), Runtime(), folder=tmp_path)


@needs_kernels
@pytest.mark.parametrize("engine", ["cpu", "auto"])
def test_convolutions_train_and_report(engine: str, tmp_path: Path) -> None:
    recipe = replace(TINY, model="resnet20", width=0.25, epochs=1, batch_size=400, every=1, channels_last=True)
    entry = train(replace(recipe, engine=engine), Runtime(), folder=tmp_path)  # type: ignore[arg-type]
    assert entry.result["updates"] > 0
    assert len(entry.curves["layer_engine"]) == 20


# ---- plan


@needs_kernels
def test_a_plan_names_engine_conversions_and_memory() -> None:
    said = text(plan(replace(TINY, hidden=(256, 256), sparsity=0.95)))
    rows = {line.split("|")[1].strip(): line.split("|")[-2].strip() for line in said.splitlines() if "|" in line}
    assert [rows[name] for name in LAYERS] == ["cpu"] * 3
    assert rows["whole model"] == ""
    said = " ".join(said.split())
    assert "Activations take on the engine's layout at fc1." in said
    assert "No function in between makes them leave it." in said
    assert "memory between steps: " in said
    assert "--engine auto measures it" in said
    assert "the dense gradient of one layer at a time, at most 262.1 kB;" in said  # fc2: 256 x 256 x 4 bytes
    assert "those of all layers together, 337.9 kB." in said  # (64 + 256 + 10) x 256 x 4 bytes
    assert "inactive weights are stored zeros" not in said
    assert "the dense gradient of one layer" not in text(plan(replace(TINY, method="set")))


@needs_kernels
def test_a_plan_of_auto_has_milliseconds_and_what_leaves_the_layout(mixed: list[str]) -> None:
    made = plan(replace(TINY, engine="auto"))
    said = text(made)
    rows = {line.split("|")[1].strip(): line.split("|")[-5:-1] for line in said.splitlines() if "|" in line}
    said = " ".join(said.split())
    assert [cell.strip() for cell in rows["fc2.weight"]] == ["masked", "1.00", "2.00", "-0.50"]
    assert "masked: fc2.weight (1.00 ms, cpu with conversions 1.50 ms)" in said
    assert "at fc1, and again at fc3." in said
    assert "They leave it for an ordinary tensor, in one forward pass, at linear (1)." in said
    assert made.engine is not None
    assert made.engine.milliseconds == (5.0, 1 + 1 + 1 + 4 * 0.25)
    assert "4 ms of a training step instead of 5 ms masked" in said


@needs_kernels
@pytest.mark.parametrize("method", ["dense", "static", "dst_ee"])
def test_a_plan_is_what_happens(method: str, tmp_path: Path) -> None:
    recipe = replace(TINY, method=method)
    found, result = plan(recipe), train(recipe, Runtime(), folder=tmp_path).result
    assert (found.active, found.total) == (result["active_weights"], result["total_weights"])
    assert found.model_weights == result["model_weights"]
    assert found.training_flops_ratio == result["training_flops_ratio"]
    assert (found.engine is None) == (method == "dense")


@needs_kernels
def test_bytes_between_steps_are_those_of_a_run(tmp_path: Path) -> None:
    """Weights, their gradients, momentum, and what the sparsifier keeps."""
    kept = []

    class Looks(Progress):
        def step(self, run: Run) -> None:
            assert run.sparsifier is not None
            weights = sum(parameter.nbytes for parameter in run.model.parameters())
            states = [value for state in run.optimizer.state.values() for value in state.values()]
            momentum = sum(value.nbytes for value in states if isinstance(value, torch.Tensor))
            kept.append(2 * weights + momentum + run.sparsifier.nbytes)

    recipe = replace(TINY, batch_size=16)
    train(recipe, Runtime(), folder=tmp_path, progress=Looks())
    found = plan(recipe).engine
    assert found is not None
    assert found.kept == kept[0]
    assert found.kept_dense == 3 * 4 * plan(recipe).model_weights


# ---- the command line, and comparisons


@needs_kernels
def test_the_table_says_which_engine_ran(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "digits", *WORDS, "--engine", "cpu", "--out", str(tmp_path)])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in out.splitlines() if line.startswith("| ")]
    assert rows == [["method", "engine"], ["dense", "dense"], ["dst_ee", "cpu in 3 of 3"]]
    assert "engine=cpu: 3 of 3 sparse layers hold and compute active weights alone" in out


@pytest.mark.slow
@needs_kernels
def test_engines_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "digits", *WORDS, "--methods", "dst_ee", "set", "dense", "--sparsities", "0.8", "--seeds", "2"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--sweep", "engine=masked,cpu", "--out", str(tmp_path)])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "[10/10]" in out, "dense does not run once for each engine"
    assert "digits-mlp-set-0.8-seed0 engine=cpu:" in out
    assert "digits-mlp-dst_ee-0.8-seed1 engine=masked:" in out
    assert "digits-mlp-dense-seed0:" in out
    (section,) = sections(record.read(tmp_path / "records.jsonl"))
    pairs = {(pair.flagship.label, pair.other.label) for pair in compare(section)}
    assert pairs == {("dst_ee", "set"), ("dst_ee engine=cpu", "set engine=cpu")}
    beside = {(masked.label, other.label, found.n) for masked, other, found in engine_pairs(section)}
    assert beside == {("dst_ee", "dst_ee engine=cpu", 2), ("set", "set engine=cpu", 2)}
    assert "seconds, masked" in out


def test_warnings_come_without_the_line_that_gave_them(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "rewire.cli", "plan", "digits", "--engine", "cpu"]
    run = subprocess.run(words, env={**os.environ, "REWIRE_KERNELS": str(tmp_path)}, capture_output=True, text=True)
    assert run.returncode == 0
    assert run.stderr.startswith(f"rewire: warning: There are no kernels of rewire in {tmp_path}. Sparse layers run ")
    assert len(run.stderr.splitlines()) == 1
    assert "inactive weights are stored zeros" in run.stdout


# ---- precision


PLAIN = Recipe(hidden=(32,), epochs=1, batch_size=64, every=10, lr=0.02)  # masked


@pytest.mark.parametrize(
    ("changes", "capability", "said"),
    [
        ({"bf16": True}, "AVX2", True),
        ({"bf16": True}, "AVX512", False),
        ({"bf16": False}, "AVX2", False),
        ({"bf16": True, "method": "dense"}, "AVX2", True),
    ],
)
def test_bf16_on_a_processor_that_is_slow_at_it_is_said(
    changes: dict[str, object], capability: str, said: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    heard: list[str] = []

    class Hears(Progress):
        def warn(self, line: str) -> None:
            heard.append(line)

    train(replace(PLAIN, **changes), Runtime(), folder=tmp_path, progress=Hears())  # type: ignore[arg-type]
    found = [line for line in heard if line.startswith("bf16 is slow on this processor, which has no AVX-512")]
    assert len(found) == said
    assert all("--no-bf16" in line for line in found)


def test_the_engine_computes_in_float32_whatever_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    recipe, cpu = replace(PLAIN, bf16=True), torch.device("cpu")
    run_by = SimpleNamespace(engines={"fc1.weight": "cpu", "fc2.weight": "cpu"})
    assert precision_lines(recipe, run_by, cpu) == []  # type: ignore[arg-type]
    run_by.engines["fc2.weight"] = "masked: no kernels"
    assert len(precision_lines(recipe, run_by, cpu)) == 1  # type: ignore[arg-type]
