"""Puzzles: every answer follows from its question, and the parts have nothing in common."""

import pytest

from unlabeled.data import open_splits
from unlabeled.worlds import puzzles


@pytest.mark.parametrize("kind", puzzles.KINDS)
def test_answers_follow_from_questions_and_parts_have_none_in_common(kind: str) -> None:
    train, test = (puzzles.questions(kind, split) for split in ("train", "test"))
    assert not {question for question, _ in train} & {question for question, _ in test}
    assert len(test) == (len(train) + len(test)) // 5
    for question, answer in [*train[:500], *test[:500]]:
        words = question.split()
        if kind == "copying":
            assert words[4:] == words[:3] and answer == words[3] and len({*words}) == 4
        else:
            assert "".join([*words, answer]) in "abcdefghijklmnopqrstuvwxyz" and 1 <= len(words) <= 6
    assert {answer for _, answer in test} <= {*puzzles.KINDS[kind]}


def test_all_answers_of_copying_are_as_frequent_and_the_commonest_words_are_wrong() -> None:
    questions = [pair for split in ("train", "test") for pair in puzzles.questions("copying", split)]
    counts = [sum(answer == word for _, answer in questions) for word in puzzles.WORDS]
    assert len({*counts}) == 1 and sum(counts) == 12 * 11 * 10 * 9
    assert all(question.split().count(answer) == 1 for question, answer in questions[:200])


def test_documents_are_questions_of_one_kind_with_their_answers() -> None:
    texts = puzzles.documents(4, "train", 0)
    assert texts == puzzles.documents(4, "train", 0) != puzzles.documents(4, "train", 1)
    known = {kind: dict(puzzles.questions(kind, "train")) for kind in puzzles.KINDS}
    for number, text in enumerate(texts):
        pairs = [line.split(": ") for line in text.split("\n\n")]
        kind = list(puzzles.KINDS)[number % 2]
        assert len(pairs) == 16 and all(known[kind][question] == answer for question, answer in pairs)


def test_built_in_puzzles_are_texts_or_questions_with_the_answer_as_the_label() -> None:
    train, test = open_splits("puzzles:alphabet")
    assert train.classes == test.classes == puzzles.LETTERS[1:] and test.labels is not None
    row = test.texts.index(puzzles.questions("alphabet", "test")[3][0])  # type: ignore[attr-defined]
    assert test.classes[test.labels[row]] == puzzles.questions("alphabet", "test")[3][1]
    texts, _ = open_splits("puzzles")
    assert texts.labels is None and len(texts) == 2000
    with pytest.raises(ValueError, match="variant must be"):
        open_splits("puzzles:sums")
