"""What a network must satisfy on Speck beyond the geometry of its layers: small named functions; all findings count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from d2e.backends.speck.geometry import Geometry, bias_per_feature, camera_poolings, geometries, varying_bias
from d2e.backends.speck.limits import LIMITS
from d2e.compiler.paths import all_paths, paths_from, paths_into
from d2e.ir import LI, CubaLIF, Delay, Finding, MultiThreshold, Network, Neuron, Output, SumPool2d
from d2e.ir.nodes import Array, Shape

Rule = Callable[[Network], Iterator[Finding]]


def _neurons(network: Network) -> Iterator[tuple[str, Neuron]]:
    for name in network.populations:
        yield name, network.neuron(name)


def input_counts_events(network: Network) -> Iterator[Finding]:
    """An event has no sign; a payload of n is n events."""
    if network.input.coding == "signed":
        yield Finding("D2E-SPECK-001", "takes signed payloads, an event of the chip has no sign", network.inputs[0],
                      "Give both signs as two features, as a camera does.")


def output_is_population(network: Network) -> Iterator[Finding]:
    """The output reads the spikes of exactly one population, directly."""
    name = network.outputs[0]
    paths = list(paths_into(network, name))
    plain = len(paths) == 1 and not paths[0].synapses and isinstance(network.nodes[paths[0].source], Neuron)
    if not plain:
        yield Finding("D2E-SPECK-002", "the network ends in a layer without neurons; only spikes leave a core",
                      paths[0].label if paths else name, "End it with d2e.nn.IF.")


def readout_spikes(network: Network) -> Iterator[Finding]:
    """No neuron of the chip shows its membrane to the next."""
    for name, node in _neurons(network):
        if isinstance(node, LI):
            yield Finding("D2E-SPECK-003", "is a readout of its membrane; every neuron of the chip sends spikes", name,
                          "End the network with d2e.nn.IF and count its spikes.")


def nothing_leaks(network: Network) -> Iterator[Finding]:
    """A core changes a state when an event comes, and adds a constant at a slow clock; nothing decays."""
    for name, node in _neurons(network):
        keep = node.decays[1]
        one = 1 if node.arithmetic is None else 1 << node.arithmetic.decay_bits
        current = isinstance(node, CubaLIF) and bool(np.any(node.decay_syn != 0))
        kept = 1.0 if keep is None else float(keep.min()) / one
        if isinstance(node, LI) or not (current or kept != 1):
            continue
        what = "has a synaptic current" if current else f"leaks (it keeps {kept:.3g} of its state per step)"
        yield Finding("D2E-SPECK-004", f"{what}; the chip's neurons integrate without decay", name,
                      "Train it with d2e.nn.IF.")


def resets_by_threshold(network: Network) -> Iterator[Finding]:
    """A spike takes the threshold, or sets the state to 0."""
    for name, node in _neurons(network):
        if isinstance(node, (LI, MultiThreshold)):
            continue
        if node.reset == "none":
            yield Finding("D2E-SPECK-005", "never resets, the chip's neurons always do", name, "Use reset='subtract'.")
        elif node.reset == "value" and (node.v_reset >= node.threshold).any():
            yield Finding("D2E-SPECK-005", "resets to a value above its threshold", name, "Use reset='subtract'.")
        elif node.reset == "subtract" and node.reset_by is not None and (node.reset_by != node.threshold).any():
            yield Finding("D2E-SPECK-005", "takes another amount than its threshold per spike, the chip's neurons take the "
                          "threshold", name, "Leave reset_by out.")


def never_waits(network: Network) -> Iterator[Finding]:
    """There is no refractory period."""
    for name, node in _neurons(network):
        if node.refractory:
            yield Finding("D2E-SPECK-006", "has a refractory period, the chip's neurons have none", name,
                          "Train without it.")


def levels_count(network: Network) -> Iterator[Finding]:
    """Levels must say how many equal spikes to send: one neuron fires the smallest level again and again."""
    for name, node in _neurons(network):
        if not isinstance(node, MultiThreshold):
            continue
        if node.signed:
            yield Finding("D2E-SPECK-007", "sends spikes of both signs, an event of the chip has none", name,
                          "Use MultiThreshold(signed=False).")
        elif node.reset != "subtract" or node.reset_by is not None:
            yield Finding("D2E-SPECK-007", "does not take the level it has crossed, so its spikes cannot be sent one by "
                          "one", name, "Use reset='subtract'.")
        elif multiples(node) is None:
            yield Finding("D2E-SPECK-007", "has levels or payloads that are no multiples of the smallest, as repeated "
                          "spikes of one neuron are", name, "Use levels 1, 2, 3 … or 1, 2, 4 … times the smallest.")


def multiples(node: MultiThreshold) -> Array | None:
    """How many times the smallest each level is, if levels and payloads agree on it (to 2 %, integers are rounded)."""
    sent = node.levels if node.payloads is None else node.payloads
    times = np.rint(sent / sent[0]).astype(np.int64)
    agree = np.allclose(sent / sent[0], times, rtol=1e-6) and np.allclose(node.levels / node.levels[0], times, rtol=0.02)
    return times if agree and times[0] == 1 and (np.diff(times) > 0).all() else None


def nothing_returns(network: Network) -> Iterator[Finding]:
    """Recurrence and delays need a clock of steps; events go on at once."""
    told: set[str] = set()
    for path in all_paths(network):
        if path.recurrent and path.label not in told:
            told.add(path.label)
            yield Finding("D2E-SPECK-008", "feeds back to an earlier step; the chip has no steps, its events go on at once",
                          path.label, "Use a feed-forward network.")
    for name, node in network.nodes.items():
        if isinstance(node, Delay) and node.steps:
            yield Finding("D2E-SPECK-008", f"delays by {node.steps} steps; the chip has no steps, its events go on at once",
                          name, "Train without delays.")


SOURCE_RULES: tuple[Rule, ...] = (
    input_counts_events, output_is_population, readout_spikes, nothing_leaks, resets_by_threshold, never_waits, levels_count,
    nothing_returns,
)
"""What can be said before quantisation."""


def camera_fits(network: Network, options: Mapping[str, Any]) -> Iterator[Finding]:
    """The camera sends events of 1 or 2 features, pooled once."""
    shape, first, limit = network.input.shape, network.inputs[0], int(LIMITS["camera"].value)
    leave = "Leave {input=camera} out: the host then sends the events."
    if options.get("input") != "camera":
        if "pooling" in options:
            yield Finding("D2E-SPECK-030", "is sent by the host; {pooling=…} is of the camera", first, "Add input=camera.")
        return
    if network.input.coding == "direct" or network.input.encoder is not None:
        yield Finding("D2E-SPECK-030", "takes real values that the host encodes; the camera sends events", first, leave)
    if len(shape) != 3 or shape[0] > 2 or max(shape[1:]) > limit:
        yield Finding("D2E-SPECK-030", f"takes frames of shape {shape}; the camera sends 1 or 2 features of up to {limit} x "
                      f"{limit}", first, leave)
        return
    pools = {_first_pool(network, p.synapses) for p in paths_from(network, first)}
    possible = camera_poolings((shape[1], shape[2]), max(pools))
    wanted = int(options.get("pooling", possible[0] if possible else 0))
    if len(pools) > 1 or wanted not in possible:
        yield Finding("D2E-SPECK-030", f"cannot be pooled by {wanted} in the camera, which pools once for all layers"
                      f"{' (it can by ' + ', '.join(map(str, possible)) + ')' if possible else ''}", first, leave)


def camera_view(network: Network, options: Mapping[str, Any]) -> str | None:
    """What to say where the camera could show more or less of the scene, and nothing says which."""
    if options.get("input") != "camera" or "pooling" in options:
        return None
    shape = network.input.shape
    inner = max(_first_pool(network, p.synapses) for p in paths_from(network, network.inputs[0]))
    possible = camera_poolings((shape[1], shape[2]), inner)
    if len(possible) < 2:
        return None
    seen = " x ".join(str(n * possible[0] // inner) for n in shape[1:])
    return (f"the camera shows its corner of {seen} pixels, pooled by {possible[0]}; a model trained on another view needs "
            f"another {{pooling=…}}: {', '.join(map(str, possible[1:]))}")


def readout_fits(network: Network, options: Mapping[str, Any]) -> Iterator[Finding]:
    """The readout block has 15 classes, and a layer to itself."""
    classes = int(np.prod(network.output.shape))
    if options.get("readout") == "pins":
        limit = int(LIMITS["readout_classes"].value)
        if classes > limit:
            yield Finding("D2E-SPECK-031", f"has {classes} classes, the readout block has {limit}", network.outputs[0],
                          "Leave {readout=pins} out: the host then counts the spikes.")
        read = next(p.source for p in paths_into(network, network.outputs[0]))
        if any(not isinstance(network.nodes[p.target], Output) for p in paths_from(network, read)):
            yield Finding("D2E-SPECK-031", "is read by the readout block and by other layers; its features are spread out "
                          "for the block", read, "Leave {readout=pins} out.")


def _first_pool(network: Network, synapses: tuple[str, ...]) -> int:
    node = network.nodes[synapses[0]] if len(synapses) > 1 else None
    return node.kernel_size[0] if isinstance(node, SumPool2d) else 1


def source_findings(network: Network, options: Mapping[str, Any]) -> list[Finding]:
    """Everything that stops a canonical network before quantisation: rules, options and geometry."""
    found = [finding for rule in SOURCE_RULES for finding in rule(network)]
    geometry, misfits = geometries(network)
    found += misfits
    for name, each in geometry.items():
        node = network.neuron(name)
        if node.bias.any() and bias_per_feature(node.bias, node.shape, each.output) is None:
            found.append(varying_bias(name))
    return [*found, *camera_fits(network, options), *readout_fits(network, options)]


def odd_maps(network: Network, geometry: Mapping[str, Geometry]) -> Iterator[tuple[str, str]]:
    """(layer, what happens) where pooling leaves a rest: its events lie outside the next layer's map."""
    for name, each in geometry.items():
        for link in each.links:
            node = network.nodes[link.source]
            known = geometry.get(link.source)
            shape: Shape = known.output if known is not None else getattr(node, "shape", ())
            if any(n % link.pooling for n in shape[1:]) and max(each.form.padding) > 0:
                maps = " x ".join(map(str, shape[1:]))
                yield name, (f"takes maps of {maps} pooled by {link.pooling}, and pads them: events of the rest lie outside "
                             "its map; here they are dropped, what the chip does with them is not documented")
