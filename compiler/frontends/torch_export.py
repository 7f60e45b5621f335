"""Exported programs (``torch.export``): aten operators and our neuron operator become nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from d2e.compiler.frontends import layers
from d2e.compiler.frontends.builder import Builder, Flow
from d2e.compiler.frontends.frames import merged_axes, reshape
from d2e.compiler.frontends.pt2_archive import Archive, read_program
from d2e.compiler.frontends.refusals import option_refusal, refusal
from d2e.compiler.nn.neurons import NAMES
from d2e.ir.errors import UnsupportedError
from d2e.ir.network import Network
from d2e.ir.nodes import Array, Input


def from_exported(
    program: torch.export.ExportedProgram | Archive, *, time_steps: int | None = None, coding: str = "spikes",
    max_payload: int = 1, readout: str = "count", dt: float | None = None, name: str | None = None,
) -> Network:
    """The network of a program exported from a module over [batch, time, *shape].

    The input's shape is the program's; so are the time steps, unless given. The other options are those of
    ``from_torch``.

    Raises:
        UnsupportedError: D2E-LAYER-... for an operator that does not compile, D2E-TRACE-002 for a program
            that does not take and return one tensor.
        UsageError: D2E-LOAD-016 for a live program in a format d2e does not read.
    """
    archive = program if isinstance(program, Archive) else read_program(program)
    outputs = archive.graph["outputs"]
    sizes = archive.sizes(archive.inputs[0]) if len(archive.inputs) == 1 else ()
    if len(sizes) < 3 or len(outputs) != 1 or "as_tensor" not in outputs[0]:
        raise UnsupportedError(
            "D2E-TRACE-002", "the program does not map one tensor [batch, time, *shape] to one tensor",
            hint="Wrap the model, and export it with such an input.",
        )
    batch, steps, *shape = sizes
    source = Input(
        shape=tuple(shape), dt=dt, time_steps=time_steps or steps, coding=coding,  # type: ignore[arg-type]
        max_payload=max_payload,
    )
    builder = Builder(source, {"source": "torch", **({"name": name} if name else {})})
    return _Reader(archive, builder, batch, steps).read(readout)


@dataclass(frozen=True)
class _Ref:
    name: str


def _decoded(argument: dict[str, Any]) -> Any:
    (kind, value), = argument.items()
    if kind == "as_tensor":
        return _Ref(value["name"])
    return None if kind == "as_none" else value


class _Reader:
    """Follows the program's nodes. A tensor is a flow (of frames, time folded or not) or an array."""

    def __init__(self, archive: Archive, build: Builder, batch: int, steps: int) -> None:
        self.archive, self.build = archive, build
        self.leads = ((batch * steps,), (batch, steps))
        self.flows = {archive.inputs[0]: replace(build.start, alone=False)}
        self.arrays = dict(archive.arrays)
        arguments = [_decoded(i["arg"]) for node in archive.graph["nodes"] for i in node["inputs"]]
        self.uses = Counter(value.name for value in arguments if isinstance(value, _Ref))

    def read(self, readout: str) -> Network:
        """The network, node by node."""
        for node in self.archive.graph["nodes"]:
            outputs = node["outputs"]
            if len(outputs) == 1 and "as_tensor" in outputs[0]:
                self._node(node, outputs[0]["as_tensor"]["name"])
        result = self.archive.graph["outputs"][0]["as_tensor"]["name"]
        if result not in self.flows:
            raise UnsupportedError("D2E-TRACE-002", "the program's result does not depend on its input")
        return self.build.finish(self.flows[result], readout)

    def _node(self, node: dict[str, Any], output: str) -> None:
        target = node["target"].removeprefix("torch.ops.")
        given = {i["name"]: _decoded(i["arg"]) for i in node["inputs"]}
        name = _name(node, output)
        operator = _OPERATORS.get(target)
        if target == "aten.clamp.default" and self.is_array(given["self"]):
            self.arrays[output] = np.clip(self.array(given["self"]), given.get("min"), given.get("max"))
            return
        if not any(isinstance(value, _Ref) and value.name in self.flows for value in given.values()):
            return  # no frame in it, such as a counter of batches
        if operator is None:
            raise refusal(target.split(".")[1] if target.startswith("aten.") else target, name)
        flow = operator(self, name, given, output)
        self.flows[output] = replace(flow, alone=flow.alone and self.uses[output] <= 1)

    def is_array(self, value: Any) -> bool:
        """Whether an argument is a parameter, buffer or constant."""
        return isinstance(value, _Ref) and value.name in self.arrays

    def array(self, value: Any) -> Any:
        """The argument's array in float64; None stays None."""
        return self.arrays[value.name].astype(np.float64) if self.is_array(value) else None

    def weight(self, value: Any) -> Any:
        """The argument's array in its own precision; None stays None."""
        return self.arrays[value.name] if self.is_array(value) else None

    def flow(self, value: Any, name: str) -> Flow:
        """The argument's flow."""
        if not isinstance(value, _Ref) or value.name not in self.flows:
            raise refusal("an operation on something that is not a frame", name)
        return self.flows[value.name]

    def reshaped(self, name: str, flow: Flow, output: str) -> Flow:
        """Folding of time, or flattening of a frame: told by the shapes."""
        sizes = self.archive.sizes(output)
        readings = [sizes[len(lead) :] for lead in self.leads if sizes[: len(lead)] == lead]
        if flow.shape in readings:
            return flow
        for frame in readings:
            if merged_axes(flow.shape, frame) is not None:
                return reshape(self.build, name, flow, frame)
        raise refusal(f"reshape of frames of shape {flow.shape} into {sizes}", name)


def _name(node: dict[str, Any], output: str) -> str:
    """The qualified name of the layer an operator came from; in a forward of its own, with the operator's."""
    stack = node["metadata"].get("nn_module_stack", "").split(";")[-1].split(",")
    if len(stack) != 3:
        return output
    path, cls = stack[1], stack[2]
    own = cls.startswith(("torch.nn.", "d2e.compiler.nn."))
    return path if own and path else f"{path}.{output}" if path else output


_Given = dict[str, Any]
_Operator = Callable[[_Reader, str, _Given, str], Flow]


def _linear(reader: _Reader, name: str, given: _Given, output: str) -> Flow:
    flow, weight = reader.flow(given["input"], name), _weight(reader, name, given)
    return layers.linear(reader.build, name, flow, weight, reader.array(given.get("bias")))


def _weight(reader: _Reader, name: str, given: _Given) -> Array:
    weight: Array | None = reader.weight(given["weight"])
    if weight is None:
        raise refusal("a layer whose weights are computed", name)
    return weight


def _convolution(reader: _Reader, name: str, given: _Given, output: str) -> Flow:
    return layers.convolution(
        reader.build, name, reader.flow(given["input"], name), _weight(reader, name, given),
        reader.array(given.get("bias")), stride=given.get("stride", 1), padding=given.get("padding", 0),
        dilation=given.get("dilation", 1), groups=given.get("groups", 1),
    )


def _batch_norm(reader: _Reader, name: str, given: _Given, output: str) -> Flow:
    mean, var = reader.array(given["running_mean"]), reader.array(given["running_var"])
    if given["training"] or mean is None or var is None:
        raise option_refusal(
            "BatchNorm normalises with statistics of the batch", name, "Export the model after model.eval()."
        )
    return layers.batch_norm(
        reader.build, name, reader.flow(given["input"], name), reader.array(given["weight"]),
        reader.array(given["bias"]), mean, var, given["eps"],
    )


def _avg_pool2d(reader: _Reader, name: str, given: _Given, output: str) -> Flow:
    options = {key: value for key, value in given.items() if key != "self" and value is not None}
    return layers.avg_pool2d(reader.build, name, reader.flow(given["self"], name), **options)


def _adaptive_avg_pool2d(reader: _Reader, name: str, given: _Given, output: str) -> Flow:
    flow = reader.flow(given["self"], name)
    return layers.adaptive_avg_pool2d(reader.build, name, flow, given["output_size"])


def _reshape(reader: _Reader, name: str, given: _Given, output: str) -> Flow:
    return reader.reshaped(name, reader.flow(given["self"], name), output)


def _pass(reader: _Reader, name: str, given: _Given, output: str) -> Flow:
    return reader.flow(given.get("input", given.get("self")), name)


def _add(reader: _Reader, name: str, given: _Given, output: str) -> Flow:
    flows = [reader.flow(given[key], name) for key in ("self", "other")]
    if given.get("alpha", 1) != 1:
        flows[1] = layers.scale(reader.build, f"{name}.alpha", flows[1], given["alpha"])
    return reader.build.add_up(name, flows)


def _multiply(reader: _Reader, name: str, given: _Given, output: str) -> Flow:
    factor = given["other"]
    if not isinstance(factor, (int, float)):
        raise refusal("a product of two tensors", name)
    return layers.scale(reader.build, name, reader.flow(given["self"], name), factor)


def _neuron(reader: _Reader, name: str, given: _Given, output: str) -> Flow:
    flow = reader.flow(given["current"], name)
    values = {key: reader.array(given[key]) for key in NAMES if given[key] is not None}
    weight = reader.weight(given["layer_weight"])
    if weight is None:
        return layers.neuron(reader.build, name, flow, given["kind"], values, given)
    sent = layers.neuron(reader.build, f"{name}.neuron", flow, given["kind"], values, given)
    bias = reader.array(given["layer_bias"])
    if weight.ndim == 2:
        back = layers.linear(reader.build, f"{name}.layer", sent, weight, bias)
    else:
        back = layers.convolution(
            reader.build, f"{name}.layer", sent, weight, bias, stride=1, padding=given["padding"] or "same",
            dilation=given["dilation"], groups=given["groups"],
        )
    reader.build.feed_back(back, sent)
    return sent


def _table(rows: Sequence[tuple[str, _Operator]]) -> dict[str, _Operator]:
    return {f"aten.{name}": operator for names, operator in rows for name in names.split()}


_OPERATORS: dict[str, _Operator] = {
    "d2e.neuron.default": _neuron,
    **_table([
        ("linear.default", _linear),
        ("conv1d.default conv1d.padding conv2d.default conv2d.padding", _convolution),
        ("batch_norm.default", _batch_norm),
        ("avg_pool2d.default", _avg_pool2d),
        ("adaptive_avg_pool2d.default", _adaptive_avg_pool2d),
        ("flatten.using_ints reshape.default view.default unflatten.int _unsafe_view.default", _reshape),
        ("dropout.default feature_dropout.default alpha_dropout.default", _pass),
        ("feature_alpha_dropout.default contiguous.default clone.default detach.default", _pass),
        ("add.Tensor add_.Tensor", _add),
        ("mul.Tensor mul_.Tensor", _multiply),
    ]),
}
