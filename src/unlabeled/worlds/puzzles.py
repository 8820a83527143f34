"""Puzzles in words: copying and the alphabet, small enough for a language model of minutes.

Copying: four words, the first three of them again, a colon and the fourth: "dog sun cup hat dog sun cup: hat".
Alphabet: letters that follow each other, a colon and the next one: "c d e: f".

Every fifth question is in the test part, by what it asks, so that no question of the test part is in the training part:
new combinations of words, and the same letters before the answer only together with fewer or more of them. A document
is sixteen questions of one kind with their answers, with a blank line between two. As questions for zero_shot and
few_shot the answer is the label.

Chance: 1/12 for copying, 1/25 for the alphabet, of all names of classes; 1/4 for copying of the words in the question.
Whoever names the commonest word of the question, as a count of its words does, is never right: the answer is the only
word that stands there once, and the next letter does not stand there at all.
"""

import torch

from unlabeled import check

__all__ = ["KINDS", "LETTERS", "WORDS", "documents", "questions"]

WORDS = ["dog", "sun", "cup", "hat", "tree", "fish", "bell", "road", "king", "leaf", "ship", "moon"]
LETTERS = [chr(number) for number in range(ord("a"), ord("z") + 1)]
KINDS = {"copying": WORDS, "alphabet": LETTERS[1:]}
"""Kinds of puzzles, and the answers of each."""
WORDS_OF_A_QUESTION, MOST_LETTERS, EVERY = 4, 6, 5
QUESTIONS = 16


def questions(kind: str, split: str) -> list[tuple[str, str]]:
    """All questions of a kind in a split, each with its answer.

    Args:
        kind: One of `KINDS`.
        split: train or test.
    """
    check.choice(KINDS, kind=kind)
    check.choice(("train", "test"), split=split)
    if kind == "alphabet":
        every = [
            (LETTERS[start : start + length], LETTERS[start + length])
            for length in range(1, MOST_LETTERS + 1)
            for start in range(len(LETTERS) - length)
        ]
    else:
        rows = torch.cartesian_prod(*[torch.arange(len(WORDS))] * WORDS_OF_A_QUESTION)
        different = rows.sort(1).values.diff(dim=1).ne(0).all(1)
        every = [
            ([WORDS[number] for number in (*row, *row[:-1])], WORDS[row[-1]])
            for row in rows[different].tolist()
        ]
    # A generator of its own, so that the parts are the same for ever.
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0)).tolist()
    first = len(every) // EVERY
    part = order[:first] if split == "test" else order[first:]
    return [(" ".join(every[number][0]), every[number][1]) for number in part]


def documents(n: int, split: str, seed: int) -> list[str]:
    """Texts to learn from: questions of one kind each, with their answers, kinds in turn.

    Args:
        n: Number of documents.
        split: train or test.
        seed: Seed of the choice of the questions.
    """
    check.at_least(1, n=n)
    generator = torch.Generator().manual_seed(seed)
    pools = [questions(kind, split) for kind in KINDS]
    texts = []
    for number in range(n):
        pool = pools[number % len(pools)]
        rows = torch.randint(len(pool), (QUESTIONS,), generator=generator).tolist()
        texts.append("\n\n".join(": ".join(pool[row]) for row in rows))
    return texts
