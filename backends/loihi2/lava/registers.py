"""A population as the registers of Loihi's LIF (lava-nc 0.10.0 ``proc/lif``), and how it waits for frame 0.

Lava checks none of these widths, so they are checked here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from d2e.backends.loihi2.forms import is_stock
from d2e.ir.errors import UnsupportedError
from d2e.ir.nodes import LI, Array, FixedPoint, Neuron

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
        u, v: initial state, 0-d or per neuron.
        host_start: bias, u and v are written by the host when frame 0 arrives; until then all are 0.
    """

    du: int
    dv: int
    vth: int
    bias_mant: Array
    bias_exp: int
    u: Array
    v: Array
    host_start: bool


def registers(name: str, node: Neuron, depth: int) -> Registers:
    """The registers of a population that is at its initial state when frame 0 arrives, ``depth`` steps in.

    Raises:
        UnsupportedError: D2E-LAVA-010 for anything but Loihi's LIF, -011 for a value no register holds.
    """
    _check_stock(name, node)
    keep_syn = _scalar(name, "decay_syn", node.decays[0])
    keep_mem = _scalar(name, "decay_mem", node.decays[1])
    vth = VTH_MAX if isinstance(node, LI) else _scalar(name, "threshold", node.threshold)
    if not 0 <= vth <= VTH_MAX:
        message = f"threshold {vth} is outside 0..{VTH_MAX}"
        raise _unfit(name, message, "Lower --weight-bits or rescale the layer.")
    mantissa, exponent = _bias(name, node.bias)
    u = np.asarray(getattr(node, "u_init", 0)).astype(np.int64)
    v = node.v_init.astype(np.int64)
    for what, value in (("u_init", u), ("v_init", v)):
        if np.abs(value).max(initial=0) > V_MAX:
            raise _unfit(name, f"{what} reaches {np.abs(value).max()}, the limit is {V_MAX}", None)
    start = start_state(u, v, node.bias.astype(np.int64), (keep_syn, keep_mem), vth << FRACTION_BITS, depth)
    if start is not None:
        u, v = start
    return Registers(
        DECAY_ONE - 1 - keep_syn, DECAY_ONE - keep_mem, vth, mantissa, exponent, u, v, start is None
    )


def start_state(
    u_init: Array, v_init: Array, bias: Array, keep: tuple[int, int], limit: int, steps: int
) -> tuple[Array, Array] | None:
    """The (u, v) from which ``steps`` input-free steps lead to the initial state without a spike.

    One step is u <- kept(u, keep[0]); v <- kept(v, keep[1]) + u + bias; a state that is not kept at all need
    not be reached. None: there is no such start.
    """
    keep_syn, keep_mem = keep
    u = u_init if keep_syn else np.zeros((), np.int64)
    v = v_init if keep_mem else np.zeros((), np.int64)
    for _ in range(steps):
        if ((v if keep_mem else u + bias) > limit).any():
            return None
        before_v = _before(v - u - bias, keep_mem) if keep_mem else v
        before_u = _before(u, keep_syn) if keep_syn else u
        if before_u is None or before_v is None:
            return None
        u, v = before_u, before_v
    return _plain(u), _plain(v)


def _before(state: Array, keep: int) -> Array | None:
    """The smallest state that becomes ``state`` by sign(x) * (|x| * keep >> 12); None beyond 24 bits."""
    size = -((-np.abs(state) * DECAY_ONE) // keep)
    return None if (size > V_MAX).any() else np.sign(state) * size


def _plain(state: Array) -> Array:
    """A state of zeros as one number."""
    return state if state.any() else np.zeros((), np.int64)


def is_lif(node: Neuron) -> bool:
    """Whether a population is Lava's LIF; a readout with a floor is not."""
    return is_stock(node) and node.arithmetic == FixedPoint() and node.v_min is None


def _check_stock(name: str, node: Neuron) -> None:
    plain = bool((node.gain == 1).all() and (node.amplitude == 1).all())
    if not (plain and is_lif(node)):
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
