"""Exported programs as data: a ``.pt2`` archive is read as JSON and raw numbers, so that nothing in it runs.

``torch.export.load`` unpickles sample inputs and constants and evaluates symbolic expressions; this reader
needs none of them. Layout: torch/export/pt2_archive and torch/_export/serde/schema.py (schema 8).
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from typing import IO, Any

import torch

from d2e.ir.errors import UsageError
from d2e.ir.nodes import Array

_MAJOR = 8
_PROGRAMS = ("models/model.json", "serialized_exported_program.json")
_DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16,
    7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}
FAULTS = (zipfile.BadZipFile, KeyError, ValueError, TypeError, IndexError, RuntimeError, OSError)


@dataclass(frozen=True)
class Archive:
    """What the compiler needs of an exported program.

    Attributes:
        graph: the JSON of its graph.
        arrays: graph input name -> parameter, buffer or constant, in float32 where it is, else in float64.
        inputs: names of the user's inputs.
    """

    graph: dict[str, Any]
    arrays: dict[str, Array]
    inputs: tuple[str, ...]

    def sizes(self, tensor: str) -> tuple[int, ...]:
        """Shape of a tensor of the graph; a dynamic size has the value of the example."""
        return tuple(_size(size) for size in self.graph["tensor_values"][tensor]["sizes"])


def _size(size: dict[str, Any]) -> int:
    if "as_int" in size:
        return int(size["as_int"])
    return int(size["as_expr"]["hint"]["as_int"])


def is_archive(file: IO[bytes]) -> bool:
    """Whether an open zip file is an exported program."""
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith(_PROGRAMS) for name in archive.namelist())


def read_program(program: torch.export.ExportedProgram) -> Archive:
    """The data of a live exported program."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    return read_archive(buffer, "the exported program")


def read_archive(file: IO[bytes], what: str) -> Archive:
    """The data of a ``.pt2`` file.

    Raises:
        UsageError: D2E-LOAD-005 where it is damaged, -006 where parts of it are pickled, -016 where d2e does
            not know its format.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return _read(archive, what)
    except FAULTS as error:
        raise UsageError(
            "D2E-LOAD-005", f"{what} is damaged or not a whole .pt2 file ({type(error).__name__})",
            hint="Save it again with torch.export.save.",
        ) from None


def _read(archive: zipfile.ZipFile, what: str) -> Archive:
    names = [name for name in archive.namelist() if name.endswith(_PROGRAMS)]
    program: dict[str, Any] = json.loads(archive.read(names[0]))
    if not names[0].endswith(_PROGRAMS[0]) or program["schema_version"]["major"] != _MAJOR:
        raise UsageError(
            "D2E-LOAD-016", f"{what} was exported in a format d2e does not read",
            hint=f"Export it again with torch {torch.__version__.partition('+')[0]}.",
        )
    root = names[0].removesuffix("models/model.json")
    module = program["graph_module"]
    stored = {
        **_tensors(archive, f"{root}data/weights/", "model_weights_config.json", what),
        **_tensors(archive, f"{root}data/constants/", "model_constants_config.json", what),
    }
    arrays: dict[str, Array] = {}
    inputs: list[str] = []
    for spec in module["signature"]["input_specs"]:
        (kind, content), = spec.items()
        if kind == "user_input":
            inputs.append(content["arg"]["as_tensor"]["name"])
        elif (key := content.get(f"{kind}_name")) in stored:
            arrays[content["arg"]["name"]] = stored[key]
    return Archive(module["graph"], arrays, tuple(inputs))


def _tensors(archive: zipfile.ZipFile, folder: str, config: str, what: str) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for name, payload in json.loads(archive.read(folder + config))["config"].items():
        if payload["use_pickle"]:
            raise UsageError(
                "D2E-LOAD-006", f"{what} holds {name!r} as a pickle, which could run code",
                hint="Export a model of plain tensors, or name its Python source (pkg.module:factory).",
            )
        meta = payload["tensor_meta"]
        if meta["dtype"] not in _DTYPES:
            continue
        raw = bytearray(archive.read(folder + payload["path_name"]))
        flat = torch.frombuffer(raw, dtype=_DTYPES[meta["dtype"]]) if raw else torch.empty(0)
        sizes, strides = ([_size(n) for n in meta[key]] for key in ("sizes", "strides"))
        tensor = torch.as_strided(flat, sizes, strides, _size(meta["storage_offset"]))
        found[name] = (tensor if tensor.dtype == torch.float32 else tensor.to(torch.float64)).numpy()
    return found
