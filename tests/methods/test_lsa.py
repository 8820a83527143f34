"""LSA: the decomposition of a slow twin, a part that skip-gram moves, and texts that lie near those of their topic."""

import math

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from unlabeled.data.text.data import Texts
from unlabeled.encoders.word_vectors import fitted
from unlabeled.methods.lsa import LSA, tf_idf

TOPICS = [["cat", "dog", "cow", "hen", "pig", "fox"], ["one", "two", "three", "four", "five", "six"]]


def texts(mixed: bool = False, count: int = 40, seed: int = 0) -> Texts:
    """Texts of animals or of numbers, words that all share, and topics that are mixed where nothing can be known."""
    generator = torch.Generator().manual_seed(seed)
    documents = []
    for row in range(count):
        choices = TOPICS[0] + TOPICS[1] if mixed else TOPICS[row % 2]
        drawn = torch.randint(len(choices), (6,), generator=generator).tolist()
        documents.append(" ".join(["the", *(choices[word] for word in drawn), "of", "the"]))
    return Texts(documents)


def build(source: Texts | None = None, name: str = "words-12-min1", **options):
    source = source or texts()
    torch.manual_seed(0)
    method = LSA(fitted(name, source), **({"skipgram_dim": 8} | options))
    data = method.training_view(source)
    method.prepare(data)
    return method.train(), data


def fit(method: LSA, data, steps: int = 60):
    for step in range(steps):
        loss = method(data.batch(torch.arange(len(data))))
        method.after_step((step + 1) / steps)
    return float(loss)


def gap(method: LSA, data, columns: slice) -> float:
    """Mean cosine of texts of one topic less that of texts of two, by some columns of the features."""
    features = method.encoder(method.encoder.inputs(data.batch(torch.arange(len(data)))))[:, columns].detach()
    cosines = torch.nn.functional.normalize(features, dim=1)
    cosines, topic = cosines @ cosines.T, torch.arange(len(data)) % 2
    alike = topic == topic[:, None]
    other = ~torch.eye(len(data), dtype=torch.bool)
    return float(cosines[alike & other].mean() - cosines[~alike].mean())


def test_tf_idf_matches_a_slow_loop():
    source = Texts(["a b a c", "b b", "c d", "a"])
    encoder = fitted("words-2-min1", source)
    weighted, idf = tf_idf(encoder.evaluation_view(source), len(encoder.vocabulary))
    documents = [text.split() for text in source.texts]
    for column, word in enumerate(encoder.vocabulary):
        holding = sum(word in document for document in documents)
        assert idf[column] == pytest.approx(1 + math.log(5 / (1 + holding)))
    for row, document in enumerate(documents):
        expected = [
            (1 + math.log(document.count(word))) * weight if word in document else 0.0
            for word, weight in zip(encoder.vocabulary, idf)
        ]
        np.testing.assert_allclose(weighted.toarray()[row], expected / np.linalg.norm(expected), rtol=1e-9)


def test_vectors_match_the_principal_directions_of_a_dense_decomposition():
    method, data = build()
    weighted, idf = tf_idf(data, len(method.encoder.vocabulary))
    _, _, directions = np.linalg.svd(weighted.toarray())
    rows = method.encoder.rows[:, : method.directions].detach().double().numpy() / idf[:, None]
    for column in range(method.directions):
        cosine = rows[:, column] @ directions[column] / np.linalg.norm(rows[:, column])
        assert abs(cosine) == pytest.approx(1, abs=1e-3)
    norms = np.linalg.norm(rows, axis=0)  # no direction counts more than another
    np.testing.assert_allclose(norms, norms[0], rtol=1e-3)


def test_texts_vary_equally_in_both_parts():
    method, data = build()
    fit(method, data, steps=5)
    features = method.encoder(method.encoder.inputs(data.batch(torch.arange(len(data)))))
    topics, neighbours = features[:, : method.directions], features[:, method.directions :]
    assert topics.square().sum(1).mean().item() == pytest.approx(1, rel=1e-4)
    assert neighbours.square().sum(1).mean().item() == pytest.approx(1, rel=0.02)  # by the last ten steps


def test_training_changes_only_the_skip_gram_part_and_evaluation_changes_nothing():
    method, data = build()
    batch, before = data.batch(torch.arange(8)), method.encoder.rows.detach().clone()
    method(batch)
    moved = method.encoder.rows.detach() != before
    assert not moved[:, : method.directions].any()
    assert moved[:, method.directions : method.encoder.dim].any()
    state = {name: value.clone() for name, value in method.state_dict().items()}
    loss = method.eval()(batch)
    assert not loss.requires_grad
    assert all(torch.equal(value, state[name]) for name, value in method.state_dict().items())


def test_first_loss_is_chance():
    method, data = build(negatives=3)
    loss = method.eval()(data.batch(torch.arange(8)))
    assert loss.item() == pytest.approx(4 * math.log(2), rel=1e-6) == method.chance(8)


def test_both_parts_separate_topics_and_neither_does_where_topics_are_mixed():
    method, data = build()
    fit(method, data)
    parts = (slice(0, method.directions), slice(method.directions, None))
    assert all(gap(method, data, part) > 0.5 for part in parts)
    shown = method.pictures(data.batch(torch.arange(2)))
    for row, topic in enumerate(TOPICS):
        assert len(set(shown["words of its topic"][row].split()) & set(topic)) >= 4
    mixed, data = build(texts(mixed=True))
    fit(mixed, data)
    assert all(abs(gap(mixed, data, part)) < 0.1 for part in parts)


def test_few_texts_fill_fewer_directions():
    source = Texts(["a b c", "a c d", "b d d"])
    method, data = build(source, name="words-40-min1", skipgram_dim=8)
    rows = method.encoder.rows[:, : method.directions]
    assert (rows != 0).any(0).sum() == 2 and torch.isfinite(rows).all()
    assert math.isfinite(fit(method, data, steps=2))


def test_skipgram_must_leave_room_for_directions():
    source = texts()
    with pytest.raises(
        ValueError, match="skipgram_dim must be below the dimension of the word vectors, 12, got 12"
    ):
        LSA(fitted("words-12-min1", source), skipgram_dim=12)


def test_no_single_batch_decides_the_scale_of_the_skip_gram_part():
    method, data = build()
    everyone = data.batch(torch.arange(len(data)))
    fit(method, data, steps=20)
    rows = method.encoder.rows[:, method.directions : method.encoder.dim]
    before = rows.detach().norm()
    few = {name: value[:1].expand(8, -1) for name, value in everyone.items() if name != "index"}
    alone = method._texts(few)[:, method.directions :].square().sum(1).mean().sqrt()
    assert abs(alone - 1) > 0.1  # by so much such a batch is off
    method(few)
    after_few = rows.detach().norm() / before
    empty = everyone | {"mask": torch.zeros_like(everyone["mask"])}
    method(empty)
    assert abs(after_few - 1) < 0.05 and rows.isfinite().all()
    assert 0.9 < rows.detach().norm() / before < 1.2


def test_first_batch_without_words_does_not_change_the_scale():
    method, data = build()
    everyone = data.batch(torch.arange(8))
    method(everyone | {"mask": torch.zeros_like(everyone["mask"])})
    assert method.variance == 0 and method.encoder.rows.abs().max() < 100
    method(everyone)
    features = method._texts(everyone)[:, method.directions :]
    assert features.square().sum(1).mean().item() == pytest.approx(1, rel=1e-4)


@pytest.mark.filterwarnings(
    "ignore:invalid value encountered:RuntimeWarning"
)  # explained variance of scikit-learn
def test_one_text_is_refused_and_equal_texts_give_finite_vectors():
    with pytest.raises(ValueError, match="texts must be at least 2 for lsa, got 1"):
        build(Texts(["a b c a b"]), name="words-12-min1")
    method, _ = build(Texts(["a b"] * 4), name="words-12-min1")
    assert method.encoder.rows.abs().max() < 100
