"""discretise: time constants, resistances and the time step become the decays and gain of the discrete step.

Euler: v += dt/tau * (v_leak - v + r*u); exponential: the exact solution over one step of constant input. Both as in
Pedersen et al., "Neuromorphic intermediate representation", Nat. Commun. 2024 (node equations).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from d2e.compiler.passes.base import Pass, Property, discrete
from d2e.ir import Continuous, CubaLIF, Network, Neuron, UsageError
from d2e.ir.nodes import LI, LIF, Array, Node, real

if TYPE_CHECKING:
    from d2e.compiler.target import Target


@dataclass(frozen=True)
class Discretise(Pass):
    """Settle decays and gains.

    Attributes:
        dt: length of a time step, in the unit of the time constants; None: the input's.
    """

    name: ClassVar[str] = "discretise"
    ensures: ClassVar[tuple[Property, ...]] = (discrete,)

    dt: float | None = None

    def run(self, network: Network, target: Target) -> Network:
        """The network with discrete decays.

        Raises:
            UsageError: D2E-DYN-002 without a time step above 0 or a decay rule; D2E-DYN-003 where dt exceeds a time
                constant.
        """
        dt = self.dt if self.dt is not None else network.input.dt

        def settle(name: str, node: Node) -> Node:
            if not isinstance(node, Neuron) or node.continuous is None:
                return node
            if dt is None:
                raise UsageError("D2E-DYN-002", "has time constants but the time step is not known", node=name,
                                 hint="Give --dt.")
            if not dt > 0:
                raise UsageError("D2E-DYN-002", f"the time step is {dt:g}; it must be above 0", node=name,
                                 hint="Give another --dt.")
            return _discrete(name, node, node.continuous, dt)

        return network.map(settle)


def _discrete(name: str, node: Neuron, c: Continuous, dt: float) -> Neuron:
    r = real(1.0) if c.r is None else c.r
    if not isinstance(node, LIF):
        return replace(node, gain=r * dt, continuous=None)
    if c.tau_mem is None:
        raise UsageError("D2E-DYN-002", "leaks but has no membrane time constant", node=name)
    keep = _keep(name, c.tau_mem, c.rule, dt)
    gain = r * (1 - keep)
    leak = real(0.0) if c.v_leak is None else c.v_leak
    changes: dict[str, Array] = {"decay_mem": keep, "bias": node.bias + (1 - keep) * leak}
    if isinstance(node, (CubaLIF, LI)) and c.tau_syn is not None:
        keep_syn = _keep(name, c.tau_syn, c.rule, dt)
        changes["decay_syn"] = keep_syn
        gain = gain * (1 - keep_syn) * (1.0 if c.w_in is None else c.w_in)
    return replace(node, gain=gain, continuous=None, **changes)  # type: ignore[arg-type]


def _keep(name: str, tau: Array, rule: str, dt: float) -> Array:
    if rule not in ("euler", "exp"):
        raise UsageError("D2E-DYN-002", "the decay rule (euler or exp) is not known", node=name,
                         hint="Give --profile.")
    tau = tau.astype(np.float64)
    if (tau <= 0).any() or (rule == "euler" and (dt > tau).any()):
        raise UsageError(
            "D2E-DYN-003", f"the time step {dt:g} exceeds the time constant {tau.min():g}", node=name,
            hint="Give a smaller --dt, in the unit of the time constants.",
        )
    return np.asarray(1.0 - dt / tau if rule == "euler" else np.exp(-dt / tau))
