"""Losses that compare all pairs, beside the square matrix and lightly: python benchmarks/losses.py [--pairs 1024]

Each measurement is a process of its own with one thread: the processor time of a forward and a backward pass, median
of five after one that warms up, and the memory that it needs beyond what was there before. The programs take turns.
lightly is left out where it is not installed; all values and gradients are compared first.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
from statistics import median

PROGRAM = """
import json, resource, sys, time
import torch
torch.set_num_threads(1)
name, pairs = sys.argv[1], int(sys.argv[2])
if name == "unlabeled":
    from unlabeled.methods.simclr import loss
    compute = lambda first, second: loss(first, second, 0.2)
elif name == "lightly":
    from lightly.loss import NTXentLoss
    compute = NTXentLoss(temperature=0.2)
else:
    def compute(first, second):
        views = torch.nn.functional.normalize(torch.cat([first, second]), dim=1)
        similarity = (views @ views.T / 0.2).fill_diagonal_(-torch.inf)
        partner = torch.arange(2 * len(first)).roll(len(first))
        return torch.nn.functional.cross_entropy(similarity, partner)
generator = torch.Generator().manual_seed(0)
small = [torch.randn(64, 128, generator=generator).requires_grad_() for _ in range(2)]
value = compute(*small)
value.backward()
check = [float(value.detach()), float(small[0].grad.norm()), float(small[1].grad.norm())]
views = [torch.randn(pairs, 128, generator=generator).requires_grad_() for _ in range(2)]
before, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
for _ in range(2):
    began = time.process_time()
    compute(*views).backward()
    seconds.append(time.process_time() - began)
memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
print(json.dumps({"seconds": seconds[-1], "memory": memory, "check": check}))
"""
TURNS = 5


def measure(name: str, pairs: int) -> dict:
    """One process: seconds of a pass, MiB of memory, and the value and gradients on small views."""
    words = [sys.executable, "-W", "ignore", "-c", PROGRAM, name, str(pairs)]
    return json.loads(
        subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", default="1024,4096,8192")
    names = ["unlabeled", "square matrix", *(["lightly"] if importlib.util.find_spec("lightly") else [])]
    print(
        "| pairs | program | processor seconds | MiB | slower by | more memory by |\n|---|---|---|---|---|---|"
    )
    for pairs in map(int, parser.parse_args().pairs.split(",")):
        found: dict[str, list[dict]] = {name: [] for name in names}
        for _ in range(TURNS):
            for name in names:
                found[name].append(measure(name, pairs))
        for name in names:
            for ours, theirs in zip(found["unlabeled"][0]["check"], found[name][0]["check"], strict=True):
                assert abs(ours - theirs) < 1e-5 * max(1, abs(ours)), (name, ours, theirs)
        middle = {
            name: {key: median(run[key] for run in runs) for key in ("seconds", "memory")}
            for name, runs in found.items()
        }
        for name, values in middle.items():
            slower = values["seconds"] / middle["unlabeled"]["seconds"]
            larger = values["memory"] / middle["unlabeled"]["memory"]
            print(
                f"| {pairs:,} | {name} | {values['seconds']:.3f} | {values['memory']:,.0f} "
                f"| {slower:.1f} | {larger:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
