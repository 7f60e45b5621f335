"""Files as Rockpool 3.1.0 and Spyx 1.0.0 write them, and files whose writer is not certain.

Neither tool is installed here: the files are built, and the neurons run, as the tools' sources have it
(rockpool/nn/modules/torch/nir.py, lif_torch.py, lif_neuron_torch.py, exp_syn_torch.py; spyx/nir.py, spyx/nn.py).
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import h5py
import nir
import numpy as np
import pytest

from d2e.ir import Delay, Network, UnsupportedError, UsageError, nirfile, reference

BATCH, STEPS, IN, HIDDEN, OUT = 4, 30, 10, 12, 5


def random(seed: int = 3) -> np.random.Generator:
    return np.random.default_rng(seed)


def weight(out: int, into: int, seed: int = 1) -> np.ndarray:
    return random(seed).normal(0.1, 0.5, (out, into)).astype(np.float32)


def frames_of(*shape: int) -> np.ndarray:
    return (random().random((BATCH, STEPS, *shape)) < 0.4).astype(np.int64)


def single(n: int, value) -> np.ndarray:
    return np.broadcast_to(np.asarray(value, np.float32), (n,)).copy()


def written(folder: Path, nodes: dict, edges: list | None = None) -> Path:
    names = list(nodes)
    chained = edges or list(pairwise(names))
    nir.write(folder / "f.nir", nir.NIRGraph(nodes=nodes, edges=chained, type_check=False))
    return folder / "f.nir"


def tool_of(network: Network) -> str:
    notes = [n["message"] for n in network.metadata.get("warnings", ()) if n["code"] == "D2E-NIR-010"]
    return notes[0].split()[4].rstrip(":") if notes else ""


def same_spikes(network: Network, frames: np.ndarray, theirs: dict[str, np.ndarray]) -> None:
    ours = reference.run(network, frames, "spikes")
    for name, sent in theirs.items():
        assert (ours.spikes[name] == sent).mean() >= 0.9999, name
        assert sent.any()


# ----- Rockpool


def rockpool_lif(x, tau_mem, tau_syn, threshold, dt):
    """LIFTorch: spikes [batch, time, N] of input [batch, time, N]; no synapse where tau_syn is None (LIFNeuronTorch)."""
    v, i = np.zeros((len(x), x.shape[2])), np.zeros((len(x), x.shape[2]))
    sent = []
    for t in range(x.shape[1]):
        v = v * np.exp(-dt / tau_mem)
        if tau_syn is None:
            v = v + x[:, t]
        else:
            i = (i + x[:, t]) * np.exp(-dt / tau_syn)
            v = v + i
        n = np.where(v >= threshold, np.floor(v / threshold), 0)
        v = v - n * threshold
        sent.append(n)
    return np.stack(sent, 1)


def rockpool_nodes(dt: float) -> tuple[dict, dict[str, np.ndarray]]:
    tau_mem = random(5).uniform(4, 30, HIDDEN).astype(np.float32) * np.float32(dt)
    tau_syn = random(6).uniform(2, 9, HIDDEN).astype(np.float32) * np.float32(dt)
    tau = single(OUT, 7 * dt)
    w = {"a": weight(HIDDEN, IN), "b": weight(OUT, HIDDEN, 2)}

    def r(t):
        return (t * np.exp(-dt / t) / dt).astype(np.float32)

    nodes = {
        "input": nir.Input(np.array([1, 1, IN])),
        "0_LinearTorch": nir.Linear(w["a"]),
        "1_LIFTorch": nir.CubaLIF(tau_syn, tau_mem, r(tau_mem), single(HIDDEN, 0), single(HIDDEN, 0.8)),
        "2_LinearTorch": nir.Linear(w["b"]),
        "3_LIFNeuronTorch": nir.LIF(tau, r(tau), single(OUT, 0), single(OUT, 1.2)),
        "output": nir.Output(np.array([1, 1, OUT])),
    }
    x = frames_of(IN)
    hidden = rockpool_lif(x @ w["a"].T.astype(float), tau_mem.astype(float), tau_syn.astype(float), 0.8, dt)
    out = rockpool_lif(hidden @ w["b"].T.astype(float), tau.astype(float), None, 1.2, dt)
    return nodes, {"1_LIFTorch": hidden, "3_LIFNeuronTorch": out}


@pytest.mark.parametrize("dt", [1e-3, 2e-2])
def test_rockpool_whose_time_step_stands_in_r(dt, tmp_path):
    nodes, theirs = rockpool_nodes(dt)
    network = nirfile.read(written(tmp_path, nodes))
    assert tool_of(network) == "rockpool"
    assert network.input.dt == pytest.approx(dt, rel=1e-4)
    assert network.input.shape == (IN,)
    assert max(v.max() for v in theirs.values()) > 1  # several spikes per step
    same_spikes(network, frames_of(IN), theirs)


def test_rockpool_exponential_synapse_is_a_readout(tmp_path):
    tau, dt = random(5).uniform(5e-3, 3e-2, OUT).astype(np.float32), 1e-3
    r = (tau * np.exp(-dt / tau) / dt).astype(np.float32)
    nodes = {
        "input": nir.Input(np.array([1, IN])), "0_LinearTorch": nir.Linear(weight(OUT, IN)),
        "1_ExpSynTorch": nir.LI(tau, r, single(OUT, 0)), "output": nir.Output(np.array([1, OUT])),
    }
    network = nirfile.read(written(tmp_path, nodes))
    assert tool_of(network) == "rockpool"
    x, v = frames_of(IN), np.zeros((BATCH, OUT))
    for t in range(STEPS):
        v = (v + x[:, t] @ weight(OUT, IN).T) * np.exp(-dt / tau.astype(float))
    assert np.allclose(reference.run(network, x, "state").v["1_ExpSynTorch"][:, -1], v, rtol=1e-4)


# ----- Spyx


def spyx_run(kind, x, beta, threshold, alpha=None, recurrent=None):
    """A neuron layer of spyx.nn: what it sends [batch, time, N]; it fires on the state of the step before."""
    v, i = np.zeros((len(x), *x.shape[2:])), np.zeros((len(x), *x.shape[2:]))
    sent = []
    for t in range(x.shape[1]):
        s = (v - threshold > 0).astype(float)
        into = x[:, t] + (s @ recurrent if recurrent is not None else 0)
        if kind == "CuBaLIF":
            i = alpha * i + into
            v = beta * (v - s * threshold) + i
        else:
            v = (1.0 if kind == "IF" else beta) * v + into - s * threshold
        sent.append(s)
    return np.stack(sent, 1)


def spyx_leaky(beta, threshold=1.0, dt=1.0, alpha=None):
    beta, n = beta.astype(np.float32), len(beta)
    if alpha is None:
        return nir.LIF(dt / (1 - beta), beta, single(n, 0), single(n, threshold))
    return nir.CubaLIF(dt / (1 - alpha.astype(np.float32)), dt / (1 - beta), beta, single(n, 0), single(n, threshold))


def spyx_betas(n: int, seed: int = 4) -> np.ndarray:
    return random(seed).uniform(0.4, 0.9, n)


def late(sent: np.ndarray) -> np.ndarray:
    """What the layer fires, without the step it waits before sending; the last step is not seen."""
    return sent[:, 1:]


@pytest.mark.parametrize("dt", [1.0, 1e-3])
def test_spyx_sends_one_step_late(dt, tmp_path):
    a, b = weight(HIDDEN, IN), weight(OUT, HIDDEN, 2)
    bias = np.full(OUT, 0.1, np.float32)
    beta, alpha, out = spyx_betas(HIDDEN), spyx_betas(HIDDEN, 8), spyx_betas(OUT, 9)
    nodes = {
        "input": nir.Input({"input": np.array([IN])}), "layer_0": nir.Linear(a),
        "layer_1": spyx_leaky(beta, 0.8, dt, alpha), "layer_2": nir.Affine(b, bias), "layer_3": spyx_leaky(out, 1.1, dt),
        "output": nir.Output({"output": np.array([OUT])}),
    }
    network = nirfile.read(written(tmp_path, nodes))
    assert tool_of(network) == "spyx"
    assert network.input.dt is None  # its time constants are in steps
    x = frames_of(IN)
    hidden = spyx_run("CuBaLIF", x @ a.T, beta, 0.8, alpha)
    last = spyx_run("LIF", hidden @ b.T + bias, out, 1.1)
    ours = reference.run(network, x, "spikes")
    assert (ours.spikes["layer_1"][:, :-1] == late(hidden)).mean() >= 0.9999
    assert (ours.spikes["layer_3"][:, :-1] == late(last)).mean() >= 0.9999
    assert np.array_equal(ours.output, ours.spikes["layer_3"])
    assert 0 < last.mean() < 1
    path = tmp_path / "f.nir"
    assert not any(isinstance(n, Delay) for n in nirfile.read(path, profile="spyx{delay=0}").nodes.values())


@pytest.mark.parametrize("kind", ["LIF", "IF"])
def test_spyx_recurrent_layer_whose_input_is_wired_into_its_weights(kind, tmp_path):
    a, rec, beta = weight(HIDDEN, IN), weight(HIDDEN, HIDDEN, 2) * 0.5, spyx_betas(HIDDEN)
    lif = spyx_leaky(beta, 0.9) if kind == "LIF" else nir.IF(np.ones(HIDDEN), np.full(HIDDEN, 0.9))
    end = {"layer_1.input": nir.Input(np.array([HIDDEN])), "layer_1.output": nir.Output(np.array([HIDDEN]))}
    inner = nir.NIRGraph(
        nodes={"layer_1.lif": lif, "layer_1.w_rec": nir.Linear(rec.T.copy()), **end},
        edges=[("layer_1.input", "layer_1.w_rec"), ("layer_1.w_rec", "layer_1.lif"), ("layer_1.lif", "layer_1.w_rec"),
               ("layer_1.lif", "layer_1.output")],
        type_check=False,
    )
    nodes = {
        "input": nir.Input(np.array([IN])), "layer_0": nir.Linear(a), "layer_1": inner,
        "output": nir.Output(np.array([HIDDEN])),
    }
    network = nirfile.read(written(tmp_path, nodes))
    assert tool_of(network) == "spyx"
    x = frames_of(IN)
    theirs = spyx_run(kind, x @ a.T, beta, 0.9, recurrent=rec)
    assert (reference.run(network, x).output[:, :-1] == late(theirs)).mean() >= 0.9999
    assert 0 < theirs.mean() < 1


def test_spyx_flattens_with_channels_last(tmp_path):
    frame, beta = (2, 3, 4), spyx_betas(OUT)
    channels_last = weight(OUT, 24)
    nodes = {
        "input": nir.Input(np.array(frame)), "layer_0": nir.Flatten(np.array(frame), 0, -1),
        "layer_1": nir.Linear(channels_last), "layer_2": spyx_leaky(beta), "output": nir.Output(np.array([OUT])),
    }
    network = nirfile.read(written(tmp_path, nodes))
    x = frames_of(*frame)
    flat = x.transpose(0, 1, 3, 4, 2).reshape(BATCH, STEPS, -1)
    theirs = spyx_run("LIF", flat @ channels_last.T, beta, 1.0)
    assert (reference.run(network, x).output[:, :-1] == late(theirs)).mean() >= 0.9999
    assert theirs.any()


def test_spyx_padded_pooling_is_refused(tmp_path):
    two = np.array([2, 2])
    nodes = {
        "input": nir.Input(np.array([1, 5, 5])), "layer_0": nir.SumPool2d(two, two, np.array([1, 1])),
        "layer_1": nir.Flatten(np.array([1, 3, 3]), 0, -1), "layer_2": spyx_leaky(spyx_betas(9)),
        "output": nir.Output(np.array([9])),
    }
    with pytest.raises(UnsupportedError, match=r"D2E-NIR-004.*total padding"):
        nirfile.read(written(tmp_path, nodes))


# ----- writers that are not certain


def test_a_file_that_two_tools_may_have_written_names_both(tmp_path):
    nodes = {
        "input": nir.Input(np.array([IN])), "layer_0": nir.Affine(weight(OUT, IN), single(OUT, 0)),
        "layer_1": nir.IF(single(OUT, 1), single(OUT, 1)), "output": nir.Output(np.array([OUT])),
    }
    path = written(tmp_path, nodes)
    with pytest.raises(UsageError, match=r"D2E-NIR-002.*Its traits fit sinabs and spyx: --profile NAME"):
        nirfile.read(path)
    assert nirfile.read(path, profile="sinabs").neuron("layer_1").max_spikes == 0
    assert nirfile.read(path, profile="spyx").neuron("layer_1").reset_when == "next"


def test_a_file_of_none_of_them_lists_what_is_open_and_the_profiles(tmp_path):
    nodes = {
        "x": nir.Input(np.array([IN])), "fc": nir.Linear(weight(OUT, IN).astype(np.float64)),
        "n": nir.LIF(np.full(OUT, 0.02), np.full(OUT, 3.0), np.zeros(OUT), np.ones(OUT)), "y": nir.Output(np.array([OUT])),
    }
    path = written(tmp_path, nodes)
    with pytest.raises(UsageError, match=r"D2E-NIR-002.*--dt.*--reset.*snntorch, spikingjelly, sinabs"):
        nirfile.read(path)
    with pytest.raises(UsageError, match=r"D2E-NIR-002.*the time step"):
        nirfile.read(path, profile="nir")


@pytest.mark.parametrize(("version", "reset"), [(b"1.0.4", "subtract"), (b"1.0.5", "subtract"), (b"1.0.6", "zero"),
                                                (b"0.2", "subtract"), (b"main", "zero")])
def test_the_literal_reset_is_that_of_the_nir_that_wrote_the_file(version, reset, tmp_path):
    nodes = {
        "x": nir.Input(np.array([OUT])), "n": nir.IF(np.full(OUT, 3.0), np.ones(OUT)), "y": nir.Output(np.array([OUT])),
    }
    path = written(tmp_path, nodes)
    with h5py.File(path, "r+") as file:
        del file["version"]
        file["version"] = version
    assert nirfile.read(path, profile="nir", dt=0.1).neuron("n").reset == reset


@pytest.mark.parametrize("profile", [
    "sinabs{", "sinabs{v_min}", "sinabs{v_min=low}", "sinabs{norm_input=1}", "sinabs{v_max=1}", "snntorch{v_min=none}",
    "spyx{delay=2}", "sinabs{v_min=nan}", "SINABS", "nir}", "",
])
def test_unknown_profiles_and_options(profile, tmp_path):
    with pytest.raises(UsageError, match=r"D2E-NIR-001.*Known: "):
        nirfile.read(tmp_path / "never read.nir", profile=profile)


def test_older_files_of_snntorch_and_sinabs(tmp_path):
    """No v_reset, as nir wrote until 1.0.5; snnTorch's recurrent neurons as graphs of their own."""
    five = np.array([OUT])
    tau = 1e-4 / (1 - spyx_betas(OUT).astype(np.float32))
    syn = 1e-4 / (1 - spyx_betas(OUT, 5).astype(np.float32))
    ends = {"input": nir.Input(five), "output": nir.Output(five)}
    inner = nir.NIRGraph(
        nodes={**ends, "lif": nir.CubaLIF(syn, tau, tau / 1e-4, single(OUT, 0), single(OUT, 1), w_in=syn / 1e-4),
               "w_rec": nir.Affine(weight(OUT, OUT), single(OUT, 0.1))},
        edges=[("input", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")],
    )
    recurrent = {
        "input": nir.Input(np.array([IN])), "fc1": nir.Affine(weight(OUT, IN), single(OUT, 0)), "lif1": inner,
        "output": nir.Output(five),
    }
    plain = {
        "input": nir.Input(np.array([IN])), "0": nir.Affine(weight(OUT, IN), single(OUT, 0)),
        "1": nir.IF(single(OUT, 1), single(OUT, 1)), "output": nir.Output(five),
    }
    for tool, nodes, name in (("snntorch", recurrent, "lif1.lif"), ("sinabs", plain, "1")):
        path = written(tmp_path, nodes)
        with h5py.File(path, "r+") as file:
            del file["version"]
            file["version"] = "0.2"
            place = "lif1/nodes/lif" if tool == "snntorch" else "1"
            del file[f"node/nodes/{place}/v_reset"]
        network = nirfile.read(path)
        assert tool_of(network) == tool
        assert network.populations == (name,)
        assert network.neuron(name).reset == "subtract"
        assert reference.run(network, frames_of(IN)).output.any()
