"""How many axes stand before a frame's own at every value of a model: batch and time, or one that holds both.

Frameworks whose layers disagree about it (sinabs' plain and squeezed layers, Norse's layers over time and its cells) say by
their classes how a model takes frames; what contradicts that is refused, because torch would run it with wrong axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import fx, nn

from d2e.compiler.frontends.frameworks import norse, sinabs
from d2e.compiler.frontends.refusals import option_refusal
from d2e.compiler.frontends.tensors import dotted

WRAPPED = "wrapped"
"""The scope of what stands in a wrapper that hands it single frames."""
_WRAPPERS: dict[str, str] = {**sinabs.WRAPPERS, **norse.WRAPPERS}
_PACKAGES = ("sinabs.layers.", "norse.torch.module.")
_AXES: dict[str, int] = {**sinabs.AXES, **norse.AXES}
_SHIFTS = {sinabs.FLATTEN_TIME: -1, sinabs.UNFLATTEN_TIME: 1}
_FRAMES = (
    nn.Conv1d, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.LPPool2d,
)
"""Layers of torch that take one axis before the frame's own, whatever it holds."""
_LAYOUTS = {"sinabs": {1: "squeezed", 2: "batch-time"}, "norse": {1: "step", 2: "time-batch"}}
_TIME = {"sinabs": 1, "norse": 0}
_TAKEN = {
    "squeezed": "[batch * time, …]", "batch-time": "[batch, time, …]", "step": "[batch, …]",
    "time-batch": "[time, batch, …]",
}


@dataclass(frozen=True)
class Axes:
    """Of one traced model.

    Attributes:
        layout: how it takes frames (`against.Layout`); None: no layer of a framework says so.
        time: which of two axes is time.
        before: node -> axes before the frame's own of its value, where ``layout`` is known.
    """

    layout: str | None = None
    time: int | None = None
    before: Mapping[fx.Node, int] = field(default_factory=dict)


def wrapped(module: nn.Module) -> nn.Module | None:
    """What a wrapper of a framework applies to every frame; None where the module is no wrapper."""
    inner = _WRAPPERS.get(dotted(type(module)))
    return None if inner is None else getattr(module, inner)


def is_layer(module: nn.Module) -> bool:
    """Whether a framework defines the module's class, and it is more than a container."""
    container = isinstance(module, nn.Sequential) or wrapped(module) is not None
    return dotted(type(module)).startswith(_PACKAGES) and not container


def returns_state(module: nn.Module) -> bool:
    """Whether a layer returns (frames, state)."""
    return any(dotted(cls) in norse.STATEFUL for cls in type(module).__mro__)


def merges(module: nn.Module) -> bool:
    """Whether a layer adds up all it is given."""
    return dotted(type(module)) == sinabs.MERGE


def of(graph: fx.Graph, root: nn.Module, folded: set[fx.Node]) -> Axes:
    """Follow the axes through a graph whose nodes ``folded`` stand in a wrapper that hands on single frames.

    Raises:
        UnsupportedError: D2E-LAYER-005 where two layers take different axes.
    """
    needs = {node: _need(module) for node in graph.nodes if (module := _module(node, root)) is not None}
    named = (_named(module) for node in needs if (module := _module(node, root)) is not None)
    framework = next((name.partition(".")[0] for name in named if name is not None), None)
    if framework is None:
        return Axes()
    layouts = _LAYOUTS[framework]
    shift: dict[fx.Node, int] = {}
    found: int | None = None
    for node in graph.nodes:
        shift[node] = next((shift[value] for value in node.all_input_nodes), 0)
        need = needs.get(node)
        if node in folded and need not in (None, 1):
            raise _contradiction(node, layouts, 2, 1)
        need = 2 if node in folded else need
        if need is not None and found is None:
            found = need - shift[node]
        if need is not None and found is not None and shift[node] + found != need:
            raise _contradiction(node, layouts, need, shift[node] + found)
        shift[node] += _shift(node, _module(node, root))
    assert found is not None, "a layer of the framework takes axes"
    if found not in layouts:
        raise option_refusal(f"the model takes frames with {found} axes before their own", "input", "It must be one or two.")
    return Axes(layouts[found], _TIME[framework], {node: found + more for node, more in shift.items()})


def readout(graph: fx.Graph, axes: Axes) -> str | None:
    """How a model ends over time: "count" (sum), "mean" or "last"; the graph then ends before it. None: it does not say."""
    (end,) = (node for node in graph.nodes if node.op == "output")
    last = end.args[0]
    given = last.args[0] if isinstance(last, fx.Node) and last.args else None
    if not isinstance(last, fx.Node) or not isinstance(given, fx.Node) or axes.time is None or axes.before.get(given) != 2:
        return None
    found = _READS.get(str(getattr(last.target, "__name__", last.target)))
    over = last.args[1] if len(last.args) > 1 else last.kwargs.get("dim")
    at = list(over) if isinstance(over, (tuple, list)) else [over]
    while found == "last" and at[-1:] == [slice(None)]:
        at.pop()
    wanted = [*[slice(None)] * axes.time, -1] if found == "last" else [axes.time]
    if found is None or at != wanted:
        return None
    end.args = (given,)
    graph.erase_node(last)
    return found


_READS = {"sum": "count", "mean": "mean", "getitem": "last"}


def _module(node: fx.Node, root: nn.Module) -> nn.Module | None:
    return root.get_submodule(str(node.target)) if node.op == "call_module" else None


def _shift(node: fx.Node, module: nn.Module | None) -> int:
    """Axes that a layer or function puts before the frame's own, or takes."""
    if module is not None:
        folds = type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (0, 1)
        return -1 if folds else _SHIFTS.get(dotted(type(module)), 0)
    name = str(getattr(node.target, "__name__", node.target))
    given = [*node.args[1:], *node.kwargs.values()]
    if name == "flatten" and given[:2] == [0, 1]:
        return -1
    return 1 if name == "unflatten" and given[:1] == [0] else 0


def _named(module: nn.Module) -> str | None:
    """The class of a framework by which a module takes axes."""
    return next((path for cls in type(module).__mro__ if (path := dotted(cls)) in _AXES), None)


def _need(module: nn.Module) -> int | None:
    name = _named(module)
    return _AXES[name] if name is not None else 1 if isinstance(module, _FRAMES) else None


def _contradiction(node: fx.Node, layouts: Mapping[int, str], need: int, given: int) -> Exception:
    takes, gets = (_TAKEN.get(layouts.get(n, ""), f"{n} axes before a frame's own") for n in (need, given))
    way = "Lift, or cells" if "step" in layouts.values() else "IAFSqueeze, LIFSqueeze, Repeat, FlattenTime or UnflattenTime"
    return option_refusal(f"takes {takes} but receives {gets}", str(node.target), f"Use {way}.")
