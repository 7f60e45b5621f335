"""Layers that no chip of ours has: a code and the way out for each, by class or function name."""

from __future__ import annotations

import re

from d2e.ir.errors import UnsupportedError

_NEURONS = "Use a spiking neuron (d2e.nn.IF, LIF, …), or turn the trained ANN into a spiking network: d2e convert."
_FAMILIES: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    (
        "D2E-LAYER-001", "takes a maximum, which spikes cannot carry",
        "Use AvgPool2d, d2e.nn.SumPool2d or a convolution with stride instead, and train again.",
        ("maxpool", "adaptivemaxpool", "fractionalmaxpool", "max", "amax", "maximum", "lppool", "spikingmaxpooling2dlayer"),
    ),
    (
        "D2E-LAYER-002", "is an activation without spikes", _NEURONS,
        (
            "relu", "relu6", "leakyrelu", "prelu", "rrelu", "elu", "celu", "selu", "gelu", "silu", "mish",
            "sigmoid", "hardsigmoid", "logsigmoid", "hardswish", "tanh", "hardtanh", "tanhshrink", "softplus",
            "softsign", "softshrink", "hardshrink", "threshold", "softmax", "softmin", "logsoftmax",
            "glu", "clamp", "neuromorphicrelu", "quantizelayer",
        ),
    ),
    (
        "D2E-LAYER-003", "normalises with statistics of the sample, which a chip does not have",
        "Use BatchNorm, which is folded into the weights.",
        ("layernorm", "groupnorm", "instancenorm", "rmsnorm", "localresponsenorm", "normalize"),
    ),
    (
        "D2E-LAYER-004", "enlarges the frame, which is not compiled",
        "Keep or shrink the frame, or write the map as a Linear layer.",
        ("upsample", "upsamplingnearest", "upsamplingbilinear", "convtranspose", "interpolate"),
    ),
    (
        "D2E-LAYER-009", "makes spikes of real values, which the host does before the network",
        "Leave it out of the model, and name an encoder (docs/encoding.md) or give frames that are encoded already.",
        (
            "bernoulli", "poisson", "img2spikelayer", "sig2spikelayer", "poissonencoder", "poissonencoderstep",
            "signedpoissonencoder",
            "signedpoissonencoderstep", "constantcurrentlifencoder", "populationencoder", "spikelatencyencoder",
            "spikelatencylifencoder", "latencyencoder", "periodicencoder", "weightedphaseencoder", "popencoder",
            "popspikeencoderdeterministic", "popspikeencoderrandom",
        ),
    ),
    (
        "D2E-LAYER-010", "cuts the frame, which is not compiled",
        "Give the model frames that are cut already.",
        ("cropping2dlayer",),
    ),
)
_KNOWN = (
    "Linear, Conv1d/2d, BatchNorm, AvgPool2d, SumPool2d, Flatten, Dropout, additions and neurons of d2e.nn "
    "compile."
)


def refusal(what: str, name: str) -> UnsupportedError:
    """The error for a layer or function called ``what`` at node ``name``."""
    key = what.lower().replace("_", "")
    stem = re.sub(r"[123]d$", "", key)
    for code, why, hint, members in _FAMILIES:
        if key in members or stem in members:
            return UnsupportedError(code, f"{what} {why}", node=name, hint=hint)
    return UnsupportedError("D2E-LAYER-006", f"d2e cannot compile {what}", node=name, hint=_KNOWN)


def option_refusal(message: str, name: str, hint: str) -> UnsupportedError:
    """The error for a known layer with an option that has no equivalent."""
    return UnsupportedError("D2E-LAYER-005", message, node=name, hint=hint)


def neuron_refusal(what: str, why: str, name: str, hint: str) -> UnsupportedError:
    """The error for a neuron of a framework whose step has no form in d2e."""
    return UnsupportedError("D2E-LAYER-008", f"{what} {why}, which d2e's neurons do not", node=name, hint=hint)
