"""Losses that compare all pairs, beside the square matrix and lightly: python benchmarks/losses.py [--pairs 1024]

NT-Xent of pairs of views, the supervised form of as many views in 100 classes, and InfoNCE of 256 queries with a queue
of 65,536 keys. Each measurement is a process of its own with one thread: the processor time of a forward and a backward
pass, the second of two, and the memory that it needs beyond what was there before; medians of five processes, in turns.
The others are left out above 4,096 pairs, where they need gigabytes, and lightly where it is not installed or has no
such loss. All values and gradients on small views are compared first.
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
from torch.nn.functional import cross_entropy, normalize
torch.set_num_threads(1)
form, name, size = sys.argv[1], sys.argv[2], int(sys.argv[3])

def plain_nt_xent(first, second):
    views = normalize(torch.cat([first, second]), dim=1)
    similarity = (views @ views.T / 0.2).fill_diagonal_(-torch.inf)
    return cross_entropy(similarity, torch.arange(2 * len(first)).roll(len(first)))

def plain_supervised(vectors, labels):
    vectors = normalize(vectors, dim=1)
    itself = torch.eye(len(vectors), dtype=torch.bool)
    share = (vectors @ vectors.T / 0.2).masked_fill(itself, -torch.inf).log_softmax(1)
    partner = (labels[:, None] == labels).masked_fill(itself, False)
    return -(share.masked_fill(~partner, 0).sum(1) / partner.sum(1)).mean()

def plain_info_nce(queries, keys, queue):
    queries = normalize(queries, dim=1)
    logits = torch.cat([(queries * keys).sum(1, keepdim=True), queries @ queue.T], dim=1) / 0.2
    return cross_entropy(logits, torch.zeros(len(queries), dtype=torch.int64))

if name == "unlabeled":
    from unlabeled.parts.info_nce import nt_xent, supervised_contrastive, with_queue
    losses = {"NT-Xent": nt_xent, "SupCon": supervised_contrastive, "InfoNCE": with_queue}
    compute = lambda *inputs: losses[form](*inputs, 0.2)
elif name == "lightly":
    from lightly.loss import NTXentLoss
    compute = NTXentLoss(temperature=0.2)
else:
    compute = {"NT-Xent": plain_nt_xent, "SupCon": plain_supervised, "InfoNCE": plain_info_nce}[form]

generator = torch.Generator().manual_seed(0)
draw = lambda rows: torch.randn(rows, 128, generator=generator)

def inputs(size):
    if form == "NT-Xent":
        return draw(size).requires_grad_(), draw(size).requires_grad_()
    if form == "SupCon":
        return draw(2 * size).requires_grad_(), torch.randint(0, 100, (size,), generator=generator).repeat(2)
    return draw(256).requires_grad_(), normalize(draw(256), dim=1), normalize(draw(size), dim=1)

small, large = inputs(64), inputs(size)
"""
MEASURE = """
torch.manual_seed(0)
value = compute(*small)
value.backward()
check = [float(value.detach()), *(float(x.grad.norm()) for x in small if x.grad is not None)]
with open("/proc/self/clear_refs", "w") as peak:
    peak.write("5")  # forgets what was needed before
before, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
for _ in range(2):
    began = time.process_time()
    compute(*large).backward()
    seconds.append(time.process_time() - began)
memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
print(json.dumps({"seconds": seconds[-1], "memory": memory, "check": check}))
"""
TURNS = 5
LARGEST_SQUARE = 4096


def measure(program: str, form: str, name: str, size: int) -> dict:
    """One process: seconds of a pass, MiB of memory, and the value and gradients on small inputs."""
    words = [sys.executable, "-W", "ignore", "-c", program + MEASURE, form, name, str(size)]
    return json.loads(
        subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    )


def compare(
    form: str,
    size: int,
    names: list[str],
    *,
    program: str = PROGRAM,
    turns: int = TURNS,
    tolerance: float = 1e-5,
) -> None:
    """Print the rows of one loss at one size, once all agree with ours on small inputs.

    Args:
        form: The loss.
        size: Its size.
        names: Whose it is, ours first.
        program: Sets `compute`, `small` and `large` from these.
        turns: Processes for each.
        tolerance: Largest difference of values and gradients, relative above 1.
    """
    runs: dict[str, list[dict]] = {name: [] for name in names}
    for _ in range(turns):
        for name in names:
            runs[name].append(measure(program, form, name, size))
    middle = {
        name: {key: median(run[key] for run in runs[name]) for key in ("seconds", "memory")} for name in names
    }
    for name, values in middle.items():
        for ours, theirs in zip(runs["unlabeled"][0]["check"], runs[name][0]["check"], strict=True):
            assert abs(ours - theirs) < tolerance * max(1, abs(ours)), (form, name, ours, theirs)
        slower, larger = (values[key] / middle["unlabeled"][key] for key in ("seconds", "memory"))
        print(
            f"| {form} | {size:,} | {name} | {values['seconds']:.3f} | {values['memory']:,.0f} "
            f"| {slower:.1f} | {larger:.1f} |",
            flush=True,
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", default="256,1024,4096,8192")
    print("| loss | size | program | processor seconds | MiB | slower by | more memory by |")
    print("|---|---|---|---|---|---|---|")
    lightly = ["lightly"] if importlib.util.find_spec("lightly") else []
    for pairs in map(int, parser.parse_args().pairs.split(",")):
        square = pairs <= LARGEST_SQUARE
        compare("NT-Xent", pairs, ["unlabeled", *(["square matrix", *lightly] if square else [])])
        compare("SupCon", pairs, ["unlabeled", *(["square matrix"] if square else [])])
    compare("InfoNCE", 65536, ["unlabeled", "square matrix"])


if __name__ == "__main__":
    main()
