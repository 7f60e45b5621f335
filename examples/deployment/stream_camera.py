r"""Events of a camera through a program until Ctrl-C; the counts of every window are kept.

Usage::

    python stream_camera.py shapes-speck --output counts.npz                          # a simulated camera
    python stream_camera.py shapes-speck --output counts.npz --source my_camera:windows
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import d2e
from d2e.compiler.events import Camera
from d2e.compiler.files import check_file
from d2e.compiler.measure import classify
from d2e.ir import D2EError


def simulated(shape: tuple[int, ...], steps: int, most: int) -> Iterator[np.ndarray]:
    """Windows of events [steps, 2, height, width] of a camera that moves over discs of random size and place."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: shape[1], : shape[2]]
    while True:
        middle, radius = rng.uniform(0.3, 0.7, 2) * shape[1:], rng.uniform(0.15, 0.3) * min(shape[1:])
        image = np.where(np.hypot(y - middle[0], x - middle[1]) < radius, 0.9, 0.1)
        yield Camera(limit=most).record(image[None], steps)[0]


def windows(source: str | None, program: d2e.Program) -> Iterator[np.ndarray]:
    """Windows of events from ``pkg.module:function`` of yours, or simulated."""
    sees, make = program.network.input, simulated
    if source is not None:
        module, _, function = source.partition(":")
        sys.path.insert(0, "")                                  # the current folder first
        try:
            make = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError) as error:
            print(f"--source {source} cannot be imported: {error}", file=sys.stderr)
            sys.exit(2)
    return make(sees.shape, sees.time_steps or 16, sees.max_payload)


def main() -> None:
    """Print the class of every window; on Ctrl-C, or after --windows, end well; write the counts then and on a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", help="folder of a program that reads events [2, height, width]")
    parser.add_argument("--source", help="pkg.module:function(shape, steps, most) that yields windows; else simulated")
    parser.add_argument("--engine", help="speck2f, simulated-board …; unless stated the simulator")
    parser.add_argument("--windows", type=int, help="end after so many")
    parser.add_argument("--output", required=True, help=".npz for classes and counts/NAME of every window")
    args = parser.parse_args()

    program = d2e.load(args.program)
    check_file(Path(args.output), ".npz")                       # before hours of windows
    classes, counts = [], {name: [] for name in program.populations}
    try:
        for number, window in enumerate(windows(args.source, program)):
            if number == args.windows:
                break
            result = program.run(window[None], engine=args.engine)
            for name, own in result.counts.items():
                counts[name].append(own[0])
            classes.append(int(classify(program.network, result.output)[0]))      # last: what is counted is whole
            print(f"window {number}: {int(window.sum())} events, class {classes[-1]}", flush=True)
    except KeyboardInterrupt:
        print("stopped")
    finally:                                                    # also where the camera or the board goes away
        whole = {f"counts/{name}": np.array(own[: len(classes)]) for name, own in counts.items() if own}
        np.savez(args.output, classes=classes, **whole)
        print(f"counts of {len(classes)} windows in {args.output}")


if __name__ == "__main__":
    try:
        main()
    except D2EError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
