"""One wording for bad values: the name, the rule, the value."""

from collections.abc import Collection
from typing import Any

__all__ = ["UserError", "at_least", "choice", "fraction", "one_line", "positive", "reason", "whole"]

_LONGEST = 500


class UserError(ValueError):
    """What the user can mend: the message names the thing, the rule and the value.

    The command line prints it in one line; any other error is a fault of ours and keeps its traceback.
    """


def positive(**values: float) -> None:
    """Refuse values that are not above 0 (NaN included).

    Args:
        **values: Numbers by parameter name.

    Raises:
        ValueError: A value is 0, below 0 or NaN.
    """
    for name, value in values.items():
        _number(name, value)
        if not value > 0:
            raise UserError(f"{name} must be above 0, got {value}")


def at_least(minimum: float, **values: float) -> None:
    """Refuse values below a minimum (NaN included).

    Args:
        minimum: The smallest value allowed.
        **values: Numbers by parameter name.

    Raises:
        ValueError: A value is below the minimum or NaN.
    """
    for name, value in values.items():
        _number(name, value)
        if not value >= minimum:
            raise UserError(f"{name} must be at least {minimum}, got {value}")


def fraction(**values: float) -> None:
    """Refuse values outside 0..1 (NaN included).

    Args:
        **values: Numbers by parameter name.

    Raises:
        ValueError: A value is below 0, above 1 or NaN.
    """
    for name, value in values.items():
        _number(name, value)
        if not 0 <= value <= 1:
            raise UserError(f"{name} must be between 0 and 1, got {value}")


def _number(name: str, value: Any) -> None:
    if not hasattr(value, "__float__"):
        raise UserError(f"{name} must be a number, got {value!r}")


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
            raise UserError(f"{name} must be one of {allowed}, got {value}")


def reason(error: BaseException) -> str:
    """Why something failed, in one line of bearable length; never empty."""
    return one_line(getattr(error, "strerror", None) or str(error)) or type(error).__name__


def one_line(text: str) -> str:
    """Text that may come from a file, as a message can hold it: in one line of bearable length."""
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
