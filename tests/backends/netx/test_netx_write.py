"""What `network.net` holds, what prevents it, and that it reads back as the same network; Lava is not needed."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from tests.backends.netx.netx_networks import KINDS, ONE, Chain, output_of, random_network

from d2e.backends.loihi2.netx.plan import plan
from d2e.backends.loihi2.netx.write import emit, expressible, write
from d2e.compiler.frontends import netx
from d2e.ir import IF, CubaLIF, Network, UnsupportedError, reference
from d2e.ir.nodes import integral


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("burst", "soft_biased", "copies")])
def test_a_written_file_reads_back_as_the_same_network(kind: str, tmp_path: Path) -> None:
    """Always-on neurons fire before frame 0 in netx: those kinds are left to the comparison with it."""
    fired = 0
    for seed in range(5):
        network, frames = random_network(kind, seed)
        facts = write(network, tmp_path / "network.net", time_steps=frames.shape[1])
        read = _restated(netx.read(tmp_path / "network.net"), network)
        shown = frames if frames.ndim != 4 else frames[:, :, :, None]  # [C, L] is [C, 1, L] in the file
        found = reference.run(read, shown, "state")
        expected, silent = output_of(network, reference.run(network, frames, "state"))
        last = read.populations[-1]
        got = (found.v if silent else found.spikes)[last].reshape(*expected.shape[:2], -1)
        fired += int(expected.any())
        np.testing.assert_array_equal(got[..., : facts["outputs"]], expected)
    assert fired >= 4


def _restated(network: Network, source: Network) -> Network:
    """The file does not say what the input carries."""
    entry = replace(network.input, coding=source.input.coding, max_payload=source.input.max_payload)
    return network.with_nodes({network.inputs[0]: entry})


def test_equal_networks_give_equal_bytes(tmp_path: Path) -> None:
    for kind in ("conv", "delay", "soft_biased"):
        write(random_network(kind, 1)[0], tmp_path / "a.net", time_steps=5)
        time.sleep(1.1 if kind == "conv" else 0)  # HDF5 keeps times in seconds, where it keeps any
        write(random_network(kind, 1)[0], tmp_path / "b.net", time_steps=5)
        assert (tmp_path / "a.net").read_bytes() == (tmp_path / "b.net").read_bytes()


def test_facts(tmp_path: Path) -> None:
    network, frames = random_network("payload", 0)
    facts = emit(network, tmp_path, time_steps=frames.shape[1])["netx"]
    assert facts["input_message_bits"] == 4
    assert facts["reset_offset"] == 1
    assert facts["latency"] == len(plan(network)[0])
    biased = plan(random_network("soft_biased", 0)[0])[0]
    assert [layer.helpers for layer in biased] == [1] * len(biased)
    assert not (tmp_path / "network.net.txt").exists()


# ----- what prevents it: one sentence per layer


def _soft(shape: tuple[int, ...], **options: Any) -> dict[str, Any]:
    return {"reset": "subtract", "fire": "ge", "threshold": integral(100), **options}


def dense(**options: Any) -> Network:
    b = Chain(1, (6,))
    b.dense(5, reach=int(options.pop("reach", 60)))
    b.neurons(options.pop("cls", CubaLIF), **options)
    return b.finish()


def soft_conv() -> Network:
    b = Chain(1, (2, 5, 5))
    b.conv(3)
    b.neurons(IF, **_soft(b.shape))
    b.dense(4)
    b.neurons(IF, **_soft(b.shape, threshold=integral(4000)))
    return b.finish()


def recurrent_and_biased() -> Network:
    b = Chain(1, (6,))
    b.dense(5)
    name = b.neurons(bias=integral(200 << 6))
    b.back(name)
    return b.finish()


def late_behind_early() -> Network:
    b = Chain(1, (6,))
    b.dense(5)
    b.neurons(bias=integral(200 << 6))
    b.late(7, 3)
    b.neurons()
    return b.finish()


PREVENTED = {
    "whole ones": lambda: dense(bias=integral(65)),
    "netx starts from none": lambda: dense(v_init=integral(640)),
    "the limit is 4095": lambda: dense(bias=integral(4096 << 6)),
    "8 bits of one scale": lambda: dense(cls=IF, **_soft((5,), threshold=integral(1100))),
    "dense layers alone": soft_conv,
    "feeds that back to itself": recurrent_and_biased,
    "receives, late,": late_behind_early,
    "no weight other than 0": lambda: dense(reach=0),
}


@pytest.mark.parametrize("sentence", PREVENTED)
def test_what_prevents_it(sentence: str, tmp_path: Path) -> None:
    network = PREVENTED[sentence]()
    findings = expressible(network)
    assert len(findings) == 1
    assert sentence in findings[0].message
    assert findings[0].node in network.nodes
    assert findings[0].code == "D2E-NETX-010"
    with pytest.raises(UnsupportedError, match="D2E-NETX-010"):
        write(network, tmp_path / "x.net")
    assert emit(network, tmp_path, time_steps=3)["netx_reasons"] == [
        f"{findings[0].node}: {findings[0].message}. {findings[0].hint or ''}".rstrip()
    ]
    assert sentence in (tmp_path / "network.net.txt").read_text()
    assert not (tmp_path / "network.net").exists()


def test_at_the_limits() -> None:
    assert not expressible(dense(bias=integral(4095 << 6)))
    assert expressible(dense(bias=integral(4096 << 6)))
    assert expressible(dense(cls=IF, **_soft((5,), threshold=integral(1018))))
    for threshold, copies in ((128, 1), (129, 2), (255, 2), (256, 3), (1017, 8)):
        network = dense(cls=IF, reach=61, **_soft((5,), threshold=integral(threshold)))
        (layer,), findings = plan(network)
        assert not findings
        assert (layer.copies, layer.shape, layer.helpers) == (copies, (5 * copies,), 5 * (copies - 1))
        assert layer.recurrent is not None
        assert layer.recurrent[:5].reshape(5, copies, 5).sum(axis=1).tolist() == (-threshold * np.eye(5, dtype=int)).tolist()


def test_one_sentence_per_layer_and_other_layers_than_a_chain() -> None:
    b = Chain(1, (2, 5, 5))
    for _ in range(2):
        b.conv(3)
        b.neurons(IF, **_soft(b.shape))
    first = next(n for n in b.nodes if n.startswith("layer"))
    b.dense(4)
    last = b.neurons()
    b.nodes["flat"], b.nodes["skip"] = b.flat_copy(first, last)
    b.edges += b.path(first, "flat", "skip", last)
    findings = expressible(b.finish())
    assert len(findings) == 3
    assert "chain of layers" in findings[-1].message
    assert repr(first) in findings[-1].message


def test_decay_registers() -> None:
    layer = plan(dense(decay_syn=integral(ONE), decay_mem=integral(0)))[0][0]
    assert layer.registers[:2] == (0, ONE)
    assert cast("Any", layer).recurrent is None
