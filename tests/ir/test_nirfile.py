"""`.nir` files: what we write comes back exactly and opens in nir; other files need explicit choices."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import nir
import numpy as np
import pytest
from hypothesis import given, settings
from tests.ir.networks import random_integer_network, random_network
from tests.ir.strategies import integer_networks, networks

from d2e.ir import (
    IF,
    LI,
    LIF,
    Affine,
    Continuous,
    Conv1d,
    Conv2d,
    CubaLIF,
    D2EError,
    Delay,
    Flatten,
    Input,
    Linear,
    MultiThreshold,
    Network,
    Output,
    UnsupportedError,
    UsageError,
    chain,
    nirfile,
    reference,
    to_text,
)


def written(network: Network, folder: Path) -> Network:
    nirfile.write(network, folder / "n.nir")
    return nirfile.read(folder / "n.nir")


def small(neuron=None, **source) -> Network:
    neuron = neuron or LIF(shape=(2,), decay_mem=0.9)
    weight = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    return chain([
        ("in", Input(shape=(3,), **source)), ("fc", Linear(weight=weight)), ("n", neuron),
        ("out", Output(shape=(2,))),
    ])


# ----- our own files


@settings(max_examples=80)
@given(network=networks())
def test_float_networks_come_back(network, tmp_path_factory):
    back = written(network, tmp_path_factory.mktemp("nir"))
    assert back.same(network)
    assert to_text(back) == to_text(network)


@settings(max_examples=50)
@given(network=integer_networks())
def test_integer_networks_come_back(network, tmp_path_factory):
    assert written(network, tmp_path_factory.mktemp("nir")).same(network)


def nir_is_right_about(network: Network) -> bool:
    """Whether nir 1.0.8's own shape inference is right: not for groups or non-square kernels."""
    convolutions = [n for n in network.nodes.values() if isinstance(n, (Conv1d, Conv2d))]
    return all(n.groups == 1 and len(set(n.weight.shape[2:])) == 1 for n in convolutions)


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("maker", [random_network, random_integer_network])
def test_nir_opens_every_file_and_writes_it_back(seed, maker, tmp_path):
    network, _ = maker(seed)
    nirfile.write(network, tmp_path / "a.nir")
    graph = nir.read(tmp_path / "a.nir", type_check=nir_is_right_about(network))
    assert graph.nodes.keys() == network.nodes.keys()
    nir.write(tmp_path / "b.nir", graph)
    assert nirfile.read(tmp_path / "b.nir").same(network)


def test_most_random_networks_pass_nirs_type_check():
    assert sum(nir_is_right_about(random_network(seed)[0]) for seed in range(60)) > 30


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.float16, np.float32, ">f8", np.bool_])
def test_dtypes_and_scalars_come_back(dtype, tmp_path):
    one = np.array(1, dtype)
    decay, floor = np.array([1, 0], dtype), np.array(0, dtype)
    network = small(LIF(shape=(2,), threshold=one, decay_mem=decay, v_min=floor))
    network = network.with_nodes({"fc": Linear(weight=np.array([[1, 0, 1], [0, 1, 1]], dtype))})
    assert written(network, tmp_path).same(network)


def test_continuous_neurons_come_back(tmp_path):
    time = Continuous(tau_mem=np.full(2, 0.02), tau_syn=np.array(0.005), r=np.float32(2.0), rule="exp")
    network = small(CubaLIF(shape=(2,), continuous=time), dt=1e-3)
    assert written(network, tmp_path).same(network)
    node = nir.read(tmp_path / "n.nir").nodes["n"]
    assert node.tau_mem.tolist() == [0.02, 0.02]
    assert node.w_in.tolist() == [1.0, 1.0]


def test_metadata_come_back(tmp_path):
    facts = {"source": "snntorch", "list": [1, 2.5, None, {"deep": True}], "empty": {}}
    network = small(LIF(shape=(2,), metadata=facts)).with_metadata(**facts)
    back = written(network, tmp_path)
    assert back.same(network)
    assert dict(back.metadata) == facts


def test_names_with_odd_characters_come_back(tmp_path):
    network = chain([("in put.1", Input(shape=(3,))), ("µ", IF(shape=(3,))), ("..", Output(shape=(3,)))])
    assert written(network, tmp_path).same(network)


def test_a_linear_on_several_axes_type_checks(tmp_path):
    network = chain([
        ("in", Input(shape=(4, 3))), ("fc", Affine(weight=np.ones((2, 3)), bias=np.arange(2.0))),
        ("n", IF(shape=(4, 2))), ("out", Output(shape=(4, 2))),
    ])
    assert written(network, tmp_path).same(network)
    assert nir.read(tmp_path / "n.nir").nodes["fc"].weight.shape == (4, 2, 3)


def test_the_same_network_gives_the_same_bytes(tmp_path):
    network, _ = random_network(3)
    nirfile.write(network, tmp_path / "a.nir")
    code = (
        "import sys; from d2e.ir import nirfile; nirfile.write(nirfile.read(sys.argv[1]), sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "a.nir", tmp_path / "b.nir"], check=True)
    assert (tmp_path / "a.nir").read_bytes() == (tmp_path / "b.nir").read_bytes()


def test_importing_the_module_imports_neither_nir_nor_h5py():
    code = "import sys, d2e.ir.nirfile; assert not {'nir', 'h5py', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# ----- the standard fields say the closest thing NIR can


def euler(node, dt: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(decay, gain, bias) of one Euler step of nir's LIF equation."""
    return 1 - dt / node.tau, node.r * dt / node.tau, dt / node.tau * node.v_leak


@pytest.mark.parametrize("dt", [None, 1e-4])
@pytest.mark.parametrize("decay", [0.0, 0.25, 0.9, 1.0])
def test_euler_reading_of_a_lif_gives_our_factors(decay, dt, tmp_path):
    neuron = LIF(shape=(2,), decay_mem=decay, gain=0.7, bias=0.2, threshold=1.5, reset="value", v_reset=-0.25)
    nirfile.write(small(neuron, dt=dt), tmp_path / "n.nir")
    node = nir.read(tmp_path / "n.nir").nodes["n"]
    for found, expected in zip(euler(node, dt or 1.0), (decay, 0.7, 0.2), strict=True):
        assert np.allclose(found, expected, rtol=1e-12, atol=1e-15)
    assert node.v_threshold.tolist() == [1.5, 1.5]
    assert node.v_reset.tolist() == [-0.25, -0.25]


def test_standard_fields_of_the_other_neurons(tmp_path):
    def node(neuron):
        nirfile.write(small(neuron, dt=0.5), tmp_path / "n.nir")
        return nir.read(tmp_path / "n.nir").nodes["n"]

    plain = node(IF(shape=(2,), gain=0.5, threshold=np.array([1.0, 2.0])))
    assert isinstance(plain, nir.IF)
    assert (plain.r * 0.5).tolist() == [0.5, 0.5]
    assert plain.v_threshold.tolist() == [1.0, 2.0]
    cuba = node(CubaLIF(shape=(2,), decay_syn=0.75, decay_mem=0.5))
    assert np.allclose(1 - 0.5 / cuba.tau_syn, 0.75)
    assert np.allclose(cuba.w_in * 0.5 / cuba.tau_syn, 1.0)
    assert isinstance(node(LI(shape=(2,), decay_mem=0.5)), nir.LI)
    assert isinstance(node(LI(shape=(2,), decay_mem=0.5, decay_syn=0.5)), nir.CubaLI)
    levels = node(MultiThreshold(shape=(2,), levels=np.array([0.5, 1.0]), threshold=2.0))
    assert isinstance(levels, nir.LIF)
    assert levels.v_threshold.tolist() == [1.0, 1.0]


def test_delay_is_written_in_seconds(tmp_path):
    network = chain([("in", Input(shape=(3,), dt=0.5)), ("d", Delay(steps=3)), ("out", Output(shape=(3,)))])
    assert written(network, tmp_path).same(network)
    assert nir.read(tmp_path / "n.nir").nodes["d"].delay.tolist() == [1.5, 1.5, 1.5]


# ----- writing fails cleanly


def test_unwritable_places_are_refused_and_nothing_is_left(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    for path in (tmp_path / "missing" / "n.nir", file / "n.nir", tmp_path):
        with pytest.raises(UsageError, match="D2E-FILE-001"):
            nirfile.write(small(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "n.nir"
    nirfile.write(small(), path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("d2e.ir.nirfile._write_group", full)
    with pytest.raises(UsageError, match="No space left"):
        nirfile.write(small(LIF(shape=(2,), threshold=9.0)), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["n.nir"]


def test_metadata_that_json_cannot_hold_are_refused(tmp_path):
    for bad in ({"a": (1, 2)}, {"a": np.zeros(2)}, {1: "a"}):
        with pytest.raises(UsageError, match="D2E-FILE-004"):
            nirfile.write(small(LIF(shape=(2,), metadata=bad)), tmp_path / "n.nir")
    assert not list(tmp_path.iterdir())


def test_names_hdf5_cannot_hold_are_refused(tmp_path):
    for name in ("a/b", ".", "a\0b"):
        network = chain([(name, Input(shape=(3,))), ("out", Output(shape=(3,)))])
        with pytest.raises(UnsupportedError, match="D2E-NET-005"):
            nirfile.write(network, tmp_path / "n.nir")


# ----- reading fails cleanly


def code_of(call, *args, **options) -> str:
    with pytest.raises(D2EError) as caught:
        call(*args, **options)
    assert caught.value.message
    return caught.value.code


def test_files_that_are_no_nir_files(tmp_path):
    path = tmp_path / "n.nir"
    assert code_of(nirfile.read, path) == "D2E-FILE-002"
    assert code_of(nirfile.read, tmp_path) == "D2E-FILE-002"
    path.write_text("not HDF5")
    assert code_of(nirfile.read, path) == "D2E-FILE-003"
    path.write_bytes(b"")
    assert code_of(nirfile.read, path) == "D2E-FILE-003"
    with h5py.File(path, "w") as file:
        file["other"] = 1
    assert code_of(nirfile.read, path) == "D2E-NIR-003"


@pytest.mark.parametrize("percent", [1, 10, 50, 90, 99])
def test_truncated_files(percent, tmp_path):
    path = tmp_path / "n.nir"
    nirfile.write(small(), path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * percent // 100])
    assert code_of(nirfile.read, path) == "D2E-FILE-003"


def edited(path: Path, change) -> str:
    with h5py.File(path, "r+") as file:
        change(file["node"])
    return code_of(nirfile.read, path)


def put(group, name, value) -> None:
    del group[name]
    group[name] = value


def test_files_that_another_tool_changed(tmp_path):
    path = tmp_path / "n.nir"

    def after(change) -> str:
        nirfile.write(small(), path)
        return edited(path, change)

    assert after(lambda g: put(g["nodes/n"], "v_threshold", np.array([2.0, 2.0]))) == "D2E-NIR-005"
    assert after(lambda g: put(g["nodes/n"], "type", "IF")) == "D2E-NIR-005"
    newer = json.dumps({"schema": 99})
    assert after(lambda g: put(g["nodes/n/metadata/d2e"], "json", "{")) == "D2E-NIR-005"
    assert after(lambda g: put(g["nodes/n/metadata/d2e"], "json", newer)) == "D2E-NIR-005"
    assert after(lambda g: put(g["metadata/d2e"], "json", newer)) == "D2E-NIR-005"
    assert after(lambda g: put(g, "edges", np.zeros((0, 2)))) == "D2E-NET-006"
    assert after(lambda g: g["nodes"].__delitem__("n")) == "D2E-NIR-003"


def test_weights_that_another_tool_changed_are_read(tmp_path):
    path = tmp_path / "n.nir"
    nirfile.write(small(), path)
    with h5py.File(path, "r+") as file:
        put(file["node/nodes/fc"], "weight", np.full((2, 3), 7.0))
    fc = nirfile.read(path).nodes["fc"]
    assert isinstance(fc, Linear)
    assert (fc.weight == 7).all()


def test_flags_cannot_change_what_the_file_states(tmp_path):
    path = tmp_path / "n.nir"
    nirfile.write(small(dt=1e-3), path)
    for flags in ({"reset": "zero"}, {"fire": "gt"}, {"max_spikes": 2}, {"profile": "nir"}, {"dt": 2e-3}):
        assert code_of(nirfile.read, path, **flags) == "D2E-NIR-007"
    assert nirfile.read(path, dt=1e-3, time_steps=7).input.time_steps == 7


def test_metadata_of_any_wrong_kind_give_an_error_with_a_code(tmp_path):
    path = tmp_path / "n.nir"
    nirfile.write(small(), path)
    with h5py.File(path, "r") as file:
        text = json.loads(file["node/nodes/n/metadata/d2e/json"][()])
    refused = 0
    for field in text["fields"]:
        for value in ("x", 7, [1, 2], {"dtype": "<U3", "value": "abc"}, {"array": "nothing"}, {"class": "x"}):
            broken = {**text, "fields": {**text["fields"], field: value}}
            with h5py.File(path, "r+") as file:
                put(file["node/nodes/n/metadata/d2e"], "json", json.dumps(broken))
            try:
                nirfile.read(path)
            except D2EError:
                refused += 1
    assert refused > 5 * len(text["fields"])


# ----- files of other tools


def foreign(path: Path, nodes: dict, edges: list, **options) -> Path:
    nir.write(path, nir.NIRGraph(nodes=nodes, edges=edges, type_check=False), **options)
    return path


def lif(n: int = 2, **fields) -> nir.LIF:
    full = {"tau": 0.01, "r": 1.0, "v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0} | fields
    return nir.LIF(**{name: np.broadcast_to(np.asarray(v, float), (n,)).copy() for name, v in full.items()})


def ends(n: int = 3, m: int = 2) -> dict:
    return {"in": nir.Input(np.array([n])), "out": nir.Output(np.array([m]))}


@pytest.fixture
def file(tmp_path):
    nodes = {**ends(), "fc": nir.Linear(np.ones((2, 3))), "n": lif()}
    return foreign(tmp_path / "f.nir", nodes, [("in", "fc"), ("fc", "n"), ("n", "out")])


def test_every_open_choice_is_listed_at_once(file):
    with pytest.raises(UsageError) as caught:
        nirfile.read(file)
    assert caught.value.code == "D2E-NIR-002"
    for flag in ("--dt", "--reset", "--fire", "--max-spikes", "--profile nir"):
        assert flag in str(caught.value)
    with pytest.raises(UsageError) as caught:
        nirfile.read(file, profile="nir")
    assert "--dt" in caught.value.message
    assert "--reset" not in str(caught.value)
    with pytest.raises(UsageError) as caught:
        nirfile.read(file, dt=1e-3, fire="ge", max_spikes=1)
    assert "--reset" in caught.value.message
    assert "--fire" not in str(caught.value)


def test_profile_nir_reads_literally(file):
    network = nirfile.read(file, profile="nir", dt=1e-3, time_steps=8)
    node = network.neuron("n")
    assert (node.fire, node.reset, node.reset_when, node.max_spikes) == ("gt", "zero", "same", 1)
    assert node.continuous is not None
    assert node.continuous.rule == "euler"
    assert node.continuous.tau_mem is not None
    assert node.continuous.tau_mem.tolist() == [0.01, 0.01]
    assert (network.input.dt, network.input.time_steps) == (1e-3, 8)
    assert written(network, file.parent).same(network)


def test_flags_go_before_the_profile(file):
    flags = {"reset": "subtract-next", "fire": "ge", "max_spikes": 0}
    node = nirfile.read(file, profile="nir", dt=1e-3, **flags).neuron("n")
    assert (node.fire, node.reset, node.reset_when, node.max_spikes) == ("ge", "subtract", "next", 0)


def test_flags_alone_leave_the_decay_rule_of_a_leaky_neuron_open(file):
    flags = {"dt": 1e-3, "reset": "subtract", "fire": "ge", "max_spikes": 1}
    with pytest.raises(UsageError, match=r"D2E-NIR-002.*decay per step.*--profile nir"):
        nirfile.read(file, **flags)
    node = nirfile.read(file, profile="nir", **flags).neuron("n")
    assert (node.reset, node.fire, node.continuous.rule) == ("subtract", "ge", "euler")


def test_v_reset_of_the_file_is_used(tmp_path):
    nodes = {**ends(2), "n": lif(v_reset=-0.5)}
    path = foreign(tmp_path / "f.nir", nodes, [("in", "n"), ("n", "out")])
    node = nirfile.read(path, profile="nir", dt=1.0).neuron("n")
    assert node.reset == "value"
    assert node.v_reset.tolist() == [-0.5, -0.5]


@pytest.mark.parametrize("flags", [
    {"profile": "braindance"}, {"reset": "soft"}, {"fire": ">"}, {"max_spikes": -1}, {"dt": 0.0},
    {"dt": float("nan")},
])
def test_unknown_values_list_the_known(flags, file):
    assert code_of(nirfile.read, file, **flags) == "D2E-NIR-001"
    with pytest.raises(UsageError, match="Known: nir"):
        nirfile.read(file, profile="braindance")


def test_a_file_without_neurons_needs_no_choice(tmp_path):
    nodes = {**ends(), "fc": nir.Affine(np.ones((2, 3)), np.zeros(2))}
    network = nirfile.read(foreign(tmp_path / "f.nir", nodes, [("in", "fc"), ("fc", "out")]))
    assert isinstance(network.nodes["fc"], Affine)


def test_a_loop_is_cut_out_of_the_neuron(tmp_path):
    nodes = {**ends(2), "n": lif(), "rec": nir.Linear(np.eye(2))}
    edges = [("in", "n"), ("n", "rec"), ("n", "out"), ("rec", "n")]
    network = nirfile.read(foreign(tmp_path / "f.nir", nodes, edges), profile="nir", dt=1.0)
    assert [tuple(e) for e in network.edges if e.recurrent] == [("n", "rec", True)]
    nodes = {**ends(2), "n": lif()}
    path = foreign(tmp_path / "g.nir", nodes, [("in", "n"), ("n", "n"), ("n", "out")])
    assert [e.recurrent for e in nirfile.read(path, profile="nir", dt=1.0).edges] == [False, True, False]


def test_subgraphs_are_dissolved(tmp_path):
    two = np.array([2])
    inner = nir.NIRGraph(
        nodes={"i": nir.Input(two), "lif": lif(), "w": nir.Linear(np.eye(2)), "o": nir.Output(two)},
        edges=[("i", "lif"), ("lif", "w"), ("w", "lif"), ("lif", "o")],
    )
    nodes = {**ends(2), "sub": inner, "fc": nir.Linear(np.eye(2))}
    path = foreign(tmp_path / "f.nir", nodes, [("in", "fc"), ("fc", "sub"), ("sub", "out")])
    network = nirfile.read(path, profile="nir", dt=1.0)
    assert set(network.nodes) == {"in", "out", "fc", "sub.lif", "sub.w"}
    assert {tuple(e) for e in network.edges} == {
        ("in", "fc", False), ("fc", "sub.lif", False), ("sub.lif", "sub.w", True),
        ("sub.w", "sub.lif", False), ("sub.lif", "out", False),
    }


def test_convolutions_pools_and_scalar_parameters(tmp_path):
    scalar = {name: np.array(v) for name, v in {"r": 1.0, "v_threshold": 1.0, "v_reset": 0.0}.items()}
    nodes = {
        "in": nir.Input(np.array([2, 6, 8])), "out": nir.Output(np.array([5])),
        "c": nir.Conv2d((6, 8), np.ones((4, 1, 3, 5)), 1, (1, 2), 1, 2, np.zeros(4)), "n": nir.IF(**scalar),
        "p": nir.SumPool2d(np.array([2, 2]), np.array(2), np.array([0, 0])), "f": nir.Flatten(None, 0, -1),
        "d": nir.Delay(np.full(48, 0.002)),
    }
    edges = [("in", "c"), ("c", "n"), ("n", "p"), ("p", "f"), ("f", "d"), ("d", "out")]
    graph = nir.NIRGraph(nodes=nodes, edges=edges, type_check=False).to_dict()
    choices = nirfile.Choices(profile="nir", dt=1e-3)
    network = nirfile.network_from_tree(graph, choices)
    conv, delay = network.nodes["c"], network.nodes["d"]
    assert isinstance(conv, Conv2d)
    assert (conv.stride, conv.padding, conv.groups) == ((1, 1), (1, 2), 2)
    assert network.neuron("n").shape == (4, 6, 8)
    assert network.output.shape == (48,)
    assert isinstance(delay, Delay)
    assert delay.steps == 2
    assert isinstance(network.nodes["f"], Flatten)


def test_what_nir_has_and_we_have_not(tmp_path):
    for node in (nir.Threshold(np.ones(3)), nir.I(np.ones(3))):
        path = foreign(tmp_path / "f.nir", {**ends(3, 3), "x": node}, [("in", "x"), ("x", "out")])
        assert code_of(nirfile.read, path, profile="nir", dt=1.0) == "D2E-NIR-004"
    for delay in (np.array([1.0, 2.0, 1.0]), np.full(3, 1.5)):
        path = foreign(tmp_path / "f.nir", {**ends(3, 3), "x": nir.Delay(delay)}, [("in", "x"), ("x", "out")])
        assert code_of(nirfile.read, path, dt=1.0) == "D2E-NIR-004"


def test_cuba_li_becomes_a_readout(tmp_path):
    full = {name: np.full(3, 0.5) for name in ("tau_mem", "tau_syn", "r", "v_leak", "w_in")}
    path = foreign(tmp_path / "f.nir", {**ends(3, 3), "x": nir.CubaLI(**full)}, [("in", "x"), ("x", "out")])
    node = nirfile.read(path, profile="nir", dt=0.1).nodes["x"]
    assert isinstance(node, LI)
    assert node.continuous is not None
    assert node.continuous.tau_syn is not None


def test_graphs_that_are_broken(tmp_path):
    path = tmp_path / "f.nir"

    def after(change) -> str:
        foreign(path, {**ends(), "fc": nir.Linear(np.ones((2, 3)))}, [("in", "fc"), ("fc", "out")])
        return edited(path, change)

    assert after(lambda g: put(g["nodes/fc"], "type", "Quantum")) == "D2E-NIR-004"
    assert after(lambda g: g["nodes/fc"].__delitem__("type")) == "D2E-NIR-003"
    assert after(lambda g: g["nodes/fc"].__delitem__("weight")) == "D2E-NIR-003"
    assert after(lambda g: put(g["nodes/fc"], "weight", "text")) == "D2E-NIR-003"
    assert after(lambda g: put(g["nodes/fc"], "weight", np.full((2, 3), np.nan))) == "D2E-NODE-002"
    assert after(lambda g: put(g["nodes/in"], "shape", np.array([1 << 40]))) == "D2E-NIR-006"
    assert after(lambda g: put(g["nodes/in"], "shape", np.array([-3]))) == "D2E-NIR-003"
    assert after(lambda g: g["nodes"].__delitem__("out")) == "D2E-NIR-003"
    assert after(lambda g: g.__delitem__("nodes")) == "D2E-NIR-003"


def test_a_missing_input_or_output_is_named(tmp_path):
    for end, edge in (("in", ("in", "fc")), ("out", ("fc", "out"))):
        nodes = {end: ends()[end], "fc": nir.Linear(np.ones((2, 3)))}
        assert code_of(nirfile.read, foreign(tmp_path / "f.nir", nodes, [edge])) == "D2E-NET-002"


def test_a_file_that_claims_to_be_huge_is_refused_unread(tmp_path):
    path = tmp_path / "f.nir"
    foreign(path, {**ends(), "fc": nir.Linear(np.ones((2, 3)))}, [("in", "fc"), ("fc", "out")])
    with h5py.File(path, "r+") as file:
        del file["node/nodes/fc/weight"]
        file["node/nodes/fc"].create_dataset("weight", (1 << 20, 1 << 20), "f8", chunks=(1024, 1024))
    assert code_of(nirfile.read, path) == "D2E-NIR-006"


@pytest.mark.parametrize("seed", range(20))
def test_our_files_stripped_of_metadata_mean_the_same_where_nir_can_say_it(seed, tmp_path):
    rng = np.random.default_rng(seed)
    plain = {"fire": "gt", "reset": "zero", "threshold": rng.uniform(0.5, 1.0)}
    network = chain([
        ("in", Input(shape=(6,), dt=1e-3)), ("a", Linear(weight=rng.normal(0.3, 0.5, (5, 6)))),
        ("cuba", CubaLIF(shape=(5,), decay_syn=rng.random(5), decay_mem=rng.random(5), gain=0.8, **plain)),
        ("b", Affine(weight=rng.normal(0.2, 0.8, (4, 5)), bias=rng.normal(size=4))),
        ("lif", LIF(shape=(4,), decay_mem=rng.random(), bias=0.1, **plain)),
        ("c", Linear(weight=rng.normal(0.2, 0.8, (3, 4)))), ("if", IF(shape=(3,), gain=0.5, **plain)),
        ("out", Output(shape=(3,))),
    ])
    nirfile.write(network, tmp_path / "n.nir")
    with h5py.File(tmp_path / "n.nir", "r+") as file:
        for group in (file["node"], *file["node/nodes"].values()):
            del group["metadata"]
    read = nirfile.read(tmp_path / "n.nir", profile="nir", dt=1e-3)
    settled = read.map(lambda _, node: discretised(node, 1e-3))
    frames = rng.integers(0, 2, (3, 20, 6))
    expected, found = (reference.run(n, frames).counts for n in (network, settled))
    assert expected.keys() == found.keys()
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
    assert sum(v.sum() for v in expected.values()) > 0


def discretised(node, dt: float):
    """The Euler reading of NIR's equations, written out once more."""
    time = getattr(node, "continuous", None)
    if time is None:
        return node
    if isinstance(node, IF):
        return replace(node, gain=time.r * dt, continuous=None)
    factors = {"decay_mem": 1 - dt / time.tau_mem, "bias": dt / time.tau_mem * time.v_leak}
    gain = time.r * dt / time.tau_mem
    if time.tau_syn is not None:
        factors["decay_syn"] = 1 - dt / time.tau_syn
        gain = gain * time.w_in * dt / time.tau_syn
    return replace(node, gain=gain, continuous=None, **factors)
