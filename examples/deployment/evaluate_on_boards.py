r"""Evaluate a program on every board that answers, or on simulated ones; what is done stays done.

Usage::

    python evaluate_on_boards.py digits-speck test.npz -o figures                        # all boards; needs hardware
    python evaluate_on_boards.py digits-speck test.npz -o figures --devices sim:0,sim:1  # the same calls without any
"""

from __future__ import annotations

import argparse
import sys

import d2e
from d2e.compiler.bench.devices import there
from d2e.compiler.device import SIMULATED
from d2e.ir import D2EError


def boards(program: d2e.Program) -> list[str]:
    """The boards that the program's target sees here; where there are none two simulated ones, and stderr says so."""
    found = [device for device in there(program.target) if not device.name.startswith(SIMULATED)]
    ready = [device.name for device in found if device.ready]
    for device in found:
        if not device.ready:
            print(f"{device.name}: {device.what}", file=sys.stderr)
    if not ready:
        print("no board answers: two simulated ones do", file=sys.stderr)
    return ready or ["sim:0", "sim:1"]


def main() -> None:
    """Hand batches to whichever board is free, print the figures, keep the rows of all samples."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", help="folder that compile_once.py wrote")
    parser.add_argument("data", help="an .npz of frames x, and labels y where they are known")
    parser.add_argument("--devices", help="as d2e bench --device list names them; unless stated all that answer")
    parser.add_argument("--batch", type=int, default=64, help="samples handed to a board at once; unless stated 64")
    parser.add_argument("-o", "--output", required=True, help="folder of the figures; OUTPUT.jsonl keeps finished batches")
    args = parser.parse_args()

    program = d2e.load(args.program)
    found = d2e.bench(
        program, args.data, devices=args.devices or boards(program), batch=args.batch, output=args.output,
        resume=f"{args.output}.jsonl",                          # called again after an interruption it goes on
        tell=lambda what: print(what, file=sys.stderr),         # a board that goes away, comes back, is dropped
    )
    for device in found["devices"]:
        print(f"{device['name']}: {device['samples']} samples in {device['batches']} batches")
    right = f"{100 * found['accuracy']:.2f} % right, " if "accuracy" in found.data else ""
    print(f"{right}{found['samples']} rows in {args.output}/samples.csv")


if __name__ == "__main__":
    try:
        main()
    except D2EError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
