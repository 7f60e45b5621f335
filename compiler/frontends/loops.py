"""Models that step through time themselves: a loop in ``forward``, or a ``forward`` that is one step.

The model runs once on a few steps of a random example (`recording`). Then time is folded (`folding`): call k of a neuron is
step k, and everything between the neurons in step k must be what it is in step k - 1. The last step becomes a graph that the
tracer's reader turns into nodes like any other; a spike of the step before is a recurrent edge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from d2e.compiler.frontends import axes, folding, readouts
from d2e.compiler.frontends.builder import Builder, Flow
from d2e.compiler.frontends.folding import Line, NotTheInput, Ref, Step, trace_error
from d2e.compiler.frontends.graph_reader import GraphReader
from d2e.compiler.frontends.modules import is_stateful, row_of
from d2e.compiler.frontends.recording import DependsOnData, Tape, Value, value_of
from d2e.compiler.frontends.tensors import LAYOUT, clear
from d2e.ir.errors import UnsupportedError
from d2e.ir.network import Edge, Network
from d2e.ir.nodes import LI, Input, Neuron, Scale
from d2e.ir.verify import verified

_LAYOUTS = ("time-batch", "batch-time", "image", "step")
_BATCH = 3
_STEPS = (5, 40, 320)
"""Steps of the example; a model that counts its own steps may need more than the first."""


@dataclass(frozen=True)
class _Run:
    tape: Tape
    returned: list[Any]
    frames: Tensor
    fixed: bool


def read(module: nn.Module, source: Input, facts: Mapping[str, Any], readout: str | None) -> Network:
    """The network of a model that steps through time itself.

    Args:
        module: with neurons of a framework that calls them once per step.
        source: the network's input.
        facts: its metadata.
        readout: None: what the model does.

    Raises:
        UnsupportedError: D2E-TRACE-001 it depends on data, -003 its steps are not alike, -004 a state is used by something
            else, -005 what it returns is no result over time, -006 it cannot be run; and those of `from_torch`.
    """
    failures: list[tuple[int, UnsupportedError]] = []
    for layout in _LAYOUTS:
        try:
            return _fold(module, source, facts, readout, _run(module, source, layout), layout)
        except NotTheInput as error:
            failures.append((1, error))
        except UnsupportedError as error:
            failures.append((0 if error.code == "D2E-TRACE-006" else 2, error))
    raise max(failures, key=lambda failure: failure[0])[1]


# --------------------------------------------------------------------------- running


def _run(module: nn.Module, source: Input, layout: str) -> _Run:
    """The tape of a model on an example long enough for it."""
    lengths = (source.time_steps,) if source.time_steps else _STEPS
    for steps in (*lengths, *_STEPS[1:]) if layout in ("time-batch", "batch-time") else lengths[:1]:
        try:
            return _recorded(module, source, layout, steps)
        except IndexError as error:
            reason: Exception = error
        except DependsOnData as error:
            raise trace_error(
                "D2E-TRACE-001", f"the forward of {type(module).__name__} depends on data: {error}",
                None, "Write it without 'if' on tensors; sizes and numbers of steps are fine.",
            ) from None
        except UnsupportedError:
            raise
        except Exception as error:
            reason = error
            break
    text = f"{type(reason).__name__}: {reason}".partition("\n")[0]
    raise trace_error(
        "D2E-TRACE-006", f"{type(module).__name__} cannot be run on frames {_shown(source, layout)}: {text}",
        None, "Check the input shape; take one tensor, and do not fix the batch size in forward.",
    )


def _shown(source: Input, layout: str) -> str:
    axes_ = {"time-batch": ["time", "batch"], "batch-time": ["batch", "time"]}.get(layout, ["batch"])
    return f"[{', '.join([*axes_, *map(str, source.shape)])}]"


def _recorded(module: nn.Module, source: Input, layout: str, steps: int) -> _Run:
    parameter = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(0))
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand(steps, _BATCH, *source.shape, generator=generator).to(parameter)
    if layout == "image":
        frames = frames[:1]
    shown = {
        "time-batch": [frames.clone()], "batch-time": [frames.transpose(0, 1).contiguous()],
        "image": [frames[0].clone()], "step": [frame.clone() for frame in frames],
    }[layout]
    tape = Tape({path: m for path, m in module.named_modules() if _is_leaf(m, path)})
    with _at_rest(module), tape.running():
        for entry in shown:
            tape.given(entry)
        returned = [tape.values_of(module(entry)) for entry in shown]
    counts = [len(tape.calls[path]) for path, m in tape.leaves.items() if is_stateful(m) and tape.calls[path]]
    made = min(counts, default=0)
    if layout != "image" and made > steps:
        raise NotTheInput(
            "D2E-LAYER-007", f"every neuron is used {made} times in {steps} steps; its state would be shared",
            hint="Make one neuron for each place.")
    if made < 2 or (layout == "step" and made != steps):
        raise trace_error(
            "D2E-TRACE-006", f"{type(module).__name__} has no loop over time in frames {_shown(source, layout)}",
            None, "Call its neurons once per step.",
        )
    for path, m in tape.leaves.items():
        if is_stateful(m) and any(v.shape[:1] != (_BATCH,) for call in tape.calls[path] for v in call.results):
            raise trace_error(
                "D2E-TRACE-006", f"{path} receives no frames of {_BATCH} samples from {_shown(source, layout)}",
                path, "Index the input by the step: x[step], or x[:, step] with batch first.",
            )
        if is_stateful(m) and len(tape.calls[path]) not in (0, made):
            raise UnsupportedError(
                "D2E-LAYER-007", f"the neuron {path} is used twice; its state would be shared", node=path,
                hint="Make one neuron for each place.")
    seen = frames.expand(made, *frames.shape[1:]) if layout == "image" else frames[:made]
    return _Run(tape, returned, seen, made != steps)


def _is_leaf(module: nn.Module, path: str) -> bool:
    container = isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict))
    torchs = type(module).__module__.startswith("torch.nn") and not container
    return bool(path) and (torchs or row_of(module) is not None or is_stateful(module) or axes.is_layer(module))


@contextmanager
def _at_rest(module: nn.Module) -> Iterator[None]:
    """In evaluation mode and without states; the modes are as before afterwards."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    clear(module)
    try:
        yield
    finally:
        clear(module)
        for m, mode in modes:
            m.training = mode


# --------------------------------------------------------------------------- folding


def _fold(
    module: nn.Module, source: Input, facts: Mapping[str, Any], readout: str | None, run: _Run, layout: str
) -> Network:
    tape, steps = run.tape, len(run.frames)
    neurons = frozenset(path for path, m in tape.leaves.items() if is_stateful(m))
    result = readouts.chosen(tape, run.returned, neurons, steps)
    if result is None:
        raise trace_error(
            "D2E-TRACE-005", f"{type(module).__name__} does not return what one layer sends over time",
            None, "Return the output spikes (or membranes) of every step: torch.stack(spk_rec), or their sum.",
        )
    for path in sorted(tape.changed & neurons):
        raise trace_error(
            "D2E-TRACE-004", f"the loop changes a state of {path} in place",
            path, "Leave the states to their neuron; reset them before the loop.",
        )
    last, end = _folded(run, neurons, result)
    if source.time_steps is None and (run.fixed or layout == "image"):
        source = replace(source, time_steps=steps)
    build = Builder(source, {**facts, LAYOUT: layout})
    build.single = all(p.dtype != torch.float64 for p in module.parameters())
    network = _network(module, build, last, end, result.readout or "count" if readout is None else readout)
    network = network.with_metadata(**{LAYOUT: layout})
    call = result.values[-1].call
    return _with_membrane(network, str(call.layer)) if result.state and call is not None else network


def _folded(run: _Run, neurons: frozenset[str], result: readouts.Result) -> tuple[Step, Ref]:
    """The last step and its result, the others being like it."""
    def step(number: int) -> Step:
        return Step(run.tape, number, value_of(run.frames[number]), neurons)

    def value(end: Value) -> Value:
        return end.call.results[0] if result.neuron and end.call is not None else end

    count = len(run.frames)
    last = step(count - 1)
    end = last.close(value(result.values[-1]))
    if len(result.values) == count:
        for number, given in enumerate(result.values[:-1]):
            before = step(number)
            folding.check_alike(before, before.close(value(given), last.before()), last, end)
    else:
        for number in range(count - 1):
            before = step(number)
            for path in sorted(neurons):
                if run.tape.calls[path]:
                    folding.check_alike(before, before.neuron(path), last, last.neuron(path))
    return last, end


def _network(module: nn.Module, build: Builder, step: Step, end: Ref, readout: str) -> Network:
    """The nodes of one step."""
    graph, nodes = fx.Graph(), list[fx.Node]()
    flows: dict[fx.Node, Flow] = {}
    where: dict[fx.Node, tuple[str, str]] = {}
    for line in step.lines:
        node = _node(graph, line, nodes)
        nodes.append(node)
        where[node] = ("frame", "")
        if line.kind == folding.INPUT:
            flows[node] = replace(build.start, alone=False)
        elif line.kind == folding.BEFORE:
            shape = tuple(step.tape.calls[line.target][0].results[0].shape[1:])
            flows[node] = _before(build, str(line.target), shape)
    graph.output(nodes[end.line])
    network = GraphReader(module, where, build, flows=flows).read(graph, readout)
    return verified(_direct(network))


def _node(graph: fx.Graph, line: Line, nodes: list[fx.Node]) -> fx.Node:
    def given(thing: Any) -> Any:
        if isinstance(thing, Ref):
            return nodes[thing.line]
        return tuple(given(x) for x in thing) if isinstance(thing, tuple) else thing

    arguments, named = given(line.arguments), {key: given(value) for key, value in line.named}
    if line.kind == folding.LAYER:
        return graph.call_module(line.target, arguments)
    if line.kind == folding.METHOD:
        return graph.call_method(line.target, arguments, named)
    if line.kind == folding.FUNCTION:
        return graph.call_function(line.target, arguments, named)
    return graph.placeholder("frame" if line.kind == folding.INPUT else line.kind)


def _before(build: Builder, path: str, shape: tuple[int, ...]) -> Flow:
    """What a neuron that may not be there yet sent in the step before."""
    name = build.fresh_name(f"{path}.before")
    build.nodes[name] = Scale(scale=torch.ones(()).numpy(), metadata={"before": path})
    build.edges.append(Edge(path, name, recurrent=True))
    return Flow((name,), shape, alone=False)


def _direct(network: Network) -> Network:
    """The recurrent edges straight from the neuron to what reads it, where that is the only edge between both."""
    edges, nodes = list(network.edges), dict(network.nodes)
    for name, node in network.nodes.items():
        path = node.metadata.get("before")
        if path is None:
            continue
        targets = [e.target for e in edges if e.source == name]
        if any(e.source == path and e.target in targets for e in edges):
            continue
        edges = [e for e in edges if name not in (e.source, e.target)] + [Edge(path, t, True) for t in targets]
        del nodes[name]
    return Network(nodes, tuple(edges), network.metadata)


def _with_membrane(network: Network, name: str) -> Network:
    """The network whose last neuron sends its membrane."""
    node = network.neuron(name)
    if node.reset != "none":
        raise trace_error(
            "D2E-TRACE-005", f"the model returns the membrane of {name}, which its spikes reset",
            name, "Return its spikes, or give it reset_mechanism='none' to read its membrane.",
        )
    if [e.target for e in network.outgoing[name]] != list(network.outputs):
        raise trace_error(
            "D2E-TRACE-005", f"the model returns the membrane of {name}, whose spikes go on to other layers",
            name, "Return its spikes, or end with a neuron that nothing else reads.",
        )
    decay_syn, decay_mem = node.decays
    keep: dict[str, Any] = {k: v for k, v in (("decay_mem", decay_mem), ("decay_syn", decay_syn)) if v is not None}
    readout: Neuron = LI(shape=node.shape, gain=node.gain, bias=node.bias, v_init=node.v_init, **keep)
    return verified(network.with_nodes({name: readout}))
