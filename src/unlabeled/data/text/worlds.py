"""The built-in set of texts."""

import torch

from unlabeled import check
from unlabeled.data.text.data import Texts
from unlabeled.worlds import topics

__all__ = ["built_in"]


def built_in(name: str, split: str) -> Texts:
    """Open `topics`, the prose of Python's manual.

    Args:
        name: "topics".
        split: "train" or "test".

    Raises:
        ValueError: There is no such set or split.
    """
    check.choice(("topics",), data=name)
    check.choice(("train", "test"), split=split)
    passages = topics.make(split)
    documents = torch.tensor(passages.documents)
    return Texts(
        passages.texts,
        name=name,
        paths=[f"topics/{topic}[{row}]" for row, topic in enumerate(passages.topics)],
        labels=torch.tensor(passages.labels),
        classes=list(topics.GROUPS),
        factors={"topic": documents},
        documents=documents,
    )
