"""TensorBoard: event files in the folder of the run, which `tensorboard --logdir runs` shows side by side."""

from collections.abc import Mapping

import numpy as np

from unlabeled.trackers.tracker import About

__all__ = ["TensorBoard"]

FOLDER = "tensorboard"


class TensorBoard:
    """A run in TensorBoard.

    A resumed run writes another file into the same folder; what was logged after the step from which it goes on is
    hidden.
    """

    def __init__(self, about: About) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.identity = FOLDER
        resumed = about.identity is not None
        folder = about.folder / FOLDER
        self.writer = SummaryWriter(str(folder), purge_step=about.step + 1 if resumed else None)
        if not resumed:
            rows = [f"| {name} | {value} |" for name, value in about.config.items()]
            self.writer.add_text("config", "\n".join(["| setting | value |", "|---|---|", *rows]), 0)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        self.writer.add_image(name, pixels, step, dataformats="HWC")

    def texts(self, name: str, texts: list[str], step: int) -> None:
        self.writer.add_text(name, "\n\n".join(texts), step)

    def close(self, finished: bool) -> None:
        self.writer.close()
