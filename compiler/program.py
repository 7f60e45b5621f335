"""A compiled program: run it, measure it, save it, load it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from d2e.compiler import data as data_sets
from d2e.compiler import early_exit as exits
from d2e.compiler import energy as energies
from d2e.compiler.encoders import note_clipping
from d2e.compiler.files import MANIFEST, check_folder, new_folder, sha256, write_npz
from d2e.compiler.measure import Measured, comparable, max_count_error, measure
from d2e.compiler.neurobench import figures as neurobench
from d2e.compiler.replicas import merged
from d2e.compiler.report import Report
from d2e.compiler.report.build import build_report
from d2e.compiler.report.details import first_sample
from d2e.compiler.report.words import table_csv
from d2e.compiler.target import EventDriven, Streamed, Target, find
from d2e.ir import Network, Quantized, UsageError, nirfile, reference, to_text
from d2e.ir.nodes import Array
from d2e.ir.reference import Record, Trace

SCHEMA = 1


@dataclass(frozen=True)
class Result:
    """What a run of a program gave, in the populations of the source network, pipeline latency removed.

    Attributes:
        output: [batch, time, *out]: spikes of the output population (its membrane for an LI readout).
        counts: population -> spikes per neuron [batch, *shape].
        spikes: population -> [batch, time, *shape], with record="spikes" or "state".
        u, v: population -> the chip's integer state [batch, time, *shape], with record="state".
        engine: what computed it.
        steps: how many steps each sample ran [batch]. After its early exit a sample has zeros everywhere, but for the output
            of the readout "last", which is held.
    """

    output: Array
    counts: dict[str, Array]
    spikes: dict[str, Array]
    u: dict[str, Array]
    v: dict[str, Array]
    engine: str
    steps: Array


@dataclass
class Program:
    """A network lowered to a target.

    Attributes:
        network: the lowered network.
        target: where it runs.
        populations: population -> kind in the source network.
        report: what compiling measured.
        facts: of the manifest: options, model, versions.
        stages: (pass, network) after every pass; empty for a loaded program.
        log: what compile.log holds.
        folder: where it was saved or loaded from.
        source: the source network, discretised; None for a loaded program.
        evaluation: the data it was evaluated on when it was compiled; None for a loaded program.
    """

    network: Network
    target: Target
    populations: Mapping[str, str]
    report: Report
    facts: Mapping[str, Any] = field(default_factory=dict)
    stages: Sequence[tuple[str, Network]] = ()
    log: str = ""
    folder: Path | None = None
    source: Network | None = None
    save_ir: bool = False
    evaluation: data_sets.Data | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one frame."""
        return self.network.input.shape

    @property
    def time_steps(self) -> int | None:
        """Steps per sample; None: any."""
        return self.network.input.time_steps

    @property
    def runs(self) -> bool:
        """Whether every pass was run that the target asks for."""
        return self.target.lowered(self.network)

    def run(
        self, spikes: Array, *, engine: str | None = None, record: Record = "counts", early_exit: bool = True
    ) -> Result:
        """Run from rest on integer spikes [batch, time, *input_shape].

        Args:
            spikes: payloads the input's coding allows. Where the program has an encoder (``network.input.encoder``),
                numbers of a floating type are real values, which it encodes; images need no time axis.
            engine: one of ``target.engines``; None: the target's predictor on this computer.
            record: "counts", "spikes" or "state".
            early_exit: whether samples stop where the network's rule says (``network.output.exit``), if it has one.

        Raises:
            UsageError: D2E-INPUT-001..003, D2E-ENC-001..003 for frames that do not fit, D2E-USE-007, -008 for an unknown
                engine or record.
            MissingError: the engine's environment, SDK or device is missing.
        """
        name = engine or self.target.predictor
        if record not in ("counts", "spikes", "state"):
            raise UsageError("D2E-USE-008", f"there is no record {record!r}", hint="It is counts, spikes or state.")
        self.target.prepare(self.network, name)
        lowered, steps = self._traced(np.asarray(spikes), name, record, early_exit)
        trace = merged(self.network, lowered)

        def own(table: Mapping[str, Array]) -> dict[str, Array]:
            return {n: table[n] for n in self.populations if n in table}

        return Result(trace.output, own(trace.counts), own(trace.spikes), own(trace.u), own(trace.v), name, steps)

    def _traced(self, given: Array, engine: str, record: Record, early_exit: bool) -> tuple[Trace, Array]:
        """The trace in the populations of the lowered network, and how many steps each sample ran."""
        package = self.folder / "target" if self.folder else None

        def run(frames: Array, record: Record) -> Trace:
            return self.target.run(self.network, frames, engine=engine, record=record, folder=package)

        output = self.network.output
        if output.exit is None or not early_exit:
            trace = run(given, record)
            return trace, np.full(len(trace.output), trace.output.shape[1], np.int64)
        frames = reference.check_frames(self.network, given)
        if engine in (self.target.predictor, "reference"):
            return exits.in_windows(self.network, run, frames, record)
        return exits.to_the_end(output.exit, output.readout, run, frames, record)

    def stream(self, recording: Any, *, window_us: int = 1000) -> Streamed:
        """Run one recording of timed events from rest, where the target lives by events.

        Args:
            recording: ``.npy`` or ``.npz`` file, or structured array, with columns t (microseconds), x, y and p.
            window_us: input time over which the peaks of synaptic operations are taken.

        Raises:
            UsageError: D2E-USE-016 where the target runs in steps; D2E-DATA-001, D2E-SPECK-062..064 for the events.
        """
        if not isinstance(self.target, EventDriven):
            raise UsageError("D2E-USE-016", f"target {self.target.name} runs in steps, not on timed events",
                             hint="Give frames [batch, time, *shape].")
        return self.target.stream(self.network, recording, window_us=window_us)

    def measure(self, source: data_sets.Source, *, engine: str | None = None) -> Measured:
        """Accuracy and spikes on data; see `d2e.compiler.data.load` for what data may be."""
        data = data_sets.fit(data_sets.load(source), self.network)
        name = engine or self.target.predictor
        package = self.folder / "target" if self.folder else None

        def run(network: Network, frames: Array, record: Record) -> Trace:
            return self.target.run(network, frames, engine=name, record=record, folder=package)

        return measure(self.network, data, run)

    def evaluate(
        self, source: data_sets.Source, *, engine: str | None = None, energy: energies.Given | None = None
    ) -> Report:
        """The report of this program on data.

        Args:
            source: frames and labels: a path, (x, y) arrays, or `Data`.
            engine: as in `run`.
            energy: as of `d2e.compile`.

        Raises:
            UsageError: D2E-ENERGY-001, -002 for constants that cannot be used; as `run` for frames that do not fit.
        """
        constants = energies.own(energy)
        name = engine or self.target.predictor
        data = data_sets.fit(data_sets.load(source), self.network)
        found = self.measure(data, engine=name)
        before = None
        rows: list[dict[str, Any]] = []
        if self.source is not None:
            before = measure(self.source, data_sets.fit(data, self.source))
            rows = [pass_row("source", before, before), pass_row(name, found, comparable(before, self.network))]
        return build_report(
            note_clipping(self.network, data.frames, "data given"), target=self.target.name, engine=name,
            bit_exact_with=self.target.bit_exact_with,
            source_kinds=self.populations, passes=rows, source=before, program=found,
            latency=self.target.latency(self.network),
            overflows=dict(self.target.overflows(self.network)) if name == self.target.predictor else None,
            state_bits=self.target.state_bits, steps=data.frames.shape[1], data=data, stages=self.stages,
            sample=first_sample(self.target, self.network, data), given=constants,
        )

    # ----- files

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the program folder; whole or not at all, equal programs byte for byte equal.

        Raises:
            UsageError: D2E-FILE-010 where something else is there, D2E-FILE-011 where nothing can be written.
        """
        target = Path(path)
        with new_folder(target) as folder:
            self._write(folder)
        self.folder = target
        return target

    def _write(self, folder: Path) -> None:
        nirfile.write(self.network, folder / "program.nir")
        write_npz(folder / "program.npz", integer_arrays(self.network))
        self.target.emit(self.network, folder / "target", time_steps=self.time_steps)
        (folder / "report.json").write_text(self.report.json(), encoding="utf-8")
        (folder / "report.html").write_text(self.report.html(self.facts), encoding="utf-8")
        (folder / "layers.csv").write_text(self.report.layers_csv(), encoding="utf-8")
        (folder / "mapping.csv").write_text(self._mapping(), encoding="utf-8")
        (folder / neurobench.FILE).write_text(neurobench.text(self), encoding="utf-8")
        (folder / "compile.log").write_text(self.log, encoding="utf-8")
        if self.save_ir and self.stages:
            (folder / "ir").mkdir()
            for number, (name, network) in enumerate(self.stages):
                nirfile.write(network, folder / "ir" / f"{number:02d}-{name}.nir")
                (folder / "ir" / f"{number:02d}-{name}.txt").write_text(to_text(network), encoding="utf-8")
        files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        manifest = {
            "d2e": SCHEMA, "target": self.target.name, "populations": dict(self.populations), **self.facts,
            "files": {name: sha256(folder / name) for name in files},
        }
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")

    def _mapping(self) -> str:
        table = self.network.metadata.get("placement", {}).get("cores", {"columns": [], "rows": []})
        return table_csv([dict(zip(table["columns"], row, strict=True)) for row in table["rows"]])


def pass_row(name: str, found: Measured, source: Measured) -> dict[str, Any]:
    """A row of the accuracy table."""
    share = {} if found.accuracy is None else {"accuracy": found.accuracy}
    spikes = sum(float(found.spikes(n).sum()) for n in source.counts if n in found.counts)
    return {"pass": name, **share, "spikes": spikes, "max_count_error": max_count_error(found, source)}


def integer_arrays(network: Network) -> dict[str, Array]:
    """Every array of a network as ``node.field``, and the scales as ``node.scale``."""
    arrays: dict[str, Array] = {}
    for name, node in network.nodes.items():
        for f in fields(node):
            value = getattr(node, f.name)
            if isinstance(value, np.ndarray):
                arrays[f"{name}.{f.name}"] = value
            elif isinstance(value, Quantized):
                arrays[f"{name}.{f.name}.scale"] = value.scale
    return arrays


def load(path: str | os.PathLike[str]) -> Program:
    """A program that `Program.save` wrote.

    Raises:
        UsageError: D2E-LOAD-020 where there is no program, D2E-LOAD-021 where its files were changed or are missing.
    """
    folder = Path(path)
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        name, populations, files = manifest["target"], manifest["populations"], manifest["files"]
        schema = manifest["d2e"]
        if not (isinstance(name, str) and isinstance(populations, dict) and isinstance(files, dict)):
            raise TypeError("damaged")
    except (OSError, ValueError, KeyError, TypeError):
        inner = sorted(str(found.parent) for found in folder.glob(f"*/{MANIFEST}"))
        raise UsageError("D2E-LOAD-020", f"{folder} holds no compiled program",
                         hint=f"Name a folder that d2e-compile wrote{', such as ' + ' or '.join(inner) if inner else ''}.",
                         ) from None
    if schema != SCHEMA:
        raise UsageError("D2E-LOAD-020", f"{folder} has schema {schema}, this d2e reads {SCHEMA}", hint="Compile again.")
    if "parts" in manifest:
        from d2e.compiler.hosted.program import load_hosted

        return load_hosted(folder, manifest, load)
    for file in ("program.nir", "report.json"):
        if not (folder / file).is_file() or sha256(folder / file) != files.get(file):
            raise UsageError("D2E-LOAD-021", f"{folder / file} is missing or was changed after compiling",
                             hint="Compile again.")
    report = Report(json.loads((folder / "report.json").read_text(encoding="utf-8")))
    log = folder / "compile.log"
    facts = {k: v for k, v in manifest.items() if k not in ("d2e", "target", "populations", "files")}
    return Program(nirfile.read(folder / "program.nir"), find(name), populations, report, facts, folder=folder,
                   log=log.read_text(encoding="utf-8") if log.is_file() else "")


__all__ = ["Program", "Result", "check_folder", "load", "pass_row"]
