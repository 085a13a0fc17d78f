"""The loop: equal to a plain one, deterministic, resumable bit for bit, and clear about what is wrong."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import rewire
from rewire import assembly, checkpoint, diagnosis
from rewire.processes import Processes, checked_device
from rewire.recipe import Recipe, Runtime
from rewire.record import Record
from rewire.tasks.batches import Batches
from rewire.training import Progress, Run, Stopped, train

TINY = Recipe(hidden=(32,), epochs=3, batch_size=64, every=10, c=1e-3)  # 20 steps an epoch, 60 in all, 5 updates


def after(steps: int) -> Callable[[], str | None]:
    """A reason to stop before step `steps`, counted from the start of this call."""
    asked = iter([None] * steps)
    return lambda: next(asked, "the test")


def finish(recipe: Recipe, folder: Path, **changes: object) -> tuple[Record, bytes]:
    entry = train(recipe, Runtime(**changes), folder=folder)  # type: ignore[arg-type]
    return entry, (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0, {0: 1.0, 99: 1.0}),
        ("constant", 4, {0: 0.25, 3: 1.0, 50: 1.0}),
        ("steps", 0, {0: 1.0, 49: 1.0, 50: 0.1, 74: 0.1, 75: 0.01, 99: 0.01}),
        ("linear", 0, {0: 1.0, 25: 0.75, 99: 0.01}),
        ("cosine", 0, {0: 1.0, 50: 0.5, 100: 0.0}),
    ],
)
def test_learning_rates_worked_by_hand(schedule: str, warmup: int, expected: dict[int, float]) -> None:
    recipe = Recipe(lr=1.0, schedule=schedule)  # type: ignore[arg-type]
    for step, rate in expected.items():
        assert assembly.learning_rate(recipe, step, 100, warmup) == pytest.approx(rate)


@pytest.mark.parametrize("method", ["dense", "dst_ee"])
def test_the_loop_is_a_plain_loop(method: str, tmp_path: Path) -> None:
    recipe = replace(TINY, method=method, schedule="steps", label_smoothing=0.1)
    _, saved = finish(recipe, tmp_path)

    dataset = assembly.build_dataset(recipe, None)
    split = assembly.build_split(recipe, dataset)
    model = assembly.build_model(recipe, dataset)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.lr, momentum=0.9, nesterov=True, fused=True,
    )  # fmt: skip
    masks = {}
    if method != "dense":
        value = rewire.dst_ee(steps=60, every=10, c=1e-3)
        sparsifier = rewire.sparsify(model, optimizer, value, sparsity=0.95, seed=recipe.seed)
    batches = Batches(
        split.train.images, split.train.labels, batch_size=64, mean=dataset.mean, std=dataset.std, seed=recipe.seed
    )
    for epoch in range(3):
        for index, (images, labels) in enumerate(batches.epoch(epoch)):
            step = 20 * epoch + index
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * (1 if step < 30 else 0.1 if step < 45 else 0.01)
            F.cross_entropy(model(images), labels, label_smoothing=0.1).backward()
            optimizer.step()
            optimizer.zero_grad()
    if method != "dense":
        masks = sparsifier.masks
    rewire.save(model, tmp_path / "plain.safetensors", masks)
    assert (tmp_path / "plain.safetensors").read_bytes() == saved


def test_a_record_holds_what_reports_read(tmp_path: Path) -> None:
    entry, saved = finish(TINY, tmp_path)
    result = entry.result
    assert entry.recipe == TINY.identity()
    assert result["steps"] == 60
    assert result["updates"] == len(entry.curves["update_step"]) == 5
    assert entry.curves["update_step"] == [10, 20, 30, 40, 50]
    assert entry.curves["exploration"][-1] == result["exploration"] > 0.05
    assert len(entry.curves["churn"]) == 5
    assert len(entry.curves["energy"]) == 5
    assert all(0 < energy < 0.5 for energy in entry.curves["energy"])
    assert entry.curves["epoch"] == [1, 2, 3]
    assert entry.curves["validation_accuracy"][-1] == result["validation_accuracy"]
    assert entry.curves["train_loss"][0] > entry.curves["train_loss"][-1]
    assert result["total_weights"] == 64 * 32 + 32 * 10
    assert result["active_weights"] == round(0.05 * result["total_weights"])
    assert result["sparsity"] == pytest.approx(0.95, abs=1e-3)
    assert result["model_weights"] == result["total_weights"] + 32 + 10
    assert result["bytes_on_disk"] == len(saved)
    layers = entry.curves["layer_sparsity"]
    assert set(layers) == {"fc1.weight", "fc2.weight"}
    flops = 2 * (64 * 32 * (1 - layers["fc1.weight"]) + 320 * (1 - layers["fc2.weight"]))
    assert result["inference_flops"] == pytest.approx(flops)
    dense = 2 * result["total_weights"]
    every = 60 / 5
    assert result["training_flops"] == pytest.approx(64 * 60 * (3 * flops + (dense - flops) / every))
    assert result["training_flops_ratio"] == pytest.approx(result["training_flops"] / (64 * 60 * 3 * dense))


def test_a_dense_record_counts_everything_as_active(tmp_path: Path) -> None:
    entry, _ = finish(replace(TINY, method="dense"), tmp_path)
    assert entry.result["active_weights"] == entry.result["total_weights"] == 64 * 32 + 320
    assert entry.result["training_flops_ratio"] == entry.result["inference_flops_ratio"] == 1
    assert entry.result["updates"] == 0


def test_the_saved_model_is_the_one_that_was_tested(tmp_path: Path) -> None:
    entry, _ = finish(TINY, tmp_path)
    dataset = assembly.build_dataset(TINY, None)
    model = rewire.load(tmp_path / "model.safetensors", assembly.build_model(replace(TINY, seed=5), dataset))
    images = (dataset.test_images.float() - dataset.mean.reshape(-1, 1, 1)) / dataset.std.reshape(-1, 1, 1)
    right = (model(images).argmax(1) == dataset.test_labels).float().mean()
    assert float(right) == pytest.approx(entry.result["test_accuracy"])


def test_the_same_recipe_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    first, second = finish(TINY, tmp_path / "a"), finish(TINY, tmp_path / "b")
    assert first[1] == second[1]
    assert first[0].curves == second[0].curves
    assert finish(replace(TINY, seed=1), tmp_path / "c")[1] != first[1]


def test_training_never_sees_the_test_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, saved = finish(TINY, tmp_path / "a")
    dataset = assembly.build_dataset(TINY, None)
    spoilt = replace(dataset, test_labels=(dataset.test_labels + 1) % 10)
    monkeypatch.setattr(assembly, "build_dataset", lambda recipe, folder: spoilt)
    second, spoilt_saved = finish(TINY, tmp_path / "b")
    assert spoilt_saved == saved
    assert second.curves == first.curves
    assert second.result["test_accuracy"] != first.result["test_accuracy"]


@pytest.mark.parametrize("method", ["dense", "set", "dst_ee"])
@pytest.mark.parametrize("steps", [7, 20, *(pytest.param(steps, marks=pytest.mark.slow) for steps in (1, 10, 39, 59))])
def test_stopped_and_resumed_is_never_stopped(method: str, steps: int, tmp_path: Path) -> None:
    recipe = replace(TINY, method=method)
    whole, saved = finish(recipe, tmp_path / "whole")
    with pytest.raises(Stopped, match=f"after {steps} of 60 steps") as stopped:
        train(recipe, Runtime(), folder=tmp_path / "parts", should_stop=after(steps))
    assert stopped.value.path == tmp_path / "parts" / "checkpoint.pt"
    resumed, saved_in_parts = finish(recipe, tmp_path / "parts", resume=True)
    assert saved_in_parts == saved
    assert resumed.curves == whole.curves
    measured = {"seconds": 0, "peak_memory": 0}
    assert resumed.result | measured == whole.result | measured


def test_killed_and_resumed_is_never_stopped(tmp_path: Path) -> None:
    recipe = replace(TINY, epochs=50)
    script = (
        "import sys; from pathlib import Path; import torch; torch.set_num_threads(1)\n"
        "from rewire.recipe import Recipe, Runtime; from rewire.training import train\n"
        f"train({recipe!r}, Runtime(checkpoint_seconds=0), folder=Path(sys.argv[1]))"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "killed")])
    place = tmp_path / "killed" / "checkpoint.pt"
    deadline = time.monotonic() + 60
    while not place.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it must be killed in the middle, so it must not have ended"
    assert 0 < checkpoint.load(place, recipe.identity())["step"] < 1000
    assert finish(recipe, tmp_path / "killed", resume=True)[1] == finish(recipe, tmp_path / "whole")[1]


def test_resume_without_a_checkpoint_starts_at_the_beginning(tmp_path: Path) -> None:
    assert finish(TINY, tmp_path / "a", resume=True)[1] == finish(TINY, tmp_path / "b")[1]


def test_the_time_limit_stops_cleanly(tmp_path: Path) -> None:
    with pytest.raises(Stopped, match="Stopped by the time limit after 1 of 60 steps") as stopped:
        train(TINY, Runtime(time_limit="0s"), folder=tmp_path)
    assert checkpoint.load(stopped.value.path, TINY.identity())["step"] == 1
    with pytest.raises(Stopped, match="after 2 of 60 steps"):  # so that a limit shorter than the start gets on too
        train(TINY, Runtime(time_limit="0s", resume=True), folder=tmp_path)


def test_a_run_that_breaks_within_an_epoch_goes_on_from_there(tmp_path: Path) -> None:
    class Broken(Progress):
        def step(self, run: Run) -> None:
            if run.step == 33:
                raise RuntimeError("the power is gone")

    with pytest.raises(RuntimeError, match="the power is gone"):
        train(TINY, Runtime(checkpoint_seconds=1e-9), folder=tmp_path / "broken", progress=Broken())
    assert checkpoint.load(tmp_path / "broken" / "checkpoint.pt", TINY.identity())["step"] == 32
    assert finish(TINY, tmp_path / "broken", resume=True)[1] == finish(TINY, tmp_path / "whole")[1]


def test_checkpoints_are_not_written_more_often_than_asked(tmp_path: Path) -> None:
    finish(TINY, tmp_path / "seldom", checkpoint_seconds=1000)
    assert not (tmp_path / "seldom" / "checkpoint.pt").exists()
    finish(TINY, tmp_path / "often", checkpoint_seconds=0)
    assert checkpoint.load(tmp_path / "often" / "checkpoint.pt", TINY.identity())["step"] == 60


def stopped_run(recipe: Recipe, folder: Path) -> Path:
    with pytest.raises(Stopped):
        train(recipe, Runtime(), folder=folder, should_stop=after(15))
    return folder / "checkpoint.pt"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.2, "seed": 3}, "Fields that differ: lr is 0.1 in the checkpoint and 0.2 here; seed is 0 in"),
        ({"hidden": (16,)}, r"hidden is \[32\] in the checkpoint and \[16\] here"),
        ({"method": "rigl_itop"}, "is of another run. .*method is dst_ee in the checkpoint and rigl_itop here"),
    ],
)
def test_a_checkpoint_of_another_recipe_is_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    stopped_run(TINY, tmp_path)
    with pytest.raises(ValueError, match=message):
        finish(replace(TINY, **change), tmp_path, resume=True)  # type: ignore[arg-type]


def test_a_dense_checkpoint_is_refused_by_a_sparse_run(tmp_path: Path) -> None:
    stopped_run(replace(TINY, method="dense"), tmp_path)
    with pytest.raises(ValueError, match=r"of a dense run, which has no masks to continue from. Fields that differ"):
        finish(TINY, tmp_path, resume=True)


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = stopped_run(TINY, tmp_path)
    digits = assembly.build_dataset(TINY, None)
    other = replace(digits, train_labels=digits.train_labels.flip(0))
    monkeypatch.setattr(assembly, "build_dataset", lambda recipe, folder: other)
    with pytest.raises(ValueError, match=r"is of a run on other data: .* Give the --data of that run, or delete"):
        finish(TINY, tmp_path, resume=True)
    state = torch.load(place, weights_only=True)
    del state["data"]  # as earlier versions left it
    torch.save(state, place)
    assert finish(TINY, tmp_path, resume=True)[0].data == other.fingerprint != digits.fingerprint


def test_a_broken_checkpoint_is_not_told_in_torch_s_words(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_text("garbage")
    with pytest.raises(ValueError, match="is not a whole checkpoint of 7 bytes") as found:
        finish(TINY, tmp_path, resume=True)
    assert "weights_only" not in str(found.value)  # torch advises to turn it off, which would run the file's code


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(kept: float, tmp_path: Path) -> None:
    place = stopped_run(TINY, tmp_path)
    content = place.read_bytes()
    place.write_bytes(content[: int(kept * len(content)) if kept < 1 else int(kept)])
    with pytest.raises(ValueError, match=r"is not a whole checkpoint .* leave out --resume to start again"):
        finish(TINY, tmp_path, resume=True)


def test_a_file_of_something_else_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(3)}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="its format number is none, and 1 is needed"):
        finish(TINY, tmp_path, resume=True)


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
            return os.mkdir, (str(tmp_path / "harm"),)

    torch.save({"format": 1, "recipe": Malicious()}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="is not a whole checkpoint"):
        finish(TINY, tmp_path, resume=True)
    assert not (tmp_path / "harm").exists()


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = stopped_run(TINY, tmp_path).read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"the disk is full. The file that was there is untouched"):
        finish(TINY, tmp_path, resume=True, checkpoint_seconds=0)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_diverged_run_says_what_to_do(tmp_path: Path) -> None:
    recipe = replace(TINY, method="static", lr=1e6, weight_decay=1.0)
    with pytest.raises(FloatingPointError, match=r"the run diverged. Lower the learning rate, .* --lr 100000"):
        finish(recipe, tmp_path)


def test_a_split_without_an_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"validation=0.0001 of 1438 training images is not one image, .*=0.001"):
        finish(replace(TINY, validation=0.0001), tmp_path)
    digits = assembly.build_dataset(TINY, None)
    blank = replace(digits, test_images=digits.test_images[:0], test_labels=digits.test_labels[:0])
    with pytest.raises(ValueError, match="has no test image"):
        assembly.build_split(TINY, blank)


def test_a_refused_run_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_size=5000 gives no batch"):
        finish(replace(TINY, batch_size=5000), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_record_names_the_commit_that_the_run_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rewire.training.commit_at_start", lambda: "at the start")

    def commit_again() -> None:
        monkeypatch.setattr("rewire.training.commit_at_start", lambda: "later")

    record = train(TINY, Runtime(), folder=tmp_path, should_stop=commit_again)
    assert record.commit == "at the start"


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r'device="tpu" cannot be used here .* Use cpu'):
        checked_device("tpu")


def test_biases_and_norms_have_no_weight_decay() -> None:
    recipe = Recipe(model="cnn", weight_decay=0.01)
    model = assembly.build_model(recipe, assembly.build_dataset(recipe, None))
    decayed, others = assembly.build_optimizer(recipe, model).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.01, 0.0)
    assert all("conv" in names[id(p)] or names[id(p)] == "fc.weight" for p in decayed["params"])
    assert all("bn" in names[id(p)] or names[id(p)] == "fc.bias" for p in others["params"])
    assert len(decayed["params"]) + len(others["params"]) == len(names)


class NoSync(TorchDispatchMode):
    """Refuses every operation that waits for the device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        assert "_local_scalar_dense" not in str(function), "a step waits for the device"
        assert "nonzero" not in str(function), "a step waits for the device"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", ["dense", "set", "dst_ee"])
def test_a_step_does_not_wait_for_the_device(method: str, tmp_path: Path) -> None:
    recipe = replace(TINY, method=method, model="cnn", every=100, epochs=20)
    with Processes.join("cpu") as processes:
        run = Run(recipe, Runtime(), tmp_path, processes)
    with NoSync():
        for images, labels in [(torch.rand(64, 1, 8, 8), torch.randint(10, (64,)))] * 3:
            run._learn(images, labels, 0.1)
    assert run.step == 3
    with pytest.raises(AssertionError, match="waits for the device"), NoSync():
        run.loss  # noqa: B018 (reading it is what waits)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "cnn", "channels_last": True, "augment": "crop_flip"},
        {"bf16": True},
        {"optimizer": "adamw", "lr": 0.02},
        {"structure": "fan_in"},
        {"structure": "2:4", "sparsity": 0.5, "hidden": (32, 32)},
        {"structure": "block:2x2", "sparsity": "*=0.8,fc2=0.5"},
    ],
    ids=lambda change: ",".join(f"{name}={value}" for name, value in change.items()),
)
def test_ways_to_train(change: dict[str, object], tmp_path: Path) -> None:
    recipe = replace(TINY, epochs=6, **change)  # type: ignore[arg-type]
    entry, _ = finish(recipe, tmp_path)
    assert entry.curves["train_loss"][-1] < 0.9 * entry.curves["train_loss"][0]
    assert entry.result["updates"] == 11


def test_progress_hears_of_every_step_and_epoch(tmp_path: Path) -> None:
    heard: list[str] = []

    class Listener(Progress):
        def begin(self, run: Run) -> None:
            heard.append("begin")

        def step(self, run: Run) -> None:
            heard.append("step")

        def epoch(self, run: Run) -> None:
            heard.append(f"epoch {run.epoch}")

        def end(self) -> None:
            heard.append("end")

    train(TINY, Runtime(), folder=tmp_path, progress=Listener())
    steps = ["step"] * 20
    assert heard == ["begin", *steps, "epoch 1", *steps, "epoch 2", *steps, "epoch 3", "end"]


@pytest.mark.parametrize("change", [{}, {"model": "cnn", "lr": 0.02}, {"method": "gmp"}, {"engine": "cpu"}], ids=str)
def test_a_diagnosis_records_more_and_changes_nothing(change: dict[str, object], tmp_path: Path) -> None:
    recipe = replace(TINY, **change)  # type: ignore[arg-type]
    plain, saved = finish(recipe, tmp_path / "plain")
    entry, saved_too = finish(recipe, tmp_path / "diagnosed", diagnose=True)
    assert saved_too == saved
    measured = {"seconds": 0, "peak_memory": 0}
    assert entry.result | measured == plain.result | measured
    more = {name: curve for name, curve in entry.curves.items() if name not in plain.curves}
    assert {name: curve for name, curve in entry.curves.items() if name in plain.curves} == plain.curves
    assert set(more) == {*diagnosis.CURVES, "exploitation", "layer_exploitation", "layer_degrees"}
    updates = entry.result["updates"]
    assert all(len(more[name]) == updates for name in diagnosis.CURVES)
    assert all(0 < flow < whole for flow, whole in zip(more["gradient_flow"], more["squared_gradient"], strict=True))
    assert all(dead >= ablated for dead, ablated in zip(more["dead_units"], more["ablated_units"], strict=True))
    assert 0 < more["effective_density"][-1] <= 1 - entry.result["sparsity"] + 1e-9
    layers = entry.curves["layer_sparsity"]
    assert list(more["layer_exploitation"]) == list(more["layer_degrees"]) == list(layers)
    for kind, share in (("active", 1), ("largest", diagnosis.LARGEST)):
        total = more["exploitation"][kind]
        assert all(len(counts) == updates for counts in total.values())
        assert len({sum(counts) for counts in zip(*total.values(), strict=True)}) == 1
        assert total["missed"][-1] == 0
        assert total["grown"][-1] + total["kept"][-1] == pytest.approx(share * entry.result["active_weights"], abs=4)
        for name in ("grown", "kept", "missed"):
            parts = zip(*(layer[kind][name] for layer in more["layer_exploitation"].values()), strict=True)
            assert total[name] == [sum(counts) for counts in parts]
    json.dumps(more)


@pytest.mark.parametrize("steps", [10, *(pytest.param(steps, marks=pytest.mark.slow) for steps in (7, 39))])
def test_a_diagnosis_goes_on_where_it_stopped(steps: int, tmp_path: Path) -> None:
    whole, _ = finish(TINY, tmp_path / "whole", diagnose=True)
    with pytest.raises(Stopped):
        train(TINY, Runtime(diagnose=True), folder=tmp_path / "parts", should_stop=after(steps))
    assert finish(TINY, tmp_path / "parts", resume=True, diagnose=True)[0].curves == whole.curves
    assert set(finish(TINY, tmp_path / "parts", resume=True)[0].curves) < set(whole.curves)


def test_a_run_that_moved_without_a_diagnosis_cannot_go_on_with_one(tmp_path: Path) -> None:
    for steps, folder in ((9, tmp_path / "before"), (25, tmp_path / "after")):
        with pytest.raises(Stopped):
            train(TINY, Runtime(), folder=folder, should_stop=after(steps))
    assert len(finish(TINY, tmp_path / "before", resume=True, diagnose=True)[0].curves["dead_units"]) == 5
    with pytest.raises(ValueError, match="written without --diagnose, so 2 topologies of the run are unk"):
        finish(TINY, tmp_path / "after", resume=True, diagnose=True)


@pytest.mark.parametrize("method", ["dense", "static"])
def test_what_never_moves_has_nothing_to_diagnose_on_the_way(method: str, tmp_path: Path) -> None:
    entry, _ = finish(replace(TINY, method=method), tmp_path, diagnose=True)
    assert entry.curves.get("exploitation", {}).get("active", {}).get("grown", []) == []
    assert ("layer_degrees" in entry.curves) == (method == "static")


def test_a_curve_that_a_checkpoint_had_not_yet_is_unknown_up_to_there(tmp_path: Path) -> None:
    place = stopped_run(TINY, tmp_path)
    state = torch.load(place, weights_only=True)
    del state["curves"]["energy"]
    torch.save(state, place)
    entry, _ = finish(TINY, tmp_path, resume=True)
    assert [energy == energy for energy in entry.curves["energy"]] == [False, True, True, True, True]
    assert entry.curves["update_step"] == [10, 20, 30, 40, 50]


def test_validation_is_read_as_seldom_as_asked(tmp_path: Path) -> None:
    entry, _ = finish(TINY, tmp_path, evaluate_every=2)
    assert [value == value for value in entry.curves["validation_accuracy"]] == [False, True, True]


@pytest.mark.slow  # compiling takes half a minute
def test_a_compiled_model_trains_like_an_ordinary_one(tmp_path: Path) -> None:
    plain, _ = finish(TINY, tmp_path / "plain")
    compiled, _ = finish(replace(TINY, compile=True), tmp_path / "compiled")
    assert compiled.curves["train_loss"] == pytest.approx(plain.curves["train_loss"], rel=1e-3)


@pytest.mark.slow  # three processes import torch
def test_two_processes_train_like_one(tmp_path: Path) -> None:
    recipe = replace(TINY, method="rigl_itop")
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\nimport torch\ntorch.set_num_threads(1)\n"
        "from rewire.recipe import Recipe, Runtime\nfrom rewire.training import train\n"
        f"entry = train({recipe!r}, Runtime(), folder=Path({str(tmp_path / 'two')!r}))\n"
        "assert entry.result['steps'] == 60\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    subprocess.run(command, check=True, timeout=240)
    finish(recipe, tmp_path / "one")
    dataset = assembly.build_dataset(recipe, None)
    models = [
        rewire.load(tmp_path / name / "model.safetensors", assembly.build_model(recipe, dataset))
        for name in ("one", "two")
    ]
    for one, two in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one != 0, two != 0)
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)
