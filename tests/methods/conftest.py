"""Narrow networks for all tests of methods, as few claims depend on the width."""

import pytest


@pytest.fixture(autouse=True)
def _narrow(small_networks: None) -> None:
    """Networks that a module-wide fixture or an import builds are wide all the same."""


@pytest.fixture
def wide_networks(_narrow: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions and ViTs as users have them, for short trainings in which a narrow network learns too little."""
    from unlabeled.encoders import from_timm, image, stages

    monkeypatch.setitem(image.NAMES, "conv4", stages.conv4)
    monkeypatch.setitem(image.NAMES, "vit-small", from_timm.vit_small)
