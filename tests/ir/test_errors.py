"""Errors travel between processes as they are."""

from __future__ import annotations

import pickle

import pytest

from d2e.ir import D2EError, GateError, MissingError, UnsupportedError, UsageError


@pytest.mark.parametrize("kind", [D2EError, GateError, MissingError, UnsupportedError, UsageError])
def test_an_error_is_the_same_after_it_was_pickled(kind):
    error = kind("D2E-USE-001", "it is wrong", node="conv1", hint="Mend it.")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error) == "D2E-USE-001: it is wrong (node 'conv1'). Mend it."
    assert (again.code, again.message, again.node, again.hint, again.findings) == (
        error.code, error.message, error.node, error.hint, error.findings)
