"""`.nir` files for older readers: what nir 1.0.4 takes, as its classes have it, and still ours without loss."""

from __future__ import annotations

import h5py
import nir
import numpy as np
import pytest
from tests.ir.networks import random_integer_network, random_network

from d2e.ir import (
    LI,
    LIF,
    CubaLIF,
    Input,
    Linear,
    Network,
    Output,
    Quantized,
    UnsupportedError,
    UsageError,
    chain,
    nirfile,
)

# Fields that the constructors of nir 1.0.4 take (PyPI wheel nir-1.0.4, nir/ir/*.py); from_dict passes every stored one,
# so any other is "an unexpected keyword argument". Input and Output store theirs as "shape".
SCHEMA = {
    "Affine": {"weight", "bias", "metadata"}, "AvgPool2d": {"kernel_size", "stride", "padding"},
    "Conv1d": {"input_shape", "weight", "stride", "padding", "dilation", "groups", "bias", "metadata"},
    "Conv2d": {"input_shape", "weight", "stride", "padding", "dilation", "groups", "bias"},
    "CubaLIF": {"tau_syn", "tau_mem", "r", "v_leak", "v_threshold", "w_in", "metadata"}, "Delay": {"delay", "metadata"},
    "Flatten": {"input_type", "start_dim", "end_dim", "metadata"}, "I": {"r", "metadata"},
    "IF": {"r", "v_threshold", "metadata"}, "Input": {"shape"}, "LI": {"tau", "r", "v_leak", "metadata"},
    "LIF": {"tau", "r", "v_leak", "v_threshold", "metadata"}, "Linear": {"weight"},
    "NIRGraph": {"nodes", "edges", "metadata"}, "Output": {"shape"}, "Scale": {"scale"},
    "SumPool2d": {"kernel_size", "stride", "padding", "metadata"}, "Threshold": {"threshold", "metadata"},
}


def assert_old_readers_take_it(path) -> None:
    with h5py.File(path) as file:
        assert file["version"][()] == b"1.0.4"
        assert set(file["node"]) - {"type"} <= SCHEMA["NIRGraph"]
        for node in file["node/nodes"].values():
            assert set(node) - {"type"} <= SCHEMA[node["type"][()].decode()]


def sayable(network: Network) -> bool:
    tree = nirfile.network_tree(network)["nodes"].values()
    return not any(
        node["type"] == "CubaLI" or np.any(node.get("v_reset", 0))
        or (node["type"] == "Conv1d" and isinstance(node["padding"], str)) for node in tree
    )


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("maker", [random_network, random_integer_network])
def test_what_old_readers_take_comes_back_exactly(seed, maker, tmp_path):
    network, _ = maker(seed)
    path = tmp_path / "n.nir"
    if not sayable(network):
        with pytest.raises(UnsupportedError, match="D2E-NIR-008"):
            nirfile.write(network, path, compat="1.0.4")
        return
    nirfile.write(network, path, compat="1.0.4")
    assert_old_readers_take_it(path)
    assert nirfile.read(path).same(network)
    nir.write(tmp_path / "again.nir", nir.read(path, type_check=False))
    assert nirfile.read(tmp_path / "again.nir").same(network)


def small(neuron, **options) -> Network:
    weight = np.arange(6.0).reshape(2, 3)
    return chain([
        ("in", Input(shape=(3,), dt=1e-3, time_steps=7)), ("fc", Linear(weight=weight, **options)), ("n", neuron),
        ("out", Output(shape=(2,))),
    ])


def test_quantised_weights_and_the_inputs_facts_are_kept_beside_the_nodes(tmp_path):
    grid = Quantized(bits=8, scale=np.array(0.5))
    network = small(LIF(shape=(2,), decay_mem=0.9), quantized=grid)
    network = network.with_nodes({"fc": Linear(weight=np.arange(6).reshape(2, 3), quantized=grid)})
    nirfile.write(network, tmp_path / "n.nir", compat="1.0.4")
    assert nirfile.read(tmp_path / "n.nir").same(network)


@pytest.mark.parametrize("neuron", [
    LIF(shape=(2,), decay_mem=0.9, reset="value", v_reset=-0.5), LI(shape=(2,), decay_mem=0.9, decay_syn=0.5),
])
def test_what_1_0_4_cannot_say_is_refused(neuron, tmp_path):
    with pytest.raises(UnsupportedError, match=r"D2E-NIR-008.*\(node 'n'\)"):
        nirfile.write(small(neuron), tmp_path / "n.nir", compat="1.0.4")
    assert not list(tmp_path.iterdir())


def test_unknown_versions_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"D2E-NIR-001.*Known: 1.0.4, 1.0.8"):
        nirfile.write(small(CubaLIF(shape=(2,))), tmp_path / "n.nir", compat="1.0.3")
