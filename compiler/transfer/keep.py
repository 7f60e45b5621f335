"""The state of a training run, kept after every epoch: a run that was cut off goes on to the same result."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from d2e.ir import UsageError

Weights = dict[str, Tensor]


class Keep:
    """One file, or none.

    Args:
        path: of the file; None: nothing is kept.
        run: tells the run apart from others: model, data, settings.
    """

    def __init__(self, path: str | os.PathLike[str] | None, run: str) -> None:
        self.path, self.run = None if path is None else Path(path), run

    def restore(
        self, module: nn.Module, optimiser: torch.optim.Optimizer, scaler: torch.amp.GradScaler
    ) -> tuple[list[dict[str, Any]], Weights | None]:
        """Put module, optimiser and scaler where the run was; its rows, and the best weights so far.

        Raises:
            UsageError: D2E-TRANS-014 for a file that is damaged or of another run.
        """
        if self.path is None or not self.path.exists():
            return [], None
        try:
            kept = torch.load(self.path, map_location="cpu", weights_only=True)
            run, rows, best = kept["run"], kept["rows"], kept["best"]
            weights, momenta, scale = kept["module"], kept["optimiser"], kept["scaler"]
        except Exception:
            raise UsageError("D2E-TRANS-014", f"{self.path} holds no state of a training run",
                             hint="Give another file to --resume, or remove it.") from None
        if run != self.run:
            raise UsageError("D2E-TRANS-014", f"{self.path} is of another run: other model, data or options",
                             hint="Give the options of that run, or another file to --resume.")
        module.load_state_dict(weights)
        optimiser.load_state_dict(momenta)
        scaler.load_state_dict(scale)
        return rows, best

    def write(
        self, module: nn.Module, optimiser: torch.optim.Optimizer, scaler: torch.amp.GradScaler, rows: list[dict[str, Any]],
        best: Weights | None,
    ) -> None:
        """Keep the state after an epoch; the file is whole at every moment.

        Raises:
            UsageError: D2E-FILE-011 where it cannot be written.
        """
        if self.path is None:
            return
        state = {"run": self.run, "module": module.state_dict(), "optimiser": optimiser.state_dict(),
                 "scaler": scaler.state_dict(), "rows": rows, "best": best}
        partial = self.path.with_name(f"{self.path.name}.partial")
        try:
            self.path.absolute().parent.mkdir(parents=True, exist_ok=True)
            torch.save(state, partial)
            partial.replace(self.path)
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
            raise UsageError("D2E-FILE-011", f"nothing can be written to {self.path}: {reason}",
                             hint="Give another file to --resume.") from None
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
