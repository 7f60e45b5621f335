"""Modules around the neurons: time folded into the batch for torch layers, recurrence, skips, sum pooling."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, fx, nn
from torch.nn import functional

from d2e.compiler.nn.neurons import Neuron, run
from d2e.ir.errors import UsageError

Size = int | tuple[int, int]


def has_neurons(module: nn.Module) -> bool:
    """Whether a module is a neuron or holds one, so that it needs the time axis."""
    return any(isinstance(m, (Neuron, TimeFolded)) for m in module.modules())


def fold_time(layer: nn.Module, frames: Tensor) -> Tensor:
    """``layer`` applied to every frame of [batch, time, *shape] at once."""
    if isinstance(frames, fx.Proxy):  # tracing: the layer stands for itself
        traced: Tensor = layer(frames)
        return traced
    result: Tensor = layer(frames.flatten(0, 1))
    return result.reshape(*frames.shape[:2], *result.shape[1:])


class TimeFolded(nn.Module):
    """A stateless layer over [batch, time, *shape], for use in modules with a ``forward`` of their own."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, frames: Tensor) -> Tensor:
        """The layer on every frame."""
        return fold_time(self.layer, frames)


class Sequential(nn.Sequential):
    """``torch.nn.Sequential`` over [batch, time, *shape]: what holds no neuron is applied to every frame."""

    def forward(self, input: Tensor) -> Tensor:
        """Run the modules in order."""
        return _in_order(self, input)


def _at_once(modules: Iterable[nn.Module], frames: Tensor) -> Tensor:
    for module in modules:
        frames = module(frames)
    return frames


def _in_order(modules: Iterable[nn.Module], frames: Tensor) -> Tensor:
    for module in modules:
        if not has_neurons(module) and type(module) is not Sequential:
            frames = fold_time(module, frames)
        elif type(module) is nn.Sequential and not isinstance(frames, fx.Proxy):
            frames = _in_order(module, frames)
        else:
            frames = module(frames)
    return frames


class Recurrent(nn.Module):
    """A neuron whose payloads of the step before come back through a layer that keeps the shape.

    current(t) = input(t) + layer(payload(t-1)); before the first step the payload is zero.

    Args:
        neuron: any neuron of this package.
        layer: ``nn.Linear``, ``nn.Conv1d`` or ``nn.Conv2d``.
    """

    def __init__(self, neuron: Neuron, layer: nn.Module) -> None:
        super().__init__()
        if not isinstance(neuron, Neuron):
            raise UsageError("D2E-NN-002", f"Recurrent needs a neuron of d2e.nn, not {type(neuron).__name__}")
        if not isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            given = type(layer).__name__
            raise UsageError("D2E-NN-002", f"Recurrent needs a Linear, Conv1d or Conv2d, not {given}")
        if not isinstance(layer, nn.Linear) and (layer.padding_mode != "zeros" or set(layer.stride) != {1}):
            raise UsageError("D2E-NN-002", "Recurrent needs a convolution with stride 1, padded with zeros")
        self.neuron, self.layer = neuron, layer

    def forward(self, current: Tensor) -> Tensor:
        """Payloads [batch, time, *shape], from rest."""
        return run(current, self.neuron.values(), self.neuron.rules, self.layer)


class Residual(nn.Module):
    """``body(x) + x``: a skip connection in a model that is saved whole, which torch.nn has no layer for.

    Args:
        body: keeps the shape, unless ``shortcut`` changes it alike. Where one of them holds neurons, both see time as the
            members of a `Sequential` do.
        shortcut: a projection for ``x``: ``body(x) + shortcut(x)``; None: ``x`` itself.
    """

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut

    def forward(self, frames: Tensor) -> Tensor:
        """The sum, of [batch, time, *shape] where it holds neurons, else of [batch, *shape]."""
        apply = _in_order if has_neurons(self) else _at_once
        shortcut = getattr(self, "shortcut", None)  # older files have none
        past = frames if shortcut is None else apply([shortcut], frames)
        return apply([self.body], frames) + past


class SumPool2d(nn.Module):
    """Sum over windows of [..., channels, height, width]; zeros beyond the border.

    Args:
        kernel_size: of the window.
        stride: None: the window's size.
        padding: zeros per border.
    """

    def __init__(self, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding

    def forward(self, frames: Tensor) -> Tensor:
        """Pool frames [batch, channels, height, width]."""
        return functional.avg_pool2d(
            frames, self.kernel_size, self.stride, self.padding, divisor_override=1,
        )

    def extra_repr(self) -> str:
        """The options, for printing."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"
