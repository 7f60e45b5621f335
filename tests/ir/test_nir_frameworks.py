"""Files that snnTorch, SpikingJelly, sinabs and Norse write: recognised, and read as the framework itself computes.

Every case runs the source model in its own framework, step by step in float32, beside the reference on its file.
"""

from __future__ import annotations

from pathlib import Path

import nir
import norse.torch as norse
import numpy as np
import pytest
import sinabs.layers as sl
import sinabs.nir
import snntorch
import torch
from norse.torch.module.lif_box import LIFBoxCell
from snntorch import utils as snntorch_utils
from snntorch.export_nir import export_to_nir
from spikingjelly.activation_based import functional, layer, neuron, nir_exchange
from torch import nn

from d2e.ir import D2EError, Network, Neuron, nirfile, reference

STEPS, BATCH, IN, HIDDEN, OUT = 40, 8, 12, 20, 6
ENOUGH = 0.9999


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(5)


def frames_of(*shape: int, rate: float = 0.4) -> np.ndarray:
    return (np.random.default_rng(7).random((BATCH, STEPS, *shape)) < rate).astype(np.int64)


def strong(*layers: nn.Module) -> list[nn.Module]:
    """Layers with weights and biases that make their neurons fire."""
    for module in layers:
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.normal_(module.weight, 0.05, 0.5)
            if module.bias is not None:
                nn.init.uniform_(module.bias, -0.1, 0.1)
    return list(layers)


def file_of(graph: nir.NIRGraph, folder: Path) -> Path:
    nir.write(folder / "n.nir", graph)
    return folder / "n.nir"


def read(path, tool: str, **choices) -> Network:
    network = nirfile.read(path, **choices)
    if not choices.get("profile"):
        notes = {note["code"]: note["message"] for note in network.metadata["warnings"]}
        assert notes["D2E-NIR-010"].startswith(f"read as written by {tool}")
        assert f"a file of {tool}" in notes["D2E-NIR-011"]
    return network


def assert_same_spikes(network: Network, frames: np.ndarray, theirs: dict[str, np.ndarray]) -> None:
    """What the framework sent [batch, time, *shape] by population, or v of a readout."""
    ours = reference.run(network, frames, "state")
    assert theirs
    for name, sent in theirs.items():
        node = network.nodes[name]
        assert isinstance(node, Neuron)
        if node.kind == "li":
            assert np.allclose(ours.v[name], sent, atol=1e-4)
            continue
        assert (ours.spikes[name] == sent).mean() >= ENOUGH, name
        assert 0.01 < (sent > 0).mean() < 0.99, name


def recorded(model: nn.Module, names: dict[str, nn.Module], call) -> dict[str, np.ndarray]:
    """Output of modules over the calls that ``call`` makes: [batch, time, *shape]."""
    sent: dict[str, list[torch.Tensor]] = {name: [] for name in names}

    def keep(name):
        def hook(_module, _inputs, output):
            sent[name].append(output[0] if isinstance(output, tuple) else output)
        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in names.items()]
    with torch.no_grad():
        call(model)
    for handle in handles:
        handle.remove()
    return {name: torch.stack(steps, 1).numpy() for name, steps in sent.items()}


def by_steps(frames: np.ndarray):
    data = torch.as_tensor(frames, dtype=torch.float32)
    return lambda model: [model(data[:, t]) for t in range(STEPS)]


# ----- snnTorch 1.0.0


def leaky(*shape: int, **options) -> snntorch.Leaky:
    full = {"beta": torch.full(shape, 0.85), "threshold": torch.full(shape, 0.9)} | options
    return snntorch.Leaky(init_hidden=True, **full)


def test_snntorch_leaky_and_synaptic(tmp_path):
    net = nn.Sequential(*strong(
        nn.Linear(IN, HIDDEN), leaky(HIDDEN, beta=torch.rand(HIDDEN)), nn.Linear(HIDDEN, OUT, bias=False),
        snntorch.Synaptic(alpha=torch.rand(OUT), beta=torch.rand(OUT), threshold=torch.full((OUT,), 1.5), init_hidden=True),
    ))
    path = file_of(export_to_nir(net, torch.rand(1, IN), ignore_dims=[0]), tmp_path)
    snntorch_utils.reset(net)
    frames = frames_of(IN)
    assert_same_spikes(read(path, "snntorch"), frames, recorded(net, {"1": net[1], "3": net[3]}, by_steps(frames)))


def test_snntorch_convolutions(tmp_path):
    net = nn.Sequential(*strong(
        nn.Conv2d(2, 3, 3), leaky(3, 6, 6), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(27, OUT), leaky(OUT),
    ))
    path = file_of(export_to_nir(net, torch.rand(1, 2, 8, 8), ignore_dims=[0]), tmp_path)
    snntorch_utils.reset(net)
    frames = frames_of(2, 8, 8)
    assert_same_spikes(read(path, "snntorch"), frames, recorded(net, {"1": net[1], "5": net[5]}, by_steps(frames)))


def test_snntorch_recurrent(tmp_path):
    net = nn.Sequential(*strong(
        nn.Linear(IN, HIDDEN), snntorch.RSynaptic(alpha=0.5, beta=0.7, linear_features=HIDDEN, init_hidden=True),
        nn.Linear(HIDDEN, OUT), snntorch.RLeaky(beta=0.8, all_to_all=False, V=torch.rand(OUT), init_hidden=True),
    ))
    path = file_of(export_to_nir(net, torch.rand(1, IN), ignore_dims=[0]), tmp_path)
    snntorch_utils.reset(net)
    frames = frames_of(IN)
    network = read(path, "snntorch")
    assert {tuple(e)[:2] for e in network.edges if e.recurrent} == {("1.lif", "1.w_rec"), ("3.lif", "3.w_rec")}
    names = {"1.lif": net[1], "3.lif": net[3]}
    assert_same_spikes(network, frames, recorded(net, names, by_steps(frames)))


def test_snntorch_beta_of_one_has_no_leak(tmp_path):
    net = nn.Sequential(*strong(nn.Linear(IN, OUT), leaky(OUT, beta=torch.ones(OUT), threshold=torch.full((OUT,), 3.0))))
    path = file_of(export_to_nir(net, torch.rand(1, IN), ignore_dims=[0]), tmp_path)
    snntorch_utils.reset(net)
    frames = frames_of(IN)
    network = read(path, "snntorch")
    assert (network.nodes["1"].decay_mem == 1).all()
    assert (network.nodes["1"].gain == 1).all()
    assert_same_spikes(network, frames, recorded(net, {"1": net[1]}, by_steps(frames)))


# ----- SpikingJelly 2.0.0


def spikingjelly_file(net: nn.Module, folder, *shape: int, **options):
    nir_exchange.export_to_nir(net, torch.rand(*shape), folder / "n.nir", **options)
    functional.reset_net(net)
    return folder / "n.nir"


def test_spikingjelly_step_by_step(tmp_path):
    net = nn.Sequential(*strong(
        nn.Linear(IN, HIDDEN), neuron.LIFNode(tau=2.0, v_threshold=0.5), nn.Linear(HIDDEN, HIDDEN), neuron.IFNode(3.0),
        nn.Linear(HIDDEN, OUT), neuron.LIFNode(tau=4.0, v_threshold=1.5, v_reset=-0.2, decay_input=False),
    ))
    path = spikingjelly_file(net, tmp_path, 1, IN)
    frames = frames_of(IN)
    names = {f"_{i}": net[i] for i in (1, 3, 5)}
    assert_same_spikes(read(path, "spikingjelly"), frames, recorded(net, names, by_steps(frames)))


def test_spikingjelly_several_steps_and_convolutions(tmp_path):
    net = nn.Sequential(*strong(
        layer.Conv2d(2, 3, 3), neuron.ParametricLIFNode(v_threshold=0.4), layer.AvgPool2d(2), layer.Flatten(),
        layer.Linear(27, OUT), neuron.LIFNode(tau=3.0, v_threshold=0.4),
    ))
    functional.set_step_mode(net, "m")
    path = spikingjelly_file(net, tmp_path, STEPS, 1, 2, 8, 8)
    frames = frames_of(2, 8, 8)
    data = torch.as_tensor(frames, dtype=torch.float32).transpose(0, 1)
    sent = recorded(net, {"_1": net[1], "_5": net[5]}, lambda model: model(data))
    theirs = {name: value[:, 0].swapaxes(0, 1) for name, value in sent.items()}  # one call of [time, batch, …]
    assert_same_spikes(read(path, "spikingjelly"), frames, theirs)


class Branching(nn.Module):
    """Two ways to the last population, one through another; names of its own."""

    def __init__(self):
        super().__init__()
        self.block = nn.ModuleDict({"fc": nn.Linear(IN, HIDDEN), "lif": neuron.LIFNode(v_threshold=0.4)})
        self.skip, self.fc, self.out = nn.Linear(HIDDEN, OUT), nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, OUT)
        self.mid, self.last = neuron.IFNode(2.0), neuron.LIFNode(v_threshold=0.8)
        strong(*self.modules())

    def forward(self, x):
        first = self.block["lif"](self.block["fc"](x))
        return self.last(self.skip(first) + self.out(self.mid(self.fc(first))))


def test_spikingjelly_branches(tmp_path):
    net = Branching()
    path = spikingjelly_file(net, tmp_path, 1, IN)
    frames = frames_of(IN)
    names = {"block_lif": net.block["lif"], "mid": net.mid, "last": net.last}
    assert_same_spikes(read(path, "spikingjelly"), frames, recorded(net, names, by_steps(frames)))


def test_spikingjelly_current_based_with_a_time_step_of_its_own(tmp_path):
    net = nn.Sequential(*strong(
        nn.Linear(IN, OUT), neuron.CUBALIFNode(c_decay=0.4, v_decay=0.6, v_threshold=2.0),
    ))
    path = spikingjelly_file(net, tmp_path, 1, IN, dt=1e-3)
    network = read(path, "spikingjelly")
    assert network.input.dt == pytest.approx(1e-3)
    frames = frames_of(IN)
    assert_same_spikes(network, frames, recorded(net, {"_1": net[1]}, by_steps(frames)))


def test_spikingjelly_decay_input_alone_leaves_its_time_step_to_the_user(tmp_path):
    net = nn.Sequential(*strong(nn.Linear(IN, OUT), neuron.LIFNode(tau=2.0)))
    path = spikingjelly_file(net, tmp_path, 1, IN, dt=1e-3)
    assert read(path, "spikingjelly").nodes["_1"].decay_mem[0] == pytest.approx(0.95)  # taken as 1e-4, and said so
    network = read(path, "spikingjelly", dt=1e-3)
    assert network.nodes["_1"].decay_mem[0] == pytest.approx(0.5)
    frames = frames_of(IN)
    assert_same_spikes(network, frames, recorded(net, {"_1": net[1]}, by_steps(frames)))


# ----- sinabs 3.1.3


def sinabs_run(net: nn.Module, frames: np.ndarray, names: dict[str, nn.Module]) -> dict[str, np.ndarray]:
    """One call of [batch * time, …], as the Squeeze layers take it."""
    data = torch.as_tensor(frames, dtype=torch.float32).flatten(0, 1)
    sinabs.reset_states(net)
    sent = recorded(net, names, lambda model: model(data))
    return {name: v[:, 0].reshape(BATCH, STEPS, *v.shape[2:]) for name, v in sent.items()}


def sinabs_file(net: nn.Module, folder, *shape: int):
    graph = sinabs.nir.to_nir(net, torch.rand(BATCH * STEPS, *shape))
    graph.infer_types()
    return file_of(graph, folder)


@pytest.mark.parametrize(("floor", "profile"), [(-1.0, None), (None, "sinabs{v_min=none}"), (-0.5, "sinabs{v_min=-0.5}")])
def test_sinabs_iaf_convolutions(floor, profile, tmp_path):
    net = nn.Sequential(*strong(
        nn.Conv2d(2, 3, 3, bias=False), sl.IAFSqueeze(batch_size=BATCH, min_v_mem=floor), sl.SumPool2d(2), nn.Flatten(),
        nn.Linear(27, OUT), sl.IAFSqueeze(batch_size=BATCH, min_v_mem=floor),
    ))
    path = sinabs_file(net, tmp_path, 2, 8, 8)
    frames = frames_of(2, 8, 8, rate=0.1)
    theirs = sinabs_run(net, frames, {"1": net[1], "5": net[5]})
    assert max(v.max() for v in theirs.values()) > 1
    assert_same_spikes(read(path, "sinabs", profile=profile), frames, theirs)


@pytest.mark.parametrize(("normalised", "profile"), [(True, None), (False, "sinabs{norm_input=no}")])
def test_sinabs_lif_and_readout(normalised, profile, tmp_path):
    net = nn.Sequential(*strong(
        nn.Linear(IN, HIDDEN),
        sl.LIFSqueeze(
            tau_mem=torch.full((HIDDEN,), 5.0), spike_threshold=torch.full((HIDDEN,), 0.4), batch_size=BATCH,
            norm_input=normalised,
        ),
        nn.Linear(HIDDEN, OUT), sl.ExpLeakSqueeze(tau_mem=torch.full((OUT,), 8.0), batch_size=BATCH, norm_input=False),
    ))
    path = sinabs_file(net, tmp_path, IN)
    frames = frames_of(IN)
    assert_same_spikes(
        read(path, "sinabs", profile=profile), frames, sinabs_run(net, frames, {"1": net[1], "3": net[3]}),
    )


# ----- Norse 1.1.0


def norse_run(net: nn.Module, frames: np.ndarray, names: dict[str, nn.Module]) -> dict[str, np.ndarray]:
    data = torch.as_tensor(frames, dtype=torch.float32)

    def call(model):
        state = None
        for t in range(STEPS):
            _, state = model(data[:, t], state)

    return recorded(net, names, call)


def full(n: int, value: float) -> torch.Tensor:
    return torch.full((n,), value)


def test_norse_box_and_integrator(tmp_path):
    box = norse.LIFBoxParameters(
        tau_mem_inv=full(HIDDEN, 200.0), v_leak=full(HIDDEN, 0.05), v_th=full(HIDDEN, 0.5), v_reset=full(HIDDEN, 0.0),
    )
    net = norse.SequentialState(*strong(
        nn.Linear(IN, HIDDEN), LIFBoxCell(box),
        nn.Linear(HIDDEN, OUT), norse.IAFCell(norse.IAFParameters(v_th=full(OUT, 3.0))),
    ))
    path = file_of(norse.to_nir(net, torch.rand(1, IN)), tmp_path)
    network = read(path, "norse")
    assert network.input.shape == (IN,)  # the file says [1, IN]
    assert network.input.dt == pytest.approx(1e-3)
    frames = frames_of(IN)
    modules = list(net.children())
    assert_same_spikes(network, frames, norse_run(net, frames, {"1": modules[1], "3": modules[3]}))


def test_norse_current_and_readout(tmp_path):
    cell = norse.LIFParameters(
        tau_syn_inv=full(HIDDEN, 300.0), tau_mem_inv=full(HIDDEN, 100.0), v_leak=full(HIDDEN, 0.0), v_th=full(HIDDEN, 0.6),
        v_reset=full(HIDDEN, 0.0),
    )
    readout = norse.LIBoxParameters(tau_mem_inv=full(OUT, 150.0), v_leak=full(OUT, 0.0))
    net = norse.SequentialState(*strong(
        nn.Linear(IN, HIDDEN), norse.LIFCell(cell), nn.Linear(HIDDEN, OUT), norse.LIBoxCell(readout),
    ))
    path = file_of(norse.to_nir(net, torch.rand(3, IN)), tmp_path)
    frames = frames_of(IN)
    modules = list(net.children())
    assert_same_spikes(read(path, "norse"), frames, norse_run(net, frames, {"1": modules[1], "3": modules[3]}))


# ----- what several tools may have written


def test_a_wrong_profile_computes_something_else_or_is_refused(tmp_path):
    net = nn.Sequential(*strong(nn.Linear(IN, OUT), leaky(OUT)))
    path = file_of(export_to_nir(net, torch.rand(1, IN), ignore_dims=[0]), tmp_path)
    right = nirfile.read(path)
    assert nirfile.read(path, profile="snntorch").nodes["1"].same(right.nodes["1"])
    frames = frames_of(IN)
    expected = reference.run(right, frames).counts["1"]
    other = nirfile.read(path, profile="spikingjelly")
    assert (reference.run(other, frames).counts["1"] != expected).any()
    with pytest.raises(D2EError, match=r"D2E-DYN-003.*another --profile"):
        nirfile.read(path, profile="spyx")


def test_flags_go_before_what_is_recognised(tmp_path):
    net = nn.Sequential(*strong(nn.Linear(IN, OUT), leaky(OUT)))
    path = file_of(export_to_nir(net, torch.rand(1, IN), ignore_dims=[0]), tmp_path)
    node = nirfile.read(path, reset="zero", fire="ge", max_spikes=3).neuron("1")
    assert (node.reset, node.reset_when, node.fire, node.max_spikes) == ("zero", "same", "ge", 3)


@pytest.mark.parametrize(("options", "reset"), [
    ({"reset_mechanism": "none"}, "none"), ({"reset_delay": False}, "subtract"),
    ({"reset_mechanism": "zero", "reset_delay": False}, "zero"),
])
def test_snntorch_resets_that_a_flag_states(options, reset, tmp_path):
    net = nn.Sequential(*strong(nn.Linear(IN, OUT), leaky(OUT, threshold=torch.full((OUT,), 2.5), **options)))
    path = file_of(export_to_nir(net, torch.rand(1, IN), ignore_dims=[0]), tmp_path)
    snntorch_utils.reset(net)
    frames = frames_of(IN)
    theirs = recorded(net, {"1": net[1]}, by_steps(frames))
    assert_same_spikes(read(path, "snntorch", reset=reset), frames, theirs)
    default = reference.run(nirfile.read(path), frames, "spikes").spikes["1"]
    assert (default == theirs["1"]).mean() < ENOUGH  # what the file does not say matters
