"""The grid is complete and has no run twice; finished runs are not repeated; workers change nothing."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rewire import comparison, record
from rewire.comparison import RECORDS, compare, grid, parse_sweeps
from rewire.core.budget import ConstantDensity
from rewire.methods import METHODS
from rewire.recipe import Recipe, Runtime

TINY = Recipe(hidden=(16,), epochs=2, batch_size=64, every=10)  # 40 steps, 3 updates


def silent(line: str) -> None:
    """Announces nothing."""


def test_the_grid_has_dense_once_a_seed() -> None:
    points = grid(TINY, methods=["dense", "set", "dst_ee"], sparsities=[0.9, 0.95], seeds=2)
    found = [(p.seed, p.method, p.sparsity) for p in points]
    assert [place[:2] for place in found] == [
        (s, m) for s in (0, 1) for m in ("dense", "set", "set", "dst_ee", "dst_ee")
    ]
    assert [place[2] for place in found if place[1] == "set"] == [0.9, 0.95] * 2


def test_seeds_count_from_the_recipe_s_own() -> None:
    assert [p.seed for p in grid(replace(TINY, seed=7), methods=["set"], sparsities=[0.9], seeds=3)] == [7, 8, 9]


def test_a_sweep_multiplies_only_what_reads_it() -> None:
    points = grid(
        TINY, methods=["dense", "rigl_itop", "dst_ee"], sparsities=[0.9], seeds=1,
        sweeps=[{"c": [0.0, 1e-3], "scale": ["none", "layer"]}],
    )  # fmt: skip
    assert [point.method for point in points] == ["dense", "rigl_itop"] + 4 * ["dst_ee"]
    assert {(p.c, p.scale) for p in points[2:]} == {(c, s) for c in (0.0, 1e-3) for s in ("none", "layer")}


def test_several_sweeps_are_one_grid_seed_by_seed() -> None:
    words = ["c=0,1e-3", "or", "c=1", "scale=layer", "or", "options=acquisition=epsilon+epsilon=0.3,window=4"]
    points = grid(TINY, methods=["dst_ee"], sparsities=[0.9], seeds=2, sweeps=parse_sweeps(words))
    found = [(point.c, point.scale, point.options) for point in points if point.seed == 0]
    epsilon, window = ("acquisition=epsilon", "epsilon=0.3"), ("window=4",)
    plain = [(0.0, "none", ()), (1e-3, "none", ()), (1.0, "layer", ())]
    assert found == [*plain, (1e-5, "none", epsilon), (1e-5, "none", window)]
    assert [point.seed for point in points] == [0] * 5 + [1] * 5


def test_no_word_is_the_recipe_itself() -> None:
    assert parse_sweeps([]) == [{}]
    assert parse_sweeps(["or", "c=1"]) == [{}, {"c": [1.0]}]


@pytest.mark.parametrize("steps", [40, 1600, 4212])
def test_every_dynamic_method_of_constant_density_updates_equally_often(steps: int) -> None:
    points = grid(TINY, methods=list(METHODS), sparsities=[0.9], seeds=1)
    methods = [point.build_method(steps) for point in points]
    counts = {method.name: method.updates(steps) for method in methods if method.density == ConstantDensity()}
    still = ("dense", "static", "magnitude", "snip", "grasp", "synflow")
    assert {counts.pop(name) for name in still} == {0}
    assert len(counts) > 10
    assert len(set(counts.values())) == 1
    assert min(counts.values()) > 0


def test_rigl_as_published_stops_earlier() -> None:
    points = grid(TINY, methods=["rigl", "rigl_itop"], sparsities=[0.9], seeds=1, equal_updates=False)
    rigl, rigl_itop = (point.build_method(1600).updates(1600) for point in points)
    assert rigl < rigl_itop


def test_no_job_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"jobs=0 runs nothing. Use 1"):
        compare([], Runtime(out=tmp_path), jobs=0)
    with pytest.raises(ValueError, match=r"jobs=2 runs would share it. Use jobs=1 with energy"):
        compare([], Runtime(out=tmp_path, energy=True), jobs=2)


def test_torchrun_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"torchrun started several. Type rewire compare without torchrun"):
        compare([], Runtime(out=tmp_path))


def test_no_seed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"seeds=0 leaves no run. Use at least 1"):
        grid(TINY, methods=["set"], sparsities=[0.9], seeds=0)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("c=0,1e-5", {"c": [0.0, 1e-5]}),
        ("scale=none,layer", {"scale": ["none", "layer"]}),
        ("signed=true,False", {"signed": [True, False]}),
        ("every=10,20", {"every": [10, 20]}),
        ("fraction=none,0.3", {"fraction": [None, 0.3]}),
        ("end-fraction=0.1", {"end_fraction": [0.1]}),
        ("structure=unstructured,2:4", {"structure": ["unstructured", "2:4"]}),
        ("hidden=32+16,8", {"hidden": [(32, 16), (8,)]}),
    ],
)
def test_sweeps_take_the_type_of_their_field(word: str, expected: dict[str, list[Any]]) -> None:
    (found,) = parse_sweeps([word])
    assert found == expected
    name = next(iter(expected))
    assert [type(value) for value in found[name]] == [type(value) for value in expected[name]]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("c", 'sweep "c" names no field of the recipe. Use FIELD=VALUE,VALUE such as c=0,1e-5'),
        ("sea=1", r'sweep "sea=1" names no field .* the fields are task, model, '),
        ("every=often", "every=often is not a number. Use for example every=1"),
        ("signed=maybe", "signed=maybe is neither true nor false"),
    ],
)
def test_sweeps_that_say_nothing_are_refused(word: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_sweeps([word])


def test_finished_runs_are_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = grid(TINY, methods=["dense", "set"], sparsities=[0.9], seeds=2)
    calls = iter([None, None, "the test"])  # lets one run begin, and stops before its second step
    found, missing, _ = compare(
        points, Runtime(out=tmp_path), announce=silent, should_stop=lambda: next(calls, "the test")
    )
    assert (len(found), missing) == (0, 4)
    assert len(list((tmp_path / "unfinished").glob("*/checkpoint.pt"))) == 1

    first, missing, _ = compare(points[:3], Runtime(out=tmp_path), announce=silent)
    assert missing == 0
    assert not list((tmp_path / "unfinished").iterdir())
    assert record.read(tmp_path / RECORDS) == first

    trained: list[Recipe] = []
    train = comparison.train

    def watched(recipe: Recipe, *arguments: Any, **options: Any) -> record.Record:
        trained.append(recipe)
        return train(recipe, *arguments, **options)

    monkeypatch.setattr(comparison, "train", watched)
    said: list[str] = []
    every, missing, _ = compare(
        points, Runtime(out=tmp_path), known=record.read(tmp_path / RECORDS), announce=said.append
    )
    assert missing == 0
    assert trained == points[3:]
    assert said[0] == "3 of 4 runs have a record already and are not repeated."
    assert said[1].startswith("[4/4] digits-mlp-set-0.9-seed1: ")
    assert [entry.recipe for entry in every] == [point.identity() for point in points]


def test_a_comparison_stopped_within_a_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    points = grid(TINY, methods=["set"], sparsities=[0.9], seeds=1)
    whole, _, _ = compare(points, Runtime(out=tmp_path / "whole"), announce=silent)
    calls = iter([None] * 30)
    compare(points, Runtime(out=tmp_path / "parts"), announce=silent, should_stop=lambda: next(calls, "the test"))
    resumed, missing, _ = compare(points, Runtime(out=tmp_path / "parts"), announce=silent)
    assert missing == 0
    assert resumed[0].curves == whole[0].curves


def test_the_time_limit_starts_no_run_after_it(tmp_path: Path) -> None:
    found, missing, _ = compare([TINY], Runtime(out=tmp_path, time_limit="0s"), announce=silent)
    assert (found, missing) == ([], 1)


def test_runs_are_announced_with_what_differs(tmp_path: Path) -> None:
    points = grid(TINY, methods=["dst_ee"], sparsities=[0.9], seeds=1, sweeps=[{"c": [0.0, 0.1]}])
    said: list[str] = []
    compare(points, Runtime(out=tmp_path), announce=said.append)
    assert [line.partition(":")[0] for line in said] == [
        "[1/2] digits-mlp-dst_ee-0.9-seed0 c=0",
        "[2/2] digits-mlp-dst_ee-0.9-seed0 c=0.1",
    ]


def test_workers_give_the_same_records(tmp_path: Path) -> None:
    points = grid(TINY, methods=["dense", "dst_ee"], sparsities=[0.9], seeds=2)
    alone, _, _ = compare(points, Runtime(out=tmp_path / "alone"), announce=silent)
    together, missing, _ = compare(points, Runtime(out=tmp_path / "together"), jobs=2, announce=silent)
    assert missing == 0

    def comparable(entry: record.Record) -> dict[str, Any]:
        result = entry.result | {"seconds": 0, "peak_memory": 0}
        return {"recipe": entry.recipe, "curves": entry.curves, "result": result}

    assert [comparable(entry) for entry in together] == [comparable(entry) for entry in alone]
    assert len(record.read(tmp_path / "together" / RECORDS)) == 4


def test_an_error_in_a_worker_is_told_and_no_other_run_is_lost(tmp_path: Path) -> None:
    points = [TINY, replace(TINY, every=1000)]  # the second would never update
    with pytest.raises(ValueError, match="would never update"):
        compare(points, Runtime(out=tmp_path), jobs=2, announce=silent)
    assert (tmp_path / RECORDS).exists() or list((tmp_path / "unfinished").glob("*/checkpoint.pt"))


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_method_that_does_not_go_with_its_network_is_left_out_alone(jobs: int, tmp_path: Path) -> None:
    granet = replace(TINY, method="granet", structure="neuron")
    points = [granet, replace(TINY, method="srigl", sparsity=0.999), TINY]
    said: list[str] = []
    found, missing, failures = compare(points, Runtime(out=tmp_path), jobs=jobs, announce=said.append)
    assert ([entry.recipe["method"] for entry in found], missing) == ([TINY.method], 0)
    told = sorted(str(error) for _, error in failures)
    assert told[0].startswith("The budget leaves ")
    assert told[1].startswith("granet moves units between layers")
    assert sum(" failed: " in line for line in said) == 2


def test_a_record_from_before_a_field_existed_is_still_known(tmp_path: Path) -> None:
    points = grid(TINY, methods=["set"], sparsities=[0.9], seeds=1)
    (entry,), _, _ = compare(points, Runtime(out=tmp_path / "now"), announce=silent)
    older = replace(entry, recipe={k: v for k, v in entry.recipe.items() if k not in ("label_smoothing", "image_size")})
    assert record.key(older.recipe) != record.key(entry.recipe)
    records, missing, _ = compare(points, Runtime(out=tmp_path / "then"), known=[older], announce=silent)
    assert (records, missing) == ([older], 0)
    assert not (tmp_path / "then" / RECORDS).exists()


def test_a_record_of_a_newer_version_is_not_taken_for_another_run(tmp_path: Path) -> None:
    points = grid(TINY, methods=["set"], sparsities=[0.9], seeds=1)
    (entry,), _, _ = compare(points, Runtime(out=tmp_path / "now"), announce=silent)
    newer = replace(entry, recipe={**entry.recipe, "from_the_future": 1})
    _, missing, _ = compare(points, Runtime(out=tmp_path), known=[newer], announce=silent, should_stop=lambda: "a test")
    assert missing == 1


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_that_diverges_does_not_keep_the_others_from_running(jobs: int, tmp_path: Path) -> None:
    recipe = replace(TINY, weight_decay=1.0)
    points = grid(recipe, methods=["static", "set"], sparsities=[0.9], seeds=1, sweeps=[{"lr": [1e9, 0.1]}])
    said: list[str] = []
    found, missing, failures = compare(points, Runtime(out=tmp_path), jobs=jobs, announce=said.append)
    assert ([entry.recipe["lr"] for entry in found], missing) == ([0.1, 0.1], 0)
    names = [f"digits-mlp-{method}-0.9-seed0 lr=1e+09" for method in ("static", "set")]
    assert sorted(name for name, _ in failures) == sorted(names)
    assert "the run diverged. Lower the learning rate" in str(failures[0][1])
    assert sum(f"{names[0]} failed: The training loss is" in line for line in said) == 1
    written = record.read(tmp_path / RECORDS)  # as they ended, which side by side is in any order
    assert sorted(written, key=lambda entry: entry.recipe["method"], reverse=True) == found
    assert not list((tmp_path / "unfinished").iterdir()), "a checkpoint of a diverged run would diverge again"


def test_options_are_announced_in_the_words_of_the_tables() -> None:
    sweeps = [{"options": [(), ("dst_ee.window=4",)]}]
    points = grid(TINY, methods=["dense", "dst_ee"], sparsities=[0.9], seeds=1, sweeps=sweeps)
    labels = comparison._labels({record.key(point.identity()): point for point in points})
    dense, plain, window = labels.values()
    assert (dense, plain) == ("digits-mlp-dense-seed0", "digits-mlp-dst_ee-0.9-seed0")
    assert re.fullmatch(r"digits-mlp-dst_ee-0.9-seed0 (dst_ee\.)?window=4", window)


def test_records_of_other_data_are_refused(tmp_path: Path) -> None:
    points = grid(TINY, methods=["dense"], sparsities=[0.9], seeds=1)
    known, _, _ = compare(points, Runtime(out=tmp_path), announce=silent)
    assert len(known[0].data) == 16
    others = [replace(known[0], result=known[0].result | {"data": "another"})]
    with pytest.raises(ValueError, match=r"digits-mlp-dense-seed0 is of a run on other data: .* is another, and"):
        compare(points, Runtime(out=tmp_path), known=others, announce=silent)
    before = [replace(known[0], result={k: v for k, v in known[0].result.items() if k != "data"})]
    assert compare(points, Runtime(out=tmp_path), known=before, announce=silent) == (before, 0, [])


def test_data_that_is_not_here_is_no_other_data(tmp_path: Path) -> None:
    """A finished comparison is shown on a machine without its data, unless data is named."""
    points = [replace(TINY, task="linkpred-USAir", method="dense")]
    entry = record.Record(points[0].identity(), "", {}, {}, {}, {"test_accuracy": 0.5, "data": "somewhere"})
    assert compare(points, Runtime(out=tmp_path), known=[entry], announce=silent) == ([entry], 0, [])
    with pytest.raises(FileNotFoundError, match="There is no graph USAir"):
        compare(points, Runtime(out=tmp_path, data=tmp_path), known=[entry], announce=silent)
