"""Staircases to test with, and networks of them in plain numpy: one step, from the same weights as the ANN."""

import numpy as np
from tests.compiler.convert.networks import MODELS, weights_of

from d2e.compiler.convert.single_step.calibrate import State
from d2e.compiler.convert.single_step.staircase import Staircase


def random_stairs(channels, most, seed=0, exact=True, kind="relu"):
    """Channels of scales and shifts of their own; with ``exact`` all numbers are dyadic, so that nothing is rounded.

    Of the kind "signed" they send both signs; of "falls" levels begin below 0 and payloads go up and down.
    """
    rng = np.random.default_rng(seed)
    payloads = np.cumsum(2 ** rng.integers(0, 3, most))
    levels = np.cumsum(rng.integers(1, 4, most)) / 8 if exact else np.cumsum(rng.uniform(0.05, 0.3, most))
    scale = rng.choice([0.5, 1.0, 2.0, 4.0], channels) if exact else rng.uniform(0.1, 1.0, channels)
    shift = rng.integers(-4, 9, channels) / 16 if exact else rng.uniform(-0.2, 0.4, channels)
    if kind == "falls":
        levels = (np.arange(most) - most // 2) / 4
        payloads = np.cumsum(rng.choice([-2, -1, 1, 2, 4], most))
    unit = 2.0**-4 if exact else 1.0 / np.abs(payloads).max()
    return Staircase(scale, levels, payloads, unit, shift, kind == "signed")


def random_state(skeleton, most, seed=0, exact=True, kind="relu"):
    """Every population with staircases of its own, the readout with a shift."""
    plan = {layer.name: random_stairs(layer.channels, most, seed + i, exact, kind)
            for i, layer in enumerate(skeleton.rectifiers)}
    shift = np.random.default_rng(seed).integers(-8, 9, skeleton.readout.channels) / 8
    return State(skeleton, plan, {"readout": shift})


def stepped(stairs, z):
    """(n without sign, what is sent) of inputs [B, C, …] without shift, by the definition."""
    scale, shift = (np.asarray(a, float).reshape(-1, *[1] * (z.ndim - 2)) for a in (stairs.scale, stairs.shift))
    z = z + shift
    sign = np.where(z < 0, -1, 1) if stairs.signed else np.ones_like(z)
    n = (sign[..., None] * z[..., None] >= stairs.levels * scale[..., None]).sum(axis=-1)
    return n, sign * np.concatenate([[0], stairs.payloads])[n] * stairs.unit * scale


def once(name, model, state, images):
    """(population -> n [B, *shape], logits [B, classes]) of one step, by the definition."""
    counts = {}

    def fire(population, z):
        counts[population], sent = stepped(state.plan[population], z)
        return sent

    return counts, MODELS[name][2](weights_of(model), images, fire) + state.readouts["readout"]


def in_rows(frames):
    """Frames [B, *shape] as the engine's rows [B, N], channels last."""
    return np.moveaxis(frames, 1, -1).reshape(len(frames), -1)
