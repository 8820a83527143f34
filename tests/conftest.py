"""What every test needs: one thread for its small tensors, and a cache of its own."""

import gc
import importlib.metadata
import os
from functools import cache, partial

import pytest

# Threads that wait for each other cost more than they help here; programs that tests start inherit this.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Lightning asks for them in each of a thousand trainings.
importlib.metadata.entry_points = cache(importlib.metadata.entry_points)
# Tests end processes, not machines: what a process has written is there without waiting for the disk.
os.fsync = lambda file: None


def pytest_collection_finish() -> None:
    """All that was imported stays: without it, each collection of garbage is many times as fast."""
    import torch

    for devices in (torch.cuda, torch.xpu, torch.mtia):
        if (
            not devices.is_available()
        ):  # whose seeds would be kept for later, each with the stack of calls as text
            devices.manual_seed_all = lambda seed: None
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNLABELED_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Narrow networks of images, and few samples whose features are judged after each epoch.

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
def small_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Narrow networks of texts, sounds and clips, which read short texts."""
    from unlabeled.encoders import text, text_trunks, video_vit, wav2vec2

    for name in ("bert-tiny", "bert-rotary-tiny", "gpt-tiny"):
        monkeypatch.setitem(text_trunks.TRANSFORMERS, name, (2, 32, 2))
    monkeypatch.setattr(text, "LENGTH", 24)
    monkeypatch.setattr(text, "ROTARY_LENGTH", 24)
    small = wav2vec2.SIZES["wav2vec2-tiny"]._replace(channels=16, width=16)
    monkeypatch.setitem(wav2vec2.SIZES, "wav2vec2-tiny", small)
    monkeypatch.setitem(video_vit.NAMES, "vit3d-tiny", (2, 48, 3))


@pytest.fixture
def small_worlds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Built-in sets of few samples, for tests that need no more: drawing thousands only costs time."""
    from unlabeled.data import worlds

    sizes = {name: (min(train, 32), min(test, 16)) for name, (train, test) in worlds.SIZES.items()}
    monkeypatch.setattr(worlds, "SIZES", sizes)
