"""Frames through a board, as a run of any other engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from d2e.backends.speck.configuration import Configuration
from d2e.backends.speck.device.protocol import Board
from d2e.backends.speck.emission.skeleton.session import Place, run_samples
from d2e.backends.speck.events import from_frames
from d2e.compiler.device import Ran
from d2e.ir import UsageError
from d2e.ir.nodes import Array
from d2e.ir.reference import Record, Trace


def run_on_board(
    board: Board, configuration: Configuration, frames: Array, record: Record = "counts", *, monitor: str = "all",
) -> Trace:
    """Open a board, run every sample on it from rest, and close it.

    Spikes count for the step in which the board tells them; on a chip that is a moment after the event that caused them.

    Args:
        board: not open yet.
        configuration: of the program.
        frames: integer payloads [batch, time, *input shape], as `d2e.ir.reference.check_frames` returns them.
        record: "counts" or "spikes".
        monitor: "all" populations, or the "output" alone, which sends less to the host.

    Raises:
        UsageError: D2E-SPECK-073 for record="state".
        MissingError, UnsupportedError: as the board raises them.
    """
    _check(record)
    names = list(configuration.populations) if monitor == "all" else [configuration.output]
    try:
        board.open()
        board.configure(monitored(configuration, names))
        return run_configured(board, configuration, names, frames, record).trace
    finally:
        board.close()


def run_configured(
    board: Board, configuration: Configuration, names: Sequence[str], frames: Array, record: Record
) -> Ran:
    """Every sample from rest on a board that hears the populations ``names``; see `run_on_board`."""
    _check(record)
    source = configuration.source
    order = configuration.notes.get("events", "mixed")
    samples = (
        (from_frames(sample.reshape(-1, *source.space), step_us=source.step_us, order=order), len(sample))
        for sample in np.asarray(frames)
    )
    heard = run_samples(board.stream, places(configuration, names), configuration.output, samples, source.step_us, record)
    trace = Trace(heard["output"], *(_named(heard, kind) for kind in ("counts/", "spikes/")))
    return Ran(trace, np.asarray(heard["wall_s"]))


def _check(record: Record) -> None:
    if record == "state":
        raise UsageError("D2E-SPECK-073", "a board sends spikes, no states", hint="Record counts or spikes.")


def monitored(configuration: Configuration, names: Sequence[str]) -> Configuration:
    """The configuration with the cores of these populations heard, and no others."""
    cores = {part.layer for name in names for part in configuration.populations[name].parts}
    layers = {i: replace(layer, monitor_enable=i in cores) for i, layer in configuration.cnn_layers.items()}
    return replace(configuration, cnn_layers=layers)


def places(configuration: Configuration, names: Sequence[str]) -> dict[str, Place]:
    """Where the spikes of populations are heard."""
    found = {}
    for name in names:
        placed = configuration.populations[name]
        _, width, height = configuration.cnn_layers[placed.parts[0].layer].dimensions.output_shape
        parts = tuple((part.layer, part.first, part.count, part.spread) for part in placed.parts)
        found[name] = Place(placed.shape, (height, width), parts)
    return found


def _named(heard: Mapping[str, Array], kind: str) -> dict[str, Array]:
    return {key.removeprefix(kind): values for key, values in heard.items() if key.startswith(kind)}
