"""The one training loop: from a recipe to a record, a model file and checkpoints.

Over 300 lines, because what a run holds, saves, repeats and reports must stay in step; data, model and engine are put
together elsewhere.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils import _pytree

from rewire import assembly, checkpoint
from rewire.core.pruner import arguments
from rewire.cost import Energy, PeakMemory, codecarbon
from rewire.diagnosis import SAMPLE, Diagnosis
from rewire.engines import choices_of, engine_figures, engine_lines, precision_lines, runs_packed
from rewire.files import save
from rewire.metrics.health import health_warnings
from rewire.outcome import outcome
from rewire.processes import Processes
from rewire.recipe import Recipe, Runtime
from rewire.record import Record, commit_at_start, hardware, versions
from rewire.sparsifier import Update
from rewire.tasks.batches import seed_of
from rewire.tasks.task import Part

Stop = Callable[[], str | None]  # asked before every step; a reason ends the run


class Stopped(Exception):  # noqa: N818 (it was asked for, it is no error)
    """A run was stopped before its end. Its checkpoint is whole."""

    def __init__(self, reason: str, path: Path, step: int, steps: int) -> None:
        super().__init__(reason, path, step, steps)
        self.reason, self.path, self.step, self.steps = reason, path, step, steps

    def __str__(self) -> str:
        return f"Stopped by {self.reason} after {self.step} of {self.steps} steps. {self.path} holds the run."


class Progress:
    """Hears how a run goes, and says nothing. The command line prints instead."""

    def begin(self, run: Run) -> None:
        """Called once, when everything is built and a checkpoint, if any, is loaded."""

    def step(self, run: Run) -> None:
        """Called after every optimizer step; what waits for the device belongs elsewhere."""

    def epoch(self, run: Run) -> None:
        """Called at the end of every epoch."""

    def end(self) -> None:
        """Called when training is over, for whatever reason."""

    def warn(self, line: str) -> None:
        """Called with what the user should read: on the engine at the start, on layers in bad health at the end."""


def train(
    recipe: Recipe,
    runtime: Runtime | None = None,
    *,
    folder: Path | None = None,
    progress: Progress | None = None,
    should_stop: Stop = lambda: None,
) -> Record:
    """Trains as the recipe says and returns the record; `folder` receives the checkpoint and the model file.

    `should_stop` is asked before every step: a reason ends the run by `Stopped`, after a checkpoint and one step at
    least, so that a time limit shorter than the start does not keep a run from ever getting on. Under torchrun every
    process takes its part of each batch, the first one reads and writes files, and all return the record.
    The test set is read once, after the last step.
    """
    runtime = runtime or Runtime()
    folder = folder or runtime.out / assembly.folder_name(recipe)
    progress = progress or Progress()
    should_stop = until(runtime.seconds, should_stop)
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    torch.backends.cudnn.deterministic = True  # a resumed run must be the run that never stopped
    with Processes.join(runtime.device) as processes:
        path = folder / CHECKPOINT
        saved = None
        if runtime.resume:
            saved = processes.shared(lambda: checkpoint.load(path, recipe.identity()) if path.exists() else None)
        run = Run(recipe, runtime, folder, processes, choices=None if saved is None else saved.get("choices"))
        processes.shared(lambda: checkpoint.make_folder(folder))
        if saved is not None:
            run.load_state_dict(saved)
            saved = None
            run.memory.watch()  # from when what was loaded is freed
        progress.begin(run)
        lines = engine_lines(recipe, run.sparsifier, run.choices)
        for line in (*lines, *precision_lines(recipe, run.sparsifier, run.device), *run.energy.begin()):
            progress.warn(line)
        try:
            run.train(progress, should_stop)
        finally:
            run.energy.end()
            progress.end()
        for line in health_warnings(run.masks, run.dense_model, outputs=recipe.structure != "neuron"):
            progress.warn(line)
        return run.finish()


def until(seconds: float, should_stop: Stop = lambda: None) -> Stop:
    """Returns `should_stop` with a time limit added, counted from now."""
    deadline = time.monotonic() + seconds
    return lambda: should_stop() or ("the time limit" if time.monotonic() > deadline else None)


def check_data(entries: Iterable[tuple[Recipe, Record]], runtime: Runtime) -> None:
    """Raises ValueError where a record is of other data than its recipe would be trained on here."""
    here: dict[str, str] = {}
    for recipe, entry in entries:
        if not entry.data:
            continue
        if recipe.task not in here:
            here[recipe.task] = _fingerprint(recipe, runtime)
        if here[recipe.task] not in ("", entry.data):
            raise ValueError(
                f"The record of {assembly.run_name(recipe)} is of a run on other data: the fingerprint of its data is "
                f"{entry.data}, and that of the data here is {here[recipe.task]}. Give the --data of that run, or "
                "another --out for the runs on this data, and leave out the --records that hold it."
            )


def _fingerprint(recipe: Recipe, runtime: Runtime) -> str:
    """The fingerprint of the data here; "" where none was given and none can be had by name."""
    try:
        return assembly.build_task(recipe, runtime.data, workers=runtime.workers).fingerprint
    except (ImportError, OSError, ValueError):
        if runtime.data is None:
            return ""
        raise


class Run:
    """One run in progress: what a checkpoint holds, and what it is trained with.

    choices: what a checkpoint says that engine="auto" has chosen; they are repeated.
    """

    def __init__(
        self,
        recipe: Recipe,
        runtime: Runtime,
        folder: Path,
        processes: Processes,
        choices: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.recipe, self.runtime, self.folder, self.processes = recipe, runtime, folder, processes
        self.device, self.commit = processes.device, commit_at_start()
        self.memory = PeakMemory(self.device)
        self.energy = Energy(self.device, codecarbon if runtime.energy else None)
        self.task = assembly.build_task(recipe, runtime.data, workers=runtime.workers)
        self.data = self.task.fingerprint
        self.batches = self.task.source(self.device, processes.rank, processes.count)
        self.steps = recipe.epochs * len(self.batches)
        self.method = recipe.build_method(self.steps)
        self.model = self.task.model().to(self.device)
        self.optimizer = assembly.build_optimizer(recipe, self.model)
        self.sparsifier = assembly.build_sparsifier(
            recipe,
            self.model,
            self.optimizer,
            self.method,
            self._on_update,
            task=self.task,
            batches=lambda: self.batches.epoch(0),
            choices=choices,
        )
        self.choices = choices or choices_of(recipe, self.sparsifier)
        self.diagnosis = self._diagnosis() if runtime.diagnose and self.sparsifier else None
        self._forward = self._wrapped()
        self.step = 0
        self.loss_sum = torch.zeros((), device=self.device)  # over the steps of this epoch; read at its end
        self.headline = f"validation_{self.task.measures[0].name}"
        self.curves: dict[str, list[float]] = {name: [] for name in (*CURVES, self.headline)}
        self.seconds = 0.0
        self._saved_at = time.monotonic()

    @property
    def checkpoint(self) -> Path:
        return self.folder / CHECKPOINT

    @property
    def masks(self) -> dict[str, Tensor]:
        """True where a weight is active, by parameter name; none in a dense run."""
        return self.sparsifier.masks if self.sparsifier else {}

    @property
    def dense_model(self) -> nn.Module:
        """The model with dense weights: itself, or a copy where the engine keeps active weights alone."""
        return self.sparsifier.to_dense() if self.sparsifier and runs_packed(self.sparsifier) else self.model

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return self.step // len(self.batches)

    @property
    def loss(self) -> float | None:
        """The mean training loss of this epoch so far, else of the last one. Waits for the device."""
        if steps := self.step % len(self.batches):
            return self.loss_sum.item() / steps
        return self.curves["train_loss"][-1] if self.curves["train_loss"] else None

    def train(self, progress: Progress, should_stop: Stop) -> None:
        """Trains to the end, or raises `Stopped` with a checkpoint written."""
        warmup = round(self.recipe.warmup_epochs * len(self.batches))
        began, first = time.monotonic() - self.seconds, self.step
        while self.step < self.steps:
            epoch, start = divmod(self.step, len(self.batches))
            self.model.train()
            for inputs, target in self.batches.epoch(epoch, start):
                reason = self.processes.agree(should_stop(), self.step)
                if reason and self.step > first:
                    self.seconds = time.monotonic() - began
                    self.save_checkpoint()
                    raise Stopped(reason, self.checkpoint, self.step, self.steps)
                self._learn(inputs, target, assembly.learning_rate(self.recipe, self.step, self.steps, warmup))
                progress.step(self)
                within = self.step % len(self.batches) > 0  # the end of an epoch belongs to the checkpoint after it
                if within and 0 < self.runtime.checkpoint_seconds < time.monotonic() - self._saved_at:
                    self.seconds = time.monotonic() - began
                    self.save_checkpoint()
            self._end_epoch()
            self.seconds = time.monotonic() - began
            if time.monotonic() - self._saved_at >= self.runtime.checkpoint_seconds:
                self.save_checkpoint()
            progress.epoch(self)
        self.memory.read()

    def finish(self) -> Record:
        """Writes the model file, reads the test set, and returns the record."""
        masks = self.masks
        size = self.processes.shared(self._save_model)
        layers = {name: 1 - int(mask.sum()) / mask.numel() for name, mask in masks.items()}
        isa, engines = engine_figures(self.recipe, self.sparsifier, self.choices)
        diagnosed = self.diagnosis.curves(self.dense_model, masks) if self.diagnosis else {}
        return Record(
            recipe=self.recipe.identity(),
            commit=self.commit,
            versions=versions(),
            hardware=hardware(self.device) | isa,
            curves={**self.curves, **diagnosed, "layer_sparsity": layers, **engines},
            result={
                "note": self.task.note,
                **({"data": self.data} if self.data else {}),
                "measures": [measure.name for measure in self.task.measures],
                **self.score("test"),
                **self.score("validation"),
                "bytes_on_disk": size,
                "seconds": self.seconds,
                **({} if self.memory.bytes is None else {"peak_memory": self.memory.bytes}),
                **{f"{part}_energy_kwh": kwh for part, kwh in self.energy.kwh.items() if kwh > 0},
                "steps": self.steps,
                "updates": self.sparsifier.updates if self.sparsifier else 0,
                "exploration": self.sparsifier.exploration if self.sparsifier else 1.0,
                **outcome(
                    self.recipe,
                    self.dense_model,
                    self.task,
                    {name: int(mask.sum()) for name, mask in masks.items()},
                    self.method,
                    self.steps,
                    self.sparsifier.mean_density if self.sparsifier else {},
                ),
            },
        )

    def score(self, part: Part) -> dict[str, float]:
        """Returns the task's measures of a part, by name: test_accuracy, ..."""
        self.model.eval()
        with torch.inference_mode(), self._autocast():
            found = self.task.score(self.model, part, self.device)
        return {f"{part}_{name}": value for name, value in found.items()}

    def save_checkpoint(self) -> None:
        """Writes a checkpoint; the first process does, the others go on."""
        if self.processes.first:
            with self.memory.paused():
                checkpoint.save(self.checkpoint, self.recipe.identity(), self.state_dict())
        self._saved_at = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sparsifier": self.sparsifier.state_dict() if self.sparsifier else None,
            "data": self.data,
            "step": self.step,
            "loss_sum": self.loss_sum,
            "curves": self.curves,
            "seconds": self.seconds,
            "peak_memory": self.memory.bytes,
            "energy": self.energy.read(),
            **({"choices": dict(self.choices)} if self.choices else {}),
            **({"diagnosis": self.diagnosis.state_dict()} if self.diagnosis else {}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        checkpoint.check_data(self.checkpoint, state.get("data", ""), self.data)
        if self.sparsifier:  # first, because the end of a dense phase changes the names in the model's state
            self.sparsifier.load_state_dict(state["sparsifier"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.memory.resume(state.get("peak_memory"))  # checkpoints of earlier versions have neither
        self.energy.resume(state.get("energy", {}))
        unknown = [math.nan] * len(state["curves"]["update_step"])  # of curves that the checkpoint's version had not
        self.curves = {name: state["curves"].get(name, list(unknown)) for name in self.curves}
        if self.diagnosis and unknown:
            if "diagnosis" not in state:
                raise ValueError(
                    f"{self.checkpoint} was written without --diagnose, so {len(unknown)} topologies of the run are "
                    "unknown. Leave out --diagnose to go on, or --resume to start again."
                )
            self.diagnosis.load_state_dict(state["diagnosis"])
        self.loss_sum = state["loss_sum"].to(self.device)

    def _save_model(self) -> int:
        """Writes the model file and returns its bytes."""
        path = self.folder / "model.safetensors"
        dtype = torch.bfloat16 if self.runtime.dtype == "bf16" else torch.float32
        save(self.model, path, self.masks, dtype=dtype)
        return path.stat().st_size

    def _learn(self, inputs: Any, target: Any, rate: float) -> None:
        """One optimizer step. Nothing here waits for the device, and nothing here knows of sparsity."""
        generator = torch.default_generator if self.device.type == "cpu" else torch  # which asks every kind of device
        generator.manual_seed(seed_of(self.recipe.seed, self.step, self.processes.rank))  # of dropout: runs resume
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with self._autocast():
            by_place, by_name = arguments(inputs)
            loss = self.task.loss(self._forward(*by_place, **by_name), target)
        loss.backward()
        if self.recipe.clip and self.sparsifier:
            self.sparsifier.clip_grad_norm_(self.recipe.clip)
        elif self.recipe.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.loss_sum += loss.detach()
        self.step += 1

    def _end_epoch(self) -> None:
        loss = self.loss_sum.item() / len(self.batches)
        self.loss_sum.zero_()
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"The training loss is {loss} after {self.step} steps: the run diverged. Lower the learning rate, "
                f"for example --lr {self.recipe.lr / 10:g}, or start gently with --warmup-epochs 1."
            )
        self.curves["epoch"].append(self.epoch)
        self.curves["train_loss"].append(loss)
        due = self.epoch % self.runtime.evaluate_every == 0 or self.step == self.steps
        self.curves[self.headline].append(self.score("validation")[self.headline] if due else math.nan)

    def _diagnosis(self) -> Diagnosis:
        return Diagnosis(
            self.masks,
            lambda: self.task.sample(SAMPLE, self.device),
            self.task.loss,
            _pytree.tree_map_only(Tensor, lambda x: x.to(self.device), self.task.example(1)[0]),
        )

    def _on_update(self, update: Update) -> None:
        self.curves["update_step"].append(update.step)
        for name in ("exploration", "churn", "energy"):
            self.curves[name].append(getattr(update, name))
        if self.diagnosis:
            self.diagnosis.see(self.dense_model, self.masks)

    def _wrapped(self) -> nn.Module:
        """Returns the model as the training step calls it: over all processes, compiled, or as it is."""
        forward: nn.Module = self.model
        if self.processes.count > 1:
            forward = DistributedDataParallel(forward)
        return assembly.compiled(forward, self.device, alone=forward is self.model) if self.recipe.compile else forward

    def _autocast(self) -> torch.autocast:
        return assembly.autocast(self.recipe, self.device)


CHECKPOINT = "checkpoint.pt"
CURVES = ("update_step", "exploration", "churn", "energy", "epoch", "train_loss")  # and the headline's
