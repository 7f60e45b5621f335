"""Reading ``.net`` files: lava-dl's own, hand-written ones of every layer, and damaged or hostile ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from d2e.compiler.api import compile
from d2e.compiler.frontends import netx
from d2e.compiler.frontends.files import load_model
from d2e.compiler.frontends.netx_arithmetic import delivered, fires_early, weight_bits
from d2e.ir import LI, CubaLIF, D2EError, Network, UnsupportedError, UsageError, reference
from d2e.ir.nodes import FixedPoint, integral

TINY = Path(__file__).parent / "tinynet"
NEURON = {"type": np.bytes_(b"CUBA"), "iDecay": 4096, "vDecay": 1024, "vThMant": 50, "refDelay": 1, "gradedSpike": False}


def layer(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": np.array([kind.encode()], "S10"), **fields}


def dense(rows: int, columns: int, **fields: Any) -> dict[str, Any]:
    weight = np.random.default_rng(rows).integers(-30, 60, (rows, columns)).astype(np.float32)
    return layer("dense", **{"shape": (rows,), "weight": weight, "neuron": dict(NEURON), **fields})


def conv(out: int, inputs: int, shape: tuple[int, ...], **fields: Any) -> dict[str, Any]:
    weight = np.random.default_rng(out).integers(-20, 40, (out, inputs, 3, 3)).astype(np.float32)
    return layer("conv", **{
        "shape": shape, "weight": weight, "stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1,
        "neuron": dict(NEURON), **fields,
    })


def write(path: Path, *layers: dict[str, Any]) -> Path:
    with h5py.File(path, "w") as file:
        for number, fields in enumerate(layers):
            fill(file.create_group(f"layer/{number}"), fields)
    return path


def fill(group: Any, fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        if isinstance(value, dict):
            fill(group.create_group(name), value)
        else:
            group[name] = value


def spikes(network: Network, frames: np.ndarray) -> np.ndarray:
    return reference.run(network, frames).output


# ----- what is read


def test_tiny_net_and_the_ground_truth_lava_dl_ships_with_it() -> None:
    network = load_model(TINY / "tiny.net")
    entry = network.input
    assert (entry.shape, entry.coding, entry.time_steps) == ((3, 16, 16), "signed", 64)
    assert entry.encoder is not None
    assert float(entry.encoder.scale) == pytest.approx(1 / 36)
    first = network.neuron("layer0")
    assert isinstance(first, CubaLIF)
    assert (int(first.bias), int(first.threshold), int(first.decay_mem)) == (34 << 6, 25, 3072)
    image = np.load(TINY / "input_bias.npy").transpose(2, 1, 0).astype(np.int64) - 34
    truth = np.load(TINY / "output.npy")[0].transpose(3, 0, 1, 2)[1:]
    found = spikes(network, np.broadcast_to(image, (1, len(truth), *image.shape)))[0]
    assert truth.any()
    np.testing.assert_array_equal(found, truth)


def test_tiny_net_compiles_and_keeps_every_integer(tmp_path: Path) -> None:
    program = compile(str(TINY / "tiny.net"), target="loihi2-sim", output=str(tmp_path / "out"))
    source = load_model(TINY / "tiny.net")
    for name in source.populations:
        for what in ("threshold", "bias", "decay_syn", "decay_mem"):
            assert np.array_equal(getattr(program.network.nodes[name], what), getattr(source.nodes[name], what))
    for name in ("layer1.weight", "layer2.weight"):
        assert np.array_equal(program.network.nodes[name].weight, source.nodes[name].weight)  # type: ignore[attr-defined]
    frames = np.broadcast_to(np.random.default_rng(0).integers(-40, 40, (2, 1, 3, 16, 16)), (2, 9, 3, 16, 16))
    assert np.array_equal(program.run(frames).output, spikes(source, frames))


def test_a_flatten_keeps_the_order_of_channels_rows_columns(tmp_path: Path) -> None:
    """netx turns (x, y, channel) into (channel, y, x) before it flattens: the order of the IR."""
    pick = np.zeros((1, 12), np.float32)
    pick[0, 10] = 60  # channel 1, row 1, column 1 of [2, 2, 3]: 1 * 6 + 1 * 3 + 1
    path = write(tmp_path / "x.net", layer("input", shape=(2, 2, 3)), layer("flatten", shape=(12,)),
                 dense(1, 12, weight=pick))
    frames = np.zeros((1, 1, 2, 2, 3), int)
    frames[0, 0, 1, 1, 1] = 1
    assert spikes(netx.read(path), frames).sum() == 1
    assert spikes(netx.read(path), np.roll(frames, 1, axis=-1)).sum() == 0


def test_every_layer_type_and_what_stays_open(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.net", layer("input", shape=(2, 6, 7)),
        conv(4, 1, (4, 3, 3), groups=2, stride=(2, 2), padding=(1, 0), bias=np.arange(4.0)),
        layer("flatten", shape=(36,)), dense(5, 36, bias=np.arange(5) - 2.9),
        dense(4, 5, type=np.array([b"dense_rec"]), weight_rec=np.eye(4) * -20),
        dense(3, 4, delay=np.array([0.0, 2, 2])), dense(2, 3, neuron={}),
    )
    with h5py.File(path, "a") as file:
        del file["layer/6/neuron"]
    network = netx.read(path)
    assert network.neuron("layer1").bias[:, 0, 0].tolist() == [0, 64, 128, 192]
    assert network.neuron("layer3").bias.tolist() == [-2 << 6, -1 << 6, 0, 0, 64]  # netx cuts fractions off
    assert {"layer4.recurrent", "layer5.weight.0", "layer5.weight.2", "layer5.delay.2"} <= network.nodes.keys()
    last = network.neuron("layer6")
    assert isinstance(last, LI)
    assert [int(d) for d in last.decays if d is not None] == [4096, 0]
    assert network.output.readout == "last"
    frames = np.random.default_rng(3).integers(0, 2, (2, 8, 2, 6, 7))
    program = compile(str(path), target="loihi2-sim")
    assert np.array_equal(program.run(frames).output, spikes(network, frames))


def test_the_input_shape_may_come_from_outside(tmp_path: Path) -> None:
    path = write(tmp_path / "x.net", conv(2, 1, (2, 3, 3)))
    with pytest.raises(UsageError, match="D2E-LOAD-011"):
        load_model(path)
    assert load_model(path, input_shape=(1, 5, 5)).input.shape == (1, 5, 5)
    assert load_model(write(tmp_path / "y.net", dense(2, 7))).input.shape == (7,)
    with pytest.raises(UsageError, match="D2E-NETX-001"):
        load_model(write(tmp_path / "z.net", layer("input", shape=(7,)), dense(2, 7)), input_shape=(1, 5, 5))


def test_a_last_average_is_left_out_with_a_warning(tmp_path: Path) -> None:
    path = write(tmp_path / "x.net", dense(4, 3), layer("average", shape=(2,)))
    network = netx.read(path)
    assert network.output.shape == (4,)
    assert [w["code"] for w in network.metadata["warnings"]] == ["D2E-NETX-004"]


def test_delays_of_a_number_of_neurons_and_of_inputs(tmp_path: Path) -> None:
    frames = np.zeros((1, 70, 3), int)
    frames[0, 0, 0] = 1
    weight = np.full((2, 3), 60.0)
    for delay, arrives in (
        (np.array([1.0, 4.0]), [[1, 0], [4, 1]]), (np.array([3, 0, 0]), [[3, 0], [3, 1]]), (5, [[5, 0], [5, 1]]),
        (np.array([[2, 0, 0], [0, 1, 1]]), [[0, 1], [2, 0]]), (np.array([0, 70]), [[0, 0], [62, 1]]),
    ):
        path = write(tmp_path / "x.net", dense(2, 3, weight=weight, delay=delay))
        network = netx.read(path)
        assert np.argwhere(spikes(network, frames)[0]).tolist() == arrives
        assert ("warnings" in network.metadata) == (np.max(delay) > 62)


def test_spikes_before_the_first_frame_are_told(tmp_path: Path) -> None:
    loud = {"type": np.array([b"dense_rec"]), "weight_rec": np.eye(4) * -20, "bias": np.full(4, 60.0)}
    warned = netx.read(write(tmp_path / "x.net", dense(4, 3, **loud))).metadata["warnings"]
    assert "before the first frame" in warned[0]["message"]
    quiet = netx.read(write(tmp_path / "y.net", dense(4, 3, **{**loud, "bias": np.full(4, 50.0)})))
    assert "warnings" not in quiet.metadata


# ----- netx's arithmetic


@pytest.mark.parametrize(("weights", "expected"), [
    ([[[127, -128]]], [[[127, -128]]]),
    ([[[255, 1]]], [[[255, 1]]]),
    ([[[300, 1]]], [[[0, 0]]]),
    ([[[300, -1]]], [[[254, -1]]]),
    ([[[-3, -5]], [[-7]]], [[[-3, -5]], [[-7]]]),
    ([[[-128, -127]]], [[[-127, -127]]]),
    ([[[101, -50]], [[-128]]], [[[101, -50]], [[-128]]]),
    ([[[101, -50]], [[-128, -128]]], None),
    ([[[101, -50]], [[-200]]], [[[101, -50]], [[0]]]),
    ([[[0, 0]]], [[[0, 0]]]),
])
def test_the_weights_netx_computes_with(weights: list[Any], expected: list[Any] | None) -> None:
    """The cases were run in lava-dl 0.6.0 and lava-nc 0.10.0: 20 000 random matrices agreed."""
    found = delivered([np.array(w) for w in weights], 1)
    assert (found if found is None else [f.tolist() for f in found]) == expected


def test_weight_bits() -> None:
    assert weight_bits([np.array([[127, -128]])]) == 8
    assert weight_bits([np.array([[101, -50]]), np.array([[-200]])]) == 9
    assert weight_bits([np.array([[100, -50]]), np.array([[-200]])]) == 8


def test_fires_early() -> None:
    node = CubaLIF(shape=(2,), arithmetic=FixedPoint(), reset="zero", fire="gt", threshold=integral(10), gain=integral(1),
                   bias=np.array([0, 5 << 6]), decay_mem=integral(4096), decay_syn=integral(4096))
    assert [fires_early(node, integral(0), steps) for steps in (0, 1, 2, 3)] == [False, False, False, True]
    assert fires_early(node, integral(6), 2)  # the current comes one step later: 5 + 5 + 6


# ----- what is refused

REFUSED: dict[str, tuple[str, Callable[[], list[dict[str, Any]]]]] = {
    "pool": ("D2E-NETX-002", lambda: [dense(4, 3), layer("pool", shape=(2,)), dense(2, 4)]),
    "average inside": ("D2E-NETX-002", lambda: [dense(4, 3), layer("average", shape=(2,)), dense(2, 4)]),
    "SDNN": ("D2E-NETX-002", lambda: [dense(4, 3, neuron={**NEURON, "type": np.bytes_(b"SDNN")})]),
    "thresholds per neuron": ("D2E-NETX-002", lambda: [dense(4, 3, neuron={**NEURON, "vThMant": np.arange(4)})]),
    "late and recurrent": ("D2E-NETX-002", lambda: [
        dense(4, 3, type=np.array([b"dense_rec"]), weight_rec=np.eye(4), delay=2)]),
    "bias beyond 16 bits": ("D2E-NETX-003", lambda: [dense(4, 3, bias=np.full(4, 40000))]),
    "rounded sums": ("D2E-NETX-003", lambda: [
        dense(2, 2, type=np.array([b"dense_rec"]), weight=np.array([[101, -50]] * 2), weight_rec=np.full((2, 2), -128))]),
    "image weight": ("D2E-NETX-003", lambda: [layer("input", shape=(3,), weight=0, neuron=dict(NEURON)), dense(4, 3)]),
    "no type": ("D2E-NETX-001", lambda: [{"shape": (4,)}]),
    "no weight": ("D2E-NETX-001", lambda: [layer("dense", shape=(4,), neuron=dict(NEURON))]),
    "no neuron": ("D2E-NETX-001", lambda: [
        layer("input", shape=(1, 5, 5)), {k: v for k, v in conv(2, 1, (2, 3, 3)).items() if k != "neuron"}]),
    "only an input": ("D2E-NETX-001", lambda: [layer("input", shape=(4,))]),
    "wrong size": ("D2E-NETX-001", lambda: [dense(4, 3), dense(2, 5)]),
    "no flatten": ("D2E-NETX-001", lambda: [
        layer("input", shape=(1, 5, 5)), conv(2, 1, (2, 3, 3)), dense(2, 18)]),
    "wrong shape": ("D2E-NETX-001", lambda: [layer("input", shape=(1, 5, 5)), conv(2, 1, (2, 4, 4))]),
    "stride 0": ("D2E-NETX-001", lambda: [layer("input", shape=(1, 5, 5)), conv(2, 1, (2, 3, 3), stride=(0, 1))]),
    "two inputs": ("D2E-NETX-001", lambda: [layer("input", shape=(3,)), layer("input", shape=(3,)), dense(4, 3)]),
    "flat convolution": ("D2E-NETX-001", lambda: [dense(4, 3), conv(2, 1, (2, 3, 3))]),
    "NaN": ("D2E-NETX-001", lambda: [dense(1, 2, weight=np.array([[np.nan, 1]]))]),
    "beyond 32 bits": ("D2E-NETX-001", lambda: [dense(1, 2, weight=np.array([[1e12, 1]]))]),
    "text for numbers": ("D2E-NETX-001", lambda: [dense(1, 2, weight=np.bytes_(b"weights"))]),
    "decay beyond 4096": ("D2E-NETX-001", lambda: [dense(4, 3, neuron={**NEURON, "iDecay": 5000})]),
    "delay below 0": ("D2E-NETX-001", lambda: [dense(4, 3, delay=-1)]),
    "negative shape": ("D2E-NETX-001", lambda: [layer("input", shape=(1, -5, 5)), conv(2, 1, (2, 3, 3))]),
    "bias for others": ("D2E-NETX-001", lambda: [dense(4, 3, bias=np.arange(3))]),
    "group for numbers": ("D2E-NETX-001", lambda: [dense(4, 3, bias={"of": np.arange(3)})]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refusals(what: str, tmp_path: Path) -> None:
    code, layers = REFUSED[what]
    with pytest.raises(D2EError) as caught:
        netx.read(write(tmp_path / "x.net", *layers()))
    assert caught.value.code == code
    assert caught.value.hint
    assert isinstance(caught.value, UsageError if code == "D2E-NETX-001" else UnsupportedError)
    assert caught.value.node is None or caught.value.node.startswith("layer")


def test_no_netx_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="D2E-LOAD-001"):
        load_model(tmp_path / "none.net")
    (tmp_path / "text.net").write_text("layer")
    with pytest.raises(UsageError, match="D2E-FILE-003"):
        load_model(tmp_path / "text.net")
    with h5py.File(tmp_path / "other.net", "w") as file:
        file["node"] = 1
    with pytest.raises(UsageError, match="no netx file"):
        load_model(tmp_path / "other.net")
    with h5py.File(tmp_path / "gap.net", "w") as file:
        file.create_group("layer/1")
    with pytest.raises(UsageError, match="none is called 0"):
        load_model(tmp_path / "gap.net")
    with pytest.raises(UsageError, match="D2E-LOAD-017"):
        load_model(TINY / "tiny.net", profile="norse")


def test_links_leave_the_file_alone(tmp_path: Path) -> None:
    write(tmp_path / "secret.net", dense(4, 3))
    for name, link in {
        "external": h5py.ExternalLink(str(tmp_path / "secret.net"), "/layer/0/weight"), "soft": h5py.SoftLink("/layer/0"),
    }.items():
        path = write(tmp_path / f"{name}.net", dense(4, 3))
        with h5py.File(path, "a") as file:
            file["layer/0/extra"] = link
        with pytest.raises(UsageError, match="D2E-NETX-001"):
            netx.read(path)
    layout = h5py.VirtualLayout(shape=(4, 3), dtype="f4")
    layout[:] = h5py.VirtualSource(tmp_path / "secret.net", "layer/0/weight", shape=(4, 3))
    path = write(tmp_path / "virtual.net", dense(4, 3))
    with h5py.File(path, "a") as file:
        file.create_virtual_dataset("layer/0/extra", layout)
    with pytest.raises(UsageError, match="D2E-NETX-001"):
        netx.read(path)


def test_a_size_that_no_memory_holds(tmp_path: Path) -> None:
    path = write(tmp_path / "x.net", dense(4, 3))
    with h5py.File(path, "a") as file:
        file.create_dataset("layer/0/delay", shape=(1 << 20, 1 << 20), dtype="f8", chunks=(64, 64))
    with pytest.raises(UsageError, match="GiB"):
        netx.read(path)


def test_damaged_files_never_end_in_anything_but_a_fault_of_the_file(tmp_path: Path) -> None:
    whole, rng = (TINY / "tiny.net").read_bytes(), np.random.default_rng(5)
    seen = set()
    for trial in range(60):
        data = bytearray(whole)
        if trial % 3 == 0:
            data = data[: int(rng.integers(1, len(data)))]
        else:
            for place in rng.integers(0, 4000 if trial % 3 == 1 else len(data), 40):
                data[int(place)] = int(rng.integers(0, 256))
        (tmp_path / "x.net").write_bytes(bytes(data))
        try:
            netx.read(tmp_path / "x.net")
        except D2EError as error:
            seen.add(error.code)
    assert "D2E-FILE-003" in seen
    shutil.rmtree(tmp_path)
