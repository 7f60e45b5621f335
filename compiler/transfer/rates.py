"""How often the neurons of a torch model fire, layer by layer, and which layers fall silent on events (Proposition 1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from d2e.compiler.nn.containers import Recurrent
from d2e.compiler.nn.neurons import LI, MultiThreshold, Neuron
from d2e.ir.nodes import Array

BATCH = 128
COLLAPSED, SATURATED = 0.5, 0.95
"""Share of the teacher's rate below which a layer has collapsed; spikes per neuron and step above which it is saturated."""
_REMEDIES = {
    "silent": "nothing passes this layer: calibrate its threshold, hold the events (latch) or show more of them",
    "collapsed": "calibrate its thresholds, hold the events (latch), learn an event-mapping layer, or train on events",
    "saturated": "its spikes say little any more: calibrate its thresholds",
    "silent teacher": "it is silent in the teacher too: train the teacher again, or leave the layer out",
}


def firing(model: nn.Module) -> dict[str, tuple[nn.Module, Neuron]]:
    """Name -> (the module that sends its spikes, the neuron) of every neuron that fires; LI sends its membrane.

    The names are those of the compiled network's populations.
    """
    found: dict[str, tuple[nn.Module, Neuron]] = {}
    for name, module in model.named_modules():
        if isinstance(module, Recurrent):
            found[f"{name}.neuron" if name else "neuron"] = (module, module.neuron)
        elif isinstance(module, Neuron) and name not in found:
            found[name] = (module, module)
    return {name: pair for name, pair in found.items() if not isinstance(pair[1], LI)}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without gradients, statistics of BatchNorm as they are; every module's mode is restored."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def spikes(model: nn.Module, frames: Array | Tensor, batch: int = BATCH) -> dict[str, Array]:
    """Spikes of every neuron that fires, mean over samples, summed over time: name -> [*shape].

    A burst of n spikes counts n, a crossed level of a multi-threshold neuron 1.

    Args:
        model: over [batch, time, *shape].
        frames: [n, time, *shape]; may be a broadcast view, such as an image for every step.
        batch: samples at a time.
    """
    totals: dict[str, Tensor] = {}
    heard = firing(model).items()
    hooks = [module.register_forward_hook(_counter(totals, name, neuron)) for name, (module, neuron) in heard]
    try:
        with evaluating(model):
            for start in range(0, len(frames), batch):
                model(on_device(frames[start : start + batch], model))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: (total / len(frames)).cpu().numpy() for name, total in totals.items()}


def _counter(totals: dict[str, Tensor], name: str, neuron: Neuron) -> Any:
    def count(module: nn.Module, inputs: Any, sent: Tensor) -> None:
        own = counted(neuron, sent).sum(dim=(0, 1), dtype=torch.float64)
        totals[name] = totals[name] + own if name in totals else own

    return count


def counted(neuron: Neuron, sent: Tensor) -> Tensor:
    """Spikes behind the payloads a neuron sent."""
    if isinstance(neuron, MultiThreshold) or neuron.rules["max_spikes"] == 1:
        return (sent != 0).to(sent.dtype)
    amplitude = neuron.values().get("amplitude")
    return sent if amplitude is None else sent / amplitude


def on_device(frames: Array | Tensor, model: nn.Module) -> Tensor:
    """Frames as a model takes them: floating, on its device."""
    like = next((p for p in (*model.parameters(), *model.buffers()) if p.is_floating_point()), torch.empty(0))
    taken = torch.from_numpy(np.ascontiguousarray(frames)) if isinstance(frames, np.ndarray) else frames
    return taken.to(like.device, like.dtype)


def rates(model: nn.Module, frames: Array | Tensor, batch: int = BATCH) -> dict[str, float]:
    """Mean spikes per neuron and step of every layer that fires; see `spikes`."""
    return means(spikes(model, frames, batch), frames.shape[1])


def means(sent: Mapping[str, Array], steps: int) -> dict[str, float]:
    """The same from `spikes` that are known."""
    return {name: float(own.mean() / steps) for name, own in sent.items()}


def channel_rates(model: nn.Module, frames: Array | Tensor, batch: int = BATCH) -> dict[str, Array]:
    """Mean spikes per neuron and step of every channel: name -> [channels]; a dense layer's are its neurons."""
    return by_channel(spikes(model, frames, batch), frames.shape[1])


def by_channel(sent: Mapping[str, Array], steps: int) -> dict[str, Array]:
    """The same from `spikes` that are known."""
    return {name: own.reshape(own.shape[0], -1).mean(axis=1) / steps for name, own in sent.items()}


def collapse(teacher: Mapping[str, float], student: Mapping[str, float], below: float = COLLAPSED) -> list[dict[str, Any]]:
    """The layers that do not fire as in the teacher: rows {layer, state, teacher, student, ratio, remedy}.

    An encoder that sends one spike a pixel gives the first layer 1 / T of the drive of a direct input (Proposition 1), and
    what fires less drives less.

    Args:
        teacher, student: `rates` under direct and under encoded input, of the same architecture: paired in order, as an
            event mapping in front changes the names; the rows have the student's.
        below: a layer whose student's rate is below so much of its teacher's has collapsed.

    Returns:
        In the order of the layers; "state" is collapsed, silent, saturated or silent teacher. A ratio to 0 is absent.
    """
    rows = []
    for before, (layer, rate) in zip(teacher.values(), student.items(), strict=True):
        state = _state(before, rate, below)
        if state is None:
            continue
        rows.append({"layer": layer, "state": state, "teacher": before, "student": rate,
                     **({"ratio": rate / before} if before else {}), "remedy": _REMEDIES[state]})
    return rows


def _state(teacher: float, student: float, below: float) -> str | None:
    if teacher == 0:
        return "silent teacher" if student == 0 else None
    if student == 0:
        return "silent"
    if student < below * teacher:
        return "collapsed"
    return "saturated" if student > max(SATURATED, teacher) else None
