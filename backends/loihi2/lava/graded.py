"""A population with graded spikes as the arguments of the package's own process ``Graded``."""

from __future__ import annotations

import numpy as np

from d2e.backends.loihi2.forms import is_graded
from d2e.backends.loihi2.lava import weights as w
from d2e.ir.errors import UnsupportedError
from d2e.ir.nodes import LI, Array, FixedPoint, MultiThreshold, Neuron

_PLAIN: dict[str, object] = {"reset": "subtract", "reset_when": "same", "fire": "ge", "max_spikes": 1, "refractory": 0}


def parameters(name: str, node: Neuron) -> dict[str, Array | str | int | bool]:
    """What differs from the defaults of ``Graded`` (skeleton/processes/graded.py), arrays in Lava's order.

    Raises:
        UnsupportedError: D2E-LAVA-010 for a population that is neither a stock LIF nor a graded neuron.
    """
    if not (is_graded(node) or isinstance(node, LI)) or node.arithmetic != FixedPoint():
        raise UnsupportedError(
            "D2E-LAVA-010", "is neither a stock Loihi LIF nor an integer neuron with graded spikes", node=name,
            hint="Run map_neurons first.",
        )
    decay_syn, decay_mem = node.decays
    values: dict[str, Array | None] = {
        "threshold": node.threshold, "decay_syn": decay_syn, "decay_mem": decay_mem,
        "v_reset": node.v_reset if node.reset == "value" else None, "v_min": node.v_min, "bias": node.bias,
        "v_init": node.v_init, "u_init": getattr(node, "u_init", None),
        "reset_by": None if isinstance(node, MultiThreshold) else node.reset_by,
    }
    zero_means_none = ("bias", "v_init", "u_init")
    found: dict[str, Array | str | int | bool] = {}
    for key, value in values.items():
        if value is not None and not (key in zero_means_none and not value.any()):
            found[key] = w.to_lava(value.astype(np.int64), node.shape)
    found |= {key: getattr(node, key) for key, plain in _PLAIN.items() if getattr(node, key) != plain}
    if isinstance(node, LI):
        return {key: found[key] for key in ("decay_syn", "decay_mem", "v_min", "bias", "v_init") if key in found} | {
            "fires": False
        }
    if isinstance(node, MultiThreshold):
        by_level = {"levels": node.levels, "payloads": node.payloads, "reset_by": node.reset_by}
        found |= {"signed": node.signed}
        found |= {key: value.astype(np.int64) for key, value in by_level.items() if value is not None}
    return found
