"""Pointing: hand-made maps, ties, and the controls that an encoder must beat."""

import pytest
import torch

from unlabeled.data.audio_visual import Pairs, from_pairs
from unlabeled.encoders.audio_visual import fitted
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.tasks.localisation import CHOOSING, NEARBY, POINTING, TASK, pointing, preference
from unlabeled.worlds.chiming_shapes import make


def pairs(count: int = 30, distractor: bool = True) -> Pairs:
    made = make(count, 0, image_size=16, distractor=distractor)
    return from_pairs(
        made["image"], made["waveform"], sample_rate=8000, masks=made["masks"], labels=made["labels"]
    )


def corners() -> tuple[torch.Tensor, torch.Tensor]:
    """What is heard lies at the top left, what is silent at the bottom right."""
    masks = torch.zeros(3, 8, 8, dtype=torch.uint8)
    masks[:, :4, :4], masks[:, 4:, 4:] = 1, 2
    maps = torch.zeros(3, 2, 2)
    maps[0, 0, 0] = maps[1, 1, 1] = 1
    maps[2] = torch.tensor([[0.5, 1.0], [0.0, 0.2]])
    return maps, masks


def test_pointing_by_hand():
    maps, masks = corners()
    assert pointing(maps, masks).tolist() == [1, 0, 0]
    assert pointing(-maps[:2], masks[:2]).tolist()[0] == 0


def test_choosing_by_hand_and_what_is_alike_is_half():
    maps, masks = corners()
    assert preference(maps[:2], masks[:2]).tolist() == [1, 0]
    assert preference(torch.zeros(3, 2, 2), masks).tolist() == [0.5, 0.5, 0.5]


def test_a_fine_map_points_at_its_own_pixel():
    masks = torch.zeros(1, 16, 16, dtype=torch.uint8)
    masks[0, 5, 9] = 1
    assert pointing(masks.float(), masks).item() == 1
    assert [pointing(masks.float().roll(2, 2), masks, margin).item() for margin in (0, 1, 2)] == [0, 0, 1]


def test_places_lie_at_the_multiples_of_the_stride():
    maps = torch.zeros(1, 4, 4)
    maps[0, 1, 2] = 1
    masks = torch.zeros(1, 16, 16, dtype=torch.uint8)
    masks[0, 4, 8] = 1
    assert pointing(maps, masks).item() == 1


def test_measured_are_two_questions_with_their_controls():
    data = pairs()
    model = EvaluatedModel(fitted("av-conv4", data, image_size=16).eval())
    measured = TASK(model, data)
    pointing = {m.features: m.values for m in measured if m.unit == POINTING}
    choosing = {m.features: m.values for m in measured if m.unit == CHOOSING}
    assert pointing.keys() == {"centre of the picture", "another sample's sound", "random", "unlabeled"}
    nearby = {m.features: m.values for m in measured if m.unit == NEARBY}
    assert all((nearby[name] >= values).all() for name, values in pointing.items())
    assert choosing.keys() == pointing.keys() - {"centre of the picture"}
    assert all(values.shape == (1, 30) for values in pointing.values())
    centre = (data.masks == 1)[:, 7:9, 7:9].float().mean((1, 2))
    assert (pointing["centre of the picture"][0] - centre).abs().max() < 1
    again = TASK(model, data)
    assert all(torch.equal(a.values, b.values) for a, b in zip(measured, again))


def test_one_shape_alone_asks_only_one_question():
    data = pairs(distractor=False)
    measured = TASK(EvaluatedModel(fitted("av-conv4", data, image_size=16).eval()), data)
    assert {m.unit for m in measured} == {POINTING, NEARBY}


def test_data_without_masks_is_refused():
    data = pairs()
    data.masks = None
    with pytest.raises(ValueError, match="masks"):
        TASK(EvaluatedModel(fitted("av-conv4", data, image_size=16).eval()), data)


def test_one_clip_alone_has_no_other_sound_and_is_refused():
    data = pairs()
    model = EvaluatedModel(fitted("av-conv4", data, image_size=16).eval())
    with pytest.raises(ValueError, match="clips must be at least 2, got 1"):
        TASK(model, data.subset(torch.tensor([0])))


def test_clips_of_one_recording_are_one_unit():
    data = pairs()
    data.groups = torch.arange(len(data)) // 3
    measured = TASK(EvaluatedModel(fitted("av-conv4", data, image_size=16).eval()), data)
    for one in measured:
        assert (
            one.groups is not None
            and one.groups.shape == one.values.shape[1:]
            and one.counted == "recordings"
        )
