"""A network in the making: nodes are added in the order of the data, shapes are inferred as they come."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from d2e.ir.errors import UnsupportedError, UsageError
from d2e.ir.network import Edge, Network
from d2e.ir.nodes import Input, Node, Output, Readout, Scale, Shape
from d2e.ir.shapes import output_shape
from d2e.ir.verify import verified

CODINGS = ("spikes", "signed", "direct")
READOUTS = get_args(Readout)


@dataclass(frozen=True)
class Flow:
    """A frame on its way.

    Attributes:
        sources: names of the nodes whose results it sums.
        shape: of the frame.
        alone: whether nothing else uses it, so that what follows may be folded into its source.
    """

    sources: tuple[str, ...]
    shape: Shape
    alone: bool = True


def checked_input(node: Input) -> Input:
    """The input, if what it states has a meaning.

    Raises:
        UsageError: D2E-LOAD-010.
    """
    def whole(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value > 0

    def bad(message: str, hint: str | None = None) -> UsageError:
        return UsageError("D2E-LOAD-010", message, hint=hint)

    if not node.shape or not all(whole(n) for n in node.shape):
        raise bad(
            f"input shape {node.shape} is not a list of sizes above 0",
            "Give the shape of one frame, without batch and time, such as --input-shape 1,28,28.",
        )
    if node.time_steps is not None and not whole(node.time_steps):
        raise bad(f"time steps must be 1 or more, not {node.time_steps!r}")
    if node.coding not in CODINGS:
        raise bad(f"coding {node.coding!r} is none of {', '.join(CODINGS)}")
    if not whole(node.max_payload):
        raise bad(f"the largest payload must be 1 or more, not {node.max_payload!r}")
    if node.dt is not None and not 0 < node.dt < math.inf:
        raise bad(f"the time step must be above 0 seconds, not {node.dt!r}")
    return node


def checked_output(node: Output) -> Output:
    """The output, if d2e knows its readout.

    Raises:
        UsageError: D2E-LOAD-010.
    """
    if node.readout not in READOUTS:
        raise UsageError("D2E-LOAD-010", f"readout {node.readout!r} is none of {', '.join(READOUTS)}")
    return node


class Builder:
    """Collects nodes and edges."""

    def __init__(self, source: Input, metadata: Mapping[str, Any]) -> None:
        self.nodes: dict[str, Node] = {"input": checked_input(source)}
        self.edges: list[Edge] = []
        self.metadata = metadata
        self.single = True
        """Whether the model computes in single precision, as most do."""
        self.host_sums = False
        """Whether additions become nodes of the host, as those of a transformer's residual stream."""
        self.start = Flow(("input",), source.shape)

    def fresh_name(self, base: str) -> str:
        """``base`` without slashes, or ``base_2``, ``base_3`` … where it is taken."""
        base = base.replace("/", "_") or "node"
        name, count = base, 1
        while name in self.nodes or name == "output":
            count += 1
            name = f"{base}_{count}"
        return name

    def add(self, name: str, node: Node, flow: Flow) -> Flow:
        """Put ``node`` behind ``flow``."""
        shape = output_shape(name, node, flow.shape)
        name = self.fresh_name(name)
        self.nodes[name] = node
        self.edges += [Edge(source, name) for source in flow.sources]
        return Flow((name,), shape)

    def feed_back(self, layer: Flow, neuron: Flow) -> None:
        """Close the loop of a layer that was added behind a neuron: the layer sees the neuron's step before."""
        self.edges = [
            Edge(e.source, e.target, (e.source in neuron.sources and e.target in layer.sources) or e.recurrent)
            for e in self.edges
        ]
        self.edges += [Edge(a, b) for a in layer.sources for b in neuron.sources]

    def feed(self, sent: Flow, layer: Flow) -> None:
        """``layer`` also receives what ``sent`` was a step before."""
        self.edges += [Edge(a, b, True) for a in sent.sources for b in layer.sources]

    def add_up(self, name: str, flows: list[Flow]) -> Flow:
        """The sum of flows of one shape; one that is added to itself is scaled."""
        shape = flows[0].shape
        for flow in flows[1:]:
            if flow.shape != shape:
                raise UnsupportedError(
                    "D2E-SHAPE-001", f"adds frames of shapes {shape} and {flow.shape}", node=name,
                    hint="Bring both to one shape; broadcasting is not compiled.",
                )
        sources: list[str] = []
        for source, times in Counter(s for flow in flows for s in flow.sources).items():
            if times > 1:
                scaled = self.add(name, Scale(scale=np.array(float(times))), Flow((source,), shape))
                sources += scaled.sources
            else:
                sources.append(source)
        return Flow(tuple(sources), shape, alone=False)

    def finish(self, flow: Flow, readout: str) -> Network:
        """The network with ``flow`` as its output.

        Raises:
            UnsupportedError: with every finding of the verifier.
        """
        output = checked_output(Output(shape=flow.shape, readout=readout))  # type: ignore[arg-type]
        edges = [*self.edges, *(Edge(source, "output") for source in flow.sources)]
        return verified(Network({**self.nodes, "output": output}, tuple(edges), self.metadata))
