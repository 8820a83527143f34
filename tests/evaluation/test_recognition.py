"""Recognition of actions: views and crops averaged, ranks, and what each network may see."""

from typing import Any

import pytest
import torch
from torch import Tensor

from unlabeled import encoders
from unlabeled.data import from_images
from unlabeled.data.video.data import Videos, from_videos
from unlabeled.evaluation import evaluate
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.tasks.recognition import TASK, LSTMOverFrames, cropped, hits, probabilities
from unlabeled.worlds import balls


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def moving(
    samples: int, seed: int, frames: int = 5, size: int = 4, width: int = 4, classes: int = 2
) -> Videos:
    """A bright column that goes left or right from a random place: one frame says nothing of the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % classes
    start = torch.randint(0, width, (samples, 1), generator=generator)
    place = (start + (2 * (labels[:, None] % 2) - 1) * torch.arange(frames)) % width
    video = torch.zeros(samples, frames, 1, size, width, dtype=torch.uint8)
    video[torch.arange(samples)[:, None], torch.arange(frames), 0, :, place] = 200
    return from_videos(
        video, labels, name="columns", classes=[f"class {number}" for number in range(classes)]
    )


def lstm() -> encoders.Encoder:
    torch.manual_seed(0)
    return encoders.build("lstm-16", kind="video", in_channels=1, image_size=4, frames=5).eval()


def shown(data: Videos) -> Tensor:
    return data.batch(torch.arange(len(data)))["video"][:, :, 0, 0, 0].long()


def numbered(*counts: int) -> Videos:
    """Videos whose pixels are the numbers of their frames."""
    frames = torch.cat([torch.arange(count) for count in counts]).to(torch.uint8)
    return Videos(frames, torch.tensor(counts), (1, 1, 1), name="numbers", paths=[*map(str, counts)])


def test_clips_of_a_test_video_go_from_its_start_to_its_end():
    data = numbered(10, 4, 2)
    starts = [shown(data.middle(4, number=number, of=3)).tolist() for number in range(3)]
    assert starts[0] == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 1, 1]]
    assert starts[1][0] == [3, 4, 5, 6] and starts[2][0] == [6, 7, 8, 9]
    assert starts[2][1:] == starts[0][1:]
    assert torch.equal(shown(data.middle(4, number=0, of=1)), shown(data.middle(4)))
    assert [shown(data.middle(3, 0, number, 2))[0].tolist() for number in range(2)] == [[0, 0, 0], [9, 9, 9]]


def test_several_spread_views_share_no_frame_and_one_is_the_usual():
    data = numbered(12, 3)
    views = [shown(data.spread(3, number, 4))[0].tolist() for number in range(4)]
    assert sorted(frame for view in views for frame in view) == [*range(12)]
    assert torch.equal(shown(data.spread(3, 0, 1)), shown(data.spread(3)))


def test_training_clips_reach_every_start_and_single_frames_stay():
    data = numbered(6, 3)
    seen = {tuple(row) for _ in range(99) for row in shown(data.anywhere(4)).tolist()}
    assert seen == {(0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 1, 2, 2)}
    still = {tuple(row) for _ in range(99) for row in shown(data.anywhere(4, 0)).tolist()}
    assert still == {(frame,) * 4 for frame in range(6)}
    view = data.middle(4)
    assert torch.equal(shown(view.anywhere(2)), shown(view.middle(2)))


def test_crops_lie_at_even_distances_along_the_longer_side():
    wide = torch.arange(10).expand(2, 3, 4, 10)
    assert [cropped(wide, number, 3)[0, 0, 0].tolist() for number in range(3)] == [
        [0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9],
    ]  # fmt: skip
    high = wide.transpose(-1, -2)
    for number in range(3):
        assert torch.equal(cropped(high, number, 3), cropped(wide, number, 3).transpose(-1, -2))


@pytest.mark.parametrize("crops", [1, 3])
def test_probabilities_are_the_mean_of_those_of_single_views(crops):
    data, weight = moving(7, 0, frames=9, size=8, width=14), torch.randn(4 * 8 * (14 if crops == 1 else 8), 5)
    views = [data.middle(4, number=number, of=3) for number in range(3)]
    found = probabilities(lambda batch: batch["video"].float().flatten(1) @ weight / 99, views, crops)
    expected = torch.zeros(7, 5)
    for row in range(7):
        for view in views:
            video = view.batch(torch.tensor([row]))["video"][0].float() / 99
            for start in [0] if crops == 1 else [0, 3, 6]:
                seen = video if crops == 1 else video[..., start : start + 8]
                logits = seen.flatten() @ weight
                expected[row] += logits.exp() / logits.exp().sum() / (3 * crops)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, probabilities(
        lambda batch: batch["video"].float().flatten(1) @ weight / 99, views[:1], crops))  # fmt: skip


@pytest.mark.parametrize("k", [1, 2, 5])
def test_hits_match_a_slow_twin_with_ties(k):
    scores, answers = torch.randint(0, 4, (200, 7)).float(), torch.randint(0, 7, (200,))
    for row, answer, hit in zip(scores.tolist(), answers.tolist(), hits(scores, answers, k).tolist()):
        best = sorted(range(7), key=lambda number: (-row[number], number))[:k]
        assert hit == float(answer in best)
    constant = hits(torch.full((7, 7), 1 / 7), torch.arange(7), k)
    assert constant.sum() == k  # who does not decide is right by chance only


def rows(model: EvaluatedModel, *data: Videos) -> dict[tuple[str, str, str], Any]:
    return {(m.layer, m.features, m.unit): m for m in TASK(model, data)}


def test_one_clip_is_the_linear_probe_and_fine_tuning():
    data = moving(80, 0), moving(40, 1)
    probes = evaluate(lstm(), data, probe=["linear", "finetune"], controls="random", steps=6, clips=None)
    both = evaluate(lstm(), data, probe="recognition", steps=6, clips=1)
    said = both.verdict()
    assert "Controls of recognition frozen: raw input; random weights." in said
    assert "Controls of recognition fine-tuned: supervised, same labels; single frame." in said
    found = {(r["layer"], r["features"]): r["value"] for r in both}
    expected = {(r["probe"], r["features"]): r["value"] for r in probes}
    assert found["frozen", "unlabeled"] == expected["linear", "unlabeled"]
    assert found["frozen", "random"] == expected["linear", "random"]
    assert found["fine-tuned", "unlabeled"] == expected["finetune", "unlabeled"]
    assert found["fine-tuned", "supervised"] == expected["finetune", "supervised"]


def test_motion_is_learned_by_all_but_those_who_see_a_single_frame():
    model = EvaluatedModel(lstm(), steps=100)
    found = rows(model, moving(120, 0), moving(60, 1))
    assert set(found) == {
        (layer, features, "accuracy")
        for layer, names in {
            "frozen": ("unlabeled", "raw", "random"), "fine-tuned": ("unlabeled", "supervised", "single frame"),
        }.items()
        for features in names
    }  # fmt: skip
    value = {key[:2]: float(one.values.mean()) for key, one in found.items()}
    assert value["fine-tuned", "unlabeled"] > 0.9 and value["fine-tuned", "supervised"] > 0.65
    # The labels follow from motion alone.
    assert 0.35 < value["fine-tuned", "single frame"] < 0.65 and 0.35 < value["frozen", "raw"] < 0.65
    assert "1 clip of 5 frames" in found["fine-tuned", "unlabeled", "accuracy"].detail


def test_where_labels_say_nothing_all_are_at_chance():
    train, test = moving(80, 0), moving(200, 1)
    for data in (train, test):
        data.labels = torch.randint(0, 2, (len(data),))
    for one in TASK(EvaluatedModel(lstm(), steps=20), (train, test)):
        assert 0.35 < float(one.values.mean()) < 0.65


def test_other_networks_stand_beside_an_lstm_over_frames_and_many_classes_have_a_top_5():
    test = moving(14, 1, frames=9, size=8, width=12, classes=7)
    test.groups = torch.arange(14) // 2
    network = encoders.build("conv3d", kind="video", in_channels=1, image_size=8, frames=4).eval()
    model = EvaluatedModel(network, steps=1, crops=3, clips=2)
    found = rows(model, moving(28, 0, frames=9, size=8, width=12, classes=7), test)
    assert ("fine-tuned", "LSTM over frames", "top-5 accuracy") in found and len(found) == 14
    for (_, features, unit), one in found.items():
        assert one.groups.tolist() == test.groups.tolist() and one.counted == "recordings"
        clips = "4 single frames x 3 crops" if features == "single frame" else "2 clips of 4 frames x 3 crops"
        assert one.detail.startswith(f"{clips}, 8 pixels; ")
        if unit == "accuracy":
            assert (found[one.layer, features, "top-5 accuracy"].values >= one.values).all()
    with pytest.raises(
        ValueError, match="crops must be 1 for square frames, as all would be the same, got 3"
    ):
        TASK(model, (moving(8, 0), moving(8, 1)))
    with pytest.raises(ValueError, match="encoder must be one of video, got image"):
        images = from_images(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4) % 2)
        TASK(EvaluatedModel(encoders.build("conv4", image_size=8)), (images, images))


def test_the_lstm_over_frames_sees_their_order_and_is_no_bag_of_them():
    made = balls.make(4, 0, frames=5, size=16)
    torch.manual_seed(0)
    frames: Any = encoders.build("frames-conv4", kind="video", in_channels=1, image_size=16, frames=5)
    network = LSTMOverFrames(frames).eval()
    x = network.inputs({"video": made["video"]})
    assert network(x).shape == (4, network.dim)
    assert not torch.allclose(network(x), network(x.flip(1)), atol=1e-6)
    assert torch.allclose(frames(x), frames(x.flip(1)), atol=1e-5)


def test_every_row_is_kept_as_it_comes():
    kept: list[list[tuple[str, str]]] = []
    evaluate(
        lstm(), (moving(16, 0), moving(8, 1)), probe="recognition", steps=1,
        save=lambda scores: kept.append([(r["layer"], r["features"]) for r in scores]),
    )  # fmt: skip
    assert [len(one) for one in kept] == [1, 2, 3, 4, 5, 6] and kept[-1][0] == ("frozen", "unlabeled")


@pytest.mark.parametrize("name", ["clips", "crops"])
def test_clips_and_crops_must_come_with_what_they_are_for(name):
    with pytest.raises(ValueError, match=f"{name} is for the tasks recognition, got 2 with"):
        evaluate(lstm(), (moving(8, 0), moving(8, 1)), probe="linear", **{name: 2})
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        evaluate(lstm(), (moving(8, 0), moving(8, 1)), probe="recognition", **{name: 0})
