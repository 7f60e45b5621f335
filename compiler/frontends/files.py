"""`load_model`: whatever the user names as a model becomes a network."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from d2e.compiler.encoders import checked_range, coding_of, parse, with_encoder
from d2e.compiler.frontends import pt2_archive, safe
from d2e.compiler.frontends.builder import checked_input, checked_output
from d2e.compiler.frontends.torch_export import from_exported
from d2e.compiler.frontends.torch_fx import from_torch
from d2e.compiler.nn.checkpoint import FACTS, SCHEMA
from d2e.ir.errors import D2EError, UsageError
from d2e.ir.network import Network

Source = str | os.PathLike[str] | nn.Module | torch.export.ExportedProgram | Network
_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_SUFFIXES = ".pt, .pth, .pt2, .nir, .net or pkg.module:factory"


def load_model(
    source: Source, *, input_shape: Sequence[int] | None = None, time_steps: int | None = None,
    allow_pickle: bool = False, coding: str | None = None, max_payload: int | None = None,
    readout: str | None = None, dt: float | None = None, name: str | None = None, profile: str | None = None,
    reset: str | None = None, fire: str | None = None, max_spikes: int | None = None,
) -> Network:
    """The network of a model; see `load`."""
    return load(
        source, input_shape=input_shape, time_steps=time_steps, allow_pickle=allow_pickle, coding=coding,
        max_payload=max_payload, readout=readout, dt=dt, name=name, profile=profile, reset=reset, fire=fire,
        max_spikes=max_spikes,
    )[0]


def load(
    source: Source, *, input_shape: Sequence[int] | None = None, time_steps: int | None = None,
    allow_pickle: bool = False, coding: str | None = None, max_payload: int | None = None,
    readout: str | None = None, dt: float | None = None, name: str | None = None, profile: str | None = None,
    reset: str | None = None, fire: str | None = None, max_spikes: int | None = None,
) -> tuple[Network, nn.Module | None]:
    """The network of a model, and the torch module it was read from, if it was one.

    Args:
        source: a ``.pt``/``.pth`` file (checkpoint of ``d2e.nn.save``, whole module), a ``.pt2`` file, a
            ``.nir`` file, a ``.net`` file of lava-dl, ``pkg.module:factory``, or a live module, exported program or network.
        input_shape: of one frame, without batch and time; needed where the model does not say it.
        time_steps: steps per sample; overrides what the model says, as the next ones do.
        allow_pickle: load a ``.pt`` that holds more than layers, and with it any code it runs.
        coding: of the input: "spikes", "signed" or "direct".
        max_payload: largest absolute payload of the input.
        readout: of `d2e.ir.nodes.Output`.
        dt: length of a step in seconds.
        name: kept in the metadata.
        profile: ``.nir`` only: the framework that wrote the file.
        reset: ``.nir`` only, as the next two: what the file leaves open.
        fire: see ``d2e.ir.nodes``.
        max_spikes: see ``d2e.ir.nodes``.

    Raises:
        UsageError: D2E-LOAD-001..017, one sentence each (docs/errors.md).
        UnsupportedError: the model holds what does not compile.
    """
    facts = {
        "input_shape": input_shape, "time_steps": time_steps, "coding": coding, "max_payload": max_payload,
        "readout": readout, "dt": dt, "name": name,
    }
    stated = {key: value for key, value in facts.items() if value is not None}
    _only_for_nir(source, {"profile": profile, "reset": reset, "fire": fire, "max_spikes": max_spikes})
    text, path = _named(source)
    if path is not None and path.suffix == ".nir":
        from d2e.ir import nirfile

        network = nirfile.read(
            safe.checked_path(path), profile=profile, dt=dt, reset=reset, fire=fire,
            max_spikes=max_spikes, time_steps=time_steps,
        )
        return _network(network, stated, text), None
    if path is not None and path.suffix == ".net":
        from d2e.compiler.frontends import netx

        return _network(netx.read(path, input_shape=input_shape), stated, text), None
    return _read(opened(source, allow_pickle), stated, text)


def opened(source: Source, allow_pickle: bool) -> Any:
    """What a source names: a ``.pt`` or ``.pt2`` file's content, what a factory makes, or the live thing itself."""
    text, path = _named(source)
    if path is not None:
        return _from_file(path, allow_pickle)
    return _from_factory(text) if isinstance(source, (str, os.PathLike)) else source


def _named(source: Source) -> tuple[str, Path | None]:
    """(what to call a source, the file it names)."""
    if not isinstance(source, (str, os.PathLike)):
        return type(source).__name__, None
    text = os.fspath(source)
    path = Path(text)
    return text, None if _FACTORY.fullmatch(text) and not path.exists() else path


def _read(model: Any, stated: dict[str, Any], what: str) -> tuple[Network, nn.Module | None]:
    held = model["model"] if isinstance(model, dict) and "d2e" in model and "model" in model else model
    module = held[0] if isinstance(held, tuple) and held else held
    return _network(model, stated, what), module if isinstance(module, nn.Module) else None


def _only_for_nir(source: Source, options: Mapping[str, Any]) -> None:
    """Refuse what settles a ``.nir`` file where the model says it itself."""
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if given and not str(source).endswith(".nir"):
        raise UsageError(
            "D2E-LOAD-017", f"{', '.join(given)} settles what a .nir file leaves open; this model states it itself",
            hint="Leave it out, or change the model.",
        )


def _from_file(path: Path, allow_pickle: bool) -> Any:
    if path.suffix not in (".pt", ".pth", ".pt2"):
        safe.checked_path(path)
        raise UsageError("D2E-LOAD-014", f"{path} has no ending d2e knows", hint=f"It reads {_SUFFIXES}.")
    with safe.checked_path(path).open("rb") as file:
        if path.suffix == ".pt2" or _is_program(file):
            return pt2_archive.read_archive(file, str(path))
    return safe.load_pickle(path, allow_pickle)


def _is_program(file: Any) -> bool:
    try:
        return pt2_archive.is_archive(file)
    except pt2_archive.FAULTS:
        return False


def _from_factory(text: str) -> Any:
    """What ``pkg.module:factory`` returns, called without arguments."""
    module_name, _, attribute = text.partition(":")
    with safe.importable_folder():
        try:
            found: Any = importlib.import_module(module_name)
            for part in attribute.split("."):
                found = getattr(found, part)
        except Exception as error:
            raise UsageError(
                "D2E-LOAD-012", f"{text} cannot be imported ({_reason(error)})",
                hint="Name an importable module and a function in it; the current folder is searched first.",
            ) from None
        if isinstance(found, (nn.Module, Network)):
            return found
        try:
            return found()
        except D2EError:
            raise
        except Exception as error:
            raise UsageError(
                "D2E-LOAD-013", f"{text} failed when called without arguments ({_reason(error)})",
                hint="It must return a module, (module, facts) or a network.",
            ) from None


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def _network(model: Any, stated: dict[str, Any], what: str) -> Network:
    """A network of whatever was loaded, with the facts the user stated over those the model states."""
    coding = stated.get("coding")
    model, stated = unwrapped(model, stated, what)
    entry = {key: stated.pop(key, None) for key in ("encoder", "input_range")}
    return _entered(_plain(model, stated, what), coding=coding, **entry)


def _entered(network: Network, encoder: str | None, input_range: Sequence[float] | None, coding: str | None) -> Network:
    """The network with the encoder that its checkpoint states, unless the user states another coding."""
    if encoder is None:
        return network
    span = checked_range(input_range)
    if coding not in (None, coding_of(parse(encoder, span), span, coding)):
        return network
    return with_encoder(network, encoder, span, coding)


def _plain(model: Any, stated: dict[str, Any], what: str) -> Network:
    """A network of whatever was loaded, its input as it is."""
    if isinstance(model, nn.Module):
        check_shape_known(stated, what)
        return from_torch(model, **stated)
    if isinstance(model, (torch.export.ExportedProgram, pt2_archive.Archive)):
        options = {key: value for key, value in stated.items() if key != "input_shape"}
        return restated(from_exported(model, **options), stated, what)
    if isinstance(model, Network):
        return restated(model, stated, what)
    raise not_a_model(model, what)


def unwrapped(model: Any, stated: dict[str, Any], what: str) -> tuple[Any, dict[str, Any]]:
    """A model without the facts that came with it, and those under the facts the user stated."""
    if isinstance(model, dict) and "d2e" in model and "model" in model:
        model = (model["model"], _checkpoint_facts(model["d2e"], what))
    if isinstance(model, tuple) and len(model) == 2 and isinstance(model[1], Mapping):
        own = {key: value for key, value in model[1].items() if key in FACTS and value is not None}
        return model[0], {**own, **stated}
    return model, stated


def check_shape_known(stated: Mapping[str, Any], what: str) -> None:
    """Refuse a module of unknown input.

    Raises:
        UsageError: D2E-LOAD-011.
    """
    if "input_shape" not in stated:
        raise UsageError(
            "D2E-LOAD-011", f"{what} does not say the shape of its input",
            hint="Give that of one frame, without batch and time: --input-shape 1,28,28.",
        )


def _checkpoint_facts(facts: Any, what: str) -> dict[str, Any]:
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
        schema = facts.get("schema") if isinstance(facts, dict) else None
        raise UsageError(
            "D2E-LOAD-016", f"{what} is a d2e checkpoint of schema {schema}; this d2e reads {SCHEMA}",
            hint="Save it again with this d2e, or update d2e.",
        )
    return facts


def restated(network: Network, stated: Mapping[str, Any], what: str) -> Network:
    """A network whose input (and readout) carry what the user stated."""
    source = network.input
    shape = tuple(stated.get("input_shape", source.shape))
    if shape != source.shape:
        raise UsageError("D2E-LOAD-010", f"{what} takes frames of shape {source.shape}, not {shape}")
    changes = {key: stated[key] for key in ("time_steps", "coding", "max_payload", "dt") if key in stated}
    nodes: dict[str, Any] = {network.inputs[0]: checked_input(replace(source, **changes))}
    if "readout" in stated:
        nodes[network.outputs[0]] = checked_output(replace(network.output, readout=stated["readout"]))
    return network.with_nodes(nodes)


def not_a_model(model: Any, what: str) -> UsageError:
    """The error for something that holds no layers."""
    inner = model.get("state_dict", model) if isinstance(model, Mapping) else None
    if isinstance(inner, Mapping) and any(isinstance(value, torch.Tensor) for value in inner.values()):
        return UsageError(
            "D2E-LOAD-007", f"{what} holds weights without the layers they belong to (a state_dict)",
            hint="Write a function that builds the model and loads them, and name it: pkg.module:factory.",
        )
    return UsageError(
        "D2E-LOAD-008", f"{what} holds a {type(model).__name__}, not a model",
        hint="It must hold a torch module; d2e.nn.save writes one with its input shape.",
    )
