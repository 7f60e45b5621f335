"""The engine of a conversion: spike for spike the burst equations in numpy and the reference interpreter."""

import numpy as np
import pytest
import torch
from tests.compiler.convert.networks import (
    MODELS,
    activations,
    conv,
    dense,
    dyadic,
    floating,
    pooled,
    random_plan,
    skeleton_of,
    state_of,
    stepwise,
)

from d2e.compiler.convert.adaptive import engine
from d2e.compiler.convert.adaptive.build import network_of
from d2e.compiler.convert.skeleton import activate, frames_of, rows_of
from d2e.ir import reference

STEPS = 6


def in_rows(spikes):
    """n [B, T, *shape] as the engine's rows [B, T, N]."""
    moved = np.moveaxis(spikes, 2, -1)
    return moved.reshape(*moved.shape[:2], -1)


def three(name, make, most, exact):
    """Spikes and summed logits by the equations, the reference and the engine, all as rows."""
    model, images = make(name)
    skeleton = skeleton_of(name, model)
    plan = random_plan(skeleton, most, exact=exact)
    wanted, logits = stepwise(name, model, plan, images, STEPS)
    logits = logits + plan["readout"].shift * np.arange(1, STEPS + 1)[:, None]
    trace = reference.run(network_of(state_of(skeleton, plan), STEPS), images, "spikes")
    found, evidence = engine.simulate(skeleton, plan, images, STEPS)
    assert set(wanted) == set(found) == {layer.name for layer in skeleton.rectifiers}
    assert all(in_rows(n).mean() > 0 and n.max() <= most for n in wanted.values())
    assert most == 1 or max(n.max() for n in wanted.values()) > 1
    return (
        ({key: in_rows(n) for key, n in wanted.items()}, logits),
        ({key: in_rows(trace.spikes[key]) for key in wanted}, trace.output),
        (found, evidence),
    )


@pytest.mark.parametrize("most", [1, 3, 15])
@pytest.mark.parametrize("name", MODELS)
def test_exact_numbers_give_the_same_spikes_and_logits(name, most):
    (wanted, logits), *others = three(name, dyadic, most, True)
    for spikes, output in others:
        for key, n in wanted.items():
            np.testing.assert_array_equal(spikes[key], n, err_msg=key)
        np.testing.assert_array_equal(output, logits)


@pytest.mark.parametrize("name", MODELS)
def test_random_numbers_give_the_same_spikes_but_for_ties(name):
    (wanted, logits), *others = three(name, floating, 7, False)
    for spikes, output in others:
        total = sum(n.size for n in wanted.values())
        assert sum((spikes[key] != n).sum() for key, n in wanted.items()) <= 1e-4 * total
        same = np.logical_and.reduce([(spikes[key] == n).all((1, 2)) for key, n in wanted.items()])
        assert same.mean() > 0.9
        np.testing.assert_allclose(output[same], logits[same], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_single_precision_is_exact_where_its_numbers_are(name):
    model, images = dyadic(name)
    plan = random_plan(skeleton_of(name, model), 15)
    double, single = (
        engine.simulate(skeleton_of(name, model, dtype), plan, images, STEPS) for dtype in (torch.float64, torch.float32))
    for key, n in double[0].items():
        np.testing.assert_array_equal(single[0][key], n)
    assert single[1].dtype == np.float32
    np.testing.assert_array_equal(single[1], double[1])


@pytest.mark.parametrize("name", MODELS)
def test_activate_is_the_ann(name):
    model, images = floating(name)
    images = images * 3
    skeleton = skeleton_of(name, model)
    received, sent = activate(skeleton, images)
    z, let_through, logits = activations(name, model, images)
    for key in z:
        np.testing.assert_allclose(received[key], in_rows(z[key][:, None])[:, 0], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(sent[key], in_rows(let_through[key][:, None])[:, 0], rtol=1e-9, atol=1e-9)
    if name == "relu6":
        assert max(rows.max() for rows in sent.values()) == 6
    with torch.no_grad():
        np.testing.assert_allclose(sent["readout"], model(torch.from_numpy(images)).numpy(), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(sent["readout"], logits, rtol=1e-9, atol=1e-9)


def test_chunks_of_a_batch_change_nothing(monkeypatch):
    model, images = dyadic("residual")
    skeleton = skeleton_of("residual", model)
    plan = random_plan(skeleton, 3)
    whole = engine.simulate(skeleton, plan, images, STEPS)
    monkeypatch.setattr(engine, "_CHUNK_BYTES", 1)
    parts = engine.simulate(skeleton, plan, images, STEPS)
    np.testing.assert_array_equal(parts[1], whole[1])
    assert all((parts[0][key] == n).all() for key, n in whole[0].items())


def test_known_populations_fire_as_said():
    model, images = dyadic("mlp")
    skeleton = skeleton_of("mlp", model)
    plan = random_plan(skeleton, 3)
    spikes, _ = engine.simulate(skeleton, plan, images, STEPS)
    silent = np.zeros_like(spikes["a"])
    changed, _ = engine.simulate(skeleton, plan, images, STEPS, {"a": silent})
    assert changed["a"] is silent
    assert (changed["b"] != spikes["b"]).any()
    again, _ = engine.simulate(skeleton, plan, images, STEPS, {"a": spikes["a"]})
    np.testing.assert_array_equal(again["b"], spikes["b"])


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4)])
def test_rows_and_frames_are_inverse(shape):
    frames = torch.arange(2.0 * np.prod(shape)).reshape(2, *shape)
    rows = rows_of(frames)
    assert rows.shape == (2, np.prod(shape))
    assert torch.equal(frames_of(rows, shape), frames)
    np.testing.assert_array_equal(rows.reshape(2, -1, shape[0])[:, 0], frames.reshape(2, shape[0], -1)[:, :, 0])


# --------------------------------------------------------------------------- synaptic operations


def connectivity(model, name):
    """Population -> how many targets each of its neurons reaches, rows [N], by sending one spike at a time."""
    one = {key: np.ones_like(v) for key, v in ((k, p.numpy()) for k, p in model.state_dict().items()) if "weight" in key}
    shape = {"a": (4, 8, 8), "b": (3, 4, 4)} if name == "conv" else {"a": (3, 8, 8), "b": (4, 4, 4), "c": (4, 4, 4)}
    return {
        key: np.array([
            sum(int(np.count_nonzero(reached)) for reached in targets(name, key, one, unit.reshape(1, *frame)))
            for unit in np.eye(int(np.prod(frame)))
        ]).reshape(frame[0], -1).T.ravel()
        for key, frame in shape.items()
    }


def targets(name, population, w, x):
    """What each map out of a population makes of one frame."""
    if name == "conv":
        return [conv(w, "conv2", pooled(x))] if population == "a" else [dense(w, "fc", pooled(x).reshape(1, -1))]
    maps = {"a": [("conv1", 2), ("down", 2)], "b": [("conv2", 1)], "c": [("conv3", 1)]}
    return [conv(w, key, x, stride) for key, stride in maps[population]] + ([x] if population == "c" else [])


@pytest.mark.parametrize("name", ["conv", "residual"])
def test_synops_are_those_of_the_dense_connectivity(name):
    model, images = dyadic(name)
    skeleton = skeleton_of(name, model)
    spikes, _ = engine.simulate(skeleton, random_plan(skeleton, 3), images, STEPS)
    found, messages = engine.synops(skeleton, spikes), engine.synops(skeleton, spikes, messages=True)
    for key, reached in connectivity(model, name).items():
        np.testing.assert_array_equal(skeleton.layers[key].fan_out, reached)
        n = spikes[key].astype(int)
        assert found[key] == (n.sum((0, 1)) * reached).sum() / len(images)
        assert messages[key] == ((n > 0).sum((0, 1)) * reached).sum() / len(images)
        assert 0 < messages[key] < found[key]


def test_a_burst_is_one_message():
    model, _ = dyadic("mlp")
    skeleton = skeleton_of("mlp", model)
    n = np.zeros((2, STEPS, 9), np.uint8)
    n[0, 1, 4], n[1, 2, 4], n[1, 3, 0] = 5, 1, 2
    assert engine.synops(skeleton, {"b": n}) == {"b": 8 * 4 / 2}
    assert engine.synops(skeleton, {"b": n}, messages=True) == {"b": 3 * 4 / 2}
