"""Pages that the system hands out while a loop asks for the same memory again and again."""

import platform
import resource
from pathlib import Path

import pytest
import torch

from unlabeled.parts import heap

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these options")
BYTES = 64 << 20


def fresh_pages() -> int:
    """While six tensors of `BYTES` come and go."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(6):
        torch.empty(BYTES // 4).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def held() -> int:
    """Bytes of the process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_pages_are_asked_for_once_and_given_back_at_the_end() -> None:
    outside, before = fresh_pages(), held()
    with heap.kept():
        fresh_pages()
        with heap.kept():
            pass
        assert fresh_pages() < 0.05 * outside
        assert held() > before + BYTES // 2
    assert held() < before + BYTES // 2
    assert fresh_pages() > 0.5 * outside


def test_memory_that_the_user_tunes_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    outside = fresh_pages()
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    with heap.kept():
        fresh_pages()
        assert fresh_pages() > 0.5 * outside


def test_pages_are_given_back_after_an_error() -> None:
    before = held()
    with pytest.raises(KeyError), heap.kept():
        torch.empty(BYTES // 4).fill_(1.0)
        raise KeyError
    assert held() < before + BYTES // 2
    assert not heap._inside
