"""Options are checked in one place, whoever gives them: names, types and ranges."""

import copy
import inspect
import math
import pickle
from typing import Annotated, Any, Literal, Unpack

import pytest
from torch import Tensor, nn

from unlabeled import encoders, methods, options, pretrain
from unlabeled.check import Range, UserError
from unlabeled.method import Batch, EncoderNeeds, Method
from unlabeled.methods.apc import APC
from unlabeled.methods.bert import BERT
from unlabeled.methods.simclr import SimCLR
from unlabeled.options import Count, Fraction, Positive, ViewOptions


class Own(Method):
    """A method of a user's, with options of every type."""

    view_defaults = ViewOptions(crop=0.3, flip=0.5)

    def __init__(
        self,
        encoder: nn.Module,
        *,
        rate: Positive = 1.0,
        size: Count | None = None,
        odd: Annotated[int, Range(at_least=3, below=9)] = 3,
        mode: Literal["a", "b"] = "a",
        on: bool = True,
        free: float = 0.0,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        self.drawn = self.view_options(views)

    def forward(self, batch: Batch) -> Tensor:
        return self.encoder(self.encoder.inputs(batch)).mean()


def build(**given: Any) -> Own:
    return Own(encoders.build("conv4", image_size=8), **given)


@pytest.mark.parametrize(
    ("range_", "words", "inside", "outside"),
    [
        (Range(above=0), "above 0", [1e-9, math.inf], [0, -1, math.nan]),
        (Range(at_least=1), "at least 1", [1, 2], [0, math.nan]),
        (Range(at_least=0, at_most=1), "between 0 and 1", [0, 1], [-0.1, 1.1, math.nan]),
        (Range(above=0, at_most=1), "above 0 and at most 1", [0.5, 1], [0, 2, math.nan]),
        (Range(above=0, below=1), "above 0 and below 1", [0.5], [0, 1, math.nan]),
    ],
)
def test_a_range_says_what_it_holds(
    range_: Range, words: str, inside: list[float], outside: list[float]
) -> None:
    assert str(range_) == words
    assert all(value in range_ for value in inside) and not any(value in range_ for value in outside)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rate": 0.0}, "rate must be above 0, got 0.0"),
        ({"rate": "hot"}, "rate must be a number, got 'hot'"),
        ({"rate": None}, "rate must be a number, got None"),
        ({"rate": math.inf}, "rate must be finite, got inf"),
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"size": 2.5}, "size must be a whole number, got 2.5"),
        ({"odd": 9}, "odd must be at least 3 and below 9, got 9"),
        ({"mode": "c"}, "mode must be one of a, b, got c"),
        ({"on": "no"}, "on must be true or false, got 'no'"),
        ({"crop": 0.0}, "crop must be above 0 and at most 1, got 0.0"),
        ({"flip": 1.5}, "flip must be between 0 and 1, got 1.5"),
        ({"rates": 1.0}, "Own has no option rates; did you mean rate?"),
        ({"blur": 0.5}, "Own has no option blur; it takes rate, size, odd, mode, on, free, crop, flip"),
    ],
)
def test_bad_values_and_names_are_refused_by_the_constructor(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        build(**given)
    assert str(refused.value) == message


def test_view_options_are_those_given_then_the_defaults_of_the_method_then_off() -> None:
    assert build(flip=0.1).drawn == {
        "crop": 0.3, "jitter": 0, "gray": 0, "blur": 0, "solarize": 0, "flip": 0.1, "degrees": 0,
    }  # fmt: skip
    assert Own.view_defaults == {"crop": 0.3, "flip": 0.5}


def test_one_view_option_leaves_the_other_defaults_of_the_method_alone() -> None:
    method = SimCLR(encoders.build("conv4", image_size=8), jitter=0.1)
    assert method.views.crop == SimCLR.view_defaults.get("crop") and method.views.brightness == 0.8 * 0.1


def test_what_was_given_is_recorded_and_copies_stay_whole() -> None:
    method = build(rate=2.0, flip=0.1)
    for twin in (method, copy.deepcopy(method), pickle.loads(pickle.dumps(method))):
        assert twin.built_with == ((), {"rate": 2.0, "flip": 0.1})


@pytest.mark.parametrize("method", ["simclr", SimCLR])
def test_a_bad_option_is_refused_before_the_data_is_opened(method: str | type[Method]) -> None:
    with pytest.raises(UserError, match="temperature must be above 0, got 0"):
        pretrain(method, "no such folder", temperature=0.0)


def test_a_constructor_that_takes_any_name_is_left_alone() -> None:
    class Open(Method):
        def __init__(self, encoder: nn.Module, **anything: Any) -> None:
            super().__init__(encoder)

    assert Open(encoders.build("conv4", image_size=8), nonsense=-1).built_with == ((), {"nonsense": -1})


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (APC, "encoder must be causal, such as gru3, got conv4"),
        (BERT, "encoder must be bidirectional, such as bert-mini, got conv4"),
    ],
)
def test_what_a_method_needs_of_its_encoder_is_checked(method: type[Method], message: str) -> None:
    with pytest.raises(UserError) as refused:
        method(encoders.build("conv4", image_size=8))
    assert str(refused.value) == message


def test_an_attribute_that_an_encoder_needs_may_have_any_value() -> None:
    class Needy(Method):
        encoder_needs = EncoderNeeds("in_channels", "have channels")

    assert Needy(encoders.build("conv4", image_size=8)).encoder.in_channels == 3
    with pytest.raises(UserError, match="encoder must have channels, got ModuleList"):
        bare = nn.ModuleList()
        bare.dim, bare.inputs = 1, None  # type: ignore[assignment]
        Needy(bare)


@pytest.mark.parametrize("name", methods.names())
def test_what_is_read_from_the_source_is_what_the_class_has(name: str) -> None:
    described, method = methods.describe(name), methods.load(name)
    assert described.class_name == method.__name__
    for variable in ("kind", "encoder_kind", "recipe", "smallest", "example"):
        assert getattr(described, variable) == getattr(method, variable), variable
    build = inspect.unwrap(method.__init__).__kwdefaults__ or {}
    assert {o.name: o.default for o in described.options} == {**build, **method.view_defaults}
    types = options.types(method.__init__, method.view_defaults)
    for option in described.options:
        assert option.type == types[option.name]


@pytest.mark.parametrize("name", methods.names())
def test_declared_settings_are_options_within_their_range(name: str) -> None:
    from unlabeled.training.settings import Settings

    described, method = methods.describe(name), methods.load(name)
    own = {option.name for option in described.options}
    assert described.smallest.keys() <= own | {"encoder", "image_size"}
    assert (described.recipe | method.defaults).keys() <= own | Settings.__dataclass_fields__.keys()
    defaults = {option.name: option.default for option in described.options}
    for values in (defaults, described.smallest, described.recipe):
        options.verify_all(method, {key: value for key, value in values.items() if key in own})


def test_every_view_option_has_one_help_and_one_range() -> None:
    helps = methods.arguments(inspect.getdoc(ViewOptions) or "")
    assert helps.keys() == ViewOptions.__annotations__.keys()
    assert ViewOptions.__annotations__["flip"] == Fraction


class Positional(Own):
    def __init__(self, encoder: nn.Module, rate: Positive = 1.0, **others: Any) -> None:
        super().__init__(encoder, rate=rate, **others)


def test_options_are_checked_where_a_subclass_passes_them_on_and_where_they_are_positional() -> None:
    encoder = encoders.build("conv4", image_size=8)
    assert Positional(encoder, 2.0, size=3, crop=0.5).built_with == ((2.0,), {"size": 3, "crop": 0.5})
    for arguments, keywords, message in [
        ((-1.0,), {}, "rate must be above 0, got -1.0"),
        ((), {"size": 0}, "size must be at least 1, got 0"),
        ((), {"crop": 2.0}, "crop must be above 0 and at most 1, got 2.0"),
    ]:
        with pytest.raises(UserError, match=message):
            Positional(encoder, *arguments, **keywords)


@pytest.mark.parametrize(
    ("annotation", "parts"),
    [
        (Count | None, (int, Range(at_least=1), True)),
        (Annotated[int | None, Range(at_least=1)], (int, Range(at_least=1), True)),
        (int | str | None, (int | str | None, None, False)),
    ],
)
def test_a_range_may_stand_inside_or_outside_of_none_and_a_mix_of_types_allows_all(
    annotation: Any, parts: tuple[Any, ...]
) -> None:
    assert options.resolve(annotation) == parts
    options.verify("size", None, annotation)


TEXT = """
from __future__ import annotations
from typing import TYPE_CHECKING
from unlabeled.method import Method
if TYPE_CHECKING:
    from unlabeled.encoders import ImageEncoder
    from unlabeled.options import *
    from nowhere import Odd

class Text(Method):
    view_defaults = {"flip": 0.5}

    def __init__(
        self, encoder: ImageEncoder, *, rate: Positive = 1.0, size: Count | None = None,
        odd: Odd = 1, **views: Unpack[ViewOptions]
    ) -> None:
        super().__init__(encoder)
"""


def test_annotations_that_are_text_are_read_too() -> None:
    names: dict[str, Any] = {"__name__": "text"}
    exec(TEXT, names)
    build, encoder = names["Text"], encoders.build("conv4", image_size=8)
    build(encoder, rate=2.0, size=None, odd="anything", flip=0.1)
    for given, message in [
        ({"rate": -1.0}, "rate must be above 0, got -1.0"),
        ({"size": 2.5}, "size must be a whole number, got 2.5"),
        ({"flip": 2.0}, "flip must be between 0 and 1, got 2.0"),
        ({"crop": 0.5}, "Text has no option crop; it takes rate, size, odd, flip"),
    ]:
        with pytest.raises(UserError) as refused:
            build(encoder, **given)
        assert str(refused.value) == message


def test_a_method_with_a_hook_that_had_another_name_before_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Mine\.reads must be called training_view since 0\.2"):

        class Mine(Method):
            def reads(self, data: object) -> object:
                return data
