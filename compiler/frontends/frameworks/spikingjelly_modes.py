"""Which axes a model of SpikingJelly takes: the step modes of its modules, which must agree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import nn

from d2e.compiler.frontends.frameworks.spikingjelly import (
    CONTAINERS,
    DELAY,
    LAYER,
    LIKE_TORCH,
    MULTI_STEP,
    ROWS,
    SEQ_TO_ANN,
    STATEFUL,
    STEP_MODE,
)
from d2e.compiler.frontends.refusals import option_refusal
from d2e.compiler.frontends.tensors import dotted

_ANY_MODE = {f"{LAYER}.{name}" for name in (
    "stateless_wrapper.Linear", "dropout.Dropout", "dropout.Dropout2d", "misc.PrintShapeModule",
)}
_KNOWN = {*ROWS, *LIKE_TORCH, *CONTAINERS} - _ANY_MODE


def layout(module: nn.Module) -> Literal["step", "time-batch"] | None:
    """How a model of SpikingJelly takes frames: [batch, ...] per step, or [time, batch, ...]; None: it is none.

    Raises:
        UnsupportedError: D2E-LAYER-005 where its modules are in different step modes.
    """
    found: dict[str, str] = {}
    for mode, path in _modes(module, "", False):
        first = next(iter(found), mode)
        if mode != first:
            raise option_refusal(
                f"is in step mode {mode!r}, and {found[first] or 'the model'} in step mode {first!r}", path,
                "Set all modules alike: functional.set_step_mode(model, 'm').",
            )
        found.setdefault(mode, path)
    return None if not found else "time-batch" if "m" in found else "step"


def _modes(module: nn.Module, path: str, inside: bool) -> Iterator[tuple[str, str]]:
    """(step mode, path) of what minds it, without what containers call step by step."""
    name = next((key for cls in type(module).__mro__ if (key := dotted(cls)) in _KNOWN), "")
    mode = "m" if name in (MULTI_STEP, SEQ_TO_ANN) else getattr(module, "step_mode", "")
    if name and inside and mode == "m":
        raise option_refusal(
            "is in step mode 'm' within a container that calls it once per step", path, "Set its step_mode to 's'."
        )
    if name and mode and not inside:
        yield mode, path
    at_once = name == SEQ_TO_ANN or (name == STEP_MODE and mode == "m" and not module.stateful)
    if at_once and (lost := next((p for p, m in module.named_modules() if _remembers(m)), "")):
        raise option_refusal(
            "forgets its state between steps: its container takes all steps for one batch", f"{path}.{lost}".strip("."),
            "Put neurons into a MultiStepContainer, or beside the container.",
        )
    if name not in ROWS:
        for key, child in module.named_children():
            yield from _modes(child, f"{path}.{key}".strip("."), inside or name in CONTAINERS)


def _remembers(module: nn.Module) -> bool:
    return any(dotted(cls) in {*STATEFUL, DELAY} for cls in type(module).__mro__)
