"""What long work tells while it runs."""

from pathlib import Path

import pytest
import torch

from unlabeled import encoders, pretrain, progress
from unlabeled.data import from_images
from unlabeled.encoders.readout import Spec, fit_readout


def test_a_line_every_few_seconds_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    lines: list[str] = []
    with progress.telling(lines.append):
        assert list(progress.watched(range(6), 6, "propagation", "videos")) == [*range(6)]
    assert lines == [
        "propagation: 2 of 6 videos, about 12 s left",
        "propagation: 5 of 6 videos, about 2 s left",
    ]
    assert list(progress.watched(range(6), 6, "propagation", "videos")) == [*range(6)]
    assert len(lines) == 2  # nobody is told outside


@pytest.mark.usefixtures("small_networks")
def test_fitting_contrast_tells_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS", -1.0)
    data = from_images(torch.randint(0, 256, (600, 3, 8, 8), dtype=torch.uint8))
    network, lines = encoders.build("conv4", image_size=8), []
    with progress.telling(lines.append):
        fit_readout(network, Spec.parse("output:contrast:8"), data)
    said = [line.partition(", about")[0] for line in lines]
    for what, total in (
        ("reading features to fit their scaling", 3),
        ("reading features of random views", 3),
    ):
        assert [line for line in said if line.startswith(what)] == [
            f"{what}: {done} of {total} batches" for done in range(1, total)
        ]
    steps = [line for line in said if line.startswith("fitting contrast")]
    assert steps == [f"fitting contrast: {done} of 80 steps" for done in range(1, 80)]
    settings = {"encoder": "conv4", "batch_size": 16, "steps": 1, "features": "output:contrast:8"}
    pretrain("rotnet", data.subset(torch.arange(60)), out=tmp_path / "run", **settings)
    assert "fitting contrast: 7 of " in capsys.readouterr().err
