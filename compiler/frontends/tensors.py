"""Tensors of a user's modules as arrays, and what a row of the module table is; the rows of every framework build on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from d2e.compiler.frontends.builder import Builder, Flow
from d2e.compiler.frontends.refusals import option_refusal
from d2e.ir.nodes import Array, Shape

Row = Callable[[Builder, str, Any, Flow], Flow]
LAYOUT = "layout"
"""Metadata key of a network: how the module it was read from takes frames.

"batch-time": [batch, time, *shape]; "time-batch": [time, batch, *shape]; "squeezed": [batch * time, *shape]; "step":
[batch, *shape], called once per step; "image": [batch, *shape], called once, shown at every step.
"""


def array(value: torch.Tensor | None, name: str) -> Array | None:
    """A tensor as float64; None stays None."""
    return None if value is None else required(value, name)


def required(value: torch.Tensor, name: str) -> Array:
    """A tensor as float64."""
    if is_lazy(value) or value.is_meta:
        raise option_refusal(
            "has no weights yet", name, "Run the model once on a sample (lazy layers), or load its weights."
        )
    return np.asarray(value.detach().cpu().to(torch.float64).numpy())


def weights(value: torch.Tensor, name: str) -> Array:
    """The weights of a layer; those of single precision stay so, because a network's memory goes into them."""
    if value.dtype != torch.float32 or is_lazy(value) or value.is_meta:
        return required(value, name)
    return np.asarray(value.detach().cpu().numpy())


def fitted(value: Any, name: str, shape: Shape) -> Array:
    """A neuron's parameter, number or tensor, as float64 without the leading axes of size 1 that stand for the batch."""
    found = required(torch.as_tensor(value), name)
    while found.ndim > len(shape) and found.shape[0] == 1:
        found = found[0]
    return found


def dotted(cls: type) -> str:
    """The name by which a class stands in the tables: module and qualified name."""
    return f"{cls.__module__}.{cls.__qualname__}"


def clear(model: nn.Module) -> None:
    """Forget every state, by whichever method the framework's modules have for it."""
    for module in model.modules():
        for method in ("reset_states", "reset_mem", "reset_hidden", "reset"):
            reset = getattr(module, method, None)
            if callable(reset):
                reset()
                break
