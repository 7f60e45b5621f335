"""What Lava's own integers hold: sums of 24 bits in its Conv, 32 bits where its LIF computes u."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from d2e.backends.loihi2.lava.payloads import max_payload
from d2e.backends.loihi2.lava.registers import DECAY_ONE, FRACTION_BITS
from d2e.backends.loihi2.lava.schedule import Path, Schedule
from d2e.compiler.blocks import row_sums
from d2e.ir.errors import UnsupportedError
from d2e.ir.linear import apply
from d2e.ir.network import Network
from d2e.ir.nodes import Array, Conv1d, Conv2d, Linear, Scale, Synapse

_SUM_MAX = 2**23
_U_RANGE = 2**24
_U_MAX = 2**30


def check_bounds(network: Network, plan: Schedule, time_steps: int) -> None:
    """Refuse what Lava would silently compute otherwise than the reference.

    u wraps once at 24 bits; only where one step's input exceeds that range can u leave it and pile up.

    Raises:
        UnsupportedError: D2E-LAVA-014 with the population.
    """
    for name in network.populations:
        arriving = [_most(network, path) for path in plan.paths if path.target == name]
        most = int(np.sum(arriving, axis=0).max()) if arriving else 0
        keep = network.neuron(name).decays[0]
        kept = 0 if keep is None else int(keep.max())
        memory = min(time_steps, -(-DECAY_ONE // max(1, DECAY_ONE - kept)))
        piled = most * memory << FRACTION_BITS
        if most >= _SUM_MAX or (most << FRACTION_BITS > _U_RANGE and piled >= _U_MAX):
            raise UnsupportedError(
                "D2E-LAVA-014", f"a neuron's input may reach {most} weight units, more than Lava adds up",
                node=name, hint="Lower --weight-bits, the payloads or the fan-in.",
            )


def _most(network: Network, path: Path) -> Array:
    """The largest absolute sum a path can deliver to each neuron of its target, flat."""
    source = network.nodes[path.source]
    payload = max_payload(source) * abs(path.factor)
    frame = np.full((1, *path.shape), payload, np.int64)
    node = network.nodes[path.synapse] if path.synapse else None
    if isinstance(node, Linear) and len(path.shape) == 1:
        positive, negative = row_sums(node.weight)
        return payload * (positive - negative).astype(np.int64)
    if isinstance(node, (Linear, Conv1d, Conv2d)):
        node = replace(node, weight=np.abs(node.weight.astype(np.int64)))
    elif isinstance(node, Scale):
        node = replace(node, scale=np.abs(node.scale.astype(np.int64)))
    return (apply(node, frame, path.shape) if isinstance(node, Synapse) else frame).reshape(-1)
