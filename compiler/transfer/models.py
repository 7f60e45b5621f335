"""Models as transfer sees them: a module of d2e.nn neurons over [batch, time, *shape], and its answer per sample."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from d2e.compiler import nn as snn
from d2e.compiler.frontends.files import Source, check_shape_known, opened, unwrapped
from d2e.ir import UnsupportedError, UsageError
from d2e.ir.nodes import Shape

CHUNK, STEPS = 256, 8
_READOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "count": lambda out: out.sum(1), "mean": lambda out: out.mean(1), "last": lambda out: out[:, -1],
    "max": lambda out: out.amax(1),
}


@dataclass(frozen=True)
class Model:
    """A network to train.

    Attributes:
        module: over frames [batch, time, *shape].
        shape: of one frame.
        readout: logits from the output over time: count, mean, last or max, as in `d2e.ir.nodes.Output`.
        facts: what else a checkpoint of it states, for the student's.
        direct: whether it states that it reads images.
    """

    module: nn.Module
    shape: Shape
    readout: str
    facts: Mapping[str, Any]
    direct: bool = False

    def logits(self, frames: Tensor) -> Tensor:
        """[batch, classes] of frames [batch, time, *shape]."""
        return self.read(self.module(frames))

    def read(self, output: Tensor) -> Tensor:
        """[batch, classes] of the module's output [batch, time, …]."""
        return _READOUTS[self.readout](output.flatten(2))

    def copy(self) -> Model:
        """With weights of its own."""
        return replace(self, module=copy.deepcopy(self.module))

    def on_cpu(self) -> Model:
        """A copy there, in evaluation mode, every parameter to be trained again."""
        own = self.copy()
        own.module.cpu().eval().requires_grad_(True)
        return own

    def to_train(self) -> None:
        """Training mode; where a part of the network is not trained, neither are its batch norms' statistics."""
        self.module.train()
        if all(p.requires_grad for p in self.module.parameters()):
            return
        for module in self.module.modules():
            state = (*module.parameters(recurse=False), *module.buffers(recurse=False))
            if state and not any(p.requires_grad for p in state):
                module.training = False

    @torch.no_grad()
    def answers(self, frames: Callable[[slice], Tensor], count: int) -> Tensor:
        """Logits [count, classes] in evaluation mode, some samples at a time; ``frames`` gives those of a slice."""
        before = self.module.training
        self.module.eval()
        try:
            parts = [self.logits(frames(slice(i, min(i + CHUNK, count)))).float().cpu() for i in range(0, count, CHUNK)]
        finally:
            self.module.train(before)
        return torch.cat(parts)


def load_teacher(source: Source, input_shape: Shape | None, time_steps: int | None, allow_pickle: bool) -> tuple[Model, int]:
    """The direct-coded network that a source names, and its time steps.

    Args:
        source: a ``.pt``, ``pkg.module:factory`` or a live module.
        input_shape: of one frame, where the model does not say it.
        time_steps: overrules what the model says; 8 where nothing does.
        allow_pickle: as in `d2e.compile`.

    Returns:
        Both; a live module is copied, and stays as it is.

    Raises:
        UsageError: D2E-TRANS-001 for what is no torch module, -002 for a network that reads events already, -008 for no
            time steps, D2E-LOAD-011 for an unknown input shape, and those of loading.
        UnsupportedError: D2E-TRANS-003 for a module without d2e.nn neurons, -004 for a readout without logits.
    """
    stated = {} if input_shape is None else {"input_shape": tuple(input_shape)}
    module, facts = unwrapped(opened(source, allow_pickle), stated, "the teacher")
    if not isinstance(module, nn.Module):
        raise UsageError("D2E-TRANS-001", f"the teacher is a {type(module).__name__}; only a torch module can be trained",
                         hint="Give a .pt of d2e.nn.save, or pkg.module:factory.")
    check_shape_known(facts, "the teacher")
    if facts.get("coding") in ("spikes", "signed") or facts.get("encoder") not in (None, "direct"):
        raise UsageError("D2E-TRANS-002", "the teacher states that it reads events already "
                         f"({'encoder ' + str(facts['encoder']) if facts.get('encoder') else 'coding ' + facts['coding']})",
                         hint="A teacher is trained on the image itself at every step: coding='direct'.")
    if not any(isinstance(m, snn.Neuron) for m in module.modules()):
        raise UnsupportedError("D2E-TRANS-003", "the teacher has no neurons of d2e.nn",
                               hint="Build it of torch layers and d2e.nn neurons; an ANN is for d2e convert.")
    readout = facts.get("readout") or "mean"
    if readout not in _READOUTS:
        raise UnsupportedError("D2E-TRANS-004", f"the readout {readout!r} of the teacher gives no logits",
                               hint=f"Train it with the readout {', '.join(_READOUTS)}.")
    given = facts.get("time_steps") if time_steps is None else time_steps
    steps = STEPS if given is None else int(given)
    if steps < 1:
        raise UsageError("D2E-TRANS-008", f"time_steps {steps} is out of its range", hint="It is 1 or more.")
    kept = {k: v for k, v in facts.items() if k in ("dt", "name") and v is not None}
    own = over_time(copy.deepcopy(module))
    return Model(own, tuple(facts["input_shape"]), readout, kept, facts.get("coding") == "direct"), steps


def over_time(module: nn.Module) -> nn.Module:
    """A plain ``nn.Sequential`` as one that runs over [batch, time, *shape]."""
    return snn.Sequential(*module) if type(module) is nn.Sequential else module


def mapped(model: Model, shape: Shape, mean: Tensor | None = None, std: Tensor | None = None) -> Model:
    """A student with an event mapping: a 1x1 convolution from the events' channels to the image's, in front of all else.

    It starts as the identity; where events come in pairs of channels (OFF, ON), as their difference; where the teacher
    sees normalised images, as that normalisation. Linear as it is, it merges into the first layer of the chip.

    Args:
        model: the student.
        shape: of a frame of events [channels, height, width].
        mean, std: [channels, 1, 1] of the teacher's images.

    Raises:
        UnsupportedError: D2E-TRANS-005 for frames that are no images of the same size.
    """
    if len(shape) != 3 or len(model.shape) != 3 or shape[1:] != model.shape[1:]:
        raise UnsupportedError(
            "D2E-TRANS-005", f"an event mapping takes frames [channels, height, width] to images of the same size, not "
            f"{list(shape)} to {list(model.shape)}", hint="Leave --event-mapping out, or bring the events to that size.",
        )
    sent, wanted = shape[0], model.shape[0]
    layer = nn.utils.skip_init(nn.Conv2d, sent, wanted, 1, bias=mean is not None)  # type: ignore[no-untyped-call]
    weight = torch.zeros(wanted, sent)
    if sent == wanted:
        weight = torch.eye(wanted)
    elif sent == 2 * wanted:
        weight[torch.arange(wanted), 2 * torch.arange(wanted)] = -1.0
        weight[torch.arange(wanted), 2 * torch.arange(wanted) + 1] = 1.0
    elif sent == 2:
        weight[:, 0], weight[:, 1] = -1.0, 1.0
    else:
        weight[:] = 1.0 / sent
    scale = torch.ones(wanted) if std is None else 1.0 / std.flatten()
    with torch.no_grad():
        layer.weight.copy_((weight * scale[:, None])[:, :, None, None])
        if mean is not None:
            layer.bias.copy_(-mean.flatten() * scale)
    inner = model.module if isinstance(model.module, nn.Sequential) else nn.Sequential(model.module)
    return replace(model, module=snn.Sequential(layer, *inner), shape=shape)
