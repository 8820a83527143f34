"""A Hub that does not answer is asked once, not for half a minute for each file, and caches are read meanwhile."""

import time

import huggingface_hub.utils
import pytest
from huggingface_hub import constants

import unlabeled
from unlabeled import encoders, hub
from unlabeled.check import UserError
from unlabeled.encoders import Unreachable


@pytest.fixture(autouse=True)
def _silent_hub(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_silent", {})
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it is asked again and again"))


def test_a_silent_hub_is_asked_once_and_the_reason_is_said() -> None:
    with pytest.raises(UserError, match=r"got hub:me/net \(the Hub cannot be reached, and it"):
        unlabeled.load("hub:me/net")
    assert not constants.is_offline_mode()
    for name in ("timm:test_vit.r160_in1k", "hf:someone/network"):
        with pytest.raises(
            Unreachable, match=f"got {name} .the Hub cannot be reached.; check the name and the"
        ):
            encoders.pretrained(name)
    assert not constants.is_offline_mode()


def test_offline_mode_is_honoured_without_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "_answers", lambda address: pytest.fail("it was asked"))
    with pytest.raises(UserError, match=r"got hub:me/net \(offline mode is on, and it is not in the cache\)"):
        unlabeled.load("hub:me/net")


def test_silence_is_remembered_for_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    class Session:
        def head(self, address: str, timeout: float) -> None:
            tries.append(address)
            raise OSError("no route")

    monkeypatch.setattr(huggingface_hub.utils, "get_session", Session)
    for seconds, count in ((1_000.0, 1), (1_059.0, 1), (1_061.0, 2)):
        monkeypatch.setattr(time, "monotonic", lambda now=seconds: now)
        with hub.asked_once() as why:
            assert why == hub.UNREACHABLE and constants.is_offline_mode()
        assert len(tries) == count and not constants.is_offline_mode()
