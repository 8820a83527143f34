"""Losses of today's methods beside those of lightly: python benchmarks/batch_losses.py

Barlow Twins and VICReg of 256 pairs of projections, DINO of two large and six small crops of 64 images, and SIGReg of
two views of 256 projections on 1,024 lines. Each measurement is a process of its own with one thread: the processor
time of a forward and a backward pass, the second of two, and the memory that it needs beyond what was there before;
medians of three processes, in turns. Values and gradients on small inputs are compared first. Needs lightly.
"""

from losses import compare

PROGRAM = """
import json, resource, sys, time
import torch
torch.set_num_threads(1)
form, name, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
LINES = 1024

def unlabeled_loss():
    if form == "Barlow Twins":
        from unlabeled.methods.barlow_twins import loss
        return lambda first, second: loss(first, second, 0.005)
    if form == "VICReg":
        from unlabeled.methods.vicreg import loss
        return lambda first, second: loss(first, second, 25.0, 25.0, 1.0)
    if form == "SIGReg":
        from unlabeled.methods.lejepa import sigreg
        def compute(vectors):
            lines = torch.randn(vectors.shape[-1], LINES)
            return sigreg(vectors, lines / lines.norm(dim=0))
        return compute
    from unlabeled.parts.multi_crop import swapped_prediction
    from unlabeled.parts.self_distillation import Assignments
    def compute(scores, targets):
        assign = Assignments(scores.shape[-1], 0.04, 0.9)
        codes = assign(targets.flatten(0, 1)).unflatten(0, (2, -1))
        value = swapped_prediction(scores, codes, 0.1)
        assign.follow(0.0)
        return value
    return compute

def lightly_loss():
    from lightly import loss
    if form == "Barlow Twins":
        return loss.BarlowTwinsLoss(0.005)
    if form == "VICReg":
        return loss.VICRegLoss(25.0, 25.0, 1.0)
    if form == "SIGReg":
        return loss.SIGReg(knots=17, t_max=3.0, num_vectors=LINES)
    return lambda scores, targets: loss.DINOLoss(scores.shape[-1])(list(targets), list(scores))

compute = unlabeled_loss() if name == "unlabeled" else lightly_loss()
generator = torch.Generator().manual_seed(0)
draw = lambda *shape: torch.randn(shape, generator=generator)

def inputs(size, batch):
    if form == "DINO":
        return draw(8, batch, size).requires_grad_(), draw(2, batch, size)
    if form == "SIGReg":
        return (draw(2, batch, size).requires_grad_(),)
    return draw(batch, size).requires_grad_(), draw(batch, size).requires_grad_()

small, large = inputs(64, 16), inputs(size, 64 if form == "DINO" else 256)
"""
TURNS = 3
SIZES = {"Barlow Twins": (2048, 8192), "VICReg": (2048, 8192), "DINO": (4096, 65536), "SIGReg": (128, 2048)}
"""Dimensions of the projections, or prototypes."""
TOLERANCE = {"Barlow Twins": 1e-3}
"""Largest relative difference; lightly's batch norm has another epsilon than the authors' code."""


def main() -> None:
    """Print the table."""
    print("| loss | dimensions | program | CPU seconds | MiB | times slower | times the memory |")
    print("|---|---|---|---|---|---|---|")
    for form, sizes in SIZES.items():
        for size in sizes:
            compare(
                form, size, ["unlabeled", "lightly"],
                program=PROGRAM, turns=TURNS, tolerance=TOLERANCE.get(form, 1e-5),
            )  # fmt: skip


if __name__ == "__main__":
    main()
