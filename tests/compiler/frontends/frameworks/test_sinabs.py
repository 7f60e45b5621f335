"""Models of sinabs 3.1.3 beside the networks read from them: every spike of every neuron, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import nir
import numpy as np
import pytest
import sinabs.layers as sl
import sinabs.nir
import torch
from sinabs import from_torch as sinabs_from_torch
from sinabs.activation import MaxSpike, MembraneReset, MembraneSubtract, MultiSpike, SingleSpike
from tests.compiler.frontends.frameworks import agreement
from torch import nn

import d2e
from d2e.compiler.frontends.against import compare
from d2e.compiler.frontends.files import load_model
from d2e.compiler.frontends.torch_fx import from_torch
from d2e.ir import UnsupportedError, UsageError, reference

STEPS = 24
frames_of = partial(agreement.frames_of, steps=STEPS)
agrees = partial(agreement.agrees, steps=STEPS)


def dense(n_in: int, n_out: int, gain: float = 3.0) -> nn.Linear:
    layer = nn.Linear(n_in, n_out)
    nn.init.normal_(layer.weight, 0.2 / n_in**0.5, gain / n_in**0.5)
    return layer


def mlp(first: nn.Module, second: nn.Module) -> nn.Sequential:
    return nn.Sequential(dense(12, 20), first, dense(20, 8), second)


def conv(**options: Any) -> nn.Sequential:
    convolution = nn.Conv2d(2, 6, 3, padding=1)
    nn.init.normal_(convolution.weight, 0.05, 0.5)
    return nn.Sequential(
        convolution, sl.IAFSqueeze(min_v_mem=-1.0, **options), sl.SumPool2d(2), nn.Conv2d(6, 8, 3, bias=False),
        sl.LIFSqueeze(tau_mem=10.0, norm_input=False, spike_threshold=torch.tensor(0.3), **options), nn.Dropout(0.5),
        nn.Flatten(), dense(72, 5), sl.IAFSqueeze(spike_fn=SingleSpike, **options),
    )


MODELS: dict[str, tuple[tuple[int, ...], str, Callable[[], nn.Module]]] = {
    "mlp": ((12,), "batch-time", lambda: mlp(sl.IAF(), sl.LIF(tau_mem=8.0, spike_threshold=torch.tensor(0.2)))),
    "mlp, squeezed": ((12,), "squeezed", lambda: mlp(sl.IAFSqueeze(batch_size=3), sl.IAFSqueeze(batch_size=3))),
    "convolutions": ((2, 10, 10), "squeezed", lambda: conv(batch_size=1)),
    "convolutions, two samples at once": ((2, 10, 10), "squeezed", lambda: conv(batch_size=2)),
    "convolutions, by steps": ((2, 10, 10), "squeezed", lambda: conv(num_timesteps=15)),
    "readout": ((12,), "batch-time", lambda: mlp(sl.IAF(), sl.ExpLeak(tau_mem=6.0, norm_input=True))),
    "readout, squeezed": ((12,), "squeezed", lambda: mlp(
        sl.IAFSqueeze(batch_size=1), sl.ExpLeakSqueeze(batch_size=1, tau_mem=6.0))),
    "recurrent": ((12,), "batch-time", lambda: mlp(
        sl.LIFRecurrent(tau_mem=9.0, tau_syn=4.0, norm_input=False, rec_connect=dense(20, 20, 1.0), spike_fn=SingleSpike),
        sl.IAFRecurrent(rec_connect=nn.Sequential(nn.Flatten(), nn.Linear(8, 8, bias=False), nn.Dropout(0.2)),
                        spike_fn=MaxSpike(2), min_v_mem=-2.0))),
    "recurrent with bias in the first step": ((12,), "batch-time", lambda: mlp(
        sl.LIFRecurrent(tau_mem=5.0, rec_connect=dense(20, 20), norm_input=True, spike_fn=MaxSpike(4)),
        sl.IAFRecurrent(rec_connect=dense(8, 8), spike_fn=MaxSpike(3)))),
    "recurrent over planes": ((2, 6, 6), "batch-time", lambda: nn.Sequential(
        sl.IAFRecurrent(rec_connect=nn.Conv2d(2, 2, 3, padding=1), spike_fn=SingleSpike))),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", range(3))
def test_spikes_are_those_of_sinabs(name: str, seed: int) -> None:
    shape, layout, build = MODELS[name]
    torch.manual_seed(seed)
    agrees(build(), shape, layout, seed)


SPIKES = {"multi": MultiSpike, "single": SingleSpike, "most 3": MaxSpike(3), "no most": MaxSpike()}
RESETS = {
    "subtract": MembraneSubtract(), "subtract 0.4": MembraneSubtract(0.4), "zero": MembraneReset(),
    "subtract 1.5": MembraneSubtract(1.5), "to 0.25": MembraneReset(0.25), "to -0.3": MembraneReset(-0.3),
}


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("spikes", SPIKES)
@pytest.mark.parametrize("floor", [None, -0.6])
def test_spikes_resets_and_floors(spikes: str, reset: str, floor: float | None) -> None:
    """A floor after the spike is one before it, as long as no reset goes below it; else it is refused."""
    torch.manual_seed(2)
    options: dict[str, Any] = {"spike_fn": SPIKES[spikes], "reset_fn": RESETS[reset], "min_v_mem": floor}
    below = floor is not None and reset == "subtract 1.5" and spikes != "single"
    for layer in (
        sl.IAF(spike_threshold=torch.tensor(1.0), **options),
        sl.LIF(tau_mem=7.0, tau_syn=3.0, norm_input=False, **options),
        sl.LIF(tau_mem=torch.linspace(2, 20, 20), norm_input=True, spike_threshold=torch.linspace(0.9, 1.0, 20), **options),
    ):
        model = nn.Sequential(dense(12, 20, 6.0), layer)
        if below:
            with pytest.raises(UnsupportedError, match=r"D2E-LAYER-005.*min_v_mem"):
                from_torch(model, (12,))
        else:
            agrees(model, (12,), "batch-time")


@pytest.mark.parametrize("layer", [
    sl.IAF(spike_threshold=torch.linspace(0.2, 2, 20)), sl.IAF(tau_syn=4.0),
    sl.IAF(tau_syn=torch.linspace(1, 9, 20), min_v_mem=-0.5),
    sl.LIF(tau_mem=6.0, tau_syn=2.0, spike_threshold=torch.tensor(0.3)),
    sl.LIF(tau_mem=6.0, train_alphas=True, spike_threshold=torch.tensor(0.3)),
    sl.LIF(tau_mem=6.0, tau_syn=3.0, train_alphas=True, norm_input=False), sl.LIF(tau_mem=0.4, norm_input=False),
    sl.IAF(min_v_mem=0.0), sl.IAF(shape=(3, 20)), sl.IAF(record_states=True), sl.IAF(spike_threshold=torch.tensor([0.5])),
], ids=str)
def test_parameters(layer: nn.Module) -> None:
    torch.manual_seed(1)
    agrees(nn.Sequential(dense(12, 20), layer), (12,), "batch-time")


class Own(sl.IAFSqueeze):
    """A layer of the user's own that keeps sinabs' forward."""


def test_subclasses() -> None:
    torch.manual_seed(0)
    agrees(nn.Sequential(dense(12, 20), Own(batch_size=3)), (12,), "squeezed")


def test_per_channel_thresholds() -> None:
    model = conv(batch_size=1)
    model[1] = sl.IAFSqueeze(batch_size=1, spike_threshold=torch.linspace(0.5, 2, 6).reshape(1, 6, 1, 1))
    agrees(model, (2, 10, 10), "squeezed")
    assert from_torch(model, (2, 10, 10)).neuron("1").threshold.shape == (6, 1, 1)


def test_time_folded_and_unfolded_by_layers() -> None:
    torch.manual_seed(0)
    folded = nn.Sequential(sl.FlattenTime(), *conv(batch_size=3), sl.UnflattenTime(batch_size=3), dense(5, 4, 6.0), sl.IAF())
    agrees(folded, (2, 10, 10), "batch-time")
    convolution = nn.Conv2d(2, 6, 3, padding=1)
    nn.init.normal_(convolution.weight, 0.05, 0.5)
    repeated = nn.Sequential(
        sl.Repeat(convolution), sl.IAF(), sl.Repeat(nn.Sequential(sl.SumPool2d(2), nn.Flatten())), dense(150, 6), sl.IAF(),
        sl.Repeat(nn.Sequential(dense(6, 6), sl.IAFSqueeze(batch_size=3))), sl.IAF(), nn.Flatten(2), dense(6, 3), sl.IAF())
    agrees(repeated, (2, 10, 10), "batch-time")


class Folding(nn.Module):
    """Time folded into the batch around the convolutions by the user's own ``forward``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool, self.fold = nn.Conv2d(2, 6, 3, padding=1), sl.SumPool2d(2), nn.Flatten(0, 1)
        nn.init.normal_(self.conv.weight, 0.05, 0.5)
        self.one, self.two, self.fc = sl.IAF(), sl.LIF(tau_mem=5.0), dense(96, 10, 8.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, steps = x.shape[:2]
        x = self.one(self.conv(x.flatten(0, 1)).unflatten(0, (batch, steps)))
        x = self.pool(self.fold(x)).flatten(1).unflatten(0, (batch, steps))
        return self.two(self.fc(x))


def test_time_folded_in_a_forward() -> None:
    torch.manual_seed(3)
    agrees(Folding(), (2, 8, 8), "batch-time")


def test_merged_branches() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), sl.IAFSqueeze(batch_size=1))
            self.two = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), sl.IAFSqueeze(batch_size=1))
            self.merge, self.flatten = sl.Merge(), nn.Flatten()
            self.last, self.out = dense(144, 8, 12.0), sl.IAFSqueeze(batch_size=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            one = self.one(x)
            return self.out(self.last(self.flatten(self.merge(one, self.two(x)))))

    torch.manual_seed(3)
    agrees(Branches(), (2, 6, 6), "squeezed")


@pytest.mark.parametrize("reset", [MembraneSubtract(), MembraneReset()], ids=["subtract", "zero"])
def test_a_network_that_sinabs_made_of_an_ann(reset: Any) -> None:
    torch.manual_seed(4)
    ann = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), sl.SumPool2d(2), nn.Flatten(), dense(36, 8), nn.ReLU())
    made = sinabs_from_torch.from_model(ann, input_shape=(1, 8, 8), batch_size=1, reset_fn=reset, synops=True)
    found = agrees(made, (1, 8, 8), "squeezed")
    assert set(found.populations) == {"spiking_model.1", "spiking_model.5"}


def test_the_model_says_its_steps() -> None:
    assert from_torch(conv(num_timesteps=15), (2, 10, 10)).input.time_steps == 15
    longer = from_torch(conv(num_timesteps=15), (2, 10, 10), time_steps=20)
    assert longer.input.time_steps == 20
    with pytest.raises(UsageError, match=r"D2E-AGAINST-003.*15 steps per sample, the frames have 20"):
        compare(conv(num_timesteps=15), longer, frames_of(longer, 0))


class Reading(nn.Module):
    def __init__(self, read: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.net, self.read = mlp(sl.IAF(), sl.ExpLeak(6.0)), read

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(self.net(x))


@pytest.mark.parametrize(("read", "readout"), [
    (lambda y: y.sum(1), "count"), (lambda y: torch.mean(y, dim=1), "mean"), (lambda y: y.mean((1,)), "mean"),
    (lambda y: y[:, -1], "last"), (lambda y: y[:, -1, :], "last"), (lambda y: y, "count"),
], ids=["sum", "mean", "mean of axes", "last", "last of all", "frames"])
def test_a_readout_over_time_at_the_end(read: Any, readout: str) -> None:
    model = Reading(read)
    network = from_torch(model, (12,))
    assert network.output.readout == readout
    assert compare(model, network, frames_of(network, 0)).agreement == 1
    assert from_torch(model, (12,), readout="mean").output.readout == "mean"


@pytest.mark.parametrize("read", [lambda y: y.sum(2), lambda y: y.sum(0), lambda y: y[:, 0], lambda y: y.sum()])
def test_other_readouts_are_refused(read: Any) -> None:
    with pytest.raises(UnsupportedError, match="D2E-LAYER-006"):
        from_torch(Reading(read), (12,))


def trained(model: nn.Module, frames: torch.Tensor, labels: torch.Tensor, squeezed: bool) -> nn.Module:
    """A few steps of training: the second half of the inputs against the first."""
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(15):
        for layer in model.modules():
            if isinstance(layer, sl.StatefulLayer):
                layer.reset_states()
        out = model(frames.flatten(0, 1) if squeezed else frames)
        rates = (out.reshape(*frames.shape[:2], -1) if squeezed else out).mean(1)
        loss = nn.functional.cross_entropy(rates, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("name", ["mlp", "convolutions", "recurrent"])
def test_briefly_trained(name: str) -> None:
    shape, layout, build = MODELS[name]
    torch.manual_seed(5)
    model = conv(num_timesteps=STEPS) if name == "convolutions" else build()
    before = {key: value.clone() for key, value in model.state_dict().items() if "weight" in key}
    labels = torch.arange(16) % 2
    rates = torch.rand(2, *shape)[labels] * 0.7
    frames = torch.bernoulli(rates[:, None].expand(16, STEPS, *shape))
    trained(model, frames, labels, layout == "squeezed")
    assert any((model.state_dict()[key] != value).any() for key, value in before.items())
    network = from_torch(model, shape)
    found = compare(model, network, frames.numpy().astype(np.int64))
    assert found.agreement >= 0.9999, found.first
    assert all(theirs != 0 for theirs, _ in found.spikes.values())


def random_neuron(rng: np.random.Generator, n: int) -> nn.Module:
    """Any neuron with any options, scalar or per neuron."""
    def number(low: float, high: float) -> torch.Tensor:
        return torch.tensor(rng.uniform(low, high, n if rng.random() < 0.5 else ()), dtype=torch.float32)

    def one_of(*values: Any) -> Any:
        return values[rng.integers(len(values))]

    recurrent = rng.random() < 0.4
    options: dict[str, Any] = {
        "spike_fn": one_of(SingleSpike, MaxSpike(2), *(() if recurrent else (MultiSpike, MaxSpike()))),
        "reset_fn": one_of(MembraneSubtract(), MembraneSubtract(float(rng.uniform(0.2, 1))), MembraneReset(),
                           MembraneReset(float(rng.uniform(-0.6, 0.6)))),
        "min_v_mem": one_of(None, number(-2, -0.7)), "spike_threshold": number(1, 2),
        "tau_syn": one_of(None, number(0.5, 9)),
        **({"rec_connect": dense(n, n, 1.0)} if recurrent else {}),
    }
    if rng.random() < 0.4:
        return sl.IAFRecurrent(**options) if recurrent else sl.IAF(**options)
    leak = {"tau_mem": number(0.5, 20), "norm_input": bool(rng.random() < 0.3), "train_alphas": bool(rng.random() < 0.3)}
    return sl.LIFRecurrent(**leak, **options) if recurrent else sl.LIF(**leak, **options)


def test_random_models() -> None:
    """Over all of them at most one neuron-step in 10,000 differs, by rounding at the threshold."""
    equal = total = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        model = nn.Sequential(dense(12, 20, 5.0), random_neuron(rng, 20), dense(20, 8, 5.0), random_neuron(rng, 8))
        network = from_torch(model, (12,))
        found = compare(model, network, frames_of(network, seed))
        equal += sum(same for same, _ in found.populations.values())
        total += sum(steps for _, steps in found.populations.values())
        assert found.spikes["1"][0] > 0, f"seed {seed} is silent"
    assert equal / total >= 0.9999


class Custom(MembraneSubtract):
    pass


def _spikes_of_mine(*_: Any) -> None:
    return None


REFUSED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str, str]] = {
    "ALIF": (lambda: nn.Sequential(sl.ALIF(tau_mem=5.0, tau_adapt=5.0)), (4,), "D2E-LAYER-008", "ALIF adapts its threshold"),
    "NeuromorphicReLU": (lambda: nn.Sequential(nn.Linear(4, 4), sl.NeuromorphicReLU()), (4,), "D2E-LAYER-002", "activation"),
    "QuantizeLayer": (lambda: mlp(sl.QuantizeLayer(), sl.IAF()), (12,), "D2E-LAYER-002", "QuantizeLayer"),
    "max pooling": (lambda: nn.Sequential(sl.SpikingMaxPooling2dLayer((2, 2))), (1, 4, 4), "D2E-LAYER-001", "maximum"),
    "cropping": (lambda: nn.Sequential(sl.Cropping2dLayer(((1, 1), (0, 0)))), (1, 4, 4), "D2E-LAYER-010", "cuts the frame"),
    "encoder": (lambda: nn.Sequential(sl.Img2SpikeLayer((1, 4, 4))), (1, 4, 4), "D2E-LAYER-009", "encoder"),
    "channel shift": (lambda: nn.Sequential(sl.ChannelShift(2)), (1, 4, 4), "D2E-LAYER-006", "ChannelShift"),
    "spike_fn": (lambda: nn.Sequential(sl.IAF(spike_fn=_spikes_of_mine)), (4,), "D2E-LAYER-005", "spike_fn=_spikes_of_mine"),
    "reset_fn": (lambda: nn.Sequential(sl.IAF(reset_fn=Custom())), (4,), "D2E-LAYER-005", "reset_fn=Custom"),
    "floor of a readout": (lambda: nn.Sequential(sl.ExpLeak(3.0, min_v_mem=-1.0)), (4,), "D2E-LAYER-005", "min_v_mem"),
    "floor above zero": (lambda: nn.Sequential(sl.IAF(min_v_mem=0.5)), (4,), "D2E-LAYER-005", "min_v_mem=0.5"),
    "ceil_mode": (lambda: nn.Sequential(sl.SumPool2d(2, ceil_mode=True), sl.IAFSqueeze(batch_size=1)), (1, 5, 5),
                  "D2E-LAYER-005", "ceil_mode"),
    "norm of 2": (lambda: nn.Sequential(nn.LPPool2d(2, 2), sl.IAFSqueeze(batch_size=1)), (1, 4, 4), "D2E-LAYER-001",
                  "LPPool2d"),
    "plain behind a convolution": (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), sl.IAF()), (1, 8, 8), "D2E-LAYER-005",
                                   r"takes \[batch, time, …\] but receives \[batch \* time, …\].*IAFSqueeze"),
    "squeezed behind plain": (lambda: mlp(sl.IAF(), sl.IAFSqueeze(batch_size=1)), (12,), "D2E-LAYER-005",
                              "receives .batch, time"),
    "plain in Repeat": (lambda: nn.Sequential(sl.Repeat(sl.IAF())), (4,), "D2E-LAYER-005", "takes .batch, time"),
    "recurrence of another shape": (lambda: nn.Sequential(sl.IAFRecurrent(rec_connect=nn.Linear(4, 2))), (4,),
                                    "D2E-LAYER-005", "into"),
    "recurrence through a neuron": (lambda: nn.Sequential(sl.IAFRecurrent(rec_connect=nn.Sequential(sl.IAF()))), (4,),
                                    "D2E-LAYER-006", "IAF in rec_connect"),
    "merging other sizes": (lambda: _Merging(), (4,), "D2E-SHAPE-001", "adds frames of shapes"),
}


class _Merging(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.merge, self.out = nn.Linear(4, 3), sl.Merge(), sl.IAF()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.merge(x, self.layer(x)))


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    build, shape, code, text = REFUSED[name]
    with pytest.raises(UnsupportedError) as caught:
        from_torch(build(), shape)
    assert caught.value.findings[0].code == code
    assert caught.value.findings[0].hint
    assert re.search(text, f"{caught.value} {caught.value.findings[0].hint}", re.DOTALL)


@pytest.mark.parametrize("target", ["speck2f-sim", "loihi2-sim"])
def test_compiles_with_drift(target: str) -> None:
    torch.manual_seed(6)
    convolution = nn.Conv2d(2, 6, 3, padding=1, bias=False)
    nn.init.normal_(convolution.weight, 0.05, 0.3)
    model = nn.Sequential(convolution, sl.IAFSqueeze(batch_size=1, min_v_mem=-1.0), sl.SumPool2d(2), nn.Flatten(),
                          nn.Linear(96, 5, bias=False), sl.IAFSqueeze(batch_size=1, min_v_mem=-1.0))
    frames = np.random.default_rng(1).binomial(1, 0.3, (4, 20, 2, 8, 8)).astype(np.int64)
    program = d2e.compile(model, target=target, input_shape=(2, 8, 8), time_steps=20, calibration=frames, eval=frames)
    rows = program.report["accuracy"]["passes"]
    assert rows[0]["spikes"] > 100
    assert all("max_count_error" in row for row in rows[1:])
    assert len(rows) > 3
    counts = program.run(frames).counts
    assert set(counts) == {"1", "5"}
    assert all(value.sum() > 0 for value in counts.values())


def test_pickled_models_need_the_users_word(tmp_path: Any) -> None:
    """sinabs' classes hold functions of sinabs, which the restricted unpickler does not load."""
    path = tmp_path / "model.pt"
    model = conv(batch_size=1)
    torch.save(model, path)
    with pytest.raises(UsageError, match=r"D2E-LOAD-006.*sinabs\.layers\.iaf\.IAFSqueeze"):
        load_model(path, input_shape=(2, 10, 10))
    network = load_model(path, input_shape=(2, 10, 10), allow_pickle=True)
    assert network.populations == ("1", "4", "8")


@pytest.mark.parametrize(("spikes", "flags"), [(MultiSpike, {}), (SingleSpike, {"max_spikes": 1})], ids=["multi", "single"])
def test_its_nir_file_reads_as_the_model(spikes: Any, flags: dict[str, Any], tmp_path: Any) -> None:
    """A file says neither spike_fn nor reset: the profile is sinabs' default, a flag is what the user changed."""
    torch.manual_seed(7)
    convolution = nn.Conv2d(2, 6, 3, padding=1)
    nn.init.normal_(convolution.weight, 0.05, 0.5)
    model = nn.Sequential(
        convolution, sl.IAFSqueeze(batch_size=1, min_v_mem=-1.0, spike_fn=spikes), sl.SumPool2d(2), nn.Flatten(),
        dense(96, 5), sl.IAFSqueeze(batch_size=1, min_v_mem=-1.0, spike_fn=spikes))
    graph = sinabs.nir.to_nir(model, torch.rand(4, 2, 8, 8))
    graph.infer_types()
    nir.write(tmp_path / "model.nir", graph)
    read = load_model(tmp_path / "model.nir", profile="sinabs", **flags)
    network = from_torch(model, (2, 8, 8))
    frames = frames_of(network, 7)
    theirs, ours = reference.run(read, frames, "spikes").spikes, reference.run(network, frames, "spikes").spikes
    for other, mine in zip(read.populations, network.populations, strict=True):
        assert ours[mine].sum() > 20
        assert (theirs[other] == ours[mine]).all()
