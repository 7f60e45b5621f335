"""Every linear map that has a legal square convolution gets it, and it is the same map; the others say why not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2e.backends.speck.geometry import Geometry, geometries, space_of
from d2e.backends.speck.limits import LIMITS, STRIDES
from d2e.compiler.algebra import run_chain
from d2e.compiler.passes.canonicalise import Canonicalise
from d2e.compiler.paths import paths_into
from d2e.ir import IF, Conv1d, Conv2d, Edge, Flatten, Input, Linear, Network, Output, Scale, SumPool2d, linear
from d2e.ir.network import chain
from d2e.ir.nodes import Node
from d2e.ir.shapes import infer_shapes, output_shape

RNG = np.random.default_rng(7)


def _weights(*shape: int) -> np.ndarray:
    return RNG.integers(-9, 10, shape).astype(float)


def _network(shape: tuple[int, ...], *synapses: Node) -> Network:
    """Input -> the synapses -> IF -> Output, kept with pooling."""
    out = shape
    for node in synapses:
        out = output_shape("test", node, out)  # type: ignore[arg-type]
    named = [(f"s{i}", node) for i, node in enumerate(synapses)]
    network = chain([("in", Input(shape=shape)), *named, ("pop", IF(shape=out)), ("out", Output(shape=out))])
    return Canonicalise(pooling=(2, 4)).run(network, None)  # type: ignore[arg-type]


def _through(network: Network, name: str, geometry: Geometry, frames: dict[str, np.ndarray]) -> np.ndarray:
    """What the chip's convolution makes of frames of every source, in the shape of the population."""
    batch = len(next(iter(frames.values())))
    total = np.zeros((batch, *geometry.input))
    for link in geometry.links:
        maps = frames[link.source].reshape(batch, *space_of(frames[link.source].shape[1:]))
        if maps.shape[1:] != geometry.input and maps[0].size == np.prod(geometry.input):
            maps = maps.reshape(batch, *geometry.input)  # the host addresses a map as features
        p = link.pooling
        maps = maps[:, :, : maps.shape[2] // p * p, : maps.shape[3] // p * p]
        pooled = maps.reshape(*maps.shape[:2], maps.shape[2] // p, p, maps.shape[3] // p, p).sum((3, 5))
        total[:, link.shift : link.shift + pooled.shape[1]] += pooled
    form = geometry.form
    conv = Conv2d(weight=geometry.kernels, stride=form.stride, padding=form.padding)
    result = linear.apply(conv, total, geometry.input)
    assert result.shape[1:] == geometry.output
    return result.reshape(batch, *network.neuron(name).shape)


def _same_map(network: Network) -> Geometry:
    """The geometry of "pop", checked against the network's own synapses."""
    found, findings = geometries(network)
    assert not findings
    geometry = found["pop"]
    form = geometry.form
    assert form.kernel_size <= LIMITS["kernel_size"].value
    assert set(form.stride) <= set(STRIDES)
    assert max(form.padding) <= LIMITS["padding"].value
    paths = list(paths_into(network, "pop"))
    shapes = infer_shapes(network)
    frames = {p.source: RNG.integers(0, 4, (3, *shapes[p.source])).astype(float) for p in paths}
    expected = sum(
        run_chain([network.nodes[s] for s in p.synapses], frames[p.source], shapes[p.source])  # type: ignore[misc]
        for p in paths
    )
    assert (_through(network, "pop", geometry, frames) == expected).all()
    return geometry


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_convolutions(data: st.DataObject) -> None:
    """Groups, dilation, rectangular kernels, strides and paddings: the same map, or a reason."""
    draw = data.draw
    groups = draw(st.sampled_from([1, 1, 2]))
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    pool = draw(st.sampled_from([1, 1, 2, 4]))
    kernel = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    padding = (draw(st.integers(0, 3)), draw(st.integers(0, 3)))
    stride = (draw(st.sampled_from([1, 2, 3, 4])), draw(st.sampled_from([1, 2, 4])))
    small = [n // pool + 2 * p - d * (k - 1) for n, p, d, k in zip((height, width), padding, dilation, kernel, strict=True)]
    if min(small) < 1 or min(height, width) < pool:
        return
    conv = Conv2d(weight=_weights(4, 4 // groups, *kernel), stride=stride, padding=padding, dilation=dilation, groups=groups)
    pools = [SumPool2d(kernel_size=(pool, pool), stride=(pool, pool))] if pool > 1 else []
    network = _network((4, height, width), *pools, conv)
    found, findings = geometries(network)
    if found:
        _same_map(network)
    else:
        assert {f.code for f in findings} <= {"D2E-SPECK-011", "D2E-SPECK-013"}


def test_what_has_a_form_gets_it() -> None:
    """No group, dilation or even difference of sides is refused."""
    assert _same_map(_network((4, 9, 9), Conv2d(weight=_weights(6, 2, 3, 3), groups=2))).form.kernel_size == 3
    assert _same_map(_network((2, 9, 9), Conv2d(weight=_weights(3, 2, 3, 3), dilation=(2, 2)))).form.kernel_size == 5
    assert _same_map(_network((2, 9, 8), Conv2d(weight=_weights(3, 2, 3, 5), padding=(1, 2)))).form.padding == (2, 2)
    assert _same_map(_network((2, 6, 6), Conv2d(weight=_weights(3, 2, 2, 2), padding="same"))).form.kernel_size == 3
    assert _same_map(_network((3, 20), Conv1d(weight=_weights(5, 3, 3), stride=(2,), padding=(1,)))).form.padding == (1, 1)
    assert _same_map(_network((5,), Linear(weight=_weights(7, 5)))).form.kernel_size == 1
    assert _same_map(_network((3, 4, 4), Scale(scale=np.arange(1.0, 4)[:, None, None]))).form.kernel_size == 1


@pytest.mark.parametrize("shape", [(2, 4, 4), (2, 5, 3), (1, 1, 6), (3, 8, 3), (2, 2, 16), (1, 15, 2)])
def test_dense_layers_on_maps(shape: tuple[int, ...]) -> None:
    """A dense layer on a map, square or not, is one kernel over it."""
    geometry = _same_map(_network(shape, Flatten(), Linear(weight=_weights(5, int(np.prod(shape))))))
    assert geometry.output == (5, 1, 1)
    assert geometry.form.kernel_size == max(shape[1:])


def test_dense_layer_on_a_large_input_addresses_features() -> None:
    """The host may address pixels as features where no kernel covers the map."""
    geometry = _same_map(_network((1, 28, 28), Flatten(), Linear(weight=_weights(5, 784))))
    assert geometry.input == (784, 1, 1)


def test_pooled_dense_layer() -> None:
    """Pooling stays on the way, the dense layer sees the small map."""
    pool = SumPool2d(kernel_size=(4, 4), stride=(4, 4))
    geometry = _same_map(_network((2, 34, 34), pool, Flatten(), Linear(weight=_weights(3, 128))))
    assert geometry.links[0].pooling == 4
    assert geometry.input == (2, 8, 8)


def _branches(second: np.ndarray, shape: tuple[int, int, int] = (2, 6, 6)) -> Network:
    nodes = {
        "in": Input(shape=(2, 6, 6)), "a": IF(shape=(2, 6, 6)), "b": IF(shape=shape), "pop": IF(shape=(3, 6, 6)),
        "out": Output(shape=(3, 6, 6)), "id": Scale(scale=np.array(1.0)),
        "to_b": Conv2d(weight=_weights(shape[0], 2, 3, 3), stride=(1, 1), padding=(1, 1)),
        "one": Conv2d(weight=np.ones((3, 2, 3, 3)), padding=(1, 1)), "two": Conv2d(weight=second, padding=(1, 1)),
    }
    edges = [("in", "id"), ("id", "a"), ("in", "to_b"), ("to_b", "b"), ("a", "one"), ("b", "two"), ("one", "pop"),
             ("two", "pop"), ("pop", "out")]
    return Network(nodes, tuple(Edge(*e) for e in edges))


def test_branches_meet() -> None:
    """Sources of equal kernels add up on the same features; sources of their own kernels stand side by side."""
    shared = _same_map(_branches(np.ones((3, 2, 3, 3))))
    assert [link.shift for link in shared.links] == [0, 0]
    assert shared.input[0] == 2
    apart = _same_map(_branches(_weights(3, 2, 3, 3)))
    assert sorted(link.shift for link in apart.links) == [0, 2]
    assert apart.input[0] == 4


@pytest.mark.parametrize(("code", "shape", "nodes"), [
    ("D2E-SPECK-010", (1, 20, 20), [Conv2d(weight=_weights(1, 1, 17, 17))]),
    ("D2E-SPECK-010", (2, 40, 40), [Flatten(), Linear(weight=_weights(2, 3200))]),
    ("D2E-SPECK-011", (1, 9, 9), [Conv2d(weight=_weights(1, 1, 3, 3), stride=(3, 3))]),
    ("D2E-SPECK-012", (1, 9, 9), [Conv2d(weight=_weights(1, 1, 17, 17)[:, :, :16, :16], padding=(8, 8))]),
    ("D2E-SPECK-013", (1, 9, 9), [Conv2d(weight=_weights(1, 1, 2, 3))]),
    ("D2E-SPECK-014", (1, 129, 129), [Conv2d(weight=_weights(1, 1, 3, 3), stride=(4, 4))]),
    ("D2E-SPECK-014", (1, 66, 66), [Conv2d(weight=_weights(1, 1, 1, 1))]),
    ("D2E-SPECK-015", (1, 2, 2), [Conv2d(weight=_weights(1025, 1, 1, 1))]),
    ("D2E-SPECK-017", (1, 2, 2), [Scale(scale=_weights(1, 2, 2))]),
    ("D2E-SPECK-018", (1, 6, 6), [Flatten(start_dim=1), Conv1d(weight=_weights(1, 1, 3))]),
])
def test_what_has_no_form_says_why(code: str, shape: tuple[int, ...], nodes: list[Node]) -> None:
    """One finding with the node, the limit and a way out."""
    found, findings = geometries(_network(shape, *nodes))
    assert not found
    assert [f.code for f in findings] == [code]
    assert findings[0].node
    assert findings[0].hint
