"""A model in its own framework beside the reference interpreter: do both fire the same spikes, and where not first?

The framework runs the user's own module, untouched; hooks on its neurons record what they send. Nothing here imports a
framework: how a module takes frames is read from the network (`LAYOUT`), its states are cleared by the methods it has.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from d2e.compiler import data as data_sets
from d2e.compiler.frontends.files import load
from d2e.compiler.frontends.tensors import LAYOUT, clear
from d2e.ir import LI, Network, UsageError, reference
from d2e.ir.nodes import Array, Shape
from d2e.ir.reference import payload

Layout = Literal["batch-time", "time-batch", "squeezed", "step", "image"]
ENOUGH = 0.9999
"""Share of equal neuron-steps from which two implementations are the same but for rounding at the threshold."""


@dataclass(frozen=True)
class Difference:
    """The first step in which a population differs, populations in the order of the network.

    Attributes:
        population: its name.
        sample, step, neuron: where; ``neuron`` is an index into the population's shape.
        source, reference: what each sends there.
    """

    population: str
    sample: int
    step: int
    neuron: tuple[int, ...]
    source: float
    reference: float


@dataclass(frozen=True)
class Comparison:
    """Both on the same frames.

    Attributes:
        populations: name -> (equal neuron-steps, neuron-steps).
        spikes: name -> (of the source, of the reference).
        first: the first difference; None: there is none.
    """

    populations: dict[str, tuple[int, int]]
    spikes: dict[str, tuple[float, float]]
    first: Difference | None

    @property
    def agreement(self) -> float:
        """Share of equal neuron-steps of all populations."""
        equal, total = (sum(row[i] for row in self.populations.values()) for i in (0, 1))
        return equal / total if total else 1.0


def compare(model: nn.Module, network: Network, frames: Array, *, tolerance: float = 1e-4) -> Comparison:
    """Run both on frames [batch, time, *shape].

    Args:
        model: as the user built it; its states are cleared before.
        network: read from it.
        frames: of the network's input.
        tolerance: of readouts (LI), which send real values.

    Raises:
        UsageError: D2E-AGAINST-001 where a population is no module of the model, or sends other shapes.
    """
    given = reference.check_frames(network, frames)
    theirs = spikes_of_source(model, network, given)
    ours = reference.run(network, given, "state")
    populations: dict[str, tuple[int, int]] = {}
    spikes: dict[str, tuple[float, float]] = {}
    first: Difference | None = None
    for name, sent in theirs.items():
        node = network.neuron(name)
        readout = isinstance(node, LI)
        mine = ours.v[name] if readout else payload(node, ours.spikes[name])
        if sent.shape != mine.shape:
            raise UsageError("D2E-AGAINST-001", f"sends {list(sent.shape)} in the model and {list(mine.shape)} here",
                             node=name, hint="Please report the model.")
        equal = np.abs(sent - mine) <= (tolerance * np.maximum(1, np.abs(mine)) if readout else 1e-6)
        populations[name] = (int(equal.sum()), equal.size)
        spikes[name] = (float(sent.sum()), float(mine.sum()))
        if not equal.all():
            step = int(np.argmin(equal.all(axis=(0, *range(2, equal.ndim)))))
            sample, *neuron = (int(i) for i in np.argwhere(~equal[:, step])[0])
            at = (sample, step, *neuron)
            if first is None or step < first.step:
                first = Difference(name, sample, step, tuple(neuron), float(sent[at]), float(mine[at]))
    return Comparison(populations, spikes, first)


def spikes_of_source(model: nn.Module, network: Network, frames: Array) -> dict[str, Array]:
    """What every population sends [batch, time, *shape] when the model runs in its own framework."""
    layout: Layout = network.metadata.get(LAYOUT, "batch-time")
    modules = dict(model.named_modules())
    names = [n for n in network.populations if n in modules]
    if not names and not network.metadata.get("name"):
        names = [n for n in network.populations if n == "0"]  # a lone neuron, read as a Sequential of itself
        modules["0"] = model
    if not names:
        raise UsageError("D2E-AGAINST-001", "no population of the network is a module of the model",
                         hint="Give the module the network was read from.")
    parameter = next(model.parameters(), torch.zeros(0))
    data = torch.as_tensor(np.ascontiguousarray(frames)).to(parameter.dtype)
    parts: dict[str, list[Array]] = {n: [] for n in names}
    at_once = _samples(model, frames.shape[1]) or max(1, len(data))
    for start in range(0, len(data), at_once):
        rows = torch.arange(start, start + at_once).clamp(max=len(data) - 1)  # the last batch is filled up
        clear(model)
        with torch.no_grad(), _recorded({n: modules[n] for n in names}) as sent:
            _call(model, data[rows], layout)
        for n in names:
            if sent[n]:
                parts[n].append(_over_time(sent[n], at_once, frames.shape[1], layout, network.neuron(n).shape))
    clear(model)
    return {n: np.concatenate(part)[:len(data)] for n, part in parts.items() if part}


def _samples(model: nn.Module, steps: int) -> int | None:
    """How many samples a model takes at once, where it is built for a number (sinabs: batch_size, num_timesteps)."""
    built: list[Any] = [m for m in model.modules() if isinstance(getattr(m, "batch_size", None), int)]
    for module in built:
        made_for = getattr(module, "num_timesteps", None)
        if isinstance(made_for, int) and made_for > 0 and made_for != steps:
            raise UsageError(
                "D2E-AGAINST-003", f"a layer is built for {made_for} steps per sample, the frames have {steps}",
                hint=f"Give --time-steps {made_for}, or build the model for {steps}.",
            )
    return next((size for module in built if (size := module.batch_size) > 0), None)


@contextmanager
def _recorded(modules: dict[str, nn.Module]) -> Iterator[dict[str, list[torch.Tensor]]]:
    sent: dict[str, list[torch.Tensor]] = {name: [] for name in modules}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            sent[name].append((output[0] if isinstance(output, tuple) else output).detach().clone())
        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        yield sent
    finally:
        for handle in handles:
            handle.remove()


def _call(model: nn.Module, data: torch.Tensor, layout: Layout) -> None:
    was = model.training
    model.eval()
    try:
        if layout == "step":
            result: Any = None
            kept = "state" in inspect.signature(model.forward).parameters  # as Norse tells modules with a state
            for step in data.unbind(1):
                result = model(step, result[1]) if kept and result is not None else model(step)
        elif layout == "image":
            model(data[:, 0])
        elif layout == "squeezed":
            model(data.flatten(0, 1))
        else:
            model(data.transpose(0, 1) if layout == "time-batch" else data)
    finally:
        model.train(was)


def _over_time(calls: list[torch.Tensor], batch: int, steps: int, layout: Layout, shape: Shape) -> Array:
    """What one neuron layer sent in its calls, as [batch, time, *shape]."""
    if len(calls) > 1:
        return np.asarray(torch.stack(calls, 1).double().numpy())
    whole = calls[0].double()
    folded = layout == "batch-time" and whole.ndim == len(shape) + 1  # a squeezed layer in a model of frames over time
    if layout == "squeezed" or folded:
        whole = whole.reshape(batch, steps, *whole.shape[1:])
    elif whole.ndim == len(shape) + 1:  # called step by step, and there is one step
        whole = whole[:, None]
    elif layout in ("time-batch", "image"):
        whole = whole.transpose(0, 1)
    return np.asarray(whole.numpy())


# --------------------------------------------------------------------------- for the command line

STEPS = 16
"""Steps of sample input where the model states none."""


def check_source(
    source: Any, data: data_sets.Source | None = None, *, samples: int = 4, seed: int = 0, **options: Any
) -> Comparison:
    """Read a model and compare it with itself in its own framework.

    Args:
        source: as `d2e.compiler.frontends.files.load_model` takes it.
        data: frames to compare on; None: random ones that the input's coding allows.
        samples: at most so many.
        seed: of random frames.
        options: of `load_model`.

    Raises:
        UsageError: D2E-AGAINST-002 where there is no module to run, such as for a ``.nir`` file.
    """
    network, model = load(source, **options)
    if model is None:
        raise UsageError("D2E-AGAINST-002", f"{source} holds no module that could run beside its network",
                         hint="Give the model itself: .pt, or pkg.module:factory.")
    frames = sample_frames(network, samples, seed) if data is None else data_sets.fit(
        data_sets.load(data), network).head(samples).frames
    return compare(model, network, frames)


def sample_frames(network: Network, samples: int, seed: int) -> Array:
    """Random frames [samples, time, *shape]: spikes in 3 of 10 places, payloads up to the largest, or normal reals."""
    rng, node = np.random.default_rng(seed), network.input
    shape = (samples, node.time_steps or STEPS, *node.shape)
    if node.coding == "direct":
        return rng.normal(size=shape).astype(np.float32)
    low = -node.max_payload if node.coding == "signed" else 1
    return (rng.random(shape) < 0.3) * rng.integers(low, node.max_payload + 1, shape)


def told(found: Comparison) -> dict[str, Any]:
    """A comparison as JSON values."""
    first = found.first
    return {
        "agreement": found.agreement,
        "populations": {
            name: {"equal": equal, "neuron_steps": total, "source": found.spikes[name][0], "d2e": found.spikes[name][1]}
            for name, (equal, total) in found.populations.items()
        },
        **({} if first is None else {"first_difference": {
            "population": first.population, "sample": first.sample, "step": first.step, "neuron": list(first.neuron),
            "source": first.source, "d2e": first.reference}}),
    }


def text(found: Comparison) -> str:
    """A comparison for the screen."""
    lines = [f"{'population':<24}{'equal':>12}{'spikes in source':>20}{'in d2e':>14}"]
    for name, (equal, total) in found.populations.items():
        theirs, ours = found.spikes[name]
        silent = "" if theirs or ours else "   silent: this compares nothing, give --data"
        lines.append(f"{name:<24}{100 * equal / total:>10.4f} %{theirs:>20,.6g}{ours:>14,.6g}{silent}")
    first = found.first
    if first is not None:
        lines.append(f"first difference: {first.population}, step {first.step}, sample {first.sample}, neuron "
                     f"{list(first.neuron)}: {first.source:g} in the source, {first.reference:g} in d2e")
    return "\n".join(lines)
