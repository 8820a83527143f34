"""Words of texts: what a word is, which are kept, and stretches that lose none of them."""

import sys
from types import ModuleType

import pytest
import torch

from unlabeled.data.text.data import Texts
from unlabeled.data.text.tokens import Words
from unlabeled.parts.vocabulary import count_words, split, splitter, unspaced

VOCABULARY = ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    "text, words",
    [
        ("The cat's hat: 3 cats!", ["the", "cat's", "hat", "3", "cats"]),
        ("don’t 'quote' _emphasis_ new_york", ["don't", "quote", "emphasis", "new_york"]),
        ("Zürich, Ελλάδα; 東京", ["zürich", "ελλάδα", "東京"]),
        ("हिन्दी में cafe\u0301 café", ["हिन्दी", "में", "café", "café"]),
        ("one—two three-four", ["one", "two", "three", "four"]),
        ("... -- \n\t''_", []),
    ],
)
def test_words_of_a_text(text, words):
    assert split(text) == words


def test_vocabulary_is_sorted_by_count_and_then_by_letters():
    counts = count_words(["b a c a", "B c, d"], min_count=1)
    assert counts == {"a": 2, "b": 2, "c": 2, "d": 1} and list(counts) == ["a", "b", "c", "d"]
    assert list(count_words(["b a c a", "B c, b, d"], min_count=2)) == ["b", "a", "c"]


@pytest.mark.parametrize("texts", [[], [""], ["..."], ["one two three"], ["one one one one one"]])
def test_too_small_a_corpus_is_refused(texts):
    with pytest.raises(ValueError, match="at least 2 words that occur 5 times"):
        count_words(texts, 5)


def stretches(length: int, texts: list[str]) -> Words:
    return Texts(texts).words(VOCABULARY, length)


def test_stretches_hold_every_known_word_once_and_in_order():
    words = stretches(3, ["a b x c", "", "d", "x y", "a a b"])
    assert len(words) == 3 and words.shape == {"length": 3}
    batch = words.batch(torch.arange(3))
    assert batch["tokens"].tolist() == [[0, 1, 2], [3, 0, 0], [1, 0, 0]]
    assert batch["mask"].tolist() == [[True] * 3, [True] * 3, [True, False, False]]
    assert batch["sentence"].tolist() == [[0, 0, 0], [0, 2, 2], [0, -1, -1]]
    assert batch["index"].tolist() == [0, 1, 2] and all(
        batch[k].dtype == torch.int64 for k in ("tokens", "sentence")
    )
    assert words.counts(4).tolist() == [3, 2, 1, 1]


@pytest.mark.parametrize(
    "total, samples, length", [(30, 2, 20), (640, 32, 20), (6400, 64, 100), (1300, 62, 21)]
)
def test_small_corpora_are_cut_into_many_samples(total, samples, length):
    words = stretches(10_000, ["a b " * (total // 2)])
    assert (len(words), words.shape["length"]) == (samples, length)
    assert int(words.counts(4).sum()) == total


def test_parts_of_one_document_are_one_sentence():
    texts = Texts(["a b", "c", "d a"], documents=torch.tensor([7, 7, 8]))
    batch = texts.words(VOCABULARY, 10).batch(torch.tensor([0]))
    assert batch["sentence"][0].tolist() == [0, 0, 0, 1, 1]


def test_each_text_is_a_sample_with_its_label_for_evaluation():
    texts = Texts(["a b", "x", "c c c"], labels=torch.tensor([1, 0, 1]), classes=["no", "yes"])
    words = texts.words(VOCABULARY)
    assert len(words) == 3 and words.labels is not None
    assert (
        words.labels.tolist() == [1, 0, 1] and words.classes == ["no", "yes"] and words.paths == texts.paths
    )
    batch = words.batch(torch.tensor([2, 1]))
    assert batch["tokens"][0].tolist() == [2, 2, 2] and not batch["mask"][1].any()
    assert (batch["sentence"][1] == -1).all() and "label" not in batch
    assert not words.batch(torch.tensor([1]))["mask"].any()


def test_a_last_text_without_words_is_no_error():
    batch = Texts(["a b", "x"]).words(VOCABULARY).batch(torch.tensor([1, 0]))
    assert batch["mask"].tolist() == [[False, False], [True, True]]


def test_subset_shares_memory_and_counts_its_own_words():
    words = stretches(3, ["a b c d a a b"])
    part = words.subset(torch.tensor([2, 0]))
    assert part.ids is words.ids and len(part) == 2
    assert part.batch(torch.tensor([0]))["tokens"].tolist() == [[1]]
    assert part.counts(4).tolist() == [1, 2, 1, 0]


def test_nothing_known_is_refused_and_a_stretch_has_room_for_a_pair():
    with pytest.raises(ValueError, match="must hold words of the vocabulary"):
        stretches(3, ["x y", "z"])
    with pytest.raises(ValueError, match="length"):
        stretches(1, ["a b"])


@pytest.mark.parametrize(
    "text, words",
    [
        ("我爱GPT4北京。", ["我", "爱", "gpt4", "北", "京"]),
        ("こんにちは、世界", ["こ", "ん", "に", "ち", "は", "世", "界"]),
        ("ที่นี่ดี", ["ที่", "นี่", "ดี"]),
        ("ភាសា", ["ភា", "សា"]),
        ("The cat's café", ["the", "cat's", "café"]),
        ("한국어 문장", ["한국어", "문장"]),
    ],
)
def test_characters_of_scripts_without_spaces_are_words(text, words):
    assert splitter("characters")(text) == words


def test_an_installed_library_cuts_words_and_their_case_and_marks_go_as_always(monkeypatch):
    library = ModuleType("jieba")
    library.lcut = str.split  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "jieba", library)
    assert splitter("jieba")("One, TWO three") == ["one", "two", "three"]
    assert splitter(None) is split


def test_a_library_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jieba", None)
    with pytest.raises(ValueError, match="segmenter jieba needs its library: pip install jieba"):
        splitter("jieba")


@pytest.mark.parametrize("segmenter", ["nonsense", "jieba2:cut", "os:system", "builtins:exec", ":"])
def test_segmenters_that_are_none_are_refused_by_name(segmenter):
    with pytest.raises(ValueError, match=f"segmenter must be one .*got {segmenter}"):
        splitter(segmenter)


def test_share_of_letters_without_spaces():
    assert (
        unspaced(["我爱 ab"]) == 0.5
        and unspaced(["ที่นี่"]) == 1
        and unspaced(["plain", ""]) == 0 == unspaced([])
    )


def test_the_words_of_texts_are_those_of_the_segmenter():
    words = Texts(["我爱我", "爱"]).words(["我", "爱"], segmenter="characters")
    assert words.batch(torch.arange(2))["tokens"].tolist() == [[0, 1, 0], [1, 0, 0]]
