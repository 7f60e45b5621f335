"""``d2e convert``: a thin layer over `d2e.convert`."""

from __future__ import annotations

import json
from pathlib import Path

from d2e import options as to
from d2e.progress import progress
from d2e.shell import default_path, shape, stdout_free


def convert_command(  # every option is a keyword of d2e.convert (a test holds it)
    model: to.Ann, calibration: to.Images, method: to.Method = "adaptive", calibration_samples: to.FitSamples = 512,
    input_shape: to.InputShape = None, allow_pickle: to.AllowPickle = False, time_steps: to.Steps = None,
    max_burst: to.MaxBurst = None, calibrate: to.Calibrate = None, levels: to.Levels = None, spacing: to.Spacing = None,
    start: to.Start = None, search: to.Search = None, budget: to.SynopsBudget = None, compress: to.Compress = None,
    early_exit: to.EarlyExit = None, exit_rule: to.ExitRule = None, eval: to.Compared = None,
    eval_samples: to.EvalSamples = None,
    seed: to.Seed = 0, jobs: to.Jobs = None, cluster: to.Cluster = None, resume: to.Resume = None,
    output: to.Converted = None, as_json: to.Json = False, quiet: to.Quiet = False,
) -> None:
    """Convert a trained network into a spiking network, without training; write it as a .nir file."""
    options = dict(locals())
    for shown in ("model", "as_json", "quiet"):
        options.pop(shown)
    path = output or f"{default_path(model, method)}.nir"
    options["input_shape"], options["output"] = shape(input_shape), path
    from d2e.compiler.files import check_file

    check_file(Path(path), ".nir")
    import d2e
    from d2e.compiler.convert import report

    with stdout_free(as_json), progress(quiet) as listen:
        network = d2e.convert(model, listen=listen, **options)
    if as_json:
        print(json.dumps({"file": path, **network.metadata["conversion"]}, indent=1, ensure_ascii=False))
    else:
        print(report.text(network, path, calibration=calibration, eval=eval), end="")
