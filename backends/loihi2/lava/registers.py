"""A population as the registers of Loihi's LIF (lava-nc 0.10.0 ``proc/lif``), and how it waits for frame 0.

Lava checks none of these widths, so they are checked here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from d2e.ir.errors import UnsupportedError
from d2e.ir.nodes import LI, Array, CubaLIF, FixedPoint, Neuron

DECAY_ONE = 4096
VTH_MAX = 2**17 - 1
MANTISSA = (-4096, 4095)
EXPONENT_MAX = 7
V_MAX = 2**23 - 1
FRACTION_BITS = 6


@dataclass(frozen=True)
class Registers:
    """What Lava's LIF is built with.

    Attributes:
        du, dv, vth: decays (du = -1 keeps u, dv = 0 keeps v) and threshold in weight units.
        bias_mant, bias_exp: bias = mantissa << exponent, 0-d or one mantissa per neuron.
        v: initial v, 0-d or per neuron.
        host_start: v and bias are written by the host when frame 0 arrives; until then both are 0.
    """

    du: int
    dv: int
    vth: int
    bias_mant: Array
    bias_exp: int
    v: Array
    host_start: bool


def registers(name: str, node: Neuron, depth: int) -> Registers:
    """The registers of a population that is at its initial state when frame 0 arrives after ``depth`` steps.

    Raises:
        UnsupportedError: D2E-LAVA-010 for anything but Loihi's LIF, -011 for a value no register holds.
    """
    _check_stock(name, node)
    decay_syn = _scalar(name, "decay_syn", node.decays[0])
    decay_mem = _scalar(name, "decay_mem", node.decays[1])
    vth = VTH_MAX if isinstance(node, LI) else _scalar(name, "threshold", node.threshold)
    if not 0 <= vth <= VTH_MAX:
        hint = "Lower --weight-bits or rescale the layer."
        raise _unfit(name, f"threshold {vth} is outside 0..{VTH_MAX}", hint)
    mantissa, exponent = _bias(name, node.bias)
    target = node.v_init.astype(np.int64)
    if np.abs(target).max(initial=0) > V_MAX:
        raise _unfit(name, f"v_init reaches {np.abs(target).max()}, the limit is {V_MAX}", None)
    v = start_state(target, node.bias.astype(np.int64), decay_mem, vth << FRACTION_BITS, depth)
    return Registers(
        DECAY_ONE - 1 - decay_syn, DECAY_ONE - decay_mem, vth, mantissa, exponent,
        target if v is None else v, v is None,
    )


def start_state(v_init: Array, bias: Array, keep: int, limit: int, steps: int) -> Array | None:
    """The v from which ``steps`` input-free steps lead to ``v_init`` without a spike; None: there is none.

    One step is v <- sign(v) * (|v| * keep >> 12) + bias; its inverse is the smallest such |v|.
    """
    v = np.broadcast_arrays(v_init, bias)[0].astype(np.int64)
    for _ in range(steps):
        if (v > limit).any():
            return None
        decayed = v - bias
        if keep == 0:
            if (decayed != 0).any():
                return None
            v = np.zeros_like(v)
            continue
        size = -((-np.abs(decayed) * DECAY_ONE) // keep)
        if (size > V_MAX).any():
            return None
        v = np.sign(decayed) * size
    return v if v.any() else np.zeros((), np.int64)


def _check_stock(name: str, node: Neuron) -> None:
    stock = (
        isinstance(node, (CubaLIF, LI))
        and node.arithmetic == FixedPoint()
        and (node.reset, node.reset_when, node.fire, node.max_spikes) == ("zero", "same", "gt", 1)
        and node.v_min is None
        and bool((node.gain == 1).all() and (node.amplitude == 1).all())
    )
    if not stock:
        raise UnsupportedError(
            "D2E-LAVA-010", "is no stock Loihi LIF (hard reset to zero, v > threshold, one spike per step)",
            node=name, hint="Run map_neurons first.",
        )


def _scalar(name: str, what: str, value: Array | None) -> int:
    if value is None or value.ndim != 0:
        raise UnsupportedError(
            "D2E-LAVA-011", f"{what} must be one number for the whole population", node=name,
            hint="Split the population, or fold the differences into its weights.",
        )
    return int(value)


def _bias(name: str, bias: Array) -> tuple[Array, int]:
    """Mantissas and the smallest exponent all of them share."""
    values = bias.astype(np.int64)
    for exponent in range(EXPONENT_MAX + 1):
        mantissa = values >> exponent
        if ((mantissa << exponent) != values).any():
            break
        if mantissa.min(initial=0) >= MANTISSA[0] and mantissa.max(initial=0) <= MANTISSA[1]:
            return mantissa, exponent
    raise _unfit(
        name, f"bias {values.min()}..{values.max()} (in 1/64 weight units) is no mantissa of "
        f"{MANTISSA[0]}..{MANTISSA[1]} with one exponent 0..{EXPONENT_MAX}",
        "Round the bias to the grid, or rescale the layer.",
    )


def _unfit(name: str, message: str, hint: str | None) -> UnsupportedError:
    return UnsupportedError("D2E-LAVA-011", message, node=name, hint=hint)
