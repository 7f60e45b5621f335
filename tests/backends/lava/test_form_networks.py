"""The random networks of bursts and multi-threshold neurons are what map_neurons writes, and reach what they are for."""

from __future__ import annotations

from collections import Counter

import numpy as np
from tests.backends.lava.form_networks import FORMS, LAYERS, random_forms

from d2e.backends.loihi2.forms import is_graded, lowered, replica_of, replicas
from d2e.ir import verified
from d2e.ir.reference import run

SEEDS = 4 * len(FORMS) * len(LAYERS)


def test_networks_are_lowered_and_their_levels_share_a_membrane() -> None:
    seen: Counter[str] = Counter()
    for seed in range(SEEDS):
        network, frames = random_forms(seed)
        assert lowered(verified(network)) is None
        trace = run(network, frames, "state")
        for names in replicas(network).values():
            levels = [replica_of(network.neuron(n)) for n in names]
            signs = [-1 if level and level.level < 0 else 1 for level in levels]
            assert all((s * trace.u[n] == trace.u[names[0]]).all() for n, s in zip(names, signs, strict=True))
            seen["replicated"] += len(names) > 1
            seen["signed"] += len(set(signs)) > 1
            seen["higher levels"] += len(names) > 1 and all(trace.counts[n].any() for n in names)
        graded = [n for n in network.populations if is_graded(network.neuron(n))]
        seen["graded"] += len(graded)
        seen["bursts"] += sum(bool((np.abs(trace.spikes[n]) > 1).any()) for n in graded)
        seen["negative"] += sum(bool((trace.spikes[n] < 0).any()) for n in graded)
    least = {"replicated": 100, "signed": 15, "higher levels": 40, "graded": 50, "bursts": 20, "negative": 3}
    assert all(seen[what] >= count for what, count in least.items()), seen
