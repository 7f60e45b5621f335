"""`load_ann`: a trained ANN as a network whose populations stand for its activations; a converter gives them thresholds.

The module takes [batch, *shape] and knows no time. Every ReLU becomes a population (`activations`); for single-step
conversion so does every GELU and SiLU, and what transformers have besides becomes nodes of the host (`transformers`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial

import numpy as np
import torch
from torch import fx, nn

from d2e.compiler.frontends import ann_refusals, files, transformers
from d2e.compiler.frontends.activations import (
    ACTIVATION,
    CLAMPS,
    GELU,
    GELU_TANH,
    RELU,
    RELU_FUNCTIONS,
    RELU_ROWS,
    SILU,
    SMOOTH_ROWS,
    is_relu,
    limits,
)
from d2e.compiler.frontends.builder import Builder
from d2e.compiler.frontends.files import Source
from d2e.compiler.frontends.functions import FUNCTIONS, Vocabulary
from d2e.compiler.frontends.graph_reader import GraphReader, called
from d2e.compiler.frontends.modules import ROWS, is_stateful, row_of
from d2e.compiler.frontends.pt2_archive import Archive
from d2e.compiler.frontends.torch_fx import NAMED, Tracer
from d2e.ir.errors import Finding, UsageError, raise_findings
from d2e.ir.network import Network
from d2e.ir.nodes import Array, Input, Node
from d2e.ir.verify import verified


def load_ann(
    source: Source, *, input_shape: Sequence[int] | None = None, allow_pickle: bool = False, name: str | None = None,
    single_step: bool = False,
) -> Network:
    """The network of a trained ANN, for conversion into a spiking network.

    Args:
        source: a ``.pt``/``.pth`` file (checkpoint of ``d2e.nn.save``, whole module), ``pkg.module:factory`` that makes a
            module or (module, facts), a live module, or a network that this function made.
        input_shape: of one sample, without batch; needed where the model does not say it.
        allow_pickle: load a ``.pt`` that holds more than layers, and with it any code it runs.
        name: kept in the metadata.
        single_step: take GELU, SiLU, LayerNorm, self-attention and what goes with them, too; else ReLU networks only.

    Raises:
        UsageError: D2E-LOAD-001..016 (docs/errors.md).
        UnsupportedError: D2E-CONV-001 what the method does not take, -002 a maximum, -003 neurons, -004 no ReLU, -005 no
            numbers as weights; D2E-LAYER-..., D2E-TRACE-..., D2E-SHAPE-... as for spiking models.
    """
    text = os.fspath(source) if isinstance(source, (str, os.PathLike)) else type(source).__name__
    if text.endswith((".nir", ".net")):
        raise UsageError(
            "D2E-LOAD-008", f"{text} holds a spiking network, not an ANN", hint="Compile it directly (d2e compile).",
        )
    given = {"input_shape": input_shape, "name": name}
    stated = {key: value for key, value in given.items() if value is not None}
    model, facts = files.unwrapped(files.opened(source, allow_pickle), stated, text)
    if isinstance(model, nn.Module):
        files.check_shape_known(facts, text)
        return from_ann(model, facts["input_shape"], name=facts.get("name"), single_step=single_step)
    if isinstance(model, Network):
        shape = {key: facts[key] for key in ("input_shape",) if key in facts}
        network = _checked(files.restated(model, shape, text), single_step)
        return network.with_metadata(name=name) if name else network
    if isinstance(model, (torch.export.ExportedProgram, Archive)):
        raise UsageError(
            "D2E-LOAD-008", f"{text} holds an exported program, which is read as a spiking network only",
            hint="Give the module itself: a .pt of d2e.nn.save, or a factory in source (pkg.module:factory).",
        )
    raise files.not_a_model(model, text)


_SMOOTH = (GELU, GELU_TANH, SILU)


def _checked(network: Network, single_step: bool) -> Network:
    """A network in the form that `from_ann` gives it."""
    stands = {name: str(network.nodes[name].metadata.get(ACTIVATION)) for name in network.populations}
    spiking = [name for name, what in stands.items() if what not in (RELU, *_SMOOTH)]
    raise_findings([f for name in spiking for f in ann_refusals.spiking_refusal(network.nodes[name].kind, name).findings])
    if not single_step:
        beyond = {name: "GELU" if what.startswith(GELU) else "SiLU" for name, what in stands.items() if what in _SMOOTH}
        beyond |= {name: type(network.nodes[name]).__name__ for name in network.hosts}
        raise_findings([f for name, what in beyond.items() for f in ann_refusals.ann_refusal(what, name).findings])
    if not network.populations:
        raise ann_refusals.no_relu()
    broken = [name for name, node in network.nodes.items() if not all(np.isfinite(a).all() for a in _arrays(node))]
    raise_findings([f for name in broken for f in ann_refusals.not_finite(network.nodes[name].kind, name).findings])
    return verified(network)


def _arrays(node: Node) -> list[Array]:
    values = (getattr(node, field.name) for field in fields(node))
    return [value for value in values if isinstance(value, np.ndarray) and value.dtype.kind == "f"]


def from_ann(
    module: nn.Module, input_shape: Sequence[int], *, name: str | None = None, single_step: bool = False,
) -> Network:
    """The network of a module over [batch, *input_shape]; see `load_ann`."""
    vocabulary = _SINGLE_STEP if single_step else _VOCABULARY
    if row_of(module, vocabulary.rows) is not None or type(module) in (nn.Flatten, *NAMED):
        module = nn.Sequential(module)
    tracer = Tracer(module, "frame", vocabulary.rows)
    if single_step:
        with _evaluating(module):
            graph = tracer.follow(module)
    else:
        graph = tracer.follow(module)

    def read(host_sums: bool) -> Network:
        source = Input(shape=tuple(input_shape), coding="direct")
        build = Builder(source, {"source": "torch", **({"name": name} if name else {})})
        build.single = all(p.dtype != torch.float64 for p in module.parameters())
        build.host_sums = host_sums
        return GraphReader(module, tracer.where, build, vocabulary=vocabulary).read(graph, "last")

    network = read(False)
    if network.hosts:  # the residual stream of a transformer is of real values: its sums are the host's
        network = read(True)
    if not network.populations:
        raise ann_refusals.no_relu()
    return network


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """The module as it is after training: what drops whole paths then drops nothing."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


# --------------------------------------------------------------------------- findings

_PRODUCTS = ("mul", "mul_", "imul", "div", "div_", "truediv", "itruediv", "matmul", "bmm", "pow")


def _check(reader: GraphReader, node: fx.Node, single_step: bool = False) -> list[Finding]:
    """What speaks against the conversion of a layer or function."""
    found = transformers.check(reader, node) if single_step else []
    if found:
        return found
    name, module = reader.place(node), reader.module_of(node)
    if module is not None:
        return _check_module(reader, node, module, name, single_step)
    what = called(node)
    known = reader.sizes | reader.constants
    activations = [value for value in node.args if isinstance(value, fx.Node) and value not in known]
    if what in _PRODUCTS and len(activations) > 1 and all(value.op != "get_attr" for value in activations):
        return ann_refusals.product_refusal(what, name, single_step).findings
    clamp = node.target in CLAMPS and not is_relu(*limits(node))
    if clamp or (reader.form_of(node) is None and node.op != "get_attr"):
        return ann_refusals.ann_refusal(what, name, _is_last(node), single_step).findings
    return []


def _check_module(reader: GraphReader, node: fx.Node, module: nn.Module, name: str, single_step: bool) -> list[Finding]:
    what = type(module).__name__
    if is_stateful(module):
        return ann_refusals.spiking_refusal(what, name).findings
    clamps = isinstance(module, nn.Hardtanh) and not is_relu(module.min_val, module.max_val)
    if clamps or reader.form_of(node) is None:
        return ann_refusals.ann_refusal(what, name, _is_last(node), single_step).findings
    return ann_refusals.not_finite(what, name).findings if _holds_nan(module) else []


def _holds_nan(module: nn.Module) -> bool:
    tensors = [*module.parameters(), *module.buffers()]
    return any(not torch.isfinite(t).all() for t in tensors if not nn.parameter.is_lazy(t) and not t.is_meta)


def _is_last(node: fx.Node) -> bool:
    return all(user.op == "output" for user in node.users)


_VOCABULARY = Vocabulary({**ROWS, **RELU_ROWS}, {**FUNCTIONS, **RELU_FUNCTIONS}, ann_refusals.ann_refusal, _check)
_SINGLE_STEP = Vocabulary(
    {**_VOCABULARY.rows, **SMOOTH_ROWS, **transformers.HOST_ROWS}, {**_VOCABULARY.functions, **transformers.HOST_FUNCTIONS},
    partial(ann_refusals.ann_refusal, single_step=True), partial(_check, single_step=True), constants=True,
)
