"""The fused neuron is the one that is defined step by step: payloads to the bit, gradients up to rounding."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import d2e.nn as dn
from d2e.compiler.nn import fused
from d2e.compiler.nn.dynamics import Rules, by_step, scan
from d2e.ir.errors import UsageError

FORMATS = {
    "batch first": (0, 1, 2, 3, 4), "channels last": (0, 1, 3, 4, 2), "time first": (1, 0, 2, 3, 4),
    "turned": (0, 1, 2, 4, 3),
}


@st.composite
def populations(draw):
    number = lambda low, high: st.floats(low, high, width=32)  # noqa: E731
    options = {
        "threshold": draw(number(0.25, 2)), "reset": draw(st.sampled_from(["subtract", "zero", "value", "none"])),
        "fire": draw(st.sampled_from(["ge", "gt"])), "slope": draw(number(0.5, 4)),
        "surrogate": draw(st.sampled_from(["arctan", "triangle", "rectangular"])),
    }
    more = {"gain": (0.5, 2), "bias": (-0.5, 0.5), "v_init": (-0.5, 1.5), "v_reset": (-0.5, 0.25), "reset_by": (0.25, 2),
            "amplitude": (0.5, 2)}
    for name in draw(st.sets(st.sampled_from(sorted(more)))):
        options[name] = draw(number(*more[name]))
    return dn.IF(**options) if draw(st.booleans()) else dn.LIF(draw(number(0, 1)), **options)


@st.composite
def currents(draw):
    """[batch, time, *shape] with some order of axes in memory; on a grid of quarters, so that thresholds are met exactly."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=5, max_size=5)))
    order = FORMATS[draw(st.sampled_from(sorted(FORMATS)))]
    values = np.random.default_rng(draw(st.integers(0, 2**32))).uniform(-1.5, 2.5, shape)
    values = np.ceil(values * 4) / 4 if draw(st.booleans()) else values
    dense = torch.from_numpy(values).permute(order).contiguous()
    return dense.permute([order.index(axis) for axis in range(5)])


def both(neuron, current, grad=None):
    """Payloads and gradient, step by step and fused."""
    found = []
    for way in (by_step, scan):
        x = current.detach().clone().requires_grad_()
        sent = way(x, neuron.values(), Rules(**neuron.rules))
        if grad is not None:
            sent.backward(grad.to(sent.dtype))
        found.append((sent.detach(), x.grad))
    return found


@settings(deadline=None)
@given(populations(), currents(), st.sampled_from([torch.float32, torch.float64]), st.integers(0, 2**32))
def test_fused_is_the_definition(neuron, current, dtype, seed):
    current = current.to(dtype)
    if seed % 2:                                                    # a threshold per channel, or per neuron
        shape = (*current.shape[2:3], *(current.shape[3:] if seed % 4 == 1 else (1, 1)))
        neuron.threshold = torch.from_numpy(np.random.default_rng(seed).integers(1, 8, shape) / 4).to(torch.float32)
    assert fused.fits(current, neuron.values(), Rules(**neuron.rules))
    grad = torch.from_numpy(np.random.default_rng(seed).normal(size=current.shape))
    (sent, slope), (fused_sent, fused_slope) = both(neuron, current, grad)
    assert fused_sent.dtype == dtype
    assert torch.equal(sent, fused_sent)
    close = {"rtol": 1e-10, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(fused_slope, slope, **close)


def test_threads_share_the_batch_and_frames_keep_their_order_in_memory(monkeypatch):
    monkeypatch.setattr(fused, "_PART", 64)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    current = torch.rand(7 * 5, 4, 6, 6).contiguous(memory_format=torch.channels_last).unflatten(0, (7, 5))
    (sent, slope), (fused_sent, fused_slope) = both(dn.LIF(0.5, reset="zero"), current, torch.rand(current.shape))
    assert torch.equal(sent, fused_sent)
    torch.testing.assert_close(fused_slope, slope)
    assert fused_sent.stride() == current.stride() == fused_slope.stride()


@pytest.mark.parametrize("shape", [(2, 5), (2, 0, 3), (0, 4, 3), (2, 1, 3), (1, 4, 0)])
def test_frames_of_any_size(shape):
    current = torch.rand(shape, requires_grad=True)
    sent = dn.IF(0.5)(current)
    sent.sum().backward()
    assert sent.shape == current.grad.shape == shape


@pytest.mark.parametrize(
    ("neuron", "current"),
    [
        (dn.IF(max_spikes=2), torch.rand(2, 4, 3)), (dn.IF(reset_when="next"), torch.rand(2, 4, 3)),
        (dn.IF(refractory=1), torch.rand(2, 4, 3)), (dn.IF(v_min=-1.0), torch.rand(2, 4, 3)),
        (dn.CubaLIF(0.5, 0.5), torch.rand(2, 4, 3)), (dn.LI(0.5), torch.rand(2, 4, 3)),
        (dn.MultiThreshold([1.0, 2.0]), torch.rand(2, 4, 3)),
        (dn.IF(bias=torch.tensor([0.5, 1, 2])), torch.rand(2, 4, 3)),
        (dn.IF(torch.tensor([0.5, 1, 2], dtype=torch.float64)), torch.rand(2, 4, 3)),
        (dn.LIF(0.5, learn_decay=True, learn_threshold=True), torch.rand(2, 4, 3)),
        (dn.LIF(0.5), torch.rand(2, 4, 3, dtype=torch.bfloat16)), (dn.IF().to("meta"), torch.rand(2, 4, 3, device="meta")),
    ],
    ids=lambda given: type(given).__name__,
)
def test_other_populations_go_step_by_step(neuron, current):
    assert not fused.fits(current, neuron.values(), Rules(**neuron.rules))
    assert neuron(current).shape == current.shape


@pytest.mark.parametrize(("thresholds", "size"), [([0.5, 1.0, 2.0], 1), ([[[0.5]]], 3)])
def test_thresholds_that_make_more_of_a_current_go_step_by_step(thresholds, size):
    neuron, current = dn.IF(torch.tensor(thresholds)), torch.rand(2, 4, size)
    assert not fused.fits(current, neuron.values(), Rules(**neuron.rules))
    assert neuron(current).shape != current.shape


def test_what_is_learned_keeps_its_gradient_and_is_fused_without_one():
    neuron, current = dn.LIF(0.5, learn_decay=True, learn_threshold=True), torch.rand(2, 6, 3) * 2
    sent = neuron(current)
    sent.sum().backward()
    assert neuron.threshold.grad.abs() + neuron.decay_mem.grad.abs() > 0
    with torch.no_grad():
        assert fused.fits(current, neuron.values(), Rules(**neuron.rules))
        assert torch.equal(neuron(current), sent)


def test_without_gradient_no_membrane_is_kept(monkeypatch):
    kept = []
    real = fused._by_sample
    monkeypatch.setattr(fused, "_by_sample", lambda kernel, arrays: kept.append(arrays[2].size) or real(kernel, arrays))
    current = torch.rand(2, 4, 3, requires_grad=True)
    with torch.no_grad():
        dn.IF()(current)
    dn.IF()(current.detach())
    dn.IF()(current)
    assert kept == [0, 0, 24]


def test_a_second_derivative_is_refused_where_there_is_none():
    current = torch.rand(2, 4, 3, requires_grad=True)
    with pytest.raises(UsageError) as caught:
        torch.autograd.grad(dn.IF()(current).sum(), current, create_graph=True)
    assert caught.value.code == "D2E-NN-004"
    (slope,) = torch.autograd.grad(dn.IF(learn_threshold=True)(current).sum(), current, create_graph=True)
    slope.sum().backward()
    assert current.grad.abs().sum() > 0


def test_autocast_trains():
    model = dn.Sequential(nn.Linear(4, 6), dn.LIF(0.5), nn.Linear(6, 2), dn.LI(0.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(torch.rand(3, 5, 4) * 4)
    out.float().square().sum().backward()
    assert model[0].weight.grad.abs().sum() > 0


def test_an_exported_and_a_compiled_model_fire_alike():
    model = dn.Sequential(nn.Linear(4, 6), dn.LIF(0.5, 0.3, reset="zero")).eval()
    frames = torch.rand(2, 5, 4) * 3
    exported = torch.export.export(model, (frames,))
    assert any("d2e.neuron" in str(node.target) for node in exported.graph.nodes)
    with torch.no_grad():
        assert torch.equal(exported.module()(frames), model(frames))
        assert torch.equal(torch.compile(model, backend="eager")(frames), model(frames))
