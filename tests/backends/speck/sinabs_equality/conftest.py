"""sinabs' builder of Speck configurations, imported with a stand-in for samna."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from tests.backends.speck.sinabs_equality.chains import Chain
from tests.backends.speck.sinabs_equality.samna_stand_in import standing_in


@pytest.fixture(scope="session")
def dynapcnn() -> Any:
    """The module ``sinabs.backend.dynapcnn``. sinabs missing is a failure: `make` installs it."""
    with standing_in():
        return importlib.import_module("sinabs.backend.dynapcnn")


@pytest.fixture(scope="session")
def build(dynapcnn: Any) -> Callable[[Chain], Any]:
    """``build(chain)``: sinabs' network of it, discretised; built once, to be read only."""
    return cache(lambda chain: dynapcnn.DynapcnnNetwork(
        chain.sinabs_model(), input_shape=chain.input_shape, dvs_input=chain.camera, discretize=True))
