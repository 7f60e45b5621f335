"""Entropies of spike trains and pixels, against sources whose entropy is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from d2e.compiler.transfer.entropy import (
    ceiling,
    encoder_facts,
    entropy,
    input_events,
    pixel_bits,
    spike_fraction,
    symbols,
)
from d2e.ir import Encoder

VALUES = st.one_of(st.just(np.int32), st.just(np.float64)).flatmap(
    lambda kind: arrays(kind, array_shapes(min_dims=3, max_dims=4, max_side=4), elements=st.integers(-2, 2)))


@given(VALUES)
def test_entropy_is_that_of_the_trains(payloads):
    trains = np.moveaxis(payloads, 1, -1).reshape(-1, payloads.shape[1])
    counts = np.unique(trains, axis=0, return_counts=True)[1] / len(trains)
    assert entropy(payloads) == pytest.approx(-(counts * np.log2(counts)).sum(), abs=1e-12)


def test_long_trains_are_told_apart():
    rng = np.random.default_rng(0)
    payloads = rng.random((1, 100, 1024))
    assert entropy(payloads) == pytest.approx(10)
    payloads[:, :, 512:] = payloads[:, :, :512]
    assert entropy(payloads) == pytest.approx(9)


def test_uniform_thresholds_reach_the_ceiling_on_uniform_pixels():
    images = (np.arange(9 * 256) % 9 / 8).reshape(4, 1, 24, 24)
    encoder = Encoder("ttfs", np.float64(1.0))
    sent = encoder.encode(encoder.spread(images, 8), 0, 1)
    facts = encoder_facts(sent, images, symbols=9)
    assert facts["ceiling_bits"] == ceiling(9) == pytest.approx(math.log2(9))
    assert facts["entropy_bits"] == pytest.approx(math.log2(9)) == pytest.approx(facts["pixel_bits"])
    assert facts["spike_fraction"] == pytest.approx(8 / 9)
    assert facts["input_events"] == pytest.approx(8 / 9 * 576)


@pytest.mark.parametrize(("kind", "steps", "count"), [
    ("ttfs", 8, 9), ("latency", 8, 8), ("ttfs-strict", 8, 8), ("ttfs-inclusive", 8, 9), ("ttfs-strict", 1, 1),
    ("phase", 5, 32), ("bernoulli", 4, 16), ("rate", 2, 4),
])
def test_symbols_are_the_trains_an_encoder_can_send(kind, steps, count):
    assert symbols(Encoder(kind, np.float64(1.0)), steps) == count


@given(st.sampled_from(["ttfs", "latency", "rate", "phase"]), st.integers(1, 6))
def test_no_encoder_says_more_than_its_ceiling(kind, steps):
    encoder = Encoder(kind, np.float64(1.0))
    images = np.random.default_rng(steps).random((3, 20, 20))
    sent = encoder.encode(encoder.spread(images, steps), 0, 1)
    assert entropy(sent) <= ceiling(symbols(encoder, steps)) + 1e-9


def test_fractions_and_events_count_what_is_sent():
    payloads = np.zeros((2, 3, 4), int)
    payloads[0, :, 0] = 1
    payloads[1, 2, 3] = -2
    assert (spike_fraction(payloads), input_events(payloads)) == (2 / 8, 2.5)
    assert encoder_facts(payloads).keys() == {"entropy_bits", "spike_fraction", "input_events"}
    assert (entropy(payloads[:1, :, 1:]), pixel_bits(np.full((2, 3), 0.2))) == (0.0, 0.0)
