r"""Compile a trained network once, for a board that need not be here. Its host then needs the folder and d2e.

Usage::

    python compile_once.py model.pt --calibration calibration.npz --eval test.npz -o digits-speck
"""

from __future__ import annotations

import argparse
import sys

import d2e
from d2e.ir import D2EError


def main() -> None:
    """Compile, say what the program costs and loses, save it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a .pt, .pt2 or .nir file, or pkg.module:factory")
    parser.add_argument("--target", default="speck2f", help="d2e targets lists them; unless stated speck2f")
    parser.add_argument("--calibration", help="an .npz of frames x such as the chip will see")
    parser.add_argument("--eval", help="an .npz of frames x and labels y that were not trained on")
    parser.add_argument("--max-drop", type=float, default=1.0, help="most points of accuracy to lose; unless stated 1")
    parser.add_argument("-o", "--output", required=True, help="folder of the program")
    args = parser.parse_args()

    program = d2e.compile(
        args.model, args.target, calibration=args.calibration, eval=args.eval,
        max_drop=args.max_drop if args.eval else None,          # beyond it an error, and nothing is written
    )
    program.save(args.output)
    print(program.report.text(args.output), end="")


if __name__ == "__main__":
    try:
        main()
    except D2EError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
