"""A configuration as the flat arrays that the kernels read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from d2e.backends.speck.configuration import CnnLayer, Configuration, Destination
from d2e.backends.speck.layer import Space
from d2e.backends.speck.simulator import kernels as k
from d2e.backends.speck.simulator.cores import in_order, initial_states, spaces, used
from d2e.ir.nodes import Array

_TOP, _BOTTOM = (1 << 15) - 1, -(1 << 15)


@dataclass(frozen=True, eq=False)
class Planned:
    """A plan, and where its cores' neurons are.

    Attributes:
        arrays: for the kernels.
        cores: their numbers in the order of the plan, the output's last.
        spaces: (features, height, width) of each.
        starts: first neuron of each, and the number of all.
        output: first neuron of the output's cores.
    """

    arrays: k.Plan
    cores: tuple[int, ...]
    spaces: tuple[Space, ...]
    starts: tuple[int, ...]
    output: int

    @property
    def neurons(self) -> int:
        """Of all cores."""
        return self.starts[-1]

    def heard(self, cores: set[int]) -> k.Plan:
        """The plan with the spikes of these cores logged."""
        table = self.arrays.cores.copy()
        table[:, k.HEARD] = [core in cores for core in self.cores]
        return self.arrays._replace(cores=table)

    def work(self, log: int = 0) -> k.Work:
        """Room for a run that logs up to so many spikes."""
        found = int(self.arrays.cores[-1, k.FOUND]) + _most(self.arrays.cores[-1])
        count = len(self.cores)
        return k.Work(
            np.empty(self.neurons, np.int16), np.zeros(self.neurons, np.int32), np.zeros((3, count), np.int64),
            np.empty(found, np.int32), np.zeros((3, count), np.int64), np.zeros(count, np.int64),
            np.empty((2, log), np.int64), np.zeros(2, np.int64),
        )

    def of_cores(self, neurons: Array, first: int = 0) -> dict[int, Array]:
        """Values [..., neurons from ``first`` on] as core -> [..., features, height, width]."""
        found = {}
        for core, (features, height, width), start in zip(self.cores, self.spaces, self.starts, strict=False):
            if start >= first:
                own = neurons[..., start - first : start - first + features * height * width]
                found[core] = np.moveaxis(own.reshape(*own.shape[:-1], height, width, features), -1, -3)
        return found


def make_plan(configuration: Configuration) -> Planned:
    """The plan of a configuration.

    Raises:
        UnsupportedError: D2E-SPECK-060, -061 where nothing bounds an event's spikes, or they lead to no layer.
    """
    last = {part.layer for part in configuration.populations[configuration.output].parts}
    cores = sorted(in_order(configuration), key=lambda core: core in last)
    layers = [configuration.cnn_layers[core] for core in cores]
    outs = [spaces(layer)[1] for layer in layers]
    starts = np.cumsum([0, *(np.prod(out) for out in outs)])
    inputs = used(configuration.source.destinations)
    onward = [used(layer.destinations) for layer in layers]
    leaks = configuration.slow_clock_hz is not None
    weights = [_weights(layer) for layer in layers]
    biases = [np.zeros(0, np.int16) if layer.biases is None or not leaks else layer.biases for layer in layers]
    table = np.zeros((len(cores), k.COLUMNS), np.int64)
    for row, layer, own_biases in zip(table, layers, biases, strict=True):
        _fill(row, layer, own_biases)
    table[:, k.NEURONS] = starts[:-1]
    table[:, k.LAST_OUT] = len(inputs) + np.cumsum([len(own) for own in onward])
    table[:, k.FIRST_OUT] = table[:, k.LAST_OUT] - [len(own) for own in onward]
    table[:, k.WEIGHTS] = _starts([w.size for w in weights])
    table[:, k.BIAS] = np.where([b.size for b in biases], _starts([b.size for b in biases]), -1)
    table[:, k.FOUND] = _starts([_most(row) for row in table])
    phases = [_phases(layer) for layer in layers]
    table[:, k.PHASES] = _starts([len(p) for p in phases])
    first_output = next(i for i, core in enumerate(cores) if core in last)
    arrays = k.Plan(
        table, np.concatenate(phases),
        np.array([_destination(cores, d) for d in (*inputs, *(d for own in onward for d in own))], np.int64).reshape(-1, 3),
        len(inputs), np.concatenate(weights), np.concatenate([_places_first(initial_states(own)) for own in layers]),
        np.concatenate(biases).astype(np.int16),
    )
    return Planned(arrays, tuple(cores), tuple(outs), tuple(map(int, starts)), int(starts[first_output]))


def _starts(sizes: list[int]) -> Array:
    return np.cumsum([0, *sizes])[:-1]


def _places_first(array: Array) -> Array:
    """[feature, y, x] flat as [y, x, feature]."""
    return np.moveaxis(array, 0, -1).ravel()


def _most(row: Array) -> int:
    """Neurons of a core that one event reaches, at most."""
    windows = -(-row[k.KERNEL] // row[[k.STRIDE_Y, k.STRIDE_X]])
    return int(row[k.FEATURES] * np.minimum(windows, row[[k.HEIGHT, k.WIDTH]]).prod())


def _destination(cores: list[int], destination: Destination) -> tuple[int, int, int]:
    return cores.index(destination.layer), destination.pooling, destination.feature_shift


def _fill(row: Array, layer: CnnLayer, biases: Array) -> None:
    """What a layer's columns hold whatever the other layers are."""
    d = layer.dimensions
    row[[k.FEATURES_IN, k.HEIGHT_IN, k.WIDTH_IN]], row[[k.FEATURES, k.HEIGHT, k.WIDTH]] = spaces(layer)
    row[k.KERNEL] = d.kernel_size
    row[[k.STRIDE_X, k.STRIDE_Y]], row[[k.PAD_X, k.PAD_Y]] = d.stride, d.padding
    row[[k.LOW, k.HIGH, k.TO_ZERO]] = layer.threshold_low, layer.threshold_high, layer.return_to_zero
    row[k.WIDE] = _wide(layer, biases)


def _wide(layer: CnnLayer, biases: Array) -> bool:
    """Whether a sum of a state and a weight can leave 16 bits.

    Without biases that lift it, a state stays below the threshold, or where it began if that is higher, as long as a
    spike takes at least what an event adds.
    """
    most, least = max(int(layer.weights.max()), 0), min(int(layer.weights.min()), 0)
    start = initial_states(layer)
    piles_up = (biases > 0).any() or (most > layer.threshold_high and not layer.return_to_zero)
    highest = max(layer.threshold_high - 1, int(start.max())) + most
    lowest = min(layer.threshold_low, int(start.min())) + least
    return bool(piles_up) or highest > _TOP or lowest < _BOTTOM


def _phases(layer: CnnLayer) -> Array:
    """(begin, rows, columns) of the taps of every phase (y + padding) % stride, (x + padding) % stride."""
    d = layer.dimensions
    (stride_x, stride_y), features = d.stride, d.output_shape[0]
    found, begin = [], 0
    for phase_y in range(stride_y):
        for phase_x in range(stride_x):
            rows, columns = (len(range(p, d.kernel_size, s)) for p, s in ((phase_y, stride_y), (phase_x, stride_x)))
            found.append((begin, rows, columns))
            begin += rows * columns * features
    return np.array(found, np.int64)


def _weights(layer: CnnLayer) -> Array:
    """Flat [feature in][phase][row][column][feature out]; taps fall as the neurons that they reach rise."""
    stride_x, stride_y = layer.dimensions.stride
    taps = layer.weights.transpose(1, 3, 2, 0)  # [feature in, y, x, feature out]
    phases = [
        taps[:, phase_y::stride_y, phase_x::stride_x][:, ::-1, ::-1].reshape(len(taps), -1)
        for phase_y in range(stride_y) for phase_x in range(stride_x)
    ]
    return np.concatenate(phases, axis=1).astype(np.int8).ravel()
