"""Small ReLU networks as torch modules, and each once more in plain numpy on burst neurons, from the same weights.

``numpy_<name>(w, x, fire)`` computes the logits of frames ``x``; ``fire(name, z)`` stands for each ReLU.
"""

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from tests.compiler.frontends.ann_networks import settled
from torch import nn

from d2e.compiler.convert.adaptive.calibrate import State
from d2e.compiler.convert.adaptive.engine import Burst
from d2e.compiler.convert.skeleton import Skeleton, integrated
from d2e.compiler.frontends.ann import load_ann


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.a, self.fc2, self.b, self.fc3 = (
            nn.Linear(7, 12), nn.ReLU(), nn.Linear(12, 9, bias=False), nn.ReLU(), nn.Linear(9, 4))

    def forward(self, x):
        return self.fc3(self.b(self.fc2(self.a(self.fc1(x)))))


def numpy_mlp(w, x, fire):
    x = fire("a", dense(w, "fc1", x))
    return dense(w, "fc3", fire("b", dense(w, "fc2", x)))


class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.a = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()
        self.conv2, self.bn2, self.b = nn.Conv2d(4, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()
        self.pool, self.fc = nn.AvgPool2d(2), nn.Linear(3 * 2 * 2, 5)

    def forward(self, x):
        x = self.pool(self.a(self.bn1(self.conv1(x))))
        x = self.pool(self.b(self.bn2(self.conv2(x))))
        return self.fc(x.flatten(1))


def numpy_conv(w, x, fire):
    x = pooled(fire("a", norm(w, "bn1", conv(w, "conv1", x))))
    x = pooled(fire("b", norm(w, "bn2", conv(w, "conv2", x))))
    return dense(w, "fc", x.reshape(len(x), -1))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.bn, self.a = nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU()
        self.conv1, self.b = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU()
        self.conv2, self.down, self.c = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(3, 4, 1, stride=2), nn.ReLU()
        self.conv3, self.d, self.fc = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Linear(4, 5)

    def forward(self, x):
        x = self.a(self.bn(self.stem(x)))
        x = self.c(self.conv2(self.b(self.conv1(x))) + self.down(x))
        x = self.d(self.conv3(x) + x)
        return self.fc(x.mean((2, 3)))


def numpy_residual(w, x, fire):
    x = fire("a", norm(w, "bn", conv(w, "stem", x)))
    inner = fire("b", conv(w, "conv1", x, stride=2))
    x = fire("c", conv(w, "conv2", inner) + conv(w, "down", x, stride=2))
    x = fire("d", conv(w, "conv3", x) + x)
    return dense(w, "fc", x.mean((2, 3)))


class Concat(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.a, self.right, self.b = nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1), nn.ReLU()
        self.conv, self.c, self.fc = nn.Conv2d(5, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Linear(4 * 4 * 4, 3)

    def forward(self, x):
        x = self.c(self.conv(torch.cat([self.a(self.left(x)), self.b(self.right(x))], 1)))
        return self.fc(torch.flatten(x, 1))


def numpy_concat(w, x, fire):
    both = np.concatenate([fire("a", conv(w, "left", x)), fire("b", conv(w, "right", x))], 1)
    return dense(w, "fc", fire("c", conv(w, "conv", both, stride=2)).reshape(len(x), -1))


class Relu6(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn, self.a = nn.Conv2d(2, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU6()
        self.wise, self.b, self.conv2 = nn.Conv2d(4, 4, 3, 2, 1, groups=4), nn.ReLU6(), nn.Conv2d(4, 4, 1)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.conv2(self.b(self.wise(self.a(self.bn(self.conv1(x)))))).mean((2, 3)))


def numpy_relu6(w, x, fire):
    x = fire("a", norm(w, "bn", conv(w, "conv1", x)))
    x = fire("b", conv(w, "wise", x, stride=2))
    return dense(w, "fc", conv(w, "conv2", x).mean((2, 3)))


MODELS = {
    "mlp": ((7,), Mlp, numpy_mlp), "conv": ((2, 8, 8), Conv, numpy_conv), "residual": ((2, 8, 8), Residual, numpy_residual),
    "concat": ((2, 8, 8), Concat, numpy_concat), "relu6": ((2, 8, 8), Relu6, numpy_relu6),
}
"""Name -> (shape of an image, module, the same in numpy)."""


# --------------------------------------------------------------------------- layers in numpy, x [B, *shape]


def dense(w, name, x):
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)


def conv(w, name, x, stride=1):
    """Same padding; as many groups as the weights say."""
    kernel = w[f"{name}.weight"]
    pad, groups = kernel.shape[2] // 2, x.shape[1] // kernel.shape[1]
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = sliding_window_view(padded, kernel.shape[2:], (2, 3))[:, :, ::stride, ::stride]
    parts = zip(np.split(windows, groups, 1), np.split(kernel, groups), strict=True)
    z = np.concatenate([np.einsum("bcyxij,ocij->boyx", part, k) for part, k in parts], 1)
    return z + w[f"{name}.bias"][:, None, None] if f"{name}.bias" in w else z


def norm(w, name, x):
    keys = ("running_mean", "running_var", "weight", "bias")
    mean, var, weight, bias = (w[f"{name}.{key}"][:, None, None] for key in keys)
    return (x - mean) / np.sqrt(var + w["eps"]) * weight + bias


def pooled(x):
    b, c, height, width = x.shape
    return x.reshape(b, c, height // 2, 2, width // 2, 2).mean((3, 5))


def weights_of(model):
    """Parameters as arrays, and the epsilon of its BatchNorms."""
    eps = {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)} or {0.0}
    (one,) = eps
    return {**{key: value.numpy().astype(float) for key, value in model.state_dict().items()}, "eps": one}


# --------------------------------------------------------------------------- burst neurons in numpy


def stepwise(name, model, plan, images, steps):
    """(population -> n [B, T, *shape], summed logits [B, T, classes]), by the equations, one step after the other."""
    w, v, spikes, logits = weights_of(model), {}, {}, []

    def fire(population, z):
        theta, start, shift = (
            np.asarray(a, float).reshape(-1, *([1] * (z.ndim - 2)))
            for a in (plan[population].threshold, plan[population].start, plan[population].shift))
        now = v.get(population, np.broadcast_to(start, z.shape)) + z + shift
        n = np.clip(np.floor(now / theta), 0, plan[population].most)
        v[population] = now - n * theta
        spikes.setdefault(population, []).append(n)
        return n * theta

    for _ in range(steps):
        logits.append(MODELS[name][2](w, images, fire))
    return {key: np.stack(value, 1) for key, value in spikes.items()}, np.cumsum(logits, 0).swapaxes(0, 1)


def activations(name, model, images):
    """(population -> z, population -> what the ReLU lets through, logits) of the ANN in numpy, ReLU6 where it is one."""
    received, sent = {}, {}

    def fire(population, z):
        received[population], sent[population] = z, np.clip(z, 0, 6 if name == "relu6" else None)
        return sent[population]

    logits = MODELS[name][2](weights_of(model), images, fire)
    return received, sent, logits


# --------------------------------------------------------------------------- what tests begin with


def floating(name, seed=0, count=16):
    """A module in float64 with random weights and BatchNorm statistics, and images."""
    torch.manual_seed(seed)
    shape, make, _ = MODELS[name]
    return settled(make(), shape), np.random.default_rng(seed).normal(0.3, 1.0, (count, *shape))


def certain(name, by=5.0, seed=0, count=96):
    """The same with logits ``by`` times as large, so that errors cost divergence."""
    model, images = floating(name, seed, count)
    with torch.no_grad():
        last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        last.weight.mul_(by)
        last.bias.mul_(by)
    return model, images


def dyadic(name, seed=0, count=8):
    """The same with numbers that are multiples of powers of two, so that every sum is exact."""
    model, _ = floating(name, seed)
    rng = np.random.default_rng(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
            module.running_var = torch.from_numpy(4.0 ** rng.integers(-1, 2, module.num_features))
            module.running_mean = torch.from_numpy(rng.integers(-4, 5, module.num_features) / 8)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(rng.integers(-8, 9, parameter.shape) / 8))
    return model, rng.integers(-4, 9, (count, *MODELS[name][0])) / 4


def skeleton_of(name, model, dtype=torch.float64):
    return Skeleton(integrated(load_ann(model, input_shape=MODELS[name][0])), dtype)


def random_plan(skeleton, most, seed=0, exact=True):
    """Neurons with thresholds, starts and shifts of their own in every channel, the readout with a shift."""
    rng, plan = np.random.default_rng(seed), {}
    for layer in skeleton.layers.values():
        c = layer.channels
        theta = rng.choice([0.25, 0.375, 0.5, 0.75, 1.0, 1.5], c) if exact else rng.uniform(0.1, 1.5, c)
        start = theta * rng.choice([-0.5, 0.0, 0.5], c) if exact else theta * rng.uniform(-1, 1, c)
        shift = rng.integers(-4, 9, c) / 16 if exact else rng.uniform(-0.25, 0.5, c)
        plan[layer.name] = Burst(np.ones(c), np.zeros(c), shift, 1) if layer.readout else Burst(theta, start, shift, most)
    return plan


def state_of(skeleton, plan):
    return State(skeleton, plan)
