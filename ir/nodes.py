"""The nodes of a network: what each population and synapse computes in one time step.

Every neuron shares one step, in this order, in floating point and in integers (docs/meaning.md)::

    I = sum over incoming edges of W * s + b      s: what the source sends; recurrent edges: of the step before
    u = decay_syn * u + I                         (no synaptic state: u = I)
    v = decay_mem * v                             then a reset with reset_when="next" is applied,
    v = max(v_min, v + gain * u + bias)           then the input is integrated
    n = clip(floor(v / threshold), 0, max_spikes) fire="ge";   fire="gt": ceil(v / threshold) - 1
                                                  (n > 0 exactly where v >= threshold, or v > threshold)
    v -= n * reset_by   or   v = v_reset where n  reset_when="same"
    s = n * amplitude

For ``refractory`` steps after a spike ``v`` is held and nothing fires, while ``u`` goes on (lava ``LIFRefractory``).
With `FixedPoint` arithmetic the same lines are integers: thresholds, weights and ``reset_by`` are in weight
units, ``u``, ``v``, ``bias``, ``v_min``, ``v_reset`` and ``v_init`` in units of 2**-fraction_bits of a weight unit, decays
are numerators over 2**decay_bits and products are truncated toward zero (Loihi: lava ``PyLifModelBitAcc``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from d2e.ir.encoding import Encoder
from d2e.ir.exit import EarlyExit

Array: TypeAlias = npt.NDArray[Any]
Shape: TypeAlias = tuple[int, ...]
Reset = Literal["subtract", "zero", "value", "none"]
ResetWhen = Literal["same", "next"]
Fire = Literal["ge", "gt"]
Coding = Literal["spikes", "signed", "direct"]
Overflow = Literal["wrap", "saturate", "refuse"]
Readout = Literal["count", "last", "mean", "max", "first"]
Padding: TypeAlias = "tuple[int, ...] | Literal['same']"


@dataclass(frozen=True)
class Quantized:
    """An integer array stands for ``integer * scale``.

    Attributes:
        bits: width of the integer grid, sign included where `signed`.
        scale: float per integer step; a scalar or one per output channel.
        signed: whether the grid holds negative values.
        exponent: the integers are multiples of 2**exponent; `bits` counts the bits above.
    """

    bits: int
    scale: Array
    signed: bool = True
    exponent: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", _frozen(self.scale))


@dataclass(frozen=True)
class FixedPoint:
    """Integer arithmetic of one population; the defaults are those of Loihi 2's LIF (lava-nc 0.10.0).

    Attributes:
        fraction_bits: input sums are shifted left by this before they enter ``u``.
        decay_bits: a decay ``k`` multiplies by ``k / 2**decay_bits``, truncated toward zero.
        u_bits, u_overflow: width of ``u``; "wrap" adds or takes 2**u_bits once, "refuse" raises.
        v_bits, v_overflow: width of ``v``; "saturate" clips to +-(2**(v_bits-1) - 1).
    """

    fraction_bits: int = 6
    decay_bits: int = 12
    u_bits: int = 24
    u_overflow: Overflow = "wrap"
    v_bits: int = 24
    v_overflow: Overflow = "saturate"


@dataclass(frozen=True)
class Continuous:
    """Time constants of a neuron whose discrete form is not settled yet; `discretise` removes them.

    Attributes:
        tau_mem, tau_syn: in the unit of ``dt``; absent where the neuron has no such state.
        r, w_in: gains of the differential equations (NIR docs).
        v_leak: resting value.
        rule: "euler" (1 - dt/tau), "exp" (exp(-dt/tau)) or "" while undetermined.
    """

    tau_mem: Array | None = None
    tau_syn: Array | None = None
    r: Array | None = None
    w_in: Array | None = None
    v_leak: Array | None = None
    rule: Literal["euler", "exp", ""] = ""

    def __post_init__(self) -> None:
        _freeze_arrays(self)


def _frozen(value: Any) -> Array:
    array = np.asarray(value)
    if array.flags.writeable:
        array = array.copy()
        array.setflags(write=False)
    return array


def _freeze_arrays(node: Any) -> None:
    """Turn every array-like field into a read-only array (shapes, strings and None stay)."""
    for f in fields(node):
        value = getattr(node, f.name)
        if isinstance(value, (np.ndarray, np.generic)) or (f.metadata.get("array") and value is not None):
            object.__setattr__(node, f.name, _frozen(value))


def _array(default: float | None = None) -> Any:
    return field(default=default, metadata={"array": True})


def real(value: Any) -> Array:
    """A float64 array; a number gives one of shape ()."""
    return np.asarray(value, np.float64)


def integral(value: Any) -> Array:
    """An int64 array; a number gives one of shape ()."""
    return np.asarray(value, np.int64)


def pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    """An int or a pair as a pair."""
    if isinstance(value, int):
        return (value, value)
    first, second = value
    return (int(first), int(second))


@dataclass(frozen=True, eq=False, kw_only=True)
class Node:
    """A node of a network. Arrays are read-only; two nodes compare by `same`."""

    kind: ClassVar[str] = "node"
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _freeze_arrays(self)

    def same(self, other: Node) -> bool:
        """Whether both are of one class with equal options and equal arrays (dtype included)."""
        if type(self) is not type(other):
            return False
        return all(_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))
    if isinstance(a, (Quantized, Continuous, Encoder, EarlyExit)) and type(a) is type(b):
        return all(_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return type(a) is type(b) and bool(a == b)


# --------------------------------------------------------------------------- ends


@dataclass(frozen=True, eq=False, kw_only=True)
class Input(Node):
    """Where frames enter.

    Attributes:
        shape: of one frame, without batch and time.
        dt: length of a time step in seconds; None where it is not known (only a duration, never a decay).
        time_steps: steps per sample; None: taken from the data.
        coding: "spikes" (integer payloads >= 0), "signed" (integer payloads) or "direct" (real values every step).
        max_payload: largest absolute payload a source of this input may send.
        encoder: how the host makes payloads of real values, or frames of images; None: the data are frames already.
    """

    kind: ClassVar[str] = "input"
    shape: Shape
    dt: float | None = None
    time_steps: int | None = None
    coding: Coding = "spikes"
    max_payload: int = 1
    encoder: Encoder | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Output(Node):
    """Where results leave; ``shape`` of one frame.

    Attributes:
        readout: how a class is read from the output over time: the largest "count" (sum), "last" value, "mean" or "max"
            (over time, of each output), or who sends "first" (ties: the larger sum; no spike: never).
        exit: when a sample's answer may be read before the last step; None: after all steps. It changes no value.
    """

    kind: ClassVar[str] = "output"
    shape: Shape
    readout: Readout = "count"
    exit: EarlyExit | None = None


# --------------------------------------------------------------------------- synapses (linear, no state)


@dataclass(frozen=True, eq=False, kw_only=True)
class Synapse(Node):
    """A linear map of one frame."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Linear(Synapse):
    """``W s``; ``weight`` [out, in] acts on the last axis."""

    kind: ClassVar[str] = "linear"
    weight: Array
    quantized: Quantized | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Affine(Linear):
    """``W s + b``; ``bias`` [out]."""

    kind: ClassVar[str] = "affine"
    bias: Array


@dataclass(frozen=True, eq=False, kw_only=True)
class _Conv(Synapse):
    weight: Array
    bias: Array | None = None
    groups: int = 1
    quantized: Quantized | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Conv1d(_Conv):
    """torch's cross-correlation over [channels, length]; ``weight`` [out, in/groups, k], ``bias`` [out]."""

    kind: ClassVar[str] = "conv1d"
    stride: tuple[int, ...] = (1,)
    padding: Padding = (0,)
    dilation: tuple[int, ...] = (1,)


@dataclass(frozen=True, eq=False, kw_only=True)
class Conv2d(_Conv):
    """torch's cross-correlation over [channels, height, width]; ``weight`` [out, in/groups, kh, kw].

    ``padding="same"`` is torch's: total d*(k-1) per axis, the odd one after; stride must be 1.
    """

    kind: ClassVar[str] = "conv2d"
    stride: tuple[int, ...] = (1, 1)
    padding: Padding = (0, 0)
    dilation: tuple[int, ...] = (1, 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Pool(Synapse):
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)


@dataclass(frozen=True, eq=False, kw_only=True)
class SumPool2d(_Pool):
    """Sum over windows of [channels, height, width]; no ceil mode, padding counts as zeros."""

    kind: ClassVar[str] = "sum_pool2d"


@dataclass(frozen=True, eq=False, kw_only=True)
class AvgPool2d(_Pool):
    """`SumPool2d` divided by the window's size, padding included."""

    kind: ClassVar[str] = "avg_pool2d"


@dataclass(frozen=True, eq=False, kw_only=True)
class Flatten(Synapse):
    """Row-major flattening of the axes start_dim..end_dim of a frame (batch and time not counted)."""

    kind: ClassVar[str] = "flatten"
    start_dim: int = 0
    end_dim: int = -1


@dataclass(frozen=True, eq=False, kw_only=True)
class Scale(Synapse):
    """Elementwise product with ``scale``, broadcast against the frame."""

    kind: ClassVar[str] = "scale"
    scale: Array
    quantized: Quantized | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Delay(Synapse):
    """y[t] = x[t - steps]; zeros before."""

    kind: ClassVar[str] = "delay"
    steps: int


# --------------------------------------------------------------------------- neurons


@dataclass(frozen=True, eq=False, kw_only=True)
class Neuron(Node):
    """The step in the module's docstring; parameters broadcast against ``shape``.

    Attributes:
        shape: of the population, without batch and time.
        threshold: theta > 0.
        gain: factor on ``u`` where it enters ``v``; 1 in integers.
        bias: added to ``v`` every step, not multiplied by ``gain``.
        reset: "subtract" | "zero" | "value" (to ``v_reset``) | "none".
        reset_when: "same" step, or "next": after the next step's decay, before its integration.
        reset_by: taken per spike by reset="subtract"; None: the threshold.
        fire: "ge" fires at v >= threshold, "gt" at v > threshold.
        max_spikes: most spikes per step; 0: no limit.
        refractory: steps after a spike in which ``v`` is held and nothing fires; needs reset_when="same".
        v_min: floor of ``v``; None: none.
        v_init: ``v`` before the first step.
        amplitude: payload sent per spike.
        arithmetic: None: floating point.
        quantized: what one weight unit of an integer population stands for.
        continuous: set while decays and gain are not settled.
    """

    shape: Shape
    threshold: Array = _array(1.0)
    gain: Array = _array(1.0)
    bias: Array = _array(0.0)
    reset: Reset = "subtract"
    reset_when: ResetWhen = "same"
    reset_by: Array | None = _array()
    v_reset: Array = _array(0.0)
    fire: Fire = "ge"
    max_spikes: int = 1
    refractory: int = 0
    v_min: Array | None = _array()
    v_init: Array = _array(0.0)
    amplitude: Array = _array(1.0)
    arithmetic: FixedPoint | None = None
    quantized: Quantized | None = None
    continuous: Continuous | None = None

    @property
    def has_synaptic_state(self) -> bool:
        """Whether ``u`` carries over from step to step."""
        return hasattr(self, "decay_syn")

    @property
    def decays(self) -> tuple[Array | None, Array | None]:
        """(decay_syn, decay_mem); None stands for "no state" and "no leak"."""
        return getattr(self, "decay_syn", None), getattr(self, "decay_mem", None)


@dataclass(frozen=True, eq=False, kw_only=True)
class IF(Neuron):
    """Integrate and fire without leak."""

    kind: ClassVar[str] = "if"


@dataclass(frozen=True, eq=False, kw_only=True)
class LIF(Neuron):
    """Leaky: ``decay_mem`` is the factor of ``v`` kept per step."""

    kind: ClassVar[str] = "lif"
    decay_mem: Array = _array(1.0)


@dataclass(frozen=True, eq=False, kw_only=True)
class CubaLIF(LIF):
    """Current-based leaky: ``decay_syn`` is the factor of ``u`` kept per step, ``u_init`` its start (unit of ``v``)."""

    kind: ClassVar[str] = "cuba_lif"
    decay_syn: Array = _array(0.0)
    u_init: Array = _array(0.0)


@dataclass(frozen=True, eq=False, kw_only=True)
class LI(LIF):
    """Leaky readout: never fires; sends ``v`` (in integers: in units of 2**-fraction_bits)."""

    kind: ClassVar[str] = "li"
    decay_syn: Array = _array(0.0)


@dataclass(frozen=True, eq=False, kw_only=True)
class MultiThreshold(LIF):
    """Fires the largest crossed of ``levels`` [n] (rising, > 0; times ``threshold``).

    n is the level's index from 1 (negative for a crossed negative level where ``signed``); the payload sent is the
    level itself, or ``payloads[n-1]``; reset="subtract" takes the level, or ``reset_by[n-1]`` [n] (also times
    ``threshold``). Weights with ``levels`` in integers are in weight units. ``max_spikes`` has no meaning here.
    """

    kind: ClassVar[str] = "multi_threshold"
    levels: Array
    signed: bool = False
    payloads: Array | None = _array()


SYNAPSES: tuple[type[Synapse], ...] = (
    Linear, Affine, Conv1d, Conv2d, SumPool2d, AvgPool2d, Flatten, Scale, Delay,
)
NEURONS: tuple[type[Neuron], ...] = (IF, LIF, CubaLIF, LI, MultiThreshold)
_ALL: tuple[type[Node], ...] = (Input, Output, *SYNAPSES, *NEURONS)
KINDS: dict[str, type[Node]] = {cls.kind: cls for cls in _ALL}
