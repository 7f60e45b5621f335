"""The command line: a thin layer over `d2e.compile` and `d2e.load`. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import io
import json
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from d2e import options as to
from d2e.cli_bench import bench_command
from d2e.cli_convert import convert_command
from d2e.cli_inspect import inspect_command
from d2e.cli_transfer import transfer_command
from d2e.shell import EXITS, default_path, limits, say, shape, stdout_free

app = typer.Typer(
    name="d2e", help="Put trained spiking neural networks on neuromorphic chips, every spike predicted bit for bit.",
    epilog=EXITS, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
)
lava_app = typer.Typer(
    help="The private environment of lava-nc, the oracle of the Loihi 2 simulator.", no_args_is_help=True,
)
app.add_typer(lava_app, name="lava")
_compile_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_bench_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def _progress(quiet: bool, verbose: bool) -> Callable[..., None]:
    def listen(number: int, total: int, step: Any) -> None:
        if quiet:
            return
        line = f"[{number}/{total}] {step.name} … {step.seconds:.2f} s, {step.changed} nodes changed"
        if verbose and step.measured:
            figures = {k: v for k, v in step.measured.items() if k != "pass"}
            line += "; " + ", ".join(f"{k} {v:.4g}" for k, v in figures.items())
        say(line)

    return listen


@_compile_app.command(epilog=EXITS)
@app.command("compile", epilog=EXITS)
def compile_command(  # every option is a keyword of d2e.compile (a test holds it)
    model: to.Model, target: to.Target = "loihi2-sim", weight_bits: to.WeightBits = "8",
    budget: to.Budget = None, scale: to.Scale = "auto",
    percentile: to.Percentile = 99.9, burst: to.Burst = "auto",
    soft_reset: to.SoftReset = "exact", calibration: to.Calibration = None,
    calibration_samples: to.CalibrationSamples = 128, eval: to.Eval = None, eval_samples: to.EvalSamples = None,
    max_drop: to.MaxDrop = None, energy: to.Energy = None, input_shape: to.InputShape = None,
    time_steps: to.TimeSteps = None, coding: to.Coding = None, max_payload: to.MaxPayload = None, readout: to.Readout = None,
    encoder: to.Encoder = None, input_range: to.InputRange = None, input_bits: to.InputBits = None,
    profile: to.Profile = None, dt: to.Dt = None, reset: to.Reset = None, fire: to.Fire = None,
    max_spikes: to.MaxSpikes = None, allow_pickle: to.AllowPickle = False, passes: to.Passes = None,
    stop_after: to.StopAfter = None, print_ir_after: to.PrintIrAfter = None, save_ir: to.SaveIr = False,
    time_passes: to.TimePasses = False, output: to.Output = None, check: to.Check = False, as_json: to.Json = False,
    quiet: to.Quiet = False, verbose: to.Verbose = False,
) -> None:
    """Compile a trained spiking network into a program for a chip."""
    options = dict(locals())
    for shown in ("check", "as_json", "quiet", "verbose", "output", "model"):
        options.pop(shown)
    options["input_shape"], options["input_range"] = shape(input_shape), limits(input_range)
    if check:
        _check(model, options, as_json)
        return
    from d2e.compiler.files import check_folder

    folder = output or default_path(model, target)
    check_folder(Path(folder))
    import d2e

    with stdout_free(as_json):
        program = d2e.compile(model, listen=_progress(quiet, verbose), **options)
    written = program.runs
    if written:
        program.save(folder)
    else:
        say(f"stopped after {program.stages[-1][0]}: nothing written, the target cannot run it yet")
    print(program.report.json() if as_json else program.report.text(folder if written else None), end="")


app.command("convert", epilog=EXITS)(convert_command)
app.command("transfer", epilog=EXITS)(transfer_command)
app.command("inspect", epilog=EXITS)(inspect_command)
app.command("bench", epilog=EXITS)(bench_command)
_bench_app.command(epilog=EXITS)(bench_command)


def _check(model: str, options: dict[str, Any], as_json: bool) -> None:
    """Every finding on stdout; the exit code is that of the fault that would stop it."""
    import d2e
    from d2e.ir import D2EError, UsageError

    found: list[dict[str, Any]] = []
    code = 0
    try:
        with stdout_free(as_json):
            program = d2e.compile(model, **options)
        found += [{"severity": "warning", **w} for w in program.report["warnings"]]
    except UsageError:
        raise
    except D2EError as error:
        code = error.exit_code
        found += [
            {"severity": f.severity, "code": f.code, "message": f.message,
             **({"node": f.node} if f.node else {}), **({"hint": f.hint} if f.hint else {})}
            for f in error.findings
        ]
    if as_json:
        print(json.dumps(found, indent=1))
    for f in [] if as_json else found:
        where = f" ({f['node']})" if "node" in f else ""
        print(f"{f['severity']:<8}{f['code']}{where}: {f['message'].rstrip('.')}. {f.get('hint', '')}".rstrip())
    errors = sum(f["severity"] == "error" for f in found)
    if not as_json:
        print(f"errors: {errors}, warnings: {len(found) - errors}")
    raise typer.Exit(code)


@app.command("check")
def check_command(
    model: to.Model, target: to.Target = "loihi2-sim", input_shape: to.InputShape = None,
    time_steps: to.TimeSteps = None, encoder: to.Encoder = None, input_range: to.InputRange = None,
    weight_bits: to.WeightBits = "8", profile: to.Profile = None, dt: to.Dt = None,
    reset: to.Reset = None, fire: to.Fire = None, max_spikes: to.MaxSpikes = None,
    allow_pickle: to.AllowPickle = False, against_source: to.AgainstSource = False, data: to.AgainstData = None,
    samples: to.AgainstSamples = 4, as_json: to.Json = False,
) -> None:
    """Say everything that would stop a model on a target, or compare it with its own framework; write nothing."""
    options = dict(locals())
    for shown in ("model", "as_json", "against_source", "data", "samples"):
        options.pop(shown)
    options["input_shape"], options["input_range"] = shape(input_shape), limits(input_range)
    if not against_source:
        _check(model, options, as_json)
        return
    for later in ("target", "encoder", "input_range", "weight_bits"):
        options.pop(later)
    _against(model, data, samples, options, as_json)


def _against(model: str, data: str | None, samples: int, options: dict[str, Any], as_json: bool) -> None:
    from d2e.compiler.frontends import against
    from d2e.ir import GateError

    with stdout_free(as_json):
        found = against.check_source(model, data, samples=samples, **options)
    print(json.dumps(against.told(found), indent=1) if as_json else against.text(found))
    if found.agreement < against.ENOUGH:
        raise GateError("D2E-GATE-002", f"only {100 * found.agreement:.4f} % of the neuron-steps are those of the source, "
                        f"{100 * against.ENOUGH:g} % are what rounding leaves",
                        hint="Please report the model: d2e reads it wrongly.")


@app.command("run")
def run_command(
    program: to.Program, data: to.RunData = None, events: to.RunEvents = None, engine: to.Engine = None,
    samples: to.Samples = None, record: to.Record = "counts", window_us: to.WindowUs = 1000, output: to.Results = None,
    as_json: to.Json = False,
) -> None:
    """Run a program on data."""
    import d2e
    from d2e.compiler import results
    from d2e.ir import UsageError

    if events is not None and data is None:
        print(results.stream_to_file(d2e.load(program), events, window_us=window_us, output=output, as_json=as_json))
        return
    if data is None or events is not None:
        raise UsageError("D2E-USE-017", "a run needs --data or --events, one of them")

    print(results.run_to_file(
        d2e.load(program), data, engine=engine, samples=samples, record=record, output=output, as_json=as_json,
    ))


@app.command("targets")
def targets_command(name: to.TargetName = None) -> None:
    """List the targets, or one target's limits with their sources."""
    from d2e.compiler.target import available, find

    if name is None:
        for each in available().values():
            print(f"{each.name:<14}{each.summary}")
        return
    chip = find(name)
    print(f"{chip.name}: {chip.summary}\nengines: {', '.join(chip.engines)}")
    for key, option in chip.options.items():
        print(f"option:  {chip.name}{{{key}={option.written}}}  {option.help}".rstrip())
    for what, limit in chip.limits.items():
        print(f"  {what:<18}{limit.value:>9,g} {limit.unit:<22} {limit.source}")


@lava_app.command("install")
def lava_install(path: to.LavaFolder = None, python: to.LavaPython = None) -> None:
    """Install lava-nc 0.10.0 and lava-dl 0.6.0 in an environment of their own and try it."""
    from d2e.backends.loihi2.lava import env

    env.install(Path(path) if path else env.user_folder(), python, say)


@lava_app.command("check")
def lava_check() -> None:
    """Say which Lava environment is used and what is in it."""
    from d2e.backends.loihi2.lava import env

    python = env.find()
    versions = env.check(python)
    print(python)
    for name, version in versions.items():
        print(f"  {name} {version}")


@app.callback(invoke_without_command=True)
def _root(version: to.Version = False) -> None:
    if version:
        import d2e

        print(d2e.__version__)
        raise typer.Exit


def _guarded(command: Callable[..., Any]) -> None:
    """Run a command; faults become one sentence and an exit code, and no library's warning reaches the screen."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a letter that the terminal's encoding lacks becomes "?"
            stream.reconfigure(errors="replace")
    for name in ("SIGTERM", "SIGHUP"):  # nohup has the latter ignored
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stopped)
    if hasattr(signal, "SIGPIPE"):  # the reader of a pipe has seen enough: end as other tools do
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        code = command(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        code = _fail(error)
    if code == 130:
        say("interrupted")
    sys.exit(code)


def _stopped(number: int, frame: Any) -> None:
    """A request to end: leave through every ``finally``."""
    raise SystemExit(128 + number)


def _fail(error: Exception) -> int:
    """Tell a fault; returns the exit code."""
    from d2e.ir.errors import D2EError

    if isinstance(error, D2EError):
        say(f"error: {error}")
        return error.exit_code
    if hasattr(error, "format_message"):  # typer's: the command line itself is wrong
        say(f"error: {error.format_message().rstrip('.')}. See {Path(sys.argv[0]).name} --help.")
        return 2
    with tempfile.NamedTemporaryFile("w", prefix="d2e-", suffix=".log", delete=False, encoding="utf-8") as log:
        log.write("".join(traceback.format_exception(error)))
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    say(f"internal error: {' '.join(dict.fromkeys((lines[0], lines[-1])))}\n"
         f"This is a fault of d2e, please report it with {log.name}")
    return 1


def main() -> None:
    """``d2e``."""
    _guarded(app)


def compile_main() -> None:
    """``d2e-compile``, the same as ``d2e compile``."""
    _guarded(_compile_app)


def bench_main() -> None:
    """``d2e-bench``, the same as ``d2e bench``."""
    _guarded(_bench_app)


if __name__ == "__main__":
    main()
