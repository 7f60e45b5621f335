"""What papers call energy, counted by hand."""

import pytest
from tests.compiler.convert.networks import floating, skeleton_of

from d2e.compiler.convert.energy import estimates, multiplications
from d2e.compiler.energy import ADDITION_J, MULTIPLICATION_J


def test_the_first_layer_multiplies_in_both_networks_the_others_add_in_the_spiking_one():
    skeleton = skeleton_of("mlp", floating("mlp")[0])
    first, rest = 7 * 12, 12 * 9 + 9 * 4
    assert multiplications(skeleton) == (first, first + rest)
    ann, snn = estimates(skeleton, 1000.0)
    assert ann["value_j"] == pytest.approx((first + rest) * MULTIPLICATION_J)
    assert snn["value_j"] == pytest.approx(first * MULTIPLICATION_J + 1000 * ADDITION_J)
    assert {ann["label"], snn["label"]} == {"estimated"}
    assert (ann["of"], snn["of"]) == ("ann", "snn")
