"""Two ways of running side by side: two engines or devices, or two programs; and where their spikes first differ."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from d2e.compiler.bench import devices as boards
from d2e.compiler.bench.api import Chosen, How, exact, opened, run
from d2e.compiler.bench.job import Work
from d2e.compiler.bench.result import Bench, written
from d2e.compiler.bench.screen import number
from d2e.compiler.device import SIMULATED, Device, HasDevices
from d2e.compiler.files import MANIFEST
from d2e.compiler.program import Program, load
from d2e.compiler.replicas import merged
from d2e.ir import GateError, Network, UsageError
from d2e.ir.nodes import Array

Side: TypeAlias = "str | Program"


class Different(GateError):
    """Two that promise the same spikes differ.

    Attributes:
        bench: the figures of both.
    """

    bench: Bench


@dataclass(frozen=True)
class _Party:
    """One side: what runs, and on what."""

    name: str
    program: Program
    chosen: Chosen

    @property
    def on(self) -> str:
        """Its engine, or the kind of its device."""
        kinds = {boards.name_of(text).kind for text in self.chosen.devices}
        return "+".join(sorted(kinds)) or self.chosen.engine or self.program.target.predictor

    def device(self) -> Device:
        """Not open yet; told of no fault."""
        target = self.program.target
        if self.chosen.devices:
            return boards.make(replace(boards.name_of(self.chosen.devices[0]), faults={}), target)
        folder = self.program.folder / "target" if self.program.folder else None
        return boards.EngineDevice(target, self.on, folder)


def compared(program: Program, sides: tuple[Side, Side], how: How, output: str | os.PathLike[str] | None) -> Bench:
    """Run both sides on the same data, and find the first sample, layer, step and neuron that differ.

    Of programs that promise the same spikes also the first value that their networks have not alike.

    Each side is an engine of the program's target, a device, or another program (or the folder of one). Two promise the
    same spikes where both run on what is bit-exact with the target's predictor, and the programs are the same or were made
    from the same model with the same options.

    Raises:
        UsageError: D2E-BENCH-012 for what is neither, or programs of other inputs.
        Different: D2E-BENCH-010 where they promise the same spikes and differ.
    """
    a, b = (_party(program, side) for side in sides)
    for party in (a, b):
        opened(party.program, party.chosen, how)
    _check_inputs(a.program, b.program)
    first, second = (run(party.program, party.chosen, how) for party in (a, b))
    facts = _facts(a, b, first, second)
    differing = facts.pop("differing")
    if facts["promised"] and (changed := _change(a.program.network, b.program.network)) is not None:
        facts["network"] = changed
    if differing is not None:
        at = _first_difference(a, b, how, differing)
        facts["first"] = {"sample": differing, **(at or {})}
    made = Bench({**first.data, "compare": facts}, first.rows)
    unwritten = written(made, output)
    if unwritten is not None:
        raise unwritten
    if facts["promised"] and ("first" in facts or "network" in facts):
        where = _where(facts["first"]) if "first" in facts else f"{_changed(facts['network'])}, though no count here"
        error = Different("D2E-BENCH-010", f"A ({a.name}) and B ({b.name}) promise the same spikes and differ: {where}",
                          hint="Compile again; please report it where both are as compiled.")
        error.bench = made
        raise error
    return made


def _party(program: Program, side: Side) -> _Party:
    if isinstance(side, Program):
        return _Party(str(side.folder or "the other program"), side, Chosen())
    if (Path(side) / MANIFEST).is_file():
        return _Party(side, load(side), Chosen())
    target = program.target
    if side in target.engines:
        return _Party(side, program, Chosen(engine=side))
    kinds = (SIMULATED, *(target.kinds if isinstance(target, HasDevices) else ()))
    if side.partition(":")[0].partition("{")[0] in kinds:
        return _Party(boards.name_of(side).label, program, Chosen(devices=(side,)))
    raise UsageError("D2E-BENCH-012", f"{side!r} is no engine or device of {target.name}, and no folder of a program",
                     hint=f"Engines: {', '.join(target.engines)}; devices: {', '.join(kinds)}.")


def _check_inputs(a: Program, b: Program) -> None:
    if a.input_shape != b.input_shape or a.time_steps != b.time_steps:
        raise UsageError("D2E-BENCH-012", f"one program takes {a.time_steps} frames {list(a.input_shape)}, the other "
                         f"{b.time_steps} frames {list(b.input_shape)}", hint="Compare programs of one source.")


def _facts(a: _Party, b: _Party, first: Bench, second: Bench) -> dict[str, Any]:
    theirs = {row["sample"]: row for row in second.rows}
    both = [(row, theirs[row["sample"]]) for row in first.rows if row["sample"] in theirs]
    whole = first.get("populations") == second.get("populations")
    key = "counts_sha256" if whole else "answer_sha256"
    other = [x["sample"] for x, y in both if x[key] != y[key]]
    return {
        "a": {"name": a.name, **_figures(first)}, "b": {"name": b.name, **_figures(second)}, "samples": len(both),
        "predictions_equal": sum(x["prediction"] == y["prediction"] for x, y in both),
        "counts_equal": len(both) - len(other), "counts_of": "all populations" if whole else "the output",
        "promised": _promised(a, b), "differing": other[0] if other else None,
    }


def _figures(bench: Bench) -> dict[str, Any]:
    kept = ("program", "engine", "accuracy", "activity", "times", "complete")
    return {key: bench[key] for key in kept if key in bench.data}


def _promised(a: _Party, b: _Party) -> bool:
    """Whether the same spikes are promised."""
    ones, others = a.program, b.program
    same = ones is others or ones.network.same(others.network) or (ones.facts == others.facts and _tells(ones.facts))
    return same and ones.target.name == others.target.name and exact(ones, a.on) and exact(others, b.on)


def _tells(facts: Mapping[str, Any]) -> bool:
    """Whether the facts of a program name all that it was made from by its hash; of what was no file they have none."""
    origins = [facts.get("model"), *(facts.get("options") or {}).values()]
    return bool(facts.get("model")) and not any(isinstance(each, Mapping) and {*each} == {"name"} for each in origins)


# --------------------------------------------------------------------------- where


def _change(a: Network, b: Network) -> dict[str, Any] | None:
    """The first node that two lowered networks have not alike, and of its weights, or another array, the first value."""
    for name in [*a.order, *b.order]:
        one, other = a.nodes.get(name), b.nodes.get(name)
        if one is None or other is None:
            return {"node": name}
        if one.same(replace(other, metadata=one.metadata)):
            continue
        for what in (f.name for f in fields(one) if isinstance(getattr(one, f.name), np.ndarray)):
            ours, theirs = getattr(one, what), getattr(other, what, None)
            if isinstance(theirs, np.ndarray) and ours.shape == theirs.shape and (unequal := ours != theirs).any():
                at = tuple(int(i) for i in np.argwhere(unequal)[0])
                return {"node": name, "array": what, "values": int(unequal.sum()), "index": list(at), "a": ours[at].item(),
                        "b": theirs[at].item()}
        return {"node": name}
    return None


def _first_difference(a: _Party, b: _Party, how: How, sample: int) -> dict[str, Any] | None:
    """The first step in which a population differs in one sample, of those that both tell; populations in their order.

    Of recordings, which have no steps, the first population and neuron whose counts differ.
    """
    ours, theirs = (_recorded(party, how, sample) for party in (a, b))
    found: dict[str, Any] | None = None
    for name, one in ours.items():
        other = theirs.get(name)
        if other is None or other.shape != one.shape or np.array_equal(one, other):
            continue
        unequal = one != other
        step = int(np.argmax(unequal.reshape(len(one), -1).any(axis=1)))
        if found is None or step < found["step"]:
            neuron = tuple(int(i) for i in np.argwhere(unequal[step])[0])
            found = {"population": name, "step": step, "neuron": list(neuron), "a": one[step][neuron].item(),
                     "b": other[step][neuron].item()}
    if found is not None and "" in ours:
        found.pop("step")
    return found


def _recorded(party: _Party, how: How, sample: int) -> dict[str, Array]:
    """Input and populations of the source -> what they sent [time, *shape]; the key "" marks counts [1, *shape]."""
    work = Work(party.program, warm_up=0, window_us=how.window_us)
    found = opened(party.program, party.chosen, how)
    batch = work.encoded(0, 0, sample, found.read(sample, sample + 1), found.streamed)
    network, names = party.program.network, list(party.program.populations)
    ordered = [n for n in network.order if n in names] + [n for n in names if n not in network.nodes]
    if batch.frames is not None and network.hosts:
        result = party.program.run(batch.frames, engine=party.on, record="spikes")
        return {n: result.spikes[n][0] for n in ordered if n in result.spikes} | {"output": result.output[0]}
    device = party.device()
    device.open()
    try:
        device.configure(network)
        done = work.run(device, batch) if batch.frames is None else None
        if done is not None:
            counts = done.streamed[0].counts
            return {"": np.zeros((1, 1))} | {n: counts[n][None] for n in ordered if n in counts}
        assert batch.frames is not None
        trace = merged(network, device.run(batch.frames, "spikes").trace)
    finally:
        device.close()
    sent = {n: trace.spikes[n][0] for n in ordered if n in trace.spikes}
    return {network.inputs[0]: batch.frames[0], **sent, "output": trace.output[0]}


# --------------------------------------------------------------------------- told


def _where(first: Mapping[str, Any]) -> str:
    """In words."""
    if "population" not in first:
        return f"first in sample {first['sample']}"
    step = f", step {first['step']}" if "step" in first else ""
    return (f"first in sample {first['sample']}, population {first['population']!r}{step}, neuron {first['neuron']}: "
            f"{first['a']:g} in A, {first['b']:g} in B")


def _changed(change: Mapping[str, Any]) -> str:
    """In words."""
    if "array" not in change:
        return f"node {change['node']!r} of one is not that of the other"
    return (f"node {change['node']!r}, {change['array']} {change['index']}: {change['a']:g} in A, {change['b']:g} in B "
            f"({change['values']:,} such)")


def _shown(figures: Mapping[str, Any]) -> dict[str, str]:
    """The figures of one side that the screen has, by their labels."""
    shown = {} if "accuracy" not in figures else {"accuracy": f"{100 * figures['accuracy']:.2f} %"}
    activity, times = figures.get("activity", {}), figures.get("times", {})
    shown |= {key: number(activity[f"{key}_per_sample"]) for key in ("spikes", "synops") if f"{key}_per_sample" in activity}
    if times:
        shown["batch p50"] = f"{times['batch_ms']['p50']:.3g} ms"
    if "throughput_per_s" in times:
        shown["samples/s"] = f"{times['throughput_per_s']:,.1f}"
    return shown


def lines(facts: Mapping[str, Any], name: str) -> list[str]:
    """The screen of a comparison of data of this name."""
    a, b, samples = facts["a"], facts["b"], facts["samples"]
    rows = [("", "A", "B"), ("", a["name"], b["name"])]
    ours, theirs = _shown(a), _shown(b)
    rows += [(label, ours.get(label, ""), theirs.get(label, "")) for label in ours | theirs]
    width = max(len(row[1]) for row in rows) + 3
    told = [f"{label:<12}{one:<{width}}{other}".rstrip() for label, one, other in rows]
    promise = "the same spikes are promised" if facts["promised"] else "no promise of the same spikes"
    told += [f"predictions equal on {facts['predictions_equal']:,} of {samples:,} samples of {name}",
             f"counts      equal on {facts['counts_equal']:,} of {samples:,} samples, of {facts['counts_of']} ({promise})"]
    if "network" in facts:
        told.append(f"network     {_changed(facts['network'])}")
    return [*told, f"difference  {_where(facts['first'])}"] if "first" in facts else told
