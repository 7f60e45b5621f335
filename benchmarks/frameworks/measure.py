"""Time every installed framework: python benchmarks/frameworks/measure.py networks.npz.

`measure` runs run_<framework>.py in an environment of install.py and yields what it prints; `best` keeps each
framework's fastest variant and batch size.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / ".bench"
NAMES = sorted(pins.stem for pins in HERE.glob("*.txt"))
Case = dict[str, Any]


def available(folder: Path = FOLDER) -> list[str]:
    """The environments that install.py has made."""
    return [name for name in NAMES if (folder / name / "pins.txt").is_file()]


def measure(file: Path, name: str, folder: Path = FOLDER, options: Sequence[str] = ()) -> Iterator[Case]:
    """Run one framework's script and yield its results as they come.

    Args:
        file: npz file of benchmarks/networks.py.
        name: environment; ``<framework>`` or ``<framework>-<anything>``.
        folder: where the environments are.
        options: of run_<framework>.py: ``--networks``, ``--batches``, ``--threads``, ``--compile``.

    Raises:
        RuntimeError: the script failed; the message has its last lines.
    """
    script = HERE / f"run_{name.split('-')[0]}.py"
    command = [str(folder / name / "bin" / "python"), str(script), str(file), *options]
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                yield json.loads(line)
        if process.returncode:
            errors.seek(0)
            tail = "".join(errors.readlines()[-5:])
            raise RuntimeError(f"{script.name} ended with {process.returncode}:\n{tail}")


def best(cases: Iterable[Case]) -> list[Case]:
    """The fastest case of each network, framework and version, of those that ran the network as given."""
    fastest: dict[tuple[str, str, str], Case] = {}
    for case in sorted(cases, key=lambda case: (case["network"], case["ms_per_sample"])):
        if case["agrees"] != "no":
            fastest.setdefault((case["network"], case["framework"], case["version"]), case)
    return list(fastest.values())


def main() -> int:
    """Print a line per case, then the best of each framework."""
    parser = argparse.ArgumentParser(description="Time every installed framework.")
    parser.add_argument("file", type=Path, help="npz file of benchmarks/networks.py")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    args, options = parser.parse_known_args()
    names = available(args.folder)
    if not names:
        print("no framework is installed: run benchmarks/frameworks/install.py", file=sys.stderr)
        return 1
    cases = []
    for name in names:
        for case in measure(args.file, name, args.folder, options):
            cases.append(case)
            print(row(case), flush=True)
    print("best of each:", *map(row, best(cases)), sep="\n")
    return 0


def row(case: Case) -> str:
    """A case as a line of text."""
    label = f"{case['framework']} {case['version']}, {case['variant']}"
    time = f"batch {case['batch']:2} {case['ms_per_sample']:8.3f} ms/sample"
    return f"{case['network']} {label:55} {time}  agrees: {case['agrees']} {case['spikes_total']}"


if __name__ == "__main__":
    raise SystemExit(main())
