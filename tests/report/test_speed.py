"""The engine's tables, from made-up rows: no figure in them was measured."""

from pathlib import Path

import pytest

from rewire.report.refresh import refresh

COLUMNS = (
    "model,batch,sparsity,budget,threads,isa,dense_ms,engine_ms,ratio,packed_linear_ms,packed_linear_ratio,flops,peak,"
    "update_steps,kept,dense_peak_mb,engine_peak_mb"
)
LINEAR = (
    "size,batch,sparsity,threads,isa,dense_ms,packed_ms,engine_ms,csr_ms,sparselab_ms,"
    "dense_step_ms,packed_step_ms,engine_step_ms,csr_step_ms,sparselab_step_ms"
)


def row(
    model: str,
    sparsity: float,
    threads: int,
    ratio: float,
    packed: str = ",",
    budget: str = "uniform",
    kept: float = 0.2,
) -> str:
    times = f"{10 * ratio:g},10,{ratio},{packed}"
    return f"{model},64,{sparsity},{budget},{threads},avx512,{times},0.05,0.3,1.5,{kept},900,400"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    def write(name: str, header: str, *rows: str) -> None:
        (tmp_path / name).write_text("\n".join([header, *rows]) + "\n")

    write(
        "engine-some-cpu-torch2.13.0.csv",
        COLUMNS,
        row("mlp", 0.9, 1, 5, packed="30,3"),
        row("vgg19", 0.95, 1, 5),
        row("vgg19", 0.9, 2, 3, kept=0.4),
        row("vgg19", 0.9, 1, 4),
        row("vgg19", 0.95, 1, 6),  # measured again
        row("vgg19", 0.9, 1, 2.5, budget="erk", kept=0.3),
        row("vgg19-drop-in", 0.9, 1, 2),
    )
    write("engine-some-cpu-torch2.9.1.csv", COLUMNS, row("vgg19", 0.9, 1, 1.25))  # of an older torch
    write(
        "engine-linear-some-cpu-torch2.13.0.csv",
        LINEAR,
        "40x30,128,0.9,1,avx512,8,6,2,7,,9,8,4,8,",
        "50x30,128,0.9,1,avx512,80,60,20,70,,90,80,40,80,",
    )
    return tmp_path


def cells(mark: str, folder: Path) -> list[list[str]]:
    page = refresh(f"<!-- table: {mark} -->\nold\n<!-- end of table -->", [], folder)
    assert refresh(page, [], folder) == page
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]


def test_a_row_for_each_sparsity_and_number_of_threads(folder: Path) -> None:
    header, *rows = cells("engine vgg19 uniform", folder)
    assert [line[: header.index("FLOPs")] for line in rows] == [
        ["90 %", "1", "64", "40", "10", "4.00x"],
        ["95 %", "1", "64", "60", "10", "6.00x"],
        ["90 %", "2", "64", "30", "10", "3.00x"],
    ]
    assert rows[0][header.index("FLOPs") :] == ["5.0 %", "30 %", "1.50", "20.0 %", "400 of 900", "some-cpu, avx512"]


def test_a_name_with_a_hyphen(folder: Path) -> None:
    assert len(cells("engine vgg19-drop-in uniform", folder)) == 2


def test_the_mlp_shows_the_lower_of_its_two_ratios(folder: Path) -> None:
    header, line = cells("engine mlp uniform", folder)
    assert line[header.index("dense, ms")] == "30"
    assert line[header.index("times faster")] == "3.00x"


def test_all_networks_in_one_table(folder: Path) -> None:
    header, *rows = cells("engine all all", folder)
    assert header == ["training step of", "threads", "90 %", "95 %", "processor"]
    assert rows == [
        ["VGG-19, batch 64, uniform", "1", "4.00x (5.0 %)", "6.00x (5.0 %)", "some-cpu, avx512"],
        ["VGG-19, batch 64, erk", "1", "2.50x (5.0 %)", "-", "some-cpu, avx512"],
        ["VGG-19, drop-in layers, batch 64, uniform", "1", "2.00x (5.0 %)", "-", "some-cpu, avx512"],
        ["MLP, batch 64, uniform", "1", "3.00x (5.0 %)", "-", "some-cpu, avx512"],
        ["VGG-19, batch 64, uniform", "2", "3.00x (5.0 %)", "-", "some-cpu, avx512"],
        ["VGG-19, kept memory", "-", "20.0 %", "20.0 %", "-"],
        ["VGG-19, drop-in layers, kept memory", "-", "20.0 %", "-", "-"],
        ["MLP, kept memory", "-", "20.0 %", "-", "-"],
    ]
    assert len(cells("engine all erk", folder)) == 3


@pytest.mark.parametrize(("part", "figures"), [("layer", "8 6 2 7 -"), ("step", "9 8 4 8 -")])
def test_a_linear_layer_beside_the_others(folder: Path, part: str, figures: str) -> None:
    header, line = cells(f"linear 40x30 {part}", folder)
    assert header[2:7] == ["dense", "oneDNN", "rewire", "torch CSR", "SparseLab"]
    assert line[2:7] == figures.split()
    assert line[7] == ("3.00x" if part == "layer" else "2.00x")


@pytest.mark.parametrize("mark", ["engine resnet50 uniform", "linear 1000x1000 layer"])
def test_what_was_not_measured_yet_is_said(folder: Path, mark: str) -> None:
    page = f"<!-- table: {mark} -->\n<!-- end of table -->"
    assert refresh(page, [], folder).splitlines()[1] == "No figures yet."


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("engine vgg uniform", 'wants the network "vgg" of the engine. Use one of vgg19, vgg19-drop-in, resnet50, '),
        ("engine vgg19 er", 'wants the budget "er" of the engine. Use one of uniform, erk, all.'),
        ("linear 40x30 whole", 'wants the part "whole" of the engine. Use one of layer, step.'),
    ],
)
def test_a_word_that_is_unknown_is_refused(folder: Path, mark: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refresh(f"<!-- table: {mark} -->\n<!-- end of table -->", [], folder)
