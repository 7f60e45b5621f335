"""What a conversion method is to `d2e.convert`: options of its own, and a way from an ANN's skeleton to a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from d2e.compiler.convert.evaluate import Bench
from d2e.compiler.convert.skeleton import Skeleton
from d2e.ir import Network
from d2e.ir.nodes import Array


@dataclass(frozen=True, eq=False)
class Samples:
    """Unlabelled images [n, *input shape].

    Attributes:
        fit: set the neurons.
        later: held out.
        held: the first of those, for searches.
        logits: of the ANN on ``held``.
    """

    fit: Array
    later: Array
    held: Array
    logits: Array


@dataclass(frozen=True, eq=False)
class Answers:
    """What a network says of images.

    Attributes:
        full: [n] the class after all steps.
        early, steps: [n] the class that is read, and after how many steps, where answers may be read early.
    """

    full: Array
    early: Array | None = None
    steps: Array | None = None


class Outcome(Protocol):
    """A converted network."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """For ``metadata["conversion"]``."""

    def answers(self, images: Array) -> Answers:
        """Of a batch of images."""

    def network(self) -> Network:
        """As a network of the IR."""


class Method(Protocol):
    """A conversion method with its options, which are its fields."""

    def check(self) -> None:
        """Raise UsageError for options out of their ranges."""

    @property
    def settings(self) -> list[Any]:
        """What sets neurons: measurements of equal settings, data and model can be shared."""

    def convert(self, skeleton: Skeleton, samples: Samples, seed: int, bench: Bench) -> Outcome:
        """The spiking network."""
