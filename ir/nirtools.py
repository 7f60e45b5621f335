"""What each tool that writes `.nir` files means by its numbers: decays, gain, reset, fire rule, floor.

Read from the sources of snnTorch 1.0.0, SpikingJelly 2.0.0, sinabs 3.1.3, Norse 1.1.0, Rockpool 3.1.0 and Spyx 1.0.0:
each settles its neurons here as its own step computes them, not as NIR's differential equation would be read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from d2e.ir.nodes import Array, Fire

Fields = Mapping[str, Array]
Settled = dict[str, Any]
Settle = Callable[[str, Fields, float, Mapping[str, str]], Settled]


@dataclass(frozen=True)
class Profile:
    """What a tool means by its NIR files.

    Attributes:
        reset: as `--reset`; "file" is a hard reset to the file's v_reset.
        fire, max_spikes: see `Neuron`.
        rule: how a time constant becomes a decay per step.
        dt: time per step that the tool writes unless told, in the unit of its time constants; None: unknown.
        seconds: whether that unit is seconds (else steps).
        lost: what the file does not hold, and what is taken for it.
        options: what may stand in braces behind the name, with the default.
        settle: fields of a neuron node -> fields of ours; None: `Continuous` time constants, for the pass discretise.
    """

    reset: str
    fire: Fire
    max_spikes: int
    rule: Literal["euler", "exp"]
    dt: float | None = None
    seconds: bool = True
    lost: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    settle: Settle | None = None


def _product(r: Array, leak: Array) -> Array:
    """``r * leak``, 1 where both are the limit of no leak (r = tau / dt with tau infinite) or within float32 of it."""
    gain = np.where(np.isinf(r) & (leak == 0), 1.0, r * leak)
    return np.where(np.abs(gain - 1) < 1e-6, 1.0, gain)


def _euler(kind: str, f: Fields, dt: float, options: Mapping[str, str]) -> Settled:
    """v += dt/tau * (v_leak - v + r u), u += dt/tau_syn * (w_in I - u): as the files of snnTorch, SpikingJelly mean it."""
    if kind == "IF":
        return {"gain": _product(f["r"], np.full((), dt))}
    leak = dt / f["tau"]
    found = {"decay_mem": 1 - leak, "bias": leak * f["v_leak"], "gain": _product(f["r"], leak)}
    if "tau_syn" in f:
        lost = dt / f["tau_syn"]
        found |= {"decay_syn": 1 - lost, "gain": found["gain"] * _product(f["w_in"], lost)}
    return found


def _spikingjelly(kind: str, f: Fields, dt: float, options: Mapping[str, str]) -> Settled:
    """As `_euler`; v starts at v_reset."""
    return _euler(kind, f, dt, options) | ({"v_init": f["v_reset"]} if "v_reset" in f else {})


def _sinabs(kind: str, f: Fields, dt: float, options: Mapping[str, str]) -> Settled:
    """v = a v + g I with a = exp(-dt/tau), g = 1 - a where the input is normalised; IF: v += I."""
    if kind == "IF":
        floor = options["v_min"]
        return {} if floor == "none" else {"v_min": -f["v_threshold"] if floor == "threshold" else float(floor)}
    keep = np.exp(-dt / f["tau"])
    normalised = kind == "LIF" if options["norm_input"] == "default" else options["norm_input"] == "yes"
    return {"decay_mem": keep, "gain": 1 - keep if normalised else 1.0}


def _norse(kind: str, f: Fields, dt: float, options: Mapping[str, str]) -> Settled:
    """v += dt/tau * (v_leak - v + u), u kept by 1 - dt/tau_syn; the file holds dt * tau for tau (norse issue 411)."""
    if kind == "IF":
        return {}
    leak = dt * dt / f["tau"]
    found = {"decay_mem": 1 - leak, "bias": leak * f["v_leak"], "gain": leak, "v_init": f["v_leak"]}
    return found | ({"decay_syn": 1 - dt * dt / f["tau_syn"]} if "tau_syn" in f else {})


def _rockpool(kind: str, f: Fields, dt: float, options: Mapping[str, str]) -> Settled:
    """v = exp(-dt/tau_mem) v + u', u' = exp(-dt/tau_syn) (u' + I); without synapse v takes I; ExpSyn leaks as u'."""
    keep = np.exp(-dt / f["tau"])
    if "tau_syn" in f:
        synapse = np.exp(-dt / f["tau_syn"])
        return {"decay_mem": keep, "decay_syn": synapse, "gain": synapse}
    return {"decay_mem": keep, "gain": keep if kind == "LI" else 1.0}


def _spyx(kind: str, f: Fields, dt: float, options: Mapping[str, str]) -> Settled:
    """v = beta v + u - theta s, beta = 1 - dt/tau; the synaptic kind subtracts before its decay."""
    if kind == "IF":
        return {}
    found: Settled = {"decay_mem": 1 - dt / f["tau"]}
    if "tau_syn" in f:
        found |= {"decay_syn": 1 - dt / f["tau_syn"], "reset_when": "same"}
    return found


PROFILES: dict[str, Profile] = {
    "nir": Profile(reset="file", fire="gt", max_spikes=1, rule="euler"),
    "snntorch": Profile(
        reset="subtract-next", fire="gt", max_spikes=1, rule="euler", dt=1e-4, settle=_euler,
        lost="reset_mechanism and reset_delay (taken: subtract, one step later; --reset states another), "
             "graded_spikes_factor and state_quant (taken: none)",
    ),
    "spikingjelly": Profile(
        reset="file", fire="ge", max_spikes=1, rule="euler", dt=1e-4, settle=_spikingjelly,
        lost="dt where every neuron has decay_input=True (taken: export_to_nir's 1e-4; --dt states another), "
             "that it fires at >= (taken: ge)",
    ),
    "sinabs": Profile(
        reset="subtract", fire="ge", max_spikes=0, rule="exp", dt=1.0, seconds=False, settle=_sinabs,
        options={"v_min": "threshold", "norm_input": "default"},
        lost="spike_fn and reset_fn (taken: MultiSpike, MembraneSubtract; --max-spikes, --reset state others), "
             "min_v_mem (taken: -threshold for IAF as sinabs.nir.from_nir, none for LIF; 'sinabs{v_min=none}' or a "
             "number states another), norm_input (taken: the classes' defaults; 'sinabs{norm_input=yes|no}'), tau_syn",
    ),
    "norse": Profile(
        reset="zero", fire="gt", max_spikes=1, rule="euler", dt=1e-3, settle=_norse,
        lost="v_reset (taken: 0), dt (taken: to_nir's 1e-3; --dt states another); its time constants are too small by "
             "a factor dt and were put right",
    ),
    "rockpool": Profile(
        reset="subtract", fire="ge", max_spikes=0, rule="exp", dt=1e-3, settle=_rockpool,
        lost="biases of neurons (taken: 0), recurrent weights (has_rec; taken: none), max_spikes_per_dt (taken: no "
             "limit; --max-spikes states another)",
    ),
    "spyx": Profile(
        reset="subtract-next", fire="gt", max_spikes=1, rule="euler", dt=1.0, seconds=False, settle=_spyx,
        options={"delay": "1"},
        lost="that a neuron sends its spikes one step late (taken: a delay of 1 between layers, none to the output; "
             "'spyx{delay=0}' leaves it out), "
             "dilation and groups of convolutions (taken: 1)",
    ),
}
