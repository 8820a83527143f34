"""Tf-idf and LSA: hand-made texts, whole ones, and the training vocabulary alone."""

import math

import pytest
import torch

from unlabeled import encoders
from unlabeled.data.text.data import Texts
from unlabeled.evaluation.controls import lsa, tfidf

TRAIN = Texts(["red apple red", "green apple", "a green tree, a red tree"])
ENCODER = encoders.fitted("bert-tiny", TRAIN, kind="text", length=8)


def read(module: object, *texts: str, train: Texts = TRAIN) -> torch.Tensor:
    made = module.make(ENCODER, ENCODER.evaluation_view(train), 0)  # type: ignore[attr-defined]
    return made.features(ENCODER.evaluation_view(Texts(list(texts))))


def test_tfidf_of_words_and_pairs_matches_a_hand_computation() -> None:
    # Known terms: red (in 2 of 3 texts) twice, apple (2), "red apple" (1), "apple red" (1).
    rare, common = math.log(4 / 2) + 1, math.log(4 / 3) + 1
    weights = [(1 + math.log(2)) * common, common, rare, rare]
    expected = sorted(weight / math.hypot(*weights) for weight in weights)
    (vector,) = read(tfidf, "Red apple RED")
    assert vector[vector > 0].sort().values.tolist() == pytest.approx(expected, abs=1e-6)


def test_words_outside_the_training_texts_are_ignored() -> None:
    assert read(tfidf, "unheard words only").abs().sum() == 0


def test_the_end_of_a_long_text_counts() -> None:
    start = "green tree " * 100
    plain, changed = read(tfidf, start, start + "apple")
    assert not torch.equal(plain, changed)
    encoded = ENCODER.evaluation_view(Texts([start, start + "apple"])).batch(torch.arange(2))["tokens"]
    assert torch.equal(encoded[0], encoded[1])


def test_scripts_without_spaces_have_words() -> None:
    chinese = Texts(["我喜欢苹果", "我喜欢树"])
    same, other = read(tfidf, "喜欢苹果", "树", train=chinese)
    assert (same > 0).sum() == 7 and (other > 0).sum() == 1


def test_lsa_of_few_texts_keeps_what_distinguishes_them() -> None:
    texts = ["cat dog", "dog cat", "sun moon", "moon sun", "cat dog dog", "sun sun moon"]
    vectors = read(lsa, *texts, train=Texts(texts))
    assert torch.allclose(vectors.norm(dim=1), torch.ones(6), atol=1e-5)
    cosines = vectors @ vectors.T
    assert cosines[0, 4] > 0.9 and cosines[2, 5] > 0.9 and cosines[0, 2].abs() < 0.1


def test_tokens_that_are_not_whole_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="data must be texts for the controls tfidf and lsa, got tokens"):
        tfidf.make(ENCODER, ENCODER.blocks(TRAIN))
