"""What may be seen of a frame: no black borders, no motion of the camera, and nothing that tells the ends apart."""

import pytest
import torch
from torch import Tensor

from unlabeled.parts.augment import Views
from unlabeled.parts.clips import clip_views
from unlabeled.parts.steady import camera_path, steady_boxes, within_borders
from unlabeled.worlds import balls


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def scene(side: int = 48) -> Tensor:
    """A smooth texture, float in 0.1..1, shape (1, side, side)."""
    coarse = torch.rand(1, 1, side // 4, side // 4)
    return 0.1 + 0.9 * torch.nn.functional.interpolate(coarse, size=side, mode="bilinear")[0]


def pan(steps: list[tuple[int, int]], size: int = 32) -> Tensor:
    """A still scene, seen through a window that moves by some pixels down and right, (1, frames, 1, size, size)."""
    picture, top, left, frames = scene(), 8, 8, []
    for down, right in [(0, 0), *steps]:
        top, left = top + down, left + right
        frames.append(picture[:, top : top + size, left : left + size])
    return torch.stack(frames)[None]


@pytest.mark.parametrize(
    ("rows", "columns", "box"),
    [
        ((4, 28), (0, 32), [4, 0, 24, 32]),
        ((0, 32), (6, 20), [0, 6, 32, 14]),
        ((3, 30), (1, 31), [3, 1, 27, 30]),
        ((0, 32), (0, 32), [0, 0, 32, 32]),
        ((0, 0), (0, 0), [0, 0, 32, 32]),
    ],
)
def test_black_borders_are_found_on_all_sides(rows, columns, box):
    video = torch.randint(3, (1, 5, 3, 32, 32), dtype=torch.uint8)  # black, but for what compression does
    inside = (slice(None), slice(None), slice(None), slice(*rows), slice(*columns))
    video[inside] = torch.randint(50, 256, video[inside].shape, dtype=torch.uint8)
    assert within_borders(video).tolist() == [box]


def test_a_row_that_is_black_in_some_frames_only_belongs_to_the_picture():
    video = torch.full((1, 4, 1, 16, 16), 200, dtype=torch.uint8)
    video[0, :3, :, :5] = 0
    assert within_borders(video).tolist() == [[0, 0, 16, 16]]


def test_a_pan_comes_out_still():
    video = pan([(0, 1), (1, 2), (-1, 2), (0, -1)])
    # The window moves right, so the picture moves left.
    moved = torch.tensor([[0, 0], [0, -1], [-1, -3], [0, -5], [0, -4]])
    assert torch.equal(camera_path(video)[0], moved - moved.amin(0))
    boxes, steady = steady_boxes(video, borders=False, stabilize=True)
    assert steady.all() and (boxes[0, :, 2:] == torch.tensor([31, 27])).all()
    views = Views(16, crop=0.5, jitter=0, gray=0)
    seen = clip_views(views, video, boxes)
    torch.testing.assert_close(seen, seen[:, :1].expand_as(seen), atol=1e-4, rtol=0)
    free = clip_views(views, video, steady_boxes(video, False, stabilize=False)[0])
    assert (free - free[:, :1]).abs().mean() > 0.02


def test_large_frames_are_followed_by_whole_pixels_of_small_ones():
    picture = scene(192)
    video = torch.stack([picture[:, 8:136, 8 + 2 * t : 136 + 2 * t] for t in range(5)])[None]
    assert camera_path(video)[0, :, 1].tolist() == [8, 6, 4, 2, 0]


def test_a_camera_that_moves_too_far_is_said_to_and_not_followed():
    _, steady = steady_boxes(torch.cat([pan([(0, 2)] * 4), pan([(2, 2)] * 4)]), False, True)
    assert steady.all()
    picture = scene(32)
    far = torch.stack([picture.roll(-2 * t, 2) for t in range(10)])[None]
    boxes, steady = steady_boxes(far, False, True)
    assert not steady.any() and (boxes == torch.tensor([0, 0, 32, 32])).all()


def test_a_ball_on_plain_ground_is_not_taken_for_the_camera():
    video = balls.make(20, 0)["video"]
    assert not camera_path(video).any()


def test_played_backward_a_clip_gets_the_same_boxes_in_reverse():
    """Noise, shifts that are ambiguous, borders that come and go: whatever is chosen, no end is told from the other."""
    videos = torch.rand(40, 6, 1, 24, 24)
    videos[:20] = torch.stack([torch.roll(videos[:20, 0], t * t % 5 - 2, 3) for t in range(6)], 1)
    videos[:20] += 0.3 * torch.rand(20, 6, 1, 24, 24)
    videos[10:30, :, :, :5] *= 0.12 * torch.rand(20, 6, 1, 1, 1)
    boxes, steady = steady_boxes(videos, True, True)
    again, steady_too = steady_boxes(videos.flip(1), True, True)
    assert torch.equal(again.flip(1), boxes) and torch.equal(steady, steady_too)
    assert (boxes[:, 1:] != boxes[:, :-1]).any() and (boxes[:, :, 0] > 0).any()
