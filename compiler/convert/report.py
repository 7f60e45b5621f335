"""What a conversion found, as at most fifteen lines of text."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from d2e.ir import Network

_WIDTH = 140


def text(network: Network, path: str | None = None, *, calibration: str | None = None, eval: str | None = None) -> str:
    """The last screen, from ``metadata["conversion"]``.

    Args:
        network: made by `d2e.convert`.
        path: of its file.
        calibration, eval: data for the command that compiles it.
    """
    facts = network.metadata["conversion"]
    place = {name: i for i, name in enumerate(network.nodes)}
    layers = sorted(_most(facts), key=lambda name: place.get(name, len(place)))  # a file has them by name
    neurons = sum(math.prod(network.neuron(name).shape) for name in network.populations)
    lines = [
        _method(facts), f"network    {len(layers)} layers and a readout, {neurons:,} neurons", *_neurons(facts, layers),
        *_figures(facts), _energy(facts), *_early_exit(facts), _accuracy(facts),
    ]
    return "\n".join([*map(_clip, lines), *_written(path, calibration, eval)]) + "\n"


def _most(facts: Mapping[str, Any]) -> Mapping[str, int]:
    """Population -> phi, or levels."""
    found: Mapping[str, int] = facts["bursts"] if "bursts" in facts else facts["levels"]
    return found


def _method(facts: Mapping[str, Any]) -> str:
    how = (
        f"T {facts['time_steps']}, phi {facts['max_burst']}, calibration {facts['calibrate']}" if "bursts" in facts
        else f"T 1, up to {facts['most_levels']} levels, {facts['spacing']}" + (
            f" ({facts['start']})" if "start" in facts else "")
    )
    line, found = f"method     {facts['method']}, {how}", facts.get("search", {})
    line += f", search {found['name']}" if found else ""
    line += f", budget {found['budget']:g}" if "budget" in found else ""
    return line + (f", compressed by up to {found['compress']:g} of the divergence" if "compress" in found else "")


def _neurons(facts: Mapping[str, Any], layers: list[str]) -> list[str]:
    runs = _runs([_most(facts)[name] for name in layers])
    if "levels" in facts:
        return [f"levels     {runs} (of a neuron x layers, from the front)"]
    return [f"bursts     {runs} (spikes per step x layers, from the front)",
            *_ratios([facts["ratios"][name] for name in layers])]


def _runs(values: list[int]) -> str:
    """4, 4, 3 as "4x2 3x1"."""
    return " ".join(f"{value}x{len(list(run))}" for value, run in groupby(values))


def _ratios(ratios: list[float]) -> list[str]:
    """Where not all are 1."""
    found = [f"{ratio:.3g}" for ratio in ratios]
    return [] if set(found) == {"1"} else [f"ratios     {' '.join(found)} (thresholds against those of least error)"]


def _figures(facts: Mapping[str, Any]) -> list[str]:
    samples = facts["samples"]
    lines = [
        f"divergence {facts['kl']:.3g} nats (KL) from the ANN on {samples['held']:,} held-out samples; "
        f"{samples['fit']:,} set the neurons",
        f"activity   {facts['spikes_per_sample']:,.1f} spikes, {facts['synops_per_sample']:,.0f} synops per sample in "
        + (f"all {facts['time_steps']} steps" if facts["time_steps"] > 1 else "one step"),
    ]
    if "messages_per_sample" in facts:
        lines.append(
            f"  graded   {facts['messages_per_sample']:,.1f} spikes of {facts['payload_bits_per_message']:.1f} bits, "
            f"{facts['messages_synops_per_sample']:,.0f} synops, where payloads travel as integers")
    return [*lines, *_attention(facts)]


def _attention(facts: Mapping[str, Any]) -> list[str]:
    """What neurons send to attention as queries, keys and values, in the mean of all attentions."""
    found = list(facts.get("attention", {}).values())
    if not found:
        return []
    parts = [(part, *(sum(each[of][part] for each in found) / len(found) for of in ("silent", "levels"))) for part in "qkv"]
    listed = ", ".join(f"{part} {100 * silent:.0f} % silent, {levels:.1f} levels" for part, silent, levels in parts)
    return [f"attention  {listed} of a neuron in the mean"]


def _energy(facts: Mapping[str, Any]) -> str:
    found = {row["of"]: 1e6 * row["value_j"] for row in facts["energy"]}
    source = facts["energy"][0]["source"]
    return f"energy     estimated {found['snn']:.3g} uJ per sample, the ANN {found['ann']:.3g} uJ ({source})"


def _early_exit(facts: Mapping[str, Any]) -> list[str]:
    found = facts.get("early_exit")
    if not found:
        return []
    allowed = "" if found["rule"] == "eq17-code" else f"; it may change {found['allowed']:g} points of the answers"
    return [f"early exit by the rule {found['rule']!r}{allowed}"]


def _accuracy(facts: Mapping[str, Any]) -> str:
    found = facts.get("accuracy")
    if not found:
        return "accuracy   not measured (give --eval)"
    line = (f"accuracy   {100 * found['ann']:.2f} % ANN -> {100 * found['snn']:.2f} % SNN "
            f"({100 * (found['snn'] - found['ann']) + 0.0:+.2f} points, {found['samples']:,} samples)")
    if "mean_steps" not in found:
        return line
    return (f"{line} in {found['mean_steps']:.2f} of {facts['time_steps']} steps in the mean; "
            f"all steps: {100 * found['snn_all_steps']:.2f} %")


def _written(path: str | None, calibration: str | None, eval: str | None) -> list[str]:
    if path is None:
        return []
    file, images, labelled = (shlex.quote(name) if name else "FILE" for name in (path, calibration, eval))
    return [f"written    {path}",
            f"next       d2e-compile {file} --target loihi2-sim --calibration {images} --eval {labelled}"]


def _clip(line: str) -> str:
    return line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…"
