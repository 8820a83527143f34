"""CBOW: chance at the start, the withheld word from its neighbours, and state that resumes."""

import math

import pytest
import torch

pytest.importorskip("numba")

from unlabeled.data.text.data import Texts
from unlabeled.encoders.word_vectors import fitted
from unlabeled.methods.cbow import CBOW


def texts() -> Texts:
    """A cycle of words in which the two neighbours tell the word between them, in two orders."""
    return Texts(["red blue green gold pink gray " * 40, "one two three four five six " * 40])


def build(source: Texts | None = None, seed: int = 0, **options):
    source = source or texts()
    torch.manual_seed(seed)
    method = CBOW(fitted("words-16-min1", source), **options)
    data = method.training_view(source)
    method.prepare(data)
    return method.train(), data.batch(torch.arange(len(data)))


def fit(method, batch, steps: int = 40):
    losses = []
    for step in range(steps):
        losses.append(float(method(batch)))
        method.after_step((step + 1) / steps)
    return losses


@pytest.mark.parametrize("negatives", [1, 5, 12])
def test_first_loss_is_chance_and_has_no_gradient(negatives):
    method, batch = build(negatives=negatives)
    loss = method.eval()(batch)
    assert loss.ndim == 0 and not loss.requires_grad
    assert loss.item() == pytest.approx((1 + negatives) * math.log(2), rel=1e-6)
    assert method.chance(8) == pytest.approx(loss.item())


def test_the_withheld_word_is_predicted_from_its_neighbours():
    method, batch = build(window=1, rate=0.5, subsample=0.0)
    losses = fit(method, batch)
    assert losses[-1] < 0.3 * losses[0]
    data = method.encoder.evaluation_view(texts())
    shown = method.pictures(data.batch(torch.arange(2)))
    assert list(shown) == ["text", "withheld", "predicted"]
    for row in range(2):
        withheld = str(shown["withheld"][row])
        assert str(shown["predicted"][row]).split(", ")[0] == withheld
        left, right = str(shown["text"][row]).split(" ___ ")
        cycle = texts().texts[row].split()[:6] * 2
        assert withheld == cycle[cycle.index(left) + 1] and right == cycle[cycle.index(left) + 2]


def test_a_shuffled_world_teaches_frequencies_alone():
    words = torch.randperm(480, generator=torch.Generator().manual_seed(0)).tolist()
    both = " ".join(texts().texts).split()
    ordered, _ = build(window=1, rate=0.1, subsample=0.0)
    shuffled, batch = build(
        Texts([" ".join(both[word] for word in words)]), window=1, rate=0.1, subsample=0.0
    )
    losses = fit(shuffled, batch, 20)
    assert losses[-1] > 0.55 * losses[0]
    del ordered


def test_evaluation_moves_nothing():
    method, batch = build()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method.eval()(batch)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


def test_one_thread_repeats_every_bit():
    runs = [(build(rate=0.1), torch.manual_seed(3))[0] for _ in range(2)]
    losses = []
    for method, batch in runs:
        torch.manual_seed(3)
        losses.append(fit(method, batch, 6))
    assert losses[0] == losses[1]
    first, second = (method.state_dict() for method, _ in runs)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_state_dict_is_all_there_is_to_resume():
    whole, batch = build(rate=0.1)
    fit(whole, batch, 4)
    stored = {name: value.clone() for name, value in whole.state_dict().items()}
    torch.manual_seed(9)
    expected = float(whole(batch))
    again, _ = build(seed=5, rate=0.1)
    again.load_state_dict(stored)
    torch.manual_seed(9)
    assert float(again(batch)) == expected
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())


def test_texts_of_one_word_are_at_chance():
    method, batch = build(Texts(["cat", "dog", "cow"]))
    assert float(method(batch)) == pytest.approx(method.chance(1))
    assert all(len(rows) == 1 for rows in method.pictures(batch).values())


@pytest.mark.parametrize(
    "name, value",
    [("window", 0), ("negatives", -1), ("subsample", float("nan")), ("rate", float("nan")), ("threads", -1)],
)
def test_bad_values_are_named(name, value):
    encoder = fitted("words-8-min1", texts())
    with pytest.raises(ValueError, match=name):
        CBOW(encoder, **{name: value})
