"""The method "single-step" with its options: from the calibrated staircases to the network and what is said of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from d2e.compiler.choices import check_ranges
from d2e.compiler.convert.evaluate import Bench, divergence
from d2e.compiler.convert.method import Answers, Samples
from d2e.compiler.convert.prices import Price, Prices
from d2e.compiler.convert.single_step.build import network_of
from d2e.compiler.convert.single_step.calibrate import Calibrator, Options, State
from d2e.compiler.convert.single_step.engine import Run, simulate, traffic
from d2e.compiler.convert.single_step.staircase import MOST_LEVELS
from d2e.compiler.convert.skeleton import Skeleton
from d2e.ir import MissingError, Network, UsageError
from d2e.ir.host import Attention
from d2e.ir.nodes import Array

SPACINGS, STARTS, SEARCHES = ("fitted", "uniform"), ("round", "floor"), ("rate-distortion", "bayes")
_PRICES: tuple[Price, ...] = (None, 0.001, 0.003, 0.01)
"""Of a synop, among which that of least divergence is taken where levels are fitted: a little keeps small inputs quiet."""


@dataclass(frozen=True)
class SingleStep:
    """Options as of `d2e.convert`."""

    levels: int = 16
    spacing: str = "fitted"
    start: str = "round"
    search: str = "rate-distortion"
    budget: float | None = None

    def check(self) -> None:
        """See `Method`."""
        check_ranges(self, {
            "levels": (1 <= self.levels <= MOST_LEVELS, f"1 to {MOST_LEVELS}"),
            "spacing": (self.spacing in SPACINGS, ", ".join(SPACINGS)),
            "start": (self.start in STARTS, ", ".join(STARTS)),
            "search": (self.search in SEARCHES, ", ".join(SEARCHES)),
            "budget": (self.budget is None or self.budget > 0, "above 0"),
        }, "D2E-CONV-012")
        if self.spacing == "fitted" and self.start == "floor":
            raise UsageError("D2E-CONV-012", "start 'floor' goes with uniform levels: fitted ones have no start",
                             hint="Give --spacing uniform.")
        if self.search == "bayes" and find_spec("optuna") is None:
            raise MissingError("D2E-CONV-018", "optuna is not installed", hint="pip install 'd2e[search]'.")

    @property
    def settings(self) -> list[Any]:
        """See `Method`."""
        return [self.levels, self.spacing, self.start]

    def convert(self, skeleton: Skeleton, samples: Samples, seed: int, bench: Bench) -> Levels:
        """See `Method`."""
        options = Options(fitted=self.spacing == "fitted", rounds=self.start == "round")
        calibrator = Calibrator(skeleton, samples.fit, options, seed)
        prices = Prices(calibrator, self.levels, samples.held, samples.logits, bench)
        price, most = self._price(prices)
        state = calibrator.every(self.levels, price=price)
        if self.search == "bayes":
            from d2e.compiler.convert.single_step.bayes import scaled

            state = scaled(calibrator, state, samples.held, samples.logits, price or 0.0, seed, bench.listen, most=most)
        searched = {} if self.budget is None and self.search == "rate-distortion" else {
            "search": {"name": self.search, **({} if self.budget is None else {"budget": self.budget})}}
        facts = {
            "time_steps": 1, "levels": state.levels, "spacing": self.spacing,
            **({} if options.fitted else {"start": self.start}), "most_levels": self.levels, **searched,
            **({"frontier": prices.table()} if prices.known else {}), **_figures(state, samples.held, samples.logits),
        }
        return Levels(state, facts)

    def _price(self, prices: Prices[State]) -> tuple[Price, float]:
        """That of least divergence of those that were looked at within the budget; the most synops there may be."""
        lowest, most = None, math.inf
        if self.budget is not None:
            lowest = prices.within(self.budget)
            most = self.budget * (prices.known[None].synops if self.budget <= 1 else 1.0)
        if self.spacing == "fitted":
            prices.figures(*(price for price in _PRICES if (price or 0.0) >= (lowest or 0.0)), what="levels")
        return prices.closest(most), most


@dataclass(frozen=True, eq=False)
class Levels:
    """See `Outcome`."""

    state: State
    facts: Mapping[str, Any]

    def answers(self, images: Array) -> Answers:
        """See `Outcome`."""
        state = self.state
        return Answers(simulate(state.skeleton, state.plan, state.readouts, images).logits(state.skeleton).argmax(axis=1))

    def network(self) -> Network:
        """See `Outcome`."""
        return network_of(self.state)


def _figures(state: State, images: Array, logits: Array) -> dict[str, Any]:
    """Means per held sample."""
    run = simulate(state.skeleton, state.plan, state.readouts, images)
    sent = traffic(state.skeleton, state.plan, run.n).values()
    messages = sum(each.messages for each in sent)
    return {
        "kl": divergence(logits, run.logits(state.skeleton)),
        "spikes_per_sample": sum(each.spikes for each in sent),
        "synops_per_sample": sum(each.synops for each in sent),
        "messages_per_sample": messages,
        "messages_synops_per_sample": sum(each.message_synops for each in sent),
        "payload_bits_per_message": sum(each.bits for each in sent) / max(messages, 1e-9),
        **({"attention": seen} if (seen := _attention(state.skeleton, run)) else {}),
    }


def _attention(skeleton: Skeleton, run: Run) -> dict[str, dict[str, dict[str, float]]]:
    """Attention -> what the neurons before it send as queries q, keys k and values v.

    ``silent`` is the share of neurons that send nothing, ``levels`` the mean number of levels that a neuron crosses.
    """
    found = {}
    for name, layer in skeleton.layers.items():
        sources = [path.source for path in layer.paths if path.source in run.n]
        if isinstance(skeleton.network.nodes[name], Attention) and len(sources) == 1:
            n = run.n[sources[0]].reshape(-1, 3, layer.shape[-1])  # every token has q, k and v side by side
            found[name] = {
                "silent": {part: float((n[:, i] == 0).mean()) for i, part in enumerate("qkv")},
                "levels": {part: float(n[:, i].mean()) for i, part in enumerate("qkv")},
            }
    return found
