"""Programs with a part on the host: the same whoever computes, saved and loaded whole, measured and reported."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.compiler.hosted.networks import random_network, transformer

import d2e
from d2e.compiler.hosted.program import HostedProgram
from d2e.compiler.hosted.steps import inner
from d2e.compiler.measure import classify
from d2e.ir import LI, Edge, Encoder, GateError, Network, UnsupportedError, UsageError, reference

FORMS = ("graded", "replicas", "auto")


def images(n: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 1, 4, 4))


@pytest.fixture(scope="module")
def network() -> Network:
    return transformer()


@pytest.fixture(scope="module")
def data(network) -> tuple[np.ndarray, np.ndarray]:
    x = images(40, 2)
    return x, classify(network, reference.run(network, x[:, None]).output)


@pytest.fixture(scope="module")
def programs(network, data) -> dict[str, HostedProgram]:
    return {form: d2e.compile(network, burst=form, calibration=images(32), eval=data) for form in FORMS}


@pytest.fixture(scope="module")
def saved(programs, tmp_path_factory):
    return programs["graded"].save(tmp_path_factory.mktemp("hosted") / "program")


def same(a, b) -> None:
    """Outputs, counts, spikes and states."""
    np.testing.assert_array_equal(a.output, b.output)
    for kind in ("counts", "spikes", "u", "v"):
        ours, theirs = getattr(a, kind), getattr(b, kind)
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=f"{kind} of {name}")


# ----- what it computes


@pytest.mark.parametrize("form", FORMS)
def test_simulator_and_reference_compute_the_same(programs, form):
    ours, theirs = (programs[form].run(images(9, 3), record="state", engine=e) for e in (None, "reference"))
    assert (ours.engine, theirs.engine) == ("loihi2-sim", "reference")
    same(ours, theirs)


def test_the_forms_send_the_same(programs):
    first, *others = (programs[form].run(images(9, 3), record="spikes") for form in FORMS)
    for other in others:
        np.testing.assert_array_equal(other.output, first.output)
        for name in first.counts:
            np.testing.assert_array_equal(other.counts[name], first.counts[name], err_msg=name)


def test_it_is_the_float_network_up_to_the_weights(network, programs):
    frames = images(40, 3)
    float_trace, found = reference.run(network, frames[:, None]), programs["graded"].run(frames)
    error = np.abs(found.output - float_trace.output)
    assert error.mean() < 0.1 * np.abs(float_trace.output).mean()
    for name in ("norm.sent", "qkv.sent", "gelu", "head.sent"):
        assert np.abs(found.counts[name] - float_trace.counts[name]).mean() < 0.1 * float_trace.counts[name].mean(), name
        assert found.counts[name].shape == float_trace.counts[name].shape, "tokens are where the network has them"


def test_payloads_pass_as_integers_and_factors_stay_with_the_host(programs):
    for segment, program in programs["graded"].segments:
        assert program.network.input.coding in ("spikes", "signed")
        if segment.source != "in":
            assert program.network.input.encoder is None
            assert program.network.input.max_payload <= 255


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**16), tokens=st.integers(1, 4), d=st.integers(2, 5), heads=st.integers(1, 2),
       kinds=st.lists(st.sampled_from(["attention", "relu", "gelu", "signed", "turn"]), min_size=1, max_size=3),
       form=st.sampled_from(FORMS))
def test_random_networks_are_equal_to_the_reference(seed, tokens, d, heads, kinds, form):
    network = random_network(seed, tokens, d, heads, kinds)
    frames = np.random.default_rng(seed).normal(size=(6, 1, tokens, d))
    np.testing.assert_allclose(inner(network, frames)[1], reference.run(network, frames).output, rtol=1e-9, atol=1e-9)
    program = d2e.compile(network, burst=form, calibration=frames)
    assert isinstance(program, HostedProgram)
    same(program.run(frames, record="state"), program.run(frames, record="state", engine="reference"))


@pytest.mark.lava
@pytest.mark.parametrize("form", ["graded", "replicas"])
def test_lava_computes_the_same(programs, saved, form, lava_python, monkeypatch):
    monkeypatch.setenv("D2E_LAVA_PYTHON", str(lava_python))
    program = d2e.load(saved) if form == "graded" else programs[form]
    ours, lava = (each.run(images(2, 3), record="spikes", engine=engine)
                  for each, engine in ((programs[form], None), (program, "loihi2-lava")))
    assert lava.engine == "loihi2-lava"
    same(ours, lava)
    assert min(ours.counts[name].sum() for name in ("norm.sent", "qkv.sent", "gelu", "head.sent")) > 0


def test_a_latch_holds_once():
    """The first segment's program latches on the chip; it gets the values, not what the encoder latched already."""
    images = np.random.default_rng(0).random((12, 1, 4, 4))
    plain = Encoder("ttfs", np.float64(1.0))
    held, source = replace(plain, latch=True), transformer()
    entry = replace(source.input, coding="spikes", time_steps=4)
    frames = held.encode(held.spread(images, 4), 0, 1)
    found, expected = (
        d2e.compile(source.with_nodes({"in": replace(entry, encoder=encoder)}), calibration=data).run(data).output
        for encoder, data in ((held, images), (plain, frames))
    )
    assert found.any()
    np.testing.assert_array_equal(found, expected)


def test_a_readout_on_the_host_ends_a_network():
    """The mean over tokens of what the chip computes, as d2e.convert reads ``head(x).mean(1)``."""
    network = random_network(0, 3, 4, 1, ["relu"])
    assert isinstance(network.nodes["readout"], LI)
    assert [e.source for e in network.incoming["readout"]] == ["mean"]
    frames = np.random.default_rng(0).normal(size=(5, 1, 3, 4))
    program = d2e.compile(network, calibration=frames)
    assert {row["name"]: row["kind"] for row in program.report["host"]}["readout"] == "readout"
    wanted = reference.run(network, frames).output
    assert np.abs(program.run(frames).output - wanted).mean() < 0.1 * np.abs(wanted).mean()


def test_what_several_nodes_send_to_the_output_adds_up():
    network = random_network(0, 3, 4, 1, ["relu"]).without("readout")
    network = Network({**network.nodes, "more": network.nodes["mean"]}, (
        *network.edges, *(Edge(e.source, "more") for e in network.incoming["mean"]), Edge("more", "out")), {})
    frames = np.random.default_rng(0).normal(size=(5, 1, 3, 4))
    program = d2e.compile(network, calibration=frames)
    wanted = reference.run(network, frames).output
    assert np.abs(program.run(frames).output - wanted).mean() < 0.1 * np.abs(wanted).mean()


# ----- files


def test_a_saved_program_runs_the_same(programs, saved):
    loaded = d2e.load(saved)
    assert isinstance(loaded, HostedProgram)
    assert loaded.network.same(programs["graded"].network)
    assert loaded.report.data == json.loads(programs["graded"].report.json())
    frames = images(5, 4)
    same(programs["graded"].run(frames, record="state"), loaded.run(frames, record="state"))
    assert [s.source for s, _ in loaded.segments] == [s.source for s, _ in programs["graded"].segments]


def test_programs_are_the_same_byte_for_byte(network, data, saved, tmp_path):
    again = d2e.compile(network, burst="graded", calibration=images(32), eval=data).save(tmp_path / "again")
    files = sorted(p.relative_to(saved) for p in saved.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    assert [f for f in files if (saved / f).read_bytes() != (again / f).read_bytes()] == []
    assert {f.parts[1] for f in files if f.parts[0] == "parts"} == {
        "00-patch-in", "01-qkv-sent", "02-proj-in", "03-mlp-in", "04-readout"}
    loaded = d2e.load(saved).save(tmp_path / "copy")
    assert [f for f in files if f.name == "program.nir" and (saved / f).read_bytes() != (loaded / f).read_bytes()] == []


@pytest.mark.parametrize("file", [
    "network.nir", "report.json", "parts/01-qkv-sent/program.nir", "parts/03-mlp-in/manifest.json",
    "parts/02-proj-in/report.json"])
@pytest.mark.parametrize("how", ["changed", "gone"])
def test_changed_files_are_refused(saved, file, how, tmp_path):
    copy = shutil.copytree(saved, tmp_path / "copy")
    if how == "gone":
        (copy / file).unlink()
    else:
        (copy / file).write_bytes((copy / file).read_bytes() + b" ")
    with pytest.raises(UsageError) as caught:
        d2e.load(copy)
    assert caught.value.code == "D2E-LOAD-021"


# ----- figures


def test_the_report_says_what_runs_where(network, programs, data):
    report = programs["graded"].report
    assert {row["name"] for row in report["host"]} == {*network.hosts, "norm.sent", "attend.sent", "mlp.sent", "head.sent"}
    work = {row["name"]: row.get("macs") for row in report["host"]}
    assert work["attend"] == 2 * 4 * 4 * 6
    assert work["turn"] == 0
    assert [(row["into"], row["out_of"], row["read"]) for row in report["boundaries"]] == [
        ("in", "patch.in", "membrane"), ("norm.sent", "qkv.sent", "spikes"), ("attend.sent", "proj.in", "membrane"),
        ("mlp.sent", "mlp.in", "membrane"), ("head.sent", "readout", "membrane")]
    assert [(row["values"], row["values_read"]) for row in report["boundaries"]] == [(16, 24), (24, 72), (24, 24), (24, 24),
                                                                                     (6, 3)]
    parts = [program.report for _, program in programs["graded"].segments]
    assert report["totals"]["neurons"] == sum(part["totals"]["neurons"] for part in parts)
    assert report["fit"]["cores"]["used"] == sum(part["fit"]["cores"]["used"] for part in parts) == report["totals"]["cores"]
    assert [row["name"] for row in report["layers"]] == [row["name"] for part in parts for row in part["layers"]]
    assert report["accuracy"]["samples"] == 40
    assert report["accuracy"]["source"] == 1.0
    assert report["accuracy"]["program"] >= 0.8


def test_parts_that_do_not_fit_together_are_told(network):
    report = d2e.compile(network, "loihi2-sim{cores=3}", calibration=images(4)).report
    assert report["fit"]["cores"]["used"] > report["fit"]["cores"]["limit"] == 3
    (found,) = (w for w in report["warnings"] if w["code"] == "D2E-FIT-004")
    assert f"take {report['fit']['cores']['used']} cores together, 3 are there" in found["message"]


@pytest.mark.lava
def test_a_chip_does_not_send_what_the_host_reads(network, lava_python, monkeypatch):
    monkeypatch.setenv("D2E_LAVA_PYTHON", str(lava_python))
    program = d2e.compile(network, "loihi2", calibration=images(4))
    with pytest.raises(UnsupportedError) as caught:
        program.run(images(1), engine="loihi2")
    assert (caught.value.code, "patch.in" in str(caught.value)) == ("D2E-HW-002", True)


def test_measuring_says_what_a_run_does(programs, data):
    program, (x, y) = programs["graded"], data
    found, result = program.measure(data), program.run(x)
    assert found.accuracy == (classify(program.network, result.output) == y).mean() == program.report["accuracy"]["program"]
    assert found.samples == len(x)
    for name, counts in result.counts.items():
        np.testing.assert_array_equal(found.counts[name], counts)
    assert program.measure(x).accuracy is None


def test_evaluating_gives_a_report_of_these_data(programs, saved, data):
    x, y = data
    for program in (programs["graded"], d2e.load(saved)):
        report = program.evaluate((x[:8], y[:8]), engine="reference")
        assert report["engine"]["name"] == "reference"
        assert (report["accuracy"]["source"], report["accuracy"]["samples"]) == (1.0, 8)
        assert report["totals"]["spikes_per_sample"] > 0
        assert report["boundaries"] == program.report["boundaries"]
        assert "accuracy" not in program.evaluate(x[:8]).data
        assert "8 samples" in report.text()


def test_the_page_shows_the_host_and_the_boundaries(programs, network):
    page = programs["graded"].report.html().replace(' class="words"', "")
    for text in ("<h2>On the host</h2>", "<td>attend</td><td>attention</td><td>192</td>", "<h2>Between host and chip</h2>",
                 "<td>mlp.sent</td><td>24</td><td>mlp.in</td><td>membrane</td><td>24</td>"):
        assert text in page
    assert "After every pass" not in page


def test_the_text_says_what_runs_on_the_host(programs):
    text = programs["graded"].report.text()
    assert "on host    1 permute, 3 add, 2 layer norm, 1 attention, 1 mean, 4 levels; 480 operations per frame, " in text
    assert "5 times to the chip and back" in text


# ----- options


@pytest.mark.parametrize("options", [
    {"budget": 4.0}, {"weight_bits": "auto"}, {"budget": 4.0, "weight_bits": "auto"}, {"passes": "canonicalise"},
    {"stop_after": "quantise"}, {"print_ir_after": "all"}, {"save_ir": True}, {"time_passes": True},
])
def test_options_of_one_pipeline_are_refused(network, options):
    with pytest.raises(UsageError) as caught:
        d2e.compile(network, calibration=images(4), **options)
    assert caught.value.code == "D2E-USE-019"
    assert next(iter(options)).replace("_", "-") in str(caught.value)


def test_weight_bits_are_given_by_layer(network):
    first = network.incoming["gelu"][0].source
    program = d2e.compile(network, calibration=images(4), weight_bits={first: 3, "readout": 5})
    bits = {row["name"]: row.get("weight_bits") for row in program.report["layers"]}
    assert (bits["gelu"], bits["readout"], bits["mlp.in"]) == (3, 5, 8)
    with pytest.raises(UsageError, match=r"D2E-USE-015.*'nope'"):
        d2e.compile(network, calibration=images(4), weight_bits="nope=4")


def test_a_loss_of_accuracy_is_told(network, data):
    d2e.compile(network, calibration=images(32), eval=data, max_drop=30)
    with pytest.raises(GateError, match="D2E-GATE-001"):
        d2e.compile(network, calibration=images(32), eval=data, max_drop=0.1, weight_bits=2)


def test_engines_records_and_events_that_are_not_there_are_told(programs):
    program = programs["graded"]
    for options, code in (({"engine": "nope"}, "D2E-USE-007"), ({"record": "nope"}, "D2E-USE-008")):
        with pytest.raises(UsageError) as caught:
            program.run(images(1), **options)
        assert caught.value.code == code
    with pytest.raises(UsageError, match="D2E-USE-016"):
        program.stream("events.npz")


def test_steps_are_run_one_after_the_other(network):
    """An image a step: nothing here keeps anything, so every step is an image of its own."""
    stream = network.with_nodes({"in": replace(network.input, time_steps=3)})
    program = d2e.compile(network, calibration=images(8))
    several = d2e.compile(stream, calibration=images(9).reshape(3, 3, 1, 4, 4))
    frames = images(6, 5)
    found = several.run(frames.reshape(2, 3, 1, 4, 4))
    assert found.steps.tolist() == [3, 3]
    wanted = program.run(frames).output.reshape(2, 3, -1)
    assert np.abs(found.output - wanted).mean() < 0.1 * np.abs(wanted).mean(), "scales of their own, alike but not the same"
