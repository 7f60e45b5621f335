"""Imports run one way, ir <- compiler <- backends <- the face, and importing d2e is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import d2e

FACE = Path(d2e.__file__).parent
ALLOWED = {
    "ir": {"ir"},
    "compiler": {"ir", "compiler"},
    "backends": {"ir", "compiler", "backends"},
}
OWN_INTERPRETER = {
    Path("loihi2", "lava", "skeleton"), Path("loihi2", "netx", "skeleton"), Path("speck", "emission", "skeleton"),
}
"""Files that are written into programs: there they may import the chip's SDK."""


def sources(layer: str) -> list[Path]:
    folder = FACE / layer
    found = sorted(folder.rglob("*.py"))
    assert len(found) >= 10
    return [p for p in found if OWN_INTERPRETER.isdisjoint(p.relative_to(folder).parents)]


def imported(path: Path) -> Iterator[str]:
    """Every module a file imports, in functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _called(node.func) in ("import_module", "__import__") and node.args:
            name = node.args[0]
            yield name.value if isinstance(name, ast.Constant) else "any module"


def _called(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("layer", ALLOWED)
def test_imports_run_one_way(layer: str) -> None:
    for path in sources(layer):
        for module in imported(path):
            if module == "d2e" or module in ("d2e.__version__", "d2e.__file__"):
                continue  # the version in reports
            first, _, rest = module.partition(".")
            if first == "d2e":
                assert rest.partition(".")[0] in ALLOWED[layer], f"{path.relative_to(FACE)} imports {module}"


def test_the_face_is_not_reached_through_its_name() -> None:
    """``import d2e`` in a layer is for the version only."""
    for layer in ALLOWED:
        for path in sources(layer):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "d2e":
                    assert node.attr == "__version__", f"{path.relative_to(FACE)} uses d2e.{node.attr}"


@pytest.mark.parametrize("layer", ALLOWED)
def test_nothing_imports_a_chips_sdk(layer: str) -> None:
    for path in sources(layer):
        for module in imported(path):
            first = module.partition(".")[0]
            assert first not in ("lava", "samna"), f"{path.relative_to(FACE)} imports {module}"
            assert not module.startswith("sinabs.backend"), f"{path.relative_to(FACE)} imports {module}"
            assert first not in ("ir", "compiler", "backends"), f"{path.relative_to(FACE)} imports {module} without d2e."


def test_the_ir_knows_no_torch() -> None:
    for path in sources("ir"):
        assert not {m.partition(".")[0] for m in imported(path)} & {"torch", "numba"}, path


def loaded_by(code: str) -> set[str]:
    script = f"{code}\nimport sys; print('\\n'.join(sorted({{m.partition('.')[0] for m in sys.modules}})))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=FACE)
    return set(run.stdout.split())


def test_importing_d2e_imports_neither_torch_nor_numpy() -> None:
    assert not loaded_by("import d2e; d2e.__version__") & {"torch", "numpy", "numba", "nir", "lava", "samna"}


def test_the_command_line_module_imports_neither_torch_nor_numpy() -> None:
    assert not loaded_by("import d2e.cli") & {"torch", "numpy", "numba", "nir"}


def test_the_ir_loads_without_torch() -> None:
    assert "torch" not in loaded_by("import d2e.ir, d2e.ir.reference, d2e.ir.nirfile")


def test_everything_the_face_names_is_there() -> None:
    for name in d2e.__all__:
        assert getattr(d2e, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'compyle'"):
        _ = d2e.compyle  # type: ignore[attr-defined]
