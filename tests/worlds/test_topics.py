"""The prose of Python's manual: no markup, no paragraph in both parts, whole paragraphs in order."""

import re

from unlabeled.worlds import topics


def paragraphs(split: str) -> list[str]:
    return [part for text in topics.make(split).texts for part in text.split("\n\n")]


def test_training_and_test_part_share_no_topic_and_no_paragraph() -> None:
    train, test = topics.make("train"), topics.make("test")
    assert not set(train.topics) & set(test.topics)
    assert not set(paragraphs("train")) & set(paragraphs("test"))
    assert len(train.texts) > 200 and len(test.texts) > 60


def test_no_paragraph_stands_twice_though_topics_of_the_manual_contain_each_other() -> None:
    everything = paragraphs("train") + paragraphs("test")
    assert len(everything) == len(set(everything))


def test_a_topic_is_one_document_whose_passages_follow_each_other() -> None:
    passages = topics.make("train")
    assert passages.documents == sorted(passages.documents)
    assert len(set(zip(passages.documents, passages.topics))) == len(set(passages.topics))


def test_both_parts_have_every_group_and_labels_follow_the_topic() -> None:
    for split in ("train", "test"):
        passages = topics.make(split)
        assert set(range(len(topics.GROUPS))) <= set(passages.labels)
        for name, label in zip(passages.topics, passages.labels):
            assert label == -1 or name in list(topics.GROUPS.values())[label]


def test_markup_is_gone_and_words_stay() -> None:
    manual = """Title\n=====\n\n   stmt ::= "x" | y\n\n   >>> code()\n   1\n\nThe *value* of "len(x)" is, as **PEP 8**
   has it, what the reader wants it to be. [2]\n\n* first item of a list of words;\n\n* the second item is a sentence
   that goes on. \n\n| a | table of words |\n"""
    assert topics.prose(manual) == [
        "The value of len(x) is, as PEP 8 has it, what the reader wants it to be.",
        "the second item is a sentence that goes on.",
    ]


def test_passages_are_prose() -> None:
    for text in topics.make("train").texts:
        assert "::=" not in text and ">>>" not in text and not re.search(r"^[=*-]{3,}$", text, re.M)
        assert sum(map(str.isalpha, text)) > 0.65 * len(text), text
