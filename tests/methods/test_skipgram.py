"""Skip-gram: chance at the start, a pace that falls, state that resumes, and words that tell their neighbours."""

import math

import pytest
import torch

pytest.importorskip("numba")

from unlabeled.data.text.data import Texts
from unlabeled.encoders.word_vectors import WordEncoder, fitted
from unlabeled.methods.skipgram import SkipGram


def texts(mixed: bool = False) -> Texts:
    """Sentences of animals or of numbers, which meet each other only where they are mixed."""
    generator = torch.Generator().manual_seed(0)
    groups = [["cat", "dog", "cow", "hen", "pig", "fox"], ["one", "two", "three", "four", "five", "six"]]
    documents = []
    for row in range(60):
        choices = groups[0] + groups[1] if mixed else groups[row % 2]
        order = torch.randint(len(choices), (50,), generator=generator).tolist()
        documents.append(" ".join(choices[word] for word in order))
    return Texts(documents)


def build(source: Texts | None = None, seed: int = 0, encoder: WordEncoder | None = None, **options):
    source = source or texts()
    torch.manual_seed(seed)
    method = SkipGram(encoder or fitted("words-20-min1", source), **options)
    data = method.training_view(source)
    method.prepare(data)
    return method.train(), data.batch(torch.arange(len(data)))


def fit(method, batch, steps: int = 30):
    losses = []
    for step in range(steps):
        losses.append(float(method(batch)))
        method.after_step((step + 1) / steps)
    return losses


def test_a_sample_is_a_stretch_of_many_documents():
    _, batch = build()
    assert batch["tokens"].shape == (64, 47) and batch["mask"].sum() == 3000
    assert batch["sentence"][:, -1].ne(0).any()


@pytest.mark.parametrize("negatives_per", ["centre", "pair"])
@pytest.mark.parametrize("negatives", [1, 5, 12])
def test_first_loss_is_chance_and_has_no_gradient(negatives, negatives_per):
    method, batch = build(negatives=negatives, negatives_per=negatives_per)
    loss = method.eval()(batch)
    assert loss.ndim == 0 and not loss.requires_grad
    assert loss.item() == pytest.approx((1 + negatives) * math.log(2), rel=1e-6)
    assert method.chance(8) == pytest.approx(loss.item())


def test_evaluation_moves_nothing():
    method, batch = build()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method.eval()(batch)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


@pytest.mark.parametrize("negatives_per", ["centre", "pair"])
def test_words_that_stand_together_become_alike(negatives_per):
    method, batch = build(rate=0.1, subsample=0.0, negatives_per=negatives_per)
    losses = fit(method, batch)
    # Of 11 words that noise is drawn from, 5 are of the group: the best score knows the share of neighbours.
    share = 1 / 6 / (1 / 6 + 5 * 5 / 6 / 11)
    best = -math.log(share) - 5 * 5 / 11 * math.log(1 - share)
    assert losses[-1] == pytest.approx(best, abs=0.06)
    animals = {word for word, _ in method.encoder.nearest("cat", 5)}
    assert animals == {"dog", "cow", "hen", "pig", "fox"}
    shown = method.pictures(batch)
    assert all(len(rows) == 64 for rows in shown.values()) and len(shown) == 3
    groups = [{"cat", "dog", "cow", "hen", "pig", "fox"}, {"one", "two", "three", "four", "five", "six"}]
    guesses = set(str(shown["predicted"][0]).split())
    assert set(str(shown["word"][0]).split()) | guesses <= groups[0] or not guesses & groups[0]


def test_where_all_words_mix_nothing_is_learned_but_their_frequencies():
    method, batch = build(texts(mixed=True), rate=0.1, subsample=0.0)
    fit(method, batch)
    torch.manual_seed(1)
    with torch.no_grad():
        method.eval()
        losses = torch.stack([method(batch) for _ in range(5)])
    # Uniform words, noise that is never the centre: the best score is that of a share of 1 in 6 at 11 of 12 words.
    share = 1 / (1 + 5)
    best = -(math.log(share) + 5 * math.log(1 - share))
    assert float(losses.mean()) == pytest.approx(best, abs=0.12)


def test_pace_falls_linearly_to_a_ten_thousandth():
    moved = []
    for progress in (0.0, 0.5, 1.0):
        method, batch = build(rate=1e-6)
        method.after_step(progress)
        torch.manual_seed(0)
        start = method.encoder.vectors.clone()
        method.neighbours.outputs[:, :20] = 1.0
        method(batch)
        moved.append((method.encoder.vectors - start).norm().item())
    assert moved[1] / moved[0] == pytest.approx(0.5, rel=0.02)
    assert moved[2] / moved[0] < 1e-3


def test_a_second_training_starts_at_the_full_pace_again():
    method, _ = build()
    method.after_step(1.0)
    method.prepare(method.training_view(texts()))
    assert method.neighbours.progress == 0


def test_vectors_of_half_precision_are_refused():
    method, batch = build()
    with pytest.raises(ValueError, match=r"must be float32 or float64 to be trained, got torch\.bfloat16"):
        method.bfloat16()(batch)


def test_one_thread_repeats_every_bit_and_more_learn_as_well():
    runs = []
    for threads in (1, 1, 2):
        method, batch = build(rate=0.1, threads=threads)
        torch.manual_seed(3)
        batch = {name: torch.cat([value, value]) for name, value in batch.items()}
        runs.append((fit(method, batch, 10), method.state_dict()))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(value, runs[1][1][name]) for name, value in runs[0][1].items())
    assert runs[2][0][-1] == pytest.approx(runs[0][0][-1], rel=0.05)


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


def test_features_are_those_of_the_encoder():
    method, _ = build()
    data = method.encoder.evaluation_view(texts())
    batch = data.batch(torch.arange(6))
    assert torch.equal(method.features(batch), method.encoder(method.encoder.inputs(batch)))


def test_frequent_words_are_thinned_out_by_their_count_in_the_data():
    source = Texts(["the cat the dog the cow the hen " * 20])
    method, _ = build(source, subsample=0.01)
    counts = torch.tensor([80.0, 20, 20, 20, 20])
    ratio = 0.01 / (counts / counts.sum())
    torch.testing.assert_close(method.neighbours.keep, (ratio.sqrt() + ratio).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "name, value",
    [
        ("window", 0),
        ("window", -1),
        ("negatives", 0),
        ("negatives", 2.5),
        ("negatives_per", "word"),
        ("subsample", -1.0),
        ("subsample", float("nan")),
        ("rate", 0.0),
        ("rate", float("nan")),
        ("rate", 2.0),
        ("threads", 0),
    ],
)
def test_bad_values_are_named(name, value):
    encoder = fitted("words-8-min1", texts())
    with pytest.raises(ValueError, match=name):
        SkipGram(encoder, **{name: value})


def test_texts_of_one_word_are_at_chance_and_move_nothing():
    source = Texts(["cat", "dog", "cow"])
    method, batch = build(source)
    before = method.encoder.vectors.clone()
    assert float(method(batch)) == pytest.approx(method.chance(1))
    assert torch.equal(method.encoder.vectors, before)
    assert all(
        len(rows) == 3
        for rows in method.pictures(method.encoder.evaluation_view(source).batch(torch.arange(3))).values()
    )


def test_data_without_two_different_words_is_refused():
    encoder = fitted("words-8-min1", texts())
    with pytest.raises(ValueError, match="at least 2 different words"):
        build(Texts(["cat cat cat"]), encoder=encoder)
