"""One step of a recorded run as a list of lines: what its neurons receive, in terms of this step and the one before."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from d2e.compiler.frontends.recording import Call, Tape, Value, creates, values_in
from d2e.compiler.frontends.refusals import refusal
from d2e.ir.errors import UnsupportedError

_MOVES = {
    "detach", "clone", "contiguous", "to", "float", "double", "type_as", "requires_grad_", "view", "reshape", "view_as",
    "reshape_as", "squeeze", "unsqueeze", "flatten", "__getitem__", "permute", "transpose", "expand", "expand_as",
}
_ADD = {"add", "add_", "__add__", "__radd__", "__iadd__"}
_SUBTRACT = {"sub", "sub_", "__sub__", "__isub__"}
_MULTIPLY = {"mul", "mul_", "__mul__", "__rmul__", "__imul__"}
_DIVIDE = {"div", "div_", "true_divide", "__truediv__", "__itruediv__"}
INPUT, ZERO, BEFORE, LAYER, FUNCTION, METHOD = "input", "zero", "before", "layer", "function", "method"


@dataclass(frozen=True)
class Ref:
    """The result of a line."""

    line: int


@dataclass(frozen=True)
class Line:
    """One call: of a layer by its path, of a function, of a method by its name; or a source (input, zero, before)."""

    kind: str
    target: Any = None
    arguments: tuple[Any, ...] = ()
    named: tuple[tuple[str, Any], ...] = ()


class NotTheInput(UnsupportedError):
    """The model was shown frames with other axes than it takes."""


def trace_error(code: str, message: str, node: str | None, hint: str) -> UnsupportedError:
    """A fault of a model's time loop."""
    return UnsupportedError(code, message, node=node, hint=hint)


@dataclass
class Step:
    """Step ``number`` of a tape.

    Attributes:
        frame: what the model was shown in it [batch, *shape].
        neurons: paths of the layers that have a state.
        lines: what it computes, each line after those it uses.
    """

    tape: Tape
    number: int
    frame: Value
    neurons: frozenset[str]
    lines: list[Line] = field(default_factory=list)
    _known: dict[Value, Ref] = field(default_factory=dict)

    def close(self, result: Value, back: Iterable[str] = ()) -> Ref:
        """All that ``result`` needs, the neurons in ``back``, and those whose spikes of the step before are used."""
        ref = self.ref(result)
        done: set[str] = set()
        while missing := {*back, *self.before()} - done:
            done |= missing
            for path in sorted(missing):
                self.neuron(path)
        return ref

    def before(self) -> set[str]:
        """Neurons whose spikes of the step before are used."""
        return {line.target for line in self.lines if line.kind == BEFORE}

    def ref(self, value: Value) -> Ref:
        """The line of a value, written if it is new."""
        if value not in self._known:
            found = self._line(value)
            self._known[value] = found if isinstance(found, Ref) else self._written(found)
        return self._known[value]

    def neuron(self, path: str) -> Ref:
        """The line of a neuron."""
        return self.ref(self.tape.calls[path][self.number].results[0])

    def _written(self, line: Line) -> Ref:
        if line.kind in (INPUT, BEFORE) and line in self.lines:
            return Ref(self.lines.index(line))
        self.lines.append(line)
        return Ref(len(self.lines) - 1)

    def _line(self, value: Value) -> Line | Ref:
        call = value.call
        if not self.tape.is_live(value) and (call is None or creates(call)):
            return self._constant(value)
        if value.shape == self.frame.shape and value.holds(self.frame):
            return Line(INPUT)
        if call is None:
            raise NotTheInput("D2E-TRACE-003", f"step {self.number} does not read the frame of this step alone",
                              hint="Index the input by the step: x[step], or x[:, step] with batch first.")
        if call.layer is None:
            return self._function(call, value)
        if call.layer in self.neurons:
            return self._neuron(call, value)
        return Line(LAYER, call.layer, tuple(self.ref(v) for v in values_in((call.arguments, call.named))))

    def _constant(self, value: Value) -> Line:
        if not value.zero:
            raise refusal("a tensor that is neither the frame nor a layer's result", _place(value))
        return Line(ZERO)

    def _neuron(self, call: Call, value: Value) -> Line:
        path = str(call.layer)
        if value.index and len(call.results) > 1:
            raise trace_error(
                "D2E-TRACE-004", f"something else than {path} uses its state",
                path, "Hand a state only to the next call of its own neuron; use its spikes elsewhere.",
            )
        if call.number == self.number - 1:
            return Line(BEFORE, path)
        if call.number != self.number:
            raise trace_error(
                "D2E-TRACE-003", f"step {self.number} uses what {path} sent in step {call.number}",
                path, "A step may use this step's spikes and those of the step before; neurons are called once per step.",
            )
        self._check_states(call)
        return Line(LAYER, path, tuple(self.ref(value) for value in values_in(call.frame)))

    def _check_states(self, call: Call) -> None:
        """The states a neuron is given are its own of the step before, or zeros in the first."""
        path = str(call.layer)
        given = [s for state in call.states for s in (*values_in(state),) or (None,)]
        before = self.tape.calls[path][call.number - 1].results if call.number else []
        for back, state in enumerate(reversed(given), 1):
            if state is None:
                continue
            if call.number == 0 and not self.tape.is_live(state) and state.zero:
                continue
            if len(before) < back or not state.holds(before[-back]):
                raise trace_error(
                    "D2E-TRACE-004", f"{path} is given a state in step {call.number} that is not its own of the step before",
                    path, "Hand on the state as the neuron returned it, and start from zeros.",
                )

    def _function(self, call: Call, value: Value) -> Line | Ref:
        name = getattr(call.target, "__name__", str(call.target))
        if name in ("bernoulli", "poisson"):
            raise refusal(name, name)
        first = next(values_in(call.arguments), None)
        if name in _MOVES and first is not None:
            if value.shape == first.shape and value.holds(first):
                return self.ref(first)
            batch = self.frame.shape[0]
            if value.shape == (batch, math.prod(first.shape[1:])) and first.shape[0] == batch and value.holds(first):
                return Line(FUNCTION, torch.flatten, (self.ref(first), 1))
        arguments = tuple(self._argument(a) for a in call.arguments)
        named = tuple((key, self._argument(a)) for key, a in call.named.items())
        if name in _ADD:
            return Line(FUNCTION, torch.add, arguments, named)
        if name in _SUBTRACT and not named:
            return Line(FUNCTION, torch.add, arguments, (("alpha", -1),))
        if name in _MULTIPLY:
            return Line(FUNCTION, operator.mul, arguments, named)
        if name in _DIVIDE and len(arguments) == 2 and isinstance(arguments[1], (int, float)) and arguments[1]:
            return Line(FUNCTION, operator.mul, (arguments[0], 1 / arguments[1]))
        if getattr(torch.Tensor, name, None) is call.target:
            return Line(METHOD, name, arguments, named)
        return Line(FUNCTION, call.target, arguments, named)

    def _argument(self, thing: Any) -> Any:
        if isinstance(thing, Value):
            return self.ref(thing)
        if isinstance(thing, (list, tuple)):
            return tuple(self._argument(x) for x in thing)
        return thing


def _place(value: Value) -> str:
    return str(getattr(value.call.target, "__name__", value.call.target)) if value.call else "a parameter or buffer"


def check_alike(step: Step, end: Ref, last: Step, last_end: Ref) -> None:
    """A step computes what the last one does; in the first, spikes of the step before may be zeros.

    Raises:
        UnsupportedError: D2E-TRACE-003.
    """
    waiting = [(end, last_end), *((step.neuron(path), last.neuron(path)) for path in last.before())]
    done: set[tuple[Ref, Ref]] = set()
    while waiting:
        pair = waiting.pop()
        if pair in done:
            continue
        done.add(pair)
        mine, other = step.lines[pair[0].line], last.lines[pair[1].line]
        if step.number == 0 and (mine.kind, other.kind) == (ZERO, BEFORE):
            continue
        refs = [(a, b) for a, b in zip(_refs(mine), _refs(other), strict=False)]
        if _shape(mine) != _shape(other):
            path = next((line.target for line in (other, mine) if isinstance(line.target, str)), None)
            raise trace_error(
                "D2E-TRACE-003", f"step {step.number} computes something else than step {last.number}",
                path, "Let every step do the same; start recurrent spikes from zeros instead of leaving them out.",
            )
        waiting += refs


def _refs(thing: Any) -> list[Ref]:
    """Every line a line uses, in order."""
    if isinstance(thing, Ref):
        return [thing]
    if isinstance(thing, Line):
        return _refs((thing.arguments, thing.named))
    return [ref for entry in thing for ref in _refs(entry)] if isinstance(thing, (tuple, list)) else []


def _shape(thing: Any) -> Any:
    """A line without the numbers of those it uses."""
    if isinstance(thing, Ref):
        return Ref
    if isinstance(thing, Line):
        return thing.kind, thing.target, _shape(thing.arguments), _shape(thing.named)
    return tuple(_shape(entry) for entry in thing) if isinstance(thing, (tuple, list)) else thing
