"""Tiny networks are calibrated faster without threads."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="module")
def one_core() -> Iterator[None]:
    """joblib and torch take the machine for one of one core; to start their threads takes longer than their work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOKY_MAX_CPU_COUNT", "1")
        yield
    torch.set_num_threads(threads)
