"""Data of every kind: arrays, mapped files, images, recordings; what is wrong with them is told."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.compiler.bench.conftest import DIGITS, SHAPES, spikes
from torch import nn

import d2e
from d2e.compiler.bench.samples import open_samples
from d2e.ir import MissingError, UsageError
from d2e.nn import IF, Sequential


@pytest.fixture(scope="module")
def pictures() -> d2e.Program:
    """A program that takes images of 8 x 8 values, direct-coded over 4 steps."""
    torch.manual_seed(0)
    model = Sequential(nn.Conv2d(1, 4, 3), IF(), nn.Flatten(), nn.Linear(144, 3), IF())
    return d2e.compile(model, input_shape=(1, 8, 8), time_steps=4, encoder="direct", input_range=(0.0, 1.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven images in three classes."""
    path, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(7):
        (path / f"{'xyz'[i % 3]}").mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(path / "xyz"[i % 3] / f"{i}.png")
    (path / ".hidden").mkdir()
    return path


def test_arrays_and_files_are_the_same(digits, data, tmp_path):
    np.savez(tmp_path / "a.npz", x=data[0], y=data[1])
    np.save(tmp_path / "a.npy", data[0])
    expected = spikes(d2e.bench(digits, data, batch=20))
    assert spikes(d2e.bench(digits, tmp_path / "a.npz", batch=20)) == expected
    assert spikes(d2e.bench(digits, tmp_path / "a.npy", batch=30)) == expected
    assert spikes(d2e.bench(digits, DIGITS / "test.npz", samples=50)) == expected[:50]
    found = open_samples(tmp_path / "a.npy", digits.network, timed=False)
    assert not found.read(0, 2).frames.flags.owndata


def test_a_folder_of_images(pictures, folder):
    files = sorted(folder.glob("[xyz]/*.png"))
    frames = np.stack([np.asarray(Image.open(f), np.float32)[None] / np.float32(255) for f in files])
    labels = np.array(["xyz".index(f.parent.name) for f in files])
    found = d2e.bench(pictures, folder, batch=3)
    assert spikes(found) == spikes(d2e.bench(pictures, (frames, labels), batch=2))
    assert [row["label"] for row in found.rows] == labels.tolist()
    flat = d2e.bench(pictures, folder / "x", batch=2)
    assert (flat["samples"], "accuracy" in flat.data) == (3, False)
    assert d2e.bench(pictures, folder, samples=4)["samples"] == 4


def test_images_that_do_not_fit(pictures, folder, tmp_path, monkeypatch):
    Image.fromarray(np.zeros((9, 8), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"a.png has \[1, 9, 8\] values, the program takes \[1, 8, 8\]") as caught:
        d2e.bench(pictures, tmp_path)
    assert caught.value.code == "D2E-BENCH-004"
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(UsageError, match="cannot be read"):
        d2e.bench(pictures, tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(UsageError, match="there are no samples"):
        d2e.bench(pictures, tmp_path)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingError) as missing:
        d2e.bench(pictures, folder)
    assert missing.value.code == "D2E-BENCH-005"


def test_classes_are_those_of_the_whole_folder(pictures, tmp_path):
    """Whatever part of the samples runs, and though a class has no image; sorted as numbers where all are."""
    for name in map(str, (0, 1, 2, 9, 10)):
        (tmp_path / name).mkdir()
    for i, name in enumerate(("0", "1", "10")):  # in the order of the files
        Image.fromarray(np.full((8, 8), 60 * i, np.uint8)).save(tmp_path / name / "a.png")
    with pytest.raises(UsageError, match="reach from 0 to 4") as caught:
        d2e.bench(pictures, tmp_path)
    assert caught.value.code == "D2E-DATA-003"
    (tmp_path / "2").rmdir()
    (tmp_path / "9").rmdir()
    assert [row["label"] for row in d2e.bench(pictures, tmp_path).rows] == [0, 1, 2]
    Image.fromarray(np.full((8, 8), 200, np.uint8)).save(tmp_path / "10" / "b.png")
    (tmp_path / "2").mkdir()
    found = open_samples(tmp_path, pictures.network, timed=False)
    assert found.read(0, 4).labels.tolist() == [0, 1, 3, 3]
    assert open_samples(tmp_path, pictures.network, timed=False, samples=3).read(0, 3).labels.tolist() == [0, 1, 3]
    (tmp_path / "2").rmdir()
    assert open_samples(tmp_path, pictures.network, timed=False).fingerprint != found.fingerprint


def test_what_is_no_sample_is_told_before_the_work(pictures, shapes, tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("mine")
    for program, kind in ((pictures, "image"), (shapes, "recording")):
        with pytest.raises(UsageError, match=f"notes.txt is no {kind}") as caught:
            open_samples(tmp_path, program.network, timed=False)
        assert caught.value.code == "D2E-BENCH-004"
        (tmp_path / "a.png").unlink(missing_ok=True)


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_wide_pixels_are_not_cut_off(kind, pictures, tmp_path):
    Image.fromarray(np.full((8, 8), 300, kind)).save(tmp_path / "a.tif")
    with pytest.raises(UsageError, match=r"its pixels are (wider than 8 bits|real numbers)") as caught:
        d2e.bench(pictures, tmp_path)
    assert caught.value.code == "D2E-BENCH-004"


def test_recordings_stay_timed_on_speck(shapes, tmp_path):
    kept = [dict(np.load(f)) for f in sorted((SHAPES / "recordings").glob("*.npz"))]
    streamed = [shapes.stream(each) for each in kept]
    found = d2e.bench(shapes, SHAPES / "recordings", batch=3)
    for row, one in zip(found.rows, streamed, strict=True):
        assert (row["spikes"], row["synops"]) == (sum(int(c.sum()) for c in one.counts.values()), sum(one.synops.values()))
    peaks = {name: max(one.peak_synops_per_s[name] for one in streamed) for name in streamed[0].counts}
    assert found["peaks"] == {"label": "simulated", "synops_per_core_and_s": peaks}
    several = {k: np.concatenate([e[k] for e in kept]) for k in "txyp"}
    several["sample"] = np.repeat(np.arange(8), [len(e["t"]) for e in kept])
    np.savez(tmp_path / "all.npz", **several, label=np.arange(8))
    together = d2e.bench(shapes, tmp_path / "all.npz", batch=5)
    assert spikes(together) == spikes(found)
    assert "accuracy" in together.data
    one = d2e.bench(shapes, SHAPES / "recordings" / "cross.npz")
    assert one["samples"] == 1
    with pytest.raises(UsageError) as caught:
        d2e.bench(shapes, tmp_path / "all.npz", engine="reference")
    assert caught.value.code == "D2E-USE-016"
    order = np.random.default_rng(0).permutation(8)[several["sample"]].argsort(kind="stable")
    np.savez(tmp_path / "all.npz", **{k: v[order] for k, v in several.items()}, label=np.arange(8))  # not by their number
    assert spikes(d2e.bench(shapes, tmp_path / "all.npz", batch=5)) == spikes(found)
    for label in (np.arange(7), np.arange(8) + 0.5, np.array(list("abcdefgh")), np.arange(8) + 1, np.arange(8) - 1):
        np.savez(tmp_path / "all.npz", **several, label=label)
        with pytest.raises(UsageError) as caught:
            d2e.bench(shapes, tmp_path / "all.npz")
        assert caught.value.code == "D2E-DATA-003"
    for label in ("disc", np.zeros(0, int)):
        np.savez(tmp_path / "one.npz", **kept[0], label=label)
        with pytest.raises(UsageError) as caught:
            d2e.bench(shapes, tmp_path / "one.npz")
        assert caught.value.code == "D2E-DATA-003"
    number = several.pop("sample")
    for wrong in (number[:-3], number + 0.5, number - 1, number[:, None], number.astype(str), number + 10**9):
        np.savez(tmp_path / "all.npz", **several, sample=wrong)
        with pytest.raises(UsageError, match="the column sample of") as caught:
            d2e.bench(shapes, tmp_path / "all.npz")
        assert caught.value.code == "D2E-BENCH-004"


def test_recordings_become_frames_where_there_are_steps():
    from d2e.compiler.events import recordings

    torch.manual_seed(0)
    model = Sequential(nn.Conv2d(2, 4, 4, stride=4), IF(), nn.Flatten(), nn.Linear(256, 8), IF())
    program = d2e.compile(model, input_shape=(2, 32, 32), time_steps=20, max_payload=15)
    source = program.network.input
    for step in (None, 5000):
        frames = recordings.load(SHAPES / "recordings", shape=source.shape, time_steps=source.time_steps, step_us=step,
                                 max_payload=15)
        found = d2e.bench(program, SHAPES / "recordings", batch=3, step_us=step)
        assert spikes(found) == spikes(d2e.bench(program, frames.frames))


def test_classes_of_recordings(shapes, tmp_path):
    for i, file in enumerate(sorted((SHAPES / "recordings").glob("*.npz"))):
        (tmp_path / str(10 - i)).mkdir()
        (tmp_path / str(10 - i) / file.name).write_bytes(file.read_bytes())
    found = d2e.bench(shapes, tmp_path)
    assert [row["label"] for row in found.rows] == [int(p.name) - 3 for p in sorted(tmp_path.iterdir())]


def test_data_that_are_none(digits, tmp_path):
    (tmp_path / "text.npz").write_text("no data")
    (tmp_path / "text.npy").write_text("no data")
    np.savez(tmp_path / "objects.npz", x=np.array([None, 1], object))
    np.savez(tmp_path / "one.npz", frames=np.array([None, 1], object))
    np.savez(tmp_path / "damaged.npz", x=np.ones((8, 16, 1, 8, 8), np.uint8))
    whole = bytearray((tmp_path / "damaged.npz").read_bytes())
    whole[len(whole) // 2] ^= 1
    (tmp_path / "damaged.npz").write_bytes(whole)
    for path, code in ((tmp_path / "none.npz", "D2E-DATA-001"), (tmp_path / "text.npz", "D2E-DATA-001"),
                       (tmp_path / "objects.npz", "D2E-DATA-001"), (tmp_path / "one.npz", "D2E-DATA-001"),
                       (tmp_path / "damaged.npz", "D2E-DATA-001"),
                       (tmp_path / "text.npy", "D2E-DATA-001"), (np.zeros((2, 16, 1, 9, 9)), "D2E-INPUT-001"),
                       (np.zeros((2, 4, 1, 8, 8), int), "D2E-DATA-004")):
        with pytest.raises(UsageError) as caught:
            d2e.bench(digits, path)
        assert caught.value.code == code, path


@pytest.mark.parametrize("option", ["batch", "repeat", "samples", "step_us", "window_us", "time_limit", "time_out", "ahead"])
def test_numbers_out_of_range(option, digits, data):
    with pytest.raises(UsageError, match=option.replace("_", " ")) as caught:
        d2e.bench(digits, data, **{option: 0})
    assert caught.value.code == "D2E-BENCH-003"


def test_options_that_exclude_each_other(digits, data):
    for options in ({"engine": "reference", "device": "sim:0"}, {"device": "sim:0", "devices": "sim:1"}):
        with pytest.raises(UsageError) as caught:
            d2e.bench(digits, data, **options)
        assert caught.value.code == "D2E-BENCH-001"
    with pytest.raises(UsageError) as caught:
        d2e.bench(replace(digits, folder=None), data, engine="loihi3")
    assert caught.value.code == "D2E-USE-007"
