"""Trainings on a busy machine: one alone and three at once, as we start them and as torch would by itself.

    python benchmarks/busy.py [--repeats 3] [--at-once 3] [--steps 60] [--spinning]

Threads of OpenMP that wait for each other spin, and a core on which one spins is lost to all other programs. The
package makes them give way soon; with --spinning the same is measured with GNU's own number of rounds, which takes many
minutes where the machine has other work. All take turns, so that what else the machine does meets all of them. Seconds
of the whole command, from its start to its end; medians over the repeats, and every single one.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WAYS = {"as we start it": {}, "spinning": {"GOMP_SPINCOUNT": "300000"}}
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def seconds(count: int, way: str, steps: int, folder: Path) -> float:
    """Wall-clock seconds until the last of `count` trainings that start at once has ended."""
    outside = {name: value for name, value in os.environ.items() if name not in VARIABLES} | WAYS[way]
    began = time.perf_counter()
    words = [sys.executable, "-m", "unlabeled", "pretrain", "simclr", "digits", "--steps", str(steps)]
    silent: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    runs = [
        subprocess.Popen([*words, "--out", str(folder / f"{time.time_ns()}-{number}")], env=outside, **silent)
        for number in range(count)
    ]
    if any([run.wait() for run in runs]):
        raise RuntimeError("a training failed")
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--at-once", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--spinning", action="store_true")
    arguments = parser.parse_args()
    ways = list(WAYS)[: 1 + arguments.spinning]
    cases = [(way, count) for count in (1, arguments.at_once) for way in ways]
    durations: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as folder:
        seconds(1, "as we start it", arguments.steps, Path(folder))  # compiles what is kept
        for _ in range(arguments.repeats):
            for way, count in cases:
                durations[way, count].append(seconds(count, way, arguments.steps, Path(folder)))
                print(
                    f"{way}, {count} at once: {durations[way, count][-1]:.1f} s", file=sys.stderr, flush=True
                )
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, threads {os.environ.get('OMP_NUM_THREADS', 'all')}"
    )
    for way in ways:
        alone, together = (statistics.median(durations[way, count]) for count in (1, arguments.at_once))
        raw = "; ".join(
            " ".join(f"{value:.1f}" for value in durations[way, count]) for count in (1, arguments.at_once)
        )
        times = f"{together / alone:.1f} times as long"
        print(f"{way}: alone {alone:.1f} s, {arguments.at_once} at once {together:.1f} s, {times} ({raw})")


if __name__ == "__main__":
    main()
