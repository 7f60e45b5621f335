"""The neurons' step on torch tensors [batch, time, *shape]: the lines of ir/nodes.py, in the same order.

In float64 it gives the spikes of ir/reference.py; the tests hold it to that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from d2e.compiler.nn.fused import fits, fused
from d2e.compiler.nn.surrogate import Spikes

Values = Mapping[str, Tensor]
"""Parameters by the names of ir/nodes.py; an absent one has its neutral value and costs nothing."""


@dataclass(frozen=True)
class Rules:
    """What a neuron does, apart from its numbers; the names of ir/nodes.py, and the surrogate gradient."""

    kind: str
    reset: str = "subtract"
    reset_when: str = "same"
    fire: str = "ge"
    max_spikes: int = 1
    signed: bool = False
    refractory: int = 0
    surrogate: str = "arctan"
    slope: float = 2.0


@dataclass
class State:
    """What one step hands to the next; None stands for rest."""

    u: Tensor | None = None
    v: Tensor | None = None
    n: Tensor | None = None
    wait: Tensor | None = None


def scan(
    current: Tensor, values: Values, rules: Rules, feedback: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Run a population from rest.

    Args:
        current: input [batch, time, *shape].
        values: the neuron's parameters.
        rules: the neuron's options.
        feedback: maps the payload of the step before to a current to add; not called for the first step.

    Returns:
        Payloads sent [batch, time, *shape] (LI: the membrane).
    """
    if not current.is_floating_point():
        current = current.to(values.get("threshold", torch.empty(0)).dtype)
    if feedback is None and fits(current, values, rules):
        return fused(current, values, rules)
    return by_step(current, values, rules, feedback)


def by_step(
    current: Tensor, values: Values, rules: Rules, feedback: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """`scan` as it is defined: step after step."""
    state = State(v=values["v_init"].to(current.dtype).expand_as(current[:, 0])) if "v_init" in values else State()
    sent: list[Tensor] = []
    for frame in current.unbind(1):
        before = sent[-1] if sent else torch.zeros_like(frame)
        arriving = frame if feedback is None else frame + feedback(before)
        sent.append(step(arriving, values, rules, state))
    return torch.stack(sent, 1)


def step(current: Tensor, values: Values, rules: Rules, state: State) -> Tensor:
    """One step; changes ``state`` and returns the payload sent."""
    if "decay_syn" in values and state.u is not None:
        current = values["decay_syn"] * state.u + current
    state.u = current
    held = state.v
    drive = values["gain"] * current if "gain" in values else current
    if state.v is not None:
        v = values["decay_mem"] * state.v if "decay_mem" in values else state.v
        if rules.reset_when == "next" and state.n is not None:
            v = _reset(v, state.n, values, rules)
        drive = v + drive
    v = drive + values["bias"] if "bias" in values else drive
    if "v_min" in values:
        v = torch.maximum(v, values["v_min"])
    if rules.kind == "li":
        state.v = v
        return v
    n, payload = _crossed(v, values, rules) if rules.kind == "multi_threshold" else _fired(v, values, rules)
    if rules.refractory:
        v, n, payload = _refractory(v, n, payload, held, rules, state)
    state.n = n.detach()
    state.v = _reset(v, state.n, values, rules) if rules.reset_when == "same" else v
    return payload * values["amplitude"] if "amplitude" in values else payload


def _refractory(
    v: Tensor, n: Tensor, payload: Tensor, held: Tensor | None, rules: Rules, state: State
) -> tuple[Tensor, Tensor, Tensor]:
    """Neurons that fired within the last steps keep ``v`` and send nothing."""
    wait = torch.zeros_like(v) if state.wait is None else state.wait
    waiting = wait > 0
    v = torch.where(waiting, torch.zeros_like(v) if held is None else held, v)
    n, payload = n.masked_fill(waiting, 0.0), payload.masked_fill(waiting, 0.0)
    state.wait = torch.where(n.detach() != 0, torch.full_like(wait, rules.refractory), (wait - 1).clamp(min=0))
    return v, n, payload


def _fired(v: Tensor, values: Values, rules: Rules) -> tuple[Tensor, Tensor]:
    n = _spikes(v, values["threshold"], rules, rules.max_spikes)
    return n, n


def _spikes(v: Tensor, theta: Tensor, rules: Rules, most: int) -> Tensor:
    spikes: Tensor = Spikes.apply(v, theta, rules.fire, most, rules.surrogate, rules.slope)  # type: ignore[no-untyped-call]
    return spikes


def _crossed(v: Tensor, values: Values, rules: Rules) -> tuple[Tensor, Tensor]:
    """The index of the largest crossed level and its payload; backward it is a sum of surrogates."""
    levels = values["levels"] * values["threshold"]
    payloads = values.get("payloads", values["levels"])
    steps = torch.diff(payloads, prepend=payloads.new_zeros(1))
    n, smooth = torch.zeros_like(v), torch.zeros_like(v)
    for theta, rise in zip(levels.unbind(), steps.unbind(), strict=True):
        crossed = _spikes(v, theta, rules, 1)
        if rules.signed:
            crossed = crossed - _spikes(-v, theta, rules, 1)
        n, smooth = n + crossed.detach(), smooth + crossed * rise
    return n, _by_level(payloads, n) + (smooth - smooth.detach())


def _by_level(table: Tensor, n: Tensor) -> Tensor:
    return torch.sign(n) * torch.cat([table.new_zeros(1), table])[n.abs().long()]


def _reset(v: Tensor, n: Tensor, values: Values, rules: Rules) -> Tensor:
    if rules.reset == "none":
        return v
    if rules.reset == "value" and "v_reset" in values:
        return torch.where(n != 0, values["v_reset"].to(v.dtype), v)
    if rules.reset != "subtract":
        return v.masked_fill(n != 0, 0.0)
    if rules.kind == "multi_threshold":
        return v - _by_level(values.get("reset_by", values["levels"]) * values["threshold"], n)
    return v - n * values.get("reset_by", values["threshold"])
