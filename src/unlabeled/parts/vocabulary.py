"""From texts to words, and from words to a vocabulary."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache

from unlabeled import check

__all__ = ["counted", "split"]

_MARKS = range(0x300, 0x20000)
"""Where the marks are that belong to the letter before them."""


def split(text: str) -> list[str]:
    """Words of a text in lower case.

    A word is a run of letters and digits of any script, with their marks, such as accents and the vowel signs of
    Hindi; an apostrophe inside it belongs to it (and is written ' ), and so does an underscore, with which phrases
    such as new_york are marked. However an accent was written, as a mark or with its letter, the word is the same.
    """
    return _word().findall(unicodedata.normalize("NFC", text.lower().replace("’", "'")))


@cache
def _word() -> re.Pattern[str]:
    marks = "".join(chr(code) for code in _MARKS if unicodedata.category(chr(code)).startswith("M"))
    run = rf"[^\W_]+(?:[{marks}]+[^\W_]*)*"
    return re.compile(rf"{run}(?:['_]{run})*")


def counted(texts: Iterable[str], min_count: int) -> dict[str, int]:
    """How often each word stands in texts, frequent words first.

    Args:
        texts: What the words are counted in.
        min_count: Words that occur less often are left out.

    Returns:
        Counts by word, falling; words of equal counts in alphabetical order.

    Raises:
        ValueError: Fewer than two words are left.
    """
    check.at_least(1, min_count=min_count)
    counts = Counter(word for text in texts for word in split(text))
    kept = {word: count for word, count in counts.items() if count >= min_count}
    if len(kept) < 2:
        raise ValueError(
            f"texts must have at least 2 words that occur {min_count} times or more, got {len(kept)} "
            f"of {len(counts)} different words. An encoder such as words-100-min1 keeps rarer words"
        )
    return dict(sorted(kept.items(), key=lambda item: (-item[1], item[0])))
