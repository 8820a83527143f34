"""Options of methods: types with a range, the options of random views, and the one place that checks values."""

import difflib
import inspect
import math
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypedDict, Union, Unpack, get_args, get_origin

from unlabeled import check
from unlabeled.check import Range, UserError

__all__ = [
    "Count",
    "Fraction",
    "NonNegative",
    "Positive",
    "PositiveFraction",
    "Range",
    "Several",
    "ViewOptions",
    "WholeNumber",
    "resolve",
    "types",
    "verify",
    "verify_all",
]

Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(at_least=0)]
Fraction = Annotated[float, Range(at_least=0, at_most=1)]
PositiveFraction = Annotated[float, Range(above=0, at_most=1)]
WholeNumber = Annotated[int, Range(at_least=0)]
Count = Annotated[int, Range(at_least=1)]
Several = Annotated[int, Range(at_least=2)]


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


def verify_all(method: type[Any], values: Mapping[str, Any]) -> None:
    """Refuse options that a method does not have, and values that their annotations do not allow.

    Raises:
        ValueError: A name is unknown, where the nearest one is suggested, or a value is refused.
    """
    annotations, takes_others = types(method)
    for name, value in values.items():
        if name not in annotations:
            if takes_others:
                continue
            near = difflib.get_close_matches(name, annotations, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(annotations)}"
            raise UserError(f"{method.__name__} has no option {name}; {hint}")
        verify(name, value, annotations[name])


def types(method: type[Any]) -> tuple[dict[str, Any], bool]:
    """Annotations of a method's options by name, view options included, and whether it may take other names.

    A constructor with any other `**keywords` passes them on, so the options of the classes behind it count too.
    """
    annotations: dict[str, Any] = {}
    takes_others = False
    for class_ in method.__mro__:
        if "__init__" not in vars(class_):
            continue
        passes_on = False
        for name, parameter in inspect.signature(class_.__init__).parameters.items():
            if name in ("self", "encoder") or parameter.kind is parameter.VAR_POSITIONAL:
                continue
            if parameter.kind is not parameter.VAR_KEYWORD:
                annotations.setdefault(name, parameter.annotation)
            elif parameter.annotation == Unpack[ViewOptions]:
                annotations |= {view: ViewOptions.__annotations__[view] for view in method.view_defaults}
            else:
                passes_on = takes_others = True
        if not passes_on:
            break
    return annotations, takes_others


def resolve(annotation: Any) -> tuple[Any, Range | None, bool]:
    """The plain type in an annotation, its range, and whether None is allowed."""
    optional = get_origin(annotation) in (Union, UnionType) and NoneType in get_args(annotation)
    if optional:
        annotation = next(one for one in get_args(annotation) if one is not NoneType)
    if get_origin(annotation) is not Annotated:
        return annotation, None, optional
    plain, *about = get_args(annotation)
    return plain, next((one for one in about if isinstance(one, Range)), None), optional
