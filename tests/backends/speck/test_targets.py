"""From a trained model to Speck, through the public interface: engines agree, options act, recordings stream."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import d2e
from d2e import nn as snn
from d2e.backends.speck.configuration import Configuration
from d2e.backends.speck.lowering import configure, layers
from d2e.cli import main
from d2e.ir import UnsupportedError, UsageError

DIGITS = Path(__file__).parents[3] / "examples" / "digits"


def _model(*, bias: bool = False, scale: float = 1.0) -> snn.Sequential:
    torch.manual_seed(3)
    model = snn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=bias), snn.IF(max_spikes=0, v_min=-1.0), nn.AvgPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1, bias=bias), snn.IF(max_spikes=0, v_min=-1.0), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(8 * 4 * 4, 5, bias=bias), snn.IF(max_spikes=0, v_min=-1.0),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= scale
    return model


def _frames(samples: int = 3, steps: int = 5) -> np.ndarray:
    return (np.random.default_rng(0).random((samples, steps, 2, 16, 16)) < 0.3).astype(np.int64)


@pytest.fixture(scope="module")
def program() -> d2e.Program:
    return d2e.compile(_model(scale=8.0), target="speck2f-sim", input_shape=(2, 16, 16), time_steps=5)


def test_engines_agree(program: d2e.Program) -> None:
    """The simulator, the plain reference and the board that is our simulator give the same spikes."""
    frames = _frames()
    fast = program.run(frames, record="spikes")
    assert fast.output.sum() > 0
    for engine in ("reference", "simulated-board"):
        other = program.run(frames, engine=engine, record="spikes")
        assert (other.output == fast.output).all()
        for name in fast.spikes:
            assert (other.spikes[name] == fast.spikes[name]).all()


def test_source_shapes_and_names(program: d2e.Program) -> None:
    """Results are in the populations of the source."""
    result = program.run(_frames(), record="state")
    assert {n: c.shape[1:] for n, c in result.counts.items()} == {"1": (6, 16, 16), "4": (8, 8, 8), "8": (5,)}
    assert result.v["8"].shape == (3, 5, 5)


def test_saved_program_is_the_same(program: d2e.Program, tmp_path: Path) -> None:
    """Saving and loading changes no spike; the configuration on disk is the one that was run."""
    program.save(tmp_path / "program")
    loaded = d2e.load(tmp_path / "program")
    assert (loaded.run(_frames()).output == program.run(_frames()).output).all()
    written = (tmp_path / "program" / "target" / "speck_config.json").read_text()
    assert written == configure(program.network).to_json() == Configuration.from_json(written).to_json()
    rows = (tmp_path / "program" / "mapping.csv").read_text().splitlines()
    assert len(rows) == 4


def test_event_rows_of_the_report() -> None:
    """What events cost is a row of its own, and every layer says its drift."""
    frames, labels = _frames(6), np.array([0, 1, 2, 3, 4, 0])
    report = d2e.compile(_model(scale=8.0), target="speck2f-sim", input_shape=(2, 16, 16), time_steps=5,
                         eval=(frames, labels)).report
    rows = {row["pass"]: row for row in report["accuracy"]["passes"]}
    assert rows["to-events"]["spikes"] != rows["quantise"]["spikes"]
    assert all("drift" in layer for layer in report["layers"])
    assert report["totals"]["synops_per_sample"] > 0


def test_synops_of_the_report_are_those_of_the_simulator(program: d2e.Program) -> None:
    """Two ways to count: fan-outs of spikes, and updates made."""
    frames = _frames(1)
    report = program.evaluate(frames)
    events = np.zeros(int(frames.sum()), [("t", "i8"), ("x", "i2"), ("y", "i2"), ("p", "i1")])
    t, p, y, x = np.nonzero(frames[0])
    events["t"], events["x"], events["y"], events["p"] = 1000 * t, x, y, p
    raster = d2e.compile(_model(scale=8.0), target="speck2f-sim{events=raster}", input_shape=(2, 16, 16), time_steps=5)
    streamed = raster.stream(events)
    again = raster.evaluate(frames)
    for layer in again["layers"]:
        assert layer["synops_per_sample"] == streamed.synops[layer["name"]]
        assert layer["spikes_per_sample"] == streamed.counts[layer["name"]].sum()
    assert report["layers"][0]["synops_per_sample"] == again["layers"][0]["synops_per_sample"]


def test_options_act() -> None:
    """The camera, the readout block and the orders reach the configuration."""
    model, given = _model(scale=8.0), {"input_shape": (2, 16, 16), "time_steps": 5}
    program = d2e.compile(model, target="speck2e{input=camera,readout=pins}", **given)
    config = configure(program.network)
    assert config.chip == "speck2e"
    assert config.dvs_layer is not None
    assert (config.dvs_layer.pooling, config.dvs_layer.cut) == ((4, 4), (15, 15))
    last = config.cnn_layers[config.populations["8"].parts[0].layer]
    assert last.dimensions.output_shape[0] == 4 * (5 - 1) + 1
    assert [d.layer for d in last.destinations] == [12]
    assert not last.weights[[i for i in range(17) if i % 4]].any()
    plain = d2e.compile(model, target="speck2e-sim", **given)
    assert (plain.run(_frames()).output == program.run(_frames(), engine="speck2e-sim").output).all()
    with pytest.raises(UsageError, match="D2E-USE-011"):
        d2e.compile(model, target="speck2f-sim{input=film}", **given)


def test_the_camera_is_never_guessed() -> None:
    """Where several fields of view fit, the choice is told; one that does not fit is refused."""
    model, given = _model(scale=8.0), {"input_shape": (2, 16, 16), "time_steps": 5}

    def pooling(options: str) -> tuple[tuple[int, int], list[str]]:
        program = d2e.compile(model, target=f"speck2f-sim{{{options}}}", **given)
        dvs = configure(program.network).dvs_layer
        assert dvs is not None
        return dvs.pooling, [w["code"] for w in program.report["warnings"] if w["node"] == "input"]

    assert pooling("input=camera") == ((4, 4), ["D2E-SPECK-026"])
    assert pooling("input=camera,pooling=2") == ((2, 2), [])
    for wrong in ("pooling=2", "input=camera,pooling=4"):
        with pytest.raises(UnsupportedError, match="D2E-SPECK-030"):
            d2e.compile(_model(scale=8.0) if wrong == "pooling=2" else _wide(), target=f"speck2f-sim{{{wrong}}}",
                        input_shape=(2, 16, 16) if wrong == "pooling=2" else (2, 60, 60), time_steps=5)


def _wide() -> snn.Sequential:
    return snn.Sequential(nn.Conv2d(2, 2, 3, stride=2, bias=False), snn.IF(max_spikes=0))


def test_states_start_within_16_bits() -> None:
    """An initial state that no word holds is refused, another one is kept."""
    def net(v_init: float) -> snn.Sequential:
        model = snn.Sequential(nn.Linear(2, 2, bias=False), snn.IF(v_init=v_init))
        with torch.no_grad():
            model[0].weight.fill_(0.01)
        return model

    program = d2e.compile(net(0.5), target="speck2f-sim", input_shape=(2,), time_steps=3)
    core = next(iter(configure(program.network).cnn_layers.values()))
    assert core.neurons_initial_value is not None
    assert (core.neurons_initial_value == round(0.5 * core.threshold_high)).all()
    with pytest.raises(UnsupportedError, match="D2E-SPECK-033"):
        d2e.compile(net(-900.0), target="speck2f-sim", input_shape=(2,), time_steps=3)


def test_levels_are_compared_by_what_they_send() -> None:
    """Levels of 1, 2 and 4 times the smallest: one spike of level 3 and four spikes are the same in the drift."""
    torch.manual_seed(1)
    model = snn.Sequential(nn.Linear(6, 8, bias=False), snn.MultiThreshold(levels=(0.25, 0.5, 1.0)),
                           nn.Linear(8, 4, bias=False), snn.IF(max_spikes=0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_().clamp_(max=0.25)
    frames = (np.random.default_rng(0).random((20, 30, 6)) < 0.6).astype(np.int64)
    report = d2e.compile(model, target="speck2f-sim", input_shape=(6,), time_steps=30, eval=frames).report
    assert "D2E-SPECK-027" in {w["code"] for w in report["warnings"]}
    for layer in report["layers"]:
        assert abs(layer["drift"]) < 0.05, layer  # the rest of a charge, in 30 steps


def test_split_layer_is_the_same_layer() -> None:
    """A layer too large for one core is split by features; its own spikes are those of one core."""
    torch.manual_seed(0)
    model = snn.Sequential(nn.Conv2d(1, 20, 3, padding=1, bias=False), snn.IF(max_spikes=0, v_min=-1.0), nn.AvgPool2d(4),
                           nn.Conv2d(20, 4, 3, bias=False), snn.IF(max_spikes=0, v_min=-1.0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 6
    program = d2e.compile(model, target="speck2f-sim", input_shape=(1, 64, 64), time_steps=2)
    parts = program.network.metadata["placement"]["parts"]
    assert len(parts["1"]) == 2
    whole = program.network.with_metadata(placement={})
    frames = (np.random.default_rng(2).random((2, 2, 1, 64, 64)) < 0.1).astype(np.int64)
    split, one = (program.target.run(n, frames, engine="speck2f-sim", record="spikes", folder=None)
                  for n in (program.network, whole))
    assert one.counts["1"].sum() > 0
    assert (split.spikes["1"] == one.spikes["1"]).all()
    # behind it the parts' spikes arrive one part after the other: the same events in another order
    assert abs(int(split.counts["4"].sum()) - int(one.counts["4"].sum())) < 0.2 * one.counts["4"].sum()


def test_digits_run_on_speck(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rate-coded example loses at most two points, biases and all."""
    program = d2e.compile(DIGITS / "model.pt", target="speck2f-sim", calibration=DIGITS / "calibration.npz",
                          eval=DIGITS / "test.npz", eval_samples=120)
    accuracy = program.report["accuracy"]
    assert accuracy["program"] > accuracy["source"] - 0.02
    assert {w["code"] for w in program.report["warnings"]} == {"D2E-SPECK-023", "D2E-SPECK-056"}
    biased = {layer.name for layer in layers(program.network) if layer.bias is not None}
    cores = {name: [p[0] for p in own] for name, own in program.network.metadata["placement"]["parts"].items()}
    assert all(not {0, 1} & set(cores[name]) for name in biased)


def test_recordings_on_the_command_line(
    program: d2e.Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    """``d2e run --events`` prints spikes, synops and peaks, and writes the output spikes."""
    folder = program.save(tmp_path / "program")
    rng = np.random.default_rng(1)
    columns = {"t": np.sort(rng.integers(0, 50_000, 3000)), "x": rng.integers(0, 16, 3000), "y": rng.integers(0, 16, 3000),
               "p": rng.integers(0, 2, 3000)}
    np.savez(tmp_path / "events.npz", **columns)

    def run(*args: str) -> int:
        monkeypatch.setattr("sys.argv", ["d2e", "run", str(folder), *args])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    assert run("--events", str(tmp_path / "events.npz"), "--json", "-o", str(tmp_path / "out.npz")) == 0
    summary = json.loads(capsys.readouterr().out)
    written = np.load(tmp_path / "out.npz")
    assert summary["events"] == 3000
    assert summary["populations"]["8"]["spikes"] == len(written["output"]) == written["counts/8"].sum() > 0
    assert (np.bincount(written["output"], minlength=5) == written["counts/8"]).all()
    assert summary["populations"]["4"]["peak_synops_per_s"] >= summary["populations"]["4"]["synops"] / summary["duration_s"]
    assert run("--events", str(tmp_path / "events.npz")) == 0
    assert "3,000 events in" in capsys.readouterr().out
    one = {name: np.concatenate([a, a]) for name, a in columns.items()}
    np.savez(tmp_path / "two.npz", **one, sample=np.repeat([0, 1], 3000), label=np.array([0, 1]))
    assert run("--events", str(tmp_path / "two.npz"), "--json", "-o", str(tmp_path / "out2.npz")) == 0
    two = json.loads(capsys.readouterr().out)
    assert two["predictions"] == 2 * summary["predictions"]
    assert two["accuracy"] == (0.5 if summary["predictions"][0] < 2 else 0.0)
    assert two["populations"]["8"]["spikes"] == 2 * summary["populations"]["8"]["spikes"]
    np.savez(tmp_path / "wrong.npz", **one, sample=np.repeat([0, 1], 3000), label=np.array([0, 1, 2]))
    assert run("--events", str(tmp_path / "wrong.npz")) == 2
    assert run() == 2
    assert run("--events", str(tmp_path / "nothing.npz")) == 2


def test_targets_of_steps_take_no_recordings() -> None:
    """Loihi runs in steps."""
    model = snn.Sequential(nn.Linear(3, 2), snn.IF())
    with pytest.raises(UsageError, match="D2E-USE-016"):
        d2e.compile(model, input_shape=(3,), time_steps=4).stream(np.zeros(0))


def test_everything_unsupported_is_told_at_once() -> None:
    """Leak, stride and a membrane readout in one message; nothing is written."""
    model = snn.Sequential(nn.Conv2d(1, 2, 3, stride=3), snn.LIF(decay=0.9), nn.Flatten(), nn.Linear(18, 2),
                           snn.LI(decay=0.5))
    with pytest.raises(UnsupportedError) as told:
        d2e.compile(model, target="speck2f-sim", input_shape=(1, 9, 9), time_steps=4)
    assert {f.code for f in told.value.findings} == {"D2E-SPECK-003", "D2E-SPECK-004", "D2E-SPECK-011"}
