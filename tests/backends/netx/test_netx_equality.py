"""lava-dl 0.6.0's own netx against our simulator: files we write, and files that lava-dl ships for its tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.backends.netx.netx_networks import KINDS, output_of, random_network
from torch import nn

from d2e.backends.loihi2.netx.run import Job, run_netx
from d2e.backends.loihi2.netx.write import write
from d2e.backends.loihi2.targets import simulator
from d2e.compiler.api import compile
from d2e.ir import Network
from d2e.nn import IF

SHIPPED = Path("tests", "lava", "lib", "dl", "netx")
"""Where lava-dl's wheel puts its own test files, in site-packages."""


def compare(kinds: tuple[str, ...], seeds: range, folder: Path, python: Path) -> dict[str, int]:
    """Write, run and compare networks of these kinds; returns how many of each fired."""
    jobs, wanted = [], []
    for kind in kinds:
        for seed in seeds:
            network, frames = random_network(kind, seed)
            path = folder / f"{kind}{seed}.net"
            facts = write(network, path, time_steps=frames.shape[1])
            jobs.append(Job(path, frames, message_bits=facts["input_message_bits"]))
            wanted.append((kind, facts["outputs"], *output_of(network, simulator(network).run(frames, "state"))))
    fired = dict.fromkeys(kinds, 0)
    found = run_netx(jobs, python=python, time_out=1500.0)
    for job, (spikes, v), (kind, outputs, expected, silent) in zip(jobs, found, wanted, strict=True):
        got = (v if silent else spikes).reshape(*expected.shape[:2], -1)[..., :outputs]
        np.testing.assert_array_equal(got, expected, err_msg=job.net.name)
        fired[kind] += int(expected.any())
    return fired


@pytest.mark.lava
def test_written_networks(tmp_path: Path, lava_python: Path) -> None:
    fired = compare(KINDS, range(3), tmp_path, lava_python)
    assert all(count >= 2 for count in fired.values()), fired


@pytest.mark.lava
@pytest.mark.slow
def test_many_written_networks(tmp_path: Path, lava_python: Path) -> None:
    fired = compare(KINDS, range(3, 23), tmp_path, lava_python)
    assert all(count >= 15 for count in fired.values()), fired


@pytest.mark.lava
def test_netx_runs_sample_after_sample_with_its_reset(tmp_path: Path, lava_python: Path) -> None:
    """``reset_offset=1`` with ``reset_interval`` of a sample's steps: what facts of `write` say."""
    jobs, wanted = [], []
    for kind in ("dense", "conv", "biased"):
        network, _ = random_network(kind, 4)
        frames = np.random.default_rng(0).integers(0, 2, (6, 9, *network.input.shape))
        write(network, tmp_path / f"{kind}.net", time_steps=9)
        jobs.append(Job(tmp_path / f"{kind}.net", frames, continuous=True))
        wanted.append(output_of(network, simulator(network).run(frames, "spikes"))[0])
    for (spikes, _), expected in zip(run_netx(jobs, python=lava_python), wanted, strict=True):
        assert expected.any()
        np.testing.assert_array_equal(spikes.reshape(expected.shape), expected)


@pytest.mark.lava
def test_compiled_models_with_soft_resets_and_bursts(tmp_path: Path, lava_python: Path) -> None:
    """Weights as training leaves them: the resets are wider than 8 bits, so copies of the layer share them."""
    torch.manual_seed(0)
    frames = np.random.default_rng(0).integers(0, 2, (2, 12, 20))
    jobs, wanted = [], []
    for spikes in (1, 4):
        model = nn.Sequential(nn.Linear(20, 30), IF(max_spikes=spikes), nn.Linear(30, 10), IF(max_spikes=spikes))
        program = compile(model, input_shape=(20,), time_steps=12, burst="replicas")
        program.save(tmp_path / str(spikes))
        jobs.append(Job(tmp_path / str(spikes) / "target" / "network.net", frames))
        wanted.append(output_of(program.network, simulator(program.network).run(frames, "spikes"))[0])
    for (found, _), expected in zip(run_netx(jobs, python=lava_python), wanted, strict=True):
        assert expected.any()
        np.testing.assert_array_equal(found[..., : expected.shape[-1]], expected)


def shipped(python: Path, name: str) -> Path:
    """A file of lava-dl's own tests."""
    found = sorted((python.parent.parent / "lib").glob(f"python3.*/site-packages/{SHIPPED}/{name}"))
    assert found, f"lava-dl has no {name}"
    return found[0]


def image_frames(network: Network, batch: int, steps: int) -> np.ndarray:
    """Random images, each for all steps of its sample."""
    images = np.random.default_rng(2).integers(-40, 41, (batch, 1, *network.input.shape))
    return np.broadcast_to(images, (batch, steps, *network.input.shape))


@pytest.mark.lava
@pytest.mark.parametrize(("name", "steps"), [("tiny.net", 17), ("mnist.net", 16), ("gts/pilotnet_lif/network.net", 10)])
def test_files_that_lava_dl_ships_with_an_image_input(name: str, steps: int, lava_python: Path) -> None:
    path = shipped(lava_python, name)
    program = compile(str(path), target="loihi2-sim")
    frames = image_frames(program.network, 1, steps)
    bias = int(program.network.neuron("layer0").bias.flat[0]) >> 6
    trace = simulator(program.network).run(frames, "state")
    expected, silent = output_of(program.network, trace)
    ((spikes, v),) = run_netx([Job(path, frames + bias, lead=True)], python=lava_python)
    assert expected.any()
    np.testing.assert_array_equal((v if silent else spikes).reshape(expected.shape), expected)
    assert not silent or not spikes.any()


@pytest.mark.lava
def test_the_ground_truth_that_lava_dl_ships_for_tiny_net(lava_python: Path) -> None:
    folder = shipped(lava_python, "gts/tinynet/input_bias.npy").parent
    program = compile(str(shipped(lava_python, "tiny.net")), target="loihi2-sim")
    image = np.load(folder / "input_bias.npy").transpose(2, 1, 0).astype(np.int64)
    truth = np.load(folder / "output.npy")[0].transpose(3, 0, 1, 2)
    bias = int(program.network.neuron("layer0").bias.flat[0]) >> 6
    frames = np.broadcast_to(image - bias, (1, len(truth), *image.shape))
    spikes = simulator(program.network).run(frames, "spikes").spikes[program.network.populations[-1]][0]
    assert truth.sum() > 0
    np.testing.assert_array_equal(spikes[: len(truth) - 1], truth[1:])


@pytest.mark.lava
def test_the_file_with_delays_that_lava_dl_ships(lava_python: Path) -> None:
    path = shipped(lava_python, "gts/ntidigits/ntidigits.net")
    program = compile(str(path), target="loihi2-sim")
    frames = np.load(path.parent / "input.npy")[:, :150].T.reshape(1, 150, 1, 1, 64).astype(np.int64)
    expected, _ = output_of(program.network, simulator(program.network).run(frames, "spikes"))
    ((spikes, _),) = run_netx([Job(path, frames, layers=5)], python=lava_python)
    assert expected.sum() > 100
    np.testing.assert_array_equal(spikes.reshape(expected.shape), expected)
    assert any(w["node"] == "layer5" for w in program.network.metadata["warnings"])
