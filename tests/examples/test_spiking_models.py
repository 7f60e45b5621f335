"""The model builders: published sizes, files without code, the reference's output, programs that are exact."""

import numpy as np
import pytest
import torch
from examples.spiking_models import vgg
from examples.spiking_models.cnn import spiking_cnn
from examples.spiking_models.parts import READOUTS, STEPS
from examples.spiking_models.sew_resnet import sew_resnet
from examples.spiking_models.vgg import spiking_vgg
from examples.spiking_models.wrn import spiking_wrn
from torch import nn
from torch.nn import functional

import d2e
import d2e.nn as dn
from d2e.compiler.frontends.files import load_model
from d2e.ir import reference

TINY = {
    "cnn": lambda **more: spiking_cnn(4, classes=4, size=8, **more),
    "vgg": lambda **more: spiking_vgg((4, "pool", 6, 6), classes=4, size=8, **more),
    "wrn": lambda **more: spiking_wrn(10, classes=4, size=8, base=4, stem_stride=1, **more),
    "wrn with a halving stem": lambda **more: spiking_wrn(10, 2, classes=4, size=9, base=2, **more),
    "sew_resnet": lambda **more: sew_resnet((2, 1), 4, classes=4, size=8, stem_stride=1, **more),
}
SIZES = {
    "cnn": (spiking_cnn, {}, 20_538), "vgg": (spiking_vgg, {}, 101_050), "wrn": (spiking_wrn, {}, 174_970),
    "sew_resnet": (sew_resnet, {}, 174_970),
    "wrn-16-4": (spiking_wrn, {"width": 4, "channels": 3, "size": 32, "stem_stride": 1}, 2_749_786),
    "wrn-16-8": (spiking_wrn, {"width": 8, "channels": 3, "size": 32, "stem_stride": 1}, 10_963_162),
    "wrn-28-10": (spiking_wrn, {"depth": 28, "width": 10, "channels": 3, "size": 32, "stem_stride": 1}, 36_481_434),
    "vgg11": (spiking_vgg, {"layout": vgg.VGG11, "channels": 3, "size": 32}, 9_228_362),
    "vgg16": (spiking_vgg, {"layout": vgg.VGG16, "channels": 3, "size": 32}, 14_724_042),
    "sew-18": (sew_resnet, {"stages": (2, 2, 2, 2), "base": 64, "channels": 3, "size": 32, "stem_stride": 1}, 11_173_962),
    "sew-34": (sew_resnet, {"stages": (3, 4, 6, 3), "base": 64, "channels": 3, "size": 32, "stem_stride": 1}, 21_282_122),
}


def trained(name, **options):
    """A tiny model whose BatchNorm has seen the frames that come with it, and its frames."""
    torch.manual_seed(0)
    model = TINY[name](**options)
    size = 9 if "halving" in name else 8
    frames = torch.randint(0, 2, (5, STEPS, 1, size, size))
    with torch.no_grad():
        model[-2].weight.mul_(4)  # so that neurons behind it fire
        for _ in range(30):
            model(frames.float())
    return model.eval(), frames


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_stated(name):
    build, options, expected = SIZES[name]
    assert sum(p.numel() for p in build(**options).parameters()) == expected


@pytest.mark.parametrize("build", [spiking_cnn, spiking_vgg, spiking_wrn, sew_resnet])
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32)])
def test_default_models_take_both_frames_and_classify_each_step(build, channels, size):
    with torch.no_grad():
        assert build(channels=channels, classes=7, size=size)(torch.rand(2, 3, channels, size, size)).shape == (2, 3, 7)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("readout", READOUTS)
def test_a_saved_model_is_read_as_torch_runs_it(tmp_path, name, readout):
    model, frames = trained(name, readout=readout)
    model.double()
    dn.save(model, tmp_path / "model.pt", input_shape=tuple(frames.shape[2:]), time_steps=STEPS, readout=READOUTS[readout])
    network = load_model(tmp_path / "model.pt")
    assert network.output.readout == READOUTS[readout]
    with torch.no_grad():
        expected = model(frames.double())
    np.testing.assert_array_equal(reference.run(network, frames.numpy()).output, expected.numpy())
    assert expected.any()


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize(("readout", "decay"), [("membrane", 0.5), ("spikes", 1.0)])
def test_its_program_for_loihi_is_exact(name, readout, decay):
    model, frames = trained(name, readout=readout, decay=decay)
    x = frames.numpy()
    program = d2e.compile(
        model, target="loihi2-sim", input_shape=x.shape[2:], time_steps=STEPS, readout=READOUTS[readout], calibration=x,
    )
    expected, found = (program.run(x, engine=engine, record="state") for engine in ("reference", "loihi2-sim"))
    np.testing.assert_array_equal(found.output, expected.output)
    for population in program.populations:
        for what in ("spikes", "v"):
            np.testing.assert_array_equal(getattr(found, what)[population], getattr(expected, what)[population])
    assert found.output.any()


@pytest.mark.parametrize("name", ["cnn", "vgg"])
def test_models_without_skips_run_on_speck(name):
    model, frames = trained(name, readout="spikes", decay=1.0)
    x = frames.numpy()
    program = d2e.compile(model, target="speck2f-sim", input_shape=x.shape[2:], time_steps=STEPS, calibration=x)
    np.testing.assert_array_equal(program.run(x).output, program.run(x, engine="reference").output)


@pytest.mark.parametrize("name", TINY)
def test_it_learns(name):
    torch.manual_seed(0)
    model = TINY[name]()
    size = 9 if "halving" in name else 8
    labels = torch.arange(32) % 4
    images = torch.rand(32, 1, 1, size, size) * 0.3
    for n, label in enumerate(labels):
        images[n, ..., int(label) * 2:int(label) * 2 + 2] += 0.7
    frames = images.expand(-1, STEPS, -1, -1, -1)
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True)
    for _ in range(25):
        loss = functional.cross_entropy(model(frames).mean(1), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert all(p.grad is not None for p in model.parameters())
    assert (model(frames).mean(1).argmax(1) == labels).float().mean() >= 0.9


def test_neurons_are_those_of_the_paper():
    found = [m for m in spiking_wrn().modules() if isinstance(m, dn.LIF)]
    assert len(found) == 13
    assert all((float(m.decay_mem), float(m.threshold), m.rules["reset"]) == (0.5, 1.0, "zero") for m in found)
    chip = [type(m) for m in spiking_wrn(decay=1.0, readout="spikes").modules() if isinstance(m, dn.Neuron)]
    assert chip == [dn.IF] * 14


def test_channels_are_last_in_memory():
    weights = [m.weight for m in spiking_wrn().modules() if isinstance(m, nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


@pytest.mark.parametrize(
    "make", [lambda: spiking_wrn(depth=12), lambda: spiking_wrn(depth=4), lambda: spiking_cnn(readout="voltage")],
)
def test_what_there_is_not_is_refused(make):
    with pytest.raises(ValueError, match="is n"):
        make()
