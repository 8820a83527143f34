"""Tracker: what moves against the ground, the box around it, and its track, in closed forms and over blobs."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.parts.tracker import busiest, follow, moving_points, shrink, similarity, window
from unlabeled.worlds import blobs


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Smooth texture in 0..1."""
    raw = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(seed))
    return F.avg_pool2d(F.pad(raw, [1] * 4, mode="reflect"), 3, 1)[0, 0]


def film(places: list[tuple[int, int]], ground: Tensor, side: int = 8, drift: int = 0) -> Tensor:
    """A textured square at some places (top, left) on a ground that drifts to the right; (1, frames, h, w)."""
    frames = []
    for number, (top, left) in enumerate(places):
        frame = ground.roll(drift * number, 1).clone()
        frame[top : top + side, left : left + side] = noise(side, side, seed=5)
        frames.append(frame)
    return torch.stack(frames)[None]


PLACES = [(6, 5), (7, 7), (8, 9), (10, 10), (12, 12), (12, 15), (13, 17)]


@pytest.mark.parametrize("ground", [noise(32, 32), torch.zeros(32, 32)])
@pytest.mark.parametrize("drift", [0, 1])
def test_the_square_is_detected_and_tracked_within_a_pixel(ground: Tensor, drift: int) -> None:
    video = film(PLACES, ground, drift=drift)
    points = moving_points(video[:, 0], video[:, 2])
    corner = busiest(points, 12, (32, 32))
    centre = corner[0] + 6
    assert (centre - torch.tensor([10, 9])).abs().max() <= 4  # as exact as the grid of points
    corners = follow(video, torch.tensor([[6, 5]]), 8, 4)
    assert (corners[0] - torch.tensor(PLACES)).abs().max() <= 1
    whole = follow(video, corner, 12, 4)
    assert (whole[0] - whole[0, :1] - (torch.tensor(PLACES) - torch.tensor(PLACES[0]))).abs().max() <= 1


def test_nothing_moves_in_still_images_and_where_only_the_camera_moves() -> None:
    ground = noise(32, 32)
    assert not moving_points(ground[None], ground[None]).any()
    panned = moving_points(ground[None], ground.roll((1, -2), (0, 1))[None])
    assert not panned[:, 1:-1, 1:-1].any()
    assert not moving_points(torch.zeros(1, 32, 32), torch.ones(1, 32, 32)).any()


def test_similarity_is_that_of_a_slow_loop() -> None:
    frame, radius, side = noise(14, 15), 2, 5
    template = torch.rand(side, side, generator=torch.Generator().manual_seed(1))
    weights = window(side, frame)[0, 0]
    fast = similarity(frame[None], template[None], torch.tensor([[4, 5]]), weights[None, None], radius)[0]
    slow = []
    for down in range(-radius, radius + 1):
        for right in range(-radius, radius + 1):
            patch = frame[4 + down : 9 + down, 5 + right : 10 + right]
            a, b = (part - (weights * part).sum() for part in (template, patch))
            slow.append((weights * a * b).sum() / ((weights * a * a).sum() * (weights * b * b).sum()).sqrt())
    torch.testing.assert_close(fast, torch.stack(slow), rtol=1e-3, atol=1e-4)


def test_brightness_and_contrast_do_not_matter_and_boxes_stay_within_the_frame() -> None:
    video = film(PLACES, noise(32, 32))
    dimmed = 0.3 + 0.4 * video
    corner = torch.tensor([[6, 5]])
    assert torch.equal(follow(video, corner, 8, 4), follow(dimmed, corner, 8, 4))
    leaving = film([(20, 20), (23, 23), (26, 26), (29, 29)], noise(40, 40))[:, :, :32, :32]
    corners = follow(leaving, torch.tensor([[20, 20]]), 8, 4)
    assert corners.min() >= 0 and corners.max() <= 24


def test_clips_of_a_batch_are_independent_of_each_other() -> None:
    films = torch.cat([film(PLACES, noise(32, 32, seed=seed)) for seed in range(3)])
    corner = torch.tensor([[6, 5], [6, 6], [0, 0]])
    together = follow(films, corner, 8, 3)
    alone = torch.cat([follow(films[row : row + 1], corner[row : row + 1], 8, 3) for row in range(3)])
    assert torch.equal(together, alone)


def test_large_colour_videos_are_shrunk_and_made_grey() -> None:
    video = torch.full((2, 3, 3, 130, 200), 51, dtype=torch.uint8)
    small, factor = shrink(video)
    assert small.shape == (2, 3, 43, 66) and factor == 3
    torch.testing.assert_close(small, torch.full_like(small, 0.2))
    assert shrink(video[..., :64, :])[1] == 1


def test_boxes_are_on_objects_and_stay_on_them_in_the_world_of_blobs() -> None:
    made = blobs.make(24, 1)
    video, _ = shrink(made["video"])
    corners = follow(video, busiest(moving_points(video[:, 0], video[:, 4]), 24, (64, 64)), 24, 8)

    def thing(frame: int) -> Tensor:
        middle = corners[:, frame] + 12
        return made["masks"][torch.arange(24), frame, middle[:, 0], middle[:, 1]]

    first, last = thing(0), thing(-1)
    assert float((first > 0).float().mean()) > 0.8
    assert float(((first == last) & (first > 0)).float().mean()) > 0.6


def test_faint_texture_on_a_bright_background_is_tracked_even_in_half_precision() -> None:
    video = 0.75 + 0.2 * film(PLACES, noise(32, 32))
    corner = torch.tensor([[6, 5]])
    exact = follow(video.double(), corner, 8, 4)
    assert (exact[0] - torch.tensor(PLACES)).abs().max() <= 1
    points = moving_points(video[:, 0], video[:, 2])
    box = busiest(points, 12, (32, 32))
    frame, template = video[:, 1], video[:, 0, 6:14, 5:13]
    arguments = frame, template, corner, window(8, video), 4
    wanted = similarity(
        *(x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in arguments)
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(follow(video, corner, 8, 4), exact)
        assert torch.equal(busiest(points, 12, (32, 32)), box)
        torch.testing.assert_close(similarity(*arguments).double(), wanted, atol=2e-3, rtol=0)
