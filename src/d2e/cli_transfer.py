"""``d2e transfer``: a thin layer over `d2e.transfer`."""

from __future__ import annotations

import json
import re

from d2e import options as to
from d2e.progress import progress
from d2e.shell import default_path, limits, shape, stdout_free


def transfer_command(  # every option is a keyword of d2e.transfer (a test holds it)
    model: to.Teacher, data: to.LearnData, encoding: to.Encoding = "ttfs", time_steps: to.TransferSteps = None,
    method: to.TransferMethod = "skd", eval: to.StageData = None, events: to.Recordings = None,
    eval_events: to.EvalRecordings = None, input_shape: to.InputShape = None, mean: to.Mean = None, std: to.Std = None,
    event_mapping: to.EventMapping = False, start: to.StartFrom = "teacher", alpha: to.Alpha = None,
    temperature: to.Temperature = 1.0, divergence: to.Divergence = "forward-kl", epochs: to.Epochs = 10,
    batch: to.Batch = 256, learning_rate: to.LearningRate = None, warm_up: to.WarmUp = 0.1,
    weight_decay: to.WeightDecay = 0.0, augment: to.Augment = "none", patience: to.Patience = None,
    seed: to.TrainSeed = 0, device: to.Device = None, precision: to.Precision = "float32", targets: to.Targets = None,
    allow_pickle: to.AllowPickle = False, resume: to.ResumeTraining = None, output: to.TransferFolder = None,
    as_json: to.Json = False, quiet: to.Quiet = False,
) -> None:
    """Make a direct-coded spiking network read events; write it with its report and its programs."""
    options = dict(locals())
    for shown in ("model", "as_json", "quiet"):
        options.pop(shown)
    read = "events" if events else re.sub(r"\W+", "-", encoding).strip("-")
    folder = output or default_path(model, f"{read}-{method}")
    options["input_shape"], options["output"] = shape(input_shape), folder
    options["mean"], options["std"] = limits(mean), limits(std)
    options["targets"] = tuple(targets or ())
    import d2e
    from d2e.compiler.transfer import report

    with stdout_free(as_json), progress(quiet, "steps") as listen:
        result = d2e.transfer(model, listen=listen, **options)
    if result.folder is None:  # another process has written it
        return
    if as_json:
        print(json.dumps({"folder": folder, **report.rounded(result.facts)}, indent=1, ensure_ascii=False))
    else:
        print(report.text(result.facts, folder), end="")
