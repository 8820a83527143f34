"""Time-contrastive networks: chance, what the colours and cameras may not change, and what is learned."""

from typing import Any

import pytest
import torch
from torch import Tensor

from unlabeled import encoders
from unlabeled.data.cameras import Scenes, from_views
from unlabeled.methods.time_contrastive import (
    TimeContrastive,
    closest,
    npairs_loss,
    triplet_loss,
)
from unlabeled.worlds import orbit


def scenes(n: int = 3, **options: Any) -> Scenes:
    made = orbit.make(n, 1, frames=8, size=16, **options)
    return from_views(made.pop("views"), factors=made)


def build(**options: Any) -> TimeContrastive:
    torch.manual_seed(0)
    return TimeContrastive(encoders.build("conv4", image_size=16), **{"moments": 5} | options)


def times(batch: int = 3, moments: int = 5) -> Tensor:
    return torch.arange(moments).expand(batch, 2, -1)


def test_collapsed_vectors_have_the_loss_of_chance() -> None:
    ones = torch.ones(2, 2, 5, 4, dtype=torch.float64) / 2
    assert float(triplet_loss(ones, times(2), 0, 0.2)) == pytest.approx(build().chance(4))
    assert float(npairs_loss(ones, times(2), 0)) - 0.001 == pytest.approx(build(objective="npairs").chance(4))
    assert closest(ones, times(2), 0) == 0
    assert build(objective="npairs", views="single").chance(4) is None


def test_data_shows_two_cameras_or_neighbours_of_one() -> None:
    torch.manual_seed(0)
    multi, single = (
        build().training_view(scenes()),
        build(views="single", positive_radius=1).training_view(scenes()),
    )
    for _ in range(5):
        first, second = multi.batch(torch.arange(3))["time"].unbind(1)
        assert torch.equal(first, second)
        away = single.batch(torch.arange(3))["time"].diff(dim=1)
        assert bool((away.abs() == 1).all())


def test_colours_are_drawn_once_for_each_camera_of_a_scene() -> None:
    method, seen = build(gain=0.5), []
    method.encoder.adapt.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    views = torch.full((2, 2, 5, 3, 16, 16), 100, dtype=torch.uint8)
    method({"views": views, "time": times(2), "index": torch.arange(2)})
    gains = seen[0].unflatten(0, (2, 2, 5))[..., 0, 0] / (100 / 255)
    assert torch.equal(gains, gains[:, :, :1].expand_as(gains))
    assert len(gains[:, :, 0].unique()) == 12 and gains.min() > 0.5 and gains.max() < 1.5


def test_scenes_do_not_meet_in_evaluation_mode() -> None:
    method = build(gain=0.0).eval()
    torch.manual_seed(1)
    batch = method.training_view(scenes()).batch(torch.arange(3))
    whole = method(batch)
    alone = [method({key: value[row : row + 1] for key, value in batch.items()}) for row in range(3)]
    torch.testing.assert_close(whole, torch.stack(alone).mean(), rtol=1e-4, atol=1e-5)


def test_features_and_embeddings_read_images_and_scenes_alike() -> None:
    method = build().eval()
    batch = method.training_view(scenes()).batch(torch.arange(3))
    assert method.features(batch).shape == (3, method.encoder.dim)
    assert method.embedding(batch).shape == (3, 32)
    images = scenes().frames().batch(torch.arange(7))
    torch.testing.assert_close(method.embedding(images).norm(dim=1), torch.ones(7))
    torch.testing.assert_close(method.features(images), method.encoder(method.encoder.inputs(images)))


def test_pictures_show_the_moment_and_the_prediction() -> None:
    method = build().eval()
    pictures = method.pictures(method.training_view(scenes()).batch(torch.arange(3)))
    assert list(pictures) == ["one view", "the same moment", "predicted"]
    assert all(image.shape == (3, 3, 16, 16) for image in pictures.values())


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("moments", 1),
        ("moments", 2.5),
        ("embedding_dim", 8.0),
        ("margin", 0.0),
        ("gain", 1.5),
        ("views", "both"),
        ("objective", "x"),
        ("positive_radius", 0),
    ],
)
def test_bad_options_are_refused(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=option):
        build(**{option: value})


@pytest.mark.parametrize("objective", ["triplet", "npairs"])
def test_training_finds_moments_in_scenes_with_cameras_never_seen(objective: str) -> None:
    from unlabeled.evaluation.tasks.alignment import alignment_error

    def scored(data: Scenes) -> float:
        views, errors = data.batch(torch.arange(len(data)))["views"], []
        with torch.no_grad():
            for scene in views:
                one, other = (method.embed(method.encoder.inputs({"image": film})) for film in scene)
                errors.append(alignment_error(one, other))
        return float(torch.stack(errors).mean())

    made = orbit.make(24, 0, frames=10, size=16)
    train, test = from_views(made["views"][:16]), from_views(made["views"][16:])
    still = from_views(orbit.make(8, 2, frames=10, size=16, still=True)["views"])
    method = build(objective=objective, moments=8)
    data, before = method.training_view(train), scored(test)
    optimizer = torch.optim.AdamW(method.parameters(), lr=2e-3)
    for step in range(60):
        torch.manual_seed(step)
        optimizer.zero_grad()
        method.train()(data.batch(torch.randperm(16)[:4])).backward()
        optimizer.step()
    method.eval()
    assert scored(test) < 0.75 * min(before, 1 / 3)
    assert scored(still) == pytest.approx(1 / 3, abs=0.06)
