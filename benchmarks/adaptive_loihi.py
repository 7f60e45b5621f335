"""ResNet-20 on CIFAR-10 from the ANN to Loihi 2: converted at 4 steps, compiled for loihi2-sim, and run through Lava.

    python benchmarks/adaptive_loihi.py --data DIR [--images 1000] [--lava 1]

For the data see resnet20.py; Lava needs `make lava`. The accuracy of every stage on the first test images, cores and synops
are those of the report; the spikes of the first ``--lava`` images are compared one by one.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import resnet20

import d2e

STEPS, FITTED, HELD_OUT, SCALED = 4, 512, 2000, 128
RESULT = Path(__file__).parent / "results" / "adaptive_loihi.txt"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--lava", type=int, default=1)
    given = parser.parse_args()
    data = resnet20.folder(given.data)
    calibration = resnet20.images(data, "train_10k", FITTED + HELD_OUT)[0]
    x, y = resnet20.images(data, "test", given.images)
    network = d2e.convert(resnet20.trained(data), calibration=calibration, calibration_samples=FITTED,
                          input_shape=(3, 32, 32), time_steps=STEPS, eval=(x, y))
    begun = time.perf_counter()
    program = d2e.compile(network, "loihi2-sim", calibration=calibration, calibration_samples=SCALED, eval=(x, y))
    lines = [f"ResNet-20 on CIFAR-10, T {STEPS}, phi 4. python benchmarks/adaptive_loihi.py --data DIR",
             program.report.text(), f"compiled and measured in {time.perf_counter() - begun:.0f} s"]
    print("\n".join(lines), flush=True)
    if given.lava:
        lines.append(compared(program, x[: given.lava]))
        print(lines[-1])
    RESULT.write_text("\n".join(lines) + "\n")


def compared(program: d2e.Program, images: np.ndarray) -> str:
    """Simulator and Lava on some images, every spike."""
    begun = time.perf_counter()
    lava = program.run(images, engine="loihi2-lava", record="spikes")
    seconds = time.perf_counter() - begun
    ours = program.run(images, record="spikes")
    pairs = [(ours.output, lava.output), *((ours.spikes[name], n) for name, n in lava.spikes.items())]
    wrong = sum(int((one != other).sum()) for one, other in pairs)
    spikes = sum(int(np.abs(n).sum()) for n in lava.spikes.values())
    return (f"lava-nc 0.10.0 on {len(images)} images: {wrong} differences in {len(lava.spikes)} populations and the output, "
            f"{spikes:,} spikes; {seconds:.0f} s")


if __name__ == "__main__":
    main()
