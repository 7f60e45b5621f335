"""What an error of a neuron costs at the output, so that errors of different layers and channels can be compared.

To second order, small errors e of the activations change the class probabilities of the ANN by a divergence of
``KL = 1/2 e^T F e`` nats, where F is the Fisher information of the activations: the mean of ``g g^T`` over answers y drawn
from the ANN's own probabilities, ``g`` the gradient of ``log p(y)``. Its diagonal is used here, no labels.
"""

from __future__ import annotations

import numpy as np
import torch

from d2e.compiler.convert.skeleton import Skeleton
from d2e.ir.nodes import Array

_AT_ONCE, _LEAST = 64, 0.05


def of(skeleton: Skeleton, images: Array, seed: int = 0) -> dict[str, Array]:
    """Population -> [C], in nats: what a squared error of 1 at every neuron of a channel costs in the mean of the images.

    A channel counts at least 5 % of its layer's mean.
    """
    generator = torch.Generator().manual_seed(seed)
    total = {layer.name: np.zeros(layer.channels) for layer in skeleton.rectifiers}
    for start in range(0, len(images), _AT_ONCE):
        sent = {skeleton.input: skeleton.image_frames(images[start : start + _AT_ONCE])}
        for layer in skeleton.layers.values():
            through = skeleton.activation(layer, sent)[1]
            if layer.name in total:
                through = through if through.requires_grad else through.requires_grad_()
                through.retain_grad()
            sent[layer.name] = through
        answers = torch.log_softmax(sent[skeleton.readout.name].flatten(1), dim=1)
        drawn = torch.multinomial(answers.detach().exp(), 1, generator=generator)
        torch.gather(answers, 1, drawn).sum().backward()  # type: ignore[no-untyped-call]
        for name, found in total.items():
            gradient = sent[name].grad
            if gradient is not None:
                layer = skeleton.layers[name]
                found += layer.per_channel(layer.rows(gradient.double().square())).sum(axis=0)
    halved = {name: found / (2 * len(images)) for name, found in total.items()}
    return {name: np.maximum(found, _LEAST * found.mean()) for name, found in halved.items()}
