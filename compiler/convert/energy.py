"""What papers call the energy of a network: operations times published constants, an estimate of no chip."""

from __future__ import annotations

from typing import Any

from d2e.compiler import cost
from d2e.compiler.convert.skeleton import Skeleton
from d2e.compiler.energy import ADDITION_J, MULTIPLICATION_J, SOURCE
from d2e.compiler.paths import paths_from
from d2e.ir import host


def estimates(skeleton: Skeleton, synops: float) -> list[dict[str, Any]]:
    """Of the ANN and of the spiking network, per sample, in joules.

    Every synaptic operation is an addition. What real values need is counted as multiplications in both: the first layer,
    once per image, as its current stays the same over the steps, and what runs on the host.

    Args:
        skeleton: of the ANN.
        synops: of the spiking network, per sample.
    """
    shared, all_of_them = multiplications(skeleton)
    return [
        {"of": "ann", "value_j": all_of_them * MULTIPLICATION_J, "label": "estimated", "source": SOURCE},
        {"of": "snn", "value_j": shared * MULTIPLICATION_J + synops * ADDITION_J, "label": "estimated", "source": SOURCE},
    ]


def multiplications(skeleton: Skeleton) -> tuple[int, int]:
    """(those of the first layer and the host, all) of the ANN, per sample."""
    network, shapes = skeleton.network, skeleton.shapes
    first = sum(int(cost.path_fan_out(network, path, shapes).sum()) for path in paths_from(network, skeleton.input))
    on_host = sum(
        host.macs(node, shapes[network.incoming[name][0].source])
        for name in network.hosts if isinstance(node := network.nodes[name], host.Host)
    )
    return first + on_host, first + on_host + sum(int(layer.fan_out.sum()) for layer in skeleton.rectifiers)
