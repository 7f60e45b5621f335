"""Where training runs: one device as it stands, or many processes through accelerate where a launcher started them."""

from __future__ import annotations

import contextlib
import os
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from d2e.ir import MissingError, UsageError

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Workers:
    """One device, and what a training loop needs of it.

    Attributes:
        device: of this process.
        rank, world: number of this process, and how many there are.
        scaler: of float16's gradients; does nothing in another precision.
    """

    rank, world = 0, 1

    def __init__(self, device: str | None, precision: str) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.dtype = PRECISIONS[precision]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    def prepared(self, module: nn.Module) -> nn.Module:
        """The module as the training loop shall call it; it trains the same weights."""
        return module

    def agreed(self, row: dict[str, Any]) -> dict[str, Any]:
        """What was measured in an epoch, the same in all processes."""
        return row

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Around the forward pass: torch's, where precision asks for it."""
        return torch.autocast(self.device.type, self.dtype) if self.dtype else contextlib.nullcontext()

    def step(self, loss: Tensor, optimiser: torch.optim.Optimizer) -> None:
        """Gradients, and one step against them."""
        optimiser.zero_grad()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(optimiser)
        self.scaler.update()


class Accelerated(Workers):
    """The processes that ``accelerate launch`` or ``torchrun`` started; each takes its share of every batch."""

    def __init__(self, device: str | None, precision: str) -> None:
        from accelerate import Accelerator

        self.accelerator = Accelerator(mixed_precision="no", cpu=device == "cpu")  # autocast and scaler are those above
        super().__init__(str(self.accelerator.device), precision)
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes

    def prepared(self, module: nn.Module) -> nn.Module:
        """Gradients are the mean over all processes; batch norms see the share of each, and rank 0's statistics are kept."""
        found: nn.Module = self.accelerator.prepare_model(module)
        return found

    def agreed(self, row: dict[str, Any]) -> dict[str, Any]:
        """Rank 0's, so that all processes stop after the same epoch."""
        from accelerate.utils import broadcast_object_list

        found: dict[str, Any] = broadcast_object_list([row])[0]
        return found


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
            torch.zeros(1, device=device).item()
        except (RuntimeError, AssertionError) as error:
            raise UsageError("D2E-TRANS-006", f"there is no device {device!r} ({str(error).partition(chr(10))[0]})",
                             hint="Leave --device out, or give cpu.") from None
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Workers(device, precision)
    if find_spec("accelerate") is None:
        raise MissingError("D2E-TRANS-007", "several processes were started, and accelerate is not installed",
                           hint="pip install 'd2e[train]'.")
    return Accelerated(device, precision)
