"""Neuron modules over [batch, time, *shape]: the options of ir/nodes.py, trainable by surrogate gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeAlias, TypedDict, Unpack

import torch
from torch import Tensor, nn

from d2e.compiler.nn.dynamics import Rules, Values, scan
from d2e.compiler.nn.export_op import exported
from d2e.compiler.nn.surrogate import SURROGATES, Within
from d2e.ir.errors import UsageError

Number: TypeAlias = float | Sequence[float] | Tensor
"""A parameter: a scalar, or a tensor that broadcasts against a frame ([channels, 1, 1]: one per channel)."""

NAMES = (
    "threshold", "decay_mem", "decay_syn", "levels", "payloads", "gain", "bias", "reset_by", "v_reset",
    "v_min", "v_init", "amplitude",
)
NEUTRAL = {"gain": 1.0, "bias": 0.0, "v_reset": 0.0, "v_init": 0.0, "amplitude": 1.0}
_RULES = ("reset_when", "refractory", "fire", "surrogate", "slope")
_CHOICES = {
    "reset": ("subtract", "zero", "value", "none"), "reset_when": ("same", "next"), "fire": ("ge", "gt"),
    "surrogate": SURROGATES,
}
_LOWEST_THRESHOLD = 1e-3


class Options(TypedDict, total=False):
    """Options that every firing neuron takes.

    Attributes:
        reset_when: in the "same" step, or in the "next" one before its input is integrated.
        refractory: steps after a spike in which the membrane is held and nothing fires; 0.
        fire: "ge" fires at v >= threshold, "gt" above it.
        gain: factor on the input where it enters the membrane; 1.
        bias: added to the membrane every step; 0.
        reset_by: taken per spike by reset="subtract"; None: the threshold.
        v_reset: the membrane after reset="value"; 0.
        v_min: floor of the membrane; None: none.
        v_init: the membrane before the first step; 0.
        amplitude: payload sent per spike; 1.
        surrogate: "arctan", "triangle" or "rectangular"; ``slope`` is its steepness, 2.
        learn_threshold: train the threshold.
    """

    reset_when: str
    refractory: int
    fire: str
    gain: Number
    bias: Number
    reset_by: Number | None
    v_reset: Number
    v_min: Number | None
    v_init: Number
    amplitude: Number
    surrogate: str
    slope: float
    learn_threshold: bool


class Neuron(nn.Module):
    """What all neurons share: parameters that broadcast against a frame, and rules.

    Parameters are buffers; a learned one is an ``nn.Parameter``, kept where it has a meaning (decays in 0..1,
    threshold at least 0.001). One with its neutral value is stored as None.

    Raises:
        UsageError: D2E-NN-001 for an option that has no meaning.
    """

    kind: ClassVar[str]

    def __init__(
        self, values: Mapping[str, Number | None], rules: Mapping[str, Any], learned: Sequence[str] = (),
        options: Options | None = None,
    ) -> None:
        super().__init__()
        given: dict[str, Any] = dict(options or {})
        learned = (*learned, *(["threshold"] if given.pop("learn_threshold", False) else []))
        if unknown := given.keys() - Options.__annotations__.keys():
            raise TypeError(f"{type(self).__name__} has no option {', '.join(sorted(unknown))}")
        numbers = {**values, **{name: value for name, value in given.items() if name not in _RULES}}
        self.rules = {"kind": self.kind, **rules, **{k: v for k, v in given.items() if k in _RULES}}
        _check(self.rules, numbers)
        for name in NAMES:
            tensor = _tensor(numbers.get(name), NEUTRAL.get(name))
            if name in learned and tensor is not None:
                setattr(self, name, nn.Parameter(tensor))
            else:
                self.register_buffer(name, tensor)

    def values(self) -> dict[str, Tensor]:
        """The parameters that are not neutral, as the step uses them."""
        found = {name: getattr(self, name) for name in NAMES}
        return {name: _limited(name, value) for name, value in found.items() if value is not None}

    def forward(self, current: Tensor) -> Tensor:
        """Payloads [batch, time, *shape] for input currents of the same shape, from rest."""
        return run(current, self.values(), self.rules)

    def extra_repr(self) -> str:
        """The options, for printing."""
        numbers = {n: v for n in NAMES if (v := getattr(self, n)) is not None}
        shown = [
            f"{n}={v.item():g}" if v.numel() == 1 else f"{n}={list(v.shape)}" for n, v in numbers.items()
        ]
        return ", ".join([*shown, *(f"{k}={v!r}" for k, v in self.rules.items() if k != "kind")])


def run(current: Tensor, values: Values, rules: Mapping[str, Any], layer: nn.Module | None = None) -> Tensor:
    """A population over time, its payloads fed back through ``layer`` if there is one."""
    if torch.compiler.is_exporting():
        return exported(current, values, rules, layer)
    return scan(current, values, Rules(**rules), layer)


class IF(Neuron):
    """Integrate and fire without leak.

    Args:
        threshold: theta > 0.
        reset: "subtract" | "zero" | "value" (to ``v_reset``) | "none".
        max_spikes: most spikes per step; 0: no limit.
        options: see `Options`.
    """

    kind = "if"

    def __init__(
        self, threshold: Number = 1.0, reset: str = "subtract", max_spikes: int = 1,
        **options: Unpack[Options],
    ) -> None:
        rules = {"reset": reset, "max_spikes": max_spikes}
        super().__init__({"threshold": threshold}, rules, options=options)


class LIF(Neuron):
    """Leaky integrate and fire.

    Args:
        decay: factor of the membrane kept per step, 0..1.
        threshold: theta > 0.
        reset: as in `IF`.
        max_spikes: as in `IF`.
        learn_decay: train the decay.
        options: see `Options`.
    """

    kind = "lif"

    def __init__(
        self, decay: Number, threshold: Number = 1.0, reset: str = "subtract", max_spikes: int = 1, *,
        learn_decay: bool = False, **options: Unpack[Options],
    ) -> None:
        super().__init__(
            {"threshold": threshold, "decay_mem": decay}, {"reset": reset, "max_spikes": max_spikes},
            ["decay_mem"] if learn_decay else [], options,
        )


class CubaLIF(Neuron):
    """Current-based leaky integrate and fire.

    Args:
        decay_syn: factor of the synaptic current kept per step, 0..1.
        decay_mem: factor of the membrane kept per step, 0..1.
        threshold: theta > 0.
        reset: as in `IF`.
        max_spikes: as in `IF`.
        learn_decay: train both decays.
        options: see `Options`.
    """

    kind = "cuba_lif"

    def __init__(
        self, decay_syn: Number, decay_mem: Number, threshold: Number = 1.0, reset: str = "subtract",
        max_spikes: int = 1, *, learn_decay: bool = False, **options: Unpack[Options],
    ) -> None:
        super().__init__(
            {"threshold": threshold, "decay_mem": decay_mem, "decay_syn": decay_syn},
            {"reset": reset, "max_spikes": max_spikes},
            ["decay_mem", "decay_syn"] if learn_decay else [], options,
        )


class LI(Neuron):
    """Leaky readout: never fires, sends its membrane.

    Args:
        decay: factor of the membrane kept per step, 0..1.
        decay_syn: factor of the synaptic current kept per step; 0: no synaptic state.
        gain: as in `Options`.
        bias: as in `Options`.
        v_min: as in `Options`.
        v_init: as in `Options`.
        learn_decay: train the decays.
    """

    kind = "li"

    def __init__(
        self, decay: Number, decay_syn: Number = 0.0, *, gain: Number = 1.0, bias: Number = 0.0,
        v_min: Number | None = None, v_init: Number = 0.0, learn_decay: bool = False,
    ) -> None:
        synapse = None if isinstance(decay_syn, (int, float)) and decay_syn == 0 else decay_syn
        values = {"decay_mem": decay, "decay_syn": synapse, "gain": gain, "bias": bias}
        super().__init__(
            {**values, "v_min": v_min, "v_init": v_init}, {},
            ["decay_mem", "decay_syn"] if learn_decay else [],
        )


class MultiThreshold(Neuron):
    """Fires the largest crossed of several levels; sends the level, or ``payloads`` of it.

    Args:
        levels: rising, > 0; times ``threshold``.
        signed: whether negative levels fire too.
        decay: factor of the membrane kept per step, 0..1; 1: no leak.
        threshold: one for all neurons.
        reset: as in `IF`; "subtract" takes the crossed level, or ``reset_by`` of it.
        payloads: what each level sends; None: the level.
        learn_decay: train the decay.
        options: see `Options`; ``reset_by`` is one number per level, times ``threshold``.
    """

    kind = "multi_threshold"

    def __init__(
        self, levels: Number, signed: bool = False, decay: Number = 1.0, threshold: Number = 1.0,
        reset: str = "subtract", *, payloads: Number | None = None, learn_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            {"threshold": threshold, "decay_mem": decay, "levels": levels, "payloads": payloads},
            {"reset": reset, "signed": signed}, ["decay_mem"] if learn_decay else [], options,
        )


def _tensor(value: Number | None, neutral: float | None) -> Tensor | None:
    if value is None or (isinstance(value, (int, float)) and value == neutral):
        return None
    floating = isinstance(value, Tensor) and value.is_floating_point()
    return torch.as_tensor(value, dtype=None if floating else torch.get_default_dtype()).detach().clone()


def _limited(name: str, value: Tensor) -> Tensor:
    if not isinstance(value, nn.Parameter) or name not in ("threshold", "decay_mem", "decay_syn"):
        return value
    low, high = (_LOWEST_THRESHOLD, None) if name == "threshold" else (0.0, 1.0)
    if torch.compiler.is_exporting():
        return value.clamp(low, high)
    limited: Tensor = Within.apply(value, low, high)  # type: ignore[no-untyped-call]
    return limited


def _check(rules: Mapping[str, Any], values: Mapping[str, Number | None]) -> None:
    def bad(what: str) -> UsageError:
        return UsageError("D2E-NN-001", what, hint="See the options in d2e.nn.IF.")

    for name, allowed in _CHOICES.items():
        if rules.get(name, allowed[0]) not in allowed:
            raise bad(f"{name}={rules[name]!r} is none of {', '.join(map(repr, allowed))}")
    if rules.get("max_spikes", 1) < 0:
        raise bad(f"max_spikes={rules['max_spikes']} is below 0 (0: no limit)")
    rest = rules.get("refractory", 0)
    if rest < 0 or (rest and rules.get("reset_when") == "next"):
        raise bad(f"refractory={rest} is 0 or more, and goes with reset_when='same'")
    numbers = {n: torch.as_tensor(v) for n, v in values.items() if v is not None}
    if "threshold" in numbers and not bool((numbers["threshold"] > 0).all()):
        raise bad(f"threshold={values['threshold']} is not above 0")
    for name in ("decay_mem", "decay_syn"):
        if name in numbers and not bool(((numbers[name] >= 0) & (numbers[name] <= 1)).all()):
            raise bad(f"a decay is the factor kept per step, in 0..1, not {values[name]}")
    if "levels" in numbers:
        levels = numbers["levels"]
        if levels.ndim != 1 or not levels.numel() or levels[0] <= 0 or not bool((levels.diff() > 0).all()):
            raise bad(f"levels {values['levels']} must rise and be above 0")
        if numbers["threshold"].numel() != 1:
            raise bad("MultiThreshold takes one threshold for all neurons")


NEURONS: tuple[type[Neuron], ...] = (IF, LIF, CubaLIF, LI, MultiThreshold)
