"""Recordings as data sets: files of every format, folders of classes, data sets like tonic's, and what can be wrong."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest

import d2e
from d2e import nn as snn
from d2e.compiler import data
from d2e.compiler.events import Camera, Recordings, events_of, frames_of, load, save
from d2e.compiler.events.address import DTYPE
from d2e.ir import MissingError, UsageError

SHAPE = (2, 8, 8)
SHAPES = Path(__file__).parents[3] / "examples" / "shapes"


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 8, 8))


def recorded(count: int = 6) -> tuple[list[np.ndarray], np.ndarray]:
    """Recordings of 4 steps of 1 ms each, and their counts."""
    frames = Camera().record(images(count), 4)
    return [events_of(one) for one in frames], frames


def options(**others: object) -> dict[str, object]:
    return {"shape": SHAPE, "time_steps": 4, "step_us": 1000, "start": 0} | others


class Dataset:
    """What tonic's data sets are: length, indices, sensor_size (width, height, polarities)."""

    sensor_size = (8, 8, 2)

    def __init__(self, events: list[np.ndarray], labels: list[object]) -> None:
        self.events, self.labels = events, labels

    def __len__(self) -> int:
        return len(self.events)

    def __getitem__(self, index: int) -> tuple[np.ndarray, object]:
        return self.events[index], self.labels[index]


def write_bin(path: Path, events: np.ndarray, overflow: bool = False) -> None:
    """N-MNIST's format: 5 bytes per event, x, y, polarity with 23 bits of time; y 240 stands for 2**13 us."""
    rows = []
    late = 0
    for t, x, y, p in events.tolist():
        if overflow and t - late >= 2**13:
            rows.append((0, 240, 0, 0, 0))
            late += 2**13
        rows.append((x, y, p << 7 | t - late >> 16, t - late >> 8 & 255, t - late & 255))
    path.write_bytes(np.array(rows, np.uint8).tobytes())


def write_aedat4(path: Path, events: np.ndarray) -> None:
    """AEDAT 4: a header and packets, each a flat buffer of one table; packets begin with their stream and length."""
    about = b'''<dv version="2.0"><node name="outInfo"><node name="0"><attr key="typeIdentifier">EVTS</attr>
        <node name="info"><attr key="sizeX">8</attr><attr key="sizeY">8</attr></node></node></node></dv>'''
    header = struct.pack("<I4sHHHHHxxiII", 20, b"IOHE", 10, 8, 0, 0, 4, 12, 4, len(about)) + about + bytes(8)
    path.write_bytes(b"#!AER-DAT4.0\r\n" + struct.pack("<I", len(header)) + header)
    for part in np.array_split(events, 3):
        rows = np.zeros(len(part), {"names": ["t", "x", "y", "on"], "formats": ["<i8", "<i2", "<i2", "?"], "itemsize": 16})
        for name, column in (("t", "t"), ("x", "x"), ("y", "y"), ("on", "p")):
            rows[name] = part[column]
        body = struct.pack("<I4sHHHxxiII", 16, b"EVTS", 6, 8, 4, 8, 4, len(rows)) + rows.tobytes()
        with path.open("ab") as file:
            file.write(struct.pack("<III", 0, len(body) + 4, len(body)) + body)


def test_files_of_numpy(tmp_path):
    (events, *_), (frames, *_) = recorded(1)
    np.save(tmp_path / "a.npy", events)
    np.savez(tmp_path / "b.npz", events)
    np.savez(tmp_path / "c.npz", **{name: events[name] for name in "xpty"})
    for name in ("a.npy", "b.npz", "c.npz"):
        found = load(tmp_path / name, **options())
        assert isinstance(found, Recordings)
        assert np.array_equal(found.frames, frames[None])
        assert (found.frames.dtype, found.labels, found.classes) == (np.uint8, None, ())
        assert (found.events, found.left_out, found.clipped) == (len(events), 0, 0)


@pytest.mark.parametrize("overflow", [False, True])
def test_n_mnist_files_are_read_by_tonic(tmp_path, overflow):
    pytest.importorskip("tonic")
    frames = Camera().record(images(1), 20)
    events = events_of(frames[0])
    write_bin(tmp_path / "00001.bin", events, overflow)
    assert np.array_equal(load(str(tmp_path / "00001.bin"), **options(time_steps=20)).frames, frames)


def test_aedat4_files_are_read_by_tonic(tmp_path):
    pytest.importorskip("tonic")
    pytest.importorskip("aedat")
    (events, *_), (frames, *_) = recorded(1)
    events["t"] += 1_600_000_000_000_000  # a camera's clock
    write_aedat4(tmp_path / "a.aedat4", events)
    found = load(tmp_path / "a.aedat4", **options(start=1_600_000_000_000_000))
    assert np.array_equal(found.frames, frames[None])


def test_a_folder_per_class(tmp_path):
    pytest.importorskip("tonic")
    events, frames = recorded(6)
    for i, (one, name) in enumerate(zip(events, ("10", "9", "9", "1", "10", "1"), strict=True)):
        (tmp_path / name).mkdir(exist_ok=True)
        write_bin(tmp_path / name / f"{i}.bin", one)
    (tmp_path / "README").write_text("beside the classes")
    (tmp_path / "9" / ".hidden").write_text("no recording")
    found = load(tmp_path, **options())
    assert found.classes == ("1", "9", "10")
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert np.array_equal(found.frames, frames[[3, 5, 1, 2, 0, 4]])
    few = load(tmp_path, **options(samples=3))
    assert (few.labels.tolist(), few.classes) == ([0, 1, 2], found.classes)
    again = load(tmp_path, **options(classes=("10", "9", "8", "1")))
    assert again.labels.tolist() == [3, 3, 1, 1, 0, 0]
    assert found.text().startswith("6 recordings of 3 classes, ")


def test_the_recordings_of_the_example_are_its_frames():
    """examples/shapes counts them with code of its own, in 20 steps of 5 ms, and with 1 for ON, too."""
    names = ("disc", "ring", "square", "bar", "cross", "triangle", "crescent", "ell")
    found = load(SHAPES / "recordings", shape=(2, 32, 32), time_steps=20, step_us=5000, start=0)
    order = sorted(range(8), key=lambda i: names[i])
    with np.load(SHAPES / "test.npz") as held_out:
        expected = held_out["x"][:8][order]
    assert np.array_equal(found.frames[:, :-1], expected[:, :-1])
    assert 0 < expected.sum() - found.frames.sum() < 10, "events at 100 ms itself: the example counts them in the last step"
    program = d2e.compile(SHAPES / "model.pt", "speck2f-sim", calibration=SHAPES / "calibration.npz")
    assert (program.run(found.frames).output.sum(axis=1).argmax(axis=1) == order).sum() >= 7


def test_data_sets_lists_and_arrays():
    events, frames = recorded(5)
    labels = [2, 0, 1, 1, 0]
    found = load(Dataset(events, [np.int64(n) for n in labels]), **options())
    assert np.array_equal(found.frames, frames)
    assert found.labels.tolist() == labels
    assert np.array_equal(load(events, **options()).frames, frames)
    assert load(events, **options()).labels is None
    assert np.array_equal(load({name: events[0][name] for name in "txyp"}, **options()).frames, frames[:1])
    spread = load(Dataset(events, labels), **options(samples=2))
    assert np.array_equal(spread.frames, frames[[0, 2]])
    named = load(Dataset(events, ["b", "c", "a", "a", "c"]), **options())
    assert (named.labels.tolist(), named.classes) == ([1, 2, 0, 0, 2], ("a", "b", "c"))


def test_a_data_set_of_tonic(tmp_path, monkeypatch):
    """NMNIST itself, on a folder that looks like a download."""
    tonic = pytest.importorskip("tonic")
    events, frames = recorded(4)
    for i, one in enumerate(events):
        folder = tmp_path / "NMNIST" / "Test" / str(i % 2 * 7)
        folder.mkdir(parents=True, exist_ok=True)
        write_bin(folder / f"{i}.bin", one)
    monkeypatch.setattr(tonic.datasets.NMNIST, "_check_exists", lambda _: True)
    found = tonic.datasets.NMNIST(str(tmp_path), train=False)
    with pytest.raises(UsageError, match="34 rows and 34 columns") as caught:
        load(found, **options())
    assert caught.value.code == "D2E-EVT-008"
    whole = load(found, **options(shape=(2, 34, 34)))
    assert whole.labels.tolist() == [0, 0, 7, 7]
    assert np.array_equal(whole.frames[:, :, :, :8, :8], frames[[0, 2, 1, 3]])
    cropped = tonic.transforms.CenterCrop(sensor_size=(34, 34, 2), size=(28, 28))  # from row and column 3 on
    found.transform = cropped
    assert np.array_equal(load(found, **options(shape=(2, 28, 28))).frames, whole.frames[:, :, :, 3:31, 3:31])
    found.transform = None
    small = load(found, **options(shape=(2, 17, 17), downsample=2))
    assert np.array_equal(small.frames[:, :, :, :4, :4], frames[[0, 2, 1, 3]].reshape(4, 4, 2, 4, 2, 4, 2).sum(axis=(4, 6)))


def test_what_is_lost_is_told():
    events, frames = recorded(3)
    found = load(events, **options(time_steps=3, max_payload=2))
    assert np.array_equal(found.frames, np.minimum(frames[:, :3], 2))
    assert found.left_out == pytest.approx(frames[:, 3].sum() / frames.sum())
    assert found.clipped == pytest.approx((frames[:, :3] - found.frames.astype(int)).sum() / frames.sum())
    assert found.clipped > 0.1
    many = np.zeros(300, DTYPE)
    assert load(many, **options(max_payload=1000)).frames.max() == 300


def test_saved_data_are_a_data_set_for_compile(tmp_path):
    x, y = images(12), np.arange(12) % 2
    save(tmp_path / "events.npz", (Camera().record(x, 4), y))
    found = data.load(tmp_path / "events.npz")
    assert np.array_equal(found.frames, Camera().record(x, 4))
    assert found.labels.tolist() == y.tolist()
    torch = pytest.importorskip("torch")
    model = snn.Sequential(torch.nn.Conv2d(2, 3, 3), snn.IF(), torch.nn.Flatten(), torch.nn.Linear(108, 2), snn.IF())
    program = d2e.compile(model, input_shape=SHAPE, time_steps=4, max_payload=15, calibration=tmp_path / "events.npz",
                          eval=tmp_path / "events.npz")
    assert program.report["accuracy"]["program"] == program.report["accuracy"]["source"]
    save(tmp_path / "unlabelled.npz", load(recorded(2)[0], **options()))
    assert data.load(tmp_path / "unlabelled.npz").labels is None


def broken(folder: Path) -> dict[str, str]:
    """Name of a file -> what the message says of it."""
    events = recorded(1)[0][0]
    np.save(folder / "whole.npy", events)
    (folder / "cut.npy").write_bytes((folder / "whole.npy").read_bytes()[:-7])
    (folder / "text.npz").write_text("no zip")
    np.savez(folder / "none.npz")
    np.save(folder / "objects.npy", np.array([{}], object), allow_pickle=True)
    (folder / "odd.bin").write_bytes(b"1234567")
    (folder / "old.aedat").write_bytes(b"#!AER-DAT2.0")
    (folder / "no.aedat4").write_bytes(b"something else")
    return {
        "cut.npy": "could only read 969", "text.npz": "pickled", "none.npz": "no array", "objects.npy": "allow_pickle",
        "odd.bin": "7 bytes, not 5 per event", "old.aedat": "knows no files .aedat", "no.aedat4": "wrong magic number",
        "absent.npy": "No such file",
    }


def test_broken_files_are_named_with_the_reason(tmp_path):
    pytest.importorskip("aedat")
    for name, words in broken(tmp_path).items():
        with pytest.raises(UsageError, match=words) as caught:
            load(tmp_path / name, **options())
        assert caught.value.code == "D2E-EVT-004", name
        assert str(tmp_path / name) in caught.value.message


def test_a_file_with_bad_events_is_named(tmp_path):
    events = recorded(1)[0][0]
    np.save(tmp_path / "late.npy", events[::-1])
    np.save(tmp_path / "frames.npy", np.zeros((4, 2, 8, 8)))
    np.save(tmp_path / "far.npy", events)
    for name, code, others in (("late", "006", {}), ("frames", "005", {}), ("far", "007", {"shape": (2, 4, 4)})):
        with pytest.raises(UsageError, match=f"{name}.npy") as caught:
            load(tmp_path / f"{name}.npy", **options(**others))
        assert caught.value.code == f"D2E-EVT-{code}"


def test_other_formats_through_a_reader(tmp_path):
    events, frames = recorded(2)
    for i, one in enumerate(events):
        np.savetxt(tmp_path / f"{i}.csv", one, fmt="%d", delimiter=",")

    def reader(path: str) -> np.ndarray:
        return np.loadtxt(path, dtype=DTYPE, delimiter=",")

    assert np.array_equal(load(tmp_path, **options(reader=reader)).frames, frames)
    (tmp_path / "0.csv").write_text("a,b")
    with pytest.raises(UsageError, match=r"0\.csv cannot be read") as caught:
        load(tmp_path, **options(reader=reader))
    assert caught.value.code == "D2E-EVT-004"


@pytest.mark.parametrize(("source", "others", "code", "words"), [
    (3, {}, "003", "int is no source"),
    (Dataset([np.zeros((4, 2, 8, 8))], [0]), {}, "003", "sample 0 .* float64.*transforms to frames"),
    (Dataset(recorded(1)[0], [0.5]), {}, "003", "label float"),
    (Dataset(recorded(2)[0], [0, "a"]), {}, "003", "kinds int, str"),
    (Dataset(recorded(2)[0], ["a", "b"]), {"classes": ("a",)}, "003", "classes b are not among a"),
    (Dataset(recorded(2)[0], ["a", "b"]), {"samples": 1}, "003", "does not tell all classes"),
    ([], {}, "010", "no recordings"),
    (Dataset(recorded(1)[0], [0]), {"shape": (2, 9, 8)}, "008", "8 rows"),
    (recorded(1)[0], {"max_payload": 0}, "008", "max_payload"),
    (recorded(1)[0], {"max_payload": 70000}, "008", "max_payload"),
    (recorded(1)[0], {"samples": 0}, "008", "samples"),
    (recorded(1)[0], {"time_steps": 0}, "008", "time_steps"),
    (recorded(1)[0], {"start": 10**6}, "006", "none of .* events is in the time steps"),
])
def test_what_cannot_be_loaded(source, others, code, words):
    with pytest.raises(UsageError, match=words) as caught:
        load(source, **options(**others))
    assert caught.value.code == f"D2E-EVT-{code}"


def test_an_empty_folder(tmp_path):
    with pytest.raises(UsageError, match=str(tmp_path)) as caught:
        load(tmp_path, **options())
    assert caught.value.code == "D2E-EVT-010"


@pytest.mark.parametrize(("name", "absent"), [("a.bin", "tonic"), ("a.aedat4", "aedat")])
def test_formats_whose_package_is_missing_name_the_extra(tmp_path, monkeypatch, name, absent):
    (write_bin if name.endswith(".bin") else write_aedat4)(tmp_path / name, recorded(1)[0][0])
    for module in (absent, f"{absent}.io"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingError, match=rf"{absent}.*pip install 'd2e\[events\]'") as caught:
        load(tmp_path, **options())
    assert caught.value.code == "D2E-EVT-009"


def test_frames_of_is_what_load_counts():
    events, _ = recorded(2)
    found = load(events, shape=SHAPE, time_steps=3)
    assert np.array_equal(found.frames, [frames_of(one, SHAPE, 3) for one in events])
    assert 0 < found.left_out < 0.1
