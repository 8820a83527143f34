"""One wording for bad values: the name, the rule, the value."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

__all__ = [
    "Range",
    "UserError",
    "at_least",
    "choice",
    "fraction",
    "near",
    "nearest",
    "one_line",
    "positive",
    "reason",
    "whole",
    "within",
]

_LONGEST = 500


class UserError(ValueError):
    """What the user can mend: the message names the thing, the rule and the value.

    The command line prints it in one line; any other error is a fault of ours and keeps its traceback.
    """


@dataclass(frozen=True, kw_only=True)
class Range:
    """Which numbers are allowed; NaN is not. Its text completes "NAME must be"."""

    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (self.above is None or value > self.above)
            and (self.at_least is None or value >= self.at_least)
            and (self.below is None or value < self.below)
            and (self.at_most is None or value <= self.at_most)
        )

    def __str__(self) -> str:
        if self.at_least is not None and self.at_most is not None:
            return f"between {self.at_least} and {self.at_most}"
        limits = ((name.replace("_", " "), value) for name, value in vars(self).items())
        return " and ".join(f"{name} {value}" for name, value in limits if value is not None)


def within(range_: Range, **values: float) -> None:
    """Refuse numbers outside a range.

    Args:
        range_: What is allowed.
        **values: Numbers by parameter name.

    Raises:
        ValueError: A value is no number, or outside the range.
    """
    for name, value in values.items():
        if not hasattr(value, "__float__"):
            raise UserError(f"{name} must be a number, got {value!r}")
        if value not in range_:
            raise UserError(f"{name} must be {range_}, got {value}")


def positive(**values: float) -> None:
    """Refuse numbers that are not above 0."""
    within(Range(above=0), **values)


def at_least(minimum: float, **values: float) -> None:
    """Refuse numbers below a minimum."""
    within(Range(at_least=minimum), **values)


def fraction(**values: float) -> None:
    """Refuse numbers outside 0..1."""
    within(Range(at_least=0, at_most=1), **values)


def whole(**values: Any) -> None:
    """Refuse values that are not whole numbers.

    Args:
        **values: Numbers by parameter name.

    Raises:
        ValueError: A value is no int.
    """
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise UserError(f"{name} must be a whole number, got {value}")


def choice(options: Collection[Any], **values: Any) -> None:
    """Refuse values that are not among the options.

    Args:
        options: What is allowed.
        **values: Values by parameter name.

    Raises:
        ValueError: A value is not one of the options.
    """
    for name, value in values.items():
        if value not in options:
            allowed = ", ".join(str(option) for option in options)
            meant = near(value, filter(_is_text, options)) if isinstance(value, str) else ""
            raise UserError(f"{name} must be one of {allowed}, got {value}{meant}")


def nearest(name: str, names: Iterable[str], otherwise: str) -> str:
    """A question whether the name nearest to an unknown one was meant; `otherwise` where none is near."""
    return near(name, names).removeprefix("; ") or otherwise


def near(name: str, names: Iterable[str]) -> str:
    """The same question as the end of a message; empty where no name is near."""
    index = {one.lower(): one for one in names}
    matches = get_close_matches(name.lower(), index, n=1)
    return f"; did you mean {index[matches[0]]}?" if matches else ""


def reason(error: BaseException) -> str:
    """Why something failed, in one line of bearable length; never empty."""
    return one_line(getattr(error, "strerror", None) or str(error)) or type(error).__name__


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def one_line(text: str) -> str:
    """Text that may come from a file, as a message can hold it: in one line of bearable length."""
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
