"""What the front end tests share: models that hold every layer, and the comparison with the reference."""

import numpy as np
import pytest
import torch
from torch import nn

import d2e.nn as dn
from d2e.compiler.frontends.torch_fx import from_torch
from d2e.ir.reference import run


class Residual(nn.Module):
    """x + neuron(norm(conv(x))), then a second neuron."""

    def __init__(self, channels):
        super().__init__()
        self.conv = dn.TimeFolded(nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        ))
        self.inner = dn.LIF(0.8, 0.6)
        self.outer = dn.IF(0.9, max_spikes=3)

    def forward(self, x):
        return self.outer(x + self.inner(self.conv(x)))


def settle(model, frames):
    """Biases that make spikes, BatchNorm with statistics, float64, evaluation mode."""
    model = model.double()
    for module in model.modules():
        norm = isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))
        if norm and module.affine:
            nn.init.uniform_(module.weight, 0.5, 1.5)
        if (norm or isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d))) and module.bias is not None:
            nn.init.uniform_(module.bias, 0.0, 0.4)
    with torch.no_grad():
        model.train()(frames)
    return model.eval()


MODELS = {
    "mlp": ((6,), lambda: dn.Sequential(
        nn.Linear(6, 8), dn.IF(0.3), nn.Dropout(0.5), nn.Linear(8, 5, bias=False), dn.LIF(0.9, 0.2))),
    "conv1d": ((4, 12), lambda: dn.Sequential(
        nn.Conv1d(4, 8, 3, stride=2, padding=2, dilation=2, groups=2), nn.BatchNorm1d(8), dn.IF(0.4),
        nn.Conv1d(8, 6, 4, padding="same"), dn.CubaLIF(0.4, 0.8, 0.5), nn.Flatten(), nn.Linear(36, 3),
        dn.IF(0.3))),
    "conv2d": ((2, 9, 11), lambda: dn.Sequential(
        nn.Conv2d(2, 4, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2), nn.BatchNorm2d(4),
        nn.Identity(), dn.IF(torch.tensor([0.3, 0.4, 0.5, 0.6]).reshape(4, 1, 1), reset="zero"),
        nn.Conv2d(4, 6, (2, 3), padding="same", bias=False), nn.BatchNorm2d(6, affine=False),
        dn.LIF(0.9, 0.5, "value", v_reset=-0.2), nn.Flatten(), nn.Linear(6 * 5 * 7, 4), nn.BatchNorm1d(4),
        dn.LI(0.8))),
    "pools": ((3, 8, 8), lambda: dn.Sequential(
        nn.Conv2d(3, 3, 1, padding="valid"), dn.SumPool2d(3, 2, 1), dn.IF(0.8, max_spikes=0),
        nn.AvgPool2d(2, divisor_override=3), nn.BatchNorm2d(3), dn.IF(0.3), nn.AdaptiveAvgPool2d((1, None)),
        nn.Flatten(2), nn.Linear(2, 2), dn.IF(0.1))),
    "average": ((2, 6, 6), lambda: dn.Sequential(
        nn.AvgPool2d(3, 1, 1), dn.IF(0.5), nn.AvgPool2d(2, ceil_mode=True), dn.IF(0.4))),
    "norm of spikes": ((4,), lambda: dn.Sequential(
        nn.Linear(4, 6), dn.IF(0.3), nn.BatchNorm1d(6), nn.Linear(6, 3), dn.IF(0.2))),
    "recurrent": ((5,), lambda: dn.Sequential(
        nn.Linear(5, 7), dn.Recurrent(dn.LIF(0.9, 0.4, fire="gt"), nn.Linear(7, 7)), nn.Linear(7, 3),
        dn.Recurrent(dn.IF(0.3, reset_when="next"), nn.Linear(3, 3, bias=False)))),
    "recurrent conv": ((2, 5, 5), lambda: dn.Sequential(
        nn.Conv2d(2, 4, 3),
        dn.Recurrent(dn.CubaLIF(0.3, 0.9, 0.3), nn.Conv2d(4, 4, 2, padding="same", groups=2)))),
    "residual": ((2, 5, 5), lambda: dn.Sequential(
        nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), dn.IF(0.4)), Residual(3), nn.Flatten(),
        nn.Linear(75, 4), dn.IF(0.4))),
    "levels": ((6,), lambda: dn.Sequential(
        nn.Linear(6, 8), dn.MultiThreshold([0.25, 0.5, 1.0], signed=True), nn.Linear(8, 4),
        dn.MultiThreshold([0.1, 0.3], decay=0.9, payloads=[1.0, 2.0], learn_threshold=True))),
}


@pytest.fixture(params=MODELS)
def example(request):
    """(model in float64, shape of a frame, frames)."""
    shape, make = MODELS[request.param]
    torch.manual_seed(len(request.param))
    frames = (torch.rand(3, 10, *shape) < 0.5).double()
    return settle(make(), frames), shape, frames


@pytest.fixture
def assert_equal():
    """Check a module against the reference on its network; both must do something."""

    def check(module, shape, frames, **facts):
        network = from_torch(module, shape, **facts)
        trace = run(network, frames.numpy())
        with torch.no_grad():
            found = module(frames).numpy()
        np.testing.assert_allclose(found, trace.output, rtol=0, atol=1e-12)
        assert np.abs(found).sum() > 0
        assert all(count.any() for name, count in trace.counts.items() if network.nodes[name].kind != "li")
        return network

    return check
