"""A configuration as a sinabs model: the source text that rebuilds the quantised network, and its weights.

Parts of a population on several cores are put together, features spread for the readout are drawn back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from d2e.backends.speck.configuration import CnnLayer, Configuration, Placed
from d2e.backends.speck.layer import Link, Space
from d2e.ir.nodes import Array

INPUT = ""
"""Stands for the network's input where a `Link` names its source."""


class NotSinabs(Exception):
    """What sinabs has no layer for, in one sentence."""


@dataclass(frozen=True, eq=False)
class Joined:
    """A population as one convolution and its neurons, y before x.

    Attributes:
        core: its first core, which holds what all its cores share.
        input, output: (features, height, width).
        weights: float32 [out, in, kernel, kernel], integers.
        biases: float32 [out], or None.
        initial: float32 [output], or None.
        links: where events come from.
    """

    name: str
    core: CnnLayer
    input: Space
    output: Space
    weights: Array
    biases: Array | None
    initial: Array | None
    links: tuple[Link, ...]


def joined(configuration: Configuration) -> list[Joined]:
    """The populations in the order of the network.

    Raises:
        NotSinabs: with the population that has no equal in sinabs.
    """
    found = []
    for name, placed in configuration.populations.items():
        parts = [(configuration.cnn_layers[part.layer], part) for part in placed.parts]
        core, d = parts[0][0], parts[0][0].dimensions
        if core.threshold_high < 1:
            raise NotSinabs(f"{name!r} has a threshold of {core.threshold_high}, sinabs' must be positive")
        weights, biases, initial = (
            np.concatenate([_kept(c, kind)[:: p.spread][: p.count] for c, p in parts])
            for kind in ("weights", "biases", "neurons_initial_value")
        )
        found.append(Joined(
            name, core, (d.input_shape[0], *d.input_shape[:0:-1]), (len(weights), *d.output_shape[:0:-1]),
            _float(weights.swapaxes(2, 3)), _float(biases) if biases.any() else None,
            _float(initial.swapaxes(1, 2)) if initial.any() else None, _links(configuration, name),
        ))
    return found


def _kept(core: CnnLayer, kind: str) -> Array:
    """Weights, biases or initial states of a core; zeros where it has none."""
    values: Array | None = getattr(core, kind)
    if values is not None:
        return values
    return np.zeros(core.dimensions.output_shape if kind == "neurons_initial_value" else len(core.weights))


def _float(values: Array) -> Array:
    return np.ascontiguousarray(values, np.float32)


def _links(configuration: Configuration, name: str) -> tuple[Link, ...]:
    """What feeds a population; every part of a source must send to every part of it, alike."""
    parts = {INPUT: [-1], **{n: cores(placed) for n, placed in configuration.populations.items()}}
    reached = [Counter(_into(configuration, core)) for core in parts[name]]
    if any(other != reached[0] for other in reached):
        raise NotSinabs(f"the cores of {name!r} do not all receive the same events")
    order = list(parts)
    links = []
    for link in dict.fromkeys(link for link, _ in reached[0]):
        times = {reached[0][link, core] for core in parts[link.source]}
        if len(times) > 1:
            raise NotSinabs(f"only some cores of {link.source!r} send to {name!r}")
        if order.index(link.source) >= order.index(name):
            raise NotSinabs(f"{name!r} receives its own spikes, or those of a population that comes after it")
        links += [link] * times.pop()
    return tuple(sorted(links, key=lambda link: order.index(link.source)))


def _into(configuration: Configuration, core: int) -> Iterator[tuple[Link, int]]:
    """Every destination that names a core: a link, its shift that of the source's feature 0, and the sending core."""
    for d in configuration.source.destinations:
        if d.layer == core:
            yield Link(INPUT, d.pooling, d.feature_shift), -1
    for name, placed in configuration.populations.items():
        for part in placed.parts:
            for d in configuration.cnn_layers[part.layer].destinations:
                if d.layer != core or not d.enable:
                    continue
                if part.spread > 1:
                    raise NotSinabs(f"{name!r} is spread for the readout and feeds another population")
                yield Link(name, d.pooling, d.feature_shift - part.first), part.layer


def cores(placed: Placed) -> list[int]:
    """The cores of a population."""
    return [part.layer for part in placed.parts]


# --------------------------------------------------------------------------- text


def model(configuration: Configuration) -> tuple[str, dict[str, Array]]:
    """The text of sinabs_model.py and the arrays of its weights.

    Raises:
        NotSinabs: with the population that has no equal in sinabs.
    """
    every = joined(configuration)
    index = {p.name: i for i, p in enumerate(every)}
    spaces = {INPUT: configuration.source.space, **{p.name: p.output for p in every}}
    modules: list[str] = []
    lines: list[str] = []
    for i, population in enumerate(every):
        operands = [_operand(population, link, spaces, index, modules, k) for k, link in enumerate(population.links)]
        if not operands:
            raise NotSinabs(f"{population.name!r} receives nothing")
        current = operands[0]
        for k, operand in enumerate(operands[1:]):
            modules.append(f"self.merge{i}_{k} = Merge()")
            current = f"self.merge{i}_{k}({current}, {operand})"
        modules += [
            f"# {population.name}", f"self.conv{i} = {_conv(i, population)}", f"self.spikes{i} = {_spikes(i, population)}",
        ]
        lines.append(f"s{i} = self.spikes{i}(self.conv{i}({current}))")
    lines.append(f"return s{index[configuration.output]}")
    text = TEMPLATE.format(
        shape=tuple(configuration.source.space), modules="\n        ".join(modules), forward="\n        ".join(lines),
        notes="".join(f"\n- {note}" for note in _notes(configuration, every)),
    )
    return text, _arrays(every)


def _operand(
    population: Joined, link: Link, spaces: Mapping[str, Space], index: Mapping[str, int], modules: list[str], k: int
) -> str:
    """The expression of what one link brings, as frames of the population's input; adds the modules it needs."""
    i = index[population.name]
    value = "x" if link.source == INPUT else f"s{index[link.source]}"
    features, height, width = spaces[link.source]
    if link.pooling > 1:
        modules.append(f"self.pool{i}_{k} = SumPool2d({link.pooling})")
        value = f"self.pool{i}_{k}({value})"
    if (height // link.pooling, width // link.pooling) != population.input[1:]:
        raise NotSinabs(f"what {population.name!r} receives does not fill its map of {population.input[1:]}")
    after = population.input[0] - link.shift - features
    if link.shift < 0 or after < 0:
        raise NotSinabs(f"{population.name!r} does not receive every feature of what feeds it")
    if link.shift or after:
        modules.append(f"self.shift{i}_{k} = nn.ConstantPad3d((0, 0, 0, 0, {link.shift}, {after}), 0.0)")
        value = f"self.shift{i}_{k}({value})"
    return value


def _conv(i: int, population: Joined) -> str:
    d = population.core.dimensions
    return (
        f"_conv(weights, {i}, {population.input[0]}, {population.output[0]}, {d.kernel_size}, stride={d.stride[::-1]}, "
        f"padding={d.padding[::-1]})"
    )


def _spikes(i: int, population: Joined) -> str:
    core = population.core
    return (
        f"_spikes(weights, {i}, threshold={core.threshold_high}, lowest={core.threshold_low}, "
        f"to_zero={core.return_to_zero}, batch_size=batch_size, spike_fn=spike_fn)"
    )


def _notes(configuration: Configuration, every: Sequence[Joined]) -> Iterator[str]:
    """What differs for this network."""
    leaking = [p.name for p in every if p.biases is not None]
    if leaking:
        yield (f"Biases of {', '.join(leaking)}: the chip adds them at every edge of its slow clock "
               f"({configuration.slow_clock_hz:g} Hz), torch at every time step.")
    if any(p.initial is not None for p in every):
        yield "Some neurons start above or below 0; reset_states() forgets it."
    features = {INPUT: configuration.source.space[0], **{p.name: p.output[0] for p in every}}
    beside = [p.name for p in every if any(features[link.source] != p.input[0] for link in p.links)]
    if beside:
        yield f"{', '.join(beside)}: takes features side by side, for which DynapcnnNetwork has no layer."
    if any(d.pooling > 1 for d in configuration.source.destinations):
        yield "The input is pooled on the host, for which DynapcnnNetwork has no layer without its camera."


def _arrays(every: Sequence[Joined]) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    for i, population in enumerate(every):
        kinds = {"weight": population.weights, "bias": population.biases, "initial": population.initial}
        arrays |= {f"{kind}{i}": values for kind, values in kinds.items() if values is not None}
    return arrays


TEMPLATE = '''"""The quantised network as a sinabs model: ``build()``; written by d2e for those who go on in sinabs 3.1.3.

Input and output are [batch * time, features, height, width], as sinabs' squeezing layers take them. Weights, thresholds
and lowest states are the integers of the chip; with samna, ``DynapcnnNetwork(build(), input_shape=INPUT_SHAPE,
discretize=False)`` takes them as they are. What this model computes is sinabs' and not the chip's:
- Inputs of a time step are summed, the chip takes event by event and fires at most once for each.{notes}
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sinabs.activation import MembraneReset, MembraneSubtract, MultiSpike
from sinabs.layers import IAFSqueeze, Merge, SumPool2d  # noqa: F401
from torch import nn

INPUT_SHAPE = {shape}


class Network(nn.Module):
    """The layers, in the order of the network."""

    def __init__(self, weights, batch_size, spike_fn):
        super().__init__()
        {modules}

    def forward(self, x):
        """Frames [batch * time, *INPUT_SHAPE] to the spikes of the output."""
        {forward}


def _conv(weights, i, features, out, kernel_size, stride, padding):
    conv = nn.Conv2d(features, out, kernel_size, stride, padding, bias=f"bias{{i}}" in weights)
    conv.weight.data = torch.from_numpy(weights[f"weight{{i}}"])
    if conv.bias is not None:
        conv.bias.data = torch.from_numpy(weights[f"bias{{i}}"])
    return conv


def _spikes(weights, i, threshold, lowest, to_zero, batch_size, spike_fn):
    neurons = IAFSqueeze(
        batch_size=batch_size, spike_threshold=torch.tensor(float(threshold)), min_v_mem=float(lowest), spike_fn=spike_fn,
        reset_fn=MembraneReset() if to_zero else MembraneSubtract(),
    )
    if f"initial{{i}}" in weights:
        neurons.v_mem = torch.from_numpy(weights[f"initial{{i}}"]).repeat(batch_size, 1, 1, 1)
    return neurons


def build(batch_size: int = 1, spike_fn=MultiSpike) -> nn.Module:
    """The network with the weights beside this file; ``spike_fn``: sinabs' MultiSpike, SingleSpike …."""
    with np.load(Path(__file__).with_name("sinabs_weights.npz")) as weights:
        return Network(dict(weights), batch_size, spike_fn)
'''
