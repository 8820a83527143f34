"""Which columns of a table hold the texts and which the classes, by their names and by what is in them.

A text is taken from the column that the user names, or else from the one whose name is the first of `TEXTS`; where
there is no usual name, from the column with the longest texts. Numbered pairs (`sentence1`, `sentence2`, or `premise`,
`hypothesis`) are joined. Classes are those of the column that the user names, or else of the one with a usual name;
where there is none, of the only other column whose values recur. Identifiers, dates, paths and addresses are neither.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.files import split_column, split_words
from unlabeled.data.labels import label_column, recur

__all__ = ["TEXTS", "Columns", "choose", "flat", "is_known"]

TEXTS = (
    *("text", "sentence", "content", "body", "document", "passage", "review", "comment", "comments"),
    *("message", "messages", "conversation", "conversations", "dialog", "dialogue", "turns", "tweet", "post"),
    *("article", "abstract", "description", "story", "paragraph", "utterance", "transcript", "transcription"),
    *("context", "premise", "hypothesis", "question", "query", "prompt", "instruction", "answer", "response"),
    *("summary", "headline", "title", "subject", "phrase", "lyrics", "verse", "line"),
)
"""Names of columns of texts, those first that are rather the text itself."""
_STRONG = TEXTS.index("abstract")
"""How many names are so certain that one of them as a part of a name counts more than a later one alone."""
_NEITHER = re.compile(
    r"(^|_)(id|ids|idx|index|no|nr|uid|uuid|guid|key|hash|sha|sha1|md5|url|uri|link|href|path|file|filename|date|time"
    r"|timestamp|created|updated|user|username|author|authors|email|phone|doi|isbn|split|fold|lang|language)$"
)
_PAIRS = {"premise": "hypothesis"}
_SPOKEN = ("content", "text", "value", "utterance")
_PEEKED = 1000
_DEEPEST = 8
_SEVERAL = 10
"""Rows from which on values that are all different are no classes."""
_LONGEST_CLASS = 60
_IDENTIFIER = re.compile(r"(?=\S*\d)\S+|\S*[/\\@_]\S*|[\d\W_]*")


class Columns(NamedTuple):
    """Columns of the texts, which are joined by a space, the column of the classes, and that of the splits."""

    texts: tuple[str, ...]
    label: str | None
    split: str | None = None


def choose(
    records: Sequence[Mapping[str, Any]],
    name: str,
    text_column: str | None = None,
    label: str | None = None,
    classes: Collection[str] = (),
    named: bool = True,
) -> Columns:
    """Choose the columns of texts and classes.

    Args:
        records: Rows as `flat` gives them, of which the first thousand are looked at.
        name: What messages call the table.
        text_column: Column of the texts, or several with commas between them, to be joined; None chooses.
        label: Column of the classes; None chooses.
        classes: Columns that hold numbers of classes for certain.
        named: Whether the columns have names of their own.

    Raises:
        ValueError: There is no such column, or none that holds texts.
    """
    rows = records[:_PEEKED]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    values = {column: [row[column] for row in rows if not _is_empty(row.get(column))] for column in columns}
    texts = () if text_column is None else _requested(text_column, columns, name)
    named_splits = [column for column in columns if split_column([column]) and values[column]]
    split = next((column for column in named_splits if split_words(values[column])), None)
    target = None if label is None else label_column(columns, label, name)
    if target in texts:
        if not (text_column or "").endswith("?"):
            raise UserError(f"label must be another column of {name} than those of the texts, got {label}")
        texts = ()
    columns = [column for column in columns if column != split]
    if label is None:
        target = _usual_label([column for column in columns if column not in texts], values, classes)
    texts = texts or _texts(columns, values, target)
    if not texts:
        listing = check.one_line(", ".join(columns)) or "nothing"
        raise UserError(f"{name} must have a column of texts, got {listing}; choose one with --text-column")
    if label is None and target is None:
        target = _other_label(columns, values, texts, named)
    return Columns(texts, target, split)


def flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A record with the fields of inner objects as `outer.inner`, and lists of texts or of turns joined."""
    fields: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping) and prefix.count(".") < _DEEPEST:
            fields |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple) and len(value) == 1 and not isinstance(value[0], Mapping):
            fields[prefix + str(key)] = value[0]
        elif isinstance(value, list | tuple):
            parts = [_spoken(part) for part in value]
            fields[prefix + str(key)] = " ".join(parts) if parts and all(parts) else value
        else:
            fields[prefix + str(key)] = value
    return fields


def is_known(column: str) -> bool:
    """Whether a column has a usual name of texts or of classes, or one of a single word with that in it."""
    if " " in column.strip():
        return _words(column) in TEXTS
    return _rank(column) < math.inf or label_column([column]) is not None


def _spoken(part: Any) -> str:
    """Text of one of several, such as a turn of a conversation."""
    if isinstance(part, Mapping):
        part = next((part[key] for key in _SPOKEN if isinstance(part.get(key), str)), "")
    return part.strip() if isinstance(part, str) else ""


def _is_empty(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def _requested(text_column: str, columns: list[str], name: str) -> tuple[str, ...]:
    """The columns that the user named, in any case; none where one is missing and a ? permits that."""
    request = text_column.removesuffix("?")
    if request in columns:
        return (request,)
    index = {column.strip().lower(): column for column in reversed(columns)}
    for word in request.split(","):
        if word.strip().lower() not in index:
            if text_column.endswith("?"):
                return ()
            hint, listing = check.near(word.strip(), columns), check.one_line(", ".join(columns))
            raise UserError(f"text_column must be a column of {name}, which has {listing}, got {word}{hint}")
    return tuple(index[word.strip().lower()] for word in request.split(","))


def _words(column: str) -> str:
    """The name of a column in lower case with underscores: reviewText is review_text."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column.strip())
    return re.sub(r"[\W_]+", "_", spaced).strip("_").lower()


def _rank(column: str) -> float:
    """Place of a name among those of texts, infinity where it is none: certain names, such with more, then others."""
    words = _words(column)
    if words in TEXTS:
        place = TEXTS.index(words)
        return place if place < _STRONG else 2 * len(TEXTS) + place
    parts = [re.sub(r"\d+$", "", word) for word in words.split("_")]
    place = min((TEXTS.index(word) for word in parts if word in TEXTS), default=math.inf)
    return len(TEXTS) + place if place < _STRONG else 3 * len(TEXTS) + place


def _is_text(values: list[Any]) -> bool:
    """Whether most are words, no numbers and no identifiers."""
    texts = [value for value in values if isinstance(value, str)]
    return bool(texts) and 2 * sum(not _IDENTIFIER.fullmatch(text.strip()) for text in texts) > len(values)


def _length(values: list[Any]) -> float:
    return sum(len(str(value)) for value in values) / max(len(values), 1)


def _are_classes(values: list[Any]) -> bool:
    """Whether values recur as those of classes do."""
    if not values or any(isinstance(value, list | tuple | Mapping) for value in values):
        return False
    if any(isinstance(value, float) and value % 1 for value in values):
        return False
    names = [str(value).strip() for value in values]
    if max(map(len, names)) > _LONGEST_CLASS:
        return False
    return len(names) < _SEVERAL or recur(names)


def _usual_label(columns: list[str], values: dict[str, list[Any]], classes: Collection[str]) -> str | None:
    certain = [column for column in columns if column in classes]
    usual = label_column(certain or [column for column in columns if _are_classes(values[column])])
    return usual or next(iter(certain), None)


def _texts(columns: list[str], values: dict[str, list[Any]], label: str | None) -> tuple[str, ...]:
    strings = [
        column
        for column in columns
        if column != label
        and values[column]
        and all(isinstance(value, str) for value in values[column])
        and not _NEITHER.search(_words(column))
    ]
    wordy = [column for column in strings if _is_text(values[column])]
    longest = max((_length(values[column]) for column in wordy), default=0)
    named = [
        column
        for column in wordy
        if _words(column) in TEXTS or (_rank(column) < math.inf and 2 * _length(values[column]) > longest)
    ]
    if named:
        best = min(named, key=lambda column: (_rank(column), columns.index(column)))
        return _pair(best, wordy)
    if wordy:
        return _pair(max(wordy, key=lambda column: _length(values[column])), wordy)
    # Texts of one word with a digit are texts where the name says so.
    return tuple(column for column in strings if _rank(column) < len(TEXTS))[:1]


def _pair(column: str, wordy: list[str]) -> tuple[str, ...]:
    """The column, and its other half where it is one of two."""
    if (other := _PAIRS.get(_words(column))) is not None:
        return (column, *(second for second in wordy if _words(second) == other))
    if _rank(column) == math.inf:
        return (column,)
    stem = re.sub(r"_?(\d|a|b)$", "", _words(column))
    alike = [other for other in wordy if re.fullmatch(rf"{re.escape(stem)}_?(\d|a|b)", _words(other))]
    return tuple(alike) if column in alike and len(alike) > 1 else (column,)


def _other_label(
    columns: list[str], values: dict[str, list[Any]], texts: tuple[str, ...], named: bool
) -> str | None:
    others = [column for column in columns if column not in texts and not _NEITHER.search(_words(column))]
    if not named and len(others) == 1:
        return others[0] if _are_classes(values[others[0]]) else None
    possible = [
        column
        for column in others
        if len(values[column]) > 1
        and _are_classes(values[column])
        and recur(values[column])
        and len({str(value) for value in values[column]}) > 1
    ]
    return possible[0] if len(possible) == 1 else None
