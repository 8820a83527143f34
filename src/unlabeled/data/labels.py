"""Labels of any form as class numbers: which column holds them, which values are none, what the classes are called.

Integers, booleans, whole floats and text are classes; each distinct value is one, and its text is the name of the
class. None, NaN, empty text and such as N/A are no label. A single negative integer is no label where all others are
the class indices 0, 1, 2 ... (as -1 is in torchvision and scikit-learn); beside any other labels it is a class like
them, as in -1 and 1. Text is compared in Unicode's composed form (NFC) without the spaces around it.
"""

import math
import re
import unicodedata
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.samples import About, Skipped

__all__ = [
    "COLUMNS",
    "NO_LABELS",
    "NoColumn",
    "Numbered",
    "class_name",
    "from_array",
    "from_records",
    "in_order",
    "label_column",
    "numbered",
    "raw",
    "recur",
    "refuse_column",
]

NO_LABELS = "no labels: "
"""How a reason in `skipped` begins that says why there are no labels."""

COLUMNS = (
    *("label", "labels", "class", "classes", "target", "targets", "category", "cls", "classname"),
    *("labelname", "labeltext", "classlabel", "categoryname", "finelabel", "classid", "labelid"),
    *("categoryid", "classidx", "labelidx", "targetclass", "y", "groundtruth", "gt", "species"),
    *("breed", "variety", "sentiment", "topic", "genre", "emotion", "diagnosis", "dx", "digit"),
)
"""Usual names of columns of labels, the likeliest first, in lower case, letters and digits only."""
_WORDS = {"label", "class", "category", "target"}
"""A column that alone has one of these among the words of its name is taken too."""
_LONGEST, _MOST_VALUES = 200, 64
_WHOLE = re.compile(r"-?(0|[1-9]\d*)(\.0*)?")
_DECIMAL = re.compile(r"-?\d*\.\d+(e-?\d+)?")
_NONE = ("", "nan", "<na>", "n/a", "#n/a", "null")
"""Texts that are no label, in lower case, as tables are saved with."""


class NoColumn(UserError):
    """The requested column of labels is not there."""


def refuse_column(label: str | None, name: str) -> None:
    """Refuse the name of a column of labels for what has no columns; `name` is what messages call it."""
    if label is not None:
        raise NoColumn(f"label must be left out for {name}, which has no columns, got {label}")


class Numbered(NamedTuple):
    """Class numbers, -1 where there is no label, None where no sample has one; names; remarks on them."""

    labels: list[int] | None
    classes: list[str] | None
    notes: list[str]

    @property
    def tensor(self) -> Tensor | None:
        """The class numbers, int64, shape (samples,)."""
        return None if self.labels is None else torch.tensor(self.labels, dtype=torch.int64)

    def skipped(self, name: str) -> list[Skipped]:
        """The notes as entries of the list of what was skipped."""
        begin = NO_LABELS if self.labels is None else "labels: "
        return [Skipped(name, begin + note) for note in self.notes]

    def about(self, name: str, skipped: Sequence[Skipped] = ()) -> About:
        """Labels, classes and skipped files for `Data`; `name` is what the notes are about."""
        skipped = [*skipped, *self.skipped(name)]
        return {"labels": self.tensor, "classes": self.classes, "skipped": skipped}


def from_array(values: Any, count: int, name: str) -> list[Any]:
    """Labels of an array or sequence as a list, one for each of `count` samples.

    They are numbers, truth values or text, shape (samples,), (samples, 1) or (samples, classes).
    """
    if isinstance(values, list | tuple) and len(values) == count:
        return list(values)
    array = np.asarray(values.cpu() if isinstance(values, Tensor) else values)
    if array.ndim != 2 or array.shape[1] == 1 or array.dtype.kind not in "biuf":
        array = array.reshape(-1)
    if len(array) != count or array.dtype.kind not in "biufUSO":
        got = f"{len(array)} of type {array.dtype}"
        raise UserError(f"labels of {name} must be {count} numbers or texts, got {got}")
    return array.tolist()


def raw(value: Any) -> Any:
    """A label as JSON can hold it, whatever a table or a data set gave; long ones are cut."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(name): raw(entry) for name, entry in list(value.items())[:_MOST_VALUES]}
    if isinstance(value, list | tuple | set):
        return [raw(entry) for entry in list(value)[:_MOST_VALUES]]
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text[:_LONGEST]


def recur(values: Sequence[Any], few: int = 0) -> bool:
    """Whether values may be of classes, as at most half of them are distinct; fewer than `few` need one in common."""
    distinct = len({str(value) for value in values})
    return 2 * distinct <= len(values) or distinct < len(values) < few


def from_records(values: Sequence[Any], request: str | None, name: str) -> tuple[list[Any], list[str]]:
    """Labels out of records that map columns to values, and remarks on them; all else stays as it is.

    Short texts that are beside images (`txt`) are taken where most of them repeat: else they are captions.

    Args:
        values: Labels, records or None.
        request: Column that the user asked for.
        name: What messages call the data.

    Raises:
        NoColumn: The column that was asked for is in no record.
    """
    records = [value for value in values if isinstance(value, Mapping)]
    columns = list(dict.fromkeys(column for record in records for column in record))
    if not columns and request is None:
        return list(values), []
    column = label_column([column for column in columns if column != "txt" or request], request, name)
    if column is None and "txt" in columns and recur([row["txt"] for row in records if "txt" in row]):
        column = "txt"
    notes = (
        [] if column else [f"what is known of the images is {', '.join(columns)}; choose one with --label"]
    )
    return [value.get(column) if isinstance(value, Mapping) else value for value in values], notes


def numbered(values: Iterable[Any], classes: Sequence[str] | None = None) -> Numbered:
    """Number labels densely by the rules above.

    Args:
        values: The label of each sample; numpy and torch scalars and one-element lists count as what they hold,
            and lists of one length with a single 1 among zeros (one-hot) as the place of that 1.
        classes: Names by number where labels are such numbers or names; what is not among them is no label. Text
            that is a name is that class, also where it reads as a number, as folders 1, 2 and 10 do.

    Returns:
        Class numbers in 0 .. len(classes) - 1 or -1, and the names: numbers in their order, else alphabetical.
        Quantities and lists of several labels give no labels and a note that says so.
    """
    names = None if classes is None else [class_name(name) for name in classes]
    index = {name: number for number, name in enumerate(names or [])}
    plain = _all_plain(_from_one_hot(list(values)), index)
    distinct = {value for value in plain if value is not None}
    if several := next((value for value in distinct if isinstance(value, _Several)), None):
        return Numbered(None, names, [f"several labels for one sample are not supported, got {several}"])
    has_names = bool(distinct & index.keys())
    whole = _as_whole({value for value in distinct if not (has_names and isinstance(value, str))})
    if quantities := [value for value in whole.values() if isinstance(value, float) and value % 1]:
        return Numbered(None, names, [f"labels such as {min(quantities):g} are quantities, not classes"])
    plain, notes = [whole.get(value, value) for value in plain], []
    distinct = {value for value in plain if value is not None}
    if names is not None:
        numbers = {value: _number(value, index, len(names)) for value in distinct}
    else:
        if (sentinel := _sentinel(distinct)) is not None:
            distinct.discard(sentinel)
            notes.append(f"label {sentinel} beside class indices means no label")
        names = in_order({str(value) for value in distinct})
        index = {name: number for number, name in enumerate(names)}
        numbers = {value: index[str(value)] for value in distinct}
    labels = [numbers.get(value, -1) for value in plain]
    strange = sum(label < 0 and value is not None for label, value in zip(labels, plain))
    if strange and not notes:
        notes.append(f"{strange} labels are not among the {len(names)} classes")
    return Numbered(labels if max(labels, default=-1) >= 0 else None, names or None, notes)


def label_column(
    columns: Iterable[str], request: str | None = None, where: str = "the table", *, strict: bool = True
) -> str | None:
    """The column of labels: the requested one, else the first with a usual name, in any case, such as `Class ID`.

    Args:
        columns: Names of the columns.
        request: Name that the user gave, in any case; None looks for usual ones.
        where: What messages call the table.
        strict: Whether a requested column must be there.

    Raises:
        NoColumn: The requested column is not there.
    """
    columns = list(columns)
    if request is not None:
        same = [column for column in columns if request in (column, column.strip())]
        same += [column for column in columns if _normal(column) == _normal(request)]
        if not same and strict:
            listing = check.one_line(", ".join(columns)) or "no columns"
            raise NoColumn(f"label must be a column of {where}, which has {listing}, got {request}")
        return same[0] if same else None
    normal = {_normal(column): column for column in reversed(columns)}
    if usual := next((normal[name] for name in COLUMNS if name in normal), None):
        return usual
    words = {column: re.findall(r"[A-Z]?[a-z]+|[A-Z]+", column) for column in columns}
    wordy = [column for column in columns if any(word.lower() in _WORDS for word in words[column])]
    return wordy[0] if len(wordy) == 1 else None


def class_name(text: str) -> str:
    """Text as the name of a class: composed (NFC), without the spaces around it."""
    return unicodedata.normalize("NFC", text).strip()


def in_order(names: Iterable[str]) -> list[str]:
    """Names of classes in their order: whole numbers by their value, all else by the alphabet."""
    names = set(names)
    whole = all(re.fullmatch(r"-?[0-9]+", name) for name in names)
    return sorted(names, key=(lambda name: (int(name), name)) if whole else None)


def _normal(column: str) -> str:
    return "".join(filter(str.isalnum, column.lower()))


class _Several(str):
    """Several labels of one sample, as a message shows them."""


def _from_one_hot(values: list[Any]) -> list[Any]:
    """Places of the single 1 in lists of one length that have nothing else but zeros; other values as they are."""
    rows = [value.tolist() if hasattr(value, "tolist") else value for value in values]
    if not all(isinstance(row, list | tuple) and len(row) > 1 for row in rows) or len({*map(len, rows)}) > 1:
        return values
    single = all(row.count(1) == 1 and row.count(0) == len(row) - 1 for row in rows)
    return [row.index(1) for row in rows] if single else values


def _all_plain(values: list[Any], names: Container[str]) -> list[Any]:
    try:
        plain = {value: _plain(value, names) for value in set(values)}
        return [plain[value] for value in values]
    except TypeError:  # lists have no hash
        return [_plain(value, names) for value in values]


def _plain(value: Any, names: Container[str] = ()) -> bool | int | float | str | None:
    """A label as a value of Python: None where there is none, which text is not that is the name of a class."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple | set):
        value = list(value)
        if len(value) == 1:
            return _plain(value[0])
        return _Several(check.one_line(str(value))) if value else None
    if isinstance(value, Mapping):
        return _Several(check.one_line(str(value)))
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if value is None or isinstance(value, int):
        return value
    text = class_name(str(value))
    return None if text.lower() in _NONE and text not in names else text


def _as_whole(values: set[Any]) -> dict[Any, Any]:
    """Each value as an integer where all are whole numbers, also if written as text; what is not whole stays."""
    texts = [value for value in values if isinstance(value, str)]
    if texts and len(texts) == len(values):
        if all(_WHOLE.fullmatch(text) for text in texts):
            return {text: int(text.partition(".")[0]) for text in texts}
        if all(_WHOLE.fullmatch(text) or _DECIMAL.fullmatch(text) for text in texts):
            return {text: float(text) for text in texts}
    return {value: int(value) if isinstance(value, float) and not value % 1 else value for value in values}


def _sentinel(values: set[Any]) -> int | None:
    """The one negative integer beside class indices 0, 1, 2 ..., or alone."""
    if any(isinstance(value, bool | str) for value in values):
        return None
    negative = [value for value in values if value < 0]
    indices = values - {*negative}
    return negative[0] if len(negative) == 1 and indices == set(range(len(indices))) else None


def _number(value: Any, index: Mapping[str, int], count: int) -> int:
    if isinstance(value, int):
        return int(value) if 0 <= value < count else -1
    return index.get(value, -1)
