"""The command: what it prints, what it writes, and how it fails."""

import builtins
import errno
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rewire import record
from rewire.cli import COMMANDS, main
from rewire.methods import METHODS
from rewire.recipe import Recipe
from rewire.recipes import RECIPES
from rewire.recipes.published import PUBLISHED
from rewire.tasks.models import MODELS

TINY = ["--hidden", "16", "--epochs", "2", "--batch-size", "64", "--every", "10"]


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Returns the exit status, what was printed, and what was printed to stderr."""
    try:
        main(words)
        status = 0
    except SystemExit as exit_:
        status = int(exit_.code or 0)
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_usage_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"], ["-h"]):
        status, out, _ = run(capsys, *words)
        assert status == 0
        assert all(f"  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("command", ["train", "compare", "plan"])
def test_help_comes_from_the_recipe(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, command, "digits", "--help")
    assert status == 0
    words = " ".join(out.replace("│", " ").split())
    assert "--sparsity" in words
    assert "Share of the sparse layers' weights that are zero" in words
    assert "Checks nothing" not in words


def test_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "list")
    assert all(f"  {name} " in out for name in (*RECIPES, *METHODS))
    assert ", ".join(MODELS) in out
    assert "digits, cifar10, cifar100" in out


def test_plan_takes_flags(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "plan", "digits", *TINY, "--sparsity", "0.9", "--method", "set")
    assert status == 0
    assert "set on digits with mlp: 40 steps, 3 topology updates" in out
    assert "118 of 1,184" in out


def test_train_ends_with_a_table_and_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "train", "digits", *TINY, "--out", str(tmp_path))
    assert status == 0
    table = [line.split("|")[1].strip() for line in out.splitlines() if line.startswith("| ")]
    assert table == ["method", "dense", "dst_ee"]
    assert "epoch 2/2" in out
    assert "images/s" in out
    assert "explored" in out
    assert f"report  {tmp_path / 'report.html'}" in out
    assert "<html" in (tmp_path / "report.html").read_text()
    # The baseline comes last, so that what is wrong with a recipe is told at once.
    methods = [entry.recipe["method"] for entry in record.read(tmp_path / "records.jsonl")]
    assert methods == ["dst_ee", "dense"]
    assert len(list(tmp_path.glob("digits-mlp-dst_ee-0.95-seed0-*/model.safetensors"))) == 1


def test_train_without_a_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "train", "digits", *TINY, "--no-baseline", "--method", "set", "--out", str(tmp_path))
    assert [entry.recipe["method"] for entry in record.read(tmp_path / "records.jsonl")] == ["set"]


def test_the_command_that_is_printed_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "digits", *TINY, "--no-baseline", "--out", str(tmp_path)]
    status, out, _ = run(capsys, *words, "--time-limit", "0s")
    assert status == 0
    assert "Stopped by the time limit after 1 of 40 steps." in out
    assert out.splitlines()[-1] == f"  rewire {' '.join(words)} --time-limit 0s --resume"
    status, out, _ = run(capsys, *words, "--resume")
    assert status == 0
    assert "| dst_ee |" in out
    before = (tmp_path / "records.jsonl").read_text()
    run(capsys, *words, "--resume")
    assert (tmp_path / "records.jsonl").read_text() == before


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(tmp_path: Path) -> None:
    words = ["train", "digits", "--epochs", "2000", "--no-baseline", "--threads", "1", "--out", str(tmp_path)]
    process = subprocess.Popen([sys.executable, "-m", "rewire.cli", *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "epoch 1/2000" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    assert "Stopped by Ctrl-C after " in out
    assert out.splitlines()[-1] == f"  rewire {' '.join(words)} --resume"
    assert len(list(tmp_path.glob("digits-mlp-dst_ee-0.95-seed0-*/checkpoint.pt"))) == 1


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "train",
            "The last checkpoint, if one was written, is whole.\nResume it with\n  rewire train digits --resume\n",
        ),
        ("compare", "Finished runs are kept. The same command goes on:\n  rewire compare digits\n"),
    ],
)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "The disk is full.")], ids=repr)
def test_a_second_ctrl_c_and_a_full_disk_say_how_to_go_on(
    error: BaseException,
    command: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*arguments: Any) -> int:
        raise error

    monkeypatch.setitem(COMMANDS, command, (COMMANDS[command][0], broken))
    status, out, err = run(capsys, command, "digits")
    assert status == (130 if isinstance(error, KeyboardInterrupt) else 2)
    assert (out + err).endswith(message)
    assert (out + err).startswith("Stopped at once. " if status == 130 else "rewire: The disk is full. ")


def test_compare_prints_tables_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "digits", *TINY, "--methods", "dense", "set", "dst_ee", "--sparsities", "0.9", "--seeds", "2"]
    status, out, _ = run(capsys, *words, "--out", str(tmp_path), "--time-limit", "0s")
    assert status == 0
    assert "6 of 6 runs are still missing. The same command goes on:\n  rewire compare digits" in out
    status, out, _ = run(capsys, *words, "--out", str(tmp_path))
    assert status == 0
    assert "[6/6] digits-mlp-dst_ee-0.9-seed1" in out
    assert "| dst_ee minus set |" in out
    assert "p after Holm" in out
    status, out, _ = run(capsys, *words, "--out", str(tmp_path / "other"), "--records", str(tmp_path))
    assert "6 of 6 runs have a record already and are not repeated." in out
    status, out, _ = run(capsys, "report", str(tmp_path / "records.jsonl"), "--out", str(tmp_path / "page.html"))
    assert status == 0
    assert "| dst_ee minus set |" in out
    assert "<html" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], '"trian" is no command of rewire. Use one of train, compare, plan, list, report.'),
        (["train", "digits", "--sparsity", "1.5"], "sparsity=1.5 is outside [0, 1)"),
        (["train", "digits", "--method", "adam"], 'method="adam" is unknown. Use one of dense, static'),
        (["train", "digits", "--model", "vit"], "Unknown model 'vit'. Known: mlp, mlp_chts, cnn"),
        (["train", "digits", "--every", "5000"], "would never update"),
        (["train", "digits", "--time-limit", "soon"], 'time_limit="soon" is not a duration'),
        (["train", "digits", "--device", "tpu"], 'device="tpu" cannot be used here'),
        (["train", "digits", "--sparsity", "*=0.9,fc9=0.5"], "'fc9', which matches no sparse layer"),
        (["train", "digits", "--sparsity", "0.99999"], "would be cut off"),
        (["train", "cifar10-mlp", "--data", "/nowhere"], "No CIFAR-10: there is no folder /nowhere"),
        (["train", "images-resnet50"], "no folder was given. Type: --data DIR"),
        (["compare", "paper/linkpred", "--seeds", "0"], "seeds=0 leaves no run. Use at least 1"),
        (
            ["compare", "paper/cifr"],
            '"paper/cifr" is no recipe and no published table. Use one of the recipes ',
        ),
        (["compare", "paper/cifr"], "or of the tables paper/cifar, paper/linkpred, paper/imagenet."),
        (["compare", "digits", "--sweep", "sea=1"], 'sweep "sea=1" names no field'),
        (["compare", "digits", "--records", "/nowhere"], "/nowhere does not exist"),
        (["report"], "No records to report on. Name a file of records or a folder with some, such as results/."),
        (
            ["train", "digits", "--method", "rigl", "--c", "1"],
            "rigl takes no c, so --c 1.0 would change nothing. It takes every, fraction, stop. Leave that flag out",
        ),
        (["train", "digits", "--method", "dense", "--every", "9"], "dense takes no every, so --every 9 would"),
        (["train", "linkpred-seal-USAir"], "For the graph seal-USAir: linkpred --task linkpred-seal-USAir."),
        (["train", "gnn-seal-USAir"], "For the graph seal-USAir: gnn-gcn --task gnn-seal-USAir."),
        (["report", "/nowhere"], "/nowhere does not exist, so there are no records to read"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_one_clear_message(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = [] if words[0] in ("trian", "report") else ["--out", str(tmp_path)]
    status, _, err = run(capsys, *words, *out)
    assert status == 2
    assert err.startswith("rewire: ")
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("*.jsonl"))


def test_an_unknown_recipe_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "train", "digitz")
    assert status == 2
    assert "digitz" in err
    assert "cifar10-mlp" in err


@pytest.mark.parametrize("package", ["tyro", "rich.console", "safetensors.torch"])
def test_a_missing_package_says_what_to_type(
    package: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import_ = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == package:
            raise ImportError(f"No module named {name!r}")
        return import_(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    status, _, err = run(capsys, "train", "digits", *TINY, "--out", str(tmp_path))
    assert status == 2
    assert 'pip install "rewire[cli]"' in err
    assert len(err.strip().splitlines()) == 1


def test_a_read_only_folder_is_one_clear_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    status, _, err = run(capsys, "train", "digits", *TINY, "--out", str(tmp_path / "file" / "runs"))
    assert status == 2
    assert "cannot be made (Not a directory), so there is no place for checkpoints" in err
    assert "Give a folder of your own: --out DIR." in err


def test_a_bug_shows_where_it_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(command: object, words: object) -> int:
        raise KeyError("a bug")

    monkeypatch.setitem(COMMANDS, "list", (COMMANDS["list"][0], broken))
    with pytest.raises(KeyError):
        main(["list"])


def test_report_makes_the_tables_of_a_page_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "train", "digits", *TINY, "--out", str(tmp_path))
    page = tmp_path / "page.md"
    page.write_text("# Ours\n<!-- table: accuracy digits mlp -->\n<!-- end of table -->\n")
    words = ("report", str(tmp_path), "--out", str(tmp_path / "report.html"), "--refresh", str(page))
    status, out, _ = run(capsys, *words)
    assert status == 0
    assert f"tables  {page}" in out
    assert "| dst_ee |" in page.read_text()
    page.write_text("<!-- table: accuracy digits cnn -->\n<!-- end of table -->\n")
    status, _, error = run(capsys, *words)
    assert status == 2
    assert 'wants a table of "digits cnn", but the records hold digits mlp' in error
    assert "dst_ee" not in page.read_text()


def test_the_help_of_a_published_table_names_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "compare", "paper/cifar", "--help")
    assert status == 0
    assert all(name in "".join(out.replace("│", " ").split()) for name in PUBLISHED)


def test_a_published_table_may_be_compiled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Recipe] = []
    monkeypatch.setattr(
        "rewire.comparison.compare", lambda recipes, *rest, **more: (asked.extend(recipes), ([], 0, []))[1]
    )
    for flags in ([], ["--compile"]):
        asked.clear()
        assert run(capsys, "compare", "paper/cifar", "--seeds", "1", "--out", str(tmp_path), *flags)[0] == 0
        assert {recipe.compile for recipe in asked} == {bool(flags)}


def test_a_report_lies_beside_its_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = record.Record(Recipe(method="dense").identity(), "", {}, {}, {}, {"test_accuracy": 0.5})
    record.append(tmp_path / "runs" / "here" / "records.jsonl", entry)
    for runs, place in (("runs", "runs"), ("runs/here/records.jsonl", "runs/here")):
        status, out, _ = run(capsys, "report", str(tmp_path / runs))
        assert status == 0
        assert f"report  {tmp_path / place / 'report.html'}" in out
        assert (tmp_path / place / "report.html").exists()


def test_a_run_that_diverges_is_named_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "digits", *TINY, "--methods", "dense", "--sparsities", "0.9", "--seeds", "1"]
    status, out, err = run(capsys, *words, "--weight-decay", "1", "--sweep", "lr=1e9,0.1", "--out", str(tmp_path))
    assert status == 2
    assert "| dense " in out
    assert "still missing" not in out
    first, second = err.splitlines()
    assert first == "rewire: 1 run of 2 failed; the same command tries them again and nothing else:"
    assert second.startswith("  digits-mlp-dense-seed0 lr=1e+09: The training loss is ")


def test_a_finished_run_on_other_data_is_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = replace(RECIPES["digits"](), method="dense")
    record.append(
        tmp_path / "records.jsonl",
        record.Record(recipe.identity(), "", {}, {}, {}, {"test_accuracy": 0.5, "data": "another"}),
    )
    words = ["train", "digits", "--method", "dense", "--out", str(tmp_path), "--resume"]
    status, _, err = run(capsys, *words)
    assert status == 2
    assert err.startswith("rewire: The record of digits-mlp-dense-seed0 is of a run on other data")
