"""The command line: a thin layer over `d2e.compile` and `d2e.load`. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

_EXITS = (
    "Exit codes: 0 ok, 1 internal error, 2 usage, 3 unsupported or does not fit, 4 verification gate failed, "
    "5 SDK or device missing."
)

app = typer.Typer(
    name="d2e", help="Put trained spiking neural networks on neuromorphic chips, every spike predicted bit for bit.",
    epilog=_EXITS, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
)
lava_app = typer.Typer(help="The private environment of lava-nc, the oracle of the Loihi 2 simulator.", no_args_is_help=True)
app.add_typer(lava_app, name="lava")
_compile_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

Model = Annotated[str, typer.Argument(help=".pt, .pt2, .nir, or pkg.module:factory.", metavar="MODEL")]
Target = Annotated[str, typer.Option("--target", "-t", help="Where it shall run; 'd2e targets' lists them.")]
InputShape = Annotated[str | None, typer.Option(help="Shape of one frame: 1,28,28.", metavar="N,N,N")]
TimeSteps = Annotated[int | None, typer.Option(help="Steps per sample.", min=1)]
Coding = Annotated[str | None, typer.Option(help="Of the input: spikes, signed or direct.")]
MaxPayload = Annotated[int | None, typer.Option(help="Largest payload of the input.", min=1)]
Readout = Annotated[str | None, typer.Option(help="Of a class from the output: count, last or mean.")]
WeightBits = Annotated[int, typer.Option(help="Width of signed weights, 2 to 8.")]
Scale = Annotated[str, typer.Option(help="How a layer's unit is chosen: auto, max, percentile, mse or spikes.")]
Percentile = Annotated[float, typer.Option(help="Of |weight| kept by --scale percentile.")]
Burst = Annotated[str, typer.Option(help="Form of burst neurons; auto.")]
Calibration = Annotated[str | None, typer.Option(help="Data (.npz with x) for the choice of scales.", metavar="FILE")]
CalibrationSamples = Annotated[int, typer.Option(help="At most so many of them.", min=1)]
Eval = Annotated[str | None, typer.Option("--eval", help="Data (.npz with x, y) to measure every pass on.", metavar="FILE")]
EvalSamples = Annotated[int | None, typer.Option(help="At most so many of them.", min=1)]
MaxDrop = Annotated[float | None, typer.Option(help="Points of accuracy the program may lose on --eval.", metavar="PP")]
Passes = Annotated[str | None, typer.Option(help="Passes to run, comma separated, options in braces.")]
StopAfter = Annotated[str | None, typer.Option(help="Last pass to run.", metavar="PASS")]
PrintIrAfter = Annotated[str | None, typer.Option(help="Print the network after this pass, or 'all'.", metavar="PASS")]
SaveIr = Annotated[bool, typer.Option("--save-ir", help="Keep the network after every pass in ir/.")]
TimePasses = Annotated[bool, typer.Option("--time-passes", help="Print how long each pass took.")]
Profile = Annotated[str | None, typer.Option(help=".nir: the convention of the tool that wrote it.")]
Dt = Annotated[float | None, typer.Option(help=".nir: length of a time step.")]
Reset = Annotated[str | None, typer.Option(help=".nir: subtract, zero, value or none.")]
Fire = Annotated[str | None, typer.Option(help=".nir: ge (v >= threshold) or gt.")]
MaxSpikes = Annotated[int | None, typer.Option(help=".nir: most spikes per step, 0 for no limit.")]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Load a .pt that runs code; only files you trust.")]
Output = Annotated[str | None, typer.Option("--output", "-o", help="Program folder [build/MODEL-TARGET].", metavar="DIR")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress lines.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="What each pass measured.")]
Check = Annotated[bool, typer.Option("--check", help="Only say what would stop it; write nothing.")]
Engine = Annotated[str | None, typer.Option(help="What runs it; the target's simulator unless stated.")]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _progress(quiet: bool, verbose: bool) -> Callable[..., None]:
    def listen(number: int, total: int, step: Any) -> None:
        if quiet:
            return
        line = f"[{number}/{total}] {step.name} … {step.seconds:.2f} s, {step.changed} nodes changed"
        if verbose and step.measured:
            figures = {k: v for k, v in step.measured.items() if k != "pass"}
            line += "; " + ", ".join(f"{k} {v:.4g}" for k, v in figures.items())
        _say(line)

    return listen


@_compile_app.command(epilog=_EXITS)
@app.command("compile", epilog=_EXITS)
def compile_command(  # every option is a keyword of d2e.compile (a test holds it)
    model: Model, target: Target = "loihi2-sim", output: Output = None, input_shape: InputShape = None,
    time_steps: TimeSteps = None, eval: Eval = None, eval_samples: EvalSamples = None, max_drop: MaxDrop = None,
    calibration: Calibration = None, calibration_samples: CalibrationSamples = 128, weight_bits: WeightBits = 8,
    scale: Scale = "auto", percentile: Percentile = 99.9, burst: Burst = "auto", coding: Coding = None,
    max_payload: MaxPayload = None, readout: Readout = None, profile: Profile = None, dt: Dt = None, reset: Reset = None,
    fire: Fire = None, max_spikes: MaxSpikes = None, passes: Passes = None, stop_after: StopAfter = None,
    print_ir_after: PrintIrAfter = None, save_ir: SaveIr = False, time_passes: TimePasses = False,
    allow_pickle: AllowPickle = False, check: Check = False, as_json: Json = False, quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compile a trained spiking network into a program for a chip."""
    options = dict(locals())
    for shown in ("check", "as_json", "quiet", "verbose", "output", "model"):
        options.pop(shown)
    options["input_shape"] = _shape(input_shape)
    if check:
        _check(model, options, as_json)
        return
    import d2e

    folder = output or _default_folder(model, target)
    if stop_after or passes:
        program = d2e.compile(model, listen=_progress(quiet, verbose), **options)
        if not program.target.lowered(program.network):
            _say(f"stopped after {program.stages[-1][0]}: nothing to write for the target")
            print(program.report.json() if as_json else program.report.text(), end="")
            return
    program = d2e.compile(model, listen=_progress(quiet, verbose), output=folder, **options)
    print(program.report.json() if as_json else program.report.text(folder), end="")


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    from d2e.ir import UsageError

    try:
        return tuple(int(n) for n in text.split(","))
    except ValueError:
        raise UsageError("D2E-USE-001", f"{text!r} is no shape", hint="Write --input-shape 1,28,28.") from None


def _default_folder(model: str, target: str) -> str:
    stem = model.rpartition(":")[2] if ":" in model and not Path(model).exists() else Path(model).stem
    return str(Path("build") / f"{stem}-{target.partition('{')[0]}")


def _check(model: str, options: dict[str, Any], as_json: bool) -> None:
    """Every finding on stdout; exit code 3 where one is an error."""
    import d2e
    from d2e.ir import D2EError, UsageError

    found: list[dict[str, Any]] = []
    try:
        program = d2e.compile(model, **options)
        found += [{"severity": "warning", **w} for w in program.report["warnings"]]
    except UsageError:
        raise
    except D2EError as error:
        found += [
            {"severity": f.severity, "code": f.code, "message": f.message,
             **({"node": f.node} if f.node else {}), **({"hint": f.hint} if f.hint else {})}
            for f in error.findings
        ]
    if as_json:
        print(json.dumps(found, indent=1))
    for f in [] if as_json else found:
        where = f" ({f['node']})" if "node" in f else ""
        print(f"{f['severity']:<8}{f['code']}{where}: {f['message']} {f.get('hint', '')}".rstrip())
    errors = sum(f["severity"] == "error" for f in found)
    if not as_json:
        print(f"{errors} errors, {len(found) - errors} warnings")
    if errors:
        raise typer.Exit(3)


@app.command("check")
def check_command(
    model: Model, target: Target = "loihi2-sim", input_shape: InputShape = None, time_steps: TimeSteps = None,
    weight_bits: WeightBits = 8, profile: Profile = None, dt: Dt = None, reset: Reset = None, fire: Fire = None,
    max_spikes: MaxSpikes = None, allow_pickle: AllowPickle = False, as_json: Json = False,
) -> None:
    """Say everything that would stop a model on a target; write nothing."""
    options = dict(locals())
    options.pop("model")
    options.pop("as_json")
    options["input_shape"] = _shape(input_shape)
    _check(model, options, as_json)


@app.command("run")
def run_command(
    program: Annotated[str, typer.Argument(help="Folder that d2e-compile wrote.", metavar="DIR")],
    data: Annotated[str, typer.Option(help="Frames (.npy, or .npz with x and maybe y).", metavar="FILE")],
    engine: Engine = None,
    samples: Annotated[int | None, typer.Option(help="At most so many of them.", min=1)] = None,
    record: Annotated[str, typer.Option(help="counts, spikes or state.")] = "counts",
    output: Annotated[str | None, typer.Option("--output", "-o", help="Write the results (.npz).", metavar="FILE")] = None,
    as_json: Json = False,
) -> None:
    """Run a program on data."""
    import d2e
    from d2e.compiler import results

    loaded = d2e.load(program)
    print(results.run_to_file(loaded, data, engine=engine, samples=samples, record=record, output=output, as_json=as_json))


@app.command("inspect")
def inspect_command(
    path: Annotated[str, typer.Argument(help="Program folder or model.", metavar="PATH")],
    input_shape: InputShape = None, profile: Profile = None, dt: Dt = None, reset: Reset = None, fire: Fire = None,
    max_spikes: MaxSpikes = None, allow_pickle: AllowPickle = False,
) -> None:
    """Show a program's report and network, or a model's network."""
    import d2e
    from d2e.compiler.frontends.files import load_model
    from d2e.ir import to_text

    if (Path(path) / "manifest.json").is_file():
        program = d2e.load(path)
        print(program.report.text(path), end="")
        print(to_text(program.network.with_metadata(placement=None)), end="")
        return
    network = load_model(
        path, input_shape=_shape(input_shape), profile=profile, dt=dt, reset=reset, fire=fire, max_spikes=max_spikes,
        allow_pickle=allow_pickle,
    )
    print(to_text(network), end="")


@app.command("targets")
def targets_command(
    name: Annotated[str | None, typer.Argument(help="Show this target's limits.", metavar="TARGET")] = None,
) -> None:
    """List the targets, or one target's limits with their sources."""
    from d2e.compiler.target import available, find

    if name is None:
        for each in available().values():
            print(f"{each.name:<14}{each.summary}")
        return
    chip = find(name)
    print(f"{chip.name}: {chip.summary}\nengines: {', '.join(chip.engines)}")
    for what, limit in chip.limits.items():
        print(f"  {what:<18}{limit.value:>9,g} {limit.unit:<22} {limit.source}")


@lava_app.command("install")
def lava_install(
    path: Annotated[str | None, typer.Option(help="Folder of the environment [the user's data folder].")] = None,
    python: Annotated[str | None, typer.Option(help="Python 3.10 to 3.12 to build on [the running one].")] = None,
) -> None:
    """Install lava-nc 0.10.0 in an environment of its own and try it."""
    from d2e.backends.loihi2.lava import env

    env.install(Path(path) if path else env.user_folder(), python, _say)


@lava_app.command("check")
def lava_check() -> None:
    """Say which Lava environment is used and what is in it."""
    from d2e.backends.loihi2.lava import env

    python = env.find()
    print(python)
    for name, version in env.check(python).items():
        print(f"  {name} {version}")


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        import d2e

        print(d2e.__version__)
        raise typer.Exit


def _guarded(command: Callable[[], Any]) -> None:
    """Run a command; faults become one sentence and an exit code."""
    try:
        command()
    except Exception as error:
        _fail(error)


def _fail(error: Exception) -> None:
    from d2e.ir.errors import D2EError

    if isinstance(error, D2EError):
        _say(f"error: {error}")
        sys.exit(error.exit_code)
    with tempfile.NamedTemporaryFile("w", prefix="d2e-", suffix=".log", delete=False, encoding="utf-8") as log:
        log.write("".join(traceback.format_exception(error)))
    _say(f"internal error: {str(error).splitlines()[0] if str(error) else type(error).__name__}\n"
         f"This is a fault of d2e, please report it with {log.name}")
    sys.exit(1)


def main() -> None:
    """``d2e``."""
    _guarded(app)


def compile_main() -> None:
    """``d2e-compile``, the same as ``d2e compile``."""
    _guarded(_compile_app)


if __name__ == "__main__":
    main()
