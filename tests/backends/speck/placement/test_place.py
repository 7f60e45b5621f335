"""place in a network: the placement that the report, mapping.csv and the configuration are made of."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from d2e.backends.speck.limits import ARITHMETIC, CORES
from d2e.backends.speck.lowering import configure, layers
from d2e.backends.speck.placement.place import COLUMNS, Place
from d2e.backends.speck.rules import readout_fits
from d2e.compiler.notes import warnings
from d2e.compiler.report.build import build_report
from d2e.ir import IF, Conv2d, Edge, Flatten, Input, Linear, Network, Output, SumPool2d, UnsupportedError, reference
from d2e.ir.network import chain
from d2e.ir.nodes import integral

RNG = np.random.default_rng(3)


def neurons(*shape: int, bias: Any = 0) -> IF:
    return IF(shape=shape, threshold=integral(50), v_min=integral(-50), bias=integral(bias), arithmetic=ARITHMETIC)


def conv(out: int, channels: int) -> Conv2d:
    return Conv2d(weight=integral(RNG.integers(-9, 10, (out, channels, 3, 3))), padding=(1, 1))


def network(*, features: int = 40, bias: Any = 0, **options: str) -> Network:
    """conv (64 x 64: parts) -> pool -> conv -> pool -> dense."""
    made = chain([
        ("input", Input(shape=(2, 64, 64))), ("c1", conv(features, 2)), ("conv1", neurons(features, 64, 64, bias=bias)),
        ("p1", SumPool2d(kernel_size=(4, 4), stride=(4, 4))), ("c2", conv(16, features)), ("conv2", neurons(16, 16, 16)),
        ("p2", SumPool2d(kernel_size=(4, 4), stride=(4, 4))), ("flat", Flatten()),
        ("fc", Linear(weight=integral(RNG.integers(-9, 10, (10, 256))))), ("out", neurons(10)),
        ("output", Output(shape=(10,))),
    ])
    return made.with_metadata(speck={"chip": "speck2f", **options})


def placed(source: Network, **options: Any) -> Network:
    return Place(**options).run(source, None)  # type: ignore[arg-type]


def rows(found: Any) -> list[dict[str, Any]]:
    return [dict(zip(found["cores"]["columns"], row, strict=True)) for row in found["cores"]["rows"]]


def test_placement_is_plain_and_complete() -> None:
    source = network(features=20)
    found = placed(source).metadata["placement"]
    assert json.loads(json.dumps(found)) == found
    assert found["parts"].keys() == found["populations"].keys() == {"conv1", "conv2", "out"}
    conv1, out = found["populations"]["conv1"], found["populations"]["out"]
    assert conv1["neurons"] == 20 * 64 * 64
    assert conv1["neuron_words"] == 20 * 4096
    assert conv1["cores"] == len(found["parts"]["conv1"]) == 2
    assert out["synapses"] == 2560 * 16  # through the sums of 4 x 4
    assert (out["kernel_words"], out["neuron_words"], out["bias_words"]) == (16 * 16 * 16, 10, 0)
    assert found["fit"]["cores"] == {"used": 4, "limit": 9}


def test_a_row_per_core_says_what_is_used_of_what() -> None:
    found = placed(network()).metadata["placement"]
    table = rows(found)
    assert found["cores"]["columns"] == list(COLUMNS)
    assert [row["core"] for row in table] == sorted(row["core"] for row in table)
    for row in table:
        core = CORES[row["core"]]
        assert (row["kernel_words_limit"], row["neuron_words_limit"], row["bias_words_limit"]) == (
            core.kernel, core.neuron, core.bias)
        assert [row["core"], row["first_feature"], row["features"]] in found["parts"][row["population"]]
    assert sum(row["expected_synops_percent"] for row in table) == pytest.approx(100, abs=0.1)


def test_the_fit_is_the_fullest_core_of_each_memory() -> None:
    found = placed(network()).metadata["placement"]
    for memory in ("kernel", "neuron"):
        fit = found["fit"][f"{memory}_words_of_fullest_core"]
        shares = [row[f"{memory}_words"] / row[f"{memory}_words_limit"] for row in rows(found)]
        assert fit["used"] / fit["limit"] == max(shares)
    assert "bias_words_of_fullest_core" not in found["fit"]
    assert "bias_words_of_fullest_core" in placed(network(bias=3)).metadata["placement"]["fit"]


def test_the_report_reads_the_placement() -> None:
    told = build_report(placed(network()), target="speck2f-sim", engine="speck2f-sim", bit_exact_with=None, source_kinds={})
    assert told["totals"]["cores"] == 5
    assert {row["name"]: row["cores"] for row in told["layers"]} == {"conv1": 3, "conv2": 1, "out": 1}
    assert "cores 5/9" in told.text()


def test_parts_of_a_layer_are_configured_whole() -> None:
    """Every source reaches every part, each part sends with its own shift, and the parts' weights are the layer's."""
    source = network(features=24)
    result = placed(source)
    config = configure(result)
    parts = result.metadata["placement"]["parts"]
    assert sorted(config.cnn_layers) == sorted(core for own in parts.values() for core, _, _ in own)
    assert [d.layer for d in config.source.destinations] == [core for core, _, _ in parts["conv1"]]
    (target, _, _), = parts["conv2"]
    for core, first, _ in parts["conv1"]:
        assert [(d.layer, d.pooling, d.feature_shift) for d in config.cnn_layers[core].destinations] == [(target, 4, first)]
    whole = layers(source)[0].weights.swapaxes(2, 3)
    assert len(parts["conv1"]) == 2
    np.testing.assert_array_equal(np.concatenate([config.cnn_layers[core].weights for core, _, _ in parts["conv1"]]), whole)
    for name, own in parts.items():
        assert [(p.layer, p.first, p.count) for p in config.populations[name].parts] == [tuple(part) for part in own]


def test_a_layer_with_biases_has_core_3_or_4() -> None:
    result = placed(network(features=4, bias=3))
    assert result.metadata["placement"]["parts"]["conv1"][0][0] in (3, 4)
    assert not warnings(result)


def test_biases_elsewhere_are_a_warning() -> None:
    result = placed(network(features=30, bias=3))
    cores = [core for core, _, _ in result.metadata["placement"]["parts"]["conv1"]]
    found, = warnings(result)
    assert cores == [2, 3, 4]
    assert (found["code"], found["node"]) == ("D2E-SPECK-056", "conv1")
    assert "on core 2" in found["message"]


def test_work_on_calibration_data_decides() -> None:
    """Without data the largest layer counts as the busiest; here it gets no events, and fires from its initial states."""
    source = network(features=4)
    quiet = source.with_nodes({"conv1": replace(source.neuron("conv1"), v_init=integral(30_000))})
    frames = np.zeros((2, 8, 2, 64, 64), np.int64)
    for calibration, fast in ((None, {"conv1", "conv2"}), (frames, {"conv2", "out"})):
        found = placed(quiet, calibration=calibration).metadata["placement"]
        assert {row["population"] for row in rows(found) if row["core"] in (0, 1)} == fast
    shares = {row["population"]: row["expected_synops_percent"] for row in rows(found)}
    assert shares["conv1"] == 0
    received = 8 * 4 * 16 * (3 * 16 - 2) ** 2 * 16  # steps, features in and out, windows of all positions, events of a pool
    sent = reference.run(quiet, frames).counts["conv2"].mean(axis=0).sum() * 10
    assert shares["conv2"] == pytest.approx(100 * received / (received + sent), abs=0.01)


def test_the_camera_reaches_two_parts() -> None:
    assert len(placed(network(features=40)).metadata["placement"]["parts"]["conv1"]) == 3
    with pytest.raises(UnsupportedError, match="'input' needs 3 destinations and can have 2") as caught:
        placed(network(features=40), camera=True)
    assert (caught.value.code, caught.value.node) == ("D2E-SPECK-051", "conv1")


def test_an_output_for_the_readout_block_is_spread_out_on_one_core() -> None:
    source = network(readout="pins")
    assert not list(readout_fits(source, source.metadata["speck"]))
    result = placed(source)
    assert result.metadata["placement"]["parts"]["out"][0][1:] == [0, 10]
    assert result.metadata["placement"]["populations"]["out"]["neuron_words"] == 37
    core = result.metadata["placement"]["parts"]["out"][0][0]
    assert configure(result).cnn_layers[core].dimensions.output_shape == (37, 1, 1)


def test_three_readers_of_a_layer_are_refused() -> None:
    source = network(features=4)
    extra = {f"{kind}{i}": node for i in range(2) for kind, node in (("r", conv(4, 4)), ("n", neurons(4, 64, 64)))}
    wide = conv(16, 12)
    nodes = {**source.nodes, **extra, "c2": replace(wide, weight=wide.weight[:, :4])}
    edges = [*source.edges, *(e for i in range(2) for e in (Edge("conv1", f"r{i}"), Edge(f"r{i}", f"n{i}")))]
    last = [("p3", SumPool2d(kernel_size=(4, 4), stride=(4, 4))), ("p4", SumPool2d(kernel_size=(4, 4), stride=(4, 4)))]
    for i, (name, pool) in enumerate(last):
        nodes |= {name: pool, f"m{i}": conv(16, 4)}
        edges += [Edge(f"n{i}", name), Edge(name, f"m{i}"), Edge(f"m{i}", "conv2")]
    with pytest.raises(UnsupportedError, match="3 destinations, and can have 2") as caught:
        placed(replace(source, nodes=nodes, edges=tuple(edges)))
    assert (caught.value.code, caught.value.node) == ("D2E-SPECK-053", "conv1")
