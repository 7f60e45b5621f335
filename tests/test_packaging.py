"""The wheel holds every module and every file the modules read: a checkout without symlinks builds an empty one."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("ir", "compiler", "backends")
DATA = {
    "d2e/py.typed", "d2e/compiler/report/report.html.j2", "d2e/backends/loihi2/lava/skeleton/run.py",
    "d2e/backends/loihi2/lava/skeleton/processes/__init__.py", "d2e/backends/speck/emission/skeleton/deploy.py",
}


def test_the_layers_are_links() -> None:
    for layer in LAYERS:
        link = ROOT / "src" / "d2e" / layer
        assert link.is_symlink(), "git must check out symlinks (core.symlinks=true)"
        assert link.resolve() == ROOT / layer


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from a copy, so that nothing is left in the repository."""
    pytest.importorskip("build")
    pytest.importorskip("setuptools")
    copy = tmp_path_factory.mktemp("checkout")
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", *LAYERS):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=skip)
    for name in ("pyproject.toml", "MANIFEST.in", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, copy / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(copy / "dist"), str(copy)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=copy)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    (path,) = (copy / "dist").glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_every_module(wheel: zipfile.ZipFile) -> None:
    expected = {f"d2e/{p.name}" for p in (ROOT / "src" / "d2e").glob("*.py")}
    for layer in LAYERS:
        expected |= {f"d2e/{p.relative_to(ROOT).as_posix()}" for p in (ROOT / layer).rglob("*.py")}
    assert len(expected) > 60
    assert expected - set(wheel.namelist()) == set()


def test_the_wheel_holds_the_files_modules_read(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert names >= DATA
    others = {
        f"d2e/{p.relative_to(ROOT).as_posix()}" for layer in LAYERS for p in (ROOT / layer).rglob("*")
        if p.is_file() and p.suffix != ".py" and "__pycache__" not in p.parts
    }
    assert others - names == set(), "package-data in pyproject.toml misses these"


def test_the_wheel_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    assert all(name.startswith(("d2e/", "d2e-")) for name in wheel.namelist())
    assert not [name for name in wheel.namelist() if "tests" in name or "__pycache__" in name]


def test_the_wheel_names_its_commands_and_backends(wheel: zipfile.ZipFile) -> None:
    (name,) = (n for n in wheel.namelist() if n.endswith("entry_points.txt"))
    text = wheel.read(name).decode()
    assert "[d2e.backends]\nloihi2 = d2e.backends.loihi2.targets:TARGETS" in text
    assert "d2e-compile = d2e.cli:compile_main" in text
