"""What a report works out of records; every figure is invented."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewire.record import Record
from rewire.report.derived import derived, noted, one_machine, reference_epochs


def record(**result: object) -> Record:
    return Record({"method": "rigl", "epochs": 30}, "", {}, {}, {}, result)


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9))
def test_parameters_are_the_active_weights_and_all_that_is_never_sparse(active: int, inactive: int, rest: int) -> None:
    total = active + inactive
    found = derived(record(model_weights=total + rest, total_weights=total, active_weights=active), None)
    assert found.result["parameters"] == active + rest


@pytest.mark.parametrize("missing", ["model_weights", "total_weights", "active_weights"])
def test_without_one_of_the_counts_there_are_none(missing: str) -> None:
    counts = {"model_weights": 3, "total_weights": 2, "active_weights": 1, missing: None}
    assert "parameters" not in derived(record(**counts), None).result


def test_flops_are_scaled_by_the_length_and_never_in_place() -> None:
    entry = record(training_flops_ratio=0.5, training_flops_ratio_published=None)
    assert derived(entry, 60).result == {"training_flops_ratio": 0.25, "training_flops_ratio_published": None}
    assert derived(entry, None).result == entry.result
    assert entry.result["training_flops_ratio"] == 0.5


def test_the_reference_is_what_most_have() -> None:
    def recipes(*epochs: int | None) -> list[dict[str, object]]:
        return [{"method": "rigl", "epochs": value} for value in epochs]

    assert reference_epochs(recipes(50, 60, 60)) == 60
    assert reference_epochs(recipes(50, None, 50)) is None
    assert reference_epochs([]) is None
    assert reference_epochs([*recipes(60), {"method": "dense", "epochs": 50}]) == 50


def test_a_note_is_said_once() -> None:
    assert noted([record(note="a; b"), record(note="b; a")]) == "Notes: a; b."
    assert noted([record(note="a"), record()]) == "Notes: a (some runs)."
    assert noted([record(note=""), record(note=None)]) == noted([]) == ""


def test_one_machine_is_processor_accelerator_and_threads() -> None:
    def on(**hardware: object) -> Record:
        return Record({}, "", {}, hardware, {}, {})

    assert one_machine([on(processor="a", threads=1, cores=2), on(processor="a", threads=1, cores=4)])
    assert not one_machine([on(processor="a", threads=1), on(processor="a", threads=2)])
    assert not one_machine([on(processor="a"), on(processor="a", accelerator="b")])
