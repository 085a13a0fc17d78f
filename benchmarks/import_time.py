"""Time of `import rewire` against `import torch`, each in fresh processes, interleaved.

python benchmarks/import_time.py [--rounds 9] [--json]
"""

import argparse
import subprocess
import sys

from measure import interleaved, median_ms, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    def fresh(module: str):
        return lambda: subprocess.run([sys.executable, "-c", f"import {module}"], check=True)

    seconds = interleaved({"torch": fresh("torch"), "rewire": fresh("rewire")}, arguments.rounds, warmup=2)
    torch_ms, rewire_ms = median_ms(seconds["torch"]), median_ms(seconds["rewire"])
    row = {
        "rounds": arguments.rounds,
        "torch_ms": torch_ms,
        "rewire_ms": rewire_ms,
        "ratio": round(rewire_ms / torch_ms, 4),
    }
    write("import-time", row, arguments.json)


if __name__ == "__main__":
    main()
