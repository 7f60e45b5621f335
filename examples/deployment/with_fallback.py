r"""Run on the board where one answers, else in the simulator, and say which it was.

Usage::

    python with_fallback.py digits-speck test.npz
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

import d2e
from d2e.compiler import data
from d2e.compiler.measure import classify
from d2e.ir import D2EError, MissingError


def run(program: d2e.Program, frames: np.ndarray) -> d2e.Result:
    """The first of the target's engines that is there: for speck2f and loihi2 the chip itself, then its simulator.

    Only what is missing is replaced; a network that the chip refuses, or frames that do not fit, stay errors.
    """
    chip, simulator = program.target.engines[0], program.target.predictor
    try:
        return program.run(frames, engine=chip)
    except MissingError as error:
        print(f"{chip} does not answer: {error.message}", file=sys.stderr)
        print(f"running in {simulator}, which predicts it", file=sys.stderr)
        return program.run(frames, engine=simulator)


def main() -> None:
    """Print accuracy or classes, and the engine they are from."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", help="folder of a program")
    parser.add_argument("data", help="an .npz of frames x, and labels y where they are known")
    args = parser.parse_args()

    program = d2e.load(args.program)
    samples = data.fit(data.load(args.data), program.network)
    result = run(program, samples.frames)
    classes = classify(program.network, result.output)
    if samples.labels is None:
        print(f"{result.engine}: classes {' '.join(map(str, classes))}")
    else:
        print(f"{result.engine}: {(classes == samples.labels).sum()} of {len(samples)} right")


if __name__ == "__main__":
    try:
        main()
    except D2EError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
