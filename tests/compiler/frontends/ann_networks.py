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


class BasicBlock(nn.Module):
    """torchvision's: one ReLU module for all places."""

    expansion = 1

    def __init__(self, before, planes, stride=1, downsample=None):
        super().__init__()
        self.conv1 = nn.Conv2d(before, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample, self.stride = downsample, stride

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, before, planes, stride=1, downsample=None):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, planes, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = nn.Conv2d(planes, planes * 4, 1, bias=False), nn.BatchNorm2d(planes * 4)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    """torchvision's, with an average for the first maximum and few channels."""

    def __init__(self, block, counts=(1, 2)):
        super().__init__()
        self.before = 8
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8)
        self.relu, self.pool = nn.ReLU(inplace=True), nn.AvgPool2d(2)
        self.layer1 = self._layer(block, 4, counts[0], 1)
        self.layer2 = self._layer(block, 8, counts[1], 2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8 * block.expansion, 10)

    def _layer(self, block, planes, count, stride):
        width = planes * block.expansion
        downsample = None
        if stride != 1 or self.before != width:
            downsample = nn.Sequential(nn.Conv2d(self.before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        blocks = [block(self.before, planes, stride, downsample)]
        self.before = width
        return nn.Sequential(*blocks, *(block(width, planes) for _ in range(1, count)))

    def forward(self, x):
        x = self.pool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer2(self.layer1(x))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class DenseLayer(nn.Module):
    def __init__(self, before, growth):
        super().__init__()
        self.norm1, self.relu1 = nn.BatchNorm2d(before), nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(before, 2 * growth, 1, bias=False)
        self.norm2, self.relu2 = nn.BatchNorm2d(2 * growth), nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features):
        out = self.conv1(self.relu1(self.norm1(torch.cat(features, 1))))
        return self.conv2(self.relu2(self.norm2(out)))


class DenseNet(nn.Module):
    """Huang et al.'s: every layer of a block sees all before it, a transition halves channels and frames."""

    def __init__(self, growth=4, layers=3):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.block1 = nn.ModuleList(DenseLayer(6 + i * growth, growth) for i in range(layers))
        width = 6 + layers * growth
        self.transition = nn.Sequential(
            nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2, 2))
        self.block2 = nn.ModuleList(DenseLayer(width // 2 + i * growth, growth) for i in range(layers))
        self.norm = nn.BatchNorm2d(width // 2 + layers * growth)
        self.classifier = nn.Linear(width // 2 + layers * growth, 5)

    def forward(self, x):
        features = [self.first(x)]
        for layer in self.block1:
            features.append(layer(features))
        x = self.transition(torch.cat(features, 1))
        for layer in self.block2:  # as the original code has it: one by one
            x = torch.cat([x, layer([x])], dim=1)
        out = functional.relu(self.norm(x), inplace=True)
        out = functional.adaptive_avg_pool2d(out, (1, 1))
        return self.classifier(torch.flatten(out, 1))


class MobileBlock(nn.Module):
    """An inverted residual of MobileNetV2."""

    def __init__(self, before, after, stride):
        super().__init__()
        wide, self.skip = 3 * before, stride == 1 and before == after
        self.conv = nn.Sequential(
            nn.Conv2d(before, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(inplace=True),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(inplace=True),
            nn.Conv2d(wide, after, 1, bias=False), nn.BatchNorm2d(after),
        )

    def forward(self, x):
        return x + self.conv(x) if self.skip else self.conv(x)


class MobileNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(inplace=True),
            MobileBlock(8, 8, 1), MobileBlock(8, 12, 2), MobileBlock(12, 12, 1),
            nn.Conv2d(12, 12, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU6(inplace=True),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(12, 5))

    def forward(self, x):
        return self.classifier(self.features(x).mean([2, 3]))


def vgg() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True),
        nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.AvgPool2d(2, 2),
        nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.AvgPool2d(2, 2), nn.Dropout(),
        nn.Flatten(), nn.Linear(8 * 4 * 4, 16), nn.BatchNorm1d(16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 10),
    )


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(7, 12), nn.ReLU(), nn.BatchNorm1d(12), nn.Linear(12, 9, bias=False), nn.ReLU(), nn.Linear(9, 4), nn.ReLU(),
    )


MODELS = {
    "mlp": ((7,), mlp, 3), "vgg": ((3, 16, 16), vgg, 4),
    "basic": ((3, 16, 16), lambda: ResNet(BasicBlock), 7), "bottleneck": ((3, 16, 16), lambda: ResNet(Bottleneck), 10),
    "densenet": ((3, 8, 8), DenseNet, 14), "mobilenet": ((3, 12, 12), MobileNet, 8),
}
"""Name -> (shape of a frame, what makes it, how many ReLUs it calls)."""
