"""ABX: time warping and the errors of triples against slow twins and closed forms."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from unlabeled import encoders
from unlabeled.data import Data
from unlabeled.data.audio.data import from_waveforms
from unlabeled.evaluation import evaluate
from unlabeled.evaluation.measurement import interval_of
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.tasks import TASKS, abx
from unlabeled.evaluation.tasks.abx import Items, Settings, triples
from unlabeled.evaluation.time_warping import angles, directions, warped, warped_distances


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def slow_warped(costs: list[list[float]]) -> float:
    """Mean cost along the cheapest path, cell by cell, the path traced back from the end."""
    rows, columns = len(costs), len(costs[0])
    total = [[math.inf] * columns for _ in range(rows)]
    for i, j in product(range(rows), range(columns)):
        before = [total[i - 1][j - 1] if i and j else math.inf]
        before += [total[i - 1][j] if i else math.inf, total[i][j - 1] if j else math.inf]
        total[i][j] = costs[i][j] + (min(before) if i or j else 0)
    i, j, steps = rows - 1, columns - 1, 1
    while i or j:
        steps += 1
        if not i or not j:
            i, j = max(i - 1, 0), max(j - 1, 0)
            continue
        both, down, across = total[i - 1][j - 1], total[i - 1][j], total[i][j - 1]
        if both <= down and both <= across:
            i, j = i - 1, j - 1
        elif across <= down:
            j -= 1
        else:
            i -= 1
    return total[-1][-1] / steps


@pytest.mark.parametrize("ties", [False, True])
def test_time_warping_is_that_of_a_slow_twin(ties: bool) -> None:
    costs = torch.rand(40, 9, 12, generator=generator(0))
    costs = (costs * 3).floor() if ties else costs
    rows, columns = (torch.randint(1, most + 1, (40,), generator=generator(1)) for most in (9, 12))
    rows[0], columns[0], rows[1], columns[1] = 9, 12, 1, 1
    slow = [slow_warped(c[:m, :n].tolist()) for c, m, n in zip(costs, rows.tolist(), columns.tolist())]
    torch.testing.assert_close(warped(costs, rows, columns), torch.tensor(slow))
    torch.testing.assert_close(
        warped(costs[:1, :3], rows[:1] * 0 + 3, columns[:1]), warped(costs, rows * 0 + 3, columns)[:1]
    )


def test_angles_are_fractions_of_a_half_turn_and_exactly_0_for_equal_directions() -> None:
    frames = torch.randn(50, 7, generator=generator(2))
    frames[7] = 0
    units = directions(frames)
    assert torch.equal(angles(units, directions(3 * frames)).diagonal(), torch.zeros(50))
    torch.testing.assert_close(
        angles(units[:3], directions(-frames[:3])).diagonal(), torch.ones(3), atol=1e-3, rtol=0
    )
    assert (
        angles(units, units)[7].sub(0.5).abs().max() == 0.5 and (angles(units, units)[7] == 0.5).sum() == 49
    )
    between = angles(directions(torch.tensor([[1.0, 0]])), directions(torch.tensor([[1.0, 1.0], [0, 2.0]])))
    torch.testing.assert_close(between, torch.tensor([[0.25, 0.5]]))


def test_slower_sounds_are_at_distance_0_and_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    sounds = [torch.randn(4 + 3 * n, 5, generator=generator(n)) for n in range(8)]
    slower = [sound.repeat_interleave(2 + n % 2, 0) for n, sound in enumerate(sounds)]
    pairs = torch.tensor([*product(range(8), range(8, 16))])
    together = warped_distances(sounds + slower, pairs)
    for (first, second), distance in zip(pairs.tolist(), together.tolist()):
        assert (distance == 0) == (second == first + 8)
        costs = angles(directions(sounds[first]), directions(slower[second - 8]))
        assert distance == pytest.approx(slow_warped(costs.tolist()), abs=1e-5)
    monkeypatch.setattr("unlabeled.evaluation.time_warping.ENTRIES", 1)
    torch.testing.assert_close(warped_distances(sounds + slower, pairs), together)


def items(classes: Tensor, speakers: Tensor, contexts: Tensor | None = None) -> Items:
    people = int(speakers.max()) + 1
    contexts = torch.zeros_like(classes) if contexts is None else contexts
    return Items(
        torch.arange(len(classes)), classes, speakers, contexts, ~torch.eye(people, dtype=torch.bool)
    )


def balanced(classes: int = 4, people: int = 3, takes: int = 3) -> Items:
    numbers = torch.arange(classes * people * takes)
    return items(numbers % classes, numbers // classes % people)


def slow_error(distances: Tensor, of: Items, across: bool) -> float:
    """All triples one by one, averaged cell by cell."""
    cells: dict[tuple[int, int, int, int, int], list[float]] = {}
    classes, speakers, contexts = (column.tolist() for column in of[1:4])
    for a, b, x in product(range(len(classes)), repeat=3):
        alike = contexts[a] == contexts[b] == contexts[x] and speakers[a] == speakers[b]
        if a == x or not alike or classes[a] != classes[x] or classes[b] == classes[a]:
            continue
        if (speakers[x] != speakers[a]) == across:
            wrong = float(distances[a, x] > distances[b, x]) + 0.5 * float(distances[a, x] == distances[b, x])
            cells.setdefault((classes[a], classes[b], speakers[a], contexts[a], speakers[x]), []).append(
                wrong
            )
    values: dict[tuple[int, ...], list[float]] = {key: value for key, value in cells.items()}
    for columns in (3, 2, 0):
        shorter: dict[tuple[int, ...], list[float]] = {}
        for key, list_of_values in values.items():
            shorter.setdefault(key[:columns], []).append(sum(list_of_values) / len(list_of_values))
        values = shorter
    return sum(values[()]) / len(values[()])


@pytest.mark.parametrize("across", [False, True])
def test_errors_of_uneven_data_with_contexts_and_ties_are_those_of_a_slow_twin(across: bool) -> None:
    columns = [torch.randint(most, (40,), generator=generator(most)) for most in (4, 3, 2)]
    distances = torch.randint(9, (40, 40), generator=generator(5)).float()
    distances = distances + distances.T
    uneven = items(*columns)
    known = torch.full_like(distances, torch.nan)
    first, second = uneven.pairs().T
    known[first, second] = known[second, first] = distances[first, second]
    errors = triples(known, uneven, across=across)
    assert errors.mean() == pytest.approx(slow_error(distances, uneven, across), abs=1e-12)
    keep = columns[1] != 1
    without = items(columns[0][keep], columns[1][keep], columns[2][keep])
    assert errors.mean(1) == pytest.approx(slow_error(distances[keep][:, keep], without, across), abs=1e-12)
    assert len(first) == len({*map(frozenset, uneven.pairs().tolist())}) <= uneven.bound()


def frames_of(codes: Tensor, width: int) -> list[Tensor]:
    """Sounds of different lengths whose frames are all one code."""
    one_hot = torch.nn.functional.one_hot(codes, width).float()
    return [code.expand(3 + row % 4, -1) for row, code in enumerate(one_hot)]


def errors_of(frames: list[Tensor], of: Items) -> dict[str, float]:
    return {
        f"{where}{pooling}": triples(distances, of, across=where == "across").mean()
        for pooling, distances in abx._distances(frames, of.pairs()).items()
        for where in ("within", "across")
    }


def test_features_that_are_the_class_make_no_error_and_constant_ones_exactly_one_half() -> None:
    of = balanced()
    assert [*errors_of(frames_of(of.classes, 4), of).values()] == [0.0] * 4
    constant = [torch.tensor([0.3, -0.7, 0.2]).expand(2 + row % 5, -1) for row in range(len(of.rows))]
    assert [*errors_of(constant, of).values()] == [0.5] * 4
    assert [*errors_of(frames_of(of.speakers, 3), of).values()] == [0.5] * 4, "who speaks says nothing"
    assert [*errors_of([torch.zeros(3, 2)] * len(of.rows), of).values()] == [0.5] * 4


def test_a_code_of_classes_that_each_speaker_shifts_helps_within_speakers_only() -> None:
    of = balanced()
    errors = errors_of(frames_of((of.classes + of.speakers) % 4, 4), of)
    # Of three other classes one has the code of X, and two are as far from it as the right one.
    across = (1 + 2 * 0.5) / 3
    assert errors == pytest.approx(
        {"within": 0, "across": across, "within, of means": 0, "across, of means": across}
    )


def test_random_features_are_at_one_half_within_their_interval() -> None:
    of = balanced(classes=4, people=8, takes=4)
    frames = [torch.randn(3 + row % 3, 6, generator=generator(row)) for row in range(len(of.rows))]
    distances = abx._distances(frames, of.pairs())[""]
    for across in (False, True):
        errors = triples(distances, of, across=across)
        found = interval_of(abx._measurement("unlabeled", "within", errors, of, "speakers", ""))
        assert found.low is not None and found.high is not None and found.units == 8
        assert found.low < 0.5 < found.high and found.high - found.low < 0.2


def sounds(people: int = 3, takes: int = 3, classes: int = 2, **about) -> Data:
    """Two tones a second, whose order is the class; the speaker is their loudness and the pitch of both."""
    number = torch.arange(people * takes * classes)
    label, speaker = number % classes, number // classes % people
    pitch = 300 + 60 * speaker[:, None] + 500 * torch.stack([label, 1 - label], 1)
    phase = torch.cumsum(pitch.repeat_interleave(1000, 1), 1) / 8000
    noise = 0.02 * torch.randn(len(number), 2000, generator=generator(3))
    waves = 0.3 / (1 + speaker[:, None]) * torch.sin(2 * torch.pi * phase) + noise
    about = {"factors": {"speaker": speaker}, "labels": label} | about
    return from_waveforms(waves, 8000, name="tones", **about)


def network(name: str = "gru1-16", kind: str = "audio") -> encoders.Encoder:
    torch.manual_seed(0)
    return encoders.build(
        name, kind=kind, **({"sample_rate": 8000} if kind == "audio" else {"image_size": 16, "frames": 4})
    )


def test_scores_stand_beside_spectrograms_and_random_weights_over_speakers() -> None:
    scores = evaluate(network(), sounds(people=6), probe="abx", device="cpu")
    columns = {(record["features"], record["layer"]): record for record in scores}
    assert len(columns) == 16 and {features for features, _ in columns} == {
        "raw",
        "mfcc",
        "random",
        "unlabeled",
    }
    assert columns["raw", "within"]["value"] < 0.05, "the order of the tones is heard frame by frame"
    assert columns["raw", "within, of means"]["value"] > 0.2, "means over time do not hear it"
    record = columns["random", "within"]
    assert record["unit"] == "ABX error" and record["better"] == "lower" and record["units"] == 6
    assert record["counted"] == "speakers" and "36 of 36 sounds of 6 speakers, chance 0.5" in record["detail"]
    assert "margin" in record and columns["unlabeled", "within"]["detail"].startswith("layer gru1; ")
    again = evaluate(network(), sounds(people=6), probe="abx", device="cpu")
    assert [record["value"] for record in again] == [record["value"] for record in scores]


def test_named_layers_are_read_and_fewer_sounds_are_taken_where_pairs_would_be_too_many() -> None:
    data, model = sounds(people=6, takes=5), EvaluatedModel(network().eval())
    parts = TASKS.load("abx").open(abx.Source.of(model.encoder, model.encoder, data))
    mel = {m.layer: m for m in abx.measure(model, parts, Settings(layer="mel")) if m.features == "unlabeled"}
    gru = {m.layer: m for m in abx.measure(model, parts, Settings()) if m.features == "unlabeled"}
    assert mel["within"].detail.startswith("layer mel") and mel["across"].values != gru["across"].values
    for settings, count in ((Settings(sounds=3), 36), (Settings(pairs=400), 24), (Settings(pairs=60), 8)):
        found, _, about = abx._items(data, settings, 0)
        assert len(found.rows) == count and about.startswith(f"{count} of 60 sounds"), about
        assert len(found.pairs()) <= max(settings.pairs, 28) or settings.pairs == 200_000
        places = torch.stack([found.classes, found.speakers]).unique(dim=1, return_counts=True)[1]
        assert (places == places[0]).all(), "as many of each class and speaker"
        assert torch.equal(data.labels[found.rows], found.classes)  # type: ignore[index]
    others = abx._items(data, Settings(others=2), 0)[0].others
    assert (others.sum(1) == 2).all() and not others.diagonal().any()


def test_groups_that_the_user_names_are_the_speakers() -> None:
    data = sounds(people=3, factors={})
    data.groups, data.group_unit = torch.arange(18) // 2 % 3 + 40, "groups"
    found, counted, _ = abx._items(data, Settings(), 0)
    assert counted == "groups" and len(found.others) == 3


@pytest.mark.parametrize(
    ("about", "message"),
    [
        (
            {"factors": {}},
            "data must name the speakers for abx, got tones without a factor speaker or groups",
        ),
        ({"labels": None}, "data must have labels for abx, got tones without any"),
        (
            {"labels": torch.full((18,), 1)},
            "data must have two classes of one speaker, and two sounds of one class",
        ),
        ({"factors": {"speaker": torch.full((18,), -1)}}, "data must have sounds of known class and speaker"),
    ],
)
def test_data_without_triples_is_refused(about: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(network(), sounds(**about), probe="abx", device="cpu")


def test_encoders_without_frames_are_refused() -> None:
    encoder = network("conv3d", "video")
    with pytest.raises(
        ValueError, match="encoder must be one of audio with layers over time for abx, got conv3d"
    ):
        abx.measure(EvaluatedModel(encoder), None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sounds must be at least 2, got 1"):
        Settings(sounds=1)
