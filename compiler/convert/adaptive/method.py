"""The method "adaptive" with its options: from the calibrated burst neurons to the network and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from d2e.compiler.choices import check_ranges
from d2e.compiler.convert.adaptive import exits
from d2e.compiler.convert.adaptive.adafire import AdaFire
from d2e.compiler.convert.adaptive.build import network_of
from d2e.compiler.convert.adaptive.calibrate import PRESETS, Calibration, Calibrator, State
from d2e.compiler.convert.adaptive.engine import MOST_SPIKES, simulate, synops
from d2e.compiler.convert.evaluate import Bench, divergence
from d2e.compiler.convert.method import Answers, Samples
from d2e.compiler.convert.prices import Prices
from d2e.compiler.convert.skeleton import Skeleton
from d2e.ir import EarlyExit, Network, UsageError
from d2e.ir.nodes import Array

SEARCHES = ("rate-distortion", "paper")
_HOLD_WITH_EXIT = 0.5
"""Thresholds by which neurons are held back at most where answers shall be right before the last step."""
_CHUNK = 64


@dataclass(frozen=True)
class Adaptive:
    """Options as of `d2e.convert`."""

    time_steps: int = 8
    max_burst: int = 4
    calibrate: str = "advanced"
    search: str = "rate-distortion"
    budget: float | None = None
    compress: float | None = None
    early_exit: float | None = None
    exit_rule: str = "calibrated"

    def check(self) -> None:
        """See `Method`."""
        check_ranges(self, {
            "time steps": (self.time_steps >= 1, "1 or more"),
            "max burst": (1 <= self.max_burst <= MOST_SPIKES, f"1 to {MOST_SPIKES}"),
            "calibrate": (self.calibrate in PRESETS, ", ".join(PRESETS)),
            "search": (self.search in SEARCHES, ", ".join(SEARCHES)),
            "budget": (self.budget is None or self.budget > 0, "above 0"),
            "compress": (self.compress is None or self.compress >= 0, "0 or more"),
            "early exit": (self.early_exit is None or 0 <= self.early_exit <= 100, "0 to 100"),
            "exit rule": (self.exit_rule in exits.RULES, ", ".join(exits.RULES)),
        }, "D2E-CONV-012")
        if self._searched and self.search == "rate-distortion" and not self._calibration.drive:
            raise UsageError("D2E-CONV-012", f"the search {self.search} needs thresholds set on real inputs, calibrate "
                             f"{self.calibrate!r} has them by Eq. 8", hint="Give --calibrate advanced, or --search paper.")
        if self.search == "paper" and (self.budget or 0) > 1:
            raise UsageError("D2E-CONV-012", f"budget {self.budget!r} is out of its range",
                             hint="With --search paper it is a share of the spikes, up to 1.")

    @property
    def settings(self) -> list[Any]:
        """See `Method`."""
        return [self.time_steps, asdict(self._calibration)]

    @property
    def _searched(self) -> dict[str, Any]:
        """What is searched, for the facts."""
        goals = {"budget": self.budget, "compress": self.compress}
        given = {key: value for key, value in goals.items() if value is not None}
        return {"search": {"name": self.search, **given}} if given else {}

    @property
    def _calibration(self) -> Calibration:
        found = PRESETS[self.calibrate]
        return found if self.early_exit is None else replace(found, hold=min(found.hold, _HOLD_WITH_EXIT))

    def convert(self, skeleton: Skeleton, samples: Samples, seed: int, bench: Bench) -> Bursts:
        """See `Method`."""
        calibrator = Calibrator(skeleton, samples.fit, self.time_steps, self._calibration, seed)
        state, prices = self._chosen(calibrator, samples.held, samples.logits, bench)
        rule = None
        if self.early_exit is not None:
            evidence = _evidence(state, samples.later, self.time_steps)
            rule = exits.calibrate(evidence, self.early_exit / 100, self.exit_rule)  # type: ignore[arg-type]
        facts: dict[str, Any] = {
            "time_steps": self.time_steps, "max_burst": self.max_burst, "calibrate": self.calibrate,
            "bursts": state.bursts, "ratios": dict(state.ratios), **self._searched,
            **({} if prices is None else {"frontier": prices.table()}),
            **_figures(state, samples.held, samples.logits, self.time_steps),
        }
        if rule is not None:
            facts["early_exit"] = {"rule": rule.rule, "bounds": rule.bounds.tolist(), "allowed": self.early_exit}
        return Bursts(state, self.time_steps, rule, facts)

    def _chosen(
        self, calibrator: Calibrator, held: Array, logits: Array, bench: Bench
    ) -> tuple[State, Prices[State] | None]:
        """The network, and the prices that were looked at for it."""
        budget, compress, most = self.budget, self.compress, self.max_burst
        if budget is None and compress is None:
            return calibrator.every(most), None
        if self.search == "rate-distortion":
            prices = Prices(calibrator, most, held, logits, bench)
            price = None if budget is None else prices.within(budget)
            if compress is not None:
                price = prices.grown(price, compress)
            return calibrator.every(most, price=price), prices
        state = calibrator.every(most)
        if budget is not None:
            state = calibrator.every(AdaFire(calibrator, state, held, logits, bench).bursts(budget))
        if compress is not None:
            ratios = AdaFire(calibrator, state, held, logits, bench).ratios(compress)
            state = calibrator.every(state.bursts, ratios)
        return state, None


@dataclass(frozen=True, eq=False)
class Bursts:
    """See `Outcome`."""

    state: State
    steps: int
    rule: EarlyExit | None
    facts: Mapping[str, Any]

    def answers(self, images: Array) -> Answers:
        """See `Outcome`."""
        evidence = simulate(self.state.skeleton, self.state.plan, images, self.steps)[1]
        full = evidence[:, -1].argmax(axis=1)
        if self.rule is None:
            return Answers(full)
        at = self.rule.steps(evidence, "last")
        return Answers(full, evidence[np.arange(len(at)), at - 1].argmax(axis=1), at)

    def network(self) -> Network:
        """See `Outcome`."""
        return network_of(self.state, self.steps, self.rule)


def _evidence(state: State, images: Array, steps: int) -> Array:
    parts = range(0, len(images), _CHUNK)
    return np.concatenate([simulate(state.skeleton, state.plan, images[i : i + _CHUNK], steps)[1] for i in parts])


def _figures(state: State, images: Array, logits: Array, steps: int) -> dict[str, float]:
    """Means per held sample."""
    spikes, evidence = simulate(state.skeleton, state.plan, images, steps)
    return {
        "kl": divergence(logits, evidence[:, -1] / steps),
        "spikes_per_sample": sum(float(n.sum(dtype=np.int64)) for n in spikes.values()) / len(images),
        "synops_per_sample": sum(synops(state.skeleton, spikes).values()),
        "messages_synops_per_sample": sum(synops(state.skeleton, spikes, messages=True).values()),
    }
