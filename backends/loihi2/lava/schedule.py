"""Retiming: from the lag-free meaning of a network to Lava's time, where every synapse delays by one step.

Lava's Dense, Sparse and Conv send what they computed in the step before (lava ``proc/dense/models.py``), so a
population is given a depth d and sees frame t at Lava step t + 1 + d (Lava counts from 1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from d2e.compiler.paths import paths_into
from d2e.ir.errors import UnsupportedError
from d2e.ir.network import Network
from d2e.ir.nodes import LI, Delay, Flatten, Neuron, Node, Scale, Shape
from d2e.ir.shapes import infer_shapes


@dataclass(frozen=True)
class Path:
    """What leads from one source to one neuron.

    Attributes:
        source, target: Input or neuron, and neuron.
        synapse: name of the one linear map on the way; None: none, the spikes as they are.
        factor: what a spike counts on the way to the linear map (the step of a replica's level).
        shape: of the frame that enters the linear map.
        steps: of all Delay nodes on the way.
        recurrent: how many recurrent edges are on the way.
    """

    source: str
    target: str
    synapse: str | None
    factor: int
    shape: Shape
    steps: int
    recurrent: int

    @property
    def slack(self) -> int:
        """What the path adds to depth[target] - depth[source] to make its delay."""
        return self.steps + self.recurrent


@dataclass(frozen=True)
class Schedule:
    """The Lava time of a network.

    Attributes:
        depth: Input or population -> d: frame t is seen at Lava step t + 1 + d.
        paths: every path into every population, in a fixed order.
        readouts: population -> factor: the sum of what they send (or of v) is the output.
    """

    depth: Mapping[str, int]
    paths: tuple[Path, ...]
    readouts: Mapping[str, int]

    @property
    def latency(self) -> int:
        """Steps from a frame to the output it causes."""
        return max(self.depth[name] for name in self.readouts)

    def slack(self, name: str) -> int:
        """How many steps longer than the pipeline the longest path out of a population takes."""
        return max((p.slack for p in self.paths if p.source == name), default=0)

    def delay(self, path: Path) -> int:
        """Steps between a spike of the source and its arrival, at least 1."""
        return self.depth[path.target] - self.depth[path.source] + path.slack


def schedule(network: Network) -> Schedule:
    """Depth of every population: the smallest that gives each path a delay of at least 1.

    Populations that nothing feeds (always-on sources) begin as late as their targets allow.

    Raises:
        UnsupportedError: D2E-TIME-001 where a feedback loop has fewer delays than synapses;
            D2E-LAVA-012 where a path holds two linear maps or the output is no sum of populations.
    """
    shapes = infer_shapes(network)
    paths = tuple(p for name in network.populations for p in _paths_into(network, shapes, name))
    depth = _depths(network, paths)
    fed = {p.target for p in paths}
    for name in network.populations:
        leaving = [depth[p.target] + p.slack - 1 for p in paths if p.source == name and p.target != name]
        if name not in fed and leaving:
            depth[name] = max(0, min(leaving))
    return Schedule(depth, paths, _readouts(network))


def _paths_into(network: Network, shapes: Mapping[str, Shape], target: str) -> Iterator[Path]:
    """Every path into a neuron, with its one linear map."""
    for path in paths_into(network, target):
        if isinstance(network.nodes[path.source], LI):
            raise UnsupportedError(
                "D2E-LAVA-012", "a readout sends v, which no synapse takes", node=path.source,
                hint="End the network with it.",
            )
        maps = [s for s in path.synapses if not isinstance(network.nodes[s], (Delay, Flatten))]
        factor = 1
        while len(maps) > 1 and (step := _number(network.nodes[maps[0]])) is not None:
            factor, maps = factor * step, maps[1:]
        if len(maps) > 1:
            raise UnsupportedError(
                "D2E-LAVA-012", f"two linear maps ({maps[0]!r}, {maps[1]!r}) follow without neurons between",
                node=maps[0], hint="Merge them, or put neurons between them.",
            )
        steps = sum(node.steps for s in path.synapses if isinstance(node := network.nodes[s], Delay))
        enters = shapes[network.incoming[maps[0]][0].source if maps else path.source]
        yield Path(path.source, target, maps[0] if maps else None, factor, enters, steps, int(path.recurrent))


def _number(node: Node) -> int | None:
    """The factor of a `Scale` by one integer."""
    return int(node.scale) if isinstance(node, Scale) and node.scale.ndim == 0 else None


def _depths(network: Network, paths: tuple[Path, ...]) -> dict[str, int]:
    """Longest path over ``depth[target] >= depth[source] + 1 - slack`` from depth 0 (Bellman-Ford)."""
    depth = {name: 0 for name in (*network.inputs, *network.populations)}
    for _ in range(len(depth) + 1):
        late = [p for p in paths if depth[p.target] < depth[p.source] + 1 - p.slack]
        if not late:
            return depth
        for p in late:
            depth[p.target] = max(depth[p.target], depth[p.source] + 1 - p.slack)
    loop = next((p for p in late if p.recurrent), late[0])
    raise UnsupportedError(
        "D2E-TIME-001",
        f"the feedback from {loop.source!r} to {loop.target!r} must arrive sooner than Loihi delivers: "
        "each synapse of the loop takes one step, the loop has fewer",
        node=loop.synapse or loop.target,
        hint="Add Delay steps to the feedback, one for every population between its two ends.",
    )


def _readouts(network: Network) -> dict[str, int]:
    """The populations behind the Output, and what a spike of each counts there."""
    readouts: dict[str, int] = {}
    for path in paths_into(network, network.outputs[0]):
        factor, between = 1, [network.nodes[s] for s in path.synapses]
        for node in between:
            factor *= 1 if isinstance(node, Flatten) else _number(node) or 0
        plain = isinstance(network.nodes[path.source], Neuron) and not path.recurrent
        if not plain or factor == 0 or path.source in readouts:
            raise UnsupportedError(
                "D2E-LAVA-012", "the output must be the spikes (or the readout) of one population, or of its replicas",
                node=path.synapses[-1] if path.synapses else path.source,
                hint="End the network with one population of neurons.",
            )
        readouts[path.source] = factor
    return readouts
