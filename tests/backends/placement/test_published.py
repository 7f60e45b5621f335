"""The model beside what Intel published: the resource tables of its partitioner, and its core counts.

Source: the tables printed in lava-nc/lava-dl, tutorials/lava/lib/dl/netx: yolo_kp/run.ipynb (percent of each resource and
the total), pilotnet_snn/benchmark.ipynb, pilotnet_sdnn/benchmark.ipynb, oxford/run.ipynb (counts), mnist/run.ipynb.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from d2e.backends.loihi2.placement import Place, estimate
from d2e.backends.loihi2.placement.model import Load, row_words, total
from d2e.compiler.target import find
from d2e.ir import Network, Scale
from d2e.ir.nodes import integral

YOLO = [  # AxonIn %, Neurons %, Synapses %, AxonMap %, AxonMem %, Total %, cores, tile (width, height, channels)
    (0.01, 65.64, 19.20, 16.80, 0.00, 42.26, 4, (4, 14, 48)),
    (0.01, 87.52, 86.40, 0.35, 0.17, 87.47, 32, (8, 7, 64)),
    (0.01, 87.52, 67.20, 0.09, 0.35, 72.04, 14, (2, 7, 256)),
    (0.01, 87.52, 86.40, 0.35, 0.35, 87.61, 32, (8, 7, 64)),
    (0.01, 87.52, 72.00, 0.35, 2.80, 78.05, 16, (8, 7, 64)),
    (0.01, 87.52, 79.20, 0.17, 0.17, 81.57, 56, (4, 7, 128)),
    (0.01, 87.52, 39.60, 0.17, 0.35, 50.03, 28, (4, 7, 128)),
    (0.01, 87.52, 10.80, 0.35, 0.17, 26.99, 56, (4, 14, 64)),
    (0.01, 87.52, 3.60, 0.70, 0.35, 21.65, 112, (8, 14, 32)),
    (0.01, 87.52, 0.34, 1.40, 0.70, 19.88, 224, (8, 28, 16)),
]
PILOT_LIF = [  # neurons, words of synapses (of a core), cores; the input layer comes first
    (3168, 0, 13), (3072, 81, 25), (2160, 864, 13), (2688, 1620, 3), (2048, 2160, 3), (2048, 2880, 2), (8, 7253, 12),
    (50, 1300, 1), (10, 150, 1), (1, 10, 1),
]
PILOT_BITS = (8, 7, 6, 5, 5)
"""Weight bits at which the kernels take exactly the published words."""


def dense(build: Any, *sizes: int) -> Network:
    builder = build(sizes[0])
    for size in sizes[1:]:
        builder.dense(size)
    network: Network = builder.network()
    return network


def pilotnet(build: Any, *, image: bool) -> Network:
    """PilotNet for frames [3, 66, 200]; with ``image`` the input is a population, as in the LIF version."""
    builder = build(3, 66, 200)
    if image:
        builder.add("image", Scale(scale=integral(1)))
    shapes = [(24, (2, 2), 0), (36, (2, 2), 0), (48, (2, 2), 0), (64, (2, 1), 1), (64, (1, 1), 0)]
    for (channels, stride, pad), bits in zip(shapes, PILOT_BITS, strict=True):
        builder.conv(channels, 3, bits, stride, (pad, 0))
    for size in (100, 50, 10, 1):
        builder.dense(size)
    network: Network = builder.network()
    return network


def yolo_kp(build: Any) -> Network:
    """YOLO-KP for frames [3, 448, 448], at weight bits whose kernels fit as the published ones do."""
    builder = build(3, 448, 448)
    for channels, size, stride, bits in (
        (16, 3, 2, 5), (32, 3, 2, 5), (64, 3, 2, 5), (128, 3, 2, 5), (256, 3, 1, 5), (256, 3, 2, 4), (512, 3, 1, 5),
        (256, 1, 1, 5), (512, 3, 1, 5), (48, 1, 1, 6),
    ):
        builder.conv(channels, size, bits, (stride, stride), (size // 2, size // 2))
    network: Network = builder.network()
    return network


def placed(network: Network, **options: Any) -> Any:
    return Place(**options).run(network, find("loihi2-sim")).metadata["placement"]


@pytest.mark.parametrize("row", YOLO, ids=[f"{r[6]} cores" for r in YOLO])
def test_the_total_of_every_published_row_is_the_models(row: tuple[Any, ...]) -> None:
    axons_in, neurons, synapses, axon_map, axon_mem, published, _, tile = row
    assert total(axons_in, neurons, synapses, axon_map, axon_mem) == pytest.approx(published, abs=0.02)
    assert 100 * Load(neurons=int(np.prod(tile))).neurons / 4095 == pytest.approx(neurons, abs=0.01)


def test_a_load_uses_what_the_formula_says() -> None:
    load = Load(neurons=3584, synaptic_words=10368, axons_in=1, axons_out=56, axon_memory=28, groups=1)
    assert 100 * load.used == pytest.approx(87.47, abs=0.02)  # the second row of YOLO-KP


def test_words_of_a_dense_layer_are_the_published_ones() -> None:
    """PilotNet LIF: 10 -> 1 in 10 words, 50 -> 10 in 150, 100 -> 50 in 1300."""
    assert [axons * row_words(targets) for axons, targets in ((10, 1), (50, 10), (100, 50))] == [10, 150, 1300]


def test_mnist_takes_its_published_five_cores(build: Any) -> None:
    network = dense(build, 784, 128, 64, 10)
    assert placed(network)["fit"]["cores"]["used"] == estimate(network) == 5


@pytest.mark.parametrize(("image", "published"), [(True, 74), (False, 61)], ids=["LIF", "SDNN"])
def test_pilotnet_takes_its_published_cores(build: Any, image: bool, published: int) -> None:
    """The dense layer of 2560 inputs fits 7 cores; Intel's partitioner cut it into 12."""
    found = placed(pilotnet(build, image=image))
    assert found["fit"]["cores"]["used"] == pytest.approx(published, rel=0.1)


def test_pilotnet_is_cut_as_published(build: Any) -> None:
    found = placed(pilotnet(build, image=True))
    rows = {}
    for row in found["cores"]["rows"]:  # the first core of a layer holds a whole tile
        rows.setdefault(row[2].split("[")[0], (row[3], row[4]))
    cores = [p["cores"] for p in found["populations"].values()]
    convolutions = slice(1, 6)
    assert list(rows.values())[convolutions] == [r[:2] for r in PILOT_LIF[convolutions]]
    assert cores[:6] == [r[2] for r in PILOT_LIF[:6]]
    assert list(rows.values())[7:] == [r[:2] for r in PILOT_LIF[7:]]


def test_yolo_is_cut_as_published(build: Any) -> None:
    found = placed(yolo_kp(build), chips=8)
    assert found["fit"]["cores"] == {"used": 574, "limit": 1024}
    assert [p["cores"] for p in found["populations"].values()] == [row[6] for row in reversed(YOLO)]
    assert found["fit"]["chips"] == {"used": 5, "limit": 8}
    assert found["traffic"]["edges"] > 0


def test_oxford_takes_one_core_less_than_published(build: Any) -> None:
    """200-256-200: two layers of two cores; the partitioner of 2022 took 20 bits a synapse and three cores for the first."""
    assert placed(dense(build, 200, 256, 200))["fit"]["cores"]["used"] == 4
