"""What the conversion of a trained ReLU network cannot take: a code and the way out for each, by class or function name."""

from __future__ import annotations

import re

from d2e.compiler.frontends.refusals import refusal
from d2e.ir.errors import UnsupportedError

SINGLE_STEP = (
    "This method converts ReLU networks; single-step conversion (--method single-step) also takes GELU, SiLU, LayerNorm and "
    "self-attention (d2e.nn.SelfAttention, MultiheadAttention, TransformerEncoder)."
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
            "selfattention", "attention", "matmul", "bmm", "baddbmm", "einsum", "mm", "dot", "bilinear", "glu", "outer",
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
_TRANSFORMER = (
    "Single-step conversion takes ReLU, GELU and SiLU, LayerNorm over the last axis, and self-attention as "
    "d2e.nn.SelfAttention, nn.MultiheadAttention, TransformerEncoderLayer, TransformerEncoder: use these, and train again."
)
_IN_SINGLE_STEP = {
    SINGLE_STEP: _TRANSFORMER, RETRAIN: _TRANSFORMER,
    _FEED_FORWARD: "Build it without recurrence, of layers that see one sample at a time.",
    _KNOWN: (
        "Linear, Conv1d/2d, BatchNorm, AvgPool2d, Flatten, Dropout, zero padding, slices, concatenations of channels, "
        "additions, ReLU, GELU, SiLU, LayerNorm, self-attention, transposes and means over tokens are converted."
    ),
}
"""What to say instead where the method is single-step conversion."""
_PROBABILITIES = ("softmax", "logsoftmax", "sigmoid", "logsigmoid")


def ann_refusal(what: str, name: str, last: bool = False, single_step: bool = False) -> UnsupportedError:
    """The error for a layer or function called ``what`` at node ``name``; ``last``: nothing but the output reads it."""
    error = _refusal(what, name, last)
    if not single_step:
        return error
    message = error.message.replace("is no ReLU", "is no activation that becomes neurons")
    return UnsupportedError(error.code, message, node=name, hint=_IN_SINGLE_STEP.get(error.hint or "", error.hint))


def _refusal(what: str, name: str, last: bool) -> UnsupportedError:
    key = what.lower().replace("_", "")
    stems = {key, re.sub(r"[123]d$", "", key)}
    if last and key in _PROBABILITIES:
        return UnsupportedError("D2E-CONV-001", f"{what} turns the outputs into probabilities", node=name, hint=LEAVE_OUT)
    for code, why, hint, members in _FAMILIES:
        if stems & set(members):
            return UnsupportedError(code, f"{what} {why}", node=name, hint=hint)
    error = refusal(what, name)
    return error if error.code != "D2E-LAYER-006" else UnsupportedError(error.code, error.message, node=name, hint=_KNOWN)


def product_refusal(what: str, name: str, single_step: bool = False) -> UnsupportedError:
    """The error for a product of two activations."""
    why = f"{what} multiplies or divides activations by one another"
    return UnsupportedError("D2E-CONV-001", why, node=name, hint=_TRANSFORMER if single_step else SINGLE_STEP)


def class_token(why: str, name: str) -> UnsupportedError:
    """The error for what gives a transformer a token of its own, or reads one."""
    return UnsupportedError(
        "D2E-LAYER-006", f"{why}, which is not compiled", node=name,
        hint="In place of a class token take the mean over all tokens (x.mean(dim=1)); x[:, :4] keeps the axis.",
    )


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
