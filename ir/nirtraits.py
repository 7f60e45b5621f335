"""Which tool wrote a `.nir` file: its traits are compared with what each exporter can and does write.

A tool fits only where nothing in the file speaks against it. One that alone fits is taken, and the network says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from d2e.ir.nirforeign import TIMED
from d2e.ir.nirgraph import Edges, Tree, batch_axes
from d2e.ir.nirprofile import Choices
from d2e.ir.nodes import Array

Warning_ = dict[str, str]
_LAYERS = {"Input", "Output", "Affine"}
_FLOATS = {"v_leak": 0.0, "v_reset": 0.0, "w_in": 1.0}


@dataclass(frozen=True)
class Traits:
    """A file's nodes, seen for what tells tools apart."""

    trees: Mapping[str, Tree]
    edges: Edges

    @cached_property
    def kinds(self) -> set[str]:
        """Types of its nodes."""
        return {tree["type"] for tree in self.trees.values()}

    @cached_property
    def neurons(self) -> dict[str, dict[str, Array]]:
        """Name -> numeric fields of every node with time constants or a threshold; tau_mem as tau."""
        found: dict[str, dict[str, Array]] = {}
        for name, tree in self.trees.items():
            if tree["type"] in TIMED:
                numbers = {k: np.asarray(v) for k, v in tree.items() if k not in ("type", "metadata")}
                found[name] = {k.replace("tau_mem", "tau"): v for k, v in numbers.items() if v.dtype.kind in "iuf"}
        return found

    @cached_property
    def batch(self) -> int:
        """Axes of the Input that are not the frame's."""
        return batch_axes(self.trees, self.edges)

    def named(self, kind: str) -> list[str]:
        """Names of the nodes of a type."""
        return [name for name, tree in self.trees.items() if tree["type"] == kind]

    def only(self, *kinds: str) -> bool:
        """Whether no other types of node are there but these, inputs, outputs and Affine."""
        return self.kinds <= _LAYERS | set(kinds)

    def is_(self, field: str, value: float) -> bool:
        """Whether every neuron that has this field has this value."""
        return all(_near(f[field], value) for f in self.neurons.values() if field in f)

    def fields_of(self, dtype: str) -> bool:
        """Whether every parameter of every neuron is of this type."""
        return all(v.dtype == dtype for f in self.neurons.values() for v in f.values())

    def weights_of(self, dtype: str) -> bool:
        """Whether every weight is of this type."""
        weights = [np.asarray(tree["weight"]) for tree in self.trees.values() if "weight" in tree]
        return all(weight.dtype == dtype for weight in weights)

    def one(self, value: Callable[[dict[str, Array]], list[Array]]) -> float | None:
        """The number that ``value`` gives of all neurons alike; None where they differ or give none."""
        parts = [np.ravel(part) for f in self.neurons.values() for part in value(f)]
        numbers = np.concatenate(parts) if parts else np.zeros(0)
        numbers = numbers[~np.isnan(numbers)].astype(np.float64)
        if not numbers.size or not np.isfinite(numbers).all() or not _near(numbers, float(numbers[0])):
            return None
        return float(f"{np.median(numbers):.5g}")


def _near(values: Array, value: float) -> bool:
    return bool(np.allclose(values, value, rtol=2e-4, atol=1e-12))


# --------------------------------------------------------------------------- time steps that the numbers imply


def _ratio(f: dict[str, Array]) -> list[Array]:
    """tau/r and tau_syn/w_in, both dt where a unit of input adds a unit to the state."""
    with np.errstate(all="ignore"):
        pairs = [(f["tau"], f["r"])] if "tau" in f else []
        pairs += [(f["tau_syn"], f["w_in"])] if "tau_syn" in f and "w_in" in f else []
        return [np.asarray(a / b) for a, b in pairs]


def _unnormalised(f: dict[str, Array]) -> list[Array]:
    """SpikingJelly's dt: 1/r of an IF, tau/r of what does not divide its input by tau."""
    if "tau" not in f:
        return [1 / f["r"]]
    return [] if "tau_syn" not in f and _near(f["r"], 1.0) else _ratio(f)


def _exponential(f: dict[str, Array]) -> list[Array]:
    """Rockpool's dt: r = exp(-x) / x with x = dt/tau, solved by Newton's method for x exp(x) = 1/r."""
    if "tau" not in f:
        return []
    with np.errstate(all="ignore"):
        inverse = 1 / f["r"].astype(np.float64)
        x = np.log1p(inverse)
        for _ in range(20):
            x = x - (x - inverse * np.exp(-x)) / (1 + x)
        return [x * f["tau"]]


def _beta(f: dict[str, Array]) -> list[Array]:
    """Spyx's dt: tau = dt / (1 - beta), r = beta."""
    return [f["tau"] * (1 - f["r"])] if "tau" in f else []


_DT: dict[str, Callable[[dict[str, Array]], list[Array]]] = {
    "snntorch": _ratio, "spikingjelly": _unnormalised, "rockpool": _exponential, "spyx": _beta,
}


# --------------------------------------------------------------------------- the tools


def _snntorch(t: Traits) -> str | None:
    recurrent = all(name.endswith(".lif") and f"{name[:-3]}w_rec" in t.trees for name, f in t.neurons.items()
                    if any(v.dtype != "float32" for v in f.values()))
    fits = (
        t.only("Linear", "Conv2d", "AvgPool2d", "Flatten", "LIF", "CubaLIF") and t.weights_of("float32") and recurrent
        and t.is_("v_leak", 0) and t.is_("v_reset", 0)
        and all(_near(r, 1e-4) for f in t.neurons.values() for r in _finite(_ratio(f)))
    )
    return "r = tau / 1e-4 s in every neuron, its nodes are those export_to_nir writes" if fits else None


def _finite(parts: list[Array]) -> list[Array]:
    """Ratios without those of no leak, infinity by infinity."""
    return [part[~np.isnan(part)] for part in parts]


def _spikingjelly(t: Traits) -> str | None:
    alike = all(v.size and (v == v.flat[0]).all() for f in t.neurons.values() for v in f.values())
    dt = t.one(_unnormalised)
    reset = all(
        "v_reset" in f and ("tau" not in f or "tau_syn" in f or _near(f["v_leak"], float(f["v_reset"].flat[0])))
        for f in t.neurons.values()
    )
    fits = (
        t.only("Linear", "Conv1d", "Conv2d", "AvgPool2d", "Flatten", "IF", "LIF", "CubaLIF") and alike and reset
        and t.fields_of("float64") and t.weights_of("float32") and t.batch == 0 and t.named("Input") != ["input"]
        and not any("." in name for name in t.trees)
        and (dt is not None or not any(_unnormalised(f) for f in t.neurons.values()))
        and not (dt is not None and dt > 0.1)
        and all((f["tau"] >= (dt or 1e-4) * 0.999).all() for f in t.neurons.values() if "tau" in f)
        and (dt is not None or all((f["tau"] <= 1e-2).all() for f in t.neurons.values() if "tau" in f))
    )
    said = "r = 1/dt or tau/dt" if dt is not None else "r = 1 and tau of 1e-4 s and more"
    return f"{said}, one value in float64 for each population, v_leak = v_reset" if fits else None


def _sinabs(t: Traits) -> str | None:
    fits = (
        t.only("Conv1d", "Conv2d", "SumPool2d", "Flatten", "IF", "LIF", "LI") and t.named("Input") == ["input"]
        and t.fields_of("float32") and t.weights_of("float32") and t.batch == 0 and t.is_("r", 1)
        and t.is_("v_leak", 0) and t.is_("v_reset", 0)
        and all((f["tau"] >= 0.5).all() for f in t.neurons.values() if "tau" in f)
    )
    return "r = 1, time constants in steps, no Linear without a bias, no batch axis" if fits else None


def _norse(t: Traits) -> str | None:
    fits = (
        t.only("Conv2d", "IF", "LIF", "CubaLIF", "LI") and t.named("Input") == ["input"] and t.batch > 0
        and t.fields_of("float32") and t.weights_of("float32") and t.is_("r", 1) and t.is_("w_in", 1)
        and t.is_("v_reset", 0) and all((f["tau"] < 0.05).all() for f in t.neurons.values() if "tau" in f)
    )
    return "r = 1, w_in = 1, a batch axis in the Input" if fits else None


def _rockpool(t: Traits) -> str | None:
    named = any("LIFTorch" in name or "LIFNeuronTorch" in name for name in t.trees)
    fits = (
        t.only("Linear", "LIF", "CubaLIF", "LI") and t.fields_of("float32") and t.weights_of("float32")
        and (named or t.batch > 0) and t.is_("v_leak", 0) and t.is_("v_reset", 0) and t.is_("w_in", 1)
        and not any(_near(f["r"], 1) for f in t.neurons.values()) and t.one(_exponential) is not None
    )
    return "r = tau exp(-dt/tau) / dt with one dt, w_in = 1, a batch axis or names of Rockpool's classes" if fits else None


def _spyx(t: Traits) -> str | None:
    inner = [name for name in t.trees if name not in (*t.named("Input"), *t.named("Output"))]
    leaky = [f for f in t.neurons.values() if "tau" in f]
    fits = (
        t.only("Linear", "Conv2d", "SumPool2d", "Flatten", "IF", "LIF", "CubaLIF", "LI", "Threshold")
        and all(re.fullmatch(r"layer_\d+(_threshold|\.layer_\d+\.(lif|w_rec))?", name) for name in inner)
        and t.batch == 0 and t.is_("v_leak", 0) and t.is_("v_reset", 0) and t.is_("w_in", 1)
        and all(_near(f["r"], 1) for f in t.neurons.values() if "tau" not in f)
        and (not leaky or t.one(_beta) is not None)
    )
    return "nodes layer_0, layer_1 …, tau = dt / (1 - r) with one dt" if fits else None


_TOOLS: dict[str, Callable[[Traits], str | None]] = {
    "snntorch": _snntorch, "spikingjelly": _spikingjelly, "sinabs": _sinabs, "norse": _norse, "rockpool": _rockpool,
    "spyx": _spyx,
}


def fitting_tools(trees: Mapping[str, Tree], edges: Edges) -> dict[str, str]:
    """Tools that may have written these nodes -> the traits that say so."""
    traits = Traits(trees, edges)
    if not traits.neurons:
        return {}
    found: dict[str, str] = {}
    for tool, test in _TOOLS.items():
        try:
            said = test(traits)
        except (KeyError, TypeError, ValueError, IndexError):  # a field this tool writes is not there, or no numbers
            continue
        if said:
            found[tool] = said
    return found


def resolved(
    trees: Mapping[str, Tree], edges: Edges, choices: Choices,
) -> tuple[Choices, list[str], list[Warning_]]:
    """The choices with what the file itself says, the tools that fit, and what the user should know.

    Args:
        trees: nodes of another tool.
        edges: between them.
        choices: what the user states; a stated profile is not questioned.
    """
    fitting = fitting_tools(trees, edges)
    notes: list[Warning_] = []
    neurons = any(tree["type"] in TIMED for tree in trees.values())
    if choices.profile is None and len(fitting) == 1:
        tool, said = next(iter(fitting.items()))
        choices = replace(choices, profile=tool)
        notes.append({"code": "D2E-NIR-010", "message": f"read as written by {tool}: {said}; --profile states another"})
    if choices.tool is None or not neurons:
        return choices, list(fitting), notes
    dt = _implied(trees, edges, choices)
    if dt is not None:
        choices = replace(choices, unit=dt)
    if choices.tool is not None and choices.tool.lost:
        message = f"a file of {choices.name} does not hold {choices.tool.lost}"
        notes.append({"code": "D2E-NIR-011", "message": message})
    if choices.tool is not None and choices.tool.settle and choices.seconds is not None:
        message = f"the time step is {choices.seconds:g} s, " + (
            "as stated" if choices.dt is not None else "which the numbers imply" if dt else f"{choices.name}'s default"
        )
        notes.append({"code": "D2E-NIR-012", "message": message})
    return choices, list(fitting), notes


def _implied(trees: Mapping[str, Tree], edges: Edges, choices: Choices) -> float | None:
    """The time step that the numbers of the stated tool imply, unless the user states one."""
    tool = choices.tool
    rule = _DT.get(choices.name)
    if tool is None or rule is None or (choices.dt is not None and tool.seconds):
        return None
    try:
        found = Traits(trees, edges).one(rule)
    except (KeyError, TypeError, ValueError):
        return None
    return found if found is not None and found > 0 else None
