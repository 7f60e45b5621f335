"""What single-step conversion takes beyond ReLU networks: attention, LayerNorm, other orders of axes, residual streams.

Frames are [tokens, d] (or other axes, d last). What a chip cannot compute becomes a node of the host (`d2e.ir.host`).
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from d2e.compiler.frontends import ann_refusals, functions, layers
from d2e.compiler.frontends.activations import RELU_ROWS, SMOOTH_FUNCTIONS, SMOOTH_ROWS
from d2e.compiler.frontends.builder import Builder, Flow
from d2e.compiler.frontends.functions import TURNS, Function, axes_of, bound, several
from d2e.compiler.frontends.graph_reader import GraphReader
from d2e.compiler.frontends.modules import ROWS, row_of
from d2e.compiler.frontends.refusals import option_refusal, refusal
from d2e.compiler.frontends.tensors import Row, array, dotted, required, weights
from d2e.compiler.nn.attention import SelfAttention
from d2e.ir.errors import Finding
from d2e.ir.host import Add, Attention, LayerNorm, Mean, Permute
from d2e.ir.nodes import Array, Scale

Wrong = tuple[str, str]
"""What is wrong with a call, and the way out."""

# --------------------------------------------------------------------------- modules


def _normalised(
    build: Builder, name: str, flow: Flow, axes: Sequence[int], weight: Array | None, bias: Array | None, eps: float,
) -> Flow:
    if len(axes) != 1:
        raise option_refusal(
            f"LayerNorm over {len(axes)} axes {tuple(axes)} is not compiled", name, "Normalise the last axis only.",
        )
    ones, zeros = np.ones(axes[0]), np.zeros(axes[0])
    return build.add(name, LayerNorm(
        weight=ones if weight is None else weight, bias=zeros if bias is None else bias, eps=float(eps)), flow)


def _layer_norm(build: Builder, name: str, module: nn.LayerNorm, flow: Flow) -> Flow:
    weight, bias = array(module.weight, name), array(module.bias, name)
    return _normalised(build, name, flow, module.normalized_shape, weight, bias, module.eps)


def _attend(build: Builder, name: str, flow: Flow, heads: int) -> Flow:
    size = flow.shape[-1] // (3 * heads)
    return build.add(name, Attention(heads=heads, scale=size**-0.5), flow)


def _linear(build: Builder, name: str, module: nn.Linear, flow: Flow) -> Flow:
    return ROWS[dotted(nn.Linear)](build, name, module, flow)


def _self_attention(build: Builder, name: str, module: SelfAttention, flow: Flow) -> Flow:
    mixed = _attend(build, name, _linear(build, f"{name}.qkv", module.qkv, flow), module.heads)
    return _linear(build, f"{name}.proj", module.proj, mixed)


def _multihead(build: Builder, name: str, module: nn.MultiheadAttention, flow: Flow) -> Flow:
    weight, bias = weights(module.in_proj_weight, name), array(module.in_proj_bias, name)
    mixed = _attend(build, name, layers.linear(build, f"{name}.in_proj", flow, weight, bias), module.num_heads)
    return _linear(build, f"{name}.out_proj", module.out_proj, mixed)


def _encoder_layer(build: Builder, name: str, module: nn.TransformerEncoderLayer, flow: Flow) -> Flow:
    def own(part: str, flow: Flow) -> Flow:
        layer = module.get_submodule(part)
        row = row_of(layer, HOST_ROWS if isinstance(layer, nn.LayerNorm) else ROWS)
        if row is None:
            raise ann_refusals.ann_refusal(type(layer).__name__, f"{name}.{part}", single_step=True)
        return row(build, f"{name}.{part}", layer, replace(flow, alone=False))

    def attended(flow: Flow) -> Flow:
        return _multihead(build, f"{name}.self_attn", module.self_attn, flow)

    def fed(flow: Flow) -> Flow:
        return own("linear2", _activated(build, f"{name}.activation", module.activation, own("linear1", flow)))

    def added(part: str, stream: Flow, more: Flow) -> Flow:
        return add_up(build, f"{name}.{part}", [stream, more])

    if module.norm_first:
        flow = added("add1", flow, attended(own("norm1", flow)))
        return added("add2", flow, fed(own("norm2", flow)))
    flow = own("norm1", added("add1", flow, attended(flow)))
    return own("norm2", added("add2", flow, fed(flow)))


def _activated(build: Builder, name: str, activation: Any, flow: Flow) -> Flow:
    """The activation of an encoder layer: a module, or one of torch's functions."""
    modules = {functional.relu: nn.ReLU, torch.relu: nn.ReLU, functional.gelu: nn.GELU, functional.silu: nn.SiLU}
    layer = activation if isinstance(activation, nn.Module) else modules.get(activation, nn.Identity)()
    row = row_of(layer, {dotted(nn.ReLU): RELU_ROWS[dotted(nn.ReLU)], **SMOOTH_ROWS})
    if row is None:
        what = getattr(activation, "__name__", type(activation).__name__)
        raise ann_refusals.ann_refusal(what, name, single_step=True)
    return row(build, name, layer, flow)


def _encoder(build: Builder, name: str, module: nn.TransformerEncoder, flow: Flow) -> Flow:
    for number, layer in enumerate(module.layers):
        place = f"{name}.layers.{number}"
        if row_of(layer, HOST_ROWS) is not _encoder_layer:
            raise ann_refusals.ann_refusal(type(layer).__name__, place, single_step=True)
        flow = _encoder_layer(build, place, layer, flow)
    if module.norm is None:
        return flow
    if row_of(module.norm, HOST_ROWS) is not _layer_norm:
        raise ann_refusals.ann_refusal(type(module.norm).__name__, f"{name}.norm", single_step=True)
    return _layer_norm(build, f"{name}.norm", module.norm, flow)


def _drop(build: Builder, name: str, module: nn.Module, flow: Flow) -> Flow:
    return flow


_DROPPED = (
    "timm.layers.drop.DropPath", "timm.models.layers.drop.DropPath", "torchvision.ops.stochastic_depth.StochasticDepth",
)
HOST_ROWS: dict[str, Row] = {
    dotted(nn.LayerNorm): _layer_norm, dotted(SelfAttention): _self_attention, dotted(nn.MultiheadAttention): _multihead,
    dotted(nn.TransformerEncoderLayer): _encoder_layer, dotted(nn.TransformerEncoder): _encoder,
    **dict.fromkeys(_DROPPED, _drop),
}
_ATTENDING = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)


# --------------------------------------------------------------------------- functions


def add_up(build: Builder, name: str, flows: list[Flow]) -> Flow:
    """A sum on the host."""
    return build.add(name, Add(), build.add_up(name, flows))


def _add(reader: GraphReader, name: str, node: fx.Node) -> Flow:
    """Frames, or a frame and a parameter, which broadcasts."""
    given = {**dict(zip(("input", "other"), node.args, strict=False)), **node.kwargs}
    terms, constants = [given.get("input"), given.get("other")], reader.constants
    fixed = [term for term in terms if isinstance(term, fx.Node) and term in constants]
    if not fixed:
        flow = functions.FUNCTIONS[operator.add](reader, name, node)
        return reader.build.add(name, Add(), flow) if reader.build.host_sums else flow
    frames = [term for term in terms if isinstance(term, fx.Node) and term in reader.flows]
    if len(frames) != 1 or given.get("alpha", 1) != 1:
        raise refusal("an addition of something that is not a frame", name)
    flow = reader.flows[frames[0]]
    return reader.build.add(name, Add(bias=_against(reader, fixed[0], name, flow)), flow)


def _multiply(reader: GraphReader, name: str, node: fx.Node) -> Flow:
    """A frame times a number, or times a parameter, which broadcasts (layer scale)."""
    fixed = [term for term in node.args if isinstance(term, fx.Node) and term in reader.constants]
    frames = [term for term in node.args if isinstance(term, fx.Node) and term in reader.flows]
    if len(fixed) != 1 or len(frames) != 1:
        return functions.FUNCTIONS[operator.mul](reader, name, node)
    flow = reader.flows[frames[0]]
    return reader.build.add(name, Scale(scale=_against(reader, fixed[0], name, flow)), flow)


def _against(reader: GraphReader, constant: fx.Node, name: str, flow: Flow) -> Array:
    """A parameter as it stands against frames, without the axis of the batch."""
    value = required(reader.constant(constant, name), name)
    if not np.isfinite(value).all():
        raise ann_refusals.not_finite("a parameter", name)
    if value.ndim == len(flow.shape) + 1 and value.shape[0] == 1:
        value = np.asarray(value[0])
    return value


def _turned(reader: GraphReader, name: str, node: fx.Node) -> Flow:
    """``transpose`` and ``permute`` of the frame's own axes."""
    flow = reader.flow_of(node, name)
    what = TURNS[node.target]
    rank = len(flow.shape) + reader.leading(node)
    if what == "permute":
        order = several(reader, name, node, "dims")
    else:
        given = [*node.args[1:], *(value for key, value in node.kwargs.items() if key != "input")]
        pair = reader.value(given, name)
        if len(pair) != 2 or not all(isinstance(axis, int) and -rank <= axis < rank for axis in pair):
            raise refusal(what, name)
        order = list(range(rank))
        order[pair[0]], order[pair[1]] = order[pair[1]], order[pair[0]]
    whole = len(order) == rank and all(isinstance(axis, int) for axis in order)
    axes = axes_of(reader, name, node, flow, order) if whole else []
    lead = reader.leading(node)
    if axes[:lead] != list(range(-lead, 0)):
        raise option_refusal(f"{what} moves the batch", name, "Reorder the frame's own axes, behind the batch.")
    kept = tuple(axes[lead:])
    return flow if kept == tuple(range(len(kept))) else reader.build.add(name, Permute(axes=kept), flow)


def _mean(reader: GraphReader, name: str, node: fx.Node) -> Flow:
    """Over the first axis (tokens) on the host; over others the pooling that every model has."""
    given, flow = bound(reader, name, node, "dim keepdim"), reader.flow_of(node, name)
    dims = given.get("dim", given.get("axis"))
    axes = [] if dims is None else axes_of(reader, name, node, flow, dims)
    if 0 not in axes or given.get("keepdim") or given.get("dtype") is not None or len(axes) >= len(flow.shape):
        return functions.FUNCTIONS["mean"](reader, name, node)
    if min(axes) < 0:
        raise refusal("mean over the batch", name)
    for axis in sorted(set(axes), reverse=True):
        flow = reader.build.add(name, Mean(axis=axis), flow)
    return flow


def _norm_call(reader: GraphReader, name: str, node: fx.Node) -> Flow:
    names = ("normalized_shape", "weight", "bias", "eps")
    given: dict[str, Any] = {**dict(zip(names, node.args[1:], strict=False)), **node.kwargs}
    flow = reader.flow_of(node, name)
    tensors = (given.get("weight"), given.get("bias"))
    weight, bias = (None if tensor is None else _against(reader, tensor, name, flow) for tensor in tensors)
    axes = reader.value(given["normalized_shape"], name)
    return _normalised(reader.build, name, flow, list(axes), weight, bias, given.get("eps", 1e-5))


def _item(reader: GraphReader, name: str, node: fx.Node) -> Flow:
    """The frames of (frames, weights) that MultiheadAttention returns, or a cut."""
    if _is_attention(reader, node.args[0]):
        return reader.flow_of(node, name)
    return functions.FUNCTIONS[operator.getitem](reader, name, node)


HOST_FUNCTIONS: dict[Any, Function] = {
    **SMOOTH_FUNCTIONS, functional.layer_norm: _norm_call, torch.layer_norm: _norm_call, **dict.fromkeys(TURNS, _turned),
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), _add),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, "mul", "mul_"), _multiply),
    torch.mean: _mean, "mean": _mean, operator.getitem: _item, "__getitem__": _item,
}


# --------------------------------------------------------------------------- findings


def check(reader: GraphReader, node: fx.Node) -> list[Finding]:
    """What speaks against a call that this vocabulary knows: masks, cross-attention, class tokens."""
    module, name = reader.module_of(node), reader.place(node)
    if isinstance(module, _ATTENDING):
        wrong = [*_called_wrongly(node, module), *_built_wrongly(module)]
        return [found for what, way in wrong for found in option_refusal(what, name, way).findings]
    if node.target in (torch.cat, torch.concat, torch.concatenate):
        parts = node.args[0] if node.args else node.kwargs.get("tensors")
        if isinstance(parts, (tuple, list)) and any(part in reader.constants for part in parts):
            return ann_refusals.class_token("joins a parameter to the frame", name).findings
    if node.target in (operator.getitem, "__getitem__") and not _is_attention(reader, node.args[0]):
        index = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
        if any(isinstance(entry, int) for entry in index):
            return ann_refusals.class_token("takes one entry of an axis", name).findings
    return []


def _is_attention(reader: GraphReader, node: Any) -> bool:
    return isinstance(node, fx.Node) and isinstance(reader.module_of(node), nn.MultiheadAttention)


def _called_wrongly(node: fx.Node, module: nn.Module) -> Iterator[Wrong]:
    own = isinstance(module, nn.MultiheadAttention)
    names = ("query", "key", "value") if own else ("src",)
    rest = ("key_padding_mask", "need_weights", "attn_mask", "average_attn_weights") if own else ("mask", "key_padding_mask")
    given = {**dict(zip((*names, *rest, "is_causal"), node.args, strict=False)), **node.kwargs}
    if any(given.get(key) is not given.get(names[0]) for key in names):
        yield "attends to other frames than its own (cross-attention)", "Give one tensor as query, key and value."
    if any(given[key] is not None and given[key] is not False for key in given if "mask" in key or key == "is_causal"):
        yield "attends through a mask", "Leave it out: every token attends to every token."
    if own and any(user.target is not operator.getitem or user.args[1] != 0 for user in node.users):
        yield "returns its attention weights too, which nothing computes", "Use the frames only: attention(x, x, x)[0]."


def _built_wrongly(module: nn.Module) -> Iterator[Wrong]:
    for part in module.modules():
        if not isinstance(part, nn.MultiheadAttention):
            continue
        if not part.batch_first:
            yield "attends across the batch, which comes first (batch_first=False)", "Use batch_first=True."
        if not part._qkv_same_embed_dim:
            yield "has keys or values of another width (kdim, vdim)", "Leave kdim and vdim out."
        if part.bias_k is not None or part.add_zero_attn:
            yield "appends a token of its own (add_bias_kv, add_zero_attn)", "Leave it out, and train again."
