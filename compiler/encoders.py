"""How real values enter a network: the options ``--encoder`` and ``--input-range``, and what is clipped of them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from d2e.compiler.notes import warn
from d2e.ir import Encoder, Network, UsageError, real, verified
from d2e.ir.encoding import KINDS
from d2e.ir.frames import payload_limits
from d2e.ir.nodes import Array, Coding

_NAME = re.compile(r"([\w-]+)(?:\{seed=(\d+)\})?")


def checked_range(given: Sequence[float] | None) -> tuple[float, float] | None:
    """A range of the input's values, if it is one.

    Raises:
        UsageError: D2E-ENC-006.
    """
    if given is None:
        return None
    if len(given) != 2 or not all(map(math.isfinite, given)) or not given[0] < given[1]:
        stated = ",".join(f"{x:g}" for x in given)
        raise UsageError("D2E-ENC-006", f"input range {stated} is not LOW,HIGH with LOW below HIGH",
                         hint="Write --input-range 0,1.")
    return float(given[0]), float(given[1])


def with_encoder(
    source: Network, text: str | None, span: tuple[float, float] | None, coding: str | None
) -> Network:
    """A source network whose input is encoded on the host as the model was trained.

    Args:
        source: as loaded.
        text: kind of `Encoder`, "bernoulli{seed=N}" with its seed; None leaves the input as it is. "direct" and "first"
            keep real values (encode-input makes integers of them), the others send spikes.
        span: smallest and largest value; the spiking kinds take 0..1 unless stated.
        coding: what the user stated besides.

    Raises:
        UsageError: D2E-ENC-006 for options that do not go together.
    """
    node = source.input
    if text is None:
        if span is not None and node.coding != "direct":
            raise UsageError("D2E-ENC-006", f"an input of {node.coding} has no range of real values",
                             hint="Leave --input-range out, or state --coding direct or --encoder.")
        return source
    match = _NAME.fullmatch(text)
    if match is None or match[1] not in KINDS or (match[2] and match[1] != "bernoulli"):
        raise UsageError("D2E-ENC-006", f"encoder {text!r} is not known",
                         hint=f"It is {', '.join(KINDS)}; bernoulli{{seed=N}} with a seed.")
    kind, seed = match[1], int(match[2] or 0)
    stays_real = kind in ("direct", "first")
    low, high = span or (0.0, 1.0)
    becomes: Coding = "direct" if stays_real else "signed" if low < 0 else "spikes"
    if coding not in (None, becomes):
        raise UsageError("D2E-ENC-006", f"encoder {text!r} makes an input of coding {becomes!r}, not {coding!r}",
                         hint="Leave --coding out.")
    scale = None if stays_real else real(max(abs(low), abs(high)) / node.max_payload)
    encoder = Encoder(kind, scale, seed)  # type: ignore[arg-type]
    return verified(source.with_nodes({source.inputs[0]: replace(node, coding=becomes, encoder=encoder)}))


def clipped_share(network: Network, frames: Array) -> float:
    """Which share of real frames the input's encoder clips; 0 for integers, which are encoded already."""
    source = network.input
    if source.encoder is None or source.encoder.scale is None or frames.dtype.kind != "f" or not frames.size:
        return 0.0
    return source.encoder.clipped(frames, *payload_limits(source)) / frames.size


def note_clipping(network: Network, frames: Array, what: str) -> Network:
    """The network with a warning where its encoder clips values of these frames."""
    share = clipped_share(network, frames)
    if not share:
        return network
    source = network.input
    assert source.encoder is not None
    low, high = (limit * float(np.max(source.encoder.scale)) for limit in payload_limits(source))  # type: ignore[arg-type]
    return warn(
        network, "D2E-ENC-005", f"{100 * share:.2g} % of the values of the {what} lie beyond the input's range, "
        f"{low:g} to {high:g}, and are clipped", network.inputs[0],
    )
