"""Options of methods and data: types with a range, options of random views, and the one place that checks values."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import wraps
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypedDict, Union, Unpack, get_args, get_origin

from unlabeled import check
from unlabeled.check import Range, UserError

__all__ = [
    "READING",
    "Count",
    "Device",
    "EncoderNeeds",
    "Fraction",
    "NonNegative",
    "Positive",
    "PositiveFraction",
    "Range",
    "Reading",
    "Several",
    "ViewOptions",
    "WholeNumber",
    "checked",
    "resolve",
    "types",
    "unknown",
    "verify",
    "verify_all",
]

Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(at_least=0)]
Fraction = Annotated[float, Range(at_least=0, at_most=1)]
PositiveFraction = Annotated[float, Range(above=0, at_most=1)]
WholeNumber = Annotated[int, Range(at_least=0)]
Count = Annotated[int, Range(at_least=1)]
Device = Literal["auto", "cpu", "cuda", "mps"]
Several = Annotated[int, Range(at_least=2)]


class Reading(TypedDict, total=False):
    """Settings that say how data is read, as far as its files do not; whatever opens data has them."""

    label: str | None
    text_column: str | None
    encoding: str | None
    group: str | None
    fold: int | None


READING = (*Reading.__annotations__,)


class ViewOptions(TypedDict, total=False):
    """How random views of an image are drawn. A method has those that it gives a default.

    Args:
        crop: Smallest fraction of the image's area that a view shows.
        jitter: Strength of the colour changes; 1 is common for ImageNet, 0.5 for CIFAR-10.
        gray: Probability that a view is converted to grayscale.
        blur: Probability that a view is blurred.
        solarize: Probability that the bright pixels of a view are inverted.
        flip: Probability that a view is mirrored; use 0 where left and right differ in meaning, as in digits.
        degrees: Maximum rotation of a view, ± degrees.
    """

    crop: PositiveFraction
    jitter: NonNegative
    gray: Fraction
    blur: Fraction
    solarize: Fraction
    flip: Fraction
    degrees: Annotated[float, Range(at_least=0, at_most=180)]


class EncoderNeeds(NamedTuple):
    """What a method needs of its encoder beyond its kind.

    Attributes:
        attribute: Name of an attribute, such as causal.
        rule: The need in words that complete "encoder must", with an example.
        value: What the attribute must be; None where it need only be there.
    """

    attribute: str
    rule: str
    value: Any = None


def verify(name: str, value: Any, annotation: Any) -> None:
    """Refuse a value that the annotation of an option or setting does not allow.

    Raises:
        ValueError: The value is of another type, out of its range or not finite, or none of the choices.
    """
    plain, range_, optional = resolve(annotation)
    if optional and value is None:
        return
    if get_origin(plain) is Literal:
        check.choice(get_args(plain), **{name: value})
    elif plain is bool and not isinstance(value, bool):
        raise UserError(f"{name} must be true or false, got {value!r}")
    elif plain is int:
        check.whole(**{name: value})
    if range_ is not None:
        check.within(range_, **{name: value})
        if value == math.inf:
            raise UserError(f"{name} must be finite, got inf")


def checked(constructor: Callable[..., None]) -> Callable[..., None]:
    """A method's constructor that refuses what `verify_all` does, given by name or by position."""
    parameters = inspect.signature(constructor).parameters.values()
    positions = [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD][1:]

    @wraps(constructor)
    def construct(method: Any, *arguments: Any, **keywords: Any) -> None:
        verify_all(type(method), dict(zip(positions, arguments)) | keywords, constructor)
        constructor(method, *arguments, **keywords)

    return construct


def verify_all(
    method: type[Any], values: Mapping[str, Any], constructor: Callable[..., None] | None = None
) -> None:
    """Refuse options that a method does not have, and values that their annotations do not allow.

    Args:
        method: The class.
        values: Values by name, perhaps with the encoder.
        constructor: That of the class or of one behind it; None takes that of the class. What it collects in other
            `**keywords` is left to the one that it passes them on to.

    Raises:
        ValueError: A name is unknown, where the nearest one is suggested, or a value is refused.
    """
    constructor = constructor or method.__init__
    annotations = types(constructor, method.view_defaults)
    parameters = _parameters(constructor)
    passes_on = any(one.kind is one.VAR_KEYWORD and not _is_views(one) for one in parameters)
    for name, value in values.items():
        if name in annotations:
            verify(name, value, annotations[name])
        elif name != "encoder" and not passes_on:
            raise unknown(method.__name__, name, annotations)


def types(constructor: Callable[..., None], view_defaults: Iterable[str]) -> dict[str, Any]:
    """Annotations of the options of a method's constructor by name, view options with a default included."""
    annotations: dict[str, Any] = {}
    for parameter in _parameters(constructor):
        if _is_views(parameter):
            annotations |= {view: ViewOptions.__annotations__[view] for view in view_defaults}
        elif parameter.name not in ("self", "encoder") and parameter.kind not in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        ):
            annotations[parameter.name] = parameter.annotation
    return annotations


def _parameters(constructor: Callable[..., None]) -> list[inspect.Parameter]:
    """Parameters of a constructor, with the types that annotations written as text name.

    Such text may name what is imported for type checkers only, so the types of this file are known to it.
    """
    names = globals() | getattr(inspect.unwrap(constructor), "__globals__", {})
    parameters = []
    for parameter in inspect.signature(constructor).parameters.values():
        if isinstance(parameter.annotation, str):
            with suppress(Exception):  # other names can be missing, and their types allow any value
                parameter = parameter.replace(annotation=eval(parameter.annotation, names))
        parameters.append(parameter)
    return parameters


def _is_views(parameter: inspect.Parameter) -> bool:
    return parameter.kind is parameter.VAR_KEYWORD and parameter.annotation == Unpack[ViewOptions]


def unknown(method: str, name: str, options: Iterable[str], others: Iterable[str] = ()) -> UserError:
    """The error about an option that a method does not have; it suggests the nearest of its options and of others."""
    names = list(options)
    hint = check.nearest(name, [*names, *others], f"it takes {', '.join(names)}")
    return UserError(f"{method} has no option {name}; {hint}")


def resolve(annotation: Any) -> tuple[Any, Range | None, bool]:
    """The plain type in an annotation, its range, and whether None is allowed."""
    range_, optional = None, False
    while True:
        others = [one for one in get_args(annotation) if one is not NoneType]
        if get_origin(annotation) is Annotated:
            range_ = next((one for one in others if isinstance(one, Range)), range_)
            annotation = others[0]
        elif get_origin(annotation) in (Union, UnionType) and len(others) == 1:
            annotation, optional = others[0], True
        else:
            return annotation, range_, optional
