"""The Lava interpreter for the tests marked ``lava``: without it they fail in CI, else are skipped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from d2e.backends.loihi2.lava import env
from d2e.ir import MissingError


@pytest.fixture(scope="session")
def lava_python() -> Path:
    try:
        python = env.find()
        env.check(python)
    except MissingError as error:
        if os.environ.get("CI") or os.environ.get("D2E_REQUIRE_LAVA") == "1":
            pytest.fail(f"the Lava comparisons must run here: {error}")
        pytest.skip(f"{error} (make lava)")
    return python
