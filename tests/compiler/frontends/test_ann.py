"""load_ann: a trained ReLU network as populations that compute what torch computes."""

import pytest
import torch
from tests.compiler.frontends.ann_networks import CifarResNet, assert_same, canonical, settled

from d2e.compiler.frontends.ann import load_ann


@pytest.mark.parametrize("option", ["A", "B"])
def test_cifar_resnet_20(option):
    torch.manual_seed(1)
    model = settled(CifarResNet(3, 4, option), (3, 16, 16))
    network = load_ann(model, input_shape=(3, 16, 16), name="resnet20")
    assert_same(model, network)
    assert len(network.populations) == 19
    assert (network.input.coding, network.output.readout) == ("direct", "last")
    assert dict(network.metadata) == {"source": "torch", "name": "resnet20"}
    for name in network.populations:
        node = network.nodes[name]
        assert (node.kind, node.threshold, node.reset, node.max_spikes) == ("if", 1, "subtract", 0)
        assert node.metadata == {"activation": "relu"}
    if option == "A":
        kernels = [node.weight.shape for node in canonical(network).nodes.values() if node.kind == "conv2d"]
        assert (8, 4, 1, 1) in kernels
        assert (16, 8, 1, 1) in kernels
