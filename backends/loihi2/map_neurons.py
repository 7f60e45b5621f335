"""map_neurons: integer populations become stock Loihi LIF neurons, replicas of them, or graded processes.

The stock neuron (lava ``LIF``) resets ``v`` to zero and fires at ``v > vth``. A soft reset keeps its charge in ``u``
instead (du=-1 or a leak, dv=4096: v is a copy of u) and takes ``reset_by`` away with a synapse onto itself; a neuron of
several levels is one such neuron per level (`replicate`). What has no such form becomes a graded process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from d2e.backends.loihi2.forms import (
    APPROXIMATE,
    Form,
    floor_is_idle,
    has_current,
    is_several,
    lowered,
    obstacles,
)
from d2e.backends.loihi2.limits import DECAY_ONE, LIMITS, UNIT
from d2e.backends.loihi2.placement import estimate
from d2e.backends.loihi2.replicate import Level, replicate
from d2e.backends.loihi2.rules import HAZARDS, LOWERED_RULES, SOURCE_RULES, check, steep_steps
from d2e.compiler.notes import warn
from d2e.compiler.passes.base import Pass, Property, canonical, discrete, folded, integer
from d2e.compiler.passes.canonicalise import add_constant_current
from d2e.compiler.paths import paths_into
from d2e.compiler.replicas import replica_of
from d2e.ir import (
    IF,
    LI,
    CubaLIF,
    Edge,
    Finding,
    MultiThreshold,
    Network,
    Neuron,
    Node,
    Scale,
    UnsupportedError,
    raise_findings,
)
from d2e.ir.nodes import integral

if TYPE_CHECKING:
    from d2e.compiler.target import Target

Burst = Literal["auto", "replicas", "graded"]
SoftReset = Literal["exact", "fallback"]
MOST_REPLICAS = 16
"""Levels beyond which auto prefers a graded process: every level repeats all synapses of the population."""


@dataclass(frozen=True)
class CheckRules(Pass):
    """check-rules: everything the chip cannot take, told at once, before any work is done.

    Attributes:
        burst: as in `MapNeurons`.
        graded: as in `MapNeurons`.
    """

    name: ClassVar[str] = "check-rules"
    requires: ClassVar[tuple[Property, ...]] = (canonical, discrete)

    burst: Burst = "auto"
    graded: bool = True

    def run(self, network: Network, target: Target) -> Network:
        """The same network.

        Raises:
            UnsupportedError: D2E-LOIHI-001..009, the first finding with all of them in the message.
        """
        raise_findings([*check(network, SOURCE_RULES), *formless(network, self.burst, self.graded)])
        return network


def formless(network: Network, burst: Burst, graded: bool) -> list[Finding]:
    """Every population without a form, for the reasons it has none."""
    found = []
    for name in network.populations:
        node = _without_idle_floor(network, name, network.neuron(name))
        several = is_several(node)
        asked = burst == "replicas" and several
        if (graded or (burst == "graded" and several)) and not asked:
            continue
        way = " Or use --burst graded." if asked else ""
        found += [
            Finding(o.code, o.why, name, o.hint + way) for o in obstacles(node) if o.code != APPROXIMATE or several
        ]
    return found


@dataclass(frozen=True)
class MapNeurons(Pass):
    """See the module.

    Attributes:
        burst: form of populations that send more than binary spikes: "replicas" (stock neurons), "graded" (a process of
            its own), or "auto": replicas while they fit, see `choose`.
        soft_reset: "exact"; "fallback" keeps to decays that every microcode takes (du=0 for -1, dv=4095 for 4096): it
            leaks 1/4096 of the charge per step, and resets to zero behind a synaptic current.
        graded: whether the target has graded processes for what stock neurons cannot do; a chip has none, but hazards
            that are told.
        cores: there are; None: one chip's.
    """

    name: ClassVar[str] = "map-neurons"
    requires: ClassVar[tuple[Property, ...]] = (canonical, folded, integer)
    ensures: ClassVar[tuple[Property, ...]] = (lowered,)

    burst: Burst = "auto"
    soft_reset: SoftReset = "exact"
    graded: bool = True
    cores: int | None = None

    def run(self, network: Network, target: Target) -> Network:
        """The lowered network; populations keep their names, replicas and helpers are marked.

        Raises:
            UnsupportedError: D2E-LOIHI-003..006 for a neuron the chip has no form of, D2E-LOIHI-010..016 where the
                result does not fit the chip's words.
        """
        network = network.with_nodes({
            n: _without_idle_floor(network, n, network.neuron(n)) for n in network.populations
        })
        raise_findings(formless(network, self.burst, self.graded))
        forms = self.choose(network)
        result = self._lower(network, forms)
        raise_findings(check(result, LOWERED_RULES))
        for hazard in () if self.graded else check(result, HAZARDS):
            result = warn(result, hazard.code, f"{hazard.message}. {hazard.hint}", hazard.node)
        told = {n: {"form": f.kind, "why": f.why} for n, f in forms.items()}
        return _warned(result.with_metadata(forms=told), network, forms, self.soft_reset)

    # ----- which form

    def choose(self, network: Network) -> dict[str, Form]:
        """The form of every population.

        auto: replicas, which run on the chip's own neurons, for at most `MOST_REPLICAS` levels. Populations whose replicas
        give a neuron more inputs than a core holds become graded; where the rest exceeds the cores, those of most
        replicas do, one after another, until it fits.
        """
        forms = {n: self._form(network.neuron(n)) for n in network.populations}
        wide = sorted((n for n, f in forms.items() if f.kind == "replicas"), key=lambda n: -_size(network.neuron(n)))
        limit = self.cores or int(LIMITS["cores"].value)
        if self.burst != "auto" or not wide:
            return forms
        result = self._lower(network, forms)
        most = int(LIMITS["step_kernels"].value)
        steep = {of: needed for of, _, needed in steep_steps(result) if needed > most} if self.graded else {}
        if steep:
            forms |= {n: Form("graded", f"a step between its levels takes {steep[n]} convolutions of 8 bits") for n in steep}
            wide = [name for name in wide if name not in steep]
        used = self._cores(network, forms)
        for name in wide if self.graded else ():
            if used <= limit:
                break
            if forms[name].kind == "replicas":
                forms[name] = Form("graded", f"replicas need {used} cores, {limit} are there")
                used = self._cores(network, forms)
        for name in wide:
            if forms[name].kind == "replicas":
                forms[name] = Form("replicas", f"the chip's own neurons; {used} of {limit} cores")
        return forms

    def _cores(self, network: Network, forms: dict[str, Form]) -> int:
        """How many cores the forms need, after populations became graded whose replicas are too many inputs for a core."""
        while True:
            lowered_now = self._lower(network, forms)
            try:
                return estimate(lowered_now)
            except UnsupportedError as error:
                full = error.findings[0].node
                if not self.graded or full is None or error.findings[0].code != "D2E-FIT-001":
                    raise
                level = replica_of(lowered_now.neuron(full))
                target = full if level is None else level.of
                sources = {path.source for path in paths_into(network, target) if path.source in forms}
                wide = [n for n in sorted(sources) if forms[n].kind == "replicas"]
                if not wide:
                    raise
                forms |= {n: Form("graded", f"its replicas are more inputs than a core holds for {target}") for n in wide}

    def _form(self, node: Neuron) -> Form:
        """The form of a population before cores are counted."""
        found, several = list(obstacles(node)), is_several(node)
        if several and self.burst == "graded":
            return Form("graded", "as asked")
        if not found and not several:
            return Form("stock", "the chip's own neuron")
        if not found:
            levels = len(_levels(node))
            if self.burst == "auto" and self.graded and levels > MOST_REPLICAS:
                return Form("graded", f"{levels} levels would repeat its synapses {levels} times")
            return Form("replicas", "as asked" if self.burst == "replicas" else "the chip's own neurons")
        why = ", and ".join(o.why for o in found)
        only = [o.code for o in found] == [APPROXIMATE] and not several
        return Form("approximate" if only and (not self.graded or self.soft_reset == "fallback") else "graded", why)

    # ----- the lowered network

    def _lower(self, network: Network, forms: Mapping[str, Form]) -> Network:
        nodes: dict[str, Node] = dict(network.nodes)
        edges = list(network.edges)
        for name, form in forms.items():
            node = network.neuron(name)
            if form.kind != "graded":
                self._map(name, node, form, nodes, edges)
        return Network(nodes, tuple(edges), network.metadata)

    def _map(self, name: str, node: Neuron, form: Form, nodes: dict[str, Node], edges: list[Edge]) -> None:
        """Replace one population by stock neurons."""
        keep_syn, keep_mem = node.decays
        syn = integral(0) if keep_syn is None else integral(keep_syn.flat[0])
        mem = integral(DECAY_ONE) if keep_mem is None else integral(keep_mem.flat[0])
        if isinstance(node, LI):
            nodes[name] = replace(node, decay_syn=syn, decay_mem=mem, reset="zero", fire="gt",
                                  threshold=integral(LIMITS["threshold"].value))
            return
        if node.reset not in ("subtract", "none") or form.kind == "approximate":
            nodes[name] = _stock(node, syn, mem)
            return
        if node.bias.any():
            assert (node.bias % UNIT == 0).all(), "the bias of a soft reset is whole weight units"
            add_constant_current(nodes, edges, name, node, node.bias // UNIT)
            on = nodes[f"{name}.on"]
            assert isinstance(on, IF)
            nodes[f"{name}.on"] = _stock(on, integral(0), integral(DECAY_ONE))
        if self.soft_reset == "fallback":
            mapped = partial(_charged, node, np.minimum(mem, DECAY_ONE - 1), integral(1))
        else:
            mapped = partial(_charged, node, mem, integral(0))
        levels = _levels(node)
        if is_several(node):
            replicate(name, levels, isinstance(node, MultiThreshold) and node.signed, mapped, nodes, edges)
            return
        nodes[name] = mapped(levels[0].threshold, 1)
        if node.reset == "subtract":
            nodes[f"{name}.reset"] = Scale(scale=-levels[0].reset)
            edges += [Edge(name, f"{name}.reset", recurrent=True), Edge(f"{name}.reset", name)]


def _without_idle_floor(network: Network, name: str, node: Neuron) -> Neuron:
    """The population without a floor that it never reaches."""
    return replace(node, v_min=None) if node.v_min is not None and floor_is_idle(network, name) else node


def _size(node: Neuron) -> int:
    return int(np.prod(node.shape)) * len(_levels(node))


def _levels(node: Neuron) -> list[Level]:
    """The levels of an integer population with a soft reset, or none at all, as stock neurons have them."""
    if isinstance(node, MultiThreshold):
        thresholds = node.levels * int(node.threshold)
        steps = np.diff(node.levels if node.payloads is None else node.payloads, prepend=0)
        amounts = list(np.diff(thresholds if node.reset_by is None else node.reset_by, prepend=0))
    else:
        thresholds = np.arange(1, node.max_spikes + 1) * int(node.threshold)
        steps = np.ones(node.max_spikes, np.int64)
        amounts = [node.threshold if node.reset_by is None else node.reset_by] * node.max_spikes
    if node.reset == "none":
        amounts = [integral(0)] * len(thresholds)
    below = int(node.fire == "ge" and _integral(node))  # in whole units v >= theta is v > theta - 1
    return [
        Level(int(t) - below, integral(r), int(s)) for t, r, s in zip(thresholds, amounts, steps, strict=True)
    ]


def _integral(node: Neuron) -> bool:
    """Whether ``v`` only ever holds whole weight units."""
    leaks = node.decays[1] is not None and bool((node.decays[1] % DECAY_ONE).any())
    return not (leaks or has_current(node) or (node.bias % UNIT).any() or (node.v_init % UNIT).any())


def _charged(node: Neuron, keep: Any, keep_mem: Any, threshold: int, sign: int) -> CubaLIF:
    """The stock LIF that keeps its charge in ``u``; of the negative group with sign -1."""
    stock = _stock(node, keep, keep_mem)
    return replace(
        stock, threshold=integral(threshold), bias=integral(0), v_init=integral(0), u_init=sign * node.v_init
    )


def _stock(node: Neuron, decay_syn: Any, decay_mem: Any) -> CubaLIF:
    """The stock LIF with this neuron's threshold, bias and start."""
    threshold = node.threshold - 1 if node.fire == "ge" and _integral(node) else node.threshold
    return CubaLIF(
        shape=node.shape, decay_syn=decay_syn, decay_mem=decay_mem, threshold=threshold, fire="gt", reset="zero",
        gain=integral(1), bias=node.bias, v_reset=integral(0), v_init=node.v_init, amplitude=integral(1),
        u_init=node.u_init if isinstance(node, CubaLIF) else integral(0),
        arithmetic=node.arithmetic, quantized=node.quantized, metadata=node.metadata,
    )


def _warned(result: Network, source: Network, forms: Mapping[str, Form], soft_reset: SoftReset) -> Network:
    """The network with what the user has to know of the forms."""
    for name, form in forms.items():
        node = source.neuron(name)
        if form.kind == "approximate":
            result = warn(
                result, APPROXIMATE, "the stock neuron has no soft reset behind a synaptic current: it resets to 0, "
                "and what exceeds the threshold is lost; train it with reset='zero'", name,
            )
        elif form.kind == "graded":
            result = warn(
                result, "D2E-LOIHI-024", f"is a graded process of d2e's own ({form.why}): exact on this computer, a chip "
                "needs microcode for it", name,
            )
        elif node.fire == "ge" and not _integral(node) and not isinstance(node, LI):
            result = warn(result, "D2E-LOIHI-021", "fires at v >= threshold, the stock neuron at v > threshold; its "
                          "state holds fractions of a weight unit, so an exact tie does not fire", name)
        if soft_reset == "fallback" and form.kind in ("stock", "replicas") and node.reset in ("subtract", "none"):
            result = warn(result, "D2E-LOIHI-023", "keeps to du=0 and dv=4095 (soft-reset fallback): its charge leaks "
                          "1/4096 per step, so the program is approximate", name)
    return result
