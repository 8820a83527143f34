"""Clips: one draw for all frames, and motion where something moves."""

import torch

from unlabeled.parts.augment import Views
from unlabeled.parts.clips import clip_length, clip_views, motion


def test_all_frames_of_a_clip_get_the_same_view_and_clips_differ():
    torch.manual_seed(0)
    views = Views(12, crop=0.3, jitter=1.0, gray=0.5, blur=0.5, solarize=0.3, flip=0.5, degrees=30)
    still = torch.randint(0, 256, (1, 1, 3, 16, 16), dtype=torch.uint8).expand(8, 5, -1, -1, -1)
    seen = clip_views(views, still)
    assert seen.shape == (8, 5, 3, 12, 12)
    for frame in range(1, 5):
        assert torch.equal(seen[:, frame], seen[:, 0])
    assert len({tuple(clip.flatten().tolist()) for clip in seen[:, 0]}) == 8


def test_a_view_that_changes_nothing_keeps_every_frame():
    video = torch.randint(0, 256, (2, 4, 3, 10, 10), dtype=torch.uint8)
    plain = Views(10, crop=1.0, aspect=1.0, jitter=0, gray=0, flip=0)
    torch.testing.assert_close(clip_views(plain, video), video / 255)


def test_motion_is_measured_where_something_changes():
    video = torch.zeros(2, 20, 3, 16, 16)
    video[0, 8:12] = torch.arange(1, 5).view(4, 1, 1, 1) / 10
    found = motion(video)
    assert found.shape == (2, 20) and not found[1].any()
    assert (found[0] > 0).nonzero().flatten().tolist() == [7, 8, 9, 10, 11, 12]
    torch.testing.assert_close(found[0, 8], torch.tensor(0.1))


def test_frames_that_are_shown_twice_still_move():
    video = (torch.arange(20) // 2 * 10).to(torch.uint8).view(1, 20, 1, 1, 1).expand(1, 20, 1, 8, 8)
    assert (motion(video)[:, 1:-1] > 0).all()


def test_fine_noise_is_hardly_motion():
    torch.manual_seed(0)
    noise = 0.1 * torch.rand(1, 8, 1, 32, 32)
    moving = torch.zeros(1, 8, 1, 32, 32)
    for frame in range(8):
        moving[0, frame, 0, 8:16, 3 * frame : 3 * frame + 8] = 1
    assert motion(noise).mean() < 0.5 * motion(moving).mean()
    assert motion(torch.rand(1, 3, 1, 2, 3)).shape == (1, 3)
    assert not motion(torch.rand(2, 1, 1, 8, 8)).any()


def test_views_lie_within_boxes_that_move_with_the_picture():
    torch.manual_seed(0)
    video = torch.zeros(30, 4, 1, 24, 24)
    boxes = torch.empty(30, 4, 4, dtype=torch.int64)
    picture = torch.rand(30, 1, 14, 10)
    for frame in range(4):
        top, left = 2 * frame, 10 - 3 * frame
        video[:, frame, :, top : top + 14, left : left + 10] = picture
        boxes[:, frame] = torch.tensor([top, left, 14, 10])
    seen = clip_views(Views(8, crop=0.3, jitter=0, gray=0), video, boxes)
    torch.testing.assert_close(seen, seen[:, :1].expand_as(seen))
    assert (seen > 0).all() and len({tuple(clip.flatten().tolist()) for clip in seen[:, 0]}) == 30
    whole = boxes.clone()
    whole[:] = torch.tensor([0, 0, 24, 24])
    torch.manual_seed(1)
    one = clip_views(Views(8, jitter=0, gray=0), video, whole)
    torch.manual_seed(1)
    torch.testing.assert_close(one, clip_views(Views(8, jitter=0, gray=0), video))


def test_clips_hold_a_window_and_are_as_long_as_the_shortest_video_that_does():
    counts = torch.tensor([9, 40, 20])
    assert clip_length(counts, 12, 1) == 20 and clip_length(counts, 12, 3) == 14
    assert clip_length(torch.tensor([90]), 12, 1) == 48 and clip_length(torch.tensor([90]), 60, 1) == 60
    assert clip_length(counts, 50, 1) == 50  # which no video holds
