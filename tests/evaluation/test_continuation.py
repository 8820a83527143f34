"""Continuations: passages and partners by hand, scores piece by piece, and a world in which nothing can be known."""

import pytest
import torch

from unlabeled.data.text.data import Texts
from unlabeled.encoders.text import TextEncoder, fitted
from unlabeled.evaluation.measurement import Measurement
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.tasks import continuation
from unlabeled.evaluation.tasks.continuation import TASK, choices, partners, passages
from unlabeled.methods.gpt import GPT

WORDS = ["cat", "dog", "tree", "river", "stone", "bird", "house", "road", "field", "lake"]


def texts(count: int, each: int = 20, seed: int = 0, mixed: bool = False) -> Texts:
    """Texts of a single word each, again and again; mixed ones draw every word anew."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(10, (count, each if mixed else 1), generator=generator).expand(count, each)
    return Texts([" ".join(WORDS[word] for word in row) for row in draws.tolist()])


def encoder(length: int = 64) -> TextEncoder:
    torch.manual_seed(0)
    return fitted("gpt-tiny", texts(30), length=length).eval()


def test_passages_are_spread_evenly_and_short_texts_are_left_out() -> None:
    cut = passages([list(range(200)), list(range(15)), list(range(16))], 10)
    assert [(one.row, one.start[0], len(one.start)) for one in cut] == [(0, 0, 64), (0, 128, 64), (2, 0, 8)]
    assert all(one.following == list(range(one.start[-1] + 1, one.start[-1] + 9)) for one in cut)
    assert [len(one.start) for one in passages([list(range(200))], 100, longest=20)] == [20] * 7
    assert [one.row for one in passages([list(range(20))] * 9, 3)] == [0, 4, 8]
    assert passages([list(range(15))], 10) == []


def test_partners_are_of_another_group() -> None:
    groups = [0, 0, 0, 1, 1, 2]
    for seed in range(5):
        assert all(groups[one] != groups[number] for number, one in enumerate(partners(groups, seed)))
        assert all(one != number for number, one in enumerate(partners([7] * 4, seed)))


def test_choices_share_what_is_alike() -> None:
    true, false = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([0.0, 1.0, 2.0])
    assert choices(true, false).tolist() == [1, 0, 0.5]


def test_likelihoods_are_means_over_pieces_one_after_the_other() -> None:
    network = encoder()
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.2) if weight.ndim > 1 else None
    method, start, end = GPT(network).eval(), [1, 9, 3], [4, 7, 2, 8, 1, 6, 5, 3]
    found = continuation._likelihood(method, [[5], start], [end[::-1], end], torch.device("cpu"))
    total = 0.0
    for number, piece in enumerate(end):
        tokens = torch.tensor([[*start, *end[:number]]])
        x = network.inputs({"tokens": tokens, "mask": tokens >= 0, "sentence": tokens})
        with torch.no_grad():
            total += method.logits(network.states(x))[0, -1].log_softmax(0)[piece].item()
    assert found[1].item() == pytest.approx(total / 8, rel=1e-4)


def found(measured: list[Measurement]) -> dict[str, float]:
    return {m.features: float(m.values.mean()) for m in measured}


def test_whoever_counts_words_wins_where_texts_repeat_one_and_is_at_chance_where_words_are_random() -> None:
    model = EvaluatedModel(encoder())
    measured = TASK(model, (texts(30), texts(80, seed=1)))
    values = found(measured)
    assert list(values) == ["unlabeled", "another start", "random", "unigram"]
    assert values["unigram"] > 0.9, "one in ten pairs of texts repeats the same word"
    assert all(m.values.shape == (1, 80) and m.counted == "texts" for m in measured)
    chance = found(TASK(model, (texts(30), texts(120, seed=1, mixed=True))))
    assert all(abs(value - 0.5) < 0.19 for value in chance.values()), "within four standard deviations"


def test_parts_of_one_document_are_one_unit() -> None:
    test = texts(20)
    test.documents = test.groups = torch.arange(20) // 5
    measured = TASK(EvaluatedModel(encoder()), (texts(30), test))
    assert all(m.groups is not None and len(m.groups.unique()) == 4 for m in measured)
    assert {m.counted for m in measured} == {"documents"}


def test_what_cannot_be_asked_is_refused_in_words() -> None:
    model = EvaluatedModel(encoder())
    with pytest.raises(ValueError, match="must have 2 passages of 16 pieces for continuation, got 0"):
        TASK(model, (texts(30), texts(5, each=3)))
    with pytest.raises(ValueError, match="continuation needs a causal transformer"):
        TASK(EvaluatedModel(fitted("bert-tiny", texts(5))), (texts(30), texts(5)))
