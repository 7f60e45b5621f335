"""What a benchmark runs on, read as it is needed: arrays, image folders, recordings of event cameras."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from d2e.compiler import data as data_sets
from d2e.compiler.data import Data
from d2e.compiler.events import files, recordings
from d2e.compiler.files import sha256
from d2e.ir import MissingError, Network, UsageError
from d2e.ir.nodes import Array, Shape

IMAGES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
Source = data_sets.Source


class Chunk(NamedTuple):
    """Some samples: frames as files hold them [n, …], or recordings; and their labels, if they have any."""

    frames: Array | Sequence[Any]
    labels: Array | None


@dataclass(frozen=True)
class Samples:
    """A data set.

    Attributes:
        name: of the file, for a screen.
        count: of samples.
        read: (start, stop) -> these samples.
        fingerprint: of everything in it.
        streamed: whether they are recordings of timed events, not frames.
    """

    name: str
    count: int
    read: Callable[[int, int], Chunk]
    fingerprint: str
    streamed: bool = False


def open_samples(
    source: Source, network: Network, *, timed: bool, samples: int | None = None, step_us: int | None = None
) -> Samples:
    """A data set of a path or of arrays.

    Args:
        source: ``.npz`` with x and maybe y, ``.npy`` of frames (mapped, not loaded), or arrays as `d2e.compiler.data.load`
            takes them; a folder of images, or with a folder of images per class; a recording of events or a folder of
            them (`d2e.compiler.events`), or an ``.npz`` of several with columns t, x, y, p, sample and maybe label.
        network: whose input they shall be.
        timed: whether recordings stay timed events; else they become frames of the network's time steps.
        samples: the first of them.
        step_us: of recordings that become frames, microseconds per step; None: each lasts as long as the steps.

    Raises:
        UsageError: as `d2e.compiler.data.load`; D2E-BENCH-004 for images that cannot be read or do not fit.
        MissingError: D2E-BENCH-005 for images without Pillow.
    """
    if not isinstance(source, (str, os.PathLike)):
        data = data_sets.load(source).head(samples)
        return Samples("arrays", len(data), _slices(data), data.fingerprint)
    path = Path(source)
    listed, classes = _listed(path)
    if _are_images([file for file, _ in listed]):
        return _images(path, listed[:samples], classes, network.input.shape)
    if listed:
        events = [_Recording(str(p), label, lambda p=p: files.read(p)) for p, label in listed[:samples]]  # type: ignore[misc]
        hashed = f"{_of_files([p for p, _ in listed[:samples]], path)}{_of_classes(classes)}"
        return _recordings(path, events, network, timed, step_us, classes, hashed)
    mapped = _mapped(path) if path.suffix == ".npy" else None
    if mapped is not None:
        frames = Data(mapped).head(samples)
        return Samples(path.name, len(frames), _slices(frames), f"{sha256(path)}:{len(frames)}")
    other = path.suffix in files.READERS and path.suffix not in (".npy", ".npz")
    if other or _columns(path) is not None:
        several = _several(path)[:samples]
        return _recordings(path, several, network, timed, step_us, [], f"{sha256(path)}:{len(several)}")
    data = data_sets.load(path).head(samples)
    return Samples(path.name, len(data), _slices(data), f"{sha256(path)}:{len(data)}")


def _slices(data: Data) -> Callable[[int, int], Chunk]:
    def read(start: int, stop: int) -> Chunk:
        return Chunk(np.asarray(data.frames[start:stop]), None if data.labels is None else data.labels[start:stop])

    return read


# --------------------------------------------------------------------------- folders


def _listed(path: Path) -> tuple[list[tuple[Path, str | None]], list[str]]:
    """The files of a folder, or of its folders, one per class, each with its class; and all classes, with files or without.

    None where it is no folder.
    """
    if not path.is_dir():
        return [], []
    classes = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    folders: list[tuple[Path, str | None]] = [(p, p.name) for p in classes] or [(path, None)]
    found = [(file, label) for folder, label in folders for file in sorted(folder.iterdir())
             if file.is_file() and not file.name.startswith(".")]
    if not found:
        raise UsageError("D2E-BENCH-004", f"there are no samples in {path}",
                         hint="A folder of images or recordings, or with a folder of them per class.")
    return found, [p.name for p in classes]


def _are_images(listed: Sequence[Path]) -> bool:
    """Whether these files are images; else they are recordings."""
    images = [file.suffix.lower() in IMAGES for file in listed]
    kind, known = ("image", IMAGES) if any(images) else ("recording", tuple(files.READERS))
    for file, image in zip(listed, images, strict=True):
        if not (image if any(images) else file.suffix in known):
            raise UsageError("D2E-BENCH-004", f"{file} is no {kind}",
                             hint=f"Keep {kind}s alone in the folder; they end in {', '.join(known)}.")
    return any(images)


def _of_classes(classes: Sequence[str]) -> str:
    """What tells a folder of classes from one that has an empty one besides, which numbers them otherwise."""
    return f":{hashlib.sha256('/'.join(classes).encode()).hexdigest()[:16]}" if classes else ""


def _of_files(paths: Sequence[Path], folder: Path) -> str:
    found = hashlib.sha256()
    for path in paths:
        found.update(f"{path.relative_to(folder).as_posix()} {sha256(path)}\n".encode())
    return found.hexdigest()


def _numbers(labels: Sequence[str | None], classes: Sequence[str]) -> Array | None:
    """Class indices by the sorted names, as numbers where all are."""
    if not classes:
        return None
    order = sorted(classes, key=lambda name: (int(name), name) if all(map(str.isdecimal, classes)) else (0, name))
    return np.asarray([order.index(str(label)) for label in labels], np.int64)


# --------------------------------------------------------------------------- images


def _images(path: Path, listed: Sequence[tuple[Path, str | None]], classes: Sequence[str], shape: Shape) -> Samples:
    try:
        from PIL import Image
    except ImportError:
        raise MissingError("D2E-BENCH-005", "images are read by Pillow, which is not installed",
                           hint="pip install pillow, or save the images as .npz.") from None
    colours = "RGB" if len(shape) == 3 and shape[0] == 3 else "L"

    def image(file: Path) -> Array:
        try:
            with Image.open(file) as opened:
                if opened.mode[0] in "IF":  # Pillow would cut its values off at 255
                    raise ValueError(f"its pixels are {'real numbers' if opened.mode[0] == 'F' else 'wider than 8 bits'}")
                pixels = np.asarray(opened.convert(colours), np.float32) / np.float32(255)
        except Exception as error:
            raise UsageError("D2E-BENCH-004", f"the image {file} cannot be read: {error}") from None
        pixels = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)
        if pixels.shape != shape and (len(shape) == 3 or pixels.size != math.prod(shape)):
            raise UsageError("D2E-BENCH-004", f"the image {file} has {list(pixels.shape)} values, the program takes "
                             f"{list(shape)}", hint="Resize the images as the model was trained.")
        return pixels.reshape(shape)

    def read(start: int, stop: int) -> Chunk:
        part = listed[start:stop]
        return Chunk(np.stack([image(file) for file, _ in part]), _numbers([label for _, label in part], classes))

    return Samples(path.name, len(listed), read, f"{_of_files([file for file, _ in listed], path)}{_of_classes(classes)}")


# --------------------------------------------------------------------------- recordings


@dataclass(frozen=True)
class _Recording:
    name: str
    label: int | str | None
    events: Callable[[], Any]


@dataclass(frozen=True)
class _DataSet:
    """Recordings as `d2e.compiler.events.recordings.load` takes them."""

    part: Sequence[_Recording]

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, i: int) -> tuple[Any, int | str | None]:
        return self.part[i].events(), self.part[i].label


def _recordings(
    path: Path, every: Sequence[_Recording], network: Network, timed: bool, step_us: int | None, classes: Sequence[str],
    fingerprint: str,
) -> Samples:
    outputs = math.prod(network.output.shape)

    def raw(start: int, stop: int) -> Chunk:
        part = every[start:stop]
        given = [each.label for each in part]
        if all(isinstance(label, int) for label in given):
            labels: Array | None = np.asarray(given, np.int64)
        else:
            labels = _numbers([None if label is None else str(label) for label in given], classes)
        if labels is not None and (labels.min() < 0 or labels.max() >= outputs):
            raise UsageError("D2E-DATA-003", f"the labels of {path} reach from {labels.min()} to {labels.max()}, the "
                             f"network has {outputs} outputs", hint="Labels are class indices from 0.")
        return Chunk([each.events() for each in part], labels)

    def framed(start: int, stop: int) -> Chunk:
        source, part = network.input, _DataSet(every[start:stop])
        if source.time_steps is None or len(source.shape) != 3:
            raise UsageError("D2E-BENCH-004", f"recordings become frames [polarities, height, width] of a stated number of "
                             f"steps, the program takes {list(source.shape)}", hint="Give frames as .npz.")
        found = recordings.load(part, shape=source.shape, time_steps=source.time_steps, step_us=step_us,
                                max_payload=source.max_payload, classes=classes or None)
        return Chunk(found.frames, found.labels)

    return Samples(path.name, len(every), raw if timed else framed, f"{fingerprint}:{step_us}", timed)


def _mapped(path: Path) -> Array | None:
    """A ``.npy`` file of frames, mapped; None where it is none, which whoever reads it says."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception:
        return None
    plain = isinstance(found, np.ndarray) and found.dtype.names is None and found.dtype.kind in "iubf" and found.ndim > 0
    return found if plain and len(found) else None


def _columns(path: Path) -> dict[str, Array] | None:
    """The columns of a file of events, by name; None where it holds none, as far as it can be read."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return None if loaded.dtype.names is None else {name: loaded[name] for name in loaded.dtype.names}
        with loaded:
            names = set(loaded.files)
            if names & {"t", "timestamp", "ts"} and "x" in names:
                return {name: loaded[name] for name in loaded.files}
            only: Array = loaded[loaded.files[0]] if len(names) == 1 else np.zeros(0)
            return None if only.dtype.names is None else {str(name): only[str(name)] for name in only.dtype.names}
    except Exception:  # whoever reads it says so
        return None


def _several(path: Path) -> list[_Recording]:
    columns = _columns(path)
    if columns is None:
        return [_Recording(str(path), None, lambda: files.read(path))]
    sample, given = columns.pop("sample", None), columns.pop("label", None)
    count = 1 if sample is None else _count(path, sample, [len(np.atleast_1d(column)) for column in columns.values()])
    labels = None if given is None else _labels(path, given, count)
    if sample is None:
        return [_Recording(str(path), None if labels is None else int(labels[0]), lambda: columns)]
    order = np.argsort(sample, kind="stable")
    bounds = np.searchsorted(sample[order], np.arange(count + 1))

    def events(i: int) -> Callable[[], Any]:
        return lambda: {name: column[order[bounds[i] : bounds[i + 1]]] for name, column in columns.items()}

    return [_Recording(f"{path} sample {i}", None if labels is None else int(labels[i]), events(i)) for i in range(count)]


def _count(path: Path, sample: Array, events: Sequence[int]) -> int:
    """How many recordings a file holds, by the number of that of each event."""
    if sample.dtype.kind not in "iu" or sample.ndim != 1 or {*events} != {len(sample)}:
        raise UsageError("D2E-BENCH-004", f"the column sample of {path} is {sample.dtype}{list(sample.shape)}, "
                         f"one integer for each of {max(events)} events is needed")
    last = int(sample.max(initial=0))
    if not len(sample) or sample.min() < 0 or last >= len(sample):
        raise UsageError("D2E-BENCH-004", f"the column sample of {path} reaches from {sample.min(initial=0)} to {last} over "
                         f"{len(sample)} events", hint="Number the recordings from 0.")
    return last + 1


def _labels(path: Path, labels: Array, count: int) -> Array:
    flat = labels.reshape(-1)
    if labels.dtype.kind not in "iu" or flat.shape != (count,):
        raise UsageError("D2E-DATA-003", f"the labels of {path} are {labels.dtype}{list(labels.shape)}, one integer for "
                         f"each of {count} recordings is needed", hint="Labels are class indices from 0.")
    return flat
