"""What a population asks of a core: its neurons, the synapses that arrive and the axons that leave, by size of its tile."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from d2e.backends.loihi2.limits import LIMITS
from d2e.backends.loihi2.placement.model import STATE_WORDS, Load, row_words
from d2e.compiler.passes.canonicalise import HELPER
from d2e.compiler.paths import Path, paths_from, paths_into
from d2e.compiler.replicas import replica_of
from d2e.ir import Conv1d, Conv2d, Delay, Flatten, Linear, Network, Neuron, Node, Scale, infer_shapes
from d2e.ir.nodes import Array, Shape, _Pool
from d2e.ir.shapes import padding_pairs


@dataclass(frozen=True)
class Dense:
    """Every source reaches every target: an axon per source, its synapses in whole words."""

    axons: int

    def cost(self, channels: int, neurons: int) -> tuple[int, int]:
        """(words, axons in) of a tile."""
        return self.axons * row_words(neurons), self.axons


@dataclass(frozen=True)
class Single:
    """One source per target, as of a reset onto itself: an axon and a word each."""

    def cost(self, channels: int, neurons: int) -> tuple[int, int]:
        """(words, axons in) of a tile."""
        return neurons * row_words(1), neurons


@dataclass(frozen=True)
class Kernel:
    """A convolution or pooling: a core stores the kernels of its channels once, whatever the positions.

    A row holds the weights of one input channel at one place of the kernel for the core's channels, in whole words. Spikes
    carry their position; the tables show an axon in per step of the stride along the width.

    Attributes:
        rows: of one group of channels.
        per_group: output channels of a group.
        inputs: input channels of a group.
        bits: of a weight.
        kernel, stride, dilation, before: of each axis of space; ``before`` is the padding in front.
    """

    rows: int
    per_group: int
    inputs: int
    bits: int
    kernel: Shape
    stride: Shape
    dilation: Shape
    before: Shape

    def cost(self, channels: int, neurons: int) -> tuple[int, int]:
        """(words, axons in) of a tile."""
        whole, rest = divmod(channels, self.per_group)
        words = whole * row_words(self.per_group, self.bits) + row_words(rest, self.bits)
        return self.rows * words, self.stride[-1]


Synapses: TypeAlias = "Dense | Single | Kernel"


@dataclass(frozen=True)
class Layer:
    """A population with what arrives and leaves.

    Attributes:
        name, shape: of the population.
        family: the population of the source network that it is a part of (replicas, always-on neurons).
        states: 24-bit words of state of a neuron.
        arriving: (source, synapses) of every path into it.
        leaving_maps: for every path out through a kernel, in how many groups of channels the target's cores hold it.
        leaving: other paths out; the output is one.
    """

    name: str
    shape: Shape
    family: str
    states: int
    arriving: tuple[tuple[str, Synapses], ...]
    leaving_maps: tuple[int, ...]
    leaving: int

    def load(self, extent: Shape) -> Load:
        """What a tile of that extent asks of a core."""
        neurons, positions = math.prod(extent), math.prod(extent[1:]) if len(extent) > 1 else extent[0]
        costs = [synapses.cost(extent[0], neurons) for _, synapses in self.arriving]
        return Load(
            neurons=-(-neurons * self.states // STATE_WORDS),
            synaptic_words=sum(words for words, _ in costs),
            axons_in=sum(axons for _, axons in costs),
            axons_out=positions * len(self.leaving_maps) + neurons * self.leaving,
            axon_memory=positions * sum(self.leaving_maps),
            groups=1,
        )


def layers(network: Network) -> dict[str, Layer]:
    """Every population of a lowered network, in order."""
    shapes = infer_shapes(network)
    arriving = {
        name: tuple((p.source, _synapses(network, p, shapes[p.source])) for p in _lists(network, name))
        for name in network.populations
    }
    groups = {name: _channel_groups(shapes[name], [s for _, s in own]) for name, own in arriving.items()}
    found = {}
    for name in network.populations:
        out = list(paths_from(network, name))
        maps = [p.target for p in out if p.target in arriving
                and isinstance(_synapses(network, p, shapes[name]), Kernel)]
        found[name] = Layer(
            name, shapes[name], _family(network, name), _states(network.neuron(name)), arriving[name],
            tuple(groups[target] for target in maps), len(out) - len(maps),
        )
    return found


def _lists(network: Network, name: str) -> list[Path]:
    """The paths into a population that need lists of synapses of their own.

    A synapse holds its delay: dense layers of different delays between the same two populations are one list, where no
    two of them connect the same neurons.
    """
    paths = list(paths_into(network, name))
    alike: dict[str, list[Path]] = {}
    for path in paths:
        if any(isinstance(network.nodes[s], Linear) for s in path.synapses):
            alike.setdefault(path.source, []).append(path)
    for several in alike.values():
        if len(several) > 1 and _are_disjoint([_matrix(network, path) for path in several]):
            paths = [path for path in paths if path not in several[1:]]
    return paths


def _matrix(network: Network, path: Path) -> Array:
    return next(node.weight for s in path.synapses if isinstance(node := network.nodes[s], Linear))


def _are_disjoint(matrices: list[Array]) -> bool:
    """Whether no element is non-zero in two of them."""
    taken = matrices[0] != 0
    for matrix in matrices[1:]:
        here = matrix != 0
        if (taken & here).any():
            return False
        taken |= here
    return True


def _synapses(network: Network, path: Path, source: Shape) -> Synapses:
    """What the one linear map of a path asks of a core; a factor before it is part of its weights."""
    node: Node | None = None
    for name in path.synapses:
        if not isinstance(network.nodes[name], (Flatten, Delay)):
            node = network.nodes[name]
    size = math.prod(source)
    if size == 1 and not (node is None or isinstance(node, Scale)):
        return Dense(1)  # as of a bias: the kernel of a single source has a weight for every target
    if isinstance(node, Linear):
        return Dense(size)
    if isinstance(node, (Conv1d, Conv2d)):
        out, inputs, *kernel = node.weight.shape
        bits = node.quantized.bits if node.quantized else int(LIMITS["weight_bits"].value)
        before = tuple(pair[0] for pair in padding_pairs(node))
        return Kernel(inputs * math.prod(kernel), out // node.groups, inputs, bits, tuple(kernel), node.stride,
                      node.dilation, before)
    if isinstance(node, _Pool):
        return Kernel(math.prod(node.kernel_size), 1, 1, 1, node.kernel_size, node.stride, (1, 1), node.padding)
    return Single()


def _channel_groups(shape: Shape, arriving: list[Synapses]) -> int:
    """In how many groups its kernels have to be cut to fit a core."""
    words = sum(s.cost(shape[0], 0)[0] for s in arriving if isinstance(s, Kernel))
    return max(1, -(-words // int(LIMITS["synaptic_words"].value)))


def _family(network: Network, name: str) -> str:
    """The population that a replica or helper belongs to, so that a layer may share cores with its own parts."""
    node = network.neuron(name)
    if node.metadata.get(HELPER):
        return _family(network, next(p.target for p in paths_from(network, name)))
    level = replica_of(node)
    return name if level is None else level.of


def _states(node: Neuron) -> int:
    """24-bit words of state: u and v, what is still to be taken by a late reset, and steps left to rest."""
    return STATE_WORDS + (node.reset_when == "next") + (node.refractory > 0)
