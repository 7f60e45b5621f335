"""The private environment of lava-nc 0.10.0 and lava-dl 0.6.0 (netx): made, found and checked here; never imported by d2e.

Both are archived and their wheels ask for Python 3.10; with the shim of the emitted package they run on 3.10
to 3.12 with numpy < 2. Looked for in this order: ``D2E_LAVA_PYTHON`` (an interpreter), ``.lava`` in the
current folder or one above it, ``d2e/lava`` in the user's data folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from d2e.ir.errors import D2EError, InternalError, MissingError, UsageError
from d2e.ir.network import chain
from d2e.ir.nodes import CubaLIF, FixedPoint, Input, Linear, Output
from d2e.ir.reference import run as reference

LAVA = ("lava-nc==0.10.0", "lava-dl==0.6.0")
# What lava-nc 0.10.0 itself and lava-dl's netx ask for; installed apart, because the two wheels must ignore the Python
# version (and lava-dl's would bring torch, which netx does not need).
NEEDS = ("numpy<2", "scipy<2", "networkx<=2.8.7", "asteval<0.10", "scikit-learn<2", "h5py<4")
PYTHONS = ((3, 10), (3, 11), (3, 12))
MARKER = "d2e-lava.json"
_UNFINISHED = "d2e-lava.unfinished"
_HINT = "Run d2e lava install, or set D2E_LAVA_PYTHON to an interpreter that has lava-nc 0.10.0."

_VERSIONS = """
import importlib.metadata, json, platform
packages = ("lava-nc", "lava-dl", "numpy", "scipy", "networkx", "asteval", "scikit-learn", "h5py")
versions = {"python": platform.python_version()}
for name in packages:
    try:
        versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(versions))
"""


def user_folder() -> Path:
    """Where ``d2e lava install`` puts the environment unless told otherwise."""
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "d2e" / "lava"


def find() -> Path:
    """The interpreter that runs Lava.

    Raises:
        MissingError: D2E-LAVA-001 where there is none.
    """
    named = os.environ.get("D2E_LAVA_PYTHON")
    if named:
        python = Path(named).expanduser().absolute()
        if os.access(python, os.X_OK) and python.is_file():
            return python
        raise MissingError("D2E-LAVA-001", f"D2E_LAVA_PYTHON names {named}, which is no program", hint=_HINT)
    here = Path.cwd()
    for folder in (*(above / ".lava" for above in (here, *here.parents)), user_folder()):
        if (folder / MARKER).is_file():
            return interpreter(folder)
    raise MissingError("D2E-LAVA-001", "the Lava environment is not installed", hint=_HINT)


def interpreter(folder: Path) -> Path:
    """The Python of an environment folder (not resolved: the link is what makes it that environment's)."""
    return folder.absolute() / "bin" / "python"


def check(python: Path) -> dict[str, str]:
    """Versions of Python, lava-nc, lava-dl and what they need in an interpreter.

    Raises:
        MissingError: D2E-LAVA-001 where it does not start or has no lava-nc.
    """
    done = subprocess.run(
        [str(python), "-c", _VERSIONS], capture_output=True, text=True, env=clean_environment(), check=False
    )
    if done.returncode:
        raise MissingError("D2E-LAVA-001", f"{python} does not run: {_last_line(done.stderr)}", hint=_HINT)
    versions: dict[str, str] = json.loads(done.stdout)
    if "lava-nc" not in versions:
        raise MissingError("D2E-LAVA-001", f"{python} has no lava-nc", hint=_HINT)
    return versions


def clean_environment() -> Mapping[str, str]:
    """Our environment variables without those that would leak our packages into another interpreter."""
    dropped = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
    kept = {key: value for key, value in os.environ.items() if key not in dropped}
    # One process per Lava process: threads below them only fight. No bytecode beside the emitted files.
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def install(path: Path, python: str | None, report: Callable[[str], None]) -> Path:
    """Make the environment in ``path`` and try it; an environment counts only once its marker is written.

    Args:
        path: folder; made, made anew where an earlier attempt did not finish, or completed where it was made before
            lava-dl belonged to it.
        python: interpreter to build on (3.10 to 3.12); None: the running one.
        report: receives one line per step.

    Returns:
        The environment's interpreter.

    Raises:
        UsageError: D2E-LAVA-005 where ``path`` holds something else.
        MissingError: D2E-LAVA-002 where Python, pip or the self-test fails.
    """
    base = python or sys.executable
    if (path / MARKER).is_file():
        return _completed(path, report)
    version = _python_version(base)
    if version not in PYTHONS:
        raise MissingError(
            "D2E-LAVA-002", f"lava-nc runs on Python 3.10 to 3.12, {base} is {version[0]}.{version[1]}",
            hint="Name another with --python.",
        )
    _clear(path)
    report(f"creating {path} (Python {version[0]}.{version[1]})")
    path.mkdir(parents=True, exist_ok=True)
    (path / _UNFINISHED).touch()
    _step([base, "-m", "venv", str(path)], "venv")
    _packages(path, report)
    report("running a small network")
    versions = check(interpreter(path))
    try:
        self_test(interpreter(path))
    except (D2EError, InternalError) as error:
        raise MissingError("D2E-LAVA-002", f"Lava was installed but does not run: {error}") from error
    _mark(path, versions)
    (path / _UNFINISHED).unlink()
    report(f"installed: {_listed(versions)}")
    return interpreter(path)


def _completed(path: Path, report: Callable[[str], None]) -> Path:
    """An environment that is there, with what an older d2e did not install; its marker is written anew."""
    versions = check(interpreter(path))
    if {"lava-dl", "h5py"} <= versions.keys():
        report(f"{path} is there already: {_listed(versions)}")
    else:
        _packages(path, report)
        versions = check(interpreter(path))
        report(f"completed: {_listed(versions)}")
    _mark(path, versions)
    return interpreter(path)


def _packages(path: Path, report: Callable[[str], None]) -> None:
    pip = [str(interpreter(path)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    report(f"installing {', '.join(LAVA)}")
    _step([*pip, "--ignore-requires-python", "--no-deps", *LAVA], "pip")
    report(f"installing {', '.join(NEEDS)}")
    _step([*pip, *NEEDS], "pip")


def _mark(path: Path, versions: Mapping[str, str]) -> None:
    (path / MARKER).write_text(json.dumps(versions, indent=1) + "\n")


def self_test(python: Path) -> None:
    """Run a network of three neurons in Lava and compare it with the reference.

    Raises:
        InternalError: where Lava fails or computes something else.
    """
    from d2e.backends.loihi2.lava.emit import emit
    from d2e.backends.loihi2.lava.engine import run_lava

    zero = np.zeros((), np.int64)
    network = chain([
        ("input", Input(shape=(2,))),
        ("weights", Linear(weight=np.array([[40, 10], [0, 30], [-5, 64]]))),
        ("neurons", CubaLIF(
            shape=(3,), arithmetic=FixedPoint(), reset="zero", fire="gt", threshold=np.array(63),
            gain=np.array(1), bias=zero, v_init=zero, decay_syn=zero, decay_mem=np.array(3000),
        )),
        ("output", Output(shape=(3,))),
    ])
    frames = np.array([[[1, 0], [1, 1], [0, 1], [0, 0], [1, 1]]])
    with tempfile.TemporaryDirectory() as folder:
        emit(network, Path(folder), time_steps=5)
        result = run_lava(Path(folder), frames, record="state", time_out=120.0, python=python)
    expected = reference(network, frames, "state")
    if not np.array_equal(result.v["neurons"], expected.v["neurons"]):
        raise InternalError("Lava computes another membrane than the reference")


def _python_version(base: str) -> tuple[int, int]:
    try:
        done = subprocess.run(
            [base, "-c", "import sys; print(*sys.version_info[:2])"],
            capture_output=True, text=True, check=True, env=clean_environment(),
        )
        major, minor = done.stdout.split()
    except (OSError, subprocess.CalledProcessError, ValueError):
        message = f"{base} is no Python"
        raise MissingError("D2E-LAVA-002", message, hint="Name another with --python.") from None
    return int(major), int(minor)


def _clear(path: Path) -> None:
    """Remove what an unfinished attempt left; touch nothing else."""
    if (path / _UNFINISHED).is_file():
        shutil.rmtree(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(
            "D2E-LAVA-005", f"{path} is not empty and was not made by d2e", hint="Choose another --path."
        )


def _step(command: list[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env=clean_environment(), check=False)
    if done.returncode:
        raise MissingError(
            "D2E-LAVA-002", f"{what} failed: {_last_line(done.stderr or done.stdout)}",
            hint="Check the network and the package index, then run d2e lava install again.",
        )


def _last_line(text: str) -> str:
    errors = [line for line in text.splitlines() if line.startswith("ERROR")]
    lines = errors or [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no message"


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
