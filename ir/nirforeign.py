"""Nodes of `.nir` files of other tools as nodes of ours, under the choices of `nirprofile`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from d2e.ir.errors import UnsupportedError, UsageError
from d2e.ir.nirgraph import MAX_SIZE, Tree, malformed
from d2e.ir.nirprofile import Choices
from d2e.ir.nodes import (
    IF,
    LI,
    LIF,
    Affine,
    Array,
    AvgPool2d,
    Continuous,
    Conv1d,
    Conv2d,
    CubaLIF,
    Delay,
    Flatten,
    Input,
    Linear,
    Neuron,
    Node,
    Output,
    Scale,
    Shape,
    SumPool2d,
)

_MOST_STEPS = 1 << 20
TIMED = ("IF", "LI", "LIF", "CubaLI", "CubaLIF")
SPIKING = ("IF", "LIF", "CubaLIF")


def foreign_nodes(trees: Mapping[str, Tree], choices: Choices, fitting: Sequence[str] = ()) -> dict[str, Node]:
    """Nodes without d2e metadata, read under the user's choices.

    Args:
        trees: nodes of a file, by name.
        choices: what the user states.
        fitting: profiles that the file's traits fit, for the message.

    Raises:
        UsageError: D2E-NIR-002 where choices that these nodes need stay open, -003 for a missing field.
        UnsupportedError: D2E-NIR-004 for a node d2e has none for.
    """
    for name, tree in trees.items():
        if tree["type"] not in _MAKERS:
            raise UnsupportedError(
                "D2E-NIR-004", f"NIR node {tree['type']!r} is not supported", node=name,
                hint=f"Supported: {', '.join(_MAKERS)}.",
            )
    types = {tree["type"] for tree in trees.values()}
    needed = {"unit"} if types & {*TIMED, "Delay"} else set()
    needed |= {"reset", "fire", "max_spikes"} if types & set(SPIKING) else set()
    choices.require(needed | ({"rule"} if types & set(TIMED) - {"IF"} else set()), fitting)
    found: dict[str, Node] = {}
    for name, tree in trees.items():
        try:
            found[name] = _MAKERS[tree["type"]](name, tree, choices)
        except KeyError as error:
            raise malformed(f"{tree['type']} has no field {error}", name) from None
        except (TypeError, ValueError, IndexError, OverflowError) as error:
            raise malformed(f"{tree['type']} cannot be read: {error}", name) from None
    return found


def _array(name: str, tree: Tree, key: str) -> Array:
    array = np.asarray(tree[key])
    if array.dtype.kind not in "iubf":
        raise malformed(f"{key} holds {array.dtype}, not numbers", name)
    return array


def _whole(name: str, tree: Tree, key: str, length: int, least: int | None = None) -> tuple[int, ...]:
    """A field of whole numbers, each at least ``least``, as a tuple; one number stands for all axes."""
    array = _array(name, tree, key).reshape(-1)
    if (array != np.rint(array)).any() or array.size not in (1, length):
        raise malformed(f"{key} {array.tolist()} is not {length} whole numbers", name)
    if least is not None and (array < least).any():
        raise malformed(f"{key} {array.tolist()} must be {least} or more", name)
    return tuple(int(v) for v in np.broadcast_to(array, (length,)))


def _shape(name: str, tree: Tree) -> Shape:
    array = _array(name, tree, "shape").reshape(-1)
    shape = _whole(name, tree, "shape", array.size, 1)
    if math.prod(shape) > MAX_SIZE:
        raise UsageError("D2E-NIR-006", f"shape {shape} is beyond all bounds", node=name, hint="Is it wrong?")
    return shape


def _matrix(name: str, tree: Tree) -> Array:
    """The weight [out, in]; NIR repeats it over leading axes, which must then be all alike."""
    weight = _array(name, tree, "weight")
    matrices = weight.reshape(-1, *weight.shape[-2:]) if weight.ndim > 2 else weight[None]
    if weight.ndim < 2 or any((matrix != matrices[0]).any() for matrix in matrices[1:]):
        raise UnsupportedError(
            "D2E-NIR-004", f"weight of shape {weight.shape} is not one matrix [out, in]", node=name,
            hint="Use one Linear per position.",
        )
    matrix: Array = matrices[0]
    return matrix


def _affine(name: str, tree: Tree, choices: Choices) -> Node:
    weight, bias = _matrix(name, tree), _array(name, tree, "bias")
    rows = bias.reshape(-1, weight.shape[0])
    if (rows != rows[:1]).any():
        raise UnsupportedError("D2E-NIR-004", f"bias of shape {bias.shape} is not one per output", node=name)
    return Affine(weight=weight, bias=rows[0])


def _conv(name: str, tree: Tree, choices: Choices) -> Node:
    cls, dims = (Conv1d, 1) if tree["type"] == "Conv1d" else (Conv2d, 2)
    padding = tree["padding"]
    said = isinstance(padding, str)
    if said and padding not in ("same", "valid"):
        raise malformed(f"padding {padding!r} is neither 'same', 'valid' nor numbers", name)
    if said and padding == "valid":
        padding = (0,) * dims
    weight = _array(name, tree, "weight")
    if weight.ndim != dims + 2 or not weight.size:
        raise malformed(f"weight has shape {weight.shape}; [out, in/groups and {dims} kernel axes] is needed", name)
    return cls(
        weight=weight, bias=_array(name, tree, "bias"),
        groups=_whole(name, tree, "groups", 1, 1)[0], stride=_whole(name, tree, "stride", dims, 1),
        dilation=_whole(name, tree, "dilation", dims, 1),
        padding="same" if said and padding == "same" else _whole(name, {"padding": padding}, "padding", dims, 0),
    )


def _pool(name: str, tree: Tree, choices: Choices) -> Node:
    least = {"kernel_size": 1, "stride": 1, "padding": 0}
    kernel, stride, padding = (cast(tuple[int, int], _whole(name, tree, key, 2, n)) for key, n in least.items())
    cls = SumPool2d if tree["type"] == "SumPool2d" else AvgPool2d
    return cls(kernel_size=kernel, stride=stride, padding=padding)


def _delay(name: str, tree: Tree, choices: Choices) -> Node:
    delay = _array(name, tree, "delay").reshape(-1) / choices.get("unit")
    if not np.isfinite(delay).all():
        raise malformed("delay holds values that are NaN or infinite", name)
    steps = np.rint(delay)
    whole = np.abs(delay - steps) <= 1e-6 * np.maximum(steps, 1)
    if (steps != steps[0]).any() or not whole.all():
        raise UnsupportedError(
            "D2E-NIR-004", f"delays of {delay.min():.6g} to {delay.max():.6g} steps are not one whole number",
            node=name, hint="Use one Delay per length, in multiples of dt.",
        )
    if steps[0] > _MOST_STEPS:
        message = f"a delay of {steps[0]:.0f} steps is beyond all bounds"
        raise UsageError("D2E-NIR-006", message, node=name, hint="Is it wrong?")
    return Delay(steps=int(steps[0]))


def _neuron(name: str, tree: Tree, choices: Choices) -> Node:
    kind: str = tree["type"]
    leaks, synapse = kind != "IF", kind.startswith("Cuba")
    fields = {"r": _array(name, tree, "r")}
    if leaks:
        fields |= {"tau": _array(name, tree, "tau_mem" if synapse else "tau"), "v_leak": _array(name, tree, "v_leak")}
    if synapse:
        fields["tau_syn"] = _array(name, tree, "tau_syn")
        fields["w_in"] = _array(name, tree, "w_in") if "w_in" in tree else np.ones(())
    if kind in SPIKING:
        fields["v_threshold"] = _array(name, tree, "v_threshold")
        fields["v_reset"] = _array(name, tree, "v_reset") if "v_reset" in tree else np.zeros(())
    shape = fields["r"].shape
    settled = _settled(name, kind, fields, choices)
    if kind in ("LI", "CubaLI"):
        return LI(shape=shape, **settled)
    reset, when = choices.reset_of(fields["v_reset"])
    stated = {} if choices.reset else {k: v for k, v in settled.items() if k == "reset_when"}
    rest = {k: v for k, v in settled.items() if k != "reset_when"}
    return _SPIKING[kind](**{
        "shape": shape, "threshold": fields["v_threshold"], "reset": reset, "reset_when": when,
        "v_reset": fields["v_reset"] if reset == "value" else np.zeros(()), "fire": choices.get("fire"),
        "max_spikes": choices.get("max_spikes"), **rest, **stated,
    })


def _settled(name: str, kind: str, fields: dict[str, Array], choices: Choices) -> dict[str, Any]:
    """Decays, gain and what else a profile settles; without one, the time constants as they are."""
    tool = choices.tool
    if tool is None or tool.settle is None:
        time = Continuous(
            tau_mem=fields.get("tau"), tau_syn=fields.get("tau_syn"), w_in=fields.get("w_in"), r=fields["r"],
            v_leak=fields.get("v_leak"), rule=choices.get("rule") or "",
        )
        return {"continuous": time}
    numbers = {key: value.astype(np.float64) for key, value in fields.items()}
    unit = choices.get("unit")
    least = min((float(numbers[k].min(initial=np.inf)) for k in ("tau", "tau_syn") if k in numbers), default=np.inf)
    if not least > 0:
        raise malformed(f"its smallest time constant is {least:g}; it must be above 0", name)
    with np.errstate(invalid="ignore", over="ignore"):
        found = tool.settle(kind, numbers, unit, choices.options)
    for key in ("decay_mem", "decay_syn"):
        if key in found and not (found[key] >= 0).all():
            raise UsageError(
                "D2E-DYN-003", f"the time step {unit:g} exceeds the time constant {least:g}", node=name,
                hint="Give a smaller --dt, in the unit of the time constants, or another --profile.",
            )
    return found


def _flatten(name: str, tree: Tree, choices: Choices) -> Node:
    (start,), (end,) = (_whole(name, tree, key, 1) for key in ("start_dim", "end_dim"))
    return Flatten(start_dim=start, end_dim=end)


_SPIKING: dict[str, type[Neuron]] = {"IF": IF, "LIF": LIF, "CubaLIF": CubaLIF}
_MAKERS: dict[str, Callable[[str, Tree, Choices], Node]] = {
    "Input": lambda name, tree, choices: Input(shape=_shape(name, tree)),
    "Output": lambda name, tree, choices: Output(shape=_shape(name, tree)),
    "Linear": lambda name, tree, choices: Linear(weight=_matrix(name, tree)),
    "Affine": _affine,
    "Conv1d": _conv,
    "Conv2d": _conv,
    "SumPool2d": _pool,
    "AvgPool2d": _pool,
    "Flatten": _flatten,
    "Scale": lambda name, tree, choices: Scale(scale=_array(name, tree, "scale")),
    "Delay": _delay,
    **dict.fromkeys(TIMED, _neuron),
}
