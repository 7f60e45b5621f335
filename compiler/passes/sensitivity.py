"""Shares a budget of bits out: what each width of each layer changes at the output, then a search over whole networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from joblib import Parallel, delayed

from d2e.compiler import activity
from d2e.compiler.passes.bits import Layer, allocate
from d2e.compiler.passes.canonicalise import HELPER
from d2e.compiler.passes.layer import weighted
from d2e.ir import Network, UnsupportedError

NARROWEST = 2
_SAMPLES = 128
_TRIED = 8

One = Callable[[str, int, activity.Seen], Network]
Whole = Callable[[Mapping[str, int], activity.Seen], Network]


def share_out(network: Network, seen: activity.Seen, budget: float, widest: int, one: One, whole: Whole) -> dict[str, int]:
    """Population -> width, at most ``budget`` bits per weight in the mean.

    The errors of single layers add up to a first choice. Then that one, one width for all and its neighbours, in which one
    layer must take another width, are tried as whole networks. Weights are rounded on one half of the samples, errors
    measured on the other. joblib runs the measurements; how many at a time is the
    caller's ``joblib.parallel_config``.

    Args:
        network: folded floats.
        seen: its activity.
        budget: from 2 on.
        widest: width.
        one: the network with one population in integers, rounded on some activity.
        whole: the integer network.
    """
    fit, held = seen.part(slice(0, _SAMPLES, 2)), seen.part(slice(1, _SAMPLES, 2))
    held = held if len(held.frames) else fit
    layers = [
        Layer(name, sum(array.size for array in weights.values()), {})
        for name in network.populations if not network.neuron(name).metadata.get(HELPER)
        and (weights := weighted(network, name))
    ]
    choices = [(layer.name, width) for layer in layers for width in range(NARROWEST, widest + 1)]
    found = Parallel(prefer="threads")(delayed(_alone)(network, fit, held, one, *choice) for choice in choices)
    costs = dict(zip(choices, found, strict=True))
    layers = [replace(layer, errors={w: costs[n, w] for n, w in choices if n == layer.name}) for layer in layers]
    tried: list[dict[str, int]] = []
    for chosen in _candidates(layers, budget):
        if chosen not in tried and len(tried) < _TRIED:
            tried.append(chosen)
    errors = Parallel(prefer="threads")(delayed(_together)(network, fit, held, whole, chosen) for chosen in tried)
    return tried[min(range(len(tried)), key=lambda i: errors[i])]


def _alone(network: Network, fit: activity.Seen, held: activity.Seen, one: One, name: str, width: int) -> float:
    try:
        changed = one(name, width, fit)
    except UnsupportedError:
        return math.inf
    fired = held.with_spikes(name, activity.replay(changed, name, held)[0])
    return activity.output_error(network, changed, held, activity.carried(network, name, fired))


def _together(
    network: Network, fit: activity.Seen, held: activity.Seen, whole: Whole, chosen: Mapping[str, int]
) -> float:
    try:
        changed = whole(chosen, fit)
    except UnsupportedError:
        return math.inf
    return activity.output_error(network, changed, held, activity.followed(changed, held))


def _candidates(layers: list[Layer], budget: float) -> Iterator[dict[str, int]]:
    """The first choice, one width for all, then what forcing one layer, the largest first, to less or more bits gives."""
    first = allocate(layers, budget)
    yield first
    yield {layer.name: int(budget) for layer in layers}
    for layer in sorted(layers, key=lambda each: -each.weights):
        width = first[layer.name]
        for kept in (range(NARROWEST, width), range(width + 1, width + 2)):
            errors = {w: e for w, e in layer.errors.items() if w in kept}
            if errors:
                forced = [replace(each, errors=errors) if each is layer else each for each in layers]
                chosen = allocate(forced, budget)
                if sum(each.weights * chosen[each.name] for each in layers) <= budget * sum(each.weights for each in layers):
                    yield chosen
