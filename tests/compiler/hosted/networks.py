"""Small networks that run on the host in part, by hand and at random."""

from __future__ import annotations

import numpy as np

from d2e.ir import (
    LI,
    Add,
    Affine,
    Attention,
    Conv2d,
    Edge,
    Flatten,
    Input,
    LayerNorm,
    Linear,
    Mean,
    MultiThreshold,
    Network,
    Node,
    Output,
    Permute,
    verified,
)


def real(values) -> np.ndarray:
    return np.asarray(values, np.float64)


def levels_of(shape, rng, kind="relu", most=5) -> MultiThreshold:
    """A population without memory whose levels are payloads: of both signs ("signed"), or falling at first ("gelu")."""
    payloads = np.cumsum(2 ** rng.integers(0, 2, most))
    levels = np.arange(1, most + 1) - 0.5
    if kind == "gelu":
        payloads = np.cumsum([-1, 1, *2 ** rng.integers(0, 2, most - 2)])
        levels = levels + 1.0
    last = shape[-1:] if len(shape) == 2 else (shape[0], *[1] * (len(shape) - 1))
    return MultiThreshold(
        shape=shape, levels=real(levels), payloads=real(payloads), threshold=real(rng.uniform(0.2, 0.5, last)),
        amplitude=real(rng.uniform(0.1, 0.4, last)), bias=real(rng.normal(0, 0.1, last)), decay_mem=real(0.0), reset="none",
        signed=kind == "signed",
    )


def membrane(shape, rng) -> LI:
    """What the host reads: a sum and its bias."""
    return LI(shape=shape, decay_mem=real(0.0), bias=real(rng.normal(0, 0.2, shape[-1:] if len(shape) == 2 else ())))


class Builder:
    """Puts nodes one behind the other; every node has a name of its own."""

    def __init__(self, node: Input, seed: int) -> None:
        self.nodes: dict[str, Node] = {"in": node}
        self.edges: list[Edge] = []
        self.last, self.rng = "in", np.random.default_rng(seed)

    def put(self, name: str, node: Node, *more: str) -> str:
        """Behind the last node and ``more``."""
        name = f"{name}{sum(known.startswith(name) for known in self.nodes) or ''}"
        self.nodes[name] = node
        self.edges += [Edge(source, name) for source in (self.last, *more)]
        self.last = name
        return name

    def dense(self, a: int, b: int, biased: bool = False) -> None:
        """A dense layer on every token."""
        weight = real(self.rng.normal(0, a**-0.5, (b, a)))
        self.put("fc", Affine(weight=weight, bias=real(self.rng.normal(0, 0.1, b))) if biased else Linear(weight=weight))

    def norm(self, d: int) -> None:
        """Layer norm, whose bias keeps channels apart."""
        self.put("norm", LayerNorm(weight=real(self.rng.normal(1, 0.2, d)), bias=real(self.rng.normal(0, 0.2, d)), eps=1e-5))

    def network(self, readout: str = "last") -> Network:
        """With its output."""
        shape = self.nodes[self.last].shape  # type: ignore[attr-defined]
        self.put("out", Output(shape=shape, readout=readout))
        return verified(Network(self.nodes, tuple(self.edges), {}))


def transformer(seed: int = 0, tokens: int = 4, d: int = 6, heads: int = 2, classes: int = 3) -> Network:
    """One block of a vision transformer on images [1, 4, 4] in patches of 2 x 2."""
    b = Builder(Input(shape=(1, 4, 4), coding="direct", time_steps=1), seed)
    b.put("patch", Conv2d(weight=real(b.rng.normal(0, 0.5, (d, 1, 2, 2))), stride=(2, 2)))
    b.put("patch.in", membrane((d, 2, 2), b.rng))
    b.put("flat", Flatten(start_dim=1))
    b.put("turn", Permute(axes=(1, 0)))
    stream = b.put("pos", Add(bias=real(b.rng.normal(size=(tokens, d)))))
    b.norm(d)
    b.put("norm.sent", levels_of((tokens, d), b.rng, "signed"))
    b.dense(d, 3 * d, biased=True)
    b.put("qkv.sent", levels_of((tokens, 3 * d), b.rng, "signed"))
    b.put("attend", Attention(heads=heads, scale=(d // heads) ** -0.5))
    b.put("attend.sent", levels_of((tokens, d), b.rng, "signed"))
    b.dense(d, d)
    b.put("proj.in", membrane((tokens, d), b.rng))
    stream = b.put("add", Add(), stream)
    b.norm(d)
    b.put("mlp.sent", levels_of((tokens, d), b.rng, "signed"))
    b.dense(d, 2 * d)
    b.put("gelu", levels_of((tokens, 2 * d), b.rng, "gelu"))
    b.dense(2 * d, d)
    b.put("mlp.in", membrane((tokens, d), b.rng))
    b.put("sum", Add(), stream)
    b.put("mean", Mean(axis=0))
    b.put("head.sent", levels_of((d,), b.rng, "signed"))
    b.dense(d, classes)
    b.put("readout", LI(shape=(classes,), decay_mem=real(0.0), bias=real(b.rng.normal(size=classes))))
    return b.network()


def random_network(seed: int, tokens: int, d: int, heads: int, kinds: list[str]) -> Network:
    """Tokens that enter as payloads, then parts on the host and on the chip in any order; ends on either."""
    b = Builder(Input(shape=(tokens, d), coding="direct", time_steps=1), seed)
    width = heads * d
    b.put("pos", Add(bias=real(b.rng.normal(size=(tokens, d)))))
    for kind in kinds:
        before = b.last
        if kind == "turn":
            b.put("turn", Permute(axes=(1, 0)))
            b.put("turned.sent", levels_of((d, tokens), b.rng, "signed"))
            b.dense(tokens, tokens)
            b.put("mixed.in", membrane((d, tokens), b.rng))
            b.put("back", Permute(axes=(1, 0)))
            b.put("add", Add(), before)
            continue
        b.norm(d)
        b.put("sent", levels_of((tokens, d), b.rng, "signed"))
        if kind == "attention":
            b.dense(d, 3 * width, biased=True)
            b.put("qkv.sent", levels_of((tokens, 3 * width), b.rng, "signed"))
            b.put("attend", Attention(heads=heads, scale=d**-0.5))
            b.put("attend.sent", levels_of((tokens, width), b.rng, "signed"))
            b.dense(width, d)
        else:
            b.dense(d, width)
            b.put("hidden", levels_of((tokens, width), b.rng, kind))
            b.dense(width, d)
        b.put("read", membrane((tokens, d), b.rng))
        b.put("add", Add(), before)
    b.put("mean", Mean(axis=0))
    b.put("readout", LI(shape=(d,), decay_mem=real(0.0), bias=real(b.rng.normal(size=d))))
    return b.network()
