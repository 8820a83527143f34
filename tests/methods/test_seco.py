"""Seasonal contrast: which keys are compared in each space, chance, and what is learned where anything lasts."""

import copy
import math
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled import encoders
from unlabeled.data import open_data
from unlabeled.data.image.data import from_images
from unlabeled.data.image.places import Places, places_of
from unlabeled.method import Batch
from unlabeled.methods.seco import SeCo, loss
from unlabeled.parts.info_nce import in_batch, with_queue
from unlabeled.worlds import seasons


def build(**options: Any) -> SeCo:
    torch.manual_seed(0)
    small: dict[str, Any] = {"queue": 20, "projection_dim": 6, "splits": 1}
    return SeCo(encoders.build("conv4", image_size=16), **small | options)


def places(n: int = 8, seed: int = 0, **options: Any) -> Places:
    return from_pictures(seasons.make(n, seed, times=4, size=16, **options)["image"])


def from_pictures(pictures: Tensor) -> Places:
    """Places of pictures (places, times, channels, height, width)."""
    data = from_images(pictures.flatten(0, 1))
    data.groups = torch.arange(len(pictures)).repeat_interleave(pictures.shape[1])
    return places_of(data, 3, "seco")


def batch(n: int = 8) -> Batch:
    torch.manual_seed(3)
    return places(n).batch(torch.arange(n))


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def slow(queries: Tensor, keys: Tensor, stored: list[Tensor], temperature: float) -> Tensor:
    """The three cross-entropies, query by query, as the card writes them."""
    total = queries.new_zeros(())
    for space in range(3):
        for row, query in enumerate(queries):
            query = query[space] / query[space].norm()
            candidates = [keys[row, space, space], *stored[space]]
            if space > 0:
                candidates += [
                    keys[other, key, space] for other in range(len(keys)) for key in {0, 1, 2} - {space}
                ]
            logits = torch.stack([query @ candidate for candidate in candidates]) / temperature
            total = total - logits.log_softmax(0)[0] / len(queries)
    return total


def test_loss_and_gradient_are_those_of_a_slow_loop() -> None:
    queries, keys = (3 * unit(4, 3, 5)).requires_grad_(), unit(4, 3, 3, 5, seed=1)
    stored = [unit(7, 5, seed=2 + space) for space in range(3)]
    fast, wanted = loss(queries, keys, stored, 0.2), slow(queries, keys, stored, 0.2)
    torch.testing.assert_close(fast, wanted)
    gradients = [torch.autograd.grad(value, queries, retain_graph=True)[0] for value in (fast, wanted)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("stored", "samples", "values"), [(16384, 256, (9.7041, 9.7349)), (20, 4, (3.0445, 3.3673))]
)
def test_chance_is_the_loss_of_equal_vectors(stored: int, samples: int, values: tuple[float, float]) -> None:
    chance = build(queue=stored).chance(samples)
    assert chance == pytest.approx(values[0] + 2 * values[1], abs=2e-4)
    ones = torch.ones(samples, 3, 3, 1, dtype=torch.float64)
    kept = [torch.ones(stored, 1, dtype=torch.float64)] * 3
    assert float(loss(ones[:, 0], ones, kept, 0.07)) == pytest.approx(chance, rel=1e-9)


def test_other_keys_never_matter_in_the_first_space_and_are_negatives_in_the_others() -> None:
    queries, stored = unit(4, 3, 5), [unit(7, 5, seed=2 + space) for space in range(3)]
    keys, noise = unit(4, 3, 3, 5, seed=1), unit(4, 3, 3, 5, seed=9)
    value = loss(queries, keys, stored, 0.2)
    for space in range(3):
        changed = keys.clone()
        others = [key for key in range(3) if key != space]
        changed[:, others, space] = noise[:, others, space]
        assert (loss(queries, changed, stored, 0.2) != value) == (space > 0)
        # Which of the other keys is which does not matter, only that they are negatives.
        swapped = keys.clone()
        swapped[:, others, space] = keys[:, others[::-1], space]
        torch.testing.assert_close(loss(queries, swapped, stored, 0.2), value)


def test_first_space_alone_is_moco() -> None:
    queries, keys, stored = unit(4, 3, 5), unit(4, 3, 3, 5, seed=1), [unit(0, 5)] * 3
    first = with_queue(queries[:, 0], keys[:, 0, 0], unit(7, 5, seed=2), 0.2)
    both = loss(queries, keys, [unit(7, 5, seed=2), *stored[1:]], 0.2)
    none = loss(queries, keys, stored, 0.2)
    torch.testing.assert_close(both - none, first)  # with an empty queue the first space is certain: 0 nats


def test_query_and_keys_show_the_right_times_and_augmentations() -> None:
    """Each picture has one colour, which cropping does not change; gray is the augmentation."""
    method = build(crop=0.5, jitter=0.0, gray=1.0, flip=0.0)
    colors = torch.tensor([[200, 10, 10], [10, 200, 10], [10, 10, 200]], dtype=torch.uint8)
    video = colors[None, :, :, None, None].expand(2, -1, -1, 16, 16)
    query, key0, key1, key2 = (view[:, :, 4, 4] for view in method.four_views({"video": video}))
    torch.testing.assert_close(query, colors[:1].expand(2, -1) / 255)
    torch.testing.assert_close(key1, colors[2:].expand(2, -1) / 255)
    for key, time in ((key0, 1), (key2, 0)):
        luma = float(colors[time].float() @ torch.tensor([0.299, 0.587, 0.114])) / 255
        torch.testing.assert_close(key, torch.full((2, 3), luma), atol=2e-3, rtol=0)


def test_each_queue_stores_its_own_keys_after_they_were_used() -> None:
    method, given = build(), batch()
    views = method.four_views(given)
    method.four_views = lambda _: views  # type: ignore[method-assign]
    before = [rows.clone() for rows in method.stored]
    twin = copy.deepcopy(method)
    assert all(torch.allclose(rows.norm(dim=1), torch.ones(20)) for rows in before)
    keys = torch.stack([F.normalize(twin.teacher(view), dim=2) for view in views[1:]], 1)
    queries = twin.heads(twin.encoder(views[0]))
    torch.testing.assert_close(method(given), loss(queries, keys, before, 0.07))
    for space, rows in enumerate(method.stored):
        torch.testing.assert_close(rows[:8], keys[:, space, space], atol=1e-5, rtol=1e-4)
        assert torch.equal(rows[8:], before[space][8:])
    stored = [rows.clone() for rows in method.stored]
    method.eval()(given)
    assert all(torch.equal(a, b) for a, b in zip(stored, method.stored))


def test_teacher_gets_no_gradient_and_moves_once_after_the_step() -> None:
    method = build(momentum=0.9)
    method(batch()).backward()
    assert all(parameter.grad is None for parameter in method.teacher.parameters())
    start = [parameter.clone() for parameter in method.teacher.parameters()]
    student = [*method.encoder.parameters(), *method.heads.parameters()]
    with torch.no_grad():
        for parameter in student:
            parameter.add_(1)
    method.after_step(0.5)
    for before, now, goal in zip(start, method.teacher.parameters(), student, strict=True):
        torch.testing.assert_close(now, 0.9 * before + 0.1 * goal)


def test_features_are_those_of_images_and_of_places_of_any_size() -> None:
    method, given = build().eval(), batch()
    first = given["video"][:, 0]
    torch.testing.assert_close(method.features(given), method.features({"image": first}))
    sizes = torch.full((8, 3, 2), 16)
    padded = {"video": F.pad(given["video"], (0, 3, 0, 5)), "size": sizes, "index": given["index"]}
    torch.testing.assert_close(method.features(padded), method.features(given))
    assert method.embedding(given).shape == (8, 18)
    pictures = method.pictures(given)
    assert list(pictures) == ["query", "another time, augmented", "another time", "augmented"]


def test_queue_larger_than_the_data_gives_a_warning_and_groups_are_required() -> None:
    with pytest.warns(UserWarning, match=r"queue \(20\) is larger than the number of places \(8\)"):
        build().prepare(places())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (method := build(queue=None)).prepare(places())
    assert len(method.queue.rows) == 8 and len(build(queue=None).queue.rows) == 1024
    with pytest.raises(ValueError, match=r"must have groups for seco"):
        build().training_view(open_data("photos"))  # type: ignore[arg-type]


def test_training_step_in_bfloat16_is_finite() -> None:
    method = build()
    with torch.autocast("cpu", torch.bfloat16):
        value = method(batch())
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


@pytest.mark.usefixtures("wide_networks")
@pytest.mark.parametrize("unrelated", [False, True])
def test_a_place_is_recognised_at_other_times_unless_its_images_are_unrelated(unrelated: bool) -> None:
    """On places never seen."""
    train, test = (
        from_pictures(seasons.make(n, seed, times=3, size=8, unrelated=unrelated)["image"])
        for n, seed in ((200, 0), (48, 1))
    )
    torch.manual_seed(0)
    encoder = encoders.build("conv4", image_size=8)
    options: dict[str, Any] = {"jitter": 0.0, "gray": 0.0, "momentum": 0.9, "splits": 1}
    method = SeCo(encoder, queue=64, projection_dim=16, temperature=0.2, crop=1.0, **options)

    def nats() -> float:
        """InfoNCE of 48 places in the first space, mean over three pairs of times."""
        video = test.sample(48)["video"]
        with torch.no_grad():
            views = [method.encoder.inputs({"image": video[:, time]}) for time in range(3)]
            once = [method.eval().heads(method.encoder(view))[:, 0] for view in views]
        return sum(float(in_batch(once[a], once[b], 0.2)) for a, b in ((0, 1), (1, 2), (2, 0))) / 3

    before = nats()
    optimizer = torch.optim.AdamW(method.parameters(), lr=4e-3)
    for step in range(40):
        torch.manual_seed(step)
        optimizer.zero_grad()
        method.train()(train.batch(torch.randperm(200)[:32])).backward()
        optimizer.step()
        method.after_step(step / 40)
    after = nats()
    if unrelated:
        assert after > 0.97 * math.log(48)
    else:
        assert after < 0.92 * math.log(48) < before


def test_places_of_a_batch_are_compared_with_each_other() -> None:
    assert SeCo.compares_samples  # other places' keys are negatives, so a batch of one is another task
