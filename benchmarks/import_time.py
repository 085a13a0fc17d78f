"""Time of `import rewire` against `import torch`, each in fresh processes, interleaved.

python benchmarks/import_time.py [--rounds 9] [--json]
"""

import subprocess
import sys

from measure import interleaved, median_ms, parser, write


def main() -> None:
    flags = parser(__doc__, rounds=9)
    arguments = flags.parse_args()

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
    write("import-time", row, arguments)


if __name__ == "__main__":
    main()
