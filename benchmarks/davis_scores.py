"""Our J and F beside those of the official code: python benchmarks/davis_scores.py OFFICIAL DAVIS

OFFICIAL is a checkout of davis2017-evaluation (it needs OpenCV and scikit-image), DAVIS a folder in the layout of
DAVIS. Four wrong answers for every video are judged by both: the first mask copied, the true masks moved by a few
pixels, the true masks with a hundredth of the pixels wrong, and nothing at all.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from unlabeled.data.video.films import films
from unlabeled.evaluation.tasks.propagation import contour, iou


def main() -> None:
    parser = argparse.ArgumentParser(description="Our J and F beside those of the official code.")
    parser.add_argument("official", type=Path)
    parser.add_argument("davis", type=Path)
    chosen = parser.parse_args()
    sys.path.insert(0, str(chosen.official))
    from davis2017.metrics import db_eval_boundary, db_eval_iou  # type: ignore[import-not-found]

    torch.manual_seed(0)
    count, worst = 0, {"J": 0.0, "F": 0.0}
    for film in films(chosen.davis):
        true = film.masks
        answers = [
            true[:1].expand_as(true),
            true.roll((3, -5), (1, 2)),
            torch.where(torch.rand(true.shape) < 0.01, 1 - true.clamp(max=1), true),
            torch.zeros_like(true),
        ]
        for answer in answers:
            for thing in range(1, int(true.max()) + 1):
                mask, true_mask = answer == thing, true == thing
                for name, ours, theirs in (("J", iou, db_eval_iou), ("F", contour, db_eval_boundary)):
                    apart = np.abs(
                        ours(mask, true_mask).numpy() - theirs(true_mask.numpy(), mask.numpy())
                    ).max()
                    worst[name] = max(worst[name], float(apart))
                count += len(true)
    print(f"{count:,} masks; largest difference of J {worst['J']:.1g}, of F {worst['F']:.1g}")


if __name__ == "__main__":
    main()
