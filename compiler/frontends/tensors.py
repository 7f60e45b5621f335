"""Tensors of a user's modules as arrays, and what a row of the module table is; the rows of every framework build on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.parameter import is_lazy

from d2e.compiler.frontends.builder import Builder, Flow
from d2e.compiler.frontends.refusals import option_refusal
from d2e.ir.nodes import Array

Row = Callable[[Builder, str, Any, Flow], Flow]


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


def dotted(cls: type) -> str:
    """The name by which a class stands in the tables: module and qualified name."""
    return f"{cls.__module__}.{cls.__qualname__}"
