"""What every test needs: one thread for its small tensors, and a cache of its own."""

import gc
import os
from functools import partial

import pytest

# Threads that wait for each other cost more than they help here; programs that tests start inherit this.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_finish() -> None:
    """All that was imported stays: without it, each collection of garbage is many times as fast."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNLABELED_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Narrow networks, and few samples whose features are judged after each epoch.

    For tests of what surrounds a network: its width then only costs time.
    """
    from unlabeled.data import KINDS
    from unlabeled.encoders import from_timm, image, stages
    from unlabeled.training import judge

    narrow = {
        "conv4": partial(stages.conv4, share=4),
        "resnet10": partial(from_timm.resnet, "resnet10", share=4),
        "vit-small": partial(from_timm.vit_small, width=48),
        "vit-gap-tiny": partial(from_timm.vit_small, width=48, gap=True),
    }
    for name, network in narrow.items():
        monkeypatch.setitem(image.NAMES, name, network)
    monkeypatch.setattr(judge, "PROBE_SAMPLES", dict.fromkeys(KINDS, 8))


@pytest.fixture
def small_worlds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Built-in sets of few samples, for tests that need no more: drawing thousands only costs time."""
    from unlabeled.data import worlds

    sizes = {name: (min(train, 32), min(test, 16)) for name, (train, test) in worlds.SIZES.items()}
    monkeypatch.setattr(worlds, "SIZES", sizes)
