"""The network: an immutable graph of nodes, with the questions everybody asks of it.

Edges that close a cycle are marked ``recurrent`` and carry the previous step's value; the other edges form
a directed acyclic graph and carry this step's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

from d2e.ir.errors import UnsupportedError
from d2e.ir.host import Host
from d2e.ir.nodes import Input, Neuron, Node, Output


class Edge(NamedTuple):
    """``source`` feeds ``target``; several edges into one node add up."""

    source: str
    target: str
    recurrent: bool = False


@dataclass(frozen=True, eq=False)
class Network:
    """An immutable graph of named nodes.

    Attributes:
        nodes: name -> node, in an order that only matters for printing.
        edges: see `Edge`.
        metadata: free facts about the network (source framework, stage of the pipeline); plain JSON values.
    """

    nodes: Mapping[str, Node]
    edges: tuple[Edge, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", MappingProxyType(dict(self.nodes)))
        object.__setattr__(self, "edges", tuple(Edge(*e) for e in self.edges))
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))

    # ----- asking

    @cached_property
    def incoming(self) -> dict[str, tuple[Edge, ...]]:
        """Node name -> edges into it."""
        return {n: tuple(e for e in self._by_target.get(n, ())) for n in self.nodes}

    @cached_property
    def outgoing(self) -> dict[str, tuple[Edge, ...]]:
        """Node name -> edges out of it."""
        table: dict[str, list[Edge]] = {n: [] for n in self.nodes}
        for e in self.edges:
            table.setdefault(e.source, []).append(e)
        return {n: tuple(es) for n, es in table.items()}

    @cached_property
    def _by_target(self) -> dict[str, list[Edge]]:
        table: dict[str, list[Edge]] = {}
        for e in self.edges:
            table.setdefault(e.target, []).append(e)
        return table

    @cached_property
    def order(self) -> tuple[str, ...]:
        """Node names in an order in which every non-recurrent edge points forward.

        Raises:
            UnsupportedError: D2E-NET-004 where a cycle has no recurrent edge.
        """
        sorter: TopologicalSorter[str] = TopologicalSorter({n: [] for n in self.nodes})
        for e in self.edges:
            if not e.recurrent and e.source in self.nodes and e.target in self.nodes:
                sorter.add(e.target, e.source)
        try:
            return tuple(sorter.static_order())
        except CycleError as error:
            loop = " -> ".join(error.args[1])
            raise UnsupportedError(
                "D2E-NET-004", f"the cycle {loop} has no recurrent edge, so its values have no order",
                node=error.args[1][0], hint="Mark the edge that closes the cycle as recurrent.",
            ) from None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the Input nodes."""
        return tuple(n for n, node in self.nodes.items() if isinstance(node, Input))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the Output nodes."""
        return tuple(n for n, node in self.nodes.items() if isinstance(node, Output))

    @cached_property
    def populations(self) -> tuple[str, ...]:
        """Names of the neurons, in `order`."""
        return tuple(n for n in self.order if isinstance(self.nodes[n], Neuron))

    @cached_property
    def hosts(self) -> tuple[str, ...]:
        """Names of the nodes that run on the host, in `order`."""
        return tuple(n for n in self.order if isinstance(self.nodes[n], Host))

    @property
    def input(self) -> Input:
        """The only Input node.

        Raises:
            UnsupportedError: D2E-NET-002 unless there is exactly one.
        """
        node: Input = self._only(Input, self.inputs)
        return node

    @property
    def output(self) -> Output:
        """The only Output node.

        Raises:
            UnsupportedError: D2E-NET-002 unless there is exactly one.
        """
        node: Output = self._only(Output, self.outputs)
        return node

    def _only(self, cls: type[Any], names: tuple[str, ...]) -> Any:
        if len(names) != 1:
            raise UnsupportedError(
                "D2E-NET-002", f"the network has {len(names)} {cls.kind} nodes and needs exactly one",
                hint=f"Found: {', '.join(names) or 'none'}.",
            )
        return self.nodes[names[0]]

    def neuron(self, name: str) -> Neuron:
        """The neuron of that name."""
        node = self.nodes[name]
        assert isinstance(node, Neuron)
        return node

    def same(self, other: Network) -> bool:
        """Whether both have the same nodes (arrays, dtypes), edges and metadata; order does not count."""
        return (
            self.nodes.keys() == other.nodes.keys()
            and sorted(self.edges) == sorted(other.edges)
            and dict(self.metadata) == dict(other.metadata)
            and all(node.same(other.nodes[name]) for name, node in self.nodes.items())
        )

    # ----- changing (always a new network)

    def with_nodes(self, nodes: Mapping[str, Node]) -> Network:
        """The network with these nodes replaced (or added)."""
        return replace(self, nodes={**self.nodes, **nodes})

    def with_metadata(self, **facts: Any) -> Network:
        """The network with these metadata set."""
        return replace(self, metadata={**self.metadata, **facts})

    def map(self, change: Callable[[str, Node], Node]) -> Network:
        """The network with every node replaced by ``change(name, node)``."""
        return replace(self, nodes={name: change(name, node) for name, node in self.nodes.items()})

    def without(self, name: str) -> Network:
        """The network with a node removed and its sources joined to its targets (recurrence is kept)."""
        joined = [
            Edge(a.source, b.target, a.recurrent or b.recurrent)
            for a in self.incoming[name] for b in self.outgoing[name]
        ]
        kept = [e for e in self.edges if name not in (e.source, e.target)]
        nodes = {n: node for n, node in self.nodes.items() if n != name}
        return replace(self, nodes=nodes, edges=(*kept, *joined))

    def fresh_name(self, base: str) -> str:
        """``base``, or ``base_2``, ``base_3`` … where it is taken."""
        name, count = base, 1
        while name in self.nodes:
            count += 1
            name = f"{base}_{count}"
        return name


def chain(nodes: Iterable[tuple[str, Node]], metadata: Mapping[str, Any] | None = None) -> Network:
    """A network whose nodes follow one another in the given order."""
    items = list(nodes)
    edges = [Edge(a, b) for (a, _), (b, _) in pairwise(items)]
    return Network(dict(items), tuple(edges), metadata or {})
