"""Sequential, TimeFolded, Recurrent, Residual and SumPool2d: frame by frame, and trainable."""

import pytest
import torch
from torch import nn

import d2e.nn as dn
from d2e.compiler.convert.skeleton import Skeleton, activate, integrated
from d2e.compiler.frontends.ann import load_ann
from d2e.compiler.frontends.files import load_model
from d2e.compiler.frontends.torch_export import from_exported
from d2e.ir import reference
from d2e.ir.errors import UsageError


def test_sequential_applies_layers_to_every_frame():
    torch.manual_seed(0)
    conv, linear = nn.Conv2d(1, 2, 3), nn.Linear(8, 3)
    model = dn.Sequential(conv, dn.IF(0.2), nn.Sequential(nn.Flatten(), linear), dn.LI(0.9))
    frames = torch.rand(2, 5, 1, 4, 4)
    with torch.no_grad():
        currents = torch.stack([conv(frames[:, t]) for t in range(5)], 1)
        spikes = model[1](currents)
        expected = model[3](torch.stack([linear(spikes[:, t].flatten(1)) for t in range(5)], 1))
        torch.testing.assert_close(model(frames), expected)


def test_plain_sequentials_with_neurons_inside_keep_time():
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(4, 6), dn.IF(0.3), nn.Linear(6, 3))
    frames = torch.rand(2, 5, 4)
    nested, flat = dn.Sequential(inner, dn.LIF(0.9, 0.3)), dn.Sequential(*inner, dn.LIF(0.9, 0.3))
    torch.testing.assert_close(nested(frames), flat(frames))


def test_batch_norm_sees_all_steps_at_once():
    model = dn.Sequential(nn.BatchNorm1d(3), dn.LI(0.0))
    frames = torch.rand(4, 6, 3) * 5
    out = model(frames)
    torch.testing.assert_close(out.flatten(0, 1).mean(0), torch.zeros(3), atol=1e-5, rtol=0)


def test_recurrent_feeds_back_the_step_before():
    layer = nn.Linear(1, 1)
    with torch.no_grad():
        layer.weight.fill_(-1.0)
        layer.bias.fill_(0.5)
    membrane = dn.LI(1.0)
    out = dn.Recurrent(membrane, layer)(torch.ones(1, 4, 1))
    # v(t) = v(t-1) + 1 - v(t-1) + 0.5, nothing but the layer's bias fed back into the first step
    assert out.flatten().tolist() == [1.5, 1.5, 1.5, 1.5]


@pytest.mark.parametrize(
    "make",
    [
        lambda: dn.Recurrent(nn.ReLU(), nn.Linear(2, 2)), lambda: dn.Recurrent(dn.IF(), nn.ReLU()),
        lambda: dn.Recurrent(dn.IF(), nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")),
        lambda: dn.Recurrent(dn.IF(), nn.Conv1d(2, 2, 1, stride=2)),
    ],
)
def test_recurrent_refuses_what_it_cannot_mean(make):
    with pytest.raises(UsageError) as caught:
        make()
    assert caught.value.code == "D2E-NN-002"


def test_residual_adds_its_input_in_time_and_without():
    conv = nn.Conv2d(2, 2, 3, padding=1)
    frames = torch.rand(3, 5, 2, 4, 4)
    plain = dn.Residual(nn.Sequential(conv, nn.ReLU()))
    torch.testing.assert_close(plain(frames[:, 0]), conv(frames[:, 0]).relu() + frames[:, 0])
    torch.testing.assert_close(dn.Sequential(plain, dn.LI(0.0))(frames)[:, 2], plain(frames[:, 2]))
    spiking = dn.Residual(dn.Sequential(conv, dn.IF(0.2)))
    torch.testing.assert_close(dn.Sequential(spiking, dn.LI(0.0))(frames), spiking.body(frames) + frames)


@pytest.mark.parametrize("spiking", [False, True])
def test_a_residual_is_read_from_a_file_that_runs_no_code(tmp_path, spiking):
    conv = nn.Conv2d(2, 2, 3, padding=1)
    body = dn.Sequential(conv, dn.IF(0.2)) if spiking else nn.Sequential(conv, nn.ReLU(), nn.Conv2d(2, 2, 1))
    kind = dn.Sequential if spiking else nn.Sequential
    model = kind(dn.Residual(body), dn.IF(0.37) if spiking else nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    dn.save(model, tmp_path / "model.pt", input_shape=(2, 4, 4))
    x = torch.randint(0, 2, (6, 5, 2, 4, 4)).float()
    with torch.no_grad():
        if spiking:
            found = reference.run(load_model(tmp_path / "model.pt"), x.numpy().astype(int)).output
            torch.testing.assert_close(torch.from_numpy(found).float(), model(x))
        else:
            skeleton = Skeleton(integrated(load_ann(tmp_path / "model.pt")))
            logits = activate(skeleton, x[:, 0].numpy())[1][skeleton.readout.name]
            torch.testing.assert_close(torch.from_numpy(logits), model(x[:, 0]))


def projected(spiking, kind=nn.Sequential):
    """A residual block that halves the frame and doubles the channels, neurons behind it or in both branches or nowhere."""
    body = [nn.Conv2d(2, 4, 3, 2, 1), nn.BatchNorm2d(4)]
    past = [nn.Conv2d(2, 4, 1, 2, bias=False), nn.BatchNorm2d(4)]
    if spiking == "nowhere":
        return dn.Residual(nn.Sequential(*body, nn.ReLU()), nn.Sequential(*past))
    if spiking == "both":
        return dn.Residual(kind(*body, dn.IF(0.2)), kind(*past, dn.IF(0.3)))
    return dn.Residual(kind(*body, dn.LIF(0.5, 0.2), nn.Conv2d(4, 4, 1)), kind(*past))


@pytest.mark.parametrize("kind", [nn.Sequential, dn.Sequential])
@pytest.mark.parametrize("spiking", ["body", "both"])
def test_a_shortcut_projects_in_time(spiking, kind):
    block = projected(spiking, kind).eval()
    frames = torch.rand(3, 5, 2, 6, 6)
    expected = dn.Sequential(*block.body)(frames) + dn.Sequential(*block.shortcut)(frames)
    torch.testing.assert_close(dn.Sequential(block, dn.LI(0.0))(frames), expected)
    assert expected.shape == (3, 5, 4, 3, 3)


def test_a_shortcut_projects_without_time():
    block = projected("nowhere").eval()
    frames = torch.rand(3, 2, 6, 6)
    torch.testing.assert_close(block(frames), block.body(frames) + block.shortcut(frames))
    torch.testing.assert_close(dn.Sequential(block, dn.LI(0.0))(frames[:, None])[:, 0], block(frames))


@pytest.mark.parametrize("kind", [nn.Sequential, dn.Sequential])
@pytest.mark.parametrize("spiking", ["body", "both"])
def test_a_shortcut_is_compiled_as_it_runs(tmp_path, spiking, kind):
    torch.manual_seed(1)
    tail = dn.LIF(0.5, 0.37, reset="zero"), nn.Flatten(), nn.Linear(36, 3), dn.LI(0.0)
    model = dn.Sequential(projected(spiking, kind), *tail)
    frames = torch.randint(0, 2, (4, 6, 2, 6, 6)).double()
    model.double()(frames)
    dn.save(model.eval(), tmp_path / "model.pt", input_shape=(2, 6, 6))
    for network in (load_model(tmp_path / "model.pt"), from_exported(torch.export.export(model, (frames,)))):
        found = reference.run(network, frames.numpy().astype(int)).output
        torch.testing.assert_close(torch.from_numpy(found), model(frames))


def test_a_shortcut_without_neurons_is_converted(tmp_path):
    model = nn.Sequential(projected("nowhere"), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
    dn.save(model.eval(), tmp_path / "model.pt", input_shape=(2, 6, 6))
    x = torch.rand(4, 2, 6, 6)
    skeleton = Skeleton(integrated(load_ann(tmp_path / "model.pt")))
    logits = activate(skeleton, x.numpy())[1][skeleton.readout.name]
    torch.testing.assert_close(torch.from_numpy(logits), model(x))


def test_a_residual_of_an_older_file_has_no_shortcut():
    block = dn.Residual(dn.Sequential(nn.Linear(3, 3), dn.IF()))
    del block.shortcut
    frames = torch.rand(2, 4, 3)
    torch.testing.assert_close(block(frames), block.body(frames) + frames)


def test_sum_pool_is_average_times_window():
    frames = torch.rand(2, 3, 6, 7, dtype=torch.float64)
    pooled = dn.SumPool2d((2, 3), stride=2, padding=1)(frames)
    average = nn.functional.avg_pool2d(frames, (2, 3), 2, 1)
    torch.testing.assert_close(pooled, average * 6)
    assert "kernel_size=(2, 3)" in repr(dn.SumPool2d((2, 3)))


def test_a_small_network_learns_to_tell_two_rates_apart():
    torch.manual_seed(0)
    model = dn.Sequential(nn.Linear(4, 16), dn.IF(), nn.Linear(16, 2), dn.LIF(0.9))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    labels = torch.arange(64) % 2
    rates = torch.where(labels[:, None] == torch.tensor([0, 0, 1, 1]), 0.7, 0.2)
    spikes = (torch.rand(64, 12, 4) < rates[:, None]).float()
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(spikes).sum(1), labels).backward()
        optimizer.step()
    assert (model(spikes).sum(1).argmax(1) == labels).float().mean() >= 0.95


def test_the_face_offers_the_same_names():
    from d2e.compiler import nn as inner

    assert dn.__all__ == inner.__all__
    assert all(getattr(dn, name) is getattr(inner, name) for name in dn.__all__)
