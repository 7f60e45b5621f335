"""canonicalise: every path between two populations becomes at most SumPool2d, Flatten, one linear map, Delay.

Average pooling becomes sum pooling and a factor; adjacent linear maps merge, but for the pooling that a path begins with
and that the target carries out on the way; a synapse with several sources or targets is written out once per path.
Biases move into the neurons, or, before a synaptic current with memory, onto an always-on neuron, which takes settled
decays and gains. All exact in real arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from d2e.compiler import algebra
from d2e.compiler.passes.base import Pass, Property, canonical, discrete
from d2e.compiler.paths import Path, paths_into
from d2e.ir import (
    IF,
    AvgPool2d,
    Conv1d,
    Conv2d,
    Delay,
    Edge,
    Flatten,
    Host,
    Linear,
    Network,
    Neuron,
    Node,
    Output,
    Scale,
    SumPool2d,
    Synapse,
    UnsupportedError,
    infer_shapes,
)
from d2e.ir.nodes import Array, Shape, integral, real
from d2e.ir.shapes import output_shape

if TYPE_CHECKING:
    from d2e.compiler.target import Target

HELPER = "helper"
"""Metadata key of populations that passes added; they are not in the source network."""


@dataclass(frozen=True)
class Canonicalise(Pass):
    """See the module.

    Attributes:
        pooling: windows that the target sums over on the way to a population: k stands for k x k with stride k.
    """

    name: ClassVar[str] = "canonicalise"
    requires: ClassVar[tuple[Property, ...]] = (discrete,)
    ensures: ClassVar[tuple[Property, ...]] = (canonical,)

    pooling: tuple[int, ...] = ()

    def run(self, network: Network, target: Target) -> Network:
        """The network in canonical form; the populations keep their names, shapes and spikes."""
        builder = _Builder(network, self.pooling)
        for name in network.order:
            if not isinstance(network.nodes[name], Synapse):
                builder.add_end(name)
        return Network(builder.nodes, tuple(builder.edges), network.metadata)


class _Builder:
    def __init__(self, network: Network, pooling: tuple[int, ...]) -> None:
        self.network, self.pooling = network, pooling
        self.shapes = infer_shapes(network)
        self.nodes: dict[str, Node] = {}
        self.edges: list[Edge] = []

    def add_end(self, name: str) -> None:
        """An input, neuron, function of the host or output, and every path into it."""
        node = self.network.nodes[name]
        self.nodes[name] = node
        biases: dict[tuple[str, ...], Array] = {}  # a synapse with several sources adds its bias once
        told: set[tuple[str, ...]] = set()  # so it does before an output or the host, on the first of its paths
        for path in paths_into(self.network, name):
            if isinstance(node, (Output, Host)):
                self._join(path, self._as_it_is(path, told), path.synapses)
                told |= {path.synapses[i:] for i in range(len(path.synapses))}
                continue
            chain = self._compose(path)
            self._join(path, chain, self._bases(path, chain))
            biases |= dict(self._biases(path))
        if not biases or not isinstance(node, Neuron):
            return
        total = np.sum(list(biases.values()), axis=0)
        if node.has_synaptic_state and np.any(node.decays[0] != 0):
            add_constant_current(self.nodes, self.edges, name, node, total)
        else:
            self.nodes[name] = replace(node, bias=_smallest(node.bias + node.gain * total))

    def _synapse(self, name: str) -> Synapse:
        node = self.network.nodes[name]
        assert isinstance(node, Synapse)
        return node

    def _compose(self, path: Path) -> list[Synapse]:
        shape = self.shapes[path.source]
        nodes, delay = algebra.split_delays([self._synapse(s) for s in path.synapses], path.label)
        delay += max(0, path.recurrent - 1)
        first, rest = _leading_pool(_sums([algebra.without_bias(n) for n in nodes]), self.pooling)
        chain = simplify(rest, algebra.chain_shape(first, shape, path.label), path.label)
        if not any(not isinstance(n, Flatten) for n in chain):
            chain.append(Scale(scale=real(1.0)))
        return [*first, *chain, *([Delay(steps=delay)] if delay else [])]

    def _as_it_is(self, path: Path, told: set[tuple[str, ...]]) -> list[Synapse]:
        """The synapses before an output or host: averages as convolutions, biases where no other path has ``told`` them."""
        before = zip((path.source, *path.synapses), path.synapses, strict=False)
        nodes = [(self._synapse(name), self.shapes[source]) for source, name in before]
        chain = [algebra.depthwise(n, shape) if isinstance(n, AvgPool2d) else n for n, shape in nodes]
        return [algebra.without_bias(n) if path.synapses[i:] in told else n for i, n in enumerate(chain)]

    def _biases(self, path: Path) -> Iterator[tuple[tuple[str, ...], Array]]:
        """(the synapse and those after it, what its bias adds to the target at every step) of a path."""
        for i, name in enumerate(path.synapses):
            shape = self.shapes[path.synapses[i - 1] if i else path.source]
            own = algebra.bias_frame(self._synapse(name), shape)
            if own is None:
                continue
            rest = path.synapses[i:]
            onward = pairwise((*rest, path.target))
            if any(e.recurrent for a, b in onward for e in self.network.incoming[b] if e.source == a):
                raise UnsupportedError(
                    "D2E-CANON-003", "a recurrent layer adds its bias from the second step on only", node=path.label,
                    hint="Mark the edge into the layer as recurrent, not the one out of it.",
                )
            after = [algebra.without_bias(n) for n in map(self._synapse, rest[1:]) if not isinstance(n, Delay)]
            yield rest, algebra.run_chain(after, own[None], self.shapes[name])[0]

    def _join(self, path: Path, chain: Sequence[Synapse], bases: Sequence[str]) -> None:
        """Add the nodes of a path under these names, or like them where they are taken, and its edges."""
        names = []
        for node, base in zip(chain, bases, strict=True):
            names.append(self._free(base, path))
            self.nodes[names[-1]] = node
        stations = [path.source, *names, path.target]
        for i, (a, b) in enumerate(pairwise(stations)):
            self.edges.append(Edge(a, b, path.recurrent > 0 and i == 0))

    def _bases(self, path: Path, chain: Sequence[Synapse]) -> list[str]:
        """The names of the path's synapses that the nodes of its canonical form stand for."""
        pools = self._kept_pools(path, chain)
        rest = [s for s in path.synapses if s not in pools]
        weighted = [s for s in rest if not isinstance(self._synapse(s), (Flatten, Delay))]

        def base(node: Synapse) -> str:
            like = [s for s in rest if type(self._synapse(s)) is type(node)]
            plain = isinstance(node, (Flatten, Delay))
            kind = node.kind if plain else "synapse"
            return ((like if plain else weighted) or [f"{path.target}.{kind}"])[-1]

        return [*pools[-1:], *(base(node) for node in chain[bool(pools) :])]

    def _kept_pools(self, path: Path, chain: Sequence[Synapse]) -> list[str]:
        """The names of the path's pools that the first node of its canonical form stands for, where it is pooling alone."""
        pool = chain[0]
        if not isinstance(pool, SumPool2d) or all(isinstance(n, (Flatten, Delay)) for n in chain[1:]):
            return []
        kept: list[str] = []
        size = 1
        for name in path.synapses:
            node = self._synapse(name)
            if isinstance(node, (SumPool2d, AvgPool2d)) and size < pool.kernel_size[0]:
                size *= node.kernel_size[0]
                kept.append(name)
        return kept

    def _free(self, base: str, path: Path) -> str:
        if base not in self.nodes:
            return base
        base = f"{base}@{path.source}"
        name, count = base, 1
        while name in self.nodes or name in self.network.nodes:
            count += 1
            name = f"{base}.{count}"
        return name


def simplify(nodes: list[Synapse], shape: Shape, name: str) -> list[Synapse]:
    """A chain of linear maps of frames of ``shape`` as at most [Flatten, one map].

    Raises:
        UnsupportedError: D2E-CANON-001 where no single synapse computes it.
    """
    chain = _sums(nodes)
    while (shorter := _step(chain, shape)) is not None:
        chain = shorter
    maps = [n for n in chain if not isinstance(n, Flatten)]
    if not maps or (len(maps) == 1 and chain[-1] is maps[0]):
        return chain
    return _as_dense(chain, shape, name)


def _sums(nodes: list[Synapse]) -> list[Synapse]:
    """The chain with average pooling as sums and a factor."""
    chain: list[Synapse] = []
    for node in nodes:
        if isinstance(node, AvgPool2d):
            chain += [SumPool2d(kernel_size=node.kernel_size, stride=node.stride, padding=node.padding)]
            chain += [Scale(scale=real(1.0 / math.prod(node.kernel_size)))]
        else:
            chain.append(node)
    return chain


def _leading_pool(chain: list[Synapse], sizes: tuple[int, ...]) -> tuple[list[SumPool2d], list[Synapse]]:
    """The pooling of one of these sizes that a chain begins with, if any, and what comes after it.

    Windows in a row multiply, and larger ones divide: y // a // b = y // (a * b), and both drop the same rest of the map.
    Factors move behind.
    """
    size, taken = 1, 0
    for i, node in enumerate(chain):
        if isinstance(node, SumPool2d) and _is_square_tile(node):
            size, taken = size * node.stride[0], i + 1
        elif not (isinstance(node, Scale) and node.scale.size == 1):
            break
    kept = max((s for s in sizes if size % s == 0), default=1)
    if kept == 1:
        return [], chain
    factors = [n for n in chain[:taken] if isinstance(n, Scale)]
    rest = [_square_tile(size // kept)] if size > kept else []
    return [_square_tile(kept)], [*rest, *factors, *chain[taken:]]


def _square_tile(size: int) -> SumPool2d:
    return SumPool2d(kernel_size=(size, size), stride=(size, size))


def _is_square_tile(pool: SumPool2d) -> bool:
    (high, wide), stride = pool.kernel_size, pool.stride
    return stride == (high, wide) and high == wide and pool.padding == (0, 0)


def _step(chain: list[Synapse], shape: Shape) -> list[Synapse] | None:
    """One merge of two neighbours, the last pair first so that factors move towards the weights after them."""
    shapes = [shape]
    for node in chain:
        shapes.append(output_shape("chain", node, shapes[-1]))
    for i in reversed(range(len(chain) - 1)):
        merged = algebra.merge(chain[i], chain[i + 1], shapes[i])
        if merged is not None:
            return [*chain[:i], *merged, *chain[i + 2 :]]
    return None


def _as_dense(chain: list[Synapse], shape: Shape, name: str) -> list[Synapse]:
    end = algebra.chain_shape(chain, shape, name)
    if len(end) != 1:
        kinds = " -> ".join(n.kind for n in chain)
        raise UnsupportedError(
            "D2E-CANON-001", f"the layers {kinds} between two populations do not merge into one", node=name,
            hint="Put a neuron layer between them, or use pooling whose stride equals its window and divides the map.",
        )
    flat: list[Synapse] = [Flatten()] if len(shape) > 1 else []
    return [*flat, Linear(weight=algebra.as_matrix(chain, shape, name))]


def add_constant_current(
    nodes: dict[str, Node], edges: list[Edge], name: str, neuron: Neuron, current: Array
) -> None:
    """Add an always-on neuron that sends ``current`` (broadcast against the population) at every step.

    Exact: the source fires once per step; its synapse holds the current. For a map [channels, *space] the synapse is
    a convolution of the single source with the table of currents as its kernel.
    """
    source, synapse = f"{name}.on", f"{name}.bias"
    table = np.broadcast_to(current, neuron.shape)
    one: Shape = (1,) * len(neuron.shape)
    integers = neuron.arithmetic is not None
    unit = integral(1 << neuron.arithmetic.fraction_bits) if neuron.arithmetic else real(1.0)
    nodes[source] = IF(
        shape=one, threshold=integral(1) if integers else real(1.0), bias=unit, reset="zero",
        arithmetic=neuron.arithmetic, metadata={HELPER: True},
    )
    kind = {2: Conv1d, 3: Conv2d}.get(len(neuron.shape))
    space = neuron.shape[1:]
    if kind is None and len(neuron.shape) != 1:
        raise UnsupportedError("D2E-CANON-004", f"a bias on frames of shape {neuron.shape} is not supported", node=name)
    if kind is None:
        nodes[synapse] = Linear(weight=table[:, None])
    else:
        kernel = np.flip(table, axis=tuple(range(1, table.ndim)))[:, None]
        nodes[synapse] = kind(weight=kernel, padding=tuple(n - 1 for n in space), stride=(1,) * len(space))
    edges += [Edge(source, synapse), Edge(synapse, name)]


def _smallest(array: Array) -> Array:
    """A constant array as a scalar."""
    return array if array.ndim == 0 or (array != array.flat[0]).any() else array.flat[0].reshape(())
