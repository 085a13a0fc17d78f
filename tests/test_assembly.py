"""What the training loop makes of a recipe's optimizer settings."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rewire import assembly, planning
from rewire.processes import Processes
from rewire.recipe import Recipe, Runtime
from rewire.recipes import RECIPES
from rewire.tasks.batches import seed_of
from rewire.tasks.graphs.link_data import LEAK
from rewire.tasks.graphs.tasks import LinkPrediction
from rewire.training import Progress, Run, train

torch.set_num_threads(1)

TINY = Recipe(hidden=(32,), epochs=1, batch_size=64, every=10, lr=0.02)  # 20 steps, an update after 10


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("cosine", 0, {0: 1.0, 50: 0.55, 100: 0.1}),
        ("linear", 0, {0: 1.0, 25: 0.775, 100: 0.1}),
        ("cosine", 4, {0: 0.25, 50: 0.55}),
        ("steps", 0, {0: 1.0, 50: 0.1}),  # which does not read it, nor does the next
        ("constant", 0, {99: 1.0}),
    ],
)
def test_learning_rates_that_end_above_0_worked_by_hand(schedule: str, warmup: int, expected: dict[int, float]) -> None:
    recipe = Recipe(lr=1.0, end_lr=0.1, schedule=schedule)  # type: ignore[arg-type]
    for step, rate in expected.items():
        assert assembly.learning_rate(recipe, step, 100, warmup) == pytest.approx(rate, rel=0.01 if warmup else 1e-9)


def test_beta2_is_adamws() -> None:
    model = torch.nn.Linear(2, 2)
    groups = assembly.build_optimizer(Recipe(optimizer="adamw", beta2=0.95), model).param_groups
    assert {group["betas"] for group in groups} == {(0.9, 0.95)}
    groups = assembly.build_optimizer(Recipe(optimizer="adamw"), model).param_groups
    assert {group["betas"] for group in groups} == {(0.9, 0.999)}


def norms(recipe: Recipe, folder: Path) -> list[float]:
    """The norm of the gradient of all active weights, as every step of the optimizer sees it."""
    with Processes.join("cpu") as processes:
        run = Run(recipe, Runtime(), folder, processes)
        seen = []

        def look(*step: object) -> None:
            kept = [
                parameter.grad[run.masks[name]] if name in run.masks else parameter.grad
                for name, parameter in run.model.named_parameters()
                if parameter.grad is not None
            ]
            seen.append(torch.cat([gradient.flatten() for gradient in kept]).norm().item())

        run.optimizer.register_step_pre_hook(look)
        run.train(Progress(), lambda: None)
    return seen


@pytest.mark.parametrize("method", ["dense", "dst_ee"])
def test_gradients_are_clipped_by_the_norm_over_active_weights(method: str, tmp_path: Path) -> None:
    recipe = replace(TINY, method=method)
    free = norms(recipe, tmp_path)
    limit = sorted(free)[5]
    clipped = norms(replace(recipe, clip=limit), tmp_path)
    assert len(clipped) == 20
    assert max(clipped) == pytest.approx(limit, rel=1e-4)  # also at the update, where the gradient is dense
    assert clipped[0] == pytest.approx(min(free[0], limit), rel=1e-4)
    assert max(free) > 1.1 * limit


def test_every_step_has_a_seed_of_its_own_for_dropout(tmp_path: Path) -> None:
    with Processes.join("cpu") as processes:
        run = Run(TINY, Runtime(), tmp_path, processes)
        for inputs, target in run.batches.epoch(0):
            run._learn(inputs, target, 0.01)
            assert torch.initial_seed() == seed_of(0, run.step - 1, 0)


# ---- link prediction


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 events between 60 nodes, in the file of the recipe's graph."""
    place = tmp_path_factory.mktemp("graphs")
    draws = torch.Generator().manual_seed(0)
    ends = zip(*(torch.randint(bound, (500,), generator=draws).tolist() for bound in (60, 59)), strict=True)
    lines = [f"{u} {(u + 1 + step) % 60} {time}" for time, (u, step) in enumerate(ends)]
    (place / "CollegeMsg-temporal.txt").write_text("\n".join(lines))
    return place


LINKS = replace(RECIPES["linkpred"](), batch_size=64, every=2, epochs=2)


def test_walks_over_all_edges_are_in_the_record_as_a_leak(folder: Path, tmp_path: Path) -> None:
    notes = {}
    for walks in ("train", "all"):
        recipe = replace(LINKS, walks=walks)  # type: ignore[arg-type]
        entry = train(recipe, Runtime(data=folder), folder=tmp_path / walks)
        assert entry.recipe == recipe.identity()
        notes[walks] = entry.result["note"]
    assert notes["all"] == f"{LEAK}; {notes['train']}"


def test_pairs_are_prepared_once_for_all_methods_of_a_seed(folder: Path) -> None:
    def data(**changes: object) -> object:
        task = assembly.build_task(replace(LINKS, **changes), folder)  # type: ignore[arg-type]
        assert isinstance(task, LinkPrediction)
        return task.data

    first = data()
    assert first is data(method="set", sparsity=0.8, epochs=60)
    leaky = data(walks="all")
    assert (data(), data(walks="all")) == (first, leaky)  # a comparison of both prepares each once
    assert first is not leaky
    assert first is not data(seed=1)


def test_a_plan_counts_the_vectors_of_nodes_in_the_model_and_says_so(folder: Path, tmp_path: Path) -> None:
    found = planning.plan(LINKS, folder)
    assert found.total == 16 * 128 + 128
    assert found.model_weights == found.total + 128 + 1 + 60 * 8
    said = planning.text(found)
    result = train(LINKS, Runtime(data=folder), folder=tmp_path).result
    assert f"\n\nNote: {result['note']}.\n" in said
    assert "the word2vec vectors of the 60 nodes are part of the model, dense, counted in size" in result["note"]
    assert 0 < result["bytes_on_disk"] - found.bytes < 8192  # the header
    assert result["model_weights"] == found.model_weights
