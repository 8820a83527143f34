"""What hiding patches saves: python benchmarks/masking.py [--turns 7] [--batch 64]

Processor seconds of a forward and a backward pass in one thread, with all patches and with a quarter of them, taking
turns: of the encoder alone, and of MAE's whole step with its views and decoder. Medians, and the ratio of the medians.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from unlabeled import encoders
from unlabeled.methods.mae import MAE

NETWORKS = ("vit-gap-tiny", "vit-gap-small")


def seconds(compute: Callable[[], Tensor]) -> float:
    """Processor time of a pass and its gradient."""
    began = time.process_time()
    compute().backward()
    return time.process_time() - began


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| network | part | all patches | a quarter | ratio |\n|---|---|---|---|---|")
    images = torch.randint(256, (options.batch, 3, 32, 32), dtype=torch.uint8)
    for name in NETWORKS:
        compare(name, images, options.turns)


def compare(name: str, images: Tensor, turns: int) -> None:
    """Print the rows of one network."""
    encoder = encoders.build(name)
    most, quarter = (
        MAE(encoder, mask=share) for share in (0.02, 0.75)
    )  # of 64 patches 63 and 16 are visible
    pixels = images / 255
    visible = quarter.mask(pixels)[0]
    cases: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
        "encoder": (
            lambda: encoder.tokens(pixels).square().mean(),
            lambda: encoder.tokens(pixels, visible).square().mean(),
        ),
        "step of mae": (lambda: most({"image": images}), lambda: quarter({"image": images})),
    }
    for part, pair in cases.items():
        rounds = [[seconds(compute) for compute in pair] for _ in range(turns + 1)][1:]
        slow, fast = (median(times) for times in zip(*rounds, strict=True))
        print(f"| {name} | {part} | {slow:.3f} | {fast:.3f} | {slow / fast:.2f} |", flush=True)


if __name__ == "__main__":
    main()
