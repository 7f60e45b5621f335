"""`convert`: a trained ANN in, a spiking network out. The command line is a thin layer over this one function."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from joblib import parallel_config

from d2e.compiler import data as data_sets
from d2e.compiler.choices import check_ranges
from d2e.compiler.convert.adaptive.method import Adaptive
from d2e.compiler.convert.energy import estimates
from d2e.compiler.convert.evaluate import Bench, Listen
from d2e.compiler.convert.method import Method, Outcome, Samples
from d2e.compiler.convert.single_step.method import SingleStep
from d2e.compiler.convert.single_step.sites import IDENTITY, with_sites
from d2e.compiler.convert.skeleton import Skeleton, activate, integrated
from d2e.compiler.convert.store import Store, digest
from d2e.compiler.frontends.ann import load_ann
from d2e.compiler.frontends.files import Source
from d2e.ir import MissingError, Network, UnsupportedError, UsageError, nirfile
from d2e.ir.nodes import Array, Shape
from d2e.ir.text import to_text

METHODS: dict[str, type[Adaptive] | type[SingleStep]] = {"adaptive": Adaptive, "single-step": SingleStep}
FEWEST_SAMPLES = 16
HELD_OUT, SEARCHED = 2000, 256
_CHUNK = 64


def convert(
    model: Source, *, method: str = "adaptive", calibration: data_sets.Source, calibration_samples: int = 512,
    input_shape: Shape | None = None, allow_pickle: bool = False,
    time_steps: int | None = None, max_burst: int | None = None, calibrate: str | None = None,
    levels: int | None = None, spacing: str | None = None, start: str | None = None,
    search: str | None = None, budget: float | None = None, compress: float | None = None,
    early_exit: float | None = None, exit_rule: str | None = None, eval: data_sets.Source | None = None,
    eval_samples: int | None = None, seed: int = 0, jobs: int | None = None, cluster: str | None = None,
    resume: str | None = None, output: str | None = None, listen: Listen | None = None,
) -> Network:
    """Convert a trained network into a spiking network, without training.

    "adaptive": burst neurons over T steps; Wang et al., "Adaptive Calibration: A Unified Conversion Framework of Spiking
    Neural Networks", AAAI 2025. "single-step": one step of multi-threshold neurons; "Temporal-to-Spatial equivalence",
    arXiv 2510.23383. An option that is None has its method's default; an option of another method is refused.

    Args:
        model: ``.pt``, ``pkg.module:factory`` or a torch module over [batch, *shape].
        method: "adaptive" or "single-step".
        calibration: images [n, *input shape] as the model takes them; labels are not used.
        calibration_samples: so many of them, at most three quarters, set the neurons. Those beyond, at most 2,000, are held
            out: the first 256 for the searches, all for the early exit.
        input_shape: of one image, where the model does not say it.
        allow_pickle: load a ``.pt`` that runs code. Only for files you trust.
        time_steps: T (adaptive; 8).
        max_burst: phi, most spikes per neuron and step (adaptive; 4).
        calibrate: none, light (Eq. 8 and biases, as published), potential, or advanced, see `adaptive.calibrate.Calibration`
            (adaptive; advanced).
        levels: N, most levels of a neuron (single-step; 16).
        spacing: of the levels: "fitted", where they are worth most, or "uniform" (single-step; fitted).
        start: with uniform levels, "round" to the nearest or "floor" to the one below (single-step; round).
        search: how a budget is met and thresholds are compressed: "rate-distortion" (see `prices`); with adaptive also
            "paper" (`adafire`), with single-step also "bayes", a scale per layer (`single_step.bayes`).
        budget: most synaptic operations: a share, up to 1, of those without a price, or a number per sample; with
            search="paper" a share of the spikes. None: no limit.
        compress: by which share the divergence from the ANN may grow for larger thresholds (SSC); after the budget is met
            (adaptive).
        early_exit: percentage points of answers that may change by reading them early (IAT) (adaptive).
        exit_rule: calibrated, fixed, eq17-code or eq17-text, see `adaptive.exits.calibrate` (adaptive; calibrated).
        eval: images and labels on which ANN and spiking network are compared; nothing is chosen by them.
        eval_samples: at most so many of them.
        seed: of the choice of neurons that calibration looks at.
        jobs: measurements at a time; None: as joblib is configured.
        cluster: address of a Dask scheduler, or "local".
        resume: a file that keeps what is measured; a run that was cut off goes on with it.
        output: write the network to this ``.nir`` file.
        listen: called with (done, total, what) while measuring.

    Returns:
        The network, which `d2e.compile` takes; ``metadata["conversion"]`` says how it was found.

    Raises:
        UsageError: D2E-CONV-010 for an unknown method, -011 for too few samples, -012 for an option out of its range, -015
            for a resume file of another conversion, -017 for an option of another method.
        UnsupportedError: D2E-CONV-001..005 for what cannot be converted, -013 for a layer without activity, -014 for a
            budget that cannot be met.
        MissingError: D2E-CONV-016 where Dask is not installed, -018 where optuna is not.
    """
    chosen = _method(method, {
        "time_steps": time_steps, "max_burst": max_burst, "calibrate": calibrate, "levels": levels, "spacing": spacing,
        "start": start, "search": search, "budget": budget, "compress": compress, "early_exit": early_exit,
        "exit_rule": exit_rule,
    })
    _check(calibration_samples, eval_samples, seed, jobs)
    ann = load_ann(model, input_shape=input_shape, allow_pickle=allow_pickle, single_step=method == "single-step")
    skeleton = Skeleton(integrated(with_sites(ann)))
    images = _checked(data_sets.load(calibration, "calibration data").frames, skeleton, "calibration data")
    if len(images) < FEWEST_SAMPLES:
        raise UsageError("D2E-CONV-011", f"{len(images)} calibration samples are too few, {FEWEST_SAMPLES} are the least",
                         hint="Give a few hundred images of the training data.")
    held_out = None if eval is None else _evaluation(eval, skeleton, eval_samples)
    images = images[: calibration_samples + HELD_OUT]
    fit, later = np.split(images, [min(calibration_samples, len(images) - len(images) // 4)])
    held = later[:SEARCHED]
    conversion = digest(fit, held, method, seed, *chosen.settings, to_text(skeleton.network))
    with _cluster(cluster):
        bench = Bench(Store(resume, conversion), jobs, listen)
        _check_alive(skeleton, fit)
        samples = Samples(fit, later, held, activate(skeleton, held)[1][skeleton.readout.name])
        outcome = chosen.convert(skeleton, samples, seed, bench)
    facts: dict[str, Any] = {
        "method": method, "seed": seed, "samples": {"fit": len(fit), "held": len(held)}, **outcome.facts,
        "energy": estimates(skeleton, outcome.facts["synops_per_sample"]),
    }
    if held_out is not None:
        facts["accuracy"] = _accuracy(skeleton, outcome, held_out)
    network = outcome.network().with_metadata(conversion=facts)
    if output is not None:
        Path(output).absolute().parent.mkdir(parents=True, exist_ok=True)
        nirfile.write(network, output)
    return network


def _method(name: str, options: Mapping[str, Any]) -> Method:
    """A method with the options that were given."""
    if name not in METHODS:
        raise UsageError("D2E-CONV-010", f"there is no conversion method {name!r}", hint=f"It is {', '.join(METHODS)}.")
    given = {key: value for key, value in options.items() if value is not None}
    for key in given:
        owners = [other for other, kind in METHODS.items() if key in {field.name for field in fields(kind)}]
        if name not in owners:
            raise UsageError("D2E-CONV-017", f"{key.replace('_', ' ')} is an option of the method {' and '.join(owners)}, "
                             f"not of {name}", hint="Leave it out, or give --method.")
    chosen = METHODS[name](**given)
    chosen.check()
    return chosen


@dataclass(frozen=True)
class _Common:
    calibration_samples: int
    eval_samples: int | None
    seed: int
    jobs: int | None


def _check(samples: int, eval_samples: int | None, seed: int, jobs: int | None) -> None:
    check_ranges(_Common(samples, eval_samples, seed, jobs), {
        "calibration samples": (samples >= FEWEST_SAMPLES, f"{FEWEST_SAMPLES} or more"),
        "eval samples": (eval_samples is None or eval_samples >= 1, "1 or more"),
        "seed": (seed >= 0, "0 or more"), "jobs": (jobs != 0, "any number but 0"),
    }, "D2E-CONV-012")


def _checked(frames: Array, skeleton: Skeleton, what: str) -> Array:
    shape = skeleton.network.input.shape
    if frames.shape[1:] != shape:
        raise UsageError("D2E-INPUT-001", f"{what} of shape {list(frames.shape)} are not images [n, "
                         f"{', '.join(map(str, shape))}]", hint="Give images as the model takes them, without a time axis.")
    images = np.asarray(frames, np.float32)
    if not np.isfinite(images).all():
        raise UsageError("D2E-INPUT-002", f"the {what} hold NaN or infinity")
    return images


def _evaluation(source: data_sets.Source, skeleton: Skeleton, samples: int | None) -> data_sets.Data:
    data = data_sets.load(source, "evaluation data").head(samples)
    if data.labels is None:
        raise UsageError("D2E-DATA-003", "the evaluation data have no labels", hint="Save them with numpy.savez(x=…, y=…).")
    return data_sets.Data(_checked(data.frames, skeleton, "evaluation data"), data.labels)


def _check_alive(skeleton: Skeleton, images: Array) -> None:
    sent = activate(skeleton, images)[1]
    for layer in skeleton.rectifiers:
        alive = sent[layer.name] != 0 if layer.activation == IDENTITY else sent[layer.name] > 0
        if not alive.any():
            raise UnsupportedError(
                "D2E-CONV-013", "lets nothing through on the calibration data, so nothing says its threshold",
                node=layer.name, hint="Give other calibration images, scaled as the model was trained; or remove the layer.",
            )


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """joblib's work goes to a Dask cluster."""
    if address is None:
        yield
        return
    try:
        from distributed import Client
    except ImportError:
        raise MissingError("D2E-CONV-016", "Dask is not installed", hint="pip install 'd2e[cluster]'.") from None
    with Client() if address == "local" else Client(address), parallel_config(backend="dask"):
        yield


def _accuracy(ann: Skeleton, outcome: Outcome, data: data_sets.Data) -> Mapping[str, Any]:
    """Of the ANN and of the spiking network, with its early exit if it has one."""
    assert data.labels is not None
    right, early, exited, before, total = 0, 0, 0, 0, len(data)
    exits = False
    for i in range(0, total, _CHUNK):
        images, labels = data.frames[i : i + _CHUNK], data.labels[i : i + _CHUNK]
        answers, logits = outcome.answers(images), activate(ann, images)[1][ann.readout.name]
        before += int((logits.argmax(axis=1) == labels).sum())
        right += int((answers.full == labels).sum())
        if answers.early is not None and answers.steps is not None:
            exits = True
            early += int((answers.early == labels).sum())
            exited += int(answers.steps.sum())
    exit_facts = {"snn_all_steps": right / total, "mean_steps": exited / total} if exits else {}
    return {
        "ann": before / total, "snn": (early if exits else right) / total, **exit_facts, "samples": total,
        "data_sha256": data.fingerprint,
    }
