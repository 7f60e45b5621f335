"""A model run once on a small example, with every call it makes written down: the tape that `loops` folds over time.

Layers that d2e knows are one call each; between them the torch functions are recorded. Numbers such as sizes are used as
they come, but the value of a tensor that depends on the input may not be asked for: then the model would compute another
network for other data.
"""

from __future__ import annotations

import hashlib
import inspect
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_CREATORS = {"zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty"}
_WRITES = {"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__"}
_ASKS = {"__bool__", "__int__", "__float__", "__index__", "item", "tolist", "numpy", "equal", "is_nonzero", "allclose"}


@dataclass(eq=False)
class Value:
    """A tensor of the run, without its numbers: a model may make many.

    Attributes:
        shape: of the tensor.
        digest: of its numbers when it was made.
        zero: whether all of them are 0.
        call: what made it; None: it comes from outside (input, parameter, buffer).
        index: its place among the results of that call.
    """

    shape: tuple[int, ...]
    digest: bytes
    zero: bool
    call: Call | None = None
    index: int = 0

    def holds(self, other: Value) -> bool:
        """Whether both have the same numbers in the same order."""
        return self.digest == other.digest


def value_of(tensor: Tensor, call: Call | None = None, index: int = 0) -> Value:
    """What is kept of a tensor."""
    plain = tensor.detach().cpu().contiguous().reshape(-1)
    digest = hashlib.blake2b(plain.view(torch.uint8).numpy().data if plain.numel() else b"", digest_size=16).digest()
    return Value(tuple(tensor.shape), digest, not bool(plain.any()), call, index)


@dataclass(eq=False)
class Call:
    """One call of a layer or a function.

    Attributes:
        target: the path of the layer, or the function.
        arguments: by position and by name, tensors as `Value`.
        frame: of a layer: the first parameter of its ``forward``.
        states: of a layer: what it was given after the frame, one entry per parameter.
        results: its tensors, in order.
        number: how many calls of this layer were before it (of a function: 0).
        order: how many calls of all were before it.
    """

    target: Any
    arguments: tuple[Any, ...]
    named: dict[str, Any]
    frame: Any = None
    states: list[Any] = field(default_factory=list)
    results: list[Value] = field(default_factory=list)
    number: int = 0
    order: int = 0

    @property
    def layer(self) -> str | None:
        """The path, if this is a layer."""
        return self.target if isinstance(self.target, str) else None


class DependsOnData(Exception):
    """The model asks for the value of a tensor that depends on its input."""


class Tape(TorchFunctionMode):
    """Records while it is entered.

    Attributes:
        calls: path of a layer -> its calls.
        changed: paths of layers whose results were written to.
    """

    def __init__(self, leaves: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.leaves = leaves
        self.calls: dict[str, list[Call]] = {path: [] for path in leaves}
        self.changed: set[str] = set()
        self._current: dict[int, tuple[weakref.ref[Tensor], Value]] = {}
        self._live: set[Value] = set()
        self._inside = 0
        self._count = 0

    def given(self, tensor: Tensor) -> None:
        """Name a tensor as the input."""
        self._live.add(self._value(tensor))

    def values_of(self, result: Any) -> Any:
        """A result of the model with values in place of its tensors."""
        return self._swap(result)

    def is_live(self, value: Value) -> bool:
        """Whether a value depends on the input."""
        return value in self._live

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a torch function and note it."""
        kwargs = kwargs or {}
        if self._inside:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        given = self._swap((args, kwargs))
        if name in _ASKS and any(value in self._live for value in values_in(given)):
            raise DependsOnData(f"it asks for the value of a tensor ({name.strip('_')})")
        result = func(*args, **kwargs)
        result = args[0] if name == "__setitem__" else result
        if isinstance(result, Iterator):
            result = list(result)
            self._note(Call(func, given[0], given[1]), result)
            return iter(result)
        self._note(Call(func, given[0], given[1]), result)
        return result

    @contextmanager
    def running(self) -> Iterator[None]:
        """Hooks on the leaves, and the mode on."""
        with ExitStack() as stack:
            for path, module in self.leaves.items():
                before, after = self._hooks(path)
                stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(after, with_kwargs=True).remove)
            stack.enter_context(self)
            stack.enter_context(torch.no_grad())
            yield

    def _hooks(self, path: str) -> tuple[Any, Any]:
        entered: list[Call] = []

        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            if not self._inside:
                given, named = self._swap((args, kwargs))
                call = Call(path, given, named, number=len(self.calls[path]))
                call.frame, *call.states = _given(module, call.arguments, call.named)
                entered.append(call)
            self._inside += 1

        def after(module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
            self._inside -= 1
            if not self._inside:
                call = entered.pop()
                self.calls[path].append(call)
                self._note(call, result)

        return before, after

    def _note(self, call: Call, result: Any) -> None:
        self._count += 1
        call.order = self._count
        tensors = list(_tensors(result))
        used = values_in((call.arguments, call.named, call.states))
        live = not creates(call) and any(value in self._live for value in used)
        for index, tensor in enumerate(tensors):
            value = self._kept(tensor, call, index)
            call.results.append(value)
            if all(tensor is not before for before in tensors[:index]):  # Norse's states hold the spikes once more
                self._remember(tensor, value)
            if live:
                self._live.add(value)
        name = getattr(call.target, "__name__", "")
        if name in _WRITES or (name.endswith("_") and not name.endswith("__")):
            maker = getattr(next(values_in(call.arguments), None), "call", None)
            self.changed |= {maker.layer} if maker is not None and maker.layer else set()

    def _remember(self, tensor: Tensor, value: Value) -> None:
        self._current[id(tensor)] = (weakref.ref(tensor), value)

    def _kept(self, tensor: Tensor, call: Call | None = None, index: int = 0) -> Value:
        self._inside += 1
        try:
            return value_of(tensor, call, index)
        finally:
            self._inside -= 1

    def _value(self, tensor: Tensor) -> Value:
        held, value = self._current.get(id(tensor), (None, None))
        if held is None or value is None or held() is not tensor:
            value = self._kept(tensor)
            self._remember(tensor, value)
        return value

    def _swap(self, thing: Any) -> Any:
        """Containers with values in place of tensors."""
        if isinstance(thing, Tensor):
            return self._value(thing)
        if isinstance(thing, (tuple, list)):
            return type(thing)([self._swap(x) for x in thing]) if type(thing) in (tuple, list) else tuple(
                self._swap(x) for x in thing
            )
        if isinstance(thing, dict):
            return {key: self._swap(x) for key, x in thing.items()}
        return thing


def creates(call: Call) -> bool:
    """Whether a function makes a tensor that holds nothing of those it is given."""
    return getattr(call.target, "__name__", "") in _CREATORS or next(values_in((call.arguments, call.named)), None) is None


def _given(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    """What a layer is given, in the order of its parameters, missing ones as None."""
    try:
        bound = inspect.signature(module.forward).bind(*args, **kwargs)
    except TypeError:
        return [*args, *kwargs.values()]
    bound.apply_defaults()
    return list(bound.arguments.values()) or [None]


def _tensors(thing: Any) -> Iterator[Tensor]:
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, Mapping):
        for entry in thing.values():
            yield from _tensors(entry)
    elif isinstance(thing, (tuple, list)):
        for entry in thing:
            yield from _tensors(entry)


def values_in(thing: Any) -> Iterator[Value]:
    """Every value in containers, in order."""
    if isinstance(thing, Value):
        yield thing
    elif isinstance(thing, Mapping):
        for entry in thing.values():
            yield from values_in(entry)
    elif isinstance(thing, (tuple, list)):
        for entry in thing:
            yield from values_in(entry)
