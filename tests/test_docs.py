"""The documentation holds: its examples run, its error codes are those of the code, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from d2e.ir import errors

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = [p for folder in ("ir", "compiler", "backends", "src/d2e") for p in sorted((ROOT / folder).rglob("*.py"))]
CODE = r"D2E-[A-Z0-9]+-\d{3}"


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """(line number, text) of every fenced block of a language."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)
    return [(text.count("\n", 0, m.start(1)), m[1]) for m in found]


def pages_with(language: str) -> list[Any]:
    return [pytest.param(page, id=page.name) for page in PAGES if blocks(page, language)]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the digits' files, and those of other examples in folders of their own; it is the current one."""
    for path in (ROOT / "examples" / "digits").iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path)
    shutil.copytree(ROOT / "examples" / "shapes", tmp_path / "shapes")
    shutil.copytree(ROOT / "examples" / "adaptive_calibration", tmp_path / "adaptive")
    shutil.copytree(ROOT / "examples" / "vision_transformer", tmp_path / "vision")
    shutil.copytree(ROOT / "examples" / "direct_to_event", tmp_path / "events")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("page", pages_with("python"))
def test_python_examples_run(page):
    names: dict[str, Any] = {"__name__": "docs"}
    for line, text in blocks(page, "python"):
        exec(compile("\n" * line + text, str(page), "exec"), names)  # line numbers are the page's


@pytest.mark.parametrize("page", pages_with("console"))
def test_commands_run_and_print_what_is_shown(page, workplace):
    for _, text in blocks(page, "console"):
        for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.M):
            program, *args = shlex.split(command)
            assert program in ("d2e", "d2e-compile"), command
            path = str(Path(sysconfig.get_path("scripts")) / program)
            done = subprocess.run([path, *args], cwd=workplace, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command}\n{done.stderr}"
            assert shown in ("", done.stdout), command


def test_the_backend_of_the_docs_is_found_by_its_entry_point(workplace):
    page = ROOT / "docs" / "python.md"
    (workplace / "float_chip.py").write_text(next(t for _, t in blocks(page, "python") if "class FloatChip" in t))
    facts = workplace / "float_chip-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: float-chip\nVersion: 1.0\n")
    group, line = re.search(r'^\[project.entry-points."(.*)"\]\n(.*)\n', blocks(page, "toml")[0][1]).groups()
    (facts / "entry_points.txt").write_text(f"[{group}]\n{line.replace(chr(34), '')}\n")
    script = "import sys; sys.path.insert(0, '.'); import d2e.cli; d2e.cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "compile", "model.pt", "--target", "float-chip", "--eval", "test.npz",
         "--eval-samples", "20", "-o", "out"], capture_output=True, text=True, check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "largest count error 0" in done.stdout
    assert (workplace / "out" / "target" / "network.txt").is_file()


def raised() -> Iterator[tuple[str, str]]:
    """(code, exit code or "warning") of every code in the sources, where the class stands before it."""
    exits = {name: str(cls.exit_code) for name, cls in vars(errors).items() if isinstance(cls, type)
             and issubclass(cls, errors.D2EError)}
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        for m in re.finditer(rf'"({CODE})"', text):
            before = text[max(0, m.start() - 40) : m.start()]
            made = re.search(r"(?:(\w+Error)|(Finding)|(warn)\(\s*\w+,)\(?\s*$", before)
            yield m[1], "" if not made else exits[made[1]] if made[1] else "3" if made[2] else "warning"


def documented() -> dict[str, str]:
    """Code -> exit cell of docs/errors.md."""
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    rows = re.findall(rf"^\| ({CODE}) \| ([^|]+) \| [^|]+ \| [^|]+ \|$", text, re.M)
    assert len(rows) == len(dict(rows)), "a code has two lines"
    return dict(rows)


def test_every_error_code_is_explained_and_none_is_left_over():
    codes = {code for code, _ in raised()}
    assert sorted(codes - documented().keys()) == [], "raised, but not in docs/errors.md"
    assert sorted(documented().keys() - codes) == [], "in docs/errors.md, but no longer raised"


def test_exit_codes_in_the_docs_are_those_of_the_code():
    known = documented()
    wrong = {code: (exit_code, known.get(code)) for code, exit_code in raised()
             if exit_code and exit_code not in known.get(code, "")}
    assert wrong == {}
    stated = {exit_code for _, exit_code in raised()}
    assert {"2", "3", "4", "5", "warning"} <= stated


def test_codes_in_the_text_of_docs_and_sources_exist():
    known = documented()
    for path in (*PAGES, *SOURCES):
        assert set(re.findall(CODE, path.read_text(encoding="utf-8"))) <= known.keys(), path


def test_links_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert "://" in link or (page.parent / link).exists(), f"{page.name}: {link}"
