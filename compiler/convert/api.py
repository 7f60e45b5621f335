"""`convert`: a trained ANN in, a spiking network out. The command line is a thin layer over this one function."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from joblib import parallel_config

from d2e.compiler import data as data_sets
from d2e.compiler.convert import exits
from d2e.compiler.convert.adafire import AdaFire
from d2e.compiler.convert.build import network_of
from d2e.compiler.convert.calibrate import PRESETS, Calibration, Calibrator, State
from d2e.compiler.convert.engine import MOST_SPIKES, activate, simulate, synops
from d2e.compiler.convert.evaluate import Bench, Listen, divergence
from d2e.compiler.convert.prices import Prices
from d2e.compiler.convert.skeleton import Skeleton, integrated
from d2e.compiler.convert.store import Store, digest
from d2e.compiler.frontends.ann import load_ann
from d2e.compiler.frontends.files import Source
from d2e.ir import EarlyExit, MissingError, Network, UnsupportedError, UsageError, nirfile
from d2e.ir.nodes import Array, Shape
from d2e.ir.text import to_text

METHODS = ("adaptive",)
SEARCHES = ("rate-distortion", "paper")
FEWEST_SAMPLES = 16
HELD_OUT, SEARCHED = 2000, 256
_HOLD_WITH_EXIT = 0.5
"""Thresholds by which neurons are held back at most where answers shall be right before the last step."""
_CHUNK = 64


def convert(
    model: Source, *, method: str = "adaptive", calibration: data_sets.Source, calibration_samples: int = 512,
    time_steps: int = 8, max_burst: int = 4, input_shape: Shape | None = None, allow_pickle: bool = False,
    calibrate: str = "advanced", search: str = "rate-distortion", budget: float | None = None, compress: float | None = None,
    early_exit: float | None = None, exit_rule: str = "calibrated", eval: data_sets.Source | None = None,
    eval_samples: int | None = None, seed: int = 0, jobs: int | None = None, cluster: str | None = None,
    resume: str | None = None, output: str | None = None, listen: Listen | None = None,
) -> Network:
    """Convert a trained ReLU network into a spiking network of burst neurons, without training.

    Wang et al., "Adaptive Calibration: A Unified Conversion Framework of Spiking Neural Networks", AAAI 2025.

    Args:
        model: ``.pt``, ``pkg.module:factory`` or a torch module over [batch, *shape].
        method: "adaptive".
        calibration: images [n, *input shape] as the model takes them; labels are not used.
        calibration_samples: so many of them, at most three quarters, set the neurons. Those beyond, at most 2,000, are held
            out: the first 256 for the searches, all for the early exit.
        time_steps: T.
        max_burst: phi, most spikes per neuron and step.
        input_shape: of one image, where the model does not say it.
        allow_pickle: load a ``.pt`` that runs code. Only for files you trust.
        calibrate: none, light (Eq. 8 and biases, as published), potential, or advanced (see `calibrate.Calibration`).
        search: how a budget is met and thresholds are compressed: "rate-distortion" (see `prices`) or "paper" (`adafire`).
        budget: most synaptic operations: a share, up to 1, of those with ``max_burst`` everywhere, or a number per sample;
            with search="paper" a share of the spikes. None: ``max_burst`` everywhere.
        compress: by which share the divergence from the ANN may grow for larger thresholds (SSC); after the budget is met.
        early_exit: percentage points of answers that may change by reading them early (IAT).
        exit_rule: calibrated, fixed, eq17-code or eq17-text, see `exits.calibrate`.
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
            for a resume file of another conversion.
        UnsupportedError: D2E-CONV-001..005 for what cannot be converted, -013 for a layer without activity, -014 for a
            budget that cannot be met.
        MissingError: D2E-CONV-016 where Dask is not installed.
    """
    options = _Options(
        method, time_steps, max_burst, calibrate, search, budget, compress, early_exit, exit_rule, calibration_samples,
        eval_samples, seed, jobs,
    )
    options.check()
    skeleton = Skeleton(integrated(load_ann(model, input_shape=input_shape, allow_pickle=allow_pickle)))
    images = _images(calibration, skeleton, "calibration data")
    if len(images) < FEWEST_SAMPLES:
        raise UsageError("D2E-CONV-011", f"{len(images)} calibration samples are too few, {FEWEST_SAMPLES} are the least",
                         hint="Give a few hundred images of the training data.")
    held_out = None if eval is None else _evaluation(eval, skeleton, eval_samples)
    images = images[: calibration_samples + HELD_OUT]
    fit = images[: min(calibration_samples, len(images) - len(images) // 4)]
    later = images[len(fit) :]
    held = later[:SEARCHED]
    conversion = digest(fit, held, time_steps, seed, asdict(options.calibration), to_text(skeleton.network))
    with _cluster(cluster):
        bench = Bench(Store(resume, conversion), jobs, listen)
        calibrator = Calibrator(skeleton, fit, time_steps, options.calibration, seed)
        _check_alive(calibrator)
        logits = activate(skeleton, held)[1][skeleton.readout.name]
        state, prices = _chosen(options, calibrator, held, logits, bench)
    rule = _exit(options, state, later)
    facts: dict[str, Any] = {
        "method": method, "time_steps": time_steps, "max_burst": max_burst, "calibrate": calibrate, "seed": seed,
        "bursts": state.bursts, "ratios": dict(state.ratios), "samples": {"fit": len(fit), "held": len(held)},
        **options.searched, **({} if prices is None else {"frontier": prices.table()}),
        **_figures(state, held, logits, time_steps),
    }
    if rule is not None:
        facts["early_exit"] = {"rule": rule.rule, "bounds": rule.bounds.tolist(), "allowed": early_exit}
    if held_out is not None:
        facts["accuracy"] = _accuracy(skeleton, state, held_out, time_steps, rule)
    network = network_of(state, time_steps, rule).with_metadata(conversion=facts)
    if output is not None:
        Path(output).absolute().parent.mkdir(parents=True, exist_ok=True)
        nirfile.write(network, output)
    return network


@dataclass(frozen=True)
class _Options:
    method: str
    time_steps: int
    max_burst: int
    calibrate: str
    search: str
    budget: float | None
    compress: float | None
    early_exit: float | None
    exit_rule: str
    calibration_samples: int
    eval_samples: int | None
    seed: int
    jobs: int | None

    @property
    def searched(self) -> dict[str, Any]:
        """What was searched, for the facts."""
        goals = {"budget": self.budget, "compress": self.compress}
        given = {key: value for key, value in goals.items() if value is not None}
        return {"search": {"name": self.search, **given}} if given else {}

    @property
    def calibration(self) -> Calibration:
        found = PRESETS[self.calibrate]
        return found if self.early_exit is None else replace(found, hold=min(found.hold, _HOLD_WITH_EXIT))

    def check(self) -> None:
        """Raise for what has no meaning."""
        if self.method not in METHODS:
            raise UsageError("D2E-CONV-010", f"there is no conversion method {self.method!r}",
                             hint=f"It is {', '.join(METHODS)}; single-step conversion is not in this version.")
        ranges: dict[str, tuple[bool, str]] = {
            "time steps": (self.time_steps >= 1, "1 or more"),
            "max burst": (1 <= self.max_burst <= MOST_SPIKES, f"1 to {MOST_SPIKES}"),
            "calibrate": (self.calibrate in PRESETS, ", ".join(PRESETS)),
            "search": (self.search in SEARCHES, ", ".join(SEARCHES)),
            "budget": (self.budget is None or self.budget > 0, "above 0"),
            "compress": (self.compress is None or self.compress >= 0, "0 or more"),
            "early exit": (self.early_exit is None or 0 <= self.early_exit <= 100, "0 to 100"),
            "exit rule": (self.exit_rule in exits.RULES, ", ".join(exits.RULES)),
            "calibration samples": (self.calibration_samples >= FEWEST_SAMPLES, f"{FEWEST_SAMPLES} or more"),
            "eval samples": (self.eval_samples is None or self.eval_samples >= 1, "1 or more"),
            "seed": (self.seed >= 0, "0 or more"), "jobs": (self.jobs != 0, "any number but 0"),
        }
        for name, (holds, allowed) in ranges.items():
            if not holds:
                value = getattr(self, name.replace(" ", "_"))
                raise UsageError("D2E-CONV-012", f"{name} {value!r} is out of its range", hint=f"It is {allowed}.")
        if self.searched and self.search == "rate-distortion" and not self.calibration.drive:
            raise UsageError("D2E-CONV-012", f"the search {self.search} needs thresholds set on real inputs, calibrate "
                             f"{self.calibrate!r} has them by Eq. 8", hint="Give --calibrate advanced, or --search paper.")
        if self.search == "paper" and (self.budget or 0) > 1:
            raise UsageError("D2E-CONV-012", f"budget {self.budget!r} is out of its range",
                             hint="With --search paper it is a share of the spikes, up to 1.")


def _images(source: data_sets.Source, skeleton: Skeleton, what: str) -> Array:
    """Images [n, *input shape] as single precision."""
    return _checked(data_sets.load(source, what).frames, skeleton, what)


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


def _check_alive(calibrator: Calibrator) -> None:
    for layer in calibrator.skeleton.rectifiers:
        if not (calibrator.sent[layer.name] > 0).any():
            raise UnsupportedError(
                "D2E-CONV-013", "its ReLU lets nothing through on the calibration data, so nothing says its threshold",
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


def _chosen(
    options: _Options, calibrator: Calibrator, held: Array, logits: Array, bench: Bench
) -> tuple[State, Prices | None]:
    """The network, and the prices that were looked at for it."""
    budget, compress, most = options.budget, options.compress, options.max_burst
    if budget is None and compress is None:
        return calibrator.every(most), None
    if options.search == "rate-distortion":
        prices = Prices(calibrator, most, held, logits, bench)
        price = None if budget is None else prices.within(budget)
        if compress is not None:
            price = prices.grown(price, compress)
        return calibrator.every(most, price=price), prices
    state = calibrator.every(most)
    if budget is not None:
        state = calibrator.every(AdaFire(calibrator, state, held, logits, bench).bursts(budget))
    if compress is not None:
        ratios = AdaFire(calibrator, state, held, logits, bench).ratios(compress)
        state = calibrator.every(state.bursts, ratios)
    return state, None


def _exit(options: _Options, state: State, images: Array) -> EarlyExit | None:
    if options.early_exit is None:
        return None
    return exits.calibrate(
        _evidence(state, images, options.time_steps), options.early_exit / 100, options.exit_rule,  # type: ignore[arg-type]
    )


def _evidence(state: State, images: Array, steps: int) -> Array:
    parts = range(0, len(images), _CHUNK)
    return np.concatenate([simulate(state.skeleton, state.plan, images[i : i + _CHUNK], steps)[1] for i in parts])


def _figures(state: State, images: Array, logits: Array, steps: int) -> dict[str, float]:
    """Means per held sample."""
    spikes, evidence = simulate(state.skeleton, state.plan, images, steps)
    return {
        "kl": divergence(logits, evidence[:, -1] / steps),
        "spikes_per_sample": sum(float(n.sum(dtype=np.int64)) for n in spikes.values()) / len(images),
        "synops_per_sample": sum(synops(state.skeleton, spikes).values()),
        "messages_synops_per_sample": sum(synops(state.skeleton, spikes, messages=True).values()),
    }


def _accuracy(
    ann: Skeleton, state: State, data: data_sets.Data, steps: int, rule: EarlyExit | None
) -> Mapping[str, Any]:
    """Of the ANN and of the spiking network, with its early exit if it has one."""
    assert data.labels is not None
    right, early, exited, before = 0, 0, 0, 0
    for i in range(0, len(data), _CHUNK):
        images, labels = data.frames[i : i + _CHUNK], data.labels[i : i + _CHUNK]
        evidence = simulate(state.skeleton, state.plan, images, steps)[1]
        logits = activate(ann, images)[1][state.skeleton.readout.name]
        before += int((logits.argmax(axis=1) == labels).sum())
        right += int((evidence[:, -1].argmax(axis=1) == labels).sum())
        if rule is not None:
            at = rule.steps(evidence, "last")
            early += int((evidence[np.arange(len(at)), at - 1].argmax(axis=1) == labels).sum())
            exited += int(at.sum())
    total = len(data)
    exit_facts = {} if rule is None else {"snn_all_steps": right / total, "mean_steps": exited / total}
    return {
        "ann": before / total, "snn": (right if rule is None else early) / total, **exit_facts, "samples": total,
        "data_sha256": data.fingerprint,
    }
