"""Files: bytes that depend on contents alone."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from d2e.compiler.files import write_npz


def test_npz_bytes_do_not_know_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {"b": np.arange(6).reshape(2, 3).T, "a": np.array(7)}
    write_npz(tmp_path / "one.npz", arrays)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    write_npz(tmp_path / "two.npz", dict(reversed(arrays.items())))
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    with np.load(tmp_path / "one.npz") as kept:
        assert (kept["b"] == arrays["b"]).all()
        assert kept["a"].shape == ()
