"""The way out of every warning, as docs/errors.md has it (a test holds them equal)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WAYS_OUT: dict[str, str] = {
    "D2E-LAYER-011": "d2e check --against-source; train with reset_delay=True.",
    "D2E-FOLD-004": "Levels or payloads such as 1, 2, 4 or 0.25, 0.5, 0.75.",
    "D2E-EXIT-002": "Compile for a target with steps, such as loihi2-sim.",
    "D2E-EQUIV-007": "Compare both networks on labelled data.",
    "D2E-EQUIV-008": "None needed.",
    "D2E-NIR-010": "--profile NAME states another.",
    "D2E-NIR-011": "The flags and options in the message, or the model itself in place of the file.",
    "D2E-NIR-012": "--dt X states another.",
    "D2E-NIR-013": "None needed if the frame is right.",
    "D2E-NETX-004": "Know it; the message says what.",
    "D2E-ENC-005": "--input-range, or calibration data that reach as far.",
    "D2E-ENC-007": "Fewer --weight-bits leave more room; --input-bits overrules.",
    "D2E-ENC-009": "On Loihi 2 populations with hard reset, or binary events >= 0; an encoder without {latch}.",
    "D2E-RANGE-003": "Look for RANGE-004 on your data.",
    "D2E-RANGE-004": "Rescale the layer if accuracy suffers.",
    "D2E-LOIHI-020": 'Train with reset="zero".',
    "D2E-LOIHI-021": "None needed as a rule.",
    "D2E-LOIHI-022": "A larger stride before it.",
    "D2E-LOIHI-023": "--soft-reset exact where the chip takes du=-1 and dv=4096.",
    "D2E-LOIHI-024": "A neuron with a form on stock neurons (docs/loihi2.md).",
    "D2E-LOIHI-025": "--soft-reset fallback.",
    "D2E-FIT-002": "Fewer channels or a larger stride in the layer named, or loihi2-sim{chips=…}.",
    "D2E-FIT-003": "Fewer channels or a larger stride in the layer named.",
    "D2E-FIT-004": "Fewer channels, another --burst, or loihi2-sim{chips=…}.",
    "D2E-SPECK-020": "Train with weights up to the threshold.",
    "D2E-SPECK-021": "None needed as a rule.",
    "D2E-SPECK-022": "None needed as a rule.",
    "D2E-SPECK-023": "Train without biases (bias=False).",
    "D2E-SPECK-025": "A map that divides.",
    "D2E-SPECK-026": "{input=camera,pooling=N} as the model was trained.",
    "D2E-SPECK-027": "None needed where the drift is small.",
    "D2E-SPECK-056": "Without biases, if the chip does other than the simulator.",
}


def with_way_out(warning: Mapping[str, Any]) -> dict[str, Any]:
    """A warning with its ``hint``; one of a third party's backend stays as it is."""
    hint = WAYS_OUT.get(warning["code"])
    return {**warning, **({"hint": hint} if hint else {})}
