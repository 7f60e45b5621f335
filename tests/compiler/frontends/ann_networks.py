"""ReLU models as they are written in the wild, and what a network read from one computes as an ANN."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from d2e.compiler.passes.canonicalise import Canonicalise
from d2e.ir import Network, Neuron, Output, Synapse, linear
from d2e.ir.shapes import infer_shapes


def evaluate(network: Network, frames: np.ndarray) -> np.ndarray:
    """Populations as ReLUs and clamps, synapses as they are, sums over edges."""
    shapes, values = infer_shapes(network), {}
    for name in network.order:
        node = network.nodes[name]
        sources = [edge.source for edge in network.incoming[name]]
        if not sources:
            values[name] = frames
            continue
        total = sum(values[source] for source in sources)
        if isinstance(node, Synapse):
            values[name] = linear.apply(node, total, shapes[sources[0]])
        elif isinstance(node, Neuron):
            values[name] = np.clip(total + node.bias, 0, node.metadata.get("cap"))
        else:
            values[name] = total
    (output,) = (name for name in network.nodes if isinstance(network.nodes[name], Output))
    return values[output]


def canonical(network: Network) -> Network:
    """The network with one linear map between any two populations."""
    return Canonicalise().run(network, None)


def settled(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """The model in float64 with biases, and BatchNorm with statistics and factors of its own."""
    model = model.double()
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(8, *shape, dtype=torch.float64))
    return model.eval()


def assert_same(model: nn.Module, network: Network, canonicalise: bool = True) -> None:
    """Torch, the network and its canonical form compute the same."""
    frames = torch.randn(4, *network.input.shape, dtype=torch.float64)
    with torch.no_grad():
        wanted = model(frames.clone()).numpy()
    assert np.abs(wanted).sum() > 0
    for form in (network, canonical(network)) if canonicalise else (network,):
        np.testing.assert_allclose(evaluate(form, frames.numpy()), wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max())


class LambdaLayer(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class CifarBlock(nn.Module):
    def __init__(self, before, planes, stride, option="A"):
        super().__init__()
        self.conv1 = nn.Conv2d(before, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential()
        if stride != 1 and option == "A":
            self.shortcut = LambdaLayer(lambda x: functional.pad(
                x[:, :, ::2, ::2], (0, 0, 0, 0, planes // 4, planes // 4), "constant", 0))
        elif stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(before, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))

    def forward(self, x):
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return functional.relu(out)


class CifarResNet(nn.Module):
    """He et al.'s ResNet of 6 n + 2 layers for CIFAR."""

    def __init__(self, n=3, width=16, option="A"):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        before, blocks = width, []
        for stage in range(3):
            for i in range(n):
                planes = width << stage
                blocks.append(CifarBlock(before, planes, 2 if stage and i == 0 else 1, option))
                before = planes
        self.layers = nn.Sequential(*blocks)
        self.linear = nn.Linear(before, 10)

    def forward(self, x):
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.layers(out)
        out = functional.avg_pool2d(out, out.size()[3])
        out = out.view(out.size(0), -1)
        return self.linear(out)
