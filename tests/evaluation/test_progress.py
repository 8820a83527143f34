"""What an evaluation tells while it runs."""

import pytest

from unlabeled.evaluation import progress


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
