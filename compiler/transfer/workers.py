"""Where training runs: one device as it stands, or many processes through accelerate where a launcher started them."""

from __future__ import annotations

import contextlib
import os
from importlib.util import find_spec
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from d2e.ir import MissingError, UsageError

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
_ACCELERATE = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


class Workers(Protocol):
    """What a training loop needs of the machines it runs on.

    Attributes:
        device: of this process.
        rank, world: number of this process, and how many there are.
    """

    device: torch.device
    rank: int
    world: int

    def prepared(self, module: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        """Both, as the training loop shall call them."""

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Around the forward pass."""

    def step(self, loss: Tensor, optimiser: Any) -> None:
        """Gradients, and one step against them."""


class Alone:
    """One device."""

    rank, world = 0, 1

    def __init__(self, device: str | None, precision: str) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.dtype = PRECISIONS[precision]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    def prepared(self, module: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        """As they are."""
        return module, optimiser

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """torch's, where precision asks for it."""
        return torch.autocast(self.device.type, self.dtype) if self.dtype else contextlib.nullcontext()

    def step(self, loss: Tensor, optimiser: Any) -> None:
        """See `Workers`."""
        optimiser.zero_grad()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(optimiser)
        self.scaler.update()


class Accelerated:
    """The processes that ``accelerate launch`` or ``torchrun`` started; each takes its share of every batch."""

    def __init__(self, device: str | None, precision: str) -> None:
        from accelerate import Accelerator

        self.accelerator = Accelerator(mixed_precision=_ACCELERATE[precision], cpu=device == "cpu")
        self.device, self.rank = self.accelerator.device, self.accelerator.process_index
        self.world = self.accelerator.num_processes

    def prepared(self, module: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        """Gradients are the mean over all processes; batch norms see the share of each, and rank 0's statistics are kept."""
        return tuple(self.accelerator.prepare(module, optimiser))

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """See `Workers`."""
        found: contextlib.AbstractContextManager[Any] = self.accelerator.autocast()
        return found

    def step(self, loss: Tensor, optimiser: Any) -> None:
        """See `Workers`."""
        optimiser.zero_grad()
        self.accelerator.backward(loss)
        optimiser.step()


def workers(device: str | None, precision: str) -> Workers:
    """Those of this process.

    Args:
        device: "cpu", "cuda", "cuda:1"; None: a GPU where there is one.
        precision: of the forward pass: float32, bfloat16 or float16.

    Raises:
        UsageError: D2E-TRANS-006 for a device that is not there.
        MissingError: D2E-TRANS-007 where several processes were started and accelerate is not installed.
    """
    if device is not None:
        try:
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise UsageError("D2E-TRANS-006", f"there is no device {device!r} ({str(error).partition(chr(10))[0]})",
                             hint="Leave --device out, or give cpu.") from None
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Alone(device, precision)
    if find_spec("accelerate") is None:
        raise MissingError("D2E-TRANS-007", "several processes were started, and accelerate is not installed",
                           hint="pip install 'd2e[train]'.")
    return Accelerated(device, precision)
