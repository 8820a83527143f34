"""Neighbours and clusters of more than a million vectors: faiss beside our exact k-means.

    python benchmarks/million.py [--vectors 1050000] [--dim 64] [--clusters 1000]

Vectors of length 1 around 3,000 centres. Processor seconds of one thread, recall of the neighbours, and the sum of
squared distances to the centres.
"""

import argparse
import time

import torch
import torch.nn.functional as F

from unlabeled.parts import approximate
from unlabeled.parts.kmeans import kmeans
from unlabeled.progress import telling

CENTRES, SPREAD, NEIGHBOURS, ITERATIONS = 3000, 0.7, 5, 10


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vectors", type=int, default=1_050_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--clusters", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    centres = torch.randn(CENTRES, options.dim)
    noise = SPREAD * torch.randn(options.vectors, options.dim)
    points = F.normalize(centres[torch.randint(CENTRES, (options.vectors,))] + noise, dim=1)
    began = time.process_time()
    with telling(print):
        recall = approximate.nearest_others(points, NEIGHBOURS).recall
    print(
        f"{NEIGHBOURS} neighbours by faiss: {time.process_time() - began:.1f} CPU s, recall {recall:.3f}",
        flush=True,
    )
    for name, solver in (("faiss", approximate.kmeans), ("ours", kmeans)):
        began = time.process_time()
        inertia = float(solver(points, options.clusters, ITERATIONS).inertia)
        print(f"k-means, {name}: {time.process_time() - began:.1f} CPU s, inertia {inertia:,.0f}", flush=True)


if __name__ == "__main__":
    main()
