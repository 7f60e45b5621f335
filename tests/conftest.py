"""What every test shares: `--update-golden`, Lava's interpreter, and a path on which `tests.ir.networks` imports."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from d2e.backends.loihi2.lava import env
from d2e.ir import MissingError

sys.path.insert(0, str(Path(__file__).parent.parent))
settings.register_profile("d2e", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("d2e")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files, do not compare")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """``golden(name, text)`` compares a text with ``golden/<name>`` beside the test file."""
    folder = request.path.parent / "golden"

    def check(name: str, text: str) -> None:
        path = folder / name
        if request.config.getoption("--update-golden"):
            folder.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.is_file(), f"no golden {path.name}: run pytest --update-golden"
        assert text == path.read_text(encoding="utf-8")

    return check


@pytest.fixture(scope="session", autouse=True)
def _signals_are_heard() -> None:
    """By the programs that tests start, also where nohup or a shell's background job has them ignored."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same random numbers whichever tests ran before on the same worker."""
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def lava_python() -> Path:
    """The Lava interpreter for the tests marked ``lava``: without it they fail in CI, else are skipped."""
    try:
        python = env.find()
        env.check(python)
    except MissingError as error:
        if os.environ.get("CI") or os.environ.get("D2E_REQUIRE_LAVA") == "1":
            pytest.fail(f"the Lava comparisons must run here: {error}")
        pytest.skip(f"{error} (make lava)")
    return python


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser for the tests marked ``browser``: without it they fail where D2E_REQUIRE_BROWSER=1, else are skipped."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None and os.environ.get("D2E_REQUIRE_BROWSER") == "1":
        pytest.fail("the tests of the pages must run here, and there is no Chromium")
    if found is None:
        pytest.skip("there is no Chromium (apt-get install chromium)")
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Note the mark on the report (a report's keywords hold the names of folders too)."""
    for item in items:
        if item.get_closest_marker("lava"):
            item.user_properties.append(("lava", True))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many comparisons with Lava were run, so that a log without them is seen."""
    outcomes = {
        outcome: sum(
            ("lava", True) in map(tuple, getattr(report, "user_properties", ()))
            for report in terminalreporter.stats.get(outcome, ())
        )
        for outcome in ("passed", "failed", "skipped")
    }
    if any(outcomes.values()):
        terminalreporter.write_line("tests with lava-nc: " + ", ".join(f"{n} {outcome}" for outcome, n in outcomes.items()))
