from collections.abc import Callable

import pytest

from rewire.record import Record
from rewire.report.sections import Section, compare, sections, show

Make = Callable[..., Record]


def only(records: list[Record]) -> Section:
    (section,) = sections(records)
    return section


def test_a_section_for_each_task_and_model(make: Make) -> None:
    records = [
        make("dense", 0, 0),
        make("dense", 0, 0, model="cnn"),
        make("dense", 0, 1),
        make("dense", 0, 0, task="b"),
    ]
    found = sections(records)
    assert [(section.task, section.model) for section in found] == [
        ("made_up", "mlp"),
        ("made_up", "cnn"),
        ("b", "mlp"),
    ]
    assert len(found[0].groups[0].records) == 2


def test_a_group_is_what_differs_in_the_seed_alone(make: Make) -> None:
    section = only([make("set_itop", sparsity, seed) for sparsity in (0.9, 0.95) for seed in range(3)])
    assert [(group.label, group.sparsity, len(group.records)) for group in section.groups] == [
        ("set_itop", 0.9, 3),
        ("set_itop", 0.95, 3),
    ]
    assert section.groups[0].by_seed("updates") == {0: 24, 1: 24, 2: 24}
    assert section.groups[0].summary("nothing of the kind") is None


def test_sweeps_are_told_apart_and_defaults_go_without_saying(make: Make) -> None:
    section = only([make("rigl", 0.95, 0), *(make("dst_ee", 0.95, 0, c=c) for c in (1e-5, 0.01, 0.1))])
    assert section.labels == ["rigl", "dst_ee", "dst_ee c=0.01", "dst_ee c=0.1"]
    assert section.unsaid == {"dst_ee": {"c": 1e-5}}


def test_a_setting_left_to_the_method_is_its_default(make: Make) -> None:
    section = only([make("dst_ee", 0.95, 0, fraction=None), make("dst_ee", 0.95, 1, fraction=0.5)])
    assert [(group.label, len(group.records)) for group in section.groups] == [("dst_ee", 2)]


def test_settings_that_differ_between_methods_are_named(make: Make) -> None:
    section = only([make("rigl", 0.95, 0, epochs=30), make("dst_ee", 0.95, 0, epochs=60)])
    assert section.labels == ["rigl epochs=30", "dst_ee epochs=60"]
    assert compare(section) == []


@pytest.mark.parametrize(
    ("ours", "method", "theirs", "pairs"),
    [
        (50, "admm", 60, [(50, 60)]),
        (60, "admm", 60, [(60, 60)]),
        (60, "admm", 50, []),
        (50, "str", 60, [(50, 60)]),
        (50, "rigl", 60, []),
        (50, "granet", 60, []),  # begins half dense
        (50, "a method of another version", 60, []),
    ],
)
def test_only_what_begins_dense_may_train_for_longer(make: Make, ours, method, theirs, pairs) -> None:
    other = make("rigl", 0.95, 0, epochs=theirs)
    other.recipe["method"] = method
    found = compare(only([make("dst_ee", 0.95, 0, epochs=ours), other]))
    assert [(each.flagship.recipe["epochs"], each.other.recipe["epochs"]) for each in found] == pairs


def test_a_method_that_begins_dense_is_beside_both_lengths_of_the_flagship(make: Make) -> None:
    other = make("rigl", 0.95, 0, epochs=60)
    other.recipe["method"] = "admm"
    found = compare(only([make("dst_ee", 0.95, 0, epochs=60), make("dst_ee", 0.95, 0, epochs=50), other]))
    assert [each.flagship.recipe["epochs"] for each in found if each.other.method == "admm"] == [60, 50]
    assert len(found) == 2
    longer = make("rigl", 0.95, 0, epochs=60, lr=0.2)
    longer.recipe["method"] = "admm"
    assert compare(only([make("dst_ee", 0.95, 0, epochs=50), longer])) == []


def test_walks_over_the_test_edges_are_always_named(make: Make) -> None:
    assert only([make("rigl", 0.95, 0, walks="all"), make("dense", 0, 0, walks="all")]).labels == [
        "dense walks=all",
        "rigl walks=all",
    ]
    assert only([make("rigl", 0.95, 0, walks="train")]).labels == ["rigl"]


def test_sparsity_by_layer_is_placed_at_what_it_came_to(make: Make) -> None:
    entry = make("dst_ee", 0.95, 0)
    entry.recipe["sparsity"] = "*=0.96,head=0.5"
    section = only([entry, make("dst_ee", 0.9, 0)])
    assert [(group.label, group.sparsity) for group in section.groups] == [
        ("dst_ee", 0.9),
        ("dst_ee sparsity=*=0.96,head=0.5", 0.95),
    ]


def test_what_differs_and_what_is_equal(make: Make) -> None:
    section = only([make("dense", 0, 0), make("dst_ee", 0.95, 0), make("dst_ee", 0.95, 1)])
    assert section.differing == {"method": ["dense", "dst_ee"], "sparsity": [0.0, 0.95], "seed": [0, 1]}
    assert {name: section.equal[name] for name in ("every", "c", "epochs")} == {"every": 100, "c": 1e-5, "epochs": 10}


def test_flagship_is_compared_with_every_method_at_equal_sparsity(make: Make) -> None:
    methods = ("dense", "static", "rigl", "dst_ee")
    section = only(
        [make(method, sparsity, seed) for method in methods for sparsity in (0.9, 0.95) for seed in range(3)]
    )
    found = compare(section)
    assert [(each.flagship.label, each.other.label, each.other.sparsity) for each in found] == [
        ("dst_ee", "static", 0.9),
        ("dst_ee", "rigl", 0.9),
        ("dst_ee", "static", 0.95),
        ("dst_ee", "rigl", 0.95),
    ]
    for each in found:
        pairs = zip(each.flagship.records, each.other.records, strict=True)
        gaps = [one.result["test_accuracy"] - two.result["test_accuracy"] for one, two in pairs]
        assert each.difference.mean == pytest.approx(sum(gaps) / 3)
        assert each.flagship.sparsity == each.other.sparsity


def test_runs_that_exclude_other_layers_are_no_fair_pair(make: Make) -> None:
    rest = [make("rigl", 0.95, seed, exclude=["fc"]) for seed in range(2)]
    section = only([make("dst_ee", 0.95, 0), make("dst_ee", 0.95, 1), *rest])
    assert compare(section) == []
    assert section.differing["exclude"] == [[], ["fc"]]
    assert show([]) == "none"


def test_flagship_at_its_defaults_stands_for_it_whatever_the_order(make: Make) -> None:
    sweep = [make("dst_ee", 0.95, seed, c=c) for c in (0.1, 1e-5, 0.01) for seed in range(2)]
    found = compare(only([*sweep, make("rigl", 0.95, 0), make("rigl", 0.95, 1)]))
    assert {each.flagship.label for each in found} == {"dst_ee"}
    assert [each.other.label for each in found] == ["dst_ee c=0.1", "dst_ee c=0.01", "rigl"]


def test_the_first_run_says_what_a_section_is_measured_by(make: Make, measured: Make) -> None:
    assert [measure.name for measure in only([make("dense", 0, 0)]).measures] == ["accuracy"]
    losses = [measured("rigl", 0.9, seed, {"loss": 1.5, "bits_per_character": 2.2}) for seed in range(2)]
    (section,) = sections([*losses, measured("dense", 0, 0, {"auc": 0.5, "loss": 1.25})])
    assert [measure.name for measure in section.measures] == ["loss", "bits_per_character", "auc"]
    assert section.headline is section.measures[0]
    assert section.groups[0].method == "dense"  # first in the section, but not recorded first


def test_p_values_are_corrected_over_the_section(make: Make) -> None:
    accuracies = {"dst_ee": (0.9, 0.8, 0.85), "rigl": (0.88, 0.79, 0.82), "static": (0.8, 0.74, 0.73)}
    records = [
        make(method, 0.95, seed, {"test_accuracy": accuracy})
        for method, values in accuracies.items()
        for seed, accuracy in enumerate(values)
    ]
    rigl, static = compare(only(records))
    assert rigl.difference.p is not None
    assert static.difference.p is not None
    assert static.difference.p < rigl.difference.p
    assert static.p == pytest.approx(2 * static.difference.p)
    assert rigl.p == pytest.approx(max(rigl.difference.p, 2 * static.difference.p))
