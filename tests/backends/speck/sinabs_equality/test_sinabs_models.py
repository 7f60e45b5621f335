"""A model of sinabs, compiled as it stands, gives the configuration of the d2e model with the same weights."""

from __future__ import annotations

import pytest
from tests.backends.speck.sinabs_equality.chains import Chain
from tests.backends.speck.sinabs_equality.rows import of_d2e
from tests.backends.speck.sinabs_equality.test_sinabs_configuration import CAMERAS, WRITTEN, compiled

import d2e
from d2e.backends.speck.lowering import configure, layers


@pytest.mark.parametrize("chain", [*WRITTEN, *CAMERAS], ids=str)
def test_the_sinabs_model_itself(chain: Chain) -> None:
    target = "speck2f-sim{input=camera}" if chain.camera else "speck2f-sim"
    theirs = d2e.compile(chain.sinabs_model(), target=target, input_shape=chain.input_shape, time_steps=8).network
    ours = compiled(chain).network
    assert theirs.populations == ours.populations
    for mine, other in zip(
        of_d2e(configure(ours), layers(ours)), of_d2e(configure(theirs), layers(theirs)), strict=True
    ):
        assert mine.core == other.core
        assert mine.structure.differences(other.structure) == {}
        assert (mine.weights == other.weights).all()
        assert (mine.biases == other.biases).all()
        assert (mine.threshold_high, mine.threshold_low) == (other.threshold_high, other.threshold_low)
