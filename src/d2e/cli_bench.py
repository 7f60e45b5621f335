"""``d2e bench``: a thin layer over `d2e.bench`."""

from __future__ import annotations

import json

from d2e import options as to
from d2e.progress import progress
from d2e.shell import say, stdout_free


def bench_command(  # every option is a keyword of d2e.bench (a test holds it)
    program: to.Benched = None, data: to.BenchData = None, engine: to.Engine = None, device: to.OneDevice = None,
    devices: to.Devices = None, cluster: to.Cluster = None, compare: to.Compare = None, batch: to.BenchBatch = 64,
    warm_up: to.WarmUpBatches = 1, repeat: to.Repeat = 1, samples: to.Samples = None, peaks: to.Peaks = False,
    step_us: to.StepUs = None, window_us: to.PeakWindow = 1000, time_limit: to.TimeLimit = None, time_out: to.TimeOut = None,
    ahead: to.Ahead = 2, resume: to.ResumeBench = None, output: to.BenchFolder = None, as_json: to.Json = False,
    quiet: to.Quiet = False,
) -> None:
    """Run a program on a data set on engines or devices: accuracy, spikes, latency, throughput; or compare two."""
    options = dict(locals())
    for shown in ("as_json", "quiet"):
        options.pop(shown)
    if device == "list":
        _list(program, as_json)
        return
    import d2e
    from d2e.ir import UsageError

    if program is None or data is None:
        raise UsageError("D2E-BENCH-001", "a benchmark needs a program and --data",
                         hint="d2e-bench DIR --data test.npz; --device list alone lists devices.")
    from d2e.compiler.bench.compare import Different
    from d2e.compiler.bench.result import Unwritten

    try:
        with stdout_free(as_json), progress(quiet, "batches") as listen:
            found = d2e.bench(**options, listen=listen, tell=say)
    except (Different, Unwritten) as error:  # it ran, and its figures are told
        print(error.bench.json() if as_json else error.bench.text(output if isinstance(error, Different) else None), end="")
        raise
    print(found.json() if as_json else found.text(output), end="")


def _list(program: str | None, as_json: bool) -> None:
    """The devices that there are, for a program or for any."""
    from d2e.compiler.bench import devices as boards
    from d2e.compiler.program import load

    found = boards.there(None if program is None else load(program).target)
    print(json.dumps([each._asdict() for each in found], indent=1) if as_json else boards.listed(found))
