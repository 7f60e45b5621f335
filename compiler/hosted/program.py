"""A program of several chip segments with the host between them: run it, measure it, save it, load it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from d2e.compiler import data as data_sets
from d2e.compiler import energy as energies
from d2e.compiler.files import MANIFEST, sha256
from d2e.compiler.hosted.report import accuracy_of, report_of
from d2e.compiler.hosted.split import Segment, split
from d2e.compiler.hosted.steps import inner, on_the_host, sent_by, total
from d2e.compiler.measure import Measured, classify
from d2e.compiler.program import SCHEMA, Program, Result
from d2e.compiler.report import Report
from d2e.compiler.target import Streamed
from d2e.ir import LI, UsageError, nirfile, reference
from d2e.ir.frames import spread
from d2e.ir.nodes import Array
from d2e.ir.reference import Record

_CHUNK = 64


@dataclass
class HostedProgram(Program):
    """A program whose network runs on the host in part.

    ``network`` is the whole, in floating point, as it was given; what the chip runs is in ``segments``.

    Attributes:
        segments: what runs on the chip, each with its program, in order.
    """

    segments: Sequence[tuple[Segment, Program]] = ()

    def run(
        self, spikes: Array, *, engine: str | None = None, record: Record = "counts", early_exit: bool = True
    ) -> Result:
        """Run on images [batch, *input_shape] or frames [batch, time, *input_shape].

        Segments run on the chip's integers, which every engine computes alike; what lies between runs in float64 by
        `d2e.ir.host.apply`, the same whatever the engine.

        Args:
            spikes: images or frames of real values.
            engine: one of ``target.engines``; None: the target's predictor on this computer.
            record: "counts", "spikes" or "state", of the chip's populations.
            early_exit: as of `Program.run`; such a program has none.

        Raises:
            UsageError: as `Program.run`.
        """
        frames = reference.check_frames(self.network, np.asarray(spikes))
        programs = {segment.end: (segment, program) for segment, program in self.segments}
        own, values = on_the_host(self.network), {self.network.inputs[0]: frames}
        payloads: dict[str, Array] = {self.network.inputs[0]: spread(self.network, np.asarray(spikes))}  # programs encode
        counts: dict[str, Array] = {}
        found: dict[str, dict[str, Array]] = {"spikes": {}, "u": {}, "v": {}}
        for name in self.network.order:
            if name in own:
                sent = sent_by(name, own[name], total(values[e.source] for e in self.network.incoming[name]))
                values[name] = sent.values
                if sent.payloads is not None and sent.counts is not None:
                    payloads[name], counts[name] = sent.payloads, sent.counts
            elif name in programs:
                segment, program = programs[name]
                given = segment.entering(payloads.get(segment.source, values[segment.source]))
                result = program.run(given, engine=engine, record=record)
                counts |= {n: segment.entering(c) for n, c in result.counts.items()}
                for kind, table in found.items():
                    table |= {n: segment.entering(a) for n, a in getattr(result, kind).items()}
                values[name] = segment.leaving(result.output, unit_of(program, segment))
        output = total(values[e.source] for e in self.network.incoming[self.network.outputs[0]])
        steps = np.full(len(output), output.shape[1], np.int64)
        return Result(output, counts, found["spikes"], found["u"], found["v"], engine or self.target.predictor, steps)

    def measure(self, source: data_sets.Source, *, engine: str | None = None) -> Measured:
        """Accuracy and spikes on data."""
        data = data_sets.fit(data_sets.load(source), self.network)
        parts = [self.run(data.frames[i : i + _CHUNK], engine=engine) for i in range(0, len(data), _CHUNK)]
        predictions = classify(self.network, np.concatenate([part.output for part in parts]))
        counts = {name: np.concatenate([part.counts[name] for part in parts]) for name in parts[0].counts}
        right = None if data.labels is None else int((predictions == data.labels).sum())
        return Measured(len(data), right, counts, predictions=predictions,
                        steps=np.concatenate([part.steps for part in parts]))

    def evaluate(
        self, source: data_sets.Source, *, engine: str | None = None, energy: energies.Given | None = None
    ) -> Report:
        """The report on data: segments on what enters them in the float network, accuracy of the whole."""
        data = data_sets.fit(data_sets.load(source), self.network)
        entering, output = inner(self.network, data.frames)
        parts = [program.evaluate(segment.entering(entering[segment.source]), engine=engine, energy=energy)
                 for segment, program in self.segments]
        accuracy: dict[str, Any] = {}
        if data.labels is not None:
            before = float((classify(self.network, output) == data.labels).mean())
            accuracy = accuracy_of(self.network, data, before, self.measure(data, engine=engine).accuracy)
        return report_of(self.network, self.target.name, [segment for segment, _ in self.segments], parts, accuracy)

    def stream(self, recording: Any, *, window_us: int = 1000) -> Streamed:
        """There are no recordings of timed events for what runs on the host.

        Raises:
            UsageError: D2E-USE-016.
        """
        raise UsageError("D2E-USE-016", "a part of the network runs on the host, in steps and not on timed events",
                         hint="Give frames [batch, time, *shape].")

    @property
    def runs(self) -> bool:
        """Always."""
        return True

    def _write(self, folder: Path) -> None:
        nirfile.write(self.network, folder / "network.nir")
        parts = []
        for number, (segment, program) in enumerate(self.segments):
            part = f"parts/{number:02d}-{segment.end.replace('.', '-')}"
            (folder / part).mkdir(parents=True)
            program._write(folder / part)
            parts.append(part)
        (folder / "report.json").write_text(self.report.json(), encoding="utf-8")
        (folder / "report.html").write_text(self.report.html(self.facts), encoding="utf-8")
        (folder / "layers.csv").write_text(self.report.layers_csv(), encoding="utf-8")
        files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        manifest = {"d2e": SCHEMA, "target": self.target.name, "populations": dict(self.populations), "parts": parts,
                    **self.facts, "files": {name: sha256(folder / name) for name in files}}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def unit_of(program: Program, segment: Segment) -> Array:
    """What one unit of a segment's output stands for in the whole network."""
    node = program.network.nodes.get(segment.end)
    if isinstance(node, LI) and node.quantized is not None and node.arithmetic is not None:
        return np.asarray(segment.factor * node.quantized.scale * 2.0**-node.arithmetic.fraction_bits)
    return segment.factor


def load_hosted(folder: Path, manifest: Mapping[str, Any], loaded: Callable[[Path], Program]) -> HostedProgram:
    """A program that `HostedProgram.save` wrote.

    Args:
        folder, manifest: of the program.
        loaded: loads the program of a segment.

    Raises:
        UsageError: D2E-LOAD-021 where its files were changed or are missing.
    """
    files = manifest["files"]
    for file in ("network.nir", "report.json", *(f"{part}/{MANIFEST}" for part in manifest["parts"])):
        if not (folder / file).is_file() or sha256(folder / file) != files.get(file):
            raise UsageError("D2E-LOAD-021", f"{folder / file} is missing or was changed after compiling",
                             hint="Compile again.")
    network = nirfile.read(folder / "network.nir")
    programs = [loaded(folder / part) for part in manifest["parts"]]
    report = Report(json.loads((folder / "report.json").read_text(encoding="utf-8")))
    facts = {k: v for k, v in manifest.items() if k not in ("d2e", "target", "populations", "parts", "files")}
    return HostedProgram(network, programs[0].target, manifest["populations"], report, facts, folder=folder,
                         segments=list(zip(split(network), programs, strict=True)))
