"""The benchmark scripts run and write a row; what they measure is no test."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from rewire.engine import library

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_turns_are_interleaved_and_as_long_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from measure import interleaved

    time, log = [0.0], []

    def call(name: str, seconds: float) -> None:
        log.append(name)
        time[0] += seconds

    contenders = {"a": lambda: call("a", 1.0), "b": lambda: call("b", 0.25)}
    found = interleaved(contenders, rounds=2, warmup=1, now=lambda: time[0], turn_s=0.5)
    assert "".join(log) == "ab" + "abb" * 2
    assert found == {"a": [1.0, 1.0], "b": [0.25, 0.25]}
    log.clear()
    interleaved(contenders, rounds=1, warmup=1, now=lambda: time[0])
    assert "".join(log) == "abab"


@pytest.mark.slow  # trains and updates whole networks
@pytest.mark.parametrize(
    ("script", "flags", "figure"),
    [
        ("masked_step.py", ["--model", "resnet20", "--batch", "8", "--rounds", "12"], "ratio"),
        ("topology_update.py", ["--rounds", "1"], "update_ms"),
        ("import_time.py", ["--rounds", "1"], "ratio"),
        ("engine_step.py", ["--model", "mlp", "--batch", "20", "--rounds", "1"], "ratio"),
        ("engine_step.py", ["--model", "vgg19-drop-in", "--batch", "4", "--rounds", "1"], "ratio"),
        ("engine_linear.py", ["--size", "64x48", "--batch", "20", "--rounds", "1"], "engine_ms"),
    ],
)
def test_a_benchmark_appends_a_row(script: str, flags: list[str], figure: str, tmp_path: Path) -> None:
    if script.startswith("engine") and library.load() is None:
        pytest.skip("the kernels are not built on this machine")
    for _ in range(2):
        command = [sys.executable, BENCHMARKS / script, *flags, "--json", "--results", tmp_path]
        subprocess.run(command, check=True, capture_output=True)
    (path,) = tmp_path.glob("*.csv")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert all(float(row[figure]) > 0 for row in rows)
