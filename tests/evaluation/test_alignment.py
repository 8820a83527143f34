"""Alignment error and Kendall's tau on hand-made films, and the task on built-in scenes."""

import pytest
import torch
from torch import Tensor

from unlabeled import encoders
from unlabeled.data.cameras import Scenes, from_views
from unlabeled.data.groups import joined
from unlabeled.evaluation.measurement import Measurement
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.scores import Scores
from unlabeled.evaluation.tasks.alignment import TASK, _pairs, alignment_error, kendall_tau, nearest
from unlabeled.methods.time_contrastive import TimeContrastive
from unlabeled.worlds import orbit

FRAMES = 300


def film(seed: int = 0) -> Tensor:
    return torch.randn(FRAMES, 8, generator=torch.Generator().manual_seed(seed))


def test_identical_films_have_no_error_reversed_ones_a_half_and_shuffled_ones_a_third() -> None:
    one = film()
    assert alignment_error(one, one) == 0
    assert alignment_error(one, one.flip(0)) == pytest.approx(0.5, abs=0.002)
    shuffled = one[torch.randperm(FRAMES, generator=torch.Generator().manual_seed(1))]
    assert alignment_error(one, shuffled) == pytest.approx(1 / 3, abs=0.03)
    assert alignment_error(one, film(5)) == pytest.approx(1 / 3, abs=0.06)


def test_a_film_in_which_nothing_moves_is_at_chance() -> None:
    still = film()[:1].expand(FRAMES, -1)
    assert alignment_error(still, still) == pytest.approx((1 - FRAMES**-2) / 3, rel=1e-9)
    assert alignment_error(film(), still) == pytest.approx(1 / 3, abs=1e-4)
    assert kendall_tau(nearest(still, still) @ torch.arange(FRAMES).double()) == 0


def test_error_counts_in_shares_of_the_film_or_in_progress() -> None:
    first, second = torch.eye(4), torch.eye(4)[[1, 2, 3, 0]]
    assert alignment_error(first, second) == pytest.approx((3 + 1 + 1 + 1) / 16)
    progress = torch.tensor([0.0, 0.1, 0.2, 1.0])
    assert alignment_error(first, first, progress, progress + 0.5) == pytest.approx(0.5)
    assert alignment_error(torch.eye(4)[:3], torch.eye(4)) == pytest.approx((0 + 1 / 12 + 1 / 6) / 3)


def test_alignment_ignores_a_common_rotation_and_scale() -> None:
    one, other = film(), film() + 0.8 * film(3)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(2))).Q
    assert 0.01 < alignment_error(one, other) < 0.3
    torch.testing.assert_close(
        alignment_error(3 * one @ rotation, 3 * other @ rotation), alignment_error(one, other)
    )


@pytest.mark.parametrize(
    ("order", "tau"), [([1, 2, 3, 4], 1), ([4, 3, 2, 1], -1), ([1, 3, 2, 4], 2 / 3), ([2, 2, 2], 0)]
)
def test_kendall_tau(order: list[int], tau: float) -> None:
    assert kendall_tau(torch.tensor(order)) == pytest.approx(tau)


def scenes(**options: bool) -> Scenes:
    made = orbit.make(4, 3, frames=12, size=24, **options)
    return from_views(made.pop("views"), factors=made)


def model() -> EvaluatedModel:
    torch.manual_seed(0)
    method = TimeContrastive(encoders.build("conv4", image_size=24), moments=4).eval()
    return EvaluatedModel(method.encoder, method)


def found(measured: list[Measurement]) -> dict[tuple[str, str | None, str], float]:
    return {(m.features, m.layer, m.unit): float(m.values.mean()) for m in measured}


def test_task_measures_ours_pixels_and_random_twins_between_cameras_and_across_scenes() -> None:
    measured = TASK(model(), scenes())
    values = found(measured)
    assert len(values) == 3 * 2 * 3 and all(m.values.shape == (1, 4) for m in measured)
    assert all(0 <= value <= 1 for (_, _, unit), value in values.items() if unit.startswith("error"))
    same = "error between cameras"
    assert values["raw", None, same] == values["raw", "embedding", same]
    assert values["unlabeled", "embedding", same] != values["random", "embedding", same]
    assert Scores.of(measured).verdict()


def test_perfect_embeddings_are_perfect_and_a_still_world_is_at_chance() -> None:
    data = scenes()
    # Every pixel of a frame says when it is, so that pixels are a perfect embedding.
    time = torch.arange(12, dtype=torch.uint8)[:, None, None, None].expand(4, 2, -1, 3, 24, 24)
    values = found(TASK(model(), from_views(time)))
    assert values["raw", None, "error between cameras"] == 0
    assert values["raw", None, "Kendall's tau between cameras"] == 1
    assert values["raw", None, "error across scenes"] == 0
    still = found(TASK(model(), scenes(still=True)))
    assert still["raw", None, "error between cameras"] == pytest.approx((1 - 12**-2) / 3, rel=1e-6)
    assert still["raw", None, "Kendall's tau between cameras"] == 0
    assert data.cameras == 2


def test_other_data_is_refused() -> None:
    with pytest.raises(ValueError, match="must be of kind cameras for alignment, got image"):
        TASK(model(), scenes().frames())
    one = from_views(torch.zeros(1, 1, 3, 3, 24, 24, dtype=torch.uint8))
    with pytest.raises(ValueError, match="two cameras or two scenes"):
        TASK(model(), one)
    encoder_alone = EvaluatedModel(model().encoder.eval())
    assert {layer for _, layer, _ in found(TASK(encoder_alone, scenes()))} == {None}


def test_progress_of_whole_scenes_says_nothing_about_frames_and_must_be_finite() -> None:
    views = orbit.make(3, 0, frames=6, size=32)["views"]

    def across(**factors: Tensor) -> float:
        return found(TASK(model(), from_views(views, factors=factors)))["raw", None, "error across scenes"]

    assert across(progress=torch.rand(3)) == across()
    with pytest.raises(ValueError, match="progress of array must be finite, got NaN or infinity"):
        across(progress=torch.full((3, 6), torch.nan))


def test_scenes_are_compared_within_pairs_so_that_pairs_are_independent() -> None:
    assert _pairs(6).tolist() == [0, 0, 1, 1, 2, 2]
    assert (
        _pairs(5).tolist() == [0, 0, 1, 1, 1]
        and _pairs(3).tolist() == [0, 0, 0]
        and _pairs(1).tolist() == [0]
    )
    linked = joined(_pairs(8), torch.tensor([0, 1, 2, 3, 4, 5, 1, 6]))
    assert linked[0] == linked[1] == linked[6] == linked[7] and len(linked.unique()) == 3
    data = scenes()
    before = TASK(model(), data)
    other = scenes()
    other.pixels = data.pixels.clone()
    start = int(data.starts[2]) if hasattr(data, "starts") else len(data.pixels) // 2
    other.pixels[start:] = 255 - other.pixels[start:].flip(0)
    after = TASK(model(), other)
    for one, two in zip(before, after):
        if one.features == "raw" and one.unit == "error across scenes":
            assert (
                one.groups is not None
                and one.groups.tolist() == [0, 0, 1, 1]
                and one.counted == "scene pairs"
            )
            assert torch.equal(one.values[:, :2], two.values[:, :2])
            assert not torch.equal(one.values[:, 2:], two.values[:, 2:])
    assert {m.counted for m in before} == {"scenes", "scene pairs"}
