"""What every test needs: a cache of its own, and no plots or progress left behind."""

import pytest


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNLABELED_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
