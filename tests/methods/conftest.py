"""Narrow networks for all tests of methods, whose claims do not depend on the width."""

import pytest


@pytest.fixture(autouse=True)
def _narrow(small_networks: None) -> None:
    """What builds a network in a module-wide fixture or at import gets a wide one."""
