"""How long the first things take: python benchmarks/start.py [--rounds 5]

Each command is a process of its own; they take turns. The caches of decoded images and of compiled loops are empty
each time; the files of Python and torch are in the system's memory. lightly is left out where it is not installed.
"""

import argparse
import importlib.util
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

UNLABELED = [sys.executable, "-m", "unlabeled"]
COMMANDS = {
    "import unlabeled": [sys.executable, "-c", "import unlabeled"],
    "unlabeled --help": [*UNLABELED, "--help"],
    "import torch": [sys.executable, "-c", "import torch"],
    "import lightly": [sys.executable, "-c", "import lightly.loss, lightly.transforms"],
    "unlabeled pretrain simclr digits --steps 1": [
        *UNLABELED,
        "pretrain",
        "simclr",
        "digits",
        "--steps",
        "1",
    ],
}


def once(command: list[str]) -> tuple[float, float]:
    """Seconds on the clock and of the processors."""
    with tempfile.TemporaryDirectory() as folder:
        caches = {name: str(Path(folder) / name) for name in ("UNLABELED_CACHE", "NUMBA_CACHE_DIR")}
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, cwd=folder, env=os.environ | caches, capture_output=True, check=True)
        clock, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description="How long the first things take.")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    commands = dict(COMMANDS)
    if importlib.util.find_spec("lightly") is None:
        del commands["import lightly"]
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            seconds = once(command)
            if number:  # the first round brings the files into memory
                times[name].append(seconds)
    print("| command | seconds on the clock | of the processors |\n|---|---|---|")
    for name, pairs in times.items():
        clock, busy = (median(column) for column in zip(*pairs))
        print(f"| `{name}` | {clock:.2f} | {busy:.2f} |")
    print(f"\nMedians of {rounds} rounds, load {os.getloadavg()[0]:.1f}.")


if __name__ == "__main__":
    main()
