"""Why layers have no cores: every reason at once, each with the layers, the memory and the limit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from d2e.backends.speck.limits import BROKEN_LEAK, CORES, LIMITS, Core
from d2e.backends.speck.placement.search import Demand, demand, search, sends
from d2e.ir import Finding

SMALLER = {
    "kernel": "fewer channels or a smaller kernel", "neuron": "fewer channels, a larger stride, or pooling before it",
    "bias": "fewer channels",
}
"""Memory -> what makes a layer take less of it."""


def misfits(demands: Sequence[Demand], limits: Mapping[str, int]) -> list[Finding]:
    """Everything that keeps the layers from the cores; at least one finding where `search` finds nothing."""
    findings = [_too_large(each) for each in demands if each.least is None]
    fitting = {each: each.least for each in demands if each.least is not None}
    findings += _fan_out(fitting, limits)
    total, cores = sum(fitting.values()), int(LIMITS["cores"].value)
    if total > cores:
        split = [f"{each.layer.name!r} takes {count}" for each, count in fitting.items() if count > 1]
        findings.append(Finding(
            "D2E-SPECK-052", f"the network needs {total} cores, there are {cores}: it has {len(fitting)} layers"
            + (f", of which {listed(split)} (their memories are too small for all of it)" if split else ""),
            hint="Use fewer layers" + (", or fewer channels in those that are split." if split else "."),
        ))
        return findings
    needed = sends(list(fitting), list(fitting.values()))
    relaxed = {source: max(limit, needed[source]) for source, limit in limits.items()}
    left = list(fitting)
    while search(left, relaxed) is None:
        rivals = _alike(_irreducible(left, relaxed), left)
        findings.append(_competing(rivals, relaxed, limits))
        left = [each for each in left if each not in rivals]
    return findings


def listed(items: Iterable[Any]) -> str:
    """"1, 2 and 3"."""
    words = [str(item) for item in items]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def words(count: int) -> str:
    """A size as data sheets give it."""
    return f"{count // 1024}Ki" if count and count % 1024 == 0 else f"{count:,}"


def shortage(each: Demand, features: int) -> tuple[str, str]:
    """What so many features of a layer lack on every core, and what would help."""
    need = vars(each.words(features))
    most = {memory: max(getattr(core, memory) for core in CORES) for memory in need}
    over = [memory for memory in need if need[memory] > most[memory]]
    if over:
        return (
            "needs " + listed(f"{words(need[m])} {m} words, the largest core has {words(most[m])}" for m in over),
            "; ".join(SMALLER[m] for m in over),
        )
    return f"needs {_memory(each.words(features))}, no core has both", SMALLER["kernel"]


def _memory(used: Core) -> str:
    return listed(f"{words(n)} {memory} words" for memory, n in vars(used).items() if memory != "bias")


def _too_large(each: Demand) -> Finding:
    """No split helps a layer of which one feature is too large, that is larger than all cores, or that must stay whole."""
    lack, help_ = shortage(each, each.features)
    if each.whole:
        why = "it cannot be split, for the readout block reads one core"
        help_ = "leave {readout=pins} out, or use " + help_
    elif not any(each.room):
        why, help_ = "one of its features alone " + shortage(each, 1)[0], "use " + shortage(each, 1)[1]
    else:
        why, help_ = f"split over all {len(CORES)} cores it does not fit either", "use " + help_
    return Finding("D2E-SPECK-050", f"{lack}; {why}", each.layer.name, _sentence(help_))


def _fan_out(fitting: Mapping[Demand, int], limits: Mapping[str, int]) -> Iterator[Finding]:
    """Sources with more destinations than they can have, told of the layers that must be split, else of the source."""
    needed = sends(list(fitting), list(fitting.values()))
    over = {source: limits[source] for source, n in needed.items() if n > limits.get(source, n)}
    blamed: set[str] = set()
    for each, count in fitting.items():
        sources = [link.source for link in each.layer.links if link.source in over]
        if count > 1 and sources:
            blamed.update(sources)
            lack, help_ = shortage(each, each.features)
            asks = listed(f"{source!r} needs {needed[source]} destinations and can have {over[source]}"
                          for source in dict.fromkeys(sources))
            yield Finding("D2E-SPECK-051", f"{lack}; split over {count} cores, {asks}", each.layer.name,
                          _sentence(f"use {help_}"))
    for source, limit in over.items():
        if source not in blamed:
            fed = listed(repr(each.layer.name) for each in fitting for link in each.layer.links if link.source == source)
            yield Finding("D2E-SPECK-053", f"sends to {fed}, {needed[source]} destinations, and can have {limit}", source,
                          "Let fewer layers read it; a layer counts once for each pooling it reads it with.")


def _irreducible(demands: Sequence[Demand], limits: Mapping[str, int]) -> list[Demand]:
    """Layers that have no cores without splits even with all others gone, while any of them fewer have."""
    kept = list(demands)
    for each in demands:
        fewer = [other for other in kept if other is not each]
        if search(fewer, limits, split=False) is None:
            kept = fewer
    return kept


def _alike(core: Sequence[Demand], demands: Sequence[Demand]) -> list[Demand]:
    """These layers and all others that want no cores but theirs."""
    theirs = {i for each in core for i in _whole(each)}
    return [each for each in demands if each in core or (_whole(each) and theirs.issuperset(_whole(each)))]


def _whole(each: Demand) -> list[int]:
    """Cores that hold all of a layer."""
    return [core for core, room in enumerate(each.room) if room == each.features]


def _competing(rivals: Sequence[Demand], relaxed: Mapping[str, int], limits: Mapping[str, int]) -> Finding:
    """Layers that want the same cores, and why no split helps; ``relaxed`` limits do without other findings."""
    message = f"{_wants(rivals)}: too few cores for these {len(rivals)} layers"
    if search(rivals, relaxed) is not None:
        message += ". Split they would fit, but need more cores than the other layers leave"
    elif search(rivals, {}) is not None:
        sources = dict.fromkeys(link.source for each in rivals for link in each.layer.links if link.source in limits)
        few = listed(f"{s!r} can have {limits[s]} destination{'s' * (limits[s] != 1)}" for s in sources)
        message += f". Split they would fit, but {few}"
    biased = [each for each in rivals if each.avoid]
    anywhere = [demand(each.layer, each.load, whole=each.whole, leaks_anywhere=True) for each in rivals]
    if biased and search(anywhere, relaxed) is not None:
        return Finding(
            "D2E-SPECK-054", f"{message}. With the cores {listed(BROKEN_LEAK)} they would fit, but biases do not work there",
            biased[0].layer.name, f"Train {listed(repr(e.layer.name) for e in biased)}, or some of them, without biases.")
    return Finding("D2E-SPECK-055", message, rivals[0].layer.name,
                   "Use fewer channels, smaller kernels, a larger stride or pooling in one of them.")


def _wants(rivals: Sequence[Demand]) -> str:
    """The cores that layers fit, those that are alike together."""
    alike: dict[str, dict[str, list[str]]] = {}
    for each in rivals:
        fits = _whole(each)
        where = f"core{'s' * (len(fits) > 1)} {listed(fits)}" if fits else f"no core unless split over {each.least}"
        what = _memory(each.words(each.features)) + ", with biases" * bool(each.avoid)
        alike.setdefault(where, {}).setdefault(what, []).append(repr(each.layer.name))
    told = []
    for where, kinds in alike.items():
        each_kind = [f"{listed(names)} ({'each ' * (len(names) > 1)}{what})" for what, names in kinds.items()]
        several = sum(map(len, kinds.values())) > 1
        told.append(f"{', '.join(each_kind)} fit{'s' * (not several)} {where}")
    return "; ".join(told)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
