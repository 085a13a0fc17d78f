import dataclasses
import json
import math
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rewire import record
from rewire.measures import ACCURACY, MEASURES, Measure
from rewire.record import Record

RECIPE = {"task": "made_up", "model": "mlp", "method": "dst_ee", "sparsity": 0.95, "seed": 0}

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def a_record(seed: int = 0, accuracy: float = 0.5, **recipe: object) -> Record:
    """An invented run."""
    return Record(
        recipe=RECIPE | {"seed": seed} | recipe,
        commit="abc",
        versions={"torch": "2.13.0"},
        hardware={"cores": 2},
        curves={"churn": [0.5, 0.25], "layer_sparsity": {"fc.weight": 0.95}},
        result={"test_accuracy": accuracy},
    )


def test_reads_back_what_was_appended_in_order(tmp_path: Path) -> None:
    records = [a_record(seed=2), a_record(seed=0), a_record(seed=1)]
    for entry in records:
        record.append(tmp_path / "new" / "runs.jsonl", entry)
    assert record.read(tmp_path / "new" / "runs.jsonl") == records
    assert len((tmp_path / "new" / "runs.jsonl").read_text().splitlines()) == 3


def test_entries_keep_their_order(tmp_path: Path) -> None:
    """Layers stand in a report in the order of the model, and settings in that of the recipe."""
    layers = {f"layer{place}.weight": 0.5 for place in (1, 2, 10, 0)}
    record.append(tmp_path / "runs.jsonl", dataclasses.replace(a_record(), curves={"layer_sparsity": layers}))
    (found,) = record.read(tmp_path / "runs.jsonl")
    assert list(found.curves["layer_sparsity"]) == list(layers)
    assert list(found.recipe) == list(RECIPE)


@given(recipe=st.dictionaries(st.text(), plain), curve=plain)
def test_plain_values_survive_the_file(recipe: dict, curve: object) -> None:
    entry = dataclasses.replace(a_record(), recipe=recipe | RECIPE, curves={"curve": curve})
    line = json.dumps(dataclasses.asdict(entry)).encode()
    assert record._parse(line, where="here") == entry


def test_nan_and_infinity_become_null(tmp_path: Path) -> None:
    entry = dataclasses.replace(a_record(), curves={"train_loss": [1.0, math.nan, math.inf]})
    record.append(tmp_path / "runs.jsonl", entry)
    assert "NaN" not in (tmp_path / "runs.jsonl").read_text()
    assert record.read(tmp_path / "runs.jsonl")[0].curves == {"train_loss": [1.0, None, None]}


def test_folder_stands_for_the_files_below_it(tmp_path: Path) -> None:
    record.append(tmp_path / "b.jsonl", a_record(seed=1))
    record.append(tmp_path / "a" / "runs.jsonl", a_record(seed=0))
    (tmp_path / "notes.txt").write_text("not a record")
    assert record.read([tmp_path]) == [a_record(seed=0), a_record(seed=1)]


def test_recipe_recorded_twice_counts_once_with_its_last_record(tmp_path: Path) -> None:
    record.append(tmp_path / "committed.jsonl", a_record(accuracy=0.25))
    record.append(tmp_path / "local.jsonl", a_record(accuracy=0.75))
    with pytest.warns(UserWarning, match="local.jsonl hold 1 run with other figures; the second file counts"):
        found = record.read([tmp_path / "committed.jsonl", tmp_path / "local.jsonl"])
    assert [entry.result["test_accuracy"] for entry in found] == [0.75]


def test_a_conflict_says_what_differs_once_for_all_runs(tmp_path: Path) -> None:
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    for seed in (0, 1):
        record.append(one, a_record(seed=seed))
        again = dataclasses.replace(a_record(seed=seed, accuracy=0.75), commit="def", hardware={"cores": 4})
        record.append(other, again)
    with pytest.warns(UserWarning, match="2 runs") as found:
        record.read([one, other])
    assert [str(warning.message) for warning in found] == [
        f"{one} and {other} hold 2 runs with other figures; the second file counts, as it was read last. Of made_up "
        "mlp dst_ee 0.95 seed 0, test_accuracy is 0.5 and 0.75; commit is abc and def; cores is 2 and 4. Leave out one "
        "of the files, or name the one that shall count last."
    ]
    record.append(one, a_record(seed=0, accuracy=0.25))
    with pytest.warns(UserWarning, match=f"{one} holds 1 run twice with other figures; the last line counts. Of made"):
        record.read(one)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"curves": {"churn": [0.5, 0.25], "dead_units": [3, 4]}},  # a diagnosis
        {"result": {"test_accuracy": 0.5, "seconds": 2.0, "peak_memory": 7, "data": "of a later version"}},
        {"hardware": {"cores": 64}, "commit": "def"},
    ],
    ids=str,
)
def test_a_run_repeated_with_the_same_figures_is_no_conflict(change: dict, tmp_path: Path) -> None:
    first = dataclasses.replace(a_record(), result={"test_accuracy": 0.5, "seconds": 1.0, "peak_memory": 5})
    record.append(tmp_path / "runs.jsonl", first)
    record.append(tmp_path / "runs.jsonl", dataclasses.replace(first, **change))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(record.read(tmp_path)) == 1


def test_key_depends_on_content_alone() -> None:
    assert record.key({"seed": 0, "hidden": (256, 256)}) == record.key({"hidden": [256, 256], "seed": 0})
    assert record.key({"c": 0, "lr": 1}) == record.key({"c": 0.0, "lr": 1.0})
    assert record.key({"c": 1e-5}) != record.key({"c": 1e-4})
    assert record.key({"signed": False}) != record.key({"signed": None})


def test_key_stays_the_same_over_versions() -> None:
    """Committed records are found again by it: a new value here makes `compare` repeat every one of them."""
    assert record.key(RECIPE) == "433050c58b28d0aa"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"recipe": {"task": "dig', "it is not whole JSON"),
        ("\x00\xff", "it is not whole JSON"),
        ("[1, 2]", "it holds a list, not an object"),
        ('{"format": 1, "loss": 3}', "it lacks recipe, commit, versions, hardware, curves, result and it has loss"),
    ],
)
def test_bad_line_is_named_by_file_and_number(tmp_path: Path, line: str, why: str) -> None:
    path = tmp_path / "runs.jsonl"
    record.append(path, a_record())
    with path.open("ab") as file:
        file.write(line.encode("latin-1"))
    with pytest.raises(ValueError, match="is not a record of a run") as found:
        record.read(path)
    message = str(found.value)
    assert message.startswith(f"{path}, line 2 ")
    assert why in message
    assert "Delete that line and run the same comparison again" in message


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"recipe": RECIPE | {"seed": 0}, "result": {}}, "test_accuracy is None, not a fraction in [0, 1]"),
        ({"result": {"test_accuracy": 97.2}}, "test_accuracy is 97.2, not a fraction in [0, 1]"),
        ({"recipe": {"task": "digits", "method": "set"}}, "its recipe lacks model, sparsity, seed"),
        ({"curves": [1, 2]}, "its curves is a list, not an object"),
    ],
)
def test_record_that_a_report_could_not_use_is_refused(tmp_path: Path, change: dict, why: str) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text(json.dumps(dataclasses.asdict(a_record()) | change) + "\n")
    with pytest.raises(ValueError, match="line 1 is not a record of a run") as found:
        record.read(path)
    assert why in str(found.value)


LOSS = {"measures": ["loss", "bits_per_character"], "test_loss": 1.4826}
UNKNOWN = {"measures": ["perplexity"]}  # of a newer version or another package: read as a share


@pytest.mark.parametrize(
    ("result", "measures"),
    [
        ({"test_accuracy": 0.5}, (ACCURACY,)),
        ({"measures": ["accuracy", "auc"], "test_accuracy": 1, "test_auc": None}, (ACCURACY, MEASURES["auc"])),
        (LOSS, (MEASURES["loss"], MEASURES["bits_per_character"])),
        (LOSS | {"test_loss": 0}, (MEASURES["loss"], MEASURES["bits_per_character"])),
        (UNKNOWN | {"test_perplexity": 0.25}, (Measure("perplexity"),)),
    ],
)
def test_a_record_says_what_its_run_was_measured_by(tmp_path: Path, result: dict, measures: tuple) -> None:
    entry = dataclasses.replace(a_record(), result=result)
    record.append(tmp_path / "runs.jsonl", entry)
    (found,) = record.read(tmp_path)
    assert found == entry
    assert found.measures == measures
    assert found.headline == measures[0]


@pytest.mark.parametrize(
    ("result", "why"),
    [
        ({"measures": ["auc"], "test_auc": 1.5, "test_accuracy": 0.5}, "test_auc is 1.5, not a fraction in [0, 1]"),
        (LOSS | {"test_loss": math.nan}, "test_loss is None, not a finite number"),
        (LOSS | {"test_loss": "1.5"}, "test_loss is '1.5', not a finite number"),
        (LOSS | {"test_loss": 10**400}, "0, not a finite number"),
        (UNKNOWN | {"test_perplexity": 12.5}, "test_perplexity is 12.5, not a fraction in [0, 1]"),
        ({"measures": [], "test_accuracy": 0.5}, "measures is [], not a list of names"),
        ({"measures": "loss", "test_loss": 0.5}, "measures is 'loss', not a list of names"),
        ({"measures": [["loss"]], "test_loss": 0.5}, "measures is [['loss']], not a list of names"),
    ],
)
def test_a_run_without_a_figure_of_its_headline_is_refused(tmp_path: Path, result: dict, why: str) -> None:
    record.append(tmp_path / "runs.jsonl", dataclasses.replace(a_record(), result=result))
    with pytest.raises(ValueError, match="line 1 is not a record of a run: its result's ") as found:
        record.read(tmp_path)
    assert f"{why}. Delete that line" in str(found.value)


def test_an_infinite_loss_that_another_program_wrote_is_refused(tmp_path: Path) -> None:
    line = json.dumps(dataclasses.asdict(dataclasses.replace(a_record(), result=LOSS | {"test_loss": -math.inf})))
    (tmp_path / "runs.jsonl").write_text(line)
    with pytest.raises(ValueError, match="test_loss is -inf, not a finite number"):
        record.read(tmp_path)


def test_measures_of_runs_are_each_there_once_the_first_run_s_headline_first() -> None:
    loss, accuracy = dataclasses.replace(a_record(), result=LOSS), a_record()
    assert [each.name for each in record.measures_of([loss, accuracy, loss])] == [
        "loss",
        "bits_per_character",
        "accuracy",
    ]
    assert record.measures_of([accuracy, loss])[0] is ACCURACY


def test_later_format_asks_for_the_version_that_wrote_it(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text(json.dumps(dataclasses.asdict(a_record()) | {"format": 2}) + "\n")
    with pytest.raises(ValueError, match=r"line 1 has format 2, but this version of rewire reads format 1\. Install"):
        record.read(path)


def test_missing_file_and_empty_folder_say_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.jsonl does not exist, so there are no records to read"):
        record.read(tmp_path / "none.jsonl")
    with pytest.raises(FileNotFoundError, match=r"has no \.jsonl file in it"):
        record.read(tmp_path)


def test_line_after_a_cut_one_stays_whole(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text('{"recipe": {"task"')
    record.append(path, a_record())
    with pytest.raises(ValueError, match="line 1 "):
        record.read(path)
    path.write_text(path.read_text().split("\n", 1)[1])
    assert record.read(path) == [a_record()]


def test_full_disk_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "runs.jsonl"
    record.append(path, a_record())
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record.os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as found:
        record.append(path, a_record(seed=1))
    assert "the file was left as it was. Free some space and run the same command again" in str(found.value)
    assert path.read_bytes() == before


def test_surroundings_are_plain_values_without_names_of_people_or_places() -> None:
    found = {"commit": record.commit(), "versions": record.versions(), "hardware": record.hardware()}
    assert json.loads(json.dumps(found)) == found
    assert found["versions"]["torch"] == torch.__version__
    assert found["hardware"]["threads"] == torch.get_num_threads()
    assert set(found["hardware"]) == {"processor", "cores", "threads", "system"}
    assert str(Path.home()) not in json.dumps(found)


def test_commit_is_empty_outside_of_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(record, "__file__", str(tmp_path / "record.py"))
    assert record.commit() == ""
