"""discretise against the equations of NIR written out by hand, and NIR files of other tools end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest

from d2e.backends.loihi2.targets import TARGETS
from d2e.compiler.passes.discretise import Discretise
from d2e.compiler.passes.manager import run_passes
from d2e.ir import IF, LI, LIF, Affine, Continuous, CubaLIF, Input, Network, Neuron, Output, UsageError, nirfile, reference
from d2e.ir.network import chain

RNG = np.random.default_rng(3)
DT = 0.1
SIZE = 4
TAU, TAU_SYN, R = RNG.uniform(0.4, 2, SIZE), RNG.uniform(0.3, 1, SIZE), RNG.uniform(0.5, 2, SIZE)
W_IN, LEAK, THETA = RNG.uniform(0.5, 2, SIZE), RNG.uniform(-0.1, 0.2, SIZE), RNG.uniform(0.1, 0.3, SIZE)
DENSE = Affine(weight=RNG.normal(0.8, 1, (SIZE, 3)), bias=RNG.normal(0, 0.1, SIZE))
FRAMES = (RNG.random((2, 25, 3)) < 0.5).astype(np.int64)


def between(neuron: Neuron) -> Network:
    ends = ("input", Input(shape=(3,), dt=DT)), ("output", Output(shape=(SIZE,)))
    return chain([ends[0], ("dense", DENSE), ("neuron", neuron), ends[1]])


def settled(neuron: Neuron, **options: Any) -> Neuron:
    return run_passes([Discretise(**options)], between(neuron), TARGETS[0])[-1].network.neuron("neuron")


def continuous(rule: Any, **constants: Any) -> dict[str, Any]:
    return {"shape": (SIZE,), "threshold": THETA, "continuous": Continuous(rule=rule, **constants)}


def drive(t: int) -> np.ndarray:
    return FRAMES[:, t] @ DENSE.weight.T + DENSE.bias


def test_if_integrates_r_times_dt() -> None:
    node = settled(IF(**continuous("", r=R)))
    np.testing.assert_allclose(node.gain, R * DT)
    assert node.continuous is None


@pytest.mark.parametrize("rule", ["euler", "exp"])
def test_lif_keeps_its_share_and_relaxes_to_its_rest(rule: str) -> None:
    node = settled(LIF(**continuous(rule, tau_mem=TAU, r=R, v_leak=LEAK), bias=np.float64(0.05)))
    keep = 1 - DT / TAU if rule == "euler" else np.exp(-DT / TAU)
    np.testing.assert_allclose(node.decays[1], keep)
    np.testing.assert_allclose(node.gain, R * (1 - keep))
    np.testing.assert_allclose(node.bias, 0.05 + (1 - keep) * LEAK)


def test_one_exponential_step_is_the_exact_solution_and_many_euler_steps_come_near() -> None:
    exact = settled(LIF(**continuous("exp", tau_mem=TAU, r=R, v_leak=LEAK)))
    v0, current = 0.3, 0.7
    one = exact.decays[1] * v0 + exact.gain * current + exact.bias
    v = np.full(SIZE, v0)
    for _ in range(20000):
        v = v + DT / 20000 / TAU * (LEAK - v + R * current)
    np.testing.assert_allclose(one, v, atol=1e-5)


@pytest.mark.parametrize("rule", ["euler", "exp"])
def test_cuba_lif_has_both_decays_and_one_gain(rule: str) -> None:
    constants = {"tau_mem": TAU, "tau_syn": TAU_SYN, "r": R, "w_in": W_IN, "v_leak": LEAK}
    node = settled(CubaLIF(**continuous(rule, **constants)))
    keep, keep_syn = (1 - DT / t if rule == "euler" else np.exp(-DT / t) for t in (TAU, TAU_SYN))
    np.testing.assert_allclose(node.decays[0], keep_syn)
    np.testing.assert_allclose(node.gain, R * (1 - keep) * (1 - keep_syn) * W_IN)


def by_hand(tau_syn: np.ndarray | None) -> np.ndarray:
    """Spikes of NIR's differential equations, one Euler step after the other, subtractive reset."""
    current, v, spikes = np.zeros((2, SIZE)), np.zeros((2, SIZE)), []
    for t in range(FRAMES.shape[1]):
        current = drive(t) if tau_syn is None else current + DT / tau_syn * (-current + W_IN * drive(t))
        v = v + DT / TAU * (LEAK - v + R * current)
        spikes.append(v >= THETA)
        v = v - THETA * spikes[-1]
    return np.stack(spikes, axis=1).astype(np.int64)


@pytest.mark.parametrize("kind", ["LIF", "CubaLIF"])
def test_a_nir_file_of_another_tool_fires_as_its_equations_say(kind: str, tmp_path: Path) -> None:
    common = {"tau_mem" if kind == "CubaLIF" else "tau": TAU, "r": R, "v_leak": LEAK, "v_threshold": THETA}
    neuron = nir.CubaLIF(tau_syn=TAU_SYN, w_in=W_IN, **common) if kind == "CubaLIF" else nir.LIF(**common)
    graph = nir.NIRGraph(
        {"input": nir.Input({"input": np.array([3])}), "fc": nir.Affine(DENSE.weight, DENSE.bias), "n": neuron,
         "output": nir.Output({"output": np.array([SIZE])})},
        [("input", "fc"), ("fc", "n"), ("n", "output")],
    )
    path = tmp_path / "model.nir"
    nir.write(path, graph)
    choices = {"reset": "subtract", "fire": "ge", "max_spikes": 1}
    network = nirfile.read(path, profile="nir", dt=DT, **choices)  # type: ignore[arg-type]
    expected = by_hand(TAU_SYN if kind == "CubaLIF" else None)
    assert expected.any()
    pipeline = TARGETS[0].pipeline({"time_steps": 25})
    source = run_passes(pipeline[:1], network, TARGETS[0])[-1].network
    np.testing.assert_array_equal(reference.run(source, FRAMES, "spikes").spikes["n"], expected)
    canonical = run_passes(pipeline[:2], network, TARGETS[0])[-1].network
    np.testing.assert_array_equal(reference.run(canonical, FRAMES, "spikes").spikes["n"], expected)


def test_a_readout_relaxes_too() -> None:
    node = settled(LI(shape=(SIZE,), continuous=Continuous(tau_mem=TAU, r=R, rule="exp")))
    np.testing.assert_allclose(node.decays[1], np.exp(-DT / TAU))


def test_single_precision_constants_are_settled_in_double() -> None:
    node = settled(LIF(**continuous("exp", tau_mem=TAU.astype(np.float32))))
    np.testing.assert_array_equal(node.decays[1], np.exp(-DT / TAU.astype(np.float32).astype(np.float64)))


def test_the_option_overrides_the_step_of_the_input() -> None:
    node = settled(LIF(**continuous("euler", tau_mem=TAU)), dt=0.2)
    np.testing.assert_allclose(node.decays[1], 1 - 0.2 / TAU)


@pytest.mark.parametrize(("options", "rule", "tau", "code"), [
    ({}, "", TAU, "D2E-DYN-002"), ({"dt": 0.0}, "euler", TAU, "D2E-DYN-002"), ({"dt": -1.0}, "exp", TAU, "D2E-DYN-002"),
    ({"dt": 0.6}, "euler", TAU, "D2E-DYN-003"), ({}, "exp", -TAU, "D2E-DYN-003"), ({}, "exp", None, "D2E-DYN-002"),
], ids=["no rule", "dt 0", "dt < 0", "dt > tau", "tau < 0", "no tau"])
def test_what_is_missing_or_out_of_range_is_told(options: Any, rule: str, tau: Any, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        settled(LIF(**continuous(rule, tau_mem=tau)), **options)
    assert (caught.value.code, caught.value.node) == (code, "neuron")


def test_without_a_time_step_it_is_told() -> None:
    network = between(LIF(**continuous("exp", tau_mem=TAU)))
    network = network.with_nodes({"input": Input(shape=(3,))})
    with pytest.raises(UsageError) as caught:
        run_passes([Discretise()], network, TARGETS[0])
    assert caught.value.code == "D2E-DYN-002"
    assert "in pass 'discretise'" in caught.value.__notes__[0]


def test_discrete_networks_stay_as_they_are() -> None:
    network = between(LIF(shape=(SIZE,), decay_mem=np.float64(0.9)))
    step = run_passes([Discretise()], network, TARGETS[0])[-1]
    assert step.changed == 0
    assert step.network.same(network)
