"""A recipe checks itself, knows what it reads, and lays its method over the run."""

import re
from dataclasses import replace

import pytest

from rewire.core.structure import NM, Block, FanIn, Neuron, Unstructured
from rewire.methods import METHODS, dst_ee, rigl_itop
from rewire.recipe import Recipe, Runtime, seconds_of, sparsities_of, structure_of
from rewire.recipes import RECIPES
from rewire.record import key
from rewire.tasks import kind

TRAINING_IMAGES = {
    "digits": 1437,
    "cifar10": 50_000,
    "cifar100": 50_000,
    "folder": 1_281_167,
    "imagenet": 1_281_167,
    "linkpred-CollegeMsg-temporal": 2 * 59_835 * 4 // 5,  # pairs: four fifths of the edges, and as many non-edges
    "gnn-planetoid-cora": 1,  # the whole graph
    "shakespeare": 1_003_854 // 256,  # crops
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_named_recipe_updates_at_least_twenty_times(name: str) -> None:
    recipe = RECIPES[name]()
    images = TRAINING_IMAGES[recipe.task]
    if kind(recipe.task) in ("images", "linkpred"):
        images -= round(recipe.validation * images)
    steps = recipe.epochs * (images // (1 if kind(recipe.task) == "gnn" else recipe.batch_size))
    assert recipe.build_method(steps).updates(steps) >= 20


@pytest.mark.parametrize("name", ["digits", "cifar10-mlp", "cifar10-cnn", "cifar10-resnet20"])
def test_the_docstring_says_the_right_number_of_updates(name: str) -> None:
    recipe = RECIPES[name]()
    images = TRAINING_IMAGES[recipe.task]
    steps = recipe.epochs * ((images - round(recipe.validation * images)) // recipe.batch_size)
    words = (RECIPES[name].__doc__ or "").replace("10 530", "10530")
    assert f"{steps} steps, {recipe.build_method(steps).updates(steps)}" in words


def test_the_method_takes_what_the_recipe_says() -> None:
    recipe = Recipe(method="dst_ee", every=7, c=0.5, eps=2.0, fraction=0.4, signed=True, regrow=False, scale="layer")
    expected = dst_ee(steps=100, every=7, c=0.5, eps=2.0, fraction=0.4, signed=True, regrow=False, scale="layer")
    assert recipe.build_method(100) == expected


def test_none_leaves_the_choice_to_the_method() -> None:
    assert Recipe(method="rigl_itop", every=10).build_method(100) == rigl_itop(steps=100, every=10)


@pytest.mark.parametrize("method", METHODS)
def test_what_a_method_does_not_read_does_not_tell_runs_apart(method: str) -> None:
    recipe = Recipe(method=method)
    same = {name for name in ("c", "every", "end_fraction") if recipe.identity()[name] is None}
    for name in ("c", "every"):
        changed = replace(recipe, **{name: 17})  # type: ignore[arg-type]
        assert (key(changed.identity()) == key(recipe.identity())) == (name in same)


def test_only_dst_ee_reads_c_and_no_fixed_mask_reads_every() -> None:
    assert [name for name in METHODS if Recipe(method=name).identity()["c"] is not None] == ["dst_ee"]
    without = [name for name in METHODS if Recipe(method=name).identity()["every"] is None]
    assert without == ["dense", "static", "magnitude", "snip", "grasp", "synflow", "str"]


def test_dense_runs_are_one_run_at_any_sparsity() -> None:
    assert Recipe(method="dense", sparsity=0.9).identity() == Recipe(method="dense", sparsity=0.5).identity()
    assert Recipe(method="dense").identity()["sparsity"] == 0


def test_a_runtime_is_no_part_of_the_identity() -> None:
    assert not set(vars(Runtime())) & set(Recipe().identity())


@pytest.mark.parametrize(
    ("text", "structure"),
    [
        ("unstructured", Unstructured()),
        ("fan_in", FanIn()),
        ("neuron", Neuron()),
        ("2:4", NM(2, 4)),
        ("1:16", NM(1, 16)),
        ("block:16x1", Block(16, 1)),
    ],
)
def test_structures_by_name(text: str, structure: object) -> None:
    assert structure_of(text) == structure


@pytest.mark.parametrize(
    ("text", "seconds"), [(None, float("inf")), ("90", 90), ("90s", 90), ("9m", 540), ("1.5h", 5400)]
)
def test_durations(text: str | None, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    ("value", "expected"), [(0.95, 0.95), ("0.9", None), ("*=0.95, fc=0.5", {"*": 0.95, "fc": 0.5}), (0, 0)]
)
def test_sparsities(value: float | str, expected: object) -> None:
    if expected is None:
        with pytest.raises(ValueError, match=r'neither a number nor a list of layers. Use for example 0.95 or "'):
            sparsities_of(value)
    else:
        assert sparsities_of(value) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "rigle"}, 'method="rigle" is unknown. Use one of dense, static, magnitude, '),
        ({"task": "mnist"}, 'task="mnist" is unknown. Use one of digits, cifar10, cifar100, folder.'),
        ({"scale": "weight"}, 'scale="weight" is unknown. Use one of none, layer.'),
        ({"structure": "2x4"}, 'structure="2x4" is unknown. Use unstructured, fan_in, neuron, N:M such as 2:4'),
        ({"structure": "2:4"}, r"fixes the sparsity at 0.5, and sparsity=0.95 contradicts it. Give sparsity=0.5"),
        ({"sparsity": 1.0}, r"sparsity=1.0 is outside \[0, 1\): .* Use for example sparsity=0.95"),
        ({"sparsity": "fc=1.5"}, r"sparsity=1.5 for 'fc' is outside \[0, 1\)"),
        ({"epochs": 0}, "epochs=0 leaves nothing to do. Use a whole number of at least 1"),
        ({"every": 0}, "every=0 leaves nothing to do"),
        ({"validation": 0.0}, "choices would have to be made on the test set. Use a number between 0 and 1"),
        ({"lr": -0.1}, "lr=-0.1 trains nothing. Use a positive number"),
        ({"momentum": 1.5}, r"momentum=1.5 is outside \[0, 1\)"),
        ({"label_smoothing": 2.0}, r"label_smoothing=2.0 is outside \[0, 1\)"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0 is below 0. Use 0 for none"),
        ({"warmup_epochs": -1.0}, "warmup_epochs=-1.0 is below 0. Use 0 for none"),
        ({"clip": -1.0}, "clip=-1.0 is below 0. Use 0 for none"),
        ({"end_lr": 0.2}, "lr=0.1 cannot fall to end_lr=0.2. Use a number from 0 to 0.1"),
        ({"end_lr": -0.1}, "lr=0.1 cannot fall to end_lr=-0.1. Use a number from 0 to 0.1"),
        ({"beta2": 1.0}, r"beta2=1.0 is outside \[0, 1\)"),
        ({"walks": "test"}, 'walks="test" is unknown. Use one of train, all'),
        ({"stop": 2.0}, "stop=2.0 is no share of the run. Use a number above 0 and up to 1"),
        ({"hidden": (256, 0)}, r"hidden=\(256, 0\) has a layer without units. Use at least 1"),
    ],
)
def test_what_cannot_work_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"time_limit": "soon"}, 'time_limit="soon" is not a duration. Use for example 90s, 9m or 1.5h'),
        ({"evaluate_every": 0}, "evaluate_every=0 is not a number of epochs. Use 1"),
        ({"threads": 0}, "threads=0 could compute nothing. Use at least 1"),
        ({"checkpoint_seconds": -1.0}, "checkpoint_seconds=-1.0 is no time. Use 0"),
    ],
)
def test_what_cannot_be_a_runtime_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Runtime(**changes)  # type: ignore[arg-type]


def test_a_recipe_that_excludes_nothing_is_the_run_it_was_before_it_could() -> None:
    assert "exclude" not in Recipe().identity()
    assert "exclude" not in Recipe(method="dense", exclude=("fc1",)).identity()
    identity = Recipe(exclude=("fc1",)).identity()
    assert identity["exclude"] == ["fc1"]
    assert Recipe.of(identity) == Recipe(exclude=("fc1",))


def test_the_sparsity_that_a_message_gives_for_a_structure_is_taken() -> None:
    with pytest.raises(ValueError, match=r"Give sparsity=0.666667, or another structure"):
        Recipe(structure="1:3")
    assert Recipe(structure="1:3", sparsity=0.666667).sparsity == 0.666667


def test_a_method_that_would_never_update_is_refused() -> None:
    with pytest.raises(ValueError, match="would never update"):
        Recipe(method="rigl", every=1000).build_method(500)


# ---- settings that one method has


def test_options_reach_the_method_and_the_identity() -> None:
    plain, soft = Recipe(method="mest"), Recipe(method="mest", options=("soft=true",))
    assert soft.build_method(1000) != plain.build_method(1000)
    assert "options" not in plain.identity()
    assert soft.identity() == plain.identity() | {"options": ["soft=true"]}
    assert Recipe.of(soft.identity()) == soft
    trained = Recipe(method="top_kast", options=("trained=3", "penalty=1e-3")).build_method(1000)
    assert trained.trained == 3.0


def test_an_option_for_one_of_several_methods_is_no_matter_of_the_others() -> None:
    words = ("mest.soft=true", "granet.initial_sparsity=0")
    assert Recipe(method="set", options=words).identity() == Recipe(method="set").identity()
    prefixed, alone = Recipe(method="mest", options=words), Recipe(method="mest", options=("soft=true",))
    assert prefixed.identity() == alone.identity()
    assert prefixed.build_method(1000) == alone.build_method(1000)


@pytest.mark.parametrize(
    ("method", "word", "text"),
    [
        (
            "mest",
            "softly=true",
            'options="softly=true" is nothing that mest takes. It takes penalty=VALUE, soft=VALUE, '
            "and the flags --every, --fraction.",
        ),
        ("static", "soft=true", 'options="soft=true" is nothing that static takes. It takes none.'),
        ("mest", "soft", 'options="soft" is nothing that mest takes.'),
        ("mest", "every=3", 'options="every=3" is a setting of its own. Use --every 3.'),
        ("mest", "mst.soft=true", 'options="mst.soft=true" is for "mst", which is no method.'),
        ("mest", "soft=perhaps", "soft=perhaps is neither true nor false."),
        ("mest", "penalty=much", "penalty=much is not a number."),
    ],
)
def test_an_option_that_a_method_does_not_take_is_refused(method: str, word: str, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        Recipe(method=method, options=(word,))


def test_what_a_method_brings_itself_is_in_the_identity() -> None:
    assert Recipe(method="srigl").identity()["structure"] == "fan_in"
    assert Recipe(method="snip").identity()["distribution"] == "global"
    assert Recipe(method="srigl").identity() == Recipe(method="srigl", structure="fan_in").identity()


# ---- tasks that are not images


def test_a_task_reads_what_it_can() -> None:
    graph, text = Recipe(task="gnn-cora", model="gcn").identity(), Recipe(task="shakespeare", model="gpt").identity()
    assert graph["batch_size"] is graph["augment"] is text["augment"] is None
    assert text["context"] == 256
    assert "context" not in graph
    assert "context" not in Recipe().identity()


@pytest.mark.parametrize("task", ["cifar11", "linkpred", "gnn-", "linkpred_cora"])
def test_a_task_that_is_none_is_refused(task: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f'task="{task}" is unknown. Use one of digits, cifar10')):
        Recipe(task=task)


# ---- fields that came later


@pytest.mark.parametrize(
    ("recipe", "before"),
    [  # the keys that these recipes had before there was any of the fields below
        (Recipe(), "4b7624b3fbd0f553"),
        (Recipe(task="linkpred-g"), "a7bb1b2266880b8e"),
        (Recipe(task="gnn-g", model="gcn", optimizer="adamw"), "dade763a7e870296"),
        (Recipe(task="shakespeare", model="gpt", optimizer="adamw"), "aa193e58ceb3f4b4"),
        (Recipe(task="cifar10", model="vgg19", method="dense", schedule="steps"), "c21c556b335d6f67"),
    ],
)
def test_a_recorded_run_keeps_its_key(recipe: Recipe, before: str) -> None:
    assert key(recipe.identity()) == before


LINKS, ADAMW = Recipe(task="linkpred-g"), Recipe(optimizer="adamw")


@pytest.mark.parametrize(
    ("recipe", "changes", "read"),
    [
        (LINKS, {"walks": "all"}, True),
        (Recipe(task="gnn-g", model="gcn"), {"walks": "all"}, False),
        (Recipe(), {"walks": "all"}, False),
        (ADAMW, {"beta2": 0.99}, True),
        (Recipe(), {"beta2": 0.99}, False),
        (Recipe(schedule="cosine"), {"end_lr": 0.01}, True),
        (Recipe(schedule="linear"), {"end_lr": 0.01}, True),
        (Recipe(schedule="steps"), {"end_lr": 0.01}, False),
        (Recipe(schedule="constant"), {"end_lr": 0.01}, False),
        (Recipe(), {"clip": 1.0}, True),
        (Recipe(method="dense"), {"clip": 1.0}, True),
    ],
)
def test_a_later_field_is_in_the_identity_where_it_is_read_and_says_something(
    recipe: Recipe, changes: dict[str, object], read: bool
) -> None:
    changed = replace(recipe, **changes)  # type: ignore[arg-type]
    assert changed.identity() == recipe.identity() | (changes if read else {})
    assert not changes.keys() & recipe.identity().keys()
    assert Recipe.of(changed.identity()).identity() == changed.identity()
