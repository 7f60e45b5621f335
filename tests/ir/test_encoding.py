"""Encoders: every formula on numbers small enough to compute by hand, and what holds for any data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2e.ir import IF, Encoder, Input, Network, Output, UsageError, chain, encoding, nirfile, reference, to_text, verify
from d2e.ir.encoding import KINDS, LATCHING, TIMED


def sent(
    kind: str, values: list[float], steps: int, *, scale: float = 1.0, low: int = 0, high: int = 1, latch: bool = False
) -> list[list[int]]:
    """One image: what each of its elements sends, step by step."""
    encoder = Encoder(kind, np.float64(scale), latch=latch)  # type: ignore[arg-type]
    frames = encoder.encode(encoder.spread(np.array([values]), steps), low, high)
    assert frames.dtype == np.int32
    return frames[0].T.tolist()


def small(**source) -> Network:
    node = Input(**{"shape": (2,), "time_steps": 3} | source)
    return chain([("in", node), ("n", IF(shape=node.shape)), ("out", Output(shape=node.shape))])


# ----- by hand


def test_direct_rounds_halves_to_even_and_clips():
    assert sent("direct", [0.0, 0.25, 0.74, 0.75, 1.25, 9.0], 2, scale=0.5, high=7) == [
        [0, 0], [0, 0], [1, 1], [2, 2], [2, 2], [7, 7],
    ]
    assert sent("direct", [-0.75, -1.25, -9.0], 1, scale=0.5, low=-7, high=7) == [[-2], [-2], [-7]]
    assert sent("direct", [-1.0], 1, high=7) == [[0]]


def test_first_is_followed_by_zeros():
    assert sent("first", [0.25, 2.0], 3, scale=0.25, high=255) == [[1, 0, 0], [8, 0, 0]]
    sequence = Encoder("first", np.float64(1.0)).encode(np.array([[[1.0], [2.0]]]), 0, 3)
    assert sequence.ravel().tolist() == [1, 2]  # frames with a time axis are taken as they are


def test_rate_spaces_payloads_evenly():
    # S after each step, in halves of a payload: 1/2 rounds up
    assert sent("rate", [0.5], 6) == [[1, 0, 1, 0, 1, 0]]
    assert sent("rate", [0.25], 8) == [[0, 1, 0, 0, 0, 1, 0, 0]]
    assert sent("rate", [0.0, 1.0, 3.0], 3) == [[0, 0, 0], [1, 1, 1], [1, 1, 1]]
    assert sent("rate", [1.25], 4, high=3) == [[1, 2, 1, 1]]
    assert sent("rate", [-0.25], 8, low=-1) == [[0, 0, -1, 0, 0, 0, -1, 0]]
    assert sent("rate", [0.5], 4, scale=2.0) == [[0, 1, 0, 0]]


def test_ttfs_fires_once_the_brighter_the_earlier():
    # T = 4: k = floor(5 q) of the thresholds 4/5 … 1/5 are crossed, the spike comes at step 4 - k
    assert sent("ttfs", [0.0, 0.19, 0.2, 0.5, 0.7, 0.8, 1.0, 7.0], 4) == [
        [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0],
    ]
    assert sent("ttfs", [0.5], 1) == [[1]]
    assert sent("ttfs", [-1.0, 1.0], 2, low=-1) == [[-1, 0], [1, 0]]
    assert sent("ttfs", [1.0], 2, scale=0.25, high=4) == [[4, 0]]


def test_latency_fires_always():
    # step rint(3 (1 - q))
    assert sent("latency", [0.0, 0.3, 0.5, 1.0], 4) == [[0, 0, 0, 1], [0, 0, 1, 0], [0, 0, 1, 0], [1, 0, 0, 0]]


def test_strict_ttfs_fires_behind_its_thresholds():
    # T = 4: thresholds 1, 3/4, 1/2, 1/4; at a threshold it is not crossed yet, so slot 0 never fires
    assert sent("ttfs-strict", [0.0, 0.25, 0.26, 0.5, 0.51, 0.75, 0.76, 1.0, 7.0], 4) == [
        [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 1, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 1, 0, 0],
        [0, 1, 0, 0],
    ]
    assert sent("ttfs-strict", [-1.0, -0.25, 0.6], 4, low=-1) == [[0, -1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]


def test_inclusive_ttfs_fires_at_its_thresholds():
    assert sent("ttfs-inclusive", [0.0, 0.24, 0.25, 0.26, 0.5, 0.75, 0.99, 1.0], 4) == [
        [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0],
    ]


def test_one_step_of_each_timed_kind():
    values = [0.0, 0.49, 0.5, 0.99, 1.0]
    assert sent("ttfs", values, 1) == [[0], [0], [1], [1], [1]]
    assert sent("ttfs-strict", values, 1) == [[0]] * 5  # nothing is above 1
    assert sent("ttfs-inclusive", values, 1) == [[0], [0], [0], [0], [1]]
    assert sent("latency", values, 1) == [[1]] * 5
    assert sent("phase", values, 1) == [[0], [0], [1], [1], [1]]


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 7, 8, 10, 49])
def test_thresholds_are_those_of_the_listing(steps):
    """Values at, just below and just above (T - t) / T, each computed as the division that the definition says."""
    at = np.array([(steps - t) / steps for t in range(steps)])
    values = np.concatenate([at, np.nextafter(at, 0), np.nextafter(at, 1)])
    for kind, crossed in (("ttfs-strict", np.greater), ("ttfs-inclusive", np.greater_equal)):
        fires = crossed(values[:, None], at)
        first = fires & (np.cumsum(fires, axis=1) == 1)
        assert sent(kind, values.tolist(), steps) == first.astype(int).tolist()


def test_phase_sends_binary_digits():
    # 0.625 = 0.101, 0.3 = 0.010011…; 1 is 0.1111
    assert sent("phase", [0.0, 0.0625, 0.3, 0.625, 0.9999, 1.0], 4) == [
        [0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1],
    ]
    assert sent("phase", [-0.5, 0.75], 2, low=-1) == [[-1, 0], [1, 1]]
    assert sent("phase", [0.5], 2, scale=0.25, high=4) == [[4, 0]]


def test_delta_sends_changes():
    encoder = Encoder("delta", np.float64(0.5))
    values = np.array([0.0, 0.4, 0.5, 1.6, 1.4, 0.2, -0.6])  # in steps: 0 0.8 1 3.2 2.8 0.4 -1.2; R follows to within a step
    assert encoder.encode(values.reshape(1, -1, 1), -9, 9).ravel().tolist() == [0, 0, 1, 2, 0, -2, -2]
    assert encoder.encode(values.reshape(1, -1, 1), -1, 1).ravel().tolist() == [0, 0, 1, 1, 0, -1, -1]
    assert encoder.encode(values.reshape(1, -1, 1), 0, 9).ravel().tolist() == [0, 0, 1, 2, 0, 0, 0]  # rises alone
    assert sent("delta", [1.0], 5, scale=0.25, high=3) == [[3, 1, 0, 0, 0]]  # an image: its value, and silence


def test_a_latch_sends_on():
    assert sent("ttfs", [0.0, 0.2, 0.5, 1.0], 4, latch=True) == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 1], [1, 1, 1, 1]]
    assert sent("latency", [0.0, 1.0], 3, latch=True) == [[0, 0, 1], [1, 1, 1]]
    assert sent("ttfs-strict", [1.0, 0.6], 4, latch=True) == [[0, 1, 1, 1], [0, 0, 1, 1]]
    assert sent("ttfs", [-0.5], 4, low=-3, high=3, scale=1 / 3, latch=True) == [[0, 0, -3, -3]]


def test_bernoulli_is_fixed_by_its_seed_alone():
    image = np.array([[0.0, 0.25, 0.5, 0.75, 1.0]])
    one = Encoder("bernoulli", np.float64(1.0), seed=1)
    frames = one.encode(one.spread(image, 8), 0, 1)
    assert frames[0].T.tolist() == [  # a golden: these numbers must not change
        [0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1, 0, 0], [1, 0, 1, 0, 1, 0, 1, 1], [1, 0, 1, 1, 1, 1, 0, 1],
        [1, 1, 1, 1, 1, 1, 1, 1],
    ]
    other = Encoder("bernoulli", np.float64(1.0), seed=2)
    assert (other.encode(other.spread(image, 8), 0, 1) != frames).any()


def test_random_numbers_are_splitmix64():
    """The published first outputs for the seed 1234567."""
    state = np.uint64(1234567) + np.arange(1, 4, dtype=np.uint64) * np.uint64(encoding._GAMMA)
    assert encoding._mixed(state).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_bernoulli_has_the_right_mean_and_spread():
    encoder = Encoder("bernoulli", np.float64(1.0))
    frames = encoder.encode(np.full((2, 2000, 100), 0.3), 0, 1)
    assert abs(frames.mean() - 0.3) < 0.003
    for axis in (1, 2):
        pairs = np.moveaxis(frames, axis, 0)
        assert abs(np.corrcoef(pairs[:-1].ravel(), pairs[1:].ravel())[0, 1]) < 0.02
    assert (frames[0] == frames[1]).all()  # equal samples are encoded alike
    two = encoder.encode(np.full((1, 1000, 10), 1.5), 0, 3)
    assert set(np.unique(two)) == {1, 2}


def test_a_scale_per_channel_broadcasts():
    encoder = Encoder("direct", np.array([[1.0], [0.5]]))
    assert encoder.encode(np.ones((1, 1, 2, 3)), 0, 9).tolist() == [[[[1, 1, 1], [2, 2, 2]]]]


def test_clipped_values_are_counted():
    direct = Encoder("direct", np.float64(1.0))
    assert direct.clipped(np.array([[-0.6, -0.5, 0.0, 3.5, 3.6, 9.0]]), 0, 3) == 3
    delta = Encoder("delta", np.float64(1.0))  # changes by 2, -2 and, to follow, 1 are of 3 values
    assert delta.clipped(np.array([[[2.0], [1.0], [-1.5], [-1.0]]]), -1, 1) == 2
    rate = Encoder("rate", np.float64(1.0))
    assert rate.clipped(np.array([[-0.1, 0.0, 1.0, 1.1]]), 0, 1) == 2


# ----- for any data

VALUES = st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=6)


@settings(max_examples=100)
@given(VALUES, st.integers(1, 9), st.sampled_from(KINDS), st.integers(1, 300), st.booleans(), st.floats(1e-3, 3))
def test_payloads_stay_within_limits_and_samples_do_not_matter_to_each_other(values, steps, kind, high, signed, scale):
    encoder = Encoder(kind, np.float64(scale), seed=5)
    low = -high if signed else 0
    images = np.array([values, values[::-1], values])
    frames = encoder.encode(encoder.spread(images, steps), low, high)
    assert frames.shape == (3, steps, len(values))
    assert frames.min() >= low
    assert frames.max() <= high
    for i in range(3):
        np.testing.assert_array_equal(encoder.encode(encoder.spread(images[i : i + 1], steps), low, high)[0], frames[i])
    if kind in TIMED:
        assert (np.abs(frames).sum(axis=1) <= high).all()


@settings(max_examples=100)
@given(st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=30))
def test_rate_loses_half_a_payload_at_most(values):
    frames = np.array(values).reshape(1, -1, 1)
    p = np.clip(frames, -2, 2)
    encoded = Encoder("rate", np.float64(1.0)).encode(frames, -2, 2)
    gap = encoded.cumsum(axis=1) - p.cumsum(axis=1)
    assert np.abs(gap).max() <= 0.5 + len(values) / 2**17
    assert (np.abs(encoded - p) <= 1 + 2**-16).all()


@settings(max_examples=100)
@given(VALUES, st.floats(1e-3, 3))
def test_direct_loses_half_a_step_at_most(values, scale):
    frames = np.array([[values]])
    encoded = Encoder("direct", np.float64(scale)).encode(frames, -(2**20), 2**20)
    assert (np.abs(encoded * scale - frames) <= scale / 2 * (1 + 1e-9)).all()


ENCODERS = st.one_of(
    st.tuples(st.sampled_from(KINDS), st.just(False)), st.tuples(st.sampled_from(LATCHING), st.just(True)),
)


@settings(max_examples=100)
@given(ENCODERS, VALUES, st.integers(1, 9), st.integers(1, 300), st.booleans(), st.floats(1e-3, 3), st.booleans())
def test_tensors_are_encoded_and_decoded_bit_for_bit_alike(which, values, steps, high, signed, scale, single):
    kind, latch = which
    encoder = Encoder(kind, np.array([scale, 1.0, 0.3]), seed=3, latch=latch)
    frames = np.resize(values, (4, steps, 3)).astype(np.float32 if single else np.float64)
    low = -high if signed else 0
    encoded, tensor = encoder.encode(frames, low, high), encoder.encode(torch.from_numpy(frames), low, high)
    assert (tensor.dtype, encoded.dtype) == (torch.int32, np.int32)
    np.testing.assert_array_equal(tensor.numpy(), encoded)
    told, decoded = encoder.decode(encoded, high), encoder.decode(tensor, high)
    assert (decoded.dtype, told.dtype) == (torch.float64, np.float64)
    np.testing.assert_array_equal(decoded.numpy(), told)
    images = encoder.spread(torch.from_numpy(frames[:, 0]), steps)
    np.testing.assert_array_equal(images.numpy(), encoder.spread(frames[:, 0], steps))


def test_gradients_end_at_the_encoder():
    image = torch.full((1, 2, 1), 0.7, requires_grad=True)
    assert not Encoder("ttfs", np.float64(1.0)).encode(image, 0, 1).requires_grad


@settings(max_examples=100)
@given(st.sampled_from(LATCHING), VALUES, st.integers(1, 9), st.booleans())
def test_a_latch_is_the_sum_of_what_was_sent(kind, values, steps, signed):
    plain, held = (Encoder(kind, np.float64(0.5), latch=latch) for latch in (False, True))
    frames = plain.spread(np.array([values]), steps)
    summed = plain.encode(frames, -3 * signed, 3).cumsum(axis=1)
    np.testing.assert_array_equal(held.encode(frames, -3 * signed, 3), summed)


def test_many_samples_are_encoded_in_parts(monkeypatch):
    frames = np.random.default_rng(0).random((7, 4, 5))
    for kind in KINDS:
        encoder = Encoder(kind, np.float64(0.5), seed=2)
        whole = encoder.encode(frames, 0, 3)
        monkeypatch.setattr(encoding, "_AT_ONCE", 45)  # two samples
        np.testing.assert_array_equal(encoder.encode(frames, 0, 3), whole)
        monkeypatch.undo()


# ----- back to values

RANGES = {  # of q: bound while something is sent, and where nothing is
    "ttfs": (lambda t: 1 / (2 * (t + 1)), lambda t: 1 / (t + 1)),
    "ttfs-strict": (lambda t: 1 / (2 * t), lambda t: 1 / t), "ttfs-inclusive": (lambda t: 1 / (2 * t), lambda t: 1 / t),
    "latency": (lambda t: 1 / (2 * (t - 1)) if t > 1 else 1 / 2, lambda t: 0.0),
    "phase": (lambda t: 2.0 ** -(t + 1), lambda t: 2.0**-t),
}


@settings(max_examples=200)
@given(
    st.sampled_from(TIMED), st.booleans(), VALUES, st.integers(1, 12), st.integers(1, 9), st.booleans(), st.floats(1e-3, 3),
)
def test_decoding_a_timed_kind_is_within_its_bound(kind, latch, values, steps, high, signed, scale):
    encoder = Encoder(kind, np.float64(scale), latch=latch and kind in LATCHING)
    low = -high if signed else 0
    images = np.clip(np.array([values]) * high * scale, low * scale, high * scale)
    payloads = encoder.encode(encoder.spread(images, steps), low, high)
    found = encoder.decode(payloads, high)
    fired, silent = (bound(steps) * high * scale for bound in RANGES[kind])
    bounds = np.where(payloads.any(axis=1), fired, silent)
    assert (np.abs(found - images) <= bounds * (1 + 1e-9)).all()
    assert (found[~payloads.any(axis=1)] == 0).all()
    again = encoder.encode(encoder.spread(found, steps), low, high)
    np.testing.assert_array_equal(encoder.decode(again, high), found)  # what came back once comes back exactly


@settings(max_examples=100)
@given(st.sampled_from(["direct", "first", "rate"]), VALUES, st.integers(1, 12), st.booleans(), st.floats(1e-3, 3))
def test_decoding_numbers_is_within_its_bound(kind, values, steps, signed, scale):
    encoder = Encoder(kind, np.float64(scale))
    low = -40 if signed else 0
    frames = np.clip(np.resize(values, (1, steps, 3)) * 20 * scale, low * scale, 40 * scale)
    found = encoder.decode(encoder.encode(frames, low, 40), 40)
    close, expected = (1 / (2 * steps) + 2**-17, frames.mean(axis=1)) if kind == "rate" else (0.5, frames)
    assert (np.abs(found - expected) <= close * scale * (1 + 1e-9)).all()
    again = encoder.encode(encoder.spread(found, steps) if kind == "rate" else found, low, 40)
    np.testing.assert_array_equal(encoder.decode(again, 40), found)


def test_decoding_bernoulli_estimates_the_mean():
    encoder = Encoder("bernoulli", np.float64(0.5), seed=1)
    image = np.random.default_rng(0).random((1, 2000)) * 0.5
    errors = encoder.decode(encoder.encode(encoder.spread(image, 64), 0, 1), 1) - image
    assert np.sqrt(np.square(errors).mean()) <= 0.5 / (2 * np.sqrt(64))


@settings(max_examples=100)
@given(st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=30), st.sampled_from([0.25, 0.3, 1.0]), st.booleans())
def test_decoding_changes_follows_within_a_step(values, scale, signed):
    encoder = Encoder("delta", np.float64(scale))
    frames = np.array(values).reshape(1, -1, 1)
    payloads = encoder.encode(frames, -40 * signed, 40)
    found = encoder.decode(payloads, 40)
    top = frames if signed else np.maximum(np.maximum.accumulate(frames, axis=1), 0)  # rises follow the largest so far
    assert (np.abs(found - top) < scale * (1 + 1e-9)).all()
    if scale != 0.3:
        np.testing.assert_array_equal(encoder.encode(found, -40 * signed, 40), payloads)


def test_real_payloads_are_their_own_values():
    frames = np.random.default_rng(0).random((2, 3, 4))
    np.testing.assert_array_equal(Encoder("direct").decode(frames, 1), frames)


# ----- what may be given to a network


def test_floats_are_encoded_and_integers_are_payloads():
    network = small(max_payload=255, encoder=Encoder("direct", np.float64(0.5)))
    assert reference.check_frames(network, np.array([[[1.0, 2.0]]])).tolist() == [[[2, 4]]]
    assert reference.check_frames(network, np.array([[[1, 2]]])).tolist() == [[[1, 2]]]
    assert reference.check_frames(network, np.array([[1.0, 2.0]], np.float32)).tolist() == [[[2, 4]] * 3]
    twice = reference.check_frames(network, reference.check_frames(network, np.array([[1.0, 2.0]])))
    assert twice.tolist() == [[[2, 4]] * 3]


def test_images_into_a_network_of_real_values():
    image = np.array([[0.5, 2.0]])
    assert reference.check_frames(small(coding="direct"), image).tolist() == [[[0.5, 2.0]] * 3]
    first = small(coding="direct", encoder=Encoder("first"))
    assert reference.check_frames(first, image).tolist() == [[[0.5, 2.0], [0, 0], [0, 0]]]
    trace = reference.run(first, image, "state")
    assert trace.v["n"][0].tolist() == [[0.5, 1.0], [0.5, 0.0], [0.5, 0.0]]


@pytest.mark.parametrize(("frames", "source", "code"), [
    (np.ones((1, 2)), {"coding": "direct", "time_steps": None}, "D2E-ENC-001"),
    (np.ones((1, 2)), {}, "D2E-INPUT-001"),
    (np.ones((1, 2), np.uint8), {"encoder": Encoder("direct", np.float64(1.0))}, "D2E-ENC-002"),
    (np.arange(6.0).reshape(1, 3, 2), {"encoder": Encoder("ttfs", np.float64(1.0))}, "D2E-ENC-003"),
    (np.array([[np.nan, 1.0]]), {"encoder": Encoder("ttfs", np.float64(1.0))}, "D2E-INPUT-002"),
    (np.full((1, 3, 2), 2), {"encoder": Encoder("ttfs", np.float64(1.0))}, "D2E-INPUT-003"),
    (np.ones((1, 3, 3)), {"encoder": Encoder("rate", np.float64(1.0))}, "D2E-INPUT-001"),
])
def test_frames_that_do_not_fit(frames, source, code):
    with pytest.raises(UsageError) as caught:
        reference.check_frames(small(**source), frames)
    assert caught.value.code == code


@pytest.mark.parametrize(("coding", "encoder"), [
    ("spikes", Encoder("morse", np.float64(1.0))),  # type: ignore[arg-type]
    ("spikes", Encoder("rate")), ("spikes", Encoder("direct")), ("direct", Encoder("rate", np.float64(1.0))),
    ("direct", Encoder("direct", np.float64(1.0))), ("spikes", Encoder("rate", np.float64(0.0))),
    ("spikes", Encoder("rate", np.float64(np.nan))), ("spikes", Encoder("rate", np.ones(3))),
    ("spikes", Encoder("bernoulli", np.float64(1.0), seed=-1)),
    ("spikes", Encoder("bernoulli", np.float64(1.0), seed=1 << 32)),
    ("spikes", Encoder("phase", np.float64(1.0), latch=True)), ("spikes", Encoder("rate", np.float64(1.0), latch=True)),
])
def test_encoders_without_a_meaning_are_found(coding, encoder):
    findings = verify(small(coding=coding, encoder=encoder))
    assert [(f.code, f.node) for f in findings] == [("D2E-NODE-003", "in")]


@pytest.mark.parametrize(("coding", "encoder"), [
    ("direct", Encoder()), ("direct", Encoder("first")), ("spikes", Encoder("bernoulli", np.float64(0.1), seed=7)),
    ("signed", Encoder("direct", np.array([0.25, 0.5], np.float32))), ("spikes", Encoder("ttfs", np.float64(1 / 3))),
    ("spikes", Encoder("ttfs-strict", np.float64(1.0), latch=True)), ("signed", Encoder("delta", np.float64(0.1))),
    *(("spikes", Encoder(kind, np.float64(1.0))) for kind in KINDS),  # type: ignore[arg-type]
])
def test_encoders_come_back_from_nir_files(coding, encoder, tmp_path):
    network = small(coding=coding, encoder=encoder, max_payload=9)
    assert verify(network) == []
    nirfile.write(network, tmp_path / "n.nir")
    back = nirfile.read(tmp_path / "n.nir")
    assert back.same(network)
    assert to_text(back) == to_text(network)
    assert "encoder=Encoder(" in to_text(network)
    assert not back.same(small(coding=coding, max_payload=9))
