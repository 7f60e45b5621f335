r"""What a program did on some data: spikes and rates of every population, and where samples stopped early.

Usage::

    python read_counts.py digits-loihi test.npz
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

import d2e
from d2e.compiler import data
from d2e.ir import D2EError


def main() -> None:
    """Print a row per population, the busiest neuron, and the early exits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", help="folder of a program")
    parser.add_argument("data", help="an .npz of frames x")
    parser.add_argument("--engine", help="unless stated the simulator")
    args = parser.parse_args()

    program = d2e.load(args.program)
    frames = data.fit(data.load(args.data), program.network).frames
    result = program.run(frames, engine=args.engine)

    ran = result.steps.sum()                                    # steps of all samples together
    print(f"{result.engine}: {len(frames)} samples, {ran / len(frames):.2f} of {frames.shape[1]} steps in the mean")
    print(f"{'population':<12}{'neurons':>9}{'spikes/sample':>15}{'rate/step':>11}{'silent':>8}  busiest")
    for name, counts in result.counts.items():                  # [samples, *shape], a burst of n counted n times
        neurons, total = counts[0].size, counts.sum(axis=0)
        busiest = ",".join(str(int(i)) for i in np.unravel_index(total.argmax(), total.shape))
        print(f"{name:<12}{neurons:>9}{counts.sum() / len(frames):>15.1f}{counts.sum() / neurons / ran:>11.4f}"
              f"{(total == 0).sum():>8}  {busiest}: {total.max()}")
    if program.network.output.exit is None:
        print("no early exit: every sample runs all steps")
        return
    for steps, samples in enumerate(np.bincount(result.steps)):
        if samples:
            print(f"{samples} samples stopped after {steps} steps")


if __name__ == "__main__":
    try:
        main()
    except D2EError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
