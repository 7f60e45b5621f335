"""Create one private environment per framework: python benchmarks/frameworks/install.py [NAME ...].

Each <name>.txt beside this file holds the complete pins of the environment .bench/<name>; they are installed
without dependency resolution, because an unpinned torch or torchvision drags in gigabytes of CUDA. An
environment whose pins have not changed is left alone. Pip's own settings apply: where the package index has
only CUDA builds of torch, set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / ".bench"
NAMES = sorted(pins.stem for pins in HERE.glob("*.txt"))


def installed(name: str, folder: Path = FOLDER) -> bool:
    """Whether the environment exists and was made from the present pins."""
    stamp = folder / name / "pins.txt"
    return stamp.is_file() and stamp.read_text() == (HERE / f"{name}.txt").read_text()


def install(name: str, folder: Path = FOLDER) -> bool:
    """Create the environment unless it is there with the present pins; returns whether anything was done.

    Raises:
        FileExistsError: something that is not an environment lies at that place.
        subprocess.CalledProcessError: pip failed; its output was shown, and the next call starts afresh.
    """
    if installed(name, folder):
        return False
    pins = HERE / f"{name}.txt"
    if (folder / name).exists() and not (folder / name / "pyvenv.cfg").is_file():
        raise FileExistsError(f"{folder / name} is not a virtual environment; choose another --folder")
    venv.create(folder / name, clear=True, with_pip=True)
    pip = [str(folder / name / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--no-deps", "-r", str(pins)], check=True)
    shutil.copyfile(pins, folder / name / "pins.txt")
    return True


def main() -> int:
    """Install what was asked for and say what happened."""
    parser = argparse.ArgumentParser(description="Create one environment per framework.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(NAMES)}")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    args = parser.parse_args()
    unknown = sorted(set(args.names) - set(NAMES))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; choose from {', '.join(NAMES)}")
    for name in args.names or NAMES:
        try:
            done = install(name, args.folder)
        except subprocess.CalledProcessError as error:
            print(f"{name}: pip ended with {error.returncode}", file=sys.stderr)
            return 1
        except OSError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        print(f"{name}: {'installed' if done else 'up to date'} in {args.folder / name}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
