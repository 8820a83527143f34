"""Pages that the system hands out while a loop asks for the same memory again and again, in a fresh process."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these options")
PROGRAM = """
import resource
from contextlib import suppress
from unlabeled.kernels import heap

BYTES = 64 << 20

def fresh_pages():
    "While six large blocks come and go."
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(6):
        b"x" * BYTES
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def held():
    "Bytes of the process."
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
"""
KEPT = """
outside, before = fresh_pages(), held()
with heap.retain_freed_memory():
    fresh_pages()
    with heap.retain_freed_memory():
        pass
    assert fresh_pages() < 0.05 * outside
    assert held() > before + BYTES // 2
assert held() < before + BYTES // 2
assert fresh_pages() > 0.9 * outside
"""
FAILED = """
before = held()
with suppress(KeyError), heap.retain_freed_memory():
    b"x" * BYTES
    raise KeyError
assert held() < before + BYTES // 2
assert not heap._inside
"""
TUNED = """
outside = fresh_pages()
with heap.retain_freed_memory():
    fresh_pages()
    assert fresh_pages() > 0.9 * outside
"""


@pytest.mark.parametrize(
    ("act", "tuned"),
    [(KEPT, {}), (FAILED, {}), (TUNED, {"MALLOC_TRIM_THRESHOLD_": "131072"})],
    ids=["asked for once and given back", "given back after an error", "left alone where the user tunes it"],
)
def test_pages(act: str, tuned: dict[str, str]) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", PROGRAM + act]
    done = subprocess.run(command, env=environment | tuned, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
