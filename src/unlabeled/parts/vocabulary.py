"""From texts to words, and from words to a vocabulary.

Chinese, Japanese, Thai, Lao, Khmer and Burmese are written without spaces: a segmenter splits them into words, either
each character (`characters`) or by an installed library, `jieba` or `pythainlp`. No other function is imported, as
the name is also read from files.
"""

import importlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache

from unlabeled import check
from unlabeled.check import UserError

__all__ = ["SEGMENTERS", "SOUTH_EAST_ASIAN", "count_words", "split", "splitter", "unspaced"]

SEGMENTERS = {"jieba": "jieba:lcut", "pythainlp": "pythainlp:word_tokenize"}
"""Functions of libraries that split texts into words."""
SOUTH_EAST_ASIAN = (
    "[\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e46][\u0e31\u0e34-\u0e3a\u0e47-\u0e4e]*"
    "|[\u0e81-\u0eb0\u0eb2\u0eb3\u0ebd-\u0ec6][\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece]*"
    "|[\u1000-\u102a\u103f\u1050-\u1055][\u102b-\u103e]*"
    "|[\u1780-\u17b3][\u17b4-\u17d3\u17dd]*"
)
"""A letter of Thai, Lao, Burmese or Khmer with its marks, as a regular expression."""
_UNSPACED = re.compile(
    # Kana, and Chinese characters with their extensions.
    "[\u3040-\u30fa\u30fc-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]|"
    + SOUTH_EAST_ASIAN
)
_MARKS = range(0x300, 0x20000)
"""Code points of the marks that belong to the letter before them."""


def split(text: str) -> list[str]:
    """Words of a text in lower case.

    A word is a run of letters and digits of any script, with their marks, such as accents and the vowel signs of
    Hindi; an apostrophe inside it belongs to it (and is written ' ), and so does an underscore, which joins phrases
    such as new_york. An accent may be written as a mark or with its letter: the word is the same.
    """
    return _word().findall(unicodedata.normalize("NFC", text.lower().replace("’", "'")))


def splitter(segmenter: str | None) -> Callable[[str], list[str]]:
    """Function that splits a text into words in lower case.

    Args:
        segmenter: None for `split`; characters, which makes each character of a script without spaces a word; a name of
            `SEGMENTERS`.

    Raises:
        UserError: It is none of these, or its library is not installed.
    """
    if segmenter is None:
        return split
    if segmenter == "characters":
        return lambda text: split(_UNSPACED.sub(r" \g<0> ", text))
    check.choice(("characters", *SEGMENTERS), segmenter=segmenter)
    module, _, function = SEGMENTERS[segmenter].partition(":")
    try:
        cut: Callable[[str], Iterable[str]] = getattr(importlib.import_module(module), function)
    except ImportError as error:
        raise UserError(f"segmenter {segmenter} needs its library: pip install {module} ({error})") from error
    return lambda text: [word for part in cut(text) for word in split(part)]


def unspaced(texts: Iterable[str]) -> float:
    """Fraction of the letters of texts, 0..1, that belong to scripts without spaces between words."""
    letters = unspaced_letters = 0
    for text in texts:
        letters += sum(map(str.isalnum, text))
        unspaced_letters += len(_UNSPACED.findall(text))
    return min(1.0, unspaced_letters / letters) if letters else 0.0


@cache
def _word() -> re.Pattern[str]:
    marks = "".join(chr(code) for code in _MARKS if unicodedata.category(chr(code)).startswith("M"))
    run = rf"[^\W_]+(?:[{marks}]+[^\W_]*)*"
    return re.compile(rf"{run}(?:['_]{run})*")


def count_words(texts: Iterable[str], min_count: int, segmenter: str | None = None) -> dict[str, int]:
    """How often each word occurs in texts, frequent words first.

    Args:
        texts: Texts whose words are counted.
        min_count: Words that occur less often are dropped.
        segmenter: As in `splitter`.

    Returns:
        Counts by word, descending; words of equal counts in alphabetical order.

    Raises:
        UserError: Fewer than two words remain.
    """
    check.at_least(1, min_count=min_count)
    cut = splitter(segmenter)
    counts = Counter(word for text in texts for word in cut(text))
    frequent = {word: count for word, count in counts.items() if count >= min_count}
    if len(frequent) < 2:
        raise UserError(
            f"texts must have at least 2 words that occur {min_count} times or more, got {len(frequent)} "
            f"of {len(counts)} different words. An encoder such as words-100-min1 keeps rarer words"
        )
    return dict(sorted(frequent.items(), key=lambda item: (-item[1], item[0])))
