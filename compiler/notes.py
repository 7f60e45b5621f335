"""Warnings that passes leave on a network, for the report: plain JSON under the network's metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from d2e.ir import Network


def warn(network: Network, code: str, message: str, node: str | None = None) -> Network:
    """The network with one more warning (the same one is kept once)."""
    entry = {"code": code, "message": message, **({"node": node} if node else {})}
    known = warnings(network)
    return network if entry in known else network.with_metadata(warnings=[*known, entry])


def warnings(network: Network) -> list[Mapping[str, Any]]:
    """The warnings so far."""
    return list(network.metadata.get("warnings", []))
