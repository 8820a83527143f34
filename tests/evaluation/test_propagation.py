"""Label propagation: the scores of DAVIS on hand-made masks, and carried labels against a slow loop."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from unlabeled import encoders, progress
from unlabeled.data import open_data
from unlabeled.data.video.data import from_videos
from unlabeled.data.video.films import films, frame_counts
from unlabeled.evaluation import tracking
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.tasks.propagation import (
    TASK,
    _scores,
    boundary,
    contour,
    dilate,
    iou,
    statistics,
    things,
)
from unlabeled.evaluation.tracking import Settings, carry, propagate, track
from unlabeled.worlds import blobs

DAVIS = Path(__file__).parents[3] / "shared" / "data" / "davis_val10"


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def box(top: int, left: int, height: int, width: int, size: tuple[int, int] = (24, 40)) -> torch.Tensor:
    mask = torch.zeros(1, *size, dtype=torch.bool)
    mask[:, top : top + height, left : left + width] = True
    return mask


NOTHING = box(0, 0, 0, 0)


def test_region_similarity_of_hand_made_masks():
    assert iou(box(2, 2, 8, 8), box(2, 2, 8, 8)) == 1
    assert iou(box(2, 2, 8, 8), box(2, 6, 8, 8)) == pytest.approx(32 / 96)
    assert iou(box(2, 2, 8, 8), box(2, 20, 8, 8)) == 0
    assert iou(NOTHING, NOTHING) == 1
    assert iou(NOTHING, box(2, 2, 8, 8)) == iou(box(2, 2, 8, 8), NOTHING) == 0


def test_boundary_is_where_the_neighbour_right_below_or_across_differs():
    masks = torch.rand(3, 9, 7) < 0.5
    found = boundary(masks)
    for m in range(3):
        for y in range(9):
            for x in range(7):
                others = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
                inside = [masks[m, v, u] for v, u in others if v < 9 and u < 7]
                if (
                    x == 6
                ):  # at the right border only the neighbour below counts, at the lower one that to the right
                    inside = [masks[m, y + 1, 6]] if y < 8 else []
                elif y == 8:
                    inside = [masks[m, 8, x + 1]]
                assert found[m, y, x] == any(other != masks[m, y, x] for other in inside)


def test_boundary_of_a_box():
    found = boundary(box(2, 3, 4, 5))[0]
    drawn = torch.zeros(24, 40, dtype=torch.bool)
    drawn[1, 2:8] = drawn[5, 2:8] = drawn[1:6, 2] = drawn[1:6, 7] = True
    assert torch.equal(found, drawn)


@pytest.mark.parametrize("radius", [1, 2, 4])
def test_dilation_reaches_all_within_the_radius(radius):
    masks = torch.rand(2, 12, 15) < 0.05
    found = dilate(masks, radius)
    for m in range(2):
        points = masks[m].nonzero().tolist()
        for y in range(12):
            for x in range(15):
                near = any((y - v) ** 2 + (x - u) ** 2 <= radius**2 for v, u in points)
                assert found[m, y, x] == near


def test_contour_accuracy_matches_a_slow_twin():
    """Matches pixel by pixel, with the official tolerance: 0.008 of the diagonal, rounded up."""
    predicted = F.interpolate(torch.randn(6, 1, 6, 8), (90, 130), mode="bilinear")[:, 0] > 0.2
    true = F.interpolate(torch.randn(6, 1, 6, 8), (90, 130), mode="bilinear")[:, 0] > 0.2
    radius = math.ceil(0.008 * math.hypot(90, 130))
    assert radius == 2
    for ours, theirs, found in zip(predicted, true, contour(predicted, true)):
        edges = [boundary(mask[None])[0].nonzero().float() for mask in (ours, theirs)]
        apart = torch.cdist(edges[0], edges[1], compute_mode="donot_use_mm_for_euclid_dist")
        precision = float((apart.amin(1) <= radius).float().mean())
        recall = float((apart.amin(0) <= radius).float().mean())
        expected = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        assert float(found) == pytest.approx(expected, abs=1e-5)


def test_contour_accuracy_of_hand_made_masks():
    assert contour(box(4, 4, 8, 8), box(4, 4, 8, 8)) == 1
    assert contour(box(4, 4, 8, 8), box(4, 5, 8, 8)) == 1  # one pixel aside is forgiven
    assert 0 < contour(box(4, 4, 8, 8), box(4, 7, 8, 8)) < 1
    assert contour(box(4, 4, 8, 8), box(4, 20, 8, 8)) == 0
    assert contour(NOTHING, NOTHING) == 1
    assert contour(NOTHING, box(4, 4, 8, 8)) == contour(box(4, 4, 8, 8), NOTHING) == 0
    everything = ~NOTHING
    assert contour(everything, NOTHING) == 1  # neither has a boundary: F says what J does not
    assert contour(everything, box(4, 4, 8, 8)) == 0


def test_statistics_leave_out_the_first_and_the_last_frame():
    scores = torch.tensor([[0.0, 1.0, 0.8, 0.6, 0.4, 0.2, 0.0, 0.0, 0.0, 1.0]])
    mean, recall, decay = statistics(scores)
    assert float(mean) == pytest.approx(3.0 / 8)
    assert float(recall) == pytest.approx(3 / 8)
    # Borders of the quarters of eight frames: 1, 2.75, 4.5, 6.25, 8, rounded to 1, 3, 4 (or 5), 6, 8.
    assert float(decay) == pytest.approx((1.0 + 0.8 + 0.6) / 3)
    assert statistics(torch.ones(2, 3))[0].tolist() == [1, 1]
    assert statistics(torch.ones(1, 3))[2].tolist() == [0]


def slowly(features, labels, previous, top, radius, temperature):
    """Every target place by itself, all sources in one list."""
    frames, _, rows, columns = features.shape
    carried = [labels]
    for t in range(1, frames):
        sources = [0, *range(max(1, t - previous), t)]
        now = torch.zeros_like(labels)
        for y in range(rows):
            for x in range(columns):
                found = []
                for s in sources:
                    for v in range(rows):
                        for u in range(columns):
                            if s == 0 or math.hypot(v - y, u - x) < radius:
                                alike = float(features[t, :, y, x] @ features[s, :, v, u])
                                found.append((alike, carried[s][:, v, u]))
                best = sorted(found, key=lambda pair: -pair[0])[:top]
                weights = torch.tensor([alike / temperature for alike, _ in best]).softmax(0)
                now[:, y, x] = sum(w * value for w, (_, value) in zip(weights, best))
        carried.append(now)
    return torch.stack(carried)


@pytest.mark.parametrize(("previous", "top", "radius"), [(2, 3, 2.5), (0, 2, 1.0), (7, 50, 2.0), (3, 1, 9.0)])
@pytest.mark.parametrize("at_once", [1, 2**22])
def test_propagation_matches_a_slow_twin(previous, top, radius, at_once, monkeypatch):
    monkeypatch.setattr(tracking, "SIMILARITIES", at_once)
    features = F.normalize(torch.randn(5, 6, 4, 5), dim=1)
    labels = torch.rand(3, 4, 5).softmax(0)
    carried = propagate(features, labels, previous=previous, top=top, radius=radius, temperature=0.2)
    expected = slowly(features, labels, previous, top, radius, 0.2)
    torch.testing.assert_close(carried, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(carried.sum(1), torch.ones(5, 4, 5))


def test_the_first_frame_knows_no_radius():
    features = torch.eye(12).view(1, 12, 3, 4).repeat(2, 1, 1, 1)
    features[1] = features[0].flip(1, 2)
    labels = F.one_hot(torch.arange(12).view(3, 4)).permute(2, 0, 1).float()
    carried = propagate(features, labels, previous=3, top=1, radius=1.0)
    assert torch.equal(carried[1], labels.flip(1, 2))


def film(frames: int = 5, **options: Any):
    made = blobs.make(1, 3, frames=frames, size=32, **options)
    return next(films(from_videos(made["video"], name="blobs", masks=made["masks"])))


def positions(images: torch.Tensor) -> torch.Tensor:
    """A description of each place that occurs once in a frame."""
    return torch.eye(64).view(64, 8, 8).expand(len(images), 64, 8, 8)


def test_the_identity_tracks_a_still_video_perfectly():
    still = film(motion=0.0)
    exact = lambda images: torch.eye(1024).view(1024, 32, 32).expand(len(images), 1024, 32, 32)  # noqa: E731
    found = track(still, exact, Settings(), 32)
    assert torch.equal(found, still.masks)
    assert (iou(found == 1, still.masks == 1) == 1).all() and (
        contour(found == 2, still.masks == 2) == 1
    ).all()


def test_the_identity_copies_the_first_mask_of_a_moving_video():
    moving = film(frames=8)
    found = track(moving, positions, Settings(top=1), 32)
    assert (iou(found[1:] == 2, found[1:2] == 2) == 1).all()
    assert iou(found[7:] == 2, moving.masks[7:] == 2) < 0.9


@pytest.mark.parametrize(("shape", "size", "side"), [
    ((240, 427), None, 132), ((427, 240), None, 132), ((240, 427), 200, 200), ((100, 100), 200, 100),
    ((32, 48), None, 32), ((128, 128), None, 128), ((480, 480), None, 180),
])  # fmt: skip
def test_frames_have_as_many_positions_as_can_be_compared_in_time(shape, size, side):
    video = film()._replace(frames=torch.zeros(1, 3, *shape, dtype=torch.uint8))
    encoder = encoders.build("conv4", image_size=96)
    assert tracking.side(Settings(size=size), encoder, 24, video) == side  # positions of 4 pixels


def test_only_the_first_mask_is_looked_at():
    shown = film()
    blind = shown._replace(masks=shown.masks * (torch.arange(5) == 0).to(torch.uint8)[:, None, None])
    assert torch.equal(track(shown, positions, Settings(), 32), track(blind, positions, Settings(), 32))


def model(**options: Any) -> EvaluatedModel:
    return EvaluatedModel(encoders.build("conv4", image_size=32, input="lightness", **options).eval())


def test_measures_ours_and_the_controls():
    made = blobs.make(2, 0, frames=3, size=32)
    data = from_videos(made["video"], name="two", masks=made["masks"])
    found = TASK(model(), data)
    rows = [(m.features, m.unit) for m in found]
    names = ["unlabeled", "random", "raw", "copy first mask"]
    assert rows == [(name, unit) for name in names for unit in ("J&F", "J", "F")]
    for both, j, f in zip(found[::3], found[1::3], found[2::3]):
        assert both.probe == "propagation" and both.values.shape == (1, 4)
        torch.testing.assert_close(both.values, (j.values + f.values) / 2)
        assert both.values.min() >= 0 and both.values.max() <= 1
    assert "32 pixels" in found[0].detail
    again = TASK(model(), data)
    assert all(torch.equal(a.values, b.values) for a, b in zip(found[3:], again[3:]))


def test_progress_is_that_of_the_whole_task(tmp_path, monkeypatch):
    made = blobs.make(2, 0, frames=6, size=32)
    write_davis_layout(tmp_path, ["bear", "cat"], made, "bear\ncat\n")
    assert frame_counts(tmp_path) == [6, 6]
    videos = from_videos(made["video"], name="blobs", masks=made["masks"])
    for data in (str(tmp_path), videos):
        clock, lines = iter([0, *range(0, 10_000, 6)]), []  # a frame takes six seconds
        with monkeypatch.context() as patch, progress.telling(lines.append):
            patch.setattr(progress, "time", SimpleNamespace(monotonic=lambda clock=clock: float(next(clock))))
            TASK(model(), data)
        ours = [line for line in lines if line.startswith("propagation")]
        left = [progress.duration(6.0 * (30 - done)) for done in range(1, 30)]
        assert ours == [
            f"propagation: {done} of 30 frames of 3 kinds of features, about {left[done - 1]} left"
            for done in range(1, 30)
        ]


def test_refuses_what_cannot_be_tracked(tmp_path):
    with pytest.raises(ValueError, match="data must have masks"):
        list(films(from_videos(torch.zeros(1, 3, 3, 8, 8, dtype=torch.uint8))))
    with pytest.raises(ValueError, match=r"got .* without JPEGImages"):
        list(films(tmp_path))
    with pytest.raises(ValueError, match="data must be one of"):
        list(films("no such set"))
    vector = encoders.build("conv3d", kind="video", image_size=8).eval()
    with pytest.raises(ValueError, match=r"encoder must have maps of single frames, .* got conv3d"):
        TASK(EvaluatedModel(vector), "blobs")
    for bad in ({"top": 0}, {"previous": -1}, {"radius": 0.0}, {"temperature": float("nan")}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            track(film(3), positions, Settings(**bad), 32)


PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0]


def write_davis_layout(root: Path, names: list[str], made: dict[str, torch.Tensor], listed: str) -> None:
    for name, video, masks in zip(names, made["video"], made["masks"]):
        for kind in ("JPEGImages", "Annotations"):
            (root / kind / "480p" / name).mkdir(parents=True)
        for number, (frame, mask) in enumerate(zip(video, masks)):
            image = Image.fromarray(frame.permute(1, 2, 0).numpy())
            image.save(root / "JPEGImages" / "480p" / name / f"{number:05}.jpg", quality=95)
            drawn = Image.fromarray(mask.numpy(), mode="P")
            drawn.putpalette(PALETTE)
            drawn.save(root / "Annotations" / "480p" / name / f"{number:05}.png")
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text(listed)


def test_reads_the_layout_of_davis(tmp_path):
    made = blobs.make(3, 0, frames=4, size=32)
    write_davis_layout(tmp_path, ["bear", "cat", "dog"], made, "cat\nbear\n")
    found = list(films(str(tmp_path)))
    assert [shown.name for shown in found] == ["cat", "bear"]
    assert torch.equal(found[0].masks, made["masks"][1]) and torch.equal(found[1].masks, made["masks"][0])
    assert found[0].frames.shape == (4, 3, 32, 32)
    assert (found[0].frames.float() - made["video"][1].float()).abs().mean() < 8
    (tmp_path / "ImageSets" / "2017" / "val.txt").write_text(
        "/JPEGImages/480p/dog/00000.jpg /Annotations/480p/dog/00000.png\n" * 2
    )
    assert [shown.name for shown in films(tmp_path)] == ["dog"]
    (tmp_path / "ImageSets" / "2017" / "val.txt").unlink()
    assert [shown.name for shown in films(tmp_path)] == ["bear", "cat", "dog"]
    white = Image.fromarray(np.where(made["masks"][2, 0].numpy() > 0, 255, 0).astype(np.uint8))
    white.save(tmp_path / "Annotations" / "480p" / "dog" / "00000.png")
    assert torch.equal(list(films(tmp_path))[2].masks[0], (made["masks"][2, 0] > 0).to(torch.uint8))
    (tmp_path / "Annotations" / "480p" / "cat" / "00002.png").unlink()
    with pytest.raises(ValueError, match="got cat with no mask of 00002"):
        list(films(tmp_path))


def with_void(root: Path, sequence: str, masks: np.ndarray, mode: str = "P") -> None:
    for number, mask in enumerate(masks):
        drawn = Image.fromarray(mask, mode=mode)
        if mode == "P":
            drawn.putpalette([*PALETTE, *[0] * (768 - 12), 224, 224, 192])
        drawn.save(root / "Annotations" / "480p" / sequence / f"{number:05}.png")


@pytest.mark.parametrize("mode", ["P", "L"])
def test_numbers_of_things_survive_beside_void(mode, tmp_path):
    made = blobs.make(1, 0, frames=4, size=32)
    write_davis_layout(tmp_path, ["bear"], made, "bear\n")
    masks = made["masks"][0].numpy().copy()
    masks[masks == 1] = 3
    masks[1:, :4] = 255
    with_void(tmp_path, "bear", masks, mode)
    shown = next(films(tmp_path))
    assert np.array_equal(shown.masks.numpy(), masks)
    assert things(shown.masks) == sorted(set(np.unique(masks[0])) - {0, 255})
    carried = track(shown, positions, Settings(), 32)
    assert not (carried[1:] == 255).any()


def test_white_on_black_is_one_thing_in_every_frame_and_soft_edges_belong_to_it(tmp_path):
    made = blobs.make(1, 0, frames=4, size=32)
    write_davis_layout(tmp_path, ["bear"], made, "bear\n")
    masks = np.where(made["masks"][0].numpy() > 0, 255, 0).astype(np.uint8)
    masks[2] = 0  # out of sight: this frame alone would say nothing about white
    for mode in ("P", "L"):
        with_void(tmp_path, "bear", masks, mode)
        assert np.array_equal(next(films(tmp_path)).masks.numpy(), masks // 255)
    soft = masks.copy()
    soft[0, 0, :3] = [40, 200, 128]
    with_void(tmp_path, "bear", soft, "L")
    assert np.array_equal(next(films(tmp_path)).masks.numpy(), (soft > 127).astype(np.uint8))


def test_void_pixels_change_no_score_and_numbers_that_nothing_bears_give_none():
    true = torch.zeros(5, 24, 24, dtype=torch.uint8)
    true[:, 4:12, 4:12] = 1
    true[:, 14:20, 14:20] = 3  # there is no thing 2, which would be found nowhere and count as perfect
    predicted = true.roll(2, 2)
    plain = _scores(predicted, true)
    assert plain.shape == (2, 2, 3) and plain[0, :, 0].max() < 0.7
    hidden, wrong = true.clone(), predicted.clone()
    hidden[1:, :, 22:] = 255
    wrong[1:, :, 22:] = 3
    assert torch.equal(_scores(wrong, hidden), _scores(predicted, hidden))
    assert torch.equal(_scores(true, hidden)[0, :, 0], torch.ones(2))
    everything = true.clone()
    everything[1:] = 255
    assert torch.equal(_scores(predicted, everything)[0, :, 0], torch.ones(2))  # nothing is left to judge


def test_a_folder_in_the_layout_of_davis_opens_as_its_frames_and_finds_its_masks_again(tmp_path):
    made = blobs.make(2, 0, frames=4, size=32)
    write_davis_layout(tmp_path, ["bear", "cat"], made, "bear\ncat\n")
    data = open_data(tmp_path, kind="video", cache=False)
    assert len(data) == 2 and data.shape["frames"] == 4
    assert [Path(path).name for path in data.paths] == ["bear", "cat"]
    assert [film.name for film in films(data)] == ["bear", "cat"]
    assert torch.equal(next(films(data)).masks, made["masks"][0])


def test_youtube_vos_has_no_folders_of_sizes(tmp_path):
    made = blobs.make(2, 0, frames=4, size=32)
    write_davis_layout(tmp_path, ["bear", "cat"], made, "bear\ncat\n")
    for kind in ("JPEGImages", "Annotations"):
        for folder in (tmp_path / kind / "480p").iterdir():
            folder.rename(tmp_path / kind / folder.name)
        (tmp_path / kind / "480p").rmdir()
    assert len(open_data(tmp_path, kind="video", cache=False)) == 2
    assert [film.name for film in films(tmp_path)] == ["bear", "cat"]


def test_a_film_of_one_frame_keeps_its_mask():
    shown = film(3)
    one = shown._replace(frames=shown.frames[:1], masks=shown.masks[:1])
    assert torch.equal(carry(encoders.build("conv4", image_size=16), one), one.masks)


def test_masks_of_one_film_are_those_of_the_measurement():
    encoder = encoders.build("conv4", image_size=16)
    shown = film(4)
    carried = carry(encoder, shown, Settings(previous=2))
    assert torch.equal(carried[0], shown.masks[0])
    other = shown._replace(masks=torch.cat([shown.masks[:1], torch.zeros_like(shown.masks[1:])]))
    assert torch.equal(
        carry(encoder, other, Settings(previous=2)), carried
    )  # only the first mask is looked at


@pytest.mark.skipif(not DAVIS.is_dir(), reason="needs real videos")
def test_frames_are_shrunk_to_the_size_of_the_model_where_the_network_takes_it():
    made = blobs.make(1, 0, frames=3, size=32)
    data = from_videos(made["video"], name="one", masks=made["masks"])
    whole, small = TASK(model(), data), TASK(replace(model(), size=16), data)
    assert "16-16 pixels" not in small[0].detail and small[0].detail.startswith("16 pixels, ")
    assert not torch.equal(whole[0].values, small[0].values)
    vit = EvaluatedModel(encoders.build("vit-small", image_size=32).eval(), size=17)
    with pytest.raises(ValueError, match="size must be a number of pixels that vit-small takes, got 17"):
        TASK(vit, data)


def test_reads_real_videos():
    first = next(films(DAVIS))
    assert first.name == "blackswan" and first.frames.shape == (50, 3, 240, 427)
    assert first.masks.shape == (50, 240, 427) and first.masks.unique().tolist() == [0, 1]


def test_videos_without_any_thing_are_refused():
    data = from_videos(
        torch.zeros(1, 4, 3, 32, 32, dtype=torch.uint8), masks=torch.zeros(1, 4, 32, 32).byte()
    )
    with pytest.raises(ValueError, match=r"masks must show at least one thing, got none in array\[0\]"):
        TASK(model(), data)


def test_objects_of_one_video_are_not_independent():
    made = blobs.make(3, 0, frames=3, size=32)
    data = from_videos(made["video"], name="three", masks=made["masks"])
    found = TASK(model(), data)
    objects = [int(masks.max()) for masks in made["masks"]]
    for one in found:
        assert one.counted == "videos" and one.groups is not None
        assert one.groups.bincount().tolist() == objects


def test_objects_are_counted_by_what_the_first_mask_shows():
    made = blobs.make(2, 0, frames=4, size=32)
    masks = made["masks"].clone()
    masks[0][masks[0] == 1] = 3
    masks[0, 1:, :4] = 255
    data = from_videos(made["video"], name="void", masks=masks)
    found = TASK(model(), data)
    objects = [len(things(mask)) for mask in masks]
    assert found[0].groups is not None and found[0].groups.bincount().tolist() == objects
    assert found[0].values.shape == (1, sum(objects))
