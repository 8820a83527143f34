"""Correspondence: negatives of other clips, what can be learned, and what the loss cannot depend on."""

import math

import pytest
import torch
import torch.nn.functional as F

from unlabeled.data.audio_visual import Pairs, from_pairs
from unlabeled.encoders.audio_visual import fitted
from unlabeled.methods.audio_visual_correspondence import (
    AudioVisualCorrespondence,
    loss,
    others,
    similarity,
)
from unlabeled.parts.heads import Distance
from unlabeled.worlds.chiming_shapes import make


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def pairs(count: int = 12, size: int = 16) -> Pairs:
    made = make(count, 0, image_size=size)
    return from_pairs(made["image"], made["waveform"], sample_rate=8000)


def method(data: Pairs | None = None, **options) -> AudioVisualCorrespondence:
    data = data or pairs()
    return AudioVisualCorrespondence(fitted("av-conv4", data, image_size=16), **options)


def test_others_are_never_the_sample_itself_nor_its_clip_and_all_come_equally_often():
    index = torch.tensor([0, 1, 2, 3, 0])
    counts = torch.zeros(5, 5)
    for _ in range(400):
        chosen, differ = others(index, 3)
        assert chosen.shape == differ.shape == (5, 3)
        for column in chosen.unbind(1):
            assert torch.equal(column.sort().values, torch.arange(5))
        assert all(len(set(row)) == 3 for row in chosen.tolist())
        assert torch.equal(differ, index[chosen] != index[:, None])
        counts += F.one_hot(chosen, 5).sum(1)
    assert not counts.diagonal().any()
    assert counts[~torch.eye(5, dtype=torch.bool)].sub(300).abs().max() < 60


def test_both_answers_weigh_the_same_and_pairs_of_one_clip_do_not_count():
    logits = torch.randn(3, 4, dtype=torch.float64)
    together = torch.zeros(3, 4, dtype=torch.bool)
    together[:, 0] = True
    counted = torch.ones(3, 4, dtype=torch.bool)
    counted[1, 2] = False
    yes = -F.logsigmoid(logits[:, 0]).mean()
    rest = [-F.logsigmoid(-logits[i, j]) for i in range(3) for j in range(1, 4) if (i, j) != (1, 2)]
    assert loss(logits, together, counted).item() == pytest.approx(float((yes + sum(rest) / 8) / 2))
    other = logits.clone()
    other[1, 2] = 99
    assert torch.equal(loss(other, together, counted), loss(logits, together, counted))
    maybe = loss(torch.zeros(3, 4), together, counted).item()
    assert maybe == pytest.approx(math.log(2)) == method().chance(3)


@pytest.mark.parametrize("pool", ["max", "location"])
def test_a_few_pairs_are_learned_by_heart(pool):
    data = pairs(6)
    learner = method(data, pool=pool, negatives=5, crop=1.0, jitter=0.0, flip=0.0)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=5e-3)
    batch = learner.training_view(data).batch(torch.arange(6))
    for _ in range(25):
        value = learner(batch)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert value.item() < 0.3 and all(metric > 0.85 for metric in learner.metrics.values())
    assert learner.metrics.keys() == ({"accuracy"} if pool == "max" else {"accuracy", "places"})


def test_sounds_that_say_nothing_stay_at_chance():
    data = pairs()
    learner = method(data)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=2e-3)
    batch = data.batch(torch.arange(12))
    batch["waveform"] = batch["waveform"][:1].expand(12, -1)
    learner.volume = 0.0
    for _ in range(15):
        value = learner(batch)
        assert value.item() >= math.log(2) - 1e-3
        optimizer.zero_grad()
        value.backward()
        optimizer.step()


def test_who_knows_the_classes_meets_the_ceiling_and_chance_where_sounds_are_shuffled():
    """With C classes others share one in C times; sounds that belong to other clips leave nothing to know."""
    classes, count = 4, 2000
    labels = torch.randint(classes, (count,))
    directions = torch.eye(classes)
    chosen, _ = others(torch.arange(count), 1)
    for heard, right in ((labels, 1 - 1 / (2 * classes)), (labels[torch.randperm(count)], 0.5)):
        pairs_of = torch.cat([torch.arange(count)[:, None], chosen], 1)
        yes = Distance()(directions[labels], directions[heard[pairs_of]]) > 0
        accuracy = (yes[:, 0].float().mean() + (~yes[:, 1]).float().mean()) / 2
        assert accuracy.item() == pytest.approx(right, abs=0.03)


def test_one_clip_alone_in_the_batch_has_nothing_to_be_told_from():
    learner = method()
    batch = pairs().batch(torch.zeros(4, dtype=torch.int64))
    assert learner(batch).isfinite()
    with pytest.raises(ValueError, match="batch_size"):
        learner(pairs().batch(torch.tensor([0])))


def test_the_loss_is_the_mean_of_that_of_the_whole_and_that_of_the_places():
    learner = method(negatives=11, crop=1.0, jitter=0.0, flip=0.0, volume=0.0)
    batch = pairs().batch(torch.arange(12))
    x = learner.encoder.inputs(batch)
    sounds = learner.encoder.sound(x.waveform)[None].expand(12, -1, -1)
    together = torch.eye(12, dtype=torch.bool)
    whole = learner.head["whole"](learner.encoder.picture(x.image), sounds)
    places = learner.head["places"](learner.encoder.positions(x.image), sounds)
    parts = [loss(logits, together, ~together).item() for logits in (whole, places)]
    assert learner(batch).item() == pytest.approx(sum(parts) / 2, rel=1e-4)


def test_training_reads_random_moments_of_the_length_of_the_encoder():
    learner = method()
    read = learner.training_view(pairs())
    assert read.random and read.seconds == learner.encoder.seconds == 1.0
    assert not learner.encoder.evaluation_view(pairs()).random


def test_the_map_follows_the_sound_and_an_own_sound_fits_better_than_a_wrong_one():
    data = pairs(6)
    learner = method(data, pool="location", negatives=5, crop=1.0, jitter=0.0, flip=0.0)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=5e-3)
    batch = learner.training_view(data).batch(torch.arange(6))
    for _ in range(40):
        optimizer.zero_grad()
        learner(batch).backward()
        optimizer.step()
    x = learner.encoder.inputs(batch)
    with torch.no_grad():
        places, sounds = learner.encoder.positions(x.image), learner.encoder.sound(x.waveform)
        own, wrong = similarity(places, sounds), similarity(places, sounds.roll(1, 0))
    assert not torch.allclose(own, wrong, atol=0.05)
    assert own.amax((1, 2)).mean() > wrong.amax((1, 2)).mean() + 0.1


def test_a_delay_of_half_a_millisecond_changes_no_answer():
    learner = method().eval()
    batch = pairs().batch(torch.arange(12))
    later = F.pad(batch["waveform"], (4, 0))[:, :-4]
    with torch.no_grad():
        first, second = (learner.encoder.sound(waveform) for waveform in (batch["waveform"], later))
    assert (first * second).sum(1).min() > 0.98


@pytest.mark.parametrize("pool", ["max", "location"])
def test_pictures_show_the_sound_and_where_it_similarity(pool):
    learner = method(pool=pool).eval()
    shown = learner.pictures(pairs().batch(torch.arange(3)))
    assert {"image", "sound", "predicted"} <= shown.keys()
    assert ("where its own sound is" in shown) == (pool == "location")
    for row in shown.values():
        assert len(row) == 3
        if isinstance(row, torch.Tensor):
            assert row.shape[2:] == (16, 16) and row.min() >= 0 and row.max() <= 1


@pytest.mark.parametrize(
    "name, value",
    [
        ("pool", "mean"),
        ("negatives", 0),
        ("negatives", 1.5),
        ("crop", 0.0),
        ("jitter", -1.0),
        ("flip", 2.0),
        ("volume", float("nan")),
    ],
)
def test_bad_values_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        method(**{name: value})
