"""What the conversion of a trained ReLU network cannot take: a code and the way out for each, by class or function name."""

from __future__ import annotations

import re

from d2e.compiler.frontends.refusals import refusal
from d2e.ir.errors import UnsupportedError

SINGLE_STEP = (
    "This method converts ReLU networks; GELU, softmax attention and LayerNorm are for single-step conversion "
    "(--method single-step), which this version does not have yet."
)
RETRAIN = "This method converts ReLU networks: use ReLU (or ReLU6) instead, and train again."
LEAVE_OUT = "Leave it out of the model: the largest output stays the same one."
_FEED_FORWARD = "This method converts ReLU networks without recurrence: build it of layers that see one sample at a time."
_POOL = "No method converts a maximum: replace it with AvgPool2d or a convolution with stride, and fine-tune."
_FAMILIES: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    (
        "D2E-CONV-001", "is no ReLU", SINGLE_STEP,
        ("gelu", "silu", "swish", "softmax", "softmin", "logsoftmax", "layernorm", "rmsnorm"),
    ),
    (
        "D2E-CONV-001", "multiplies two activations", SINGLE_STEP,
        (
            "multiheadattention", "scaleddotproductattention", "multiheadattentionforward", "transformer",
            "transformerencoder", "transformerencoderlayer", "transformerdecoder", "transformerdecoderlayer",
            "matmul", "bmm", "baddbmm", "einsum", "mm", "dot", "bilinear", "glu", "outer",
        ),
    ),
    (
        "D2E-CONV-001", "is no ReLU", RETRAIN,
        (
            "leakyrelu", "prelu", "rrelu", "elu", "celu", "selu", "mish", "sigmoid", "hardsigmoid", "logsigmoid",
            "hardswish", "tanh", "hardtanh", "tanhshrink", "softplus", "softsign", "softshrink", "hardshrink", "threshold",
            "clamp", "clip", "abs", "exp", "log", "sqrt", "pow", "square", "sin", "cos",
        ),
    ),
    ("D2E-CONV-001", "keeps a state over time", _FEED_FORWARD, ("rnn", "lstm", "gru", "rnncell", "lstmcell", "grucell")),
    (
        "D2E-CONV-002", "takes a maximum", _POOL,
        ("maxpool", "adaptivemaxpool", "fractionalmaxpool", "max", "amax", "maximum", "lppool", "topk"),
    ),
)
_KNOWN = (
    "Linear, Conv1d/2d, BatchNorm, AvgPool2d, Flatten, Dropout, zero padding, slices, concatenations of channels, additions "
    "and ReLU are converted."
)
_PROBABILITIES = ("softmax", "logsoftmax", "sigmoid", "logsigmoid")


def ann_refusal(what: str, name: str, last: bool = False) -> UnsupportedError:
    """The error for a layer or function called ``what`` at node ``name``; ``last``: nothing but the output reads it."""
    key = what.lower().replace("_", "")
    stems = {key, re.sub(r"[123]d$", "", key)}
    if last and key in _PROBABILITIES:
        return UnsupportedError("D2E-CONV-001", f"{what} turns the outputs into probabilities", node=name, hint=LEAVE_OUT)
    for code, why, hint, members in _FAMILIES:
        if stems & set(members):
            return UnsupportedError(code, f"{what} {why}", node=name, hint=hint)
    error = refusal(what, name)
    return error if error.code != "D2E-LAYER-006" else UnsupportedError(error.code, error.message, node=name, hint=_KNOWN)


def product_refusal(what: str, name: str) -> UnsupportedError:
    """The error for a product of two activations."""
    why = f"{what} multiplies or divides activations by one another"
    return UnsupportedError("D2E-CONV-001", why, node=name, hint=SINGLE_STEP)


def spiking_refusal(what: str, name: str) -> UnsupportedError:
    """The error for a neuron in a network that is to be converted."""
    return UnsupportedError(
        "D2E-CONV-003", f"{what} is a spiking neuron: the model is a spiking network already", node=name,
        hint="Compile it directly (d2e compile), without conversion.",
    )


def no_relu() -> UnsupportedError:
    """The error for a network without activations."""
    return UnsupportedError(
        "D2E-CONV-004", "the model has no ReLU, so there is nothing that could become neurons",
        hint="Give a trained network of linear layers or convolutions with ReLU between them.",
    )


def not_finite(what: str, name: str) -> UnsupportedError:
    """The error for weights that are not numbers."""
    return UnsupportedError(
        "D2E-CONV-005", f"{what} holds NaN or infinity", node=name, hint="Load the trained weights again, or train again.",
    )
