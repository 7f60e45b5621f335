"""`d2e.compile` from a model to a saved program: engines agree, folders are reproducible, options do what they say."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.backends.source_networks import STEPS, random_source

import d2e
from d2e.backends.loihi2.targets import Loihi2Target
from d2e.compiler.data import Data
from d2e.compiler.measure import EVENTS, measure
from d2e.compiler.program import Program
from d2e.compiler.target import one_of, positive
from d2e.ir import (
    IF,
    LIF,
    Affine,
    Continuous,
    Conv2d,
    D2EError,
    Edge,
    Flatten,
    GateError,
    Input,
    InternalError,
    Linear,
    Network,
    Node,
    Output,
    UnsupportedError,
    UsageError,
    reference,
)
from d2e.ir.network import chain

HALVES = np.array([[0.6, 0.6, -0.2, -0.2], [-0.2, -0.2, 0.6, 0.6]])
SEEDS = [3, 5, 8, 11, 14, 17, 22, 40]


def compiled(seed: int, **options: Any) -> tuple[Program, np.ndarray]:
    network, frames = random_source(seed)
    return d2e.compile(network, time_steps=STEPS, **options), frames


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def toy(steps: int | None = None, **neuron: Any) -> Network:
    """Two classes, told apart by which half of the inputs fires."""
    nodes: dict[str, Node] = {
        "input": Input(shape=(4,), time_steps=steps), "fc": Linear(weight=HALVES),
        "out": IF(shape=(2,), **neuron), "output": Output(shape=(2,)),
    }
    line = list(nodes)
    return Network(nodes, tuple(Edge(a, b) for a, b in itertools.pairwise(line)))


def toy_data(samples: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(samples) % 2
    rate = np.where(labels[:, None, None] == (np.arange(4) // 2), 0.7, 0.1)
    return (rng.random((samples, 8, 4)) < rate).astype(np.int64), labels


# --------------------------------------------------------------------------- engines and folders


@pytest.mark.parametrize("seed", SEEDS)
def test_engines_agree_before_and_after_saving(seed: int, tmp_path: Path) -> None:
    program, frames = compiled(seed)
    results = [program.run(frames, engine=engine, record="state") for engine in ("loihi2-sim", "reference")]
    results.append(d2e.load(program.save(tmp_path / "program")).run(frames, record="state"))
    first = results[0]
    assert first.counts.keys() == {n for n in program.source.populations}  # type: ignore[union-attr]
    for other in results[1:]:
        np.testing.assert_array_equal(first.output, other.output)
        for kind in ("counts", "spikes", "u", "v"):
            for name, values in getattr(first, kind).items():
                np.testing.assert_array_equal(values, getattr(other, kind)[name])


@pytest.mark.parametrize("seed", SEEDS[:3])
def test_folders_are_byte_for_byte_reproducible(seed: int, tmp_path: Path) -> None:
    network, frames = random_source(seed)
    folders = []
    for name in ("a", "b"):
        data = (frames, np.zeros(len(frames), np.int64))
        d2e.compile(network, time_steps=STEPS, save_ir=True, eval=data, output=str(tmp_path / name))
        folders.append(tree(tmp_path / name))
    assert folders[0] == folders[1]
    expected = {"manifest.json", "program.nir", "program.npz", "report.json", "report.html", "layers.csv", "mapping.csv",
                "compile.log", "target/network.py", "target/run.py", "ir/00-source.nir", "ir/00-source.txt"}
    assert expected <= folders[0].keys()
    assert not any(str(tmp_path).encode() in data for data in folders[0].values())


def test_saving_again_replaces_the_programs_own_folder(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "program"
    d2e.compile(toy(), output=str(folder))
    (folder / "compile.log").write_text("changed")
    d2e.compile(toy(), output=str(folder), weight_bits=4)
    assert json.loads((folder / "manifest.json").read_text())["options"]["weight_bits"] == 4
    assert [p.name for p in folder.parent.iterdir()] == ["program"]


@pytest.mark.parametrize("content", ["notes.txt", "manifest.json"])
def test_a_foreign_folder_is_refused_and_stays_as_it_was(content: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / content).write_text('{"name": "a browser extension"}')
    before = tree(tmp_path)
    with pytest.raises(UsageError) as caught:
        d2e.compile(toy(), output=str(folder))
    assert caught.value.code == "D2E-FILE-010"
    with pytest.raises(UsageError):
        d2e.compile(toy()).save(folder)
    assert tree(tmp_path) == before


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "program").write_text("mine")
    with pytest.raises(UsageError):
        d2e.compile(toy(), output=str(tmp_path / "program"))
    assert (tmp_path / "program").read_text() == "mine"


def test_a_failing_emit_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = d2e.compile(toy())
    kept = tmp_path / "kept"
    program.save(kept)
    before = tree(tmp_path)

    def emit(self: Any, network: Network, folder: Path, **options: Any) -> None:
        folder.mkdir()
        (folder / "half.py").write_text("…")
        raise UnsupportedError("D2E-LAVA-010", "cannot be written")

    monkeypatch.setattr(Loihi2Target, "emit", emit)
    for target in (tmp_path / "new" / "deeper", kept):
        with pytest.raises(UnsupportedError):
            program.save(target)
    assert tree(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = d2e.compile(toy())
    folder = program.save(tmp_path / "program")
    before, rename = tree(tmp_path), Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name.startswith(".program.") and Path(target).name == "program":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(UsageError, match="No space left"):
        program.save(folder)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["program.nir", "report.json", "manifest.json"])
def test_a_damaged_folder_is_not_loaded(name: str, tmp_path: Path) -> None:
    folder = d2e.compile(toy()).save(tmp_path / "program")
    (folder / name).write_bytes(b"{}")
    with pytest.raises(UsageError) as caught:
        d2e.load(folder)
    assert caught.value.code == ("D2E-LOAD-020" if name == "manifest.json" else "D2E-LOAD-021")


def test_a_folder_without_program_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        d2e.load(tmp_path)
    assert (caught.value.code, caught.value.hint) == ("D2E-LOAD-020", "Name a folder that d2e-compile wrote.")
    folder = d2e.compile(toy()).save(tmp_path / "program")
    with pytest.raises(UsageError) as caught:
        d2e.load(tmp_path)
    assert caught.value.hint == f"Name a folder that d2e-compile wrote, such as {folder}."


# --------------------------------------------------------------------------- options


def test_options_of_passes_come_from_text() -> None:
    text = ("discretise, canonicalise,check-rules,fold-thresholds,quantise{weight-bits=4,scale=max},map-neurons,"
            "place{cores=7}")
    program = d2e.compile(toy(), passes=text)
    assert program.network.nodes["fc"].quantized.bits == 4  # type: ignore[attr-defined]
    assert np.abs(program.network.nodes["fc"].weight).max() == 7  # type: ignore[attr-defined]
    assert program.report["fit"]["cores"]["limit"] == 7
    assert [name for name, _ in program.stages] == ["source", *(p.split("{")[0].strip() for p in (
        "discretise", "canonicalise", "check-rules", "fold-thresholds", "quantise", "map-neurons", "place"))]


@pytest.mark.parametrize("text", [
    "", "quantize", "canonicalise;place", "quantise{weight-bits=4", "quantise{bits=4}", "quantise{percentile=four}",
    "quantise{bias-correction=maybe}", "quantise{calibration=x}",
])
def test_passes_that_are_not_understood_are_told(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        d2e.compile(toy(), passes=text)
    assert caught.value.code == "D2E-USE-005"


def test_passes_in_the_wrong_order_are_told_with_what_they_need() -> None:
    with pytest.raises(UsageError) as caught:
        d2e.compile(toy(threshold=np.array([1.0, 2.0])), passes="canonicalise,quantise")
    assert caught.value.code == "D2E-USE-006"
    assert "running after canonicalise) needs a network that is folded" in str(caught.value)


@pytest.mark.parametrize(("options", "code"), [
    ({"scale": "finest"}, "D2E-USE-012"), ({"percentile": 0.0}, "D2E-USE-012"), ({"weight_bits": 9}, "D2E-USE-003"),
    ({"stop_after": "fold"}, "D2E-USE-005"), ({"print_ir_after": "fold"}, "D2E-USE-005"), ({"burst": "x"}, "D2E-USE-009"),
    ({"target": "speck9"}, "D2E-USE-002"), ({"target": "loihi2-sim{cores=0}"}, "D2E-USE-011"),
    ({"max_drop": 1.0}, "D2E-USE-010"),
])
def test_options_out_of_range_are_told(options: dict[str, Any], code: str) -> None:
    with pytest.raises(UsageError) as caught:
        d2e.compile(toy(), **options)
    assert caught.value.code == code


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_counts_of_events_are_data_of_any_type(dtype: Any, tmp_path: Path) -> None:
    """A recording as [samples, time, polarity, height, width]: how many events came in a step."""
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 4, (6, 90, 2, 5, 5)).astype(dtype)
    np.savez(tmp_path / "events.npz", x=counts, y=np.arange(6) % 4)
    network = chain([
        ("input", Input(shape=(2, 5, 5), max_payload=3)), ("conv", Conv2d(weight=rng.normal(0.03, 0.1, (4, 2, 5, 5)))),
        ("neurons", IF(shape=(4, 1, 1))), ("flat", Flatten()), ("output", Output(shape=(4,))),
    ])
    file = str(tmp_path / "events.npz")
    program = d2e.compile(network, calibration=file, eval=file, passes="discretise,canonicalise,fold-thresholds,quantise")
    expected = reference.run(program.network, counts.astype(np.int64))
    np.testing.assert_array_equal(reference.run(program.network, counts).counts["neurons"], expected.counts["neurons"])
    again = d2e.compile(network, calibration=counts.astype(np.int64), eval=(counts.astype(np.int64), np.arange(6) % 4),
                        passes="discretise,canonicalise,fold-thresholds,quantise")
    assert program.network.same(again.network)
    assert program.report["accuracy"] == again.report["accuracy"]


def test_counts_beyond_the_payload_say_what_to_state() -> None:
    with pytest.raises(UsageError) as caught:
        d2e.compile(toy(), eval=np.full_like(toy_data()[0], 7))
    assert caught.value.code == "D2E-INPUT-003"
    assert "--max-payload 7" in str(caught.value.hint)


@pytest.mark.parametrize("events", [False, True])
def test_payloads_are_messages_or_as_many_events(events: bool) -> None:
    network = toy().with_metadata(**({EVENTS: True} if events else {}))
    network = network.with_nodes({network.inputs[0]: replace(network.input, max_payload=3)})
    frames = 3 * np.asarray(toy_data()[0])
    sent = measure(network, Data(frames)).input_messages
    np.testing.assert_array_equal(sent, (frames if events else frames != 0).sum(axis=(0, 1)) / len(frames))


@pytest.mark.parametrize("text", ["volts=3", "cores=none", "cores=-1", "cores=²", "cores", "chips=1.5"])
def test_a_targets_options_are_its_own(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        d2e.compile(toy(), f"loihi2-sim{{{text}}}")
    assert caught.value.code == "D2E-USE-011"
    assert caught.value.hint == "Its options: cores=NUMBER, chips=NUMBER."


def test_options_are_read_as_the_target_says() -> None:
    order, cores = one_of("depth", "breadth", help="of events"), positive()
    assert (order.read("depth"), order.written, order.help, cores.read("12")) == ("depth", "depth|breadth", "of events", 12)
    for option, text in ((order, "Depth"), (order, "x"), (cores, "0"), (cores, "1e3")):
        with pytest.raises(ValueError, match=text):
            option.read(text)


def test_stopping_early_measures_what_there_is() -> None:
    program = d2e.compile(toy(), stop_after="fold-thresholds", eval=toy_data())
    assert program.stages[-1][0] == "fold-thresholds"
    assert program.report["engine"] == {"name": "reference", "bit_exact_with": None}
    assert "fit" not in program.report.data
    assert "cores" not in program.report["totals"]


def test_networks_are_printed_after_the_passes_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    d2e.compile(toy(), print_ir_after="quantise", time_passes=True)
    text = capsys.readouterr().out
    assert text.count("after ") == 1
    assert "after quantise:\n" in text
    assert sum(line.endswith(" s") for line in text.splitlines()) == 9
    d2e.compile(toy(), print_ir_after="all")
    assert capsys.readouterr().out.count("after ") == 9


def test_the_gate_holds_back_a_program_that_lost_accuracy(tmp_path: Path) -> None:
    frames, labels = toy_data()
    assert d2e.compile(toy(), eval=(frames, labels), max_drop=0.0).report["accuracy"]["program"] == 1
    close = Linear(weight=np.array([[0.26, 0.26, 0, 0], [0.27, 0.27, 0, 0]]))  # 20 against 21 spikes; alike in two bits
    data = (np.ones((10, 40, 4), np.int64), np.ones(10, np.int64))
    with pytest.raises(GateError) as caught:
        d2e.compile(toy().with_nodes({"fc": close}), eval=data, max_drop=1.0, weight_bits=2, output=str(tmp_path / "no"))
    assert (caught.value.code, caught.value.exit_code) == ("D2E-GATE-001", 4)
    assert not (tmp_path / "no").exists()


def test_time_constants_are_measured_as_they_are_discretised() -> None:
    lif = LIF(shape=(2,), continuous=Continuous(tau_mem=np.float64(0.01), rule="exp"), threshold=np.float64(0.02))
    network = toy().with_nodes({"out": lif, "fc": Affine(weight=HALVES, bias=np.array([0.02, 0.02]))})
    program = d2e.compile(network, dt=0.001, eval=toy_data())
    rows = {row["pass"]: row for row in program.report["accuracy"]["passes"]}
    assert rows["source"]["spikes"] == rows["discretise"]["spikes"] == rows["fold-thresholds"]["spikes"] > 0
    assert program.evaluate(toy_data())["accuracy"]["source"] == program.report["accuracy"]["source"]


def test_the_steps_of_data_must_be_those_of_the_model() -> None:
    with pytest.raises(UsageError) as caught:
        d2e.compile(toy(steps=9), eval=toy_data())
    assert caught.value.code == "D2E-DATA-004"


def test_a_user_fault_carries_the_pass_it_came_from() -> None:
    with pytest.raises(D2EError) as caught:
        d2e.compile(toy(refractory=1), target="loihi2")
    assert caught.value.__notes__ == ["in pass 'check-rules', running after discretise, canonicalise"]


def test_our_faults_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    from d2e.compiler.passes.fold_thresholds import FoldThresholds

    def broken(self: Any, network: Network, target: Any) -> Network:
        raise KeyError("oops")

    monkeypatch.setattr(FoldThresholds, "run", broken)
    with pytest.raises(InternalError, match="pass 'fold-thresholds', running after"):
        d2e.compile(toy())
    monkeypatch.setattr(FoldThresholds, "run", lambda self, network, target: network)
    with pytest.raises(InternalError, match="left a network that is not folded at node 'out'"):
        d2e.compile(toy(threshold=np.array([1.0, 2.0])))


def test_run_refuses_what_it_does_not_know() -> None:
    program = d2e.compile(toy())
    frames = toy_data()[0]
    for options, code in (({"engine": "gpu"}, "D2E-USE-007"), ({"record": "everything"}, "D2E-USE-008")):
        with pytest.raises(UsageError) as caught:
            program.run(frames, **options)  # type: ignore[arg-type]
        assert caught.value.code == code


def test_a_tuple_that_is_no_pair_is_told() -> None:
    with pytest.raises(UsageError, match="tuple of 1") as caught:
        d2e.compile(toy(), calibration=(np.zeros((4, 2)),))
    assert caught.value.code == "D2E-DATA-002"
