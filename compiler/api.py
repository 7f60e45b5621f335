"""`compile`: model in, program out. The command line is a thin layer over this one function."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import d2e
from d2e.compiler import data as data_sets
from d2e.compiler import energy as energies
from d2e.compiler.choices import selected, target_of
from d2e.compiler.early_exit import for_target
from d2e.compiler.encoders import checked_range, with_encoder
from d2e.compiler.files import check_folder, sha256
from d2e.compiler.frontends.files import Source, load_model
from d2e.compiler.hosted.build import compile_hosted, refuse
from d2e.compiler.measure import Measured, comparable, measure, reference_run
from d2e.compiler.notes import warnings
from d2e.compiler.passes.bits import Bits, stated
from d2e.compiler.passes.discretise import Discretise
from d2e.compiler.passes.manager import Step, run_passes
from d2e.compiler.program import Program, pass_row
from d2e.compiler.report.build import build_report
from d2e.compiler.report.details import first_sample
from d2e.compiler.target import Target
from d2e.ir import GateError, Network, UsageError, to_text, verified
from d2e.ir.nodes import Array
from d2e.ir.reference import Record, Trace

Listener = Callable[[int, int, Step], None]


def compile(
    model: Source, target: str = "loihi2-sim", *, input_shape: Sequence[int] | None = None, time_steps: int | None = None,
    coding: str | None = None, max_payload: int | None = None, readout: str | None = None, encoder: str | None = None,
    input_range: Sequence[float] | None = None, input_bits: int | None = None, weight_bits: Bits = 8,
    budget: float | None = None, scale: str = "auto", percentile: float = 99.9, burst: str = "auto",
    soft_reset: str = "exact", calibration: data_sets.Source | None = None,
    calibration_samples: int = 128, eval: data_sets.Source | None = None, eval_samples: int | None = None,
    max_drop: float | None = None, passes: str | None = None, stop_after: str | None = None,
    print_ir_after: str | None = None, save_ir: bool = False, time_passes: bool = False, profile: str | None = None,
    dt: float | None = None, reset: str | None = None, fire: str | None = None, max_spikes: int | None = None,
    allow_pickle: bool = False, energy: energies.Given | None = None, output: str | None = None,
    listen: Listener | None = None,
) -> Program:
    """Compile a trained spiking network for a chip.

    Args:
        model: ``.pt``, ``.pt2``, ``.nir``, ``pkg.module:factory``, a torch module or a `d2e.ir.Network`.
        target: name, with its options in braces: ``loihi2-sim{cores=64}``; ``d2e targets NAME`` lists them.
        input_shape: of one frame, where the model does not say it.
        time_steps: steps per sample.
        coding: of the input: spikes, signed or direct.
        max_payload: largest payload of the input.
        readout: of a class from the output: count, last, mean, max (over time) or first (who spikes first).
        encoder: how the host makes frames of real values: direct, first, rate, bernoulli{seed=N}, ttfs, ttfs-strict,
            ttfs-inclusive, latency (these four also with {latch}), phase or delta{step=X}; docs/encoding.md defines them.
        input_range: smallest and largest value of the input; by default that of the calibration data, or 0 and 1 for an
            encoder that makes spikes.
        input_bits: width of the payloads that real values become; by default 8, or fewer where the first layer's state
            would outgrow the chip on the calibration data.
        weight_bits: width of signed weights, 1..8: a number, {layer: bits} or "layer=bits,…", or "auto" with a budget.
        budget: most bits per weight in the mean, shared out among the layers by what they change on the calibration data.
        scale: how the unit of a layer is chosen: auto, max, percentile, mse or spikes.
        percentile: of |weight| kept by scale=percentile.
        burst: form of neurons that send more than one spike a step: replicas (one neuron of the chip per level), weighted
            (one per binary digit, of neurons without memory), graded (a process of its own that sends integers), or auto,
            which picks by synapses and cores and says why.
        soft_reset: exact, or fallback, which keeps to registers every Loihi 2 microcode takes and is approximate.
        calibration: data for the choice of scales; labels are not used.
        calibration_samples: at most so many of them.
        eval: data on which every pass is measured.
        eval_samples: at most so many of them.
        max_drop: most percentage points of accuracy the program may lose against the float model, on ``eval``.
        passes: names of the passes to run, comma separated, with options in braces: ``quantise{weight-bits=4}``.
        stop_after: last pass to run; the program then cannot run on the target.
        print_ir_after: print the network after this pass (``all``: every pass).
        save_ir: keep the network after every pass in the program folder.
        time_passes: print how long each pass took.
        profile, dt, reset, fire, max_spikes: settle what a ``.nir`` file leaves open.
        allow_pickle: load a ``.pt`` that runs code. Only for files you trust.
        energy: constants of your own for the report, joules per operation: {"source": "…", "synops": 2e-12}, or a JSON file
            of them; see docs/report.md.
        output: save the program to this folder.
        listen: called with (number, total, step) after every pass.

    Returns:
        The program; its ``report`` has what was measured.

    Raises:
        UsageError: a file, option or data is wrong.
        UnsupportedError: the target cannot express the network, or it does not fit.
        GateError: D2E-GATE-001 where more than ``max_drop`` points are lost.
    """
    weight_bits = stated(weight_bits)
    chip, chip_options = target_of(target)
    _one_of("burst", burst, ("auto", "replicas", "weighted", "graded"))
    _one_of("soft-reset", soft_reset, ("exact", "fallback"))
    constants = energies.own(energy)
    if output is not None:
        check_folder(Path(output))
    span = checked_range(input_range)
    source = for_target(with_encoder(verified(load_model(
        model, input_shape=input_shape, time_steps=time_steps, coding=coding, max_payload=max_payload, readout=readout,
        allow_pickle=allow_pickle, profile=profile, dt=dt, reset=reset, fire=fire, max_spikes=max_spikes,
    )), encoder, span, coding), chip)
    if source.hosts:
        refuse({"budget": budget, "passes": passes, "stop-after": stop_after, "print-ir-after": print_ir_after,
                "save-ir": save_ir, "time-passes": time_passes})
    held_out = None if eval is None else data_sets.fit(data_sets.load(eval, "evaluation data"), source).head(eval_samples)
    if max_drop is not None and (held_out is None or held_out.labels is None):
        raise UsageError("D2E-USE-010", "max-drop needs evaluation data with labels", hint="Give --eval.")
    frames = None if calibration is None else data_sets.fit(
        data_sets.load(calibration, "calibration data"), source).head(calibration_samples).frames
    facts = _facts(model, target, {
        "weight_bits": weight_bits, "budget": budget, "scale": scale, "percentile": percentile, "burst": burst,
        "soft_reset": soft_reset, "passes": passes,
        "time_steps": time_steps, "coding": coding, "max_payload": max_payload, "readout": readout, "encoder": encoder,
        "input_range": span, "input_bits": input_bits,
        "calibration": _origin(calibration),
        "calibration_samples": None if calibration is None else calibration_samples,
        "eval": _origin(eval), "eval_samples": eval_samples, "profile": profile, "dt": dt, "reset": reset, "fire": fire,
        "max_spikes": max_spikes, "max_drop": max_drop, "allow_pickle": allow_pickle or None, "energy": _origin(energy),
    })
    if source.hosts:
        whole = compile_hosted(
            source, chip, partial(
                compile, target=target, scale=scale, percentile=percentile, burst=burst, soft_reset=soft_reset, dt=dt,
                calibration_samples=calibration_samples, energy=energy, listen=listen,
            ), weight_bits, {"input_range": span, "input_bits": input_bits}, frames, held_out, facts,
        )
        if max_drop is not None:
            _gate(whole, max_drop)
        if output is not None:
            whole.save(output)
        return whole
    options = {
        "weight_bits": weight_bits, "budget": budget, "scale": scale, "percentile": percentile, "calibration": frames,
        "time_steps": source.input.time_steps, "dt": dt, "burst": burst, "soft_reset": soft_reset,
        "evaluation": None if held_out is None else held_out.frames, "input_range": span, "input_bits": input_bits,
        **chip_options,
    }
    pipeline = selected(chip.pipeline(options), passes)
    settled = Discretise(dt=dt).run(source, chip)  # what the source means step by step, to measure against
    meter = _Meter(chip, settled, held_out)
    watch = _Watch(listen, print_ir_after, time_passes, [p.name for p in pipeline])
    steps = run_passes(pipeline, source, chip, listen=watch, measure=meter if held_out else None, stop_after=stop_after)
    meter.rows += [{"pass": s.name, **{k: v for k, v in s.measured.items() if k != "pass"}} for s in steps if s.measured]
    network = steps[-1].network if steps else source
    stages = [("source", source), *((s.name, s.network) for s in steps)]
    program = Program(
        network, chip, {n: source.nodes[n].kind for n in source.populations},
        _report(chip, network, stages, meter, constants), facts, stages, _log(steps, meter), source=settled, save_ir=save_ir,
        evaluation=held_out,
    )
    if max_drop is not None:
        _gate(program, max_drop)
    if output is not None:
        program.save(output)
    return program


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError("D2E-USE-009", f"{name} {value!r} is not known", hint=f"It is {', '.join(known)}.")


class _Meter:
    """Measures the network after every pass against the source, in the engine that can run it."""

    def __init__(self, chip: Target, source: Network, data: data_sets.Data | None) -> None:
        self.chip, self.data = chip, data
        self.before = measure(source, data) if data is not None else None
        self.last: tuple[Network, Measured] | None = (source, self.before) if self.before is not None else None
        self.simulated: Network | None = None
        self.rows: list[dict[str, Any]] = []
        if self.before is not None:
            self.rows.append(pass_row("source", self.before, self.before))

    def __call__(self, network: Network) -> dict[str, float]:
        """The figures of one network; a pass that changed no node costs nothing."""
        assert self.data is not None
        assert self.before is not None
        assert self.last is not None
        known, found = self.last
        if dict(known.nodes) != dict(network.nodes) or known.edges != network.edges:
            found = measure(network, self.data, self._run if self.chip.lowered(network) else reference_run)
        self.last = (network, found)
        return pass_row("", found, comparable(self.before, network))

    def _run(self, network: Network, frames: Array, record: Record) -> Trace:
        self.simulated = network
        return self.chip.run(network, frames, engine=self.chip.predictor, record=record, folder=None)


class _Watch:
    """Progress for the caller, and what was asked to be printed."""

    def __init__(self, listen: Listener | None, print_ir_after: str | None, time_passes: bool, names: list[str]) -> None:
        if print_ir_after not in (None, "all", *names):
            raise UsageError("D2E-USE-005", f"there is no pass {print_ir_after!r}", hint=f"Passes: {', '.join(names)}.")
        self.listen, self.show, self.timed = listen, print_ir_after, time_passes

    def __call__(self, number: int, total: int, step: Step) -> None:
        if self.listen is not None:
            self.listen(number, total, step)
        if self.timed:
            print(f"{step.name:<20}{step.seconds:10.4f} s")
        if self.show in ("all", step.name):
            print(f"after {step.name}:\n{to_text(step.network)}")


def _report(
    chip: Target, network: Network, stages: Sequence[tuple[str, Network]], meter: _Meter, given: energies.Constants | None
) -> Any:
    lowered, source = chip.lowered(network), stages[0][1]
    found = meter.last[1] if meter.last is not None and meter.last[0] is network else None
    rows = meter.rows
    return build_report(
        network, target=chip.name, engine=chip.predictor if lowered else "reference",
        bit_exact_with=chip.bit_exact_with if lowered else None,
        source_kinds={n: source.nodes[n].kind for n in source.populations}, passes=rows, source=meter.before, program=found,
        latency=chip.latency(network) if lowered else None,
        overflows=None if meter.simulated is None else dict(chip.overflows(meter.simulated)), state_bits=chip.state_bits,
        steps=None if meter.data is None else meter.data.frames.shape[1], data=meter.data, stages=stages,
        sample=None if found is None or not lowered else first_sample(chip, network, meter.data), given=given,
    )


def _facts(model: Source, target: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest says of the origin: names and hashes, no paths, no dates."""
    versions = {"d2e": d2e.__version__, "numpy": np.__version__, "python": platform.python_version()}
    return {"model": _origin(model), "options": {"target": target, **{k: v for k, v in options.items() if v is not None}},
            "versions": versions}


def _origin(source: Any) -> dict[str, str] | None:
    """A file by its name and hash, anything else by its name."""
    path = Path(source) if isinstance(source, (str, Path)) else None
    if path is not None and path.is_file():
        return {"name": path.name, "sha256": sha256(path)}
    return None if source is None else {"name": str(source) if isinstance(source, str) else type(source).__name__}


def _log(steps: Sequence[Step], meter: _Meter) -> str:
    lines = [f"d2e {d2e.__version__}"]
    for number, step in enumerate(steps, 1):
        figures = ", ".join(f"{k} {v:g}" for k, v in step.measured.items() if isinstance(v, (int, float)))
        lines.append(f"[{number}/{len(steps)}] {step.name}: {step.changed} nodes changed{f'; {figures}' if figures else ''}")
    if steps:
        lines += [f"{w['code']} {w.get('node', '')}: {w['message']}" for w in warnings(steps[-1].network)]
    return "\n".join(lines) + "\n"


def _gate(program: Program, max_drop: float) -> None:
    accuracy = program.report["accuracy"]
    drop = 100 * (accuracy["source"] - accuracy["program"])
    if not drop <= max_drop:  # a limit that is no number allows nothing
        raise GateError(
            "D2E-GATE-001", f"the program loses {drop:.2f} points of accuracy, at most {max_drop:g} are allowed",
            hint="Give --calibration, or more --weight-bits; the report shows the pass that loses them.",
        )
