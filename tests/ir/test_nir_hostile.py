"""`.nir` files that are odd, damaged or meant to harm: an error with a code each, no crash, no huge allocation."""

from __future__ import annotations

import json
import random as chance
import resource
from contextlib import contextmanager
from itertools import pairwise, product

import h5py
import nir
import numpy as np
import pytest

from d2e.ir import LIF, Affine, Conv2d, D2EError, Input, Linear, Network, Output, chain, nirfile

ALLOWED = 1 << 29


def plain(path, **fields) -> None:
    """in -> fc -> n -> out, as a file that profile nir reads."""
    full = {"tau": 0.01, "r": 1.0, "v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0} | fields
    neuron = nir.LIF(**{name: np.broadcast_to(np.asarray(v, float), (2,)).copy() for name, v in full.items()})
    nodes = {
        "in": nir.Input(np.array([3])), "fc": nir.Affine(np.ones((2, 3)), np.zeros(2)), "n": neuron,
        "out": nir.Output(np.array([2])),
    }
    edges = [("in", "fc"), ("fc", "n"), ("n", "out")]
    nir.write(path, nir.NIRGraph(nodes=nodes, edges=edges, type_check=False))


@contextmanager
def little_memory():
    """At most ALLOWED bytes more than now."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + ALLOWED, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def refusal(path, change, **choices) -> str:
    """The code with which the file is refused after ``change`` to its node group."""
    with h5py.File(path, "r+") as file:
        change(file["node"])
    with pytest.raises(D2EError) as caught, little_memory():
        nirfile.read(path, **({"profile": "nir", "dt": 1e-3} | choices))
    assert caught.value.message
    return caught.value.code


@pytest.fixture
def path(tmp_path):
    plain(tmp_path / "n.nir")
    return tmp_path / "n.nir"


def put(group, name, value, **options) -> None:
    if name in group:
        del group[name]
    group.create_dataset(name, data=value, **options)


# ----- HDF5


def test_links_are_refused(path, tmp_path):
    plain(tmp_path / "other.nir")
    for link in (h5py.ExternalLink(str(tmp_path / "other.nir"), "/node/nodes/fc"), h5py.SoftLink("/node/nodes/in")):
        plain(path)

        def change(group, link=link):
            group["nodes/more"] = link

        assert refusal(path, change) == "D2E-NIR-003"


def test_groups_that_form_a_cycle_are_refused(path):
    def change(group):
        group["nodes/again"] = group["nodes"]
        group["nodes/and"] = group

    assert refusal(path, change) == "D2E-NIR-003"


def test_numbers_outside_the_file_are_refused(path, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(48))

    def external(group):
        del group["nodes/fc/weight"]
        group["nodes/fc"].create_dataset("weight", (2, 3), "f8", external=[(str(secret), 0, 48)])

    assert refusal(path, external) == "D2E-NIR-003"
    plain(path)

    def virtual(group):
        layout = h5py.VirtualLayout((2, 3), "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (2, 3))
        del group["nodes/fc/weight"]
        group["nodes/fc"].create_virtual_dataset("weight", layout)

    assert refusal(path, virtual) == "D2E-NIR-003"


@pytest.mark.parametrize("count", [1 << 26, 1 << 30, 1 << 45])
def test_shapes_that_promise_more_than_the_file_holds(count, path):
    def change(group):
        del group["nodes/fc/weight"]
        group["nodes/fc"].create_dataset("weight", (count,), "f8", chunks=(1 << 10,))

    assert refusal(path, change) == "D2E-NIR-006"


def test_text_that_promises_more_than_the_file_holds(path):
    def change(group):
        del group["edges"]
        group.create_dataset("edges", (1 << 28, 2), h5py.string_dtype(), chunks=(1 << 10, 2))

    assert refusal(path, change) == "D2E-NIR-006"


def test_deep_nesting(path):
    def change(group):
        inner = group["nodes"]
        for _ in range(200):
            inner = inner.create_group("g")

    assert refusal(path, change) == "D2E-NIR-003"


def test_zeros_pack_well_and_are_read(path):
    with h5py.File(path, "r+") as file:
        put(file["node/nodes/fc"], "weight", np.zeros((2, 1 << 19)), compression="gzip")
        put(file["node/nodes/in"], "shape", np.array([1 << 19]))
    assert nirfile.read(path, profile="nir", dt=1e-3).input.shape == (1 << 19,)


# ----- wrong kinds of values


VALUES = [
    "text", b"\xff\xfe", np.array(["a", "b"], dtype="S4"), np.array([np.nan, 1.0]), np.array([np.inf, 1.0]), 7, -1,
    2.5, 1e300, np.zeros((0,)), np.zeros((0, 3)), np.zeros((1, 1, 1, 1, 1)), np.array([1 + 2j, 0]), True,
    np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]), np.array([1 << 62, 1 << 62]),
]


def test_no_wrong_value_anywhere_crashes_the_reader(path):
    nodes = {
        "in": nir.Input(np.array([2, 4, 4])), "c": nir.Conv2d((4, 4), np.ones((2, 2, 3, 3)), 1, 1, 1, 1, np.zeros(2)),
        "p": nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        "f": nir.Flatten(np.array([2, 2, 2]), 0, -1),
        "d": nir.Delay(np.full(8, 1e-3)), "s": nir.Scale(np.ones(8)), "w": nir.Affine(np.ones((3, 8)), np.zeros(3)),
        "n": nir.CubaLIF(*(np.full(3, v) for v in (0.01, 0.02, 1.0, 0.0, 1.0, 0.0))), "out": nir.Output(np.array([3])),
    }
    names = list(nodes)
    graph = nir.NIRGraph(nodes=nodes, edges=list(pairwise(names)), type_check=False)
    nir.write(path, graph)
    assert nirfile.read(path, profile="nir", dt=1e-3).populations == ("n",)
    with h5py.File(path) as file:
        places = [f"{n}/{f}" for n in names for f in file[f"node/nodes/{n}"]]
    places += ["../edges", "../type", "../metadata", "n/metadata", "n/extra"]
    whole, ways = path.read_bytes(), ({"profile": "nir", "dt": 1e-3}, {"profile": "sinabs"}, {})
    read = refused = 0
    for number, (place, value) in enumerate(product(places, VALUES)):
        path.write_bytes(whole)
        with h5py.File(path, "r+") as file:
            put(file["node/nodes"], place, value)
        try:
            nirfile.read(path, **ways[number % 3])
            read += 1
        except D2EError:
            refused += 1
    assert refused > read > 0


def test_no_flipped_byte_crashes_the_reader(path):
    data = path.read_bytes()
    draw = chance.Random(1)
    outcomes = set()
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(draw.choice((1, 4, 16))):
            damaged[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            with little_memory():
                nirfile.read(path, profile="nir", dt=1e-3)
            outcomes.add("read")
        except D2EError as error:
            outcomes.add(error.code)
    assert {"read", "D2E-FILE-003"} <= outcomes


# ----- d2e's own metadata, forged


def test_metadata_that_state_a_huge_shape_are_refused(tmp_path):
    path = tmp_path / "n.nir"
    huge = 1 << 30
    nirfile.write(chain([
        ("in", Input(shape=(4, 3))), ("fc", Linear(weight=np.ones((2, 3)))), ("n", LIF(shape=(4, 2))),
        ("out", Output(shape=(4, 2))),
    ]), path)

    def change(group):
        for name, last in (("in", 3), ("n", 2), ("out", 2)):
            text = json.loads(group[f"nodes/{name}/metadata/d2e/json"][()])
            text["fields"]["shape"] = [huge, last]
            put(group[f"nodes/{name}/metadata/d2e"], "json", json.dumps(text))
            if name != "n":
                put(group[f"nodes/{name}"], "shape", np.array([huge, last]))

    assert refusal(path, change, profile=None, dt=None) == "D2E-NIR-005"


@pytest.mark.parametrize("facts", [
    "[]", "7", '"x"', '{"schema": 1}', '{"schema": 1, "nodes": 5, "recurrent": [], "metadata": {}, "dt": 1}',
    '{"schema": 1, "nodes": [], "recurrent": [1], "metadata": {}, "dt": 1}',
    '{"schema": 1, "nodes": [], "recurrent": [], "metadata": 3, "dt": 1}',
    '{"schema": 1, "nodes": [], "recurrent": [], "metadata": {}, "dt": "x"}', "[" * 100_000,
])
def test_forged_metadata_of_the_graph(facts, tmp_path):
    path = tmp_path / "n.nir"
    nirfile.write(chain([("in", Input(shape=(2,))), ("n", LIF(shape=(2,))), ("out", Output(shape=(2,)))]), path)
    assert refusal(path, lambda g: put(g["metadata/d2e"], "json", facts), profile=None, dt=None) == "D2E-NIR-005"


# ----- quirks that have a meaning


def written(path, nodes: dict, edges: list) -> Network:
    nir.write(path, nir.NIRGraph(nodes=nodes, edges=edges, type_check=False))
    return nirfile.read(path, profile="nir", dt=1e-3)


def test_parameters_per_channel_and_scalars(tmp_path):
    path = tmp_path / "n.nir"
    nodes = {
        "in": nir.Input(np.array([2, 4, 3])), "c": nir.Conv2d(None, np.ones((3, 2, 3, 3)), 1, 1, 1, 1, np.zeros(3)),
        "n": nir.IF(np.full(3, 1e3), np.array([1.0, 2.0, 3.0])), "s": nir.Scale(np.array([1.0, 2.0, 3.0])),
        "out": nir.Output(np.array([3, 4, 3])),
    }
    edges = [("in", "c"), ("c", "n"), ("n", "s"), ("s", "out")]
    graph = nir.NIRGraph(nodes=nodes, edges=edges, type_check=False)
    graph.nodes["c"].input_shape = np.array([4, 3])
    nir.write(path, graph)
    with h5py.File(path, "r+") as file:
        del file["node/nodes/c/input_shape"]
        put(file["node/nodes/n"], "r", 1e3)
    network = nirfile.read(path, profile="nir", dt=1e-3)
    node = network.neuron("n")
    assert node.shape == (3, 4, 3)
    assert node.threshold.shape == (3, 1, 1)  # along the channels, not along the last axis of the same size
    assert network.nodes["s"].scale.shape == (3, 1, 1)
    assert isinstance(network.nodes["c"], Conv2d)


@pytest.mark.parametrize("extra", [(1,), (5,), (1, 1)])
def test_batch_axes_are_dropped_and_told(extra, tmp_path):
    nodes = {
        "in": nir.Input(np.array([*extra, 3])), "fc": nir.Affine(np.ones((2, 3)), np.zeros(2)),
        "n": nir.IF(np.ones(2), np.ones(2)), "out": nir.Output(np.array([*extra, 2])),
    }
    network = written(tmp_path / "n.nir", nodes, [("in", "fc"), ("fc", "n"), ("n", "out")])
    assert network.input.shape == (3,)
    assert network.output.shape == (2,)
    assert [w["code"] for w in network.metadata["warnings"]] == ["D2E-NIR-013"]


def test_batch_axes_before_a_convolution(tmp_path):
    nodes = {
        "in": nir.Input(np.array([1, 2, 4, 4])), "c": nir.Conv2d((4, 4), np.ones((3, 2, 3, 3)), 1, 0, 1, 1, np.zeros(3)),
        "n": nir.IF(np.ones((3, 2, 2)), np.ones((3, 2, 2))), "out": nir.Output(np.array([1, 3, 2, 2])),
    }
    assert written(tmp_path / "n.nir", nodes, [("in", "c"), ("c", "n"), ("n", "out")]).input.shape == (2, 4, 4)


def test_several_inputs_and_outputs_are_named(path):
    def change(group):
        group.copy("nodes/in", "nodes/second")

    assert refusal(path, change) == "D2E-NET-002"
    with pytest.raises(D2EError, match="in, second"):
        nirfile.read(path, profile="nir", dt=1e-3)


def test_a_recurrent_layer_adds_its_bias_at_every_step(tmp_path):
    two = np.array([2])
    nodes = {
        "in": nir.Input(two), "n": nir.IF(np.full(2, 1e3), np.full(2, 9.0)), "rec": nir.Affine(np.eye(2), np.ones(2)),
        "out": nir.Output(two),
    }
    network = written(tmp_path / "n.nir", nodes, [("in", "n"), ("n", "rec"), ("rec", "n"), ("n", "out")])
    assert [(e.source, e.target) for e in network.edges if e.recurrent] == [("n", "rec")]
    assert isinstance(network.nodes["rec"], Affine)
