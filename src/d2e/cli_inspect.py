"""``d2e inspect``: a program's report, its network or a model's, as text, as a picture or as a .nir file."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from d2e import options as to
from d2e.shell import say, shape


def inspect_command(
    path: to.Anything, input_shape: to.InputShape = None, profile: to.Profile = None, dt: to.Dt = None,
    reset: to.Reset = None, fire: to.Fire = None, max_spikes: to.MaxSpikes = None, allow_pickle: to.AllowPickle = False,
    network: to.ShowNetwork = False, graph: to.Graph = None, output: to.NirFile = None, nir_compat: to.NirCompat = None,
) -> None:
    """Show a program's report, or a model's network; draw the network, or write it as a .nir file."""
    import d2e
    from d2e.compiler.frontends.files import load_model
    from d2e.ir import UsageError, to_text

    if output is None and nir_compat is not None:
        raise UsageError("D2E-USE-018", "--nir-compat says which nir reads a file, and none is written",
                         hint="Name it: -o model.nir.")
    if graph is not None and Path(graph).suffix.lower() != ".svg":
        raise UsageError("D2E-USE-020", f"--graph draws SVG, and {graph!r} does not end in .svg",
                         hint="--graph network.svg.")
    program = d2e.load(path) if os.path.isfile(Path(path) / "manifest.json") else None
    shown: Any = program.network if program is not None else load_model(
        path, input_shape=shape(input_shape), profile=profile, dt=dt, reset=reset, fire=fire, max_spikes=max_spikes,
        allow_pickle=allow_pickle,
    )
    _write(shown, program, graph, output, nir_compat)
    if graph is not None or output is not None:
        return
    if program is not None:
        from d2e.compiler.report import terminal

        print(terminal.show(program.report.data, program.facts, path, terminal.console()), end="")
    if program is None or network:
        kept = {key: value for key, value in shown.metadata.items() if key != "placement"}
        print(to_text(replace(shown, metadata=kept)), end="")


def _write(network: Any, program: Any, graph: str | None, output: str | None, compat: str | None) -> None:
    """The files that are named, if any."""
    from d2e.compiler.files import write_text
    from d2e.compiler.report.drawing import picture
    from d2e.ir import nirfile

    if output is not None:
        nirfile.write(network, output, compat=compat or nirfile.NIR_VERSION)
    if graph is not None:
        write_text(Path(graph), picture(network, program.report.data if program is not None else {}))
        say(f"written {graph}")
