"""What a model returns over time: which layer's results, and how a class is read from them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from d2e.compiler.frontends.recording import Call, Tape, Value, values_in

_GATHERS = {"stack", "cat", "concat", "concatenate", "hstack", "vstack", "__setitem__", "detach", "clone", "contiguous",
            "to", "float", "double", "cpu"}
_SUMS = {"add", "add_", "__add__", "__radd__", "__iadd__"}
_BY_NUMBER = {"mul", "mul_", "__mul__", "__rmul__", "__imul__", "div", "div_", "true_divide", "__truediv__", "__itruediv__"}
_READOUTS = {"sum": "count", "mean": "mean", "max": "max", "amax": "max"}
_RESHAPES = {*_READOUTS, "permute", "transpose", "swapaxes", "movedim", "unsqueeze", "squeeze", "view", "reshape",
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
    leaves = [list(_leaves(entry, steps)) for entry in returned]
    found = [_result(tape, [*values_in(values)], neurons, steps) for values in zip(*leaves, strict=False)]
    known = [result for result in found if result is not None]
    return min(known, key=lambda r: 2 * r.state + (not r.neuron), default=None)


def _leaves(thing: Any, steps: int) -> Iterator[Any]:
    """What stands in the containers a model returns; a list with one tensor per step is one of them."""
    if isinstance(thing, Mapping):
        thing = list(thing.values())
    if isinstance(thing, Value):
        yield thing
    elif isinstance(thing, (list, tuple)):
        calls = {entry.call for entry in thing if isinstance(entry, Value)}
        if len(calls) == len(thing) == steps:
            yield thing
        else:
            for entry in thing:
                yield from _leaves(entry, steps)


def _result(tape: Tape, values: list[Value], neurons: frozenset[str], steps: int) -> Result | None:
    walk = _Walk(tape, steps)
    for value in values:
        walk.follow(value)
    found = in_time(walk.ends)
    sources = {(end.call.target, end.index) if end.call else None for end in found}
    factors = {*walk.ends.values()}
    if len(sources) != 1 or len(factors) != 1 or len(found) not in (1, steps) or found[0].call is None:
        return None
    if not min(factors) > 0 or _mixes(found[0]):
        return None
    call = found[0].call
    neuron = call.layer in neurons
    if neuron and [_number(end) for end in found] != list(range(steps))[-len(found):]:
        return None
    readout = "last" if len(found) == 1 and steps > 1 else walk.readout
    return Result(tuple(found), neuron and found[0].index > 0, neuron, readout)


def _mixes(value: Value) -> bool:
    """Whether functions make a value from what several calls of one layer sent."""
    waiting, seen, calls = [value], {value}, set[Call]()
    while waiting:
        call = waiting.pop().call
        if call is not None and call.layer is not None:
            calls.add(call)
        elif call is not None:
            more = {*values_in((call.arguments, call.named))} - seen
            seen |= more
            waiting += more
    return len({call.layer for call in calls}) < len(calls)


def _number(value: Value) -> int:
    assert isinstance(value.call, Call)
    return value.call.number


class _Walk:
    """From what is returned back to what the steps computed."""

    def __init__(self, tape: Tape, steps: int) -> None:
        self.tape, self.steps = tape, steps
        self.ends: dict[Value, float] = {}  # with the factor by which it enters
        self.readout: str | None = None

    def follow(self, value: Value) -> None:
        """Collect the ends a value is made of."""
        waiting = [(value, 1.0)]
        while waiting:
            value, factor = waiting.pop()
            if not self.tape.is_live(value):
                continue
            children = self._children(value)
            if children is None:
                self.ends[value] = factor
            else:
                waiting += [(child, factor * self._factor(value)) for child in children]

    def _children(self, value: Value) -> list[Value] | None:
        """What a function over time is applied to; None: the value belongs to one step."""
        call = value.call
        if call is None or call.layer is not None:
            return None
        name = called(call)
        given = list(values_in((call.arguments, call.named)))
        if name in _GATHERS:
            return given
        if name in _SUMS:
            self.readout = "count" if len(given) == 2 else self.readout
            return given
        if name in _BY_NUMBER and len(given) == 1:
            return given if self.readout is None or not self._spans_time(given[0]) else None
        if name in _RESHAPES and given and self._spans_time(given[0]):
            return self._over_time(name, call, given)
        return None

    def _over_time(self, name: str, call: Call, given: list[Value]) -> list[Value] | None:
        ends = self._ends(given[0])
        if name in _READOUTS:
            if call.results[0].shape != ends[-1].shape:
                return None
            self.readout = self.readout or _READOUTS[name]
        if name == "__getitem__" and call.results[0].shape == ends[-1].shape:
            return [ends[-1]] if call.results[0].holds(ends[-1]) else None
        return given

    def _factor(self, value: Value) -> float:
        """The number a value's function multiplies with."""
        call = value.call
        if call is None or called(call) not in _BY_NUMBER:
            return 1.0
        number = next((a for a in call.arguments if isinstance(a, (int, float))), math.nan)
        if "div" not in called(call):
            return float(number)
        self.readout = self.readout or "mean"
        return 1 / number if number else math.nan

    def _spans_time(self, value: Value) -> bool:
        return len(self._ends(value)) > 1

    def _ends(self, value: Value) -> list[Value]:
        """In the order of time."""
        inner = _Walk(self.tape, self.steps)
        inner.follow(value)
        return in_time(inner.ends)


def called(call: Call) -> str:
    """The name of what is called."""
    return str(getattr(call.target, "__name__", call.target))


def in_time(ends: Iterable[Value]) -> list[Value]:
    """Values in the order in which they were made."""
    return sorted(ends, key=lambda end: end.call.order if end.call else 0)
