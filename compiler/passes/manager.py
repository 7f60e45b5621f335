"""The pass manager: runs a pipeline, verifies between passes, times and measures them, fails with the history."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from d2e.compiler.passes.base import Pass, Property
from d2e.ir import D2EError, InternalError, Network, UsageError, raise_findings, verify

if TYPE_CHECKING:
    from d2e.compiler.target import Target


@dataclass
class Step:
    """What one pass did."""

    name: str
    network: Network
    seconds: float
    changed: int
    measured: dict[str, float] = field(default_factory=dict)


Listener = Callable[[int, int, Step], None]
Measure = Callable[[Network], dict[str, float]]


def run_passes(
    passes: Sequence[Pass], network: Network, target: Target, *,
    listen: Listener | None = None, measure: Measure | None = None, stop_after: str | None = None,
) -> list[Step]:
    """Run the passes in order.

    Args:
        passes: the pipeline.
        network: verified before the first pass and after every pass.
        target: handed to every pass.
        listen: called with (number, total, step) after every pass.
        measure: what to measure on the network after every pass.
        stop_after: name of the last pass to run.

    Returns:
        One `Step` per pass.

    Raises:
        D2EError: the user's fault, with the pass and the passes before it in the message.
        InternalError: a pass broke its promise.
    """
    names = [p.name for p in passes]
    if stop_after is not None and stop_after not in names:
        raise UsageError("D2E-USE-005", f"there is no pass {stop_after!r}", hint=f"Passes: {', '.join(names)}.")
    steps: list[Step] = []
    for number, each in enumerate(passes, 1):
        began = time.perf_counter()
        result = _run(each, network, target, [s.name for s in steps])
        step = Step(each.name, result, time.perf_counter() - began, _changed(network, result))
        if measure is not None:
            step.measured = measure(result)
        steps.append(step)
        network = result
        if listen is not None:
            listen(number, len(passes), step)
        if each.name == stop_after:
            break
    return steps


def _run(each: Pass, network: Network, target: Target, before: list[str]) -> Network:
    after = f"after {', '.join(before)}" if before else "first"
    missing = _broken(each.requires, network)
    if missing:
        raise UsageError(
            "D2E-USE-006", f"pass {each.name!r} (running {after}) needs a network that is {missing[0]}", node=missing[1],
            hint="Put the pass that ensures it before.",
        )
    try:
        result = each.run(network, target)
        raise_findings(verify(result))
    except D2EError as error:
        error.add_note(f"in pass {each.name!r}, running {after}")
        raise
    except Exception as error:
        raise InternalError(f"pass {each.name!r}, running {after}, failed: {error}") from error
    broken = _broken(each.ensures, result)
    if broken:
        raise InternalError(f"pass {each.name!r} left a network that is not {broken[0]} at node {broken[1]!r}")
    return result


def _broken(properties: tuple[Property, ...], network: Network) -> tuple[str, str] | None:
    for prop in properties:
        node = prop(network)
        if node is not None:
            return prop.__name__, node
    return None


def _changed(before: Network, after: Network) -> int:
    """How many nodes were added, removed or altered."""
    shared = before.nodes.keys() & after.nodes.keys()
    altered = sum(1 for n in shared if before.nodes[n] is not after.nodes[n] and not before.nodes[n].same(after.nodes[n]))
    return altered + len(before.nodes.keys() ^ after.nodes.keys())
