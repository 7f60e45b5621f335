"""Where a network is cut at the host: segments with one source and one end, integers in, what the host adds, refusals."""

from dataclasses import replace

import numpy as np
import pytest
from tests.compiler.hosted.networks import levels_of, membrane, real, transformer

from d2e.compiler.hosted.split import on_host, reshaped, split, whole
from d2e.compiler.hosted.steps import inner
from d2e.ir import (
    IF,
    LI,
    Add,
    Conv1d,
    Delay,
    EarlyExit,
    Edge,
    Flatten,
    Input,
    Linear,
    MultiThreshold,
    Network,
    Output,
    Scale,
    UnsupportedError,
    chain,
    reference,
    verify,
)


@pytest.fixture(scope="module")
def network() -> Network:
    return transformer()


@pytest.fixture(scope="module")
def segments(network):
    return {segment.end: segment for segment in split(network)}


def images(n: int = 5) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(n, 1, 4, 4))


def fault(network: Network) -> UnsupportedError:
    assert verify(network) == []
    with pytest.raises(UnsupportedError) as caught:
        split(network)
    return caught.value


def test_every_segment_has_one_source_and_one_end(network, segments):
    assert {segment.source: end for end, segment in segments.items()} == {
        "in": "patch.in", "norm.sent": "qkv.sent", "attend.sent": "proj.in", "mlp.sent": "mlp.in", "head.sent": "readout"}
    assert all(verify(segment.network) == [] for segment in segments.values())
    order = [network.order.index(end) for end in segments]
    assert order == sorted(order)


def test_populations_behind_the_host_alone_and_the_flatten_before_it_are_the_hosts(network):
    assert on_host(network) == ("norm.sent", "attend.sent", "mlp.sent", "head.sent")
    assert reshaped(network) == ("flat",)


def test_what_enters_is_integers_and_a_factor_says_what_one_stands_for(network, segments):
    segment, site = segments["qkv.sent"], network.nodes["norm.sent"]
    entry = segment.network.input
    assert (entry.coding, entry.max_payload) == ("signed", site.payloads.max())
    assert isinstance(segment.network.nodes["norm.sent.amplitude"], Scale)
    assert segments["patch.in"].network.input is network.input


def test_segments_on_tokens_run_with_the_tokens_last(network, segments):
    segment = segments["mlp.in"]
    assert segment.moved
    assert segment.network.input.shape == (6, 4)
    assert {type(n).__name__ for n in segment.network.nodes.values()} == {
        "Input", "Scale", "Conv1d", "MultiThreshold", "LI", "Output"}
    assert segment.network.nodes["gelu"].shape == (12, 4)
    assert segment.network.nodes["gelu"].threshold.shape == (12, 1)
    assert not segments["readout"].moved
    assert not segments["patch.in"].moved
    frames = np.arange(24).reshape(1, 1, 4, 6)
    assert np.array_equal(segment.entering(frames)[0, 0], frames[0, 0].T)


def test_a_dense_layer_on_tokens_is_a_convolution_of_size_1(network, segments):
    first = network.incoming["gelu"][0].source
    node = segments["mlp.in"].network.nodes[first]
    assert isinstance(node, Conv1d)
    assert np.array_equal(node.weight[:, :, 0], network.nodes[first].weight)


def test_the_bias_of_a_membrane_without_memory_is_the_hosts(network, segments):
    segment = segments["proj.in"]
    assert not segment.network.nodes["proj.in"].bias.any()
    assert np.array_equal(segment.offset, network.nodes["proj.in"].bias)
    keeps = network.with_nodes({"proj.in": replace(network.nodes["proj.in"], decay_mem=real(0.5))})
    segment = next(s for s in split(keeps) if s.end == "proj.in")
    assert segment.network.nodes["proj.in"].bias.any()
    assert not segment.offset.any()


def test_payloads_lose_their_common_divisor(network):
    site = network.nodes["norm.sent"]
    tripled = replace(site, payloads=3 * site.payloads, amplitude=site.amplitude / 3)
    assert whole(tripled)[1] == 3 * whole(site)[1]
    assert np.array_equal(whole(tripled)[0], whole(site)[0])
    same = network.with_nodes({"norm.sent": tripled})
    np.testing.assert_allclose(inner(same, images()[:, None])[1], inner(network, images()[:, None])[1], rtol=1e-12)
    entry = next(s for s in split(same) if s.source == "norm.sent").network.input
    assert entry.max_payload == site.payloads.max()


def test_the_segments_compute_what_the_network_means(network):
    frames = images()[:, None]
    entering, output = inner(network, frames)
    np.testing.assert_allclose(output, reference.run(network, frames).output, rtol=1e-12, atol=1e-12)
    assert set(entering) == {"in", "norm.sent", "attend.sent", "mlp.sent", "head.sent"}
    assert all(entering[name].dtype.kind == "i" for name in entering if name != "in")


def test_one_segment_for_a_network_with_the_host_at_its_end_only():
    network = chain([
        ("in", Input(shape=(3,))), ("fc", Linear(weight=np.eye(3))), ("read", membrane((3,), np.random.default_rng(0))),
        ("add", Add(bias=np.ones(3))), ("out", Output(shape=(3,), readout="last")),
    ])
    (segment,) = split(network)
    assert (segment.source, segment.end) == ("in", "read")


# ----- refusals


def broken(network: Network, drop: tuple[str, str], *edges: Edge, **nodes) -> Network:
    kept = tuple(e for e in network.edges if (e.source, e.target) != drop)
    return Network({**network.nodes, **nodes}, (*kept, *edges), {})


def test_two_sources_are_refused(network):
    first = network.incoming["gelu"][0].source
    more = Network({**network.nodes, "fc9": Linear(weight=np.ones((12, 6)))},
                   (*network.edges, Edge("attend.sent", "fc9"), Edge("fc9", "gelu")), {})
    assert first != "fc9"
    found = fault(more)
    assert found.code == "D2E-HOST-002"
    assert "2 sources (attend.sent, mlp.sent)" in str(found)


def test_synapses_before_the_host_are_refused(network):
    source = network.incoming["proj.in"][0].source
    direct = network.without("proj.in")
    found = fault(direct)
    assert (found.code, found.node) == ("D2E-HOST-003", source)


@pytest.mark.parametrize("node", [None, LI(shape=(4, 6), decay_mem=real(0.0))], ids=["host", "readout"])
def test_real_values_to_synapses_are_refused(network, node):
    changed = network.without("mlp.sent") if node is None else network.with_nodes({"mlp.sent": node})
    found = fault(changed)
    assert found.code == "D2E-HOST-004"
    assert found.node == (network.incoming["mlp.sent"][0].source if node is None else "mlp.sent")


def test_loops_through_the_host_are_refused():
    nodes = {
        "in": Input(shape=(3,)), "a": IF(shape=(3,)), "h": Add(), "s": levels_of((3,), np.random.default_rng(0)),
        "fc": Linear(weight=np.eye(3)), "out": Output(shape=(3,)),
    }
    edges = [Edge("in", "a"), Edge("a", "h"), Edge("h", "s"), Edge("s", "fc", recurrent=True), Edge("fc", "a"),
             Edge("a", "out")]
    assert fault(Network(nodes, tuple(edges), {})).code == "D2E-HOST-005"


def test_payloads_that_are_no_integers_are_refused(network):
    site = network.nodes["mlp.sent"]
    found = fault(network.with_nodes({"mlp.sent": replace(site, payloads=site.payloads / 2 + 0.25)}))
    assert found.code == "D2E-HOST-006"


def test_more_than_dense_layers_on_tokens_is_refused(network):
    first = network.incoming["gelu"][0].source
    changed = broken(network, (first, "gelu"), Edge(first, "late"), Edge("late", "gelu"), late=Delay(steps=1))
    found = fault(changed)
    assert (found.code, found.node) == ("D2E-HOST-007", "late")


def test_other_neurons_right_behind_the_host_are_refused(network):
    found = fault(network.with_nodes({"mlp.sent": IF(shape=(4, 6), max_spikes=0)}))
    assert (found.code, found.node) == ("D2E-HOST-008", "mlp.sent")


def test_an_early_exit_is_refused(network):
    rule = EarlyExit(bounds=np.full(1, 0.5))
    found = fault(network.with_nodes({"out": replace(network.output, exit=rule)}))
    assert found.code == "D2E-HOST-009"


def test_a_flatten_behind_levels_is_the_chips():
    rng = np.random.default_rng(0)
    network = chain([
        ("in", Input(shape=(2, 3), coding="direct")), ("add", Add()), ("sent", levels_of((2, 3), rng, "signed")),
        ("flat", Flatten()), ("fc", Linear(weight=rng.normal(size=(4, 6)))), ("read", membrane((4,), rng)),
        ("out", Output(shape=(4,), readout="last")),
    ])
    (segment,) = split(network)
    assert (segment.source, segment.end, segment.moved) == ("sent", "read", False)
    assert "flat" in segment.network.nodes
    assert isinstance(network.nodes["sent"], MultiThreshold)
