"""Nodes of `.nir` files of other tools, and the explicit choices that NIR leaves open.

A NIR file fixes neither dt, nor how and when a neuron resets, nor `>` or `>=`, nor spikes per step. A profile
states the convention of the tool that wrote the file, flags state single choices, the rest is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np

from d2e.ir.errors import UnsupportedError, UsageError
from d2e.ir.nirgraph import Tree, malformed
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
    Fire,
    Flatten,
    Input,
    Linear,
    Neuron,
    Node,
    Output,
    Reset,
    ResetWhen,
    Scale,
    Shape,
    SumPool2d,
)

_MAX_SIZE = 1 << 31


@dataclass(frozen=True)
class Profile:
    """What a tool means by its NIR files. ``reset`` "file" is a hard reset to the file's v_reset."""

    reset: str
    fire: Fire
    max_spikes: int
    rule: Literal["euler", "exp"]


PROFILES: dict[str, Profile] = {
    "nir": Profile(reset="file", fire="gt", max_spikes=1, rule="euler"),
}
_RESETS = ("subtract", "zero", "value", "none")
_OPEN = {
    "dt": "the time step (--dt SECONDS)",
    "reset": "how a neuron resets (--reset subtract|zero|value|none, or subtract-next for one step later)",
    "fire": "whether it fires at v >= or v > threshold (--fire ge|gt)",
    "max_spikes": "how often it may fire per step (--max-spikes N, 0 for no limit)",
    "rule": "how a time constant becomes a decay per step (--profile nir: Euler, 1 - dt/tau)",
}


@dataclass(frozen=True)
class Choices:
    """What the user states about a file: a profile and single flags; see ``nirfile.read``."""

    profile: str | None = None
    dt: float | None = None
    reset: str | None = None
    fire: str | None = None
    max_spikes: int | None = None

    def __post_init__(self) -> None:
        if self.profile is not None and self.profile not in PROFILES:
            _refuse_value("--profile", self.profile, PROFILES)
        if self.reset is not None and self.reset.removesuffix("-next") not in _RESETS:
            _refuse_value("--reset", self.reset, [*_RESETS, *(f"{r}-next" for r in _RESETS if r != "none")])
        if self.fire not in (None, "ge", "gt"):
            _refuse_value("--fire", self.fire, ["ge", "gt"])
        if self.max_spikes is not None and self.max_spikes < 0:
            _refuse_value("--max-spikes", self.max_spikes, ["0 (no limit)", "1", "2", "…"])
        if self.dt is not None and not (math.isfinite(self.dt) and self.dt > 0):
            _refuse_value("--dt", self.dt, ["seconds above 0"])

    def get(self, name: str) -> Any:
        """The value of a choice: the flag, else the profile's, else None."""
        flag = getattr(self, name, None)
        return getattr(PROFILES.get(self.profile or ""), name, None) if flag is None else flag

    def require(self, names: Iterable[str]) -> None:
        """Raise one D2E-NIR-002 that lists every one of these choices that is still open."""
        missing = [name for name in _OPEN if name in set(names) and self.get(name) is None]
        if not missing:
            return
        literal = " --profile nir reads it literally: v > threshold, hard reset, one spike."
        raise UsageError(
            "D2E-NIR-002", f"the file does not say {'; nor '.join(_OPEN[name] for name in missing)}",
            hint="State each flag." + ("" if self.profile else literal),
        )

    def refuse_against_file(self) -> None:
        """Raise D2E-NIR-007 where a choice is stated although the file says it all itself."""
        for name in ("profile", "reset", "fire", "max_spikes"):
            if getattr(self, name) is not None:
                raise UsageError(
                    "D2E-NIR-007", f"d2e wrote this file and it states {name} itself",
                    hint=f"Leave --{name.replace('_', '-')} out.",
                )

    def reset_of(self, v_reset: Array) -> tuple[Reset, ResetWhen]:
        """(reset, reset_when) of a neuron with this v_reset."""
        text = str(self.get("reset"))
        if text == "file":
            return ("value" if v_reset.any() else "zero"), "same"
        return cast(Reset, text.removesuffix("-next")), "next" if text.endswith("-next") else "same"


def _refuse_value(option: str, value: Any, known: Iterable[Any]) -> None:
    hint = f"Known: {', '.join(map(str, known))}."
    raise UsageError("D2E-NIR-001", f"{option} {value!r} is not known", hint=hint)


# --------------------------------------------------------------------------- the nodes


def foreign_nodes(trees: Mapping[str, Tree], choices: Choices) -> dict[str, Node]:
    """Nodes without d2e metadata, read under the user's choices.

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
    needed = {"dt"} if types & {"IF", "LI", "LIF", "CubaLI", "CubaLIF", "Delay"} else set()
    needed |= {"reset", "fire", "max_spikes"} if types & {"IF", "LIF", "CubaLIF"} else set()
    choices.require(needed | ({"rule"} if types & {"LI", "LIF", "CubaLI", "CubaLIF"} else set()))
    found: dict[str, Node] = {}
    for name, tree in trees.items():
        try:
            found[name] = _MAKERS[tree["type"]](name, tree, choices)
        except KeyError as error:
            raise malformed(f"{tree['type']} has no field {error}", name) from None
        except (TypeError, ValueError, IndexError) as error:
            raise malformed(f"{tree['type']} cannot be read: {error}", name) from None
    return found


def _array(name: str, tree: Tree, key: str) -> Array:
    array = np.asarray(tree[key])
    if array.dtype.kind not in "iubf":
        raise malformed(f"{key} holds {array.dtype}, not numbers", name)
    return array


def _whole(name: str, tree: Tree, key: str, length: int) -> tuple[int, ...]:
    """A field of whole numbers as a tuple; one number stands for all axes."""
    array = _array(name, tree, key).reshape(-1)
    if (array != np.rint(array)).any() or array.size not in (1, length):
        raise malformed(f"{key} {array.tolist()} is not {length} whole numbers", name)
    return tuple(int(v) for v in np.broadcast_to(array, (length,)))


def _shape(name: str, tree: Tree) -> Shape:
    array = _array(name, tree, "shape").reshape(-1)
    shape = tuple(int(v) for v in array)
    if min(shape, default=1) < 1:
        raise malformed(f"shape {shape} must hold sizes above 0", name)
    if math.prod(shape) > _MAX_SIZE:
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
    if isinstance(padding, str) and padding not in ("same", "valid"):
        raise malformed(f"padding {padding!r} is neither 'same', 'valid' nor numbers", name)
    if padding == "valid":
        padding = (0,) * dims
    return cls(
        weight=_array(name, tree, "weight"), bias=_array(name, tree, "bias"),
        groups=_whole(name, tree, "groups", 1)[0], stride=_whole(name, tree, "stride", dims),
        dilation=_whole(name, tree, "dilation", dims),
        padding="same" if padding == "same" else _whole(name, {"padding": padding}, "padding", dims),
    )


def _pool(name: str, tree: Tree, choices: Choices) -> Node:
    sizes = (_whole(name, tree, key, 2) for key in ("kernel_size", "stride", "padding"))
    kernel, stride, padding = (cast(tuple[int, int], size) for size in sizes)
    cls = SumPool2d if tree["type"] == "SumPool2d" else AvgPool2d
    return cls(kernel_size=kernel, stride=stride, padding=padding)


def _delay(name: str, tree: Tree, choices: Choices) -> Node:
    delay = _array(name, tree, "delay").reshape(-1) / choices.dt
    steps = np.rint(delay)
    whole = np.abs(delay - steps) <= 1e-6 * np.maximum(steps, 1)
    if (steps != steps[0]).any() or not whole.all():
        raise UnsupportedError(
            "D2E-NIR-004", f"delays of {delay.min():.6g} to {delay.max():.6g} steps are not one whole number",
            node=name, hint="Use one Delay per length, in multiples of dt.",
        )
    return Delay(steps=int(steps[0]))


def _neuron(name: str, tree: Tree, choices: Choices) -> Node:
    kind: str = tree["type"]
    leak = "tau_mem" if kind.startswith("Cuba") else "tau"
    time = Continuous(
        tau_mem=None if kind == "IF" else _array(name, tree, leak),
        tau_syn=_array(name, tree, "tau_syn") if kind.startswith("Cuba") else None,
        w_in=_array(name, tree, "w_in") if "w_in" in tree else None,
        r=_array(name, tree, "r"), v_leak=None if kind == "IF" else _array(name, tree, "v_leak"),
        rule=choices.get("rule") or "",
    )
    assert time.r is not None
    shape = time.r.shape
    if kind in ("LI", "CubaLI"):
        return LI(shape=shape, continuous=time)
    zero = np.zeros(())
    v_reset = _array(name, tree, "v_reset") if "v_reset" in tree else zero
    reset, when = choices.reset_of(v_reset)
    return _SPIKING[kind](
        shape=shape, threshold=_array(name, tree, "v_threshold"), reset=reset, reset_when=when,
        v_reset=v_reset if reset == "value" else zero, fire=choices.get("fire"),
        max_spikes=choices.get("max_spikes"), continuous=time,
    )


def _flatten(name: str, tree: Tree, choices: Choices) -> Node:
    return Flatten(start_dim=int(tree["start_dim"]), end_dim=int(tree["end_dim"]))


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
    **dict.fromkeys(("IF", "LI", "LIF", "CubaLI", "CubaLIF"), _neuron),
}
