"""What a model returns over time: which layer's results, and how a class is read from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from d2e.compiler.frontends.recording import Call, Tape, Value, values_in

_GATHERS = {"stack", "cat", "concat", "concatenate", "hstack", "vstack", "__setitem__", "detach", "clone", "contiguous",
            "to", "float", "double", "cpu"}
_SUMS = {"add", "add_", "__add__", "__radd__", "__iadd__"}
_BY_NUMBER = {"mul", "mul_", "__mul__", "__rmul__", "__imul__", "div", "div_", "true_divide", "__truediv__", "__itruediv__"}
_RESHAPES = {"sum", "mean", "permute", "transpose", "swapaxes", "movedim", "unsqueeze", "squeeze", "view", "reshape",
             "flatten", "__getitem__", "softmax", "log_softmax"}


@dataclass(frozen=True)
class Result:
    """One tensor a model returns.

    Attributes:
        values: what it is made of, one per step, or the last step's alone.
        state: whether these are states of a neuron instead of its spikes.
        neuron: whether they come straight from a neuron.
        readout: how the model reads a class from them; None: it leaves that open.
    """

    values: tuple[Value, ...]
    state: bool
    neuron: bool
    readout: str | None


def chosen(tape: Tape, returned: Sequence[Any], neurons: frozenset[str], steps: int) -> Result | None:
    """The result that is the network's output: spikes before other layers' results before membranes.

    Args:
        tape: of the run.
        returned: by the model, one entry per call of it.
        neurons: paths of the layers that have a state.
        steps: of the run.
    """
    leaves = [list(values_in(entry)) for entry in returned]
    found = [_result(tape, list(values), neurons, steps) for values in zip(*leaves, strict=False)]
    known = [result for result in found if result is not None]
    return min(known, key=lambda r: 2 * r.state + (not r.neuron), default=None)


def _result(tape: Tape, values: list[Value], neurons: frozenset[str], steps: int) -> Result | None:
    walk = _Walk(tape, steps)
    for value in values:
        walk.follow(value)
    found = [*dict.fromkeys(walk.ends)]
    sources = {(end.call.target, end.index) if end.call else None for end in found}
    if len(sources) != 1 or len(found) not in (1, steps) or found[0].call is None:
        return None
    call = found[0].call
    neuron = call.layer in neurons
    found.sort(key=lambda end: end.call.order if end.call else 0)
    if neuron and [_number(end) for end in found] != list(range(steps))[-len(found):]:
        return None
    readout = "last" if len(found) == 1 and steps > 1 else walk.readout
    return Result(tuple(found), neuron and end_is_state(found[0]), neuron, readout)


def end_is_state(value: Value) -> bool:
    """Whether a neuron's result is a state."""
    return value.index > 0


def _number(value: Value) -> int:
    assert isinstance(value.call, Call)
    return value.call.number


class _Walk:
    """From what is returned back to what the steps computed."""

    def __init__(self, tape: Tape, steps: int) -> None:
        self.tape, self.steps = tape, steps
        self.ends: list[Value] = []
        self.readout: str | None = None

    def follow(self, value: Value) -> None:
        """Collect the ends a value is made of."""
        waiting = [value]
        while waiting:
            value = waiting.pop()
            if not self.tape.is_live(value):
                continue
            children = self._children(value)
            if children is None:
                self.ends.append(value)
            else:
                waiting += children

    def _children(self, value: Value) -> list[Value] | None:
        """What a function over time is applied to; None: the value belongs to one step."""
        call = value.call
        if call is None or call.layer is not None:
            return None
        name = getattr(call.target, "__name__", "")
        given = list(values_in((call.arguments, call.named)))
        if name in _GATHERS:
            return given
        if name in _SUMS:
            self.readout = "count" if len(given) == 2 else self.readout
            return given
        if name in _BY_NUMBER and len(given) == 1:
            self.readout = "mean" if self.readout is None else self.readout
            return given
        if name in _RESHAPES and given and self._spans_time(given[0]):
            if name in ("sum", "mean"):
                self.readout = {"sum": "count", "mean": "mean"}[name] if self.readout is None else self.readout
            if name == "__getitem__" and call.arguments[1] in (-1, self.steps - 1):
                return self._last(given[0])
            return given
        return None

    def _spans_time(self, value: Value) -> bool:
        inner = _Walk(self.tape, self.steps)
        inner.follow(value)
        return len(set(inner.ends)) > 1

    def _last(self, value: Value) -> list[Value]:
        inner = _Walk(self.tape, self.steps)
        inner.follow(value)
        return [max(inner.ends, key=lambda end: end.call.order if end.call else 0)]
