"""From texts to words, and from words to a vocabulary."""

import re
from collections import Counter
from collections.abc import Iterable

from unlabeled import check

__all__ = ["counted", "split"]

_WORD = re.compile(r"[^\W_]+(?:['’_][^\W_]+)*")


def split(text: str) -> list[str]:
    """Words of a text in lower case.

    A word is a run of letters and digits of any script; an apostrophe inside it belongs to it (and is written ' ),
    and so does an underscore, with which phrases such as new_york are marked.
    """
    return _WORD.findall(text.lower().replace("’", "'"))


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
