"""Tiny networks are calibrated faster without threads."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def one_core() -> Iterator[None]:
    """joblib takes the machine for one of one core; to start its threads takes longer than their work."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOKY_MAX_CPU_COUNT", "1")
        yield
