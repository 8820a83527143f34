"""Near duplicates among texts."""

import random

from unlabeled.auditing.near_texts import near_texts


def passage(seed: int, words: int = 120) -> list[str]:
    numbers = random.Random(seed)
    return ["".join(numbers.choices("abcdefghij", k=numbers.randint(2, 8))) for _ in range(words)]


def test_texts_with_a_few_changed_words_are_found_and_others_are_not() -> None:
    texts = [" ".join(passage(seed)) for seed in range(300)]
    copies = []
    for seed in range(40):
        words = passage(seed)
        words[seed % 100] = "changed"
        copies.append("  ".join(words).upper())
    pairs, share = near_texts(texts + copies)
    assert {tuple(pair) for pair in pairs.tolist()} == {(row, 300 + row) for row in range(40)}
    assert bool((share >= 0.8).all())


def test_texts_that_share_a_third_are_not_copies() -> None:
    common = passage(1, 60)
    pairs, _ = near_texts([" ".join(common + passage(seed)) for seed in range(2, 30)])
    assert len(pairs) == 0


def test_short_and_empty_texts_and_scripts_without_spaces_are_compared() -> None:
    pairs, _ = near_texts(
        [
            "",
            " ",
            "Yes",
            "yes ",
            "no",
            "吾輩は猫である。名前はまだ無い。",
            "吾輩は猫である。名前はまだ無い。\n",
        ]
    )
    assert {tuple(pair) for pair in pairs.tolist()} == {(0, 1), (2, 3), (5, 6)}


def test_no_texts_have_no_copies() -> None:
    assert len(near_texts([])[0]) == 0


def test_many_equal_texts_are_connected_by_few_pairs() -> None:
    pairs, _ = near_texts([" ".join(passage(0))] * 500)
    assert 499 <= len(pairs) <= 1000
