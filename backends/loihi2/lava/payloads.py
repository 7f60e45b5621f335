"""How large the payload of a source may be, and how many bits its messages take in Lava."""

from __future__ import annotations

import numpy as np

from d2e.backends.loihi2.lava.registers import FRACTION_BITS, V_MAX, is_lif
from d2e.ir.errors import UnsupportedError
from d2e.ir.nodes import Input, MultiThreshold, Neuron, Node


def max_payload(node: Node) -> int:
    """The largest absolute payload that an input or a population sends."""
    if isinstance(node, Input):
        return node.max_payload
    assert isinstance(node, Neuron)
    if is_lif(node):
        return 1
    if isinstance(node, MultiThreshold):
        sent = node.levels if node.payloads is None else node.payloads
        return int(np.abs(sent).max())
    unlimited = V_MAX // (max(1, int(node.threshold.min())) << FRACTION_BITS)
    return min(node.max_spikes or unlimited, max(1, unlimited))


def message_bits(name: str, node: Node) -> int:
    """Width of the payloads of a source: 0 stands for plain spikes.

    Raises:
        UnsupportedError: D2E-LAVA-012 for an input of real values.
    """
    if isinstance(node, Input) and node.coding == "direct":
        raise UnsupportedError(
            "D2E-LAVA-012", "Loihi takes integer spikes, the input is coded 'direct'", node=name,
            hint="Put a spiking layer first, or encode the input.",
        )
    signed = node.coding == "signed" if isinstance(node, Input) else _goes_below(node)
    largest = max_payload(node)
    if largest == 1 and not signed:
        return 0
    needed = largest.bit_length() + int(signed)
    return next((bits for bits in (8, 16, 24) if needed <= bits), 32)


def _goes_below(node: Node) -> bool:
    if not isinstance(node, MultiThreshold):
        return False
    return node.signed or (node.payloads is not None and bool((node.payloads < 0).any()))
