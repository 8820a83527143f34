"""A dictionary of cubes: what it learns, and what of motion it tells apart."""

from pathlib import Path

import pytest
import torch

from unlabeled import encoders, evaluate, pretrain
from unlabeled.data.video.data import Videos, from_videos
from unlabeled.methods.video_dictionary import VideoDictionary


def gratings(count: int = 80, frames: int = 6, size: int = 12) -> Videos:
    """Upright stripes of any phase that drift to the left or to the right: no single frame tells which."""
    torch.manual_seed(0)
    way = torch.arange(count) % 2
    place = torch.arange(size) - (2 * way[:, None, None] - 1) * torch.arange(frames)[:, None]
    wave = (place * 2 * torch.pi / 6 + 6.28 * torch.rand(count, 1, 1)).sin() / 2 + 0.5
    video = (wave * 255).to(torch.uint8)[:, :, None, None].expand(-1, -1, 1, size, -1)
    return from_videos(video, way, name="gratings", classes=["left", "right"])


def build(data: Videos, network: str = "cube-dictionary-16", **options) -> VideoDictionary:
    torch.manual_seed(0)
    method = VideoDictionary(encoders.fitted(network, data, kind="video"), **{"cubes": 1000} | options)
    method.prepare(method.training_view(data))
    return method


def test_more_of_the_variance_of_cubes_is_explained_after_training() -> None:
    data = gratings()
    method = build(data)
    view = method.training_view(data)
    losses = [float(method(view.sample(32))) for _ in range(10)]
    assert losses[-1] < 0.9 * losses[0] < method.chance(32)


def test_the_filters_of_the_encoder_are_the_atoms_with_the_whitening_folded_in() -> None:
    data = gratings()
    method = build(data)
    method(method.training_view(data).sample(32))
    filters, offsets = method.dictionary.filters()
    assert torch.equal(method.encoder.trunk.convolution.weight.flatten(1), filters)
    assert torch.equal(method.encoder.trunk.offset, offsets)


def test_one_label_per_class_separates_stripes_that_drift_left_from_those_that_drift_right(
    tmp_path: Path,
) -> None:
    data = gratings(160)
    train, test = data.subset(torch.arange(120)), data.subset(torch.arange(120, 160))
    settings = {"encoder": "cube-dictionary-16", "cubes": 1000, "steps": 10, "quiet": True}
    run = pretrain("video_dictionary", train, out=tmp_path / "run", **settings)
    scores = evaluate(run, (train, test), probe="knn", labels_per_class=[1], controls=("raw",))
    values = {record["features"]: record["value"] for record in scores.records}
    assert values["unlabeled"] > 0.95 and values["raw"] < 0.8


def test_videos_shorter_than_a_cube_are_left_out_of_training_but_not_of_evaluation() -> None:
    counts, size = torch.tensor([6, 2, 6, 6]), (1, 12, 12)
    pixels = torch.randint(0, 256, (int(counts.sum()) * 144,), dtype=torch.uint8)
    data = Videos(pixels, counts, size, name="mixed", paths=["a", "b", "c", "d"])
    method = build(data)
    view = method.training_view(data)
    assert [entry.path for entry in view.skipped] == ["b"]
    assert method.features(method.encoder.evaluation_view(data).sample(4)).isfinite().all()
    with pytest.raises(ValueError, match="the frames of the longest video"):
        method.training_view(data.subset(torch.tensor([1])))


def test_pictures_show_what_one_atom_per_cube_explains() -> None:
    data = gratings()
    method = build(data)
    view = method.training_view(data)
    for _ in range(10):
        method(view.sample(32))
    shown = method.eval().pictures(view.sample(5))
    video, drawn = shown["video"], shown["one atom per cube"]
    assert video.shape == drawn.shape == (5, 1, 12, 48)
    assert (drawn - video).square().mean() < 0.5 * (video.mean() - video).square().mean()
    assert shown["most used atoms"].shape == (5, 1, 4 * 7, 4 * 25)


def test_other_encoders_are_refused() -> None:
    with pytest.raises(
        ValueError, match="encoder must be a dictionary such as cube-dictionary-256, got conv3d"
    ):
        VideoDictionary(encoders.build("conv3d", kind="video", image_size=16))
