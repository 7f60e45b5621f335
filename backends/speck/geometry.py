"""The geometry of every population as one convolution of the chip, and everything that keeps it from one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from d2e.backends.speck.kernel import Misfit, Square, Window, merged, square, window
from d2e.backends.speck.layer import Link, Space
from d2e.backends.speck.limits import LIMITS, POOLINGS
from d2e.compiler.algebra import channels
from d2e.compiler.paths import Path, paths_from, paths_into
from d2e.ir import Conv1d, Finding, Flatten, Linear, Network, Neuron, SumPool2d, Synapse
from d2e.ir.nodes import Array, Shape


@dataclass(frozen=True, eq=False)
class Geometry:
    """What one population's convolution looks like, before its numbers are integers.

    Attributes:
        links: where events come from; ``kernels`` holds the feature range of each link's source.
        kernels: [out, in, size, size] in the type of the network's weights.
    """

    input: Space
    output: Space
    form: Square
    links: tuple[Link, ...]
    kernels: Array


class Faults(Exception):
    """Findings about one population."""

    def __init__(self, *findings: Finding) -> None:
        super().__init__(str(findings[0]))
        self.findings = findings


def space_of(shape: Shape) -> Space:
    """(features, height, width) of a frame's shape."""
    if not 1 <= len(shape) <= 3:
        raise Faults(Finding("D2E-SPECK-018", f"frames of shape {shape} are no maps", hint="Use [features, height, width]."))
    features, height, width = (shape[0], *([1] * (3 - len(shape))), *shape[1:])
    return features, height, width


def geometries(network: Network) -> tuple[dict[str, Geometry], list[Finding]]:
    """The geometry of every population that has one, and everything that keeps the others from it.

    Args:
        network: canonical with pooling kept; floats or integers.
    """
    spaces = {network.inputs[0]: input_space(network)}
    found: dict[str, Geometry] = {}
    findings: list[Finding] = []
    for name in network.populations:
        try:
            found[name] = _geometry(network, name, spaces)
            spaces[name] = found[name].output
        except Faults as faults:
            findings += faults.findings
            spaces[name] = space_of(network.neuron(name).shape)
    return found, findings


def input_space(network: Network) -> Space:
    """How the host addresses the input: as the map it is, or as features where only dense layers read it.

    A dense layer on a map larger than a kernel has no form on the chip; as features it has one.
    """
    shape = network.input.shape
    space = space_of(shape)
    paths = list(paths_from(network, network.inputs[0]))
    chains = [[network.nodes[s] for s in p.synapses] for p in paths]
    dense = all(isinstance(c[-1], Linear) and not any(isinstance(n, SumPool2d) for n in c) for c in chains if c)
    size = math.prod(shape)
    wide = max(space[1:]) > int(LIMITS["kernel_size"].value)
    return (size, 1, 1) if dense and wide and size <= int(LIMITS["features"].value) else space


def _geometry(network: Network, name: str, spaces: dict[str, Space]) -> Geometry:
    shape = network.neuron(name).shape
    paths = [p for p in paths_into(network, name) if not p.recurrent]  # the rules tell of the others
    if not paths:
        raise Faults(Finding("D2E-SPECK-016", "receives no events", name, "Connect it, or remove it."))
    parts = [_part(network, p, spaces[p.source], shape) for p in paths]
    windows = [w for _, w in parts]
    first = windows[0]
    for w in windows[1:]:
        if (w.input[1:], w.output) != (first.input[1:], first.output):
            raise Faults(Finding(
                "D2E-SPECK-016", f"adds up maps of {_size(first.input)} and {_size(w.input)}; one core takes one size", name,
                "Pool both branches to the same size before they meet."))
    form = square(windows)
    if isinstance(form, Misfit):
        raise Faults(_misfit(form, paths[0].label))
    links, kernels = _joined(paths, [pool for pool, _ in parts], merged(windows, form))
    geometry = Geometry((kernels.shape[1], *first.input[1:]), first.output, form, links, kernels)
    findings = list(_sizes(name, geometry))
    if findings:
        raise Faults(*findings)
    return geometry


def _part(network: Network, path: Path, space: Space, shape: Shape) -> tuple[int, Window]:
    """(pooling on the way, the linear map) of a path from maps of ``space`` into a population of ``shape``."""
    chain = [node for node in map(network.nodes.get, path.synapses) if isinstance(node, Synapse)]
    pooling = 1
    if len(chain) > 1 and isinstance(chain[0], SumPool2d):
        pooling = chain[0].kernel_size[0]
        space = (space[0], space[1] // pooling, space[2] // pooling)
    node = chain[-1]
    flattened = any(isinstance(n, Flatten) for n in chain)
    output = space_of(shape)
    if flattened and not isinstance(node, Linear):
        output = space  # elementwise behind a Flatten: the same neurons, still on their map
    if isinstance(node, Conv1d) and space[1] != 1:
        raise Faults(Finding("D2E-SPECK-018", "convolves a flattened map in one dimension", path.label,
                             "Convolve the map in two dimensions."))
    if isinstance(node, Linear) and not flattened and len(_shape(network, path)) > 1:
        raise Faults(Finding("D2E-SPECK-009", f"is a dense layer on the last axis of frames of {_shape(network, path)}",
                             path.label, "Flatten before it, or use a convolution of kernel size 1."))
    found = window(node, space, output)
    if found is None:
        raise Faults(Finding("D2E-SPECK-017", "scales the elements of a feature differently; a kernel is the same "
                             "everywhere", path.label, "Use one factor per feature."))
    return pooling, found


def _shape(network: Network, path: Path) -> Shape:
    """Of the frames a path starts from."""
    node = network.nodes[path.source]
    return node.shape if isinstance(node, Neuron) else network.input.shape


def _misfit(misfit: Misfit, label: str) -> Finding:
    code, hint = {
        "kernel": ("D2E-SPECK-010", "Use a smaller kernel; before a dense layer, pool or stride to a smaller map."),
        "stride": ("D2E-SPECK-011", "Use a stride of 1, 2, 4 or 8; a pool of another size than 1, 2 or 4, or one that "
                   "overlaps, becomes a stride too."),
        "padding": ("D2E-SPECK-012", "Use less padding."),
        "square": ("D2E-SPECK-013", "Use a square kernel, or a map whose sides differ by less."),
    }[misfit.limit]
    return Finding(code, misfit.why, label, hint)


def _joined(paths: Sequence[Path], pools: Sequence[int], kernels: Sequence[Array]) -> tuple[tuple[Link, ...], Array]:
    """Sources side by side as features of one core; equal kernels are shared, their events then add up."""
    blocks: list[Array] = []
    links = []
    for path, pooling, kernel in zip(paths, pools, kernels, strict=True):
        at = 0
        for block in blocks:
            if block.shape == kernel.shape and (block == kernel).all():
                break
            at += block.shape[1]
        else:
            blocks.append(kernel)
        links.append(Link(path.source, pooling, at))
    return tuple(links), np.concatenate(blocks, axis=1)


def _sizes(name: str, geometry: Geometry) -> Iterator[Finding]:
    """Features and maps within the fields of the chip."""
    limit = int(LIMITS["features"].value)
    for what, space in (("input", geometry.input), ("output", geometry.output)):
        if space[0] > limit:
            yield Finding("D2E-SPECK-015", f"has {space[0]} {what} features, the limit is {limit}", name,
                          "Use fewer features, or a map instead of a vector.")
        most = int(LIMITS[f"{what}_size"].value)
        if max(space[1:]) > most:
            yield Finding("D2E-SPECK-014", f"has {what} maps of {_size(space)}, the limit is {most} x {most}", name,
                          "Pool or stride to a smaller map" + (" before it." if what == "input" else "."))


def _size(space: Space) -> str:
    return f"{space[1]} x {space[2]}"


def bias_per_feature(bias: Array, shape: Shape, space: Space) -> Array | None:
    """A population's bias as one value per feature; None where it varies within one."""
    return channels(np.broadcast_to(bias, shape).reshape(space), space)


def varying_bias(name: str) -> Finding:
    """What to say where there is none."""
    return Finding("D2E-SPECK-017", "its bias varies within a feature; the chip has one per feature", name,
                   "Use one bias per channel; a bias before a padded layer without neurons between varies at the edges.")


def camera_poolings(maps: tuple[int, int], pooling: int) -> list[int]:
    """How the camera may pool for an input of ``maps`` that the network pools by ``pooling`` first; the largest first."""
    limit = int(LIMITS["camera"].value)
    return [p for p in reversed(POOLINGS) if p % pooling == 0 and p // pooling * max(maps) <= limit]
