"""The check on a user's machine must itself have data that each method can learn from."""

import pytest

from unlabeled import methods, selftest

pytestmark = pytest.mark.usefixtures("small_networks")


@pytest.mark.parametrize("name", [n for n in methods.names() if methods.describe(n).kind == "image"])
def test_every_method_of_images_trains_on_its_built_in_set(name: str) -> None:
    result, right = selftest._trains(name)
    assert right, result


@pytest.mark.parametrize("name", methods.names())
def test_every_method_has_a_built_in_set_of_its_kind(name: str) -> None:
    from unlabeled.data import BUILT_IN

    assert BUILT_IN[selftest.example(name)] == methods.describe(name).kind
