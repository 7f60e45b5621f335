"""What may be given to a network as input: frames are checked, and encoded where its Input carries an encoder."""

from __future__ import annotations

import numpy as np

from d2e.ir.encoding import TIMED, Encoder
from d2e.ir.errors import UsageError
from d2e.ir.network import Network
from d2e.ir.nodes import Array, Input


def payload_limits(source: Input) -> tuple[int, int]:
    """Smallest and largest payload of an input of coding "spikes" or "signed"."""
    return (-source.max_payload if source.coding == "signed" else 0), source.max_payload


def is_image(source: Input, data: Array) -> bool:
    """Whether data are images [batch, *shape] for an input that takes real values."""
    real = source.coding == "direct" or source.encoder is not None
    return real and data.ndim == len(source.shape) + 1 and data.shape[1:] == source.shape


def spread(network: Network, data: Array) -> Array:
    """Images [batch, *shape] as real frames over the network's time steps; anything else as it is.

    Raises:
        UsageError: D2E-ENC-001 where the network does not state its time steps.
    """
    source = network.input
    if not is_image(source, data):
        return data
    if source.time_steps is None:
        raise UsageError("D2E-ENC-001", "images need a number of time steps, and the network states none",
                         hint="Give --time-steps, or frames with a time axis.")
    return (source.encoder or Encoder()).spread(data, source.time_steps)


def check_frames(network: Network, frames: Array) -> Array:
    """The input as [batch, time, *shape]: integer payloads, or reals where the input is coded "direct".

    Where the input has an encoder, numbers of a floating type are real values and are encoded; integers are payloads,
    already encoded. Every engine goes through here, so all of them see the same integers.

    Raises:
        UsageError: D2E-INPUT-001 for a wrong shape, -002 for NaN or infinity, -003 for payloads the input's
            coding does not allow; D2E-ENC-001 for images without a number of steps, -002 for images of integers, -003
            for frames that change where only an image can be encoded.
    """
    source = network.input
    given = np.asarray(frames)
    encodes = source.encoder is not None and source.coding != "direct"
    if encodes and given.dtype.kind != "f" and is_image(source, given):
        raise UsageError("D2E-ENC-002", "images of integers are neither payloads over time nor real values",
                         hint="Give real values as the model was trained on: images.astype(float).")
    data = spread(network, given)
    if data.ndim != len(source.shape) + 2 or data.shape[2:] != source.shape:
        raise UsageError(
            "D2E-INPUT-001", f"input of shape {list(data.shape)} is not [batch, time, {', '.join(map(str, source.shape))}]",
            hint="Add the batch and time axes, or reshape the frames.",
        )
    if data.dtype.kind == "f" and not np.isfinite(given).all():
        raise UsageError("D2E-INPUT-002", "the input holds NaN or infinity")
    if source.coding == "direct":
        return data
    if source.encoder is not None and data.dtype.kind == "f":
        return _encoded(source, source.encoder, data)
    return _payloads(source, data)


def _encoded(source: Input, encoder: Encoder, data: Array) -> Array:
    if encoder.kind in TIMED and (data != data[:, :1]).any():
        raise UsageError("D2E-ENC-003", f"the encoder {encoder.kind!r} takes images, these frames change over time",
                         hint="Give images without a time axis; spikes that are encoded already must be integers.")
    return encoder.encode(data, *payload_limits(source))


def _payloads(source: Input, data: Array) -> Array:
    whole = data if data.dtype.kind in "iu" else np.rint(data).astype(np.int64)
    low, high = payload_limits(source)
    if (whole is not data and (whole != data).any()) or (whole.size and (whole.min() < low or whole.max() > high)):
        counts = bool((whole == data).all() and whole.min() >= 0)
        raise UsageError(
            "D2E-INPUT-003", f"the input must hold integers from {low} to {high} (coding {source.coding!r})",
            hint=f"Counts of events need --max-payload {int(whole.max())}, real values an --encoder." if counts
            else "Encode the data first (--encoder), or state the input's coding.",
        )
    return whole
