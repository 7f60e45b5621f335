"""Writes the self-contained Lava package of a lowered network: ``network.py`` for people, weights, runner.

The package runs with numpy, scipy and lava-nc alone. Equal networks give equal bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from d2e.backends.loihi2.lava.blocks import Blocks
from d2e.backends.loihi2.lava.bounds import check_bounds
from d2e.backends.loihi2.lava.payloads import message_bits
from d2e.backends.loihi2.lava.schedule import Schedule, schedule
from d2e.backends.loihi2.lava.template import HEADER
from d2e.compiler.files import write_npz
from d2e.ir import encoding
from d2e.ir.network import Network
from d2e.ir.nodes import LI, Input

_SKELETON = (
    "run.py", "samples.py", "chip.py", "_shim.py", "processes/__init__.py", "processes/graded.py", "processes/recorder.py",
)


def emit(network: Network, folder: Path, *, time_steps: int) -> dict[str, object]:
    """Write the package of a lowered network into ``folder`` (made if it is not there).

    Args:
        network: stock Loihi LIF and graded populations, integer synapses between them.
        folder: receives network.py, weights.npz, run.py and what it imports.
        time_steps: steps of a sample; run.py takes any number.

    Returns:
        The schedule: ``latency_steps`` (depth of the readout), ``depth`` per population, ``lava_steps`` of a
        run, ``processes`` (count), ``relays`` (count), ``host_start`` (populations the host starts), ``graded``
        (populations that no chip runs without microcode), ``one_run`` (how samples share a run, or why they do not).

    Raises:
        UnsupportedError: D2E-TIME-001, D2E-LAVA-010 … -014 where Lava cannot hold the network exactly.
    """
    plan = schedule(network)
    blocks = Blocks(network, plan)
    body = blocks.build()
    check_bounds(network, plan, time_steps)
    extra = max(plan.depth[name] for name in network.populations)
    entry = network.input
    header = HEADER.format(
        time_steps=time_steps, input_shape=_ints(entry.shape),
        payloads=_ints((-entry.max_payload if entry.coding == "signed" else 0, entry.max_payload)),
        message_bits=message_bits(network.inputs[0], entry), encoder=_encoder(entry),
        output_shape=_ints(network.output.shape), extra=extra,
        lava_input=blocks.lava_shape(network.inputs[0]),
        populations="\n".join(_facts(network, plan, name, i) for i, name in enumerate(network.populations)),
        graded=tuple(blocks.graded), gap=blocks.windows.gap, lead=blocks.windows.lead, fresh=blocks.windows.fresh,
        host="".join(f"\n    {line}," for line in blocks.host_start.values()) + ("\n" if blocks.host_start else ""),
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "network.py").write_text(header + body, encoding="utf-8")
    write_npz(folder / "weights.npz", blocks.text.arrays)
    _copy_skeleton(folder)
    return {
        "latency_steps": plan.latency,
        "depth": {name: plan.depth[name] for name in network.populations},
        "lava_steps": time_steps + extra,
        "processes": blocks.text.processes,
        "relays": blocks.relays,
        "host_start": list(blocks.host_start),
        "graded": list(blocks.graded),
        "one_run": blocks.windows.fresh or f"{blocks.windows.gap} blank frames between samples",
    }


def _facts(network: Network, plan: Schedule, name: str, index: int) -> str:
    node = network.neuron(name)
    return (
        f"    {name!r}: {{'index': {index}, 'depth': {plan.depth[name]}, 'shape': {_ints(node.shape)}, "
        f"'readout': {plan.readouts.get(name, 0)}, "
        f"'silent': {isinstance(node, LI)}, 'slack': {plan.slack(name)}}},"
    )


def _ints(values: Iterable[int]) -> tuple[int, ...]:
    """Plain integers: numpy's write themselves differently from version to version."""
    return tuple(int(n) for n in values)


def _encoder(entry: Input) -> dict[str, object] | None:
    """The facts of the input's encoder, as Python writes them."""
    own = entry.encoder
    if own is None or own.scale is None:
        return None
    return {
        "kind": own.kind, "scale": own.scale.tolist(), "seed": own.seed, "latch": own.latch, "time_steps": entry.time_steps,
    }


def _copy_skeleton(folder: Path) -> None:
    skeleton = Path(__file__).resolve().parent / "skeleton"
    (folder / "processes").mkdir(exist_ok=True)
    for name in _SKELETON:
        shutil.copyfile(skeleton / name, folder / name)
    shutil.copyfile(encoding.__file__, folder / "encoder.py")
