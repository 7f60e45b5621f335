"""The options of the command line, each with its help text; `d2e.cli` puts them on its commands."""

from __future__ import annotations

from typing import Annotated, Any

import typer

_MODEL, _TARGET, _DATA, _PASSES, _SHOWN = "Model", "Target", "Data", "Passes", "Output"
_NEURONS, _SEARCH, _WORK, _TRAINING = "Neurons", "Search", "Work", "Training"


def _option(panel: str, text: str, *names: str, metavar: str | None = None, **more: Any) -> Any:
    return typer.Option(*names, help=text, metavar=metavar, rich_help_panel=panel, **more)


Model = Annotated[str, typer.Argument(help=".pt, .pt2, .nir, .net, or pkg.module:factory.", metavar="MODEL")]
Target = Annotated[str, _option(
    _TARGET, "Where it shall run; 'd2e targets' lists them.", "--target", "-t", metavar="NAME")]
InputShape = Annotated[str | None, _option(_MODEL, "Shape of one frame: 1,28,28.", metavar="N,N,N")]
TimeSteps = Annotated[int | None, _option(_MODEL, "Steps per sample.", metavar="N", min=1)]
Coding = Annotated[str | None, _option(_MODEL, "Of the input: spikes, signed or direct.", metavar="NAME")]
MaxPayload = Annotated[int | None, _option(_MODEL, "Largest payload of the input.", metavar="N", min=1)]
Readout = Annotated[str | None, _option(_MODEL, "Of a class: count, last, mean, max or first.", metavar="NAME")]
Encoder = Annotated[str | None, _option(
    _MODEL, "Of real values: direct, first, rate, bernoulli, ttfs, ttfs{latch}, …; see docs/encoding.md.", metavar="NAME")]
InputRange = Annotated[str | None, _option(_MODEL, "Smallest and largest real value of the input: 0,1.", metavar="LOW,HIGH")]
AllowPickle = Annotated[bool, _option(_MODEL, "Load a .pt that runs code; only files you trust.", "--allow-pickle")]
Profile = Annotated[str | None, _option(_MODEL, ".nir: the tool that wrote it, for its conventions.", metavar="NAME")]
Dt = Annotated[float | None, _option(_MODEL, "Length of a time step, in the model's unit.", metavar="X")]
Reset = Annotated[str | None, _option(
    _MODEL, ".nir: subtract, zero, value or none; -next: a step later.", metavar="NAME")]
Fire = Annotated[str | None, _option(_MODEL, ".nir: ge (v >= threshold) or gt.", metavar="NAME")]
MaxSpikes = Annotated[int | None, _option(_MODEL, ".nir: most spikes per step, 0 for no limit.", metavar="N", min=0)]
InputBits = Annotated[int | None, _option(
    _TARGET, "Width of the payloads that real values become; up to 8 unless stated.", metavar="N")]
WeightBits = Annotated[str, _option(
    _TARGET, "Width of signed weights: 1 to 8, layer=N,…, or auto with --budget.", metavar="N")]
Budget = Annotated[float | None, _option(
    _TARGET, "--weight-bits auto: bits per weight in the mean.", metavar="X")]
Scale = Annotated[str, _option(
    _TARGET, "How a layer's unit is chosen: auto, max, percentile, mse or spikes.", metavar="NAME")]
Percentile = Annotated[float, _option(_TARGET, "Of |weight| kept by --scale percentile.", metavar="X")]
Burst = Annotated[str, _option(
    _TARGET, "Form of burst neurons: replicas, weighted, graded or auto.", metavar="NAME")]
SoftReset = Annotated[str, _option(
    _TARGET, "exact, or fallback: registers that every microcode takes, approximate.", metavar="NAME")]
Calibration = Annotated[str | None, _option(_DATA, "Data (.npz with x) for the choice of scales.", metavar="FILE")]
CalibrationSamples = Annotated[int, _option(_DATA, "At most so many of them.", metavar="N", min=1)]
Eval = Annotated[str | None, _option(
    _DATA, "Data (.npz with x, y) to measure every pass on.", "--eval", metavar="FILE")]
EvalSamples = Annotated[int | None, _option(_DATA, "At most so many of them.", metavar="N", min=1)]
MaxDrop = Annotated[float | None, _option(
    _DATA, "Points of accuracy the program may lose on --eval.", metavar="PP", min=0.0)]
Energy = Annotated[str | None, _option(
    _DATA, "JSON of your own joules per operation, for the report; docs/report.md.", metavar="FILE")]
Passes = Annotated[str | None, _option(_PASSES, "Passes to run, comma separated, options in braces.", metavar="LIST")]
StopAfter = Annotated[str | None, _option(_PASSES, "Last pass to run.", metavar="PASS")]
PrintIrAfter = Annotated[str | None, _option(_PASSES, "Print the network after this pass, or 'all'.", metavar="PASS")]
SaveIr = Annotated[bool, _option(_PASSES, "Keep the network after every pass in ir/.", "--save-ir")]
TimePasses = Annotated[bool, _option(_PASSES, "Print how long each pass took.", "--time-passes")]
Output = Annotated[str | None, _option(
    _SHOWN, "Program folder; build/MODEL-TARGET unless stated.", "--output", "-o", metavar="DIR")]
Json = Annotated[bool, _option(_SHOWN, "Print the result as JSON on stdout, and nothing else there.", "--json")]
Quiet = Annotated[bool, _option(_SHOWN, "No progress lines.", "--quiet", "-q")]
Verbose = Annotated[bool, _option(_SHOWN, "What each pass measured.", "--verbose", "-v")]
Ann = Annotated[str, typer.Argument(help=".pt of a ReLU network, or pkg.module:factory.", metavar="MODEL")]
Method = Annotated[str, _option(
    _NEURONS, "adaptive (bursts over T steps) or single-step (levels).", "--method", metavar="NAME")]
Images = Annotated[str, _option(
    _DATA, "Images (.npz with x) as the model takes them; labels are not used.", "--calibration", metavar="FILE")]
FitSamples = Annotated[int, _option(
    _DATA, "At most so many of them set the neurons; those beyond serve --early-exit.", metavar="N")]
Compared = Annotated[str | None, _option(
    _DATA, "Images and labels (.npz with x, y) on which both networks are compared.", "--eval", metavar="FILE")]
Steps = Annotated[int | None, _option(_NEURONS, "adaptive: steps per sample (T); 8.", "--time-steps", "-T", metavar="N")]
MaxBurst = Annotated[int | None, _option(_NEURONS, "adaptive: most spikes per neuron and step (phi); 4.", metavar="N")]
Calibrate = Annotated[str | None, _option(
    _NEURONS, "adaptive: none, light (as published), potential or advanced (default).", "--calibrate", metavar="NAME")]
Levels = Annotated[int | None, _option(_NEURONS, "single-step: most levels of a neuron; 16.", metavar="N")]
Spacing = Annotated[str | None, _option(
    _NEURONS, "single-step: levels where they are worth most, fitted (default), or uniform.", metavar="NAME")]
Start = Annotated[str | None, _option(
    _NEURONS, "single-step, uniform levels: round (default) to the nearest, or floor.", metavar="NAME")]
Search = Annotated[str | None, _option(
    _SEARCH, "How --budget is met: rate-distortion (default); adaptive: paper; single-step: bayes, a scale per layer.",
    metavar="NAME")]
SynopsBudget = Annotated[float | None, _option(
    _SEARCH, "Most synaptic operations: a share, up to 1, of those without it, or how many.", "--budget", metavar="X")]
Compress = Annotated[float | None, _option(
    _SEARCH, "adaptive: share by which the divergence from the ANN may grow for fewer spikes.", metavar="X")]
EarlyExit = Annotated[float | None, _option(
    _SEARCH, "adaptive: points of answers that may change by reading them early.", metavar="PP")]
ExitRule = Annotated[str | None, _option(
    _SEARCH, "Of --early-exit: calibrated (default), fixed, eq17-code or eq17-text.", metavar="NAME")]
Seed = Annotated[int, _option(_WORK, "Of the neurons that calibration looks at.", metavar="N", min=0)]
Jobs = Annotated[int | None, _option(_WORK, "Measurements at a time; one per core unless stated.", metavar="N", min=1)]
Cluster = Annotated[str | None, _option(_WORK, "Address of a Dask scheduler, or local.", metavar="ADDRESS")]
Resume = Annotated[str | None, _option(
    _WORK, "Keeps what is measured; a run that was cut off goes on with it.", metavar="FILE")]
Converted = Annotated[str | None, _option(
    _SHOWN, "The network, .nir; build/MODEL-METHOD.nir unless stated.", "--output", "-o", metavar="FILE")]
Teacher = Annotated[str, typer.Argument(help=".pt of a direct-coded network, or pkg.module:factory.", metavar="MODEL")]
LearnData = Annotated[str, _option(
    _DATA, "Images in 0..1 and labels (.npz with x, y) to learn from; the last tenth is held out.", "--data",
    metavar="FILE")]
StageData = Annotated[str | None, _option(
    _DATA, "Images and labels that every stage is measured on; those held out unless given.", "--eval", metavar="FILE")]
Recordings = Annotated[str | None, _option(
    _DATA, "Event frames (.npz with x) of the images of --data, in place of --encoding.", metavar="FILE")]
EvalRecordings = Annotated[str | None, _option(_DATA, "Those of --eval.", metavar="FILE")]
Encoding = Annotated[str, _option(
    _NEURONS, "What the student reads: ttfs, ttfs{latch}, latency, rate, …, or dvs (a simulated camera).", metavar="NAME")]
TransferSteps = Annotated[int | None, _option(
    _NEURONS, "Steps per sample (T); the teacher's unless stated.", "--time-steps", "-T", metavar="N", min=1)]
TransferMethod = Annotated[str, _option(
    _TRAINING, "zero-shot, normalise (batch norms), calibrate (thresholds), map (event mapping alone), tsf (labels) or skd "
    "(labels and teacher).", "--method", metavar="NAME")]
Mean = Annotated[str | None, _option(_MODEL, "Per channel, of a teacher of normalised images.", metavar="X,X,X")]
Std = Annotated[str | None, _option(_MODEL, "Likewise.", metavar="X,X,X")]
EventMapping = Annotated[bool, _option(
    _NEURONS, "A learned 1x1 convolution in front of the student.", "--event-mapping")]
StartFrom = Annotated[str, _option(
    _TRAINING, "teacher: its weights; normalised, calibrated: what these methods give.", "--start", metavar="NAME")]
Alpha = Annotated[float | None, _option(_TRAINING, "skd: weight of the labels against the teacher; 0.4.", metavar="X")]
Temperature = Annotated[float, _option(_TRAINING, "Of both softmaxes.", metavar="X")]
Divergence = Annotated[str, _option(
    _TRAINING, "From the teacher: forward-kl, reverse-kl, symmetric-kl, mse or l1.", metavar="NAME")]
Epochs = Annotated[int, _option(_TRAINING, "Times through the data.", metavar="N")]
Batch = Annotated[int, _option(_TRAINING, "Samples per step.", metavar="N")]
LearningRate = Annotated[float | None, _option(
    _TRAINING, "At its highest; 0.1 for a batch of 256, in proportion, unless stated.", metavar="X")]
WarmUp = Annotated[float, _option(_TRAINING, "Share of the steps in which it rises to that.", metavar="X")]
WeightDecay = Annotated[float, _option(_TRAINING, "Of SGD.", metavar="X")]
Augment = Annotated[str, _option(_TRAINING, "Of the images: none, shift or flip-shift.", metavar="NAME")]
Patience = Annotated[int | None, _option(
    _TRAINING, "Epochs without a better accuracy on held-out data after which it ends.", metavar="N")]
TrainSeed = Annotated[int, _option(_WORK, "Of everything drawn.", "--seed", metavar="N", min=0)]
Device = Annotated[str | None, _option(_WORK, "cpu, cuda, …; a GPU where there is one unless stated.", metavar="NAME")]
Precision = Annotated[str, _option(_WORK, "Of training: float32, bfloat16 or float16.", metavar="NAME")]
Targets = Annotated[list[str] | None, _option(
    _TARGET, "Compile the student for this; may be given again for another.", "--target", "-t", metavar="NAME")]
ResumeTraining = Annotated[str | None, _option(
    _WORK, "Keeps the state of training; a run that was cut off goes on with it.", "--resume", metavar="FILE")]
TransferFolder = Annotated[str | None, _option(
    _SHOWN, "Folder of student, report and programs; build/MODEL-ENCODING-METHOD unless stated.", "--output", "-o",
    metavar="DIR")]
Check = Annotated[bool, _option(_SHOWN, "Only say what would stop it; write nothing.", "--check")]
Program = Annotated[str, typer.Argument(help="Folder that d2e-compile wrote.", metavar="DIR")]
Anything = Annotated[str, typer.Argument(help="Program folder or model.", metavar="PATH")]
RunData = Annotated[str | None, typer.Option("--data", help="Frames (.npy, or .npz with x and maybe y).", metavar="FILE")]
AgainstSource = Annotated[bool, typer.Option(
    "--against-source", help="Run the model in its own framework beside d2e's reading of it, and compare spikes.")]
AgainstData = Annotated[str | None, typer.Option(
    "--data", help="--against-source: frames to compare on; random ones unless given.", metavar="FILE")]
AgainstSamples = Annotated[int, typer.Option("--samples", help="--against-source: how many.", metavar="N", min=1)]
RunEvents = Annotated[str | None, typer.Option(
    "--events", help="In place of --data, for Speck: a recording of timed events (t, x, y, p).", metavar="FILE")]
WindowUs = Annotated[int, typer.Option(help="--events: microseconds over which peaks are taken.", metavar="N", min=1)]
Samples = Annotated[int | None, typer.Option(help="At most so many of them.", metavar="N", min=1)]
Record = Annotated[str, typer.Option(help="counts, spikes or state.", metavar="NAME")]
ShowNetwork = Annotated[bool, typer.Option("--network", help="Of a program: its network too, node by node.")]
Graph = Annotated[str | None, typer.Option(help="Draw the network here, before and after mapping, as .svg.", metavar="FILE")]
NirFile = Annotated[str | None, typer.Option("--output", "-o", help="Write the network here, as .nir.", metavar="FILE")]
NirCompat = Annotated[str | None, typer.Option(
    help="With -o: the oldest nir package that shall read it, 1.0.4 or 1.0.8.", metavar="VERSION")]
Results = Annotated[str | None, typer.Option("--output", "-o", help="Write the results (.npz).", metavar="FILE")]
TargetName = Annotated[str | None, typer.Argument(help="Show this target's limits.", metavar="NAME")]
LavaFolder = Annotated[str | None, typer.Option(
    help="Folder of the environment; in the user's data folder unless stated.", metavar="DIR")]
LavaPython = Annotated[str | None, typer.Option(
    help="Python 3.10 to 3.12 to build on; the running one unless stated.", metavar="FILE")]
Version = Annotated[bool, typer.Option("--version", help="Print the version.")]
Engine = Annotated[str | None, typer.Option(help="What runs it; the target's simulator unless stated.", metavar="NAME")]
_HOW = "How"
Benched = Annotated[str | None, typer.Argument(help="Folder that d2e-compile wrote.", metavar="PROGRAM")]
BenchData = Annotated[str | None, _option(
    _DATA, "Frames (.npz with x and maybe y, .npy), a folder of images, or recordings of events.", "--data",
    metavar="FILE")]
OneDevice = Annotated[str | None, _option(
    _WORK, "sim:0, speck2f:0, loihi2:0 …, in place of an engine; list: those there are.", metavar="NAME")]
Devices = Annotated[str | None, _option(_WORK, "Several, which share the data: sim:0,sim:1.", metavar="NAMES")]
Compare = Annotated[tuple[str, str] | None, _option(
    _WORK, "Two side by side, each an engine, a device or a program folder.", metavar="A B")]
BenchBatch = Annotated[int, _option(_HOW, "Samples per batch.", metavar="N")]
WarmUpBatches = Annotated[int, _option(_HOW, "Batches per device that do not count.", metavar="N")]
Repeat = Annotated[int, _option(_HOW, "Times that all data run.", metavar="N")]
Peaks = Annotated[bool, _option(_HOW, "Also the most spikes and synops of a step; records every step.", "--peaks")]
StepUs = Annotated[int | None, _option(
    _DATA, "Recordings: microseconds per time step; each fills the steps unless stated.", metavar="N")]
PeakWindow = Annotated[int, _option(_HOW, "Recordings on Speck: microseconds over which peaks are taken.", metavar="N")]
TimeLimit = Annotated[float | None, _option(_HOW, "Seconds after which nothing more is begun.", metavar="S")]
TimeOut = Annotated[float | None, _option(
    _HOW, "Seconds after which a batch has stalled; as the device says unless stated.", metavar="S")]
Ahead = Annotated[int, _option(_HOW, "Batches loaded before a device asks for them.", metavar="N")]
ResumeBench = Annotated[str | None, _option(
    _WORK, "Keeps every batch that is done; a run that was cut off goes on with the others.", "--resume", metavar="FILE")]
BenchFolder = Annotated[str | None, _option(
    _SHOWN, "Write bench.json and samples.csv to this folder.", "--output", "-o", metavar="DIR")]
