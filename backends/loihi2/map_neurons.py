"""map_neurons: integer populations become stock Loihi LIF neurons, replicas of them, or graded processes.

`MapNeurons` chooses the form of each population and says why; `lower` writes it. What has no form on stock neurons becomes
a graded process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from d2e.backends.loihi2.forms import (
    APPROXIMATE,
    FEWEST,
    Form,
    floor_is_idle,
    is_several,
    lowered,
    obstacles,
    replicas,
    unweighted,
)
from d2e.backends.loihi2.limits import LIMITS
from d2e.backends.loihi2.lower import SoftReset, is_whole, lower
from d2e.backends.loihi2.placement import estimate
from d2e.backends.loihi2.rules import HAZARDS, LOWERED_RULES, SOURCE_RULES, check, steep_steps
from d2e.compiler import cost
from d2e.compiler.even_levels import shares
from d2e.compiler.notes import warn
from d2e.compiler.passes.base import Pass, Property, canonical, discrete, folded, integer
from d2e.compiler.paths import paths_into
from d2e.compiler.replicas import replica_of
from d2e.ir import LI, Finding, MultiThreshold, Network, Neuron, UnsupportedError, raise_findings

if TYPE_CHECKING:
    from d2e.compiler.target import Target

Burst = Literal["auto", "replicas", "weighted", "graded"]
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
            UnsupportedError: D2E-LOIHI-001..009 and -017, the first finding with all of them in the message.
        """
        raise_findings([*check(network, SOURCE_RULES), *formless(network, self.burst, self.graded)])
        return network


def formless(network: Network, burst: Burst, graded: bool) -> list[Finding]:
    """Every population without a form, for the reasons it has none."""
    found = []
    for name in network.populations:
        node = _without_idle_floor(network, name, network.neuron(name))
        several = is_several(node)
        asked = burst in ("replicas", "weighted") and several
        if (graded or (burst == "graded" and several)) and not asked:
            continue
        way = " Or use --burst graded." if asked else ""
        why = [Finding(o.code, o.why, name, o.hint + way) for o in obstacles(node) if o.code != APPROXIMATE or several]
        if burst == "weighted" and not why and several and _count(node) >= FEWEST and (none := unweighted(network, name)):
            why = [Finding("D2E-LOIHI-017", f"has no weighted replicas: it {none}", name, "Use --burst auto.")]
        found += why
    return found


@dataclass(frozen=True)
class MapNeurons(Pass):
    """See the module.

    Attributes:
        burst: form of populations that send more than binary spikes: "replicas" (stock neurons, one per level), "weighted"
            (stock neurons, one per binary digit), "graded" (a process of its own), or "auto", see `choose`.
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
            UnsupportedError: D2E-LOIHI-003..006 for a neuron the chip has no form of, -017 for one that has not the form
                asked for, -010..016 where the result does not fit the chip's words.
        """
        network = network.with_nodes({
            n: _without_idle_floor(network, n, network.neuron(n)) for n in network.populations
        })
        raise_findings(formless(network, self.burst, self.graded))
        forms = self.choose(network)
        result = lower(network, forms, self.soft_reset)
        raise_findings(check(result, LOWERED_RULES))
        for hazard in () if self.graded else check(result, HAZARDS):
            result = warn(result, hazard.code, f"{hazard.message}. {hazard.hint}", hazard.node)
        told = {n: {"form": f.kind, "why": f.why} for n, f in forms.items()}
        return _warned(result.with_metadata(forms=told), network, forms, self.soft_reset)

    # ----- which form

    def choose(self, network: Network) -> dict[str, Form]:
        """The form of every population.

        auto: replicas, which run on the chip's own neurons: weighted where a population can have them with fewer synapses,
        else one per level, of at most `MOST_REPLICAS` levels. Populations whose replicas give a neuron more inputs than a
        core holds become graded; where the rest exceeds the cores, those of most replicas do, one after another, until it
        fits.
        """
        forms = {n: self._form(network, n) for n in network.populations}
        if self.burst != "auto" or not _wide(network, forms):
            return forms
        if any(f.kind == "weighted" for f in forms.values()):
            forms |= {n: self._form(network, n, weighted=False) for n in self._steep(network, forms)
                      if forms[n].kind == "weighted"}
        limit = self.cores or int(LIMITS["cores"].value)
        steep = self._steep(network, forms) if self.graded else {}
        forms |= {n: Form("graded", f"a step between its levels takes {steep[n]} convolutions of 8 bits") for n in steep}
        wide = _wide(network, forms)
        used = self._cores(network, forms)
        for name in wide if self.graded else ():
            if used <= limit:
                break
            if forms[name].kind in REPLICAS:
                forms[name] = Form("graded", f"replicas need {used} cores, {limit} are there")
                used = self._cores(network, forms)
        figures = self._figures(network, forms)
        for name in _wide(network, forms):
            why = f"the chip's own neurons; {figures.get(name, '')}{used} of {limit} cores"
            forms[name] = Form(forms[name].kind, why)
        return forms

    def _steep(self, network: Network, forms: Mapping[str, Form]) -> dict[str, int]:
        """Population -> convolutions that a spike of one of its replicas takes, where these are too many."""
        most, found = int(LIMITS["step_kernels"].value), dict[str, int]()
        for of, _, needed in steep_steps(lower(network, forms, self.soft_reset)):
            if needed > most:
                found[of] = max(needed, found.get(of, 0))
        return found

    def _figures(self, network: Network, forms: Mapping[str, Form]) -> dict[str, str]:
        """Weighted population -> its synapses beside those of one replica per level."""
        weighted = [n for n, f in forms.items() if f.kind == "weighted"]
        if not weighted:
            return {}
        result = lower(network, forms, self.soft_reset)
        own, told = replicas(result), {}
        for name in weighted:
            node, digits = network.neuron(name), sum(cost.synapses(result, n) for n in own[name])
            levels = _count(node) * (2 if isinstance(node, MultiThreshold) and node.signed else 1)
            told[name] = (f"{len(own[name])} binary digits with {digits:,} synapses, {levels} levels would have "
                          f"{levels * cost.synapses(result, own[name][0]):,}; ")
        return told

    def _cores(self, network: Network, forms: dict[str, Form]) -> int:
        """How many cores the forms need, after populations became graded whose replicas are too many inputs for a core."""
        while True:
            lowered_now = lower(network, forms, self.soft_reset)
            try:
                return estimate(lowered_now)
            except UnsupportedError as error:
                full = error.findings[0].node
                if not self.graded or full is None or error.findings[0].code != "D2E-FIT-001":
                    raise
                level = replica_of(lowered_now.neuron(full))
                target = full if level is None else level.of
                sources = {path.source for path in paths_into(network, target) if path.source in forms}
                wide = [n for n in sorted(sources) if forms[n].kind in REPLICAS]
                if not wide:
                    raise
                forms |= {n: Form("graded", f"its replicas are more inputs than a core holds for {target}") for n in wide}

    def _form(self, network: Network, name: str, weighted: bool = True) -> Form:
        """The form of a population before cores are counted."""
        node = network.neuron(name)
        found, several = list(obstacles(node)), is_several(node)
        if several and self.burst == "graded":
            return Form("graded", "as asked")
        if not found and not several:
            return Form("stock", "the chip's own neuron")
        if not found:
            levels, how = _count(node), "as asked" if self.burst in REPLICAS else "the chip's own neurons"
            if weighted and self.burst in ("auto", "weighted") and unweighted(network, name) is None and (
                self.burst == "weighted" or _saves(network, name)
            ):
                return Form("weighted", how)
            if self.burst == "auto" and self.graded and levels > MOST_REPLICAS:
                return Form("graded", f"{levels} levels would repeat its synapses {levels} times")
            return Form("replicas", how)
        why = ", and ".join(o.why for o in found)
        only = [o.code for o in found] == [APPROXIMATE] and not several
        return Form("approximate" if only and (not self.graded or self.soft_reset == "fallback") else "graded", why)


def _without_idle_floor(network: Network, name: str, node: Neuron) -> Neuron:
    """The population without a floor that it never reaches."""
    return replace(node, v_min=None) if node.v_min is not None and floor_is_idle(network, name) else node


REPLICAS = ("replicas", "weighted")
"""The forms of several stock neurons."""


def _wide(network: Network, forms: Mapping[str, Form]) -> list[str]:
    """The populations of several stock neurons, those of most first."""
    def size(name: str) -> int:
        node = network.neuron(name)
        return cost.neurons(network, name) * (len(shares(_count(node))) if forms[name].kind == "weighted" else _count(node))

    return sorted((n for n, f in forms.items() if f.kind in REPLICAS), key=lambda n: -size(n))


def _count(node: Neuron) -> int:
    return node.levels.size if isinstance(node, MultiThreshold) else node.max_spikes or FEWEST  # no limit yet: many


def _saves(network: Network, name: str) -> bool:
    """Whether weighted replicas have fewer synapses than one per level."""
    count, into = _count(network.neuron(name)), cost.synapses(network, name)
    digits = len(shares(count))
    return digits * into + digits * (digits - 1) // 2 * cost.neurons(network, name) < count * into


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
        elif node.fire == "ge" and not is_whole(node) and not isinstance(node, LI):
            result = warn(result, "D2E-LOIHI-021", "fires at v >= threshold, the stock neuron at v > threshold; its "
                          "state holds fractions of a weight unit, so an exact tie does not fire", name)
        if soft_reset == "fallback" and form.kind in ("stock", *REPLICAS) and node.reset in ("subtract", "none"):
            result = warn(result, "D2E-LOIHI-023", "keeps to du=0 and dv=4095 (soft-reset fallback): its charge leaks "
                          "1/4096 per step, so the program is approximate", name)
    return result
