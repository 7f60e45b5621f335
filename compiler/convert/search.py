"""AdaFire and SSC: how many spikes each layer may send per step, and how much coarser its threshold may be.

``paper`` is the published search: the sensitivity of each layer alone (Eq. 9), and the choice of least summed sensitivity
within a budget of spikes (Eq. 11). ``descent`` starts from that frontier, with excess sensitivities and a budget in synaptic
operations; it measures whole networks, exchanges spikes between layers while that helps, and calibrates anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from d2e.compiler.convert.calibrate import Calibrator, State
from d2e.compiler.convert.engine import Burst
from d2e.compiler.convert.evaluate import Bench, Case, Figures
from d2e.compiler.convert.pareto import frontier
from d2e.ir import UnsupportedError
from d2e.ir.nodes import Array

RATIOS = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
_TRIED, _SWEEPS, _AT_ONCE = 4, 2, 4

Bursts = dict[str, int]


@dataclass
class Search:
    """A search over one ANN.

    Attributes:
        calibrator: sets layers.
        images, logits: held images, and the ANN's answers on them.
        most: phi at most.
        bench: measures.
        table: (layer, phi, rho) -> neurons, set within the network ``reference``.
    """

    calibrator: Calibrator
    images: Array
    logits: Array
    most: int
    bench: Bench
    reference: State = field(init=False)
    table: dict[tuple[str, int, float], Burst] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.names = [layer.name for layer in self.calibrator.skeleton.rectifiers]
        self.use(self.calibrator.every(dict.fromkeys(self.names, self.most)), dict.fromkeys(self.names, self.most))

    def use(self, state: State, bursts: Bursts, ratios: Mapping[str, float] | None = None) -> None:
        """Take a network as the one that changes are measured against."""
        self.reference, self.table = state, {
            (name, bursts[name], (ratios or {}).get(name, 1.0)): state.plan[name] for name in self.names
        }
        self.case = Case(state.skeleton, state.plan, self.images, self.logits, self.calibrator.steps)

    def neurons(self, name: str, most: int, ratio: float = 1.0) -> Burst:
        """A layer's neurons with another phi or rho, set on what the reference's layers before it send."""
        key = (name, most, ratio)
        if key not in self.table:
            layer = self.calibrator.skeleton.layers[name]
            self.table[key] = self.calibrator.layer(self.reference, layer, most, ratio, with_weights=False).plan[name]
        return self.table[key]

    def figures(self, *changes: Mapping[str, tuple[int, float]], what: str) -> list[Figures]:
        """Of networks with (phi, rho) changed in some layers."""
        return self.bench(self.case, [{n: self.neurons(n, *c) for n, c in each.items()} for each in changes], what)

    # ----- Eq. 9 and 11

    def sensitivities(self) -> dict[str, dict[int, Figures]]:
        """Layer -> phi -> figures of the network in which that layer alone has it."""
        single = [(name, phi) for name in self.names for phi in range(1, self.most + 1)]
        found = self.figures(*({name: (phi, 1.0)} for name, phi in single), what="sensitivity")
        table: dict[str, dict[int, Figures]] = {name: {} for name in self.names}
        for (name, phi), figures in zip(single, found, strict=True):
            table[name][phi] = figures
        return table

    def paper(self, share: float) -> Bursts:
        """Least summed sensitivity with at most ``share`` of the spikes that the largest phi fires everywhere."""
        table = self.sensitivities()
        layers = {n: {k: (f.own[n], f.kl) for k, f in row.items()} for n, row in table.items()}
        budget = share * sum(row[self.most].own[n] for n, row in table.items())
        fit = [p for p in frontier(layers) if p.cost <= budget]
        if not fit:
            raise _too_small(share, min(p.cost for p in frontier(layers)) / budget * share)
        return dict(zip(self.names, min(fit, key=lambda p: p.loss).choice, strict=True))

    # ----- verified end to end

    def descent(self, share: float) -> Bursts:
        """Least KL of the whole network with at most ``share`` of the synops of the largest phi everywhere."""
        table = self.sensitivities()
        whole = self.figures({}, what="reference")[0]
        budget = share * whole.synops
        layers = {n: {k: self._excess(f, whole) for k, f in row.items()} for n, row in table.items()}
        best, at = None, None
        for chosen in self._starts(layers, budget):
            found = self.figures({n: (k, 1.0) for n, k in chosen.items()}, what="frontier")[0]
            if found.synops <= budget and (best is None or found.kl < best.kl):
                best, at = found, chosen
        if best is None or at is None:
            least = self.figures({n: (1, 1.0) for n in self.names}, what="frontier")[0]
            if least.synops > budget:
                raise _too_small(share, least.synops / whole.synops)
            best, at = least, dict.fromkeys(self.names, 1)
        for _ in range(_SWEEPS):
            moved = self._sweep(at, best, budget)
            if moved is None:
                break
            best, at = moved
        return at

    def _excess(self, found: Figures, whole: Figures) -> tuple[float, float]:
        """(cost, loss) of a change of one layer, so that costs of unchanged layers add up to those of the whole."""
        return max(0.0, found.synops - whole.synops + whole.synops / len(self.names)), max(0.0, found.kl - whole.kl)

    def _starts(self, layers: Mapping[str, Mapping[int, tuple[float, float]]], budget: float) -> Iterator[Bursts]:
        points = frontier(layers)
        near = sorted(points, key=lambda p: abs(p.cost - budget))[: 4 * _TRIED : 2]
        fit = [p for p in points if p.cost <= budget][-_TRIED:]
        seen: list[tuple[int, ...]] = []
        for point in (*fit, *near):
            if point.choice not in seen:
                seen.append(point.choice)
                yield dict(zip(self.names, point.choice, strict=True))
        for phi in range(self.most, 0, -1):
            yield dict.fromkeys(self.names, phi)

    def _sweep(self, at: Bursts, now: Figures, budget: float) -> tuple[Figures, Bursts] | None:
        """Up to four exchanges that lower the KL within the budget; None: there are none."""
        steps = [(n, at[n] + d) for n in self.names for d in (-1, 1) if 1 <= at[n] + d <= self.most]
        trials = [{**at, n: k} for n, k in steps]
        found = self.figures(*({n: (k, 1.0) for n, k in t.items()} for t in trials), what="sweep")
        effects = {step: (f.kl - now.kl, f.synops - now.synops) for step, f in zip(steps, found, strict=True)}
        ups = sorted((e for e in effects.items() if e[1][0] < 0), key=lambda e: e[1][0])[:8]
        downs = sorted((e for e in effects.items() if e[1][1] < 0), key=lambda e: e[1][0] / -e[1][1])[:8]
        plans: list[tuple[float, Bursts]] = []
        for count in range(_AT_ONCE + 1):
            taken = dict(step for step, _ in downs[:count])
            room = budget - now.synops - sum(e[1] for _, e in downs[:count])
            gain = sum(e[0] for _, e in downs[:count])
            for (name, k), (kl, cost) in ups:
                if name not in taken and cost <= room:
                    taken[name], room, gain = k, room - cost, gain + kl
            if taken and gain < 0:
                plans.append((gain, {**at, **taken}))
        chosen = [plan for _, plan in sorted(plans, key=lambda p: p[0])[:_TRIED]]
        single = [{**at, n: k} for (n, k), (kl, cost) in ups[:2] if now.synops + cost <= budget]
        tried = [*chosen, *single]
        results = self.figures(*({n: (k, 1.0) for n, k in t.items()} for t in tried), what="sweep")
        good = [(f.kl, i) for i, f in enumerate(results) if f.synops <= budget and f.kl < now.kl]
        return None if not good else (results[min(good)[1]], tried[min(good)[1]])

    # ----- SSC, Eq. 12-15

    def compressed(self, bursts: Bursts, allowed: float) -> dict[str, float]:
        """Threshold ratios of fewest synops at which the KL grows by at most the share ``allowed``, measured end to end."""
        single = [(name, ratio) for name in self.names for ratio in RATIOS]
        found = self.figures(*({n: (bursts[n], r)} for n, r in single), what="compression")
        whole = self.figures({}, what="compression")[0]
        layers: dict[str, dict[float, tuple[float, float]]] = {name: {} for name in self.names}
        for (name, ratio), f in zip(single, found, strict=True):
            layers[name][ratio] = self._excess(f, whole)
        points = frontier(layers)
        low, high, best = 0, len(points) - 1, {name: 1.0 for name in self.names}
        while low <= high:  # the frontier falls in loss: the cheapest point that is still good enough
            middle = (low + high) // 2
            chosen = dict(zip(self.names, points[middle].choice, strict=True))
            kl = self.figures({n: (bursts[n], r) for n, r in chosen.items()}, what="compression")[0].kl
            if kl <= (1 + allowed) * whole.kl:
                best, high = chosen, middle - 1
            else:
                low = middle + 1
        return best


def _too_small(share: float, least: float) -> UnsupportedError:
    return UnsupportedError(
        "D2E-CONV-014", f"a budget of {share:.3g} cannot be met: one spike per step everywhere takes {least:.3g} of what "
        "the largest burst takes", hint=f"Give --budget {least + 0.01:.2f} or more, or fewer time steps.",
    )

