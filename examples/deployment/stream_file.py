r"""On the host of the board: load a program and send it the samples of a file, one after another.

Usage::

    python stream_file.py digits-speck test.npz --engine speck2f          # the board; needs hardware
    python stream_file.py digits-speck test.npz --engine simulated-board  # the same calls without one
"""

from __future__ import annotations

import argparse
import sys

import d2e
from d2e.compiler import data
from d2e.compiler.measure import classify
from d2e.ir import D2EError


def main() -> None:
    """Print the class of every sample as it comes, and how many were right."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", help="folder that compile_once.py wrote")
    parser.add_argument("data", help="an .npz of frames x, and labels y where they are known")
    parser.add_argument("--engine", help="speck2f, loihi2, simulated-board …; unless stated the simulator")
    parser.add_argument("--samples", type=int, help="at most so many")
    args = parser.parse_args()

    program = d2e.load(args.program)
    samples = data.fit(data.load(args.data), program.network).head(args.samples)
    right = 0
    for i in range(len(samples)):
        result = program.run(samples.frames[i : i + 1], engine=args.engine)     # from rest; [1, time, *shape]
        found = int(classify(program.network, result.output)[0])
        spikes = sum(int(counts.sum()) for counts in result.counts.values())
        truth = ""
        if samples.labels is not None:
            right += found == samples.labels[i]
            truth = f", labelled {samples.labels[i]}"
        print(f"sample {i}: class {found}{truth}, {spikes} spikes", flush=True)
    if samples.labels is not None:
        print(f"{right} of {len(samples)} right")


if __name__ == "__main__":
    try:
        main()
    except D2EError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
