"""`.nir` files: what we write comes back exactly and opens in nir; what others write needs explicit choices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from d2e.ir import Network, nirfile, reference, to_text
from tests.ir.networks import random_integer_network, random_network
from tests.ir.strategies import integer_networks, networks


def written(network: Network, folder) -> Network:
    nirfile.write(network, folder / "n.nir")
    return nirfile.read(folder / "n.nir")


@settings(max_examples=60)
@given(network=networks())
def test_float_networks_come_back(network, tmp_path_factory):
    back = written(network, tmp_path_factory.mktemp("nir"))
    assert back.same(network)
    assert to_text(back) == to_text(network)


@settings(max_examples=40)
@given(network=integer_networks())
def test_integer_networks_come_back(network, tmp_path_factory):
    assert written(network, tmp_path_factory.mktemp("nir")).same(network)
