"""How real values enter a network: the options ``--encoder`` and ``--input-range``, and what is clipped of them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from numbers import Real

import numpy as np

from d2e.compiler.notes import warn
from d2e.ir import Encoder, Network, UsageError, real, verified
from d2e.ir.encoding import KINDS, LATCHING, REAL
from d2e.ir.frames import payload_limits
from d2e.ir.nodes import Array, Coding

_TEXT = re.compile(r"([\w-]+)(?:\{(latch|seed|step)(?:=([^{},]+))?\})?")
_OPTIONS = {"latch": LATCHING, "seed": ("bernoulli",), "step": ("delta",), "": KINDS}
_SPELLING = f"It is {', '.join(KINDS)}; {', '.join(LATCHING)} also with {{latch}}, bernoulli{{seed=N}}, delta{{step=X}}."


def checked_range(given: Sequence[float] | None) -> tuple[float, float] | None:
    """A range of the input's values, if it is one.

    Raises:
        UsageError: D2E-ENC-006.
    """
    if given is None:
        return None
    numbers = list(given) if isinstance(given, (list, tuple)) else [given]
    real_ones = all(isinstance(x, Real) and math.isfinite(x) for x in numbers)
    if len(numbers) != 2 or not real_ones or not given[0] < given[1]:
        stated = ",".join(map(str, numbers))
        raise UsageError("D2E-ENC-006", f"input range {stated} is not LOW,HIGH with LOW below HIGH",
                         hint="Write --input-range 0,1.")
    return float(given[0]), float(given[1])


def parse(text: str, span: tuple[float, float] | None = None, max_payload: int = 1) -> Encoder:
    """The encoder of an option's text, such as ``ttfs{latch}``.

    Args:
        text: a kind of `Encoder`, and in braces what it takes: "latch" (`LATCHING` kinds), "seed=N" (bernoulli), "step=X"
            (delta: change of the value that one payload step stands for).
        span: smallest and largest value of the input, 0 and 1 unless stated.
        max_payload: of the input; the largest |value| is sent as this.

    Returns:
        With its scale; "direct" and "first" without, for their values stay real until encode-input.

    Raises:
        UsageError: D2E-ENC-006.
    """
    match = _TEXT.fullmatch(text) if isinstance(text, str) else None  # a checkpoint may hold anything
    kind, option, value = match.groups("") if match else ("", "", "")
    if kind not in _OPTIONS[option] or not _is_value(option, value):
        raise UsageError("D2E-ENC-006", f"encoder {text!r} is not known", hint=_SPELLING)
    if kind in REAL:
        return Encoder(kind)  # type: ignore[arg-type]
    scale = float(value) if option == "step" else max(map(abs, span or (0.0, 1.0))) / max_payload
    seed = int(value) if option == "seed" else 0
    return Encoder(kind, real(scale), seed, option == "latch")  # type: ignore[arg-type]


def _is_value(option: str, text: str) -> bool:
    """Whether an option of an encoder may have this value: "seed" a whole number, "step" a number above 0, others none."""
    if option != "step":
        return text.isdecimal() if option == "seed" else not text
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False


def coding_of(encoder: Encoder, span: tuple[float, float] | None, stated: str | None = None) -> Coding:
    """What an encoder makes of an input: "direct" where values stay real, else "signed" with negative payloads, or "spikes".

    Changes have two signs: "delta" is signed, unless "spikes" are stated, which rise only.
    """
    if encoder.scale is None:
        return "direct"
    falls = encoder.kind == "delta" and stated != "spikes"
    return "signed" if falls or (span is not None and span[0] < 0) else "spikes"


def with_encoder(
    source: Network, text: str | None, span: tuple[float, float] | None, coding: str | None
) -> Network:
    """A source network whose input is encoded on the host as the model was trained.

    Args:
        source: as loaded.
        text: as `parse` takes it; None leaves the input as it is, or states the range of the encoder that it has. "direct"
            and "first" keep real values (encode-input makes integers of them), the others send spikes.
        span: smallest and largest value; the spiking kinds take 0..1 unless stated.
        coding: what the user stated besides.

    Raises:
        UsageError: D2E-ENC-006 for options that do not go together.
    """
    node = source.input
    if text is None:
        if span is None or node.coding == "direct":
            return source
        if node.encoder is None or node.encoder.kind in (*REAL, "delta"):
            raise UsageError("D2E-ENC-006", f"an input of {node.coding} has no range of real values",
                             hint="Leave --input-range out, or state --coding direct or --encoder.")
        encoder = replace(node.encoder, scale=real(max(map(abs, span)) / node.max_payload))
    else:
        encoder = parse(text, span, node.max_payload)
    becomes = coding_of(encoder, span, coding)
    if coding not in (None, becomes):
        raise UsageError("D2E-ENC-006", f"encoder {text or encoder.kind!r} makes an input of coding {becomes!r}, "
                         f"not {coding!r}", hint="Leave --coding out.")
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
    if source.encoder.kind == "delta":
        return warn(network, "D2E-ENC-005", f"{100 * share:.2g} % of the values of the {what} change by more than one event "
                    f"carries, {low:g} to {high:g}, and are followed later or never", network.inputs[0])
    return warn(
        network, "D2E-ENC-005", f"{100 * share:.2g} % of the values of the {what} lie beyond the input's range, "
        f"{low:g} to {high:g}, and are clipped", network.inputs[0],
    )
