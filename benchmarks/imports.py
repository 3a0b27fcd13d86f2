"""What ``import hfplug`` and the help texts cost: ``python benchmarks/imports.py``.

Each command is timed as a whole process, in turn with a bare ``python -c pass``, and the medians are shown. The
tests do not time anything; they check that the heavy modules are not imported.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

ROUNDS = 15
COMMANDS = {
    "import hfplug": ["-c", "import hfplug"],
    "hfplug --help": ["-m", "hfplug", "--help"],
    "hfplug demo --help": ["-m", "hfplug", "demo", "--help"],
    "hfplug study --help": ["-m", "hfplug", "study", "--help"],
    "hfplug export --help": ["-m", "hfplug", "export", "--help"],
    "hfplug compare --help": ["-m", "hfplug", "compare", "--help"],
    "hfplug space --help": ["-m", "hfplug", "space", "--help"],
    "hfplug methods": ["-m", "hfplug", "methods"],
}


def seconds(arguments: list[str]) -> float:
    """Wall seconds of one run."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Time every command against a bare interpreter."""
    print(f"{'command':<24}{'median':>10}{'more than python':>20}")
    for name, arguments in COMMANDS.items():
        seconds(arguments)
        pairs = [(seconds(["-c", "pass"]), seconds(arguments)) for _ in range(ROUNDS)]
        whole = statistics.median(run for _, run in pairs)
        more = statistics.median(run - bare for bare, run in pairs)
        print(f"{name:<24}{whole * 1000:>7.0f} ms{more * 1000:>17.0f} ms")


if __name__ == "__main__":
    main()
