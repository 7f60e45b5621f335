"""Exported programs: the same network as from the module, read from the archive without running anything."""

import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

import d2e.nn as dn
from d2e.compiler.frontends.files import load_model
from d2e.compiler.frontends.torch_export import from_exported
from d2e.compiler.frontends.torch_fx import from_torch
from d2e.ir.errors import D2EError, UnsupportedError, UsageError
from d2e.ir.reference import run


def exported(model, shape, **options):
    return torch.export.export(model, (torch.zeros(2, 5, *shape),), **options)


def rewritten(path, target, change):
    """A copy of an archive with entries changed: ``change(name, content)`` returns the new content."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return target


@pytest.fixture
def simple():
    torch.manual_seed(0)
    return dn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), dn.IF(), nn.Flatten(), nn.Linear(8, 3), dn.LI(0.9)
    ).eval()


@pytest.fixture
def archive(simple, tmp_path):
    torch.export.save(exported(simple, (1, 4, 4)), tmp_path / "net.pt2")
    return tmp_path / "net.pt2"


def test_an_exported_model_is_the_same_network(example, tmp_path):
    model, shape, frames = example
    expected = from_torch(model, shape, time_steps=10)
    program = torch.export.export(model, (frames,))
    network = from_exported(program)
    if any(type(m).__name__ == "Residual" for m in model.modules()):  # names inside differ
        np.testing.assert_allclose(
            run(network, frames.numpy()).output, run(expected, frames.numpy()).output, rtol=0, atol=1e-12
        )
    else:
        assert network.same(expected)
    torch.export.save(program, tmp_path / "net.pt2")
    assert load_model(tmp_path / "net.pt2").same(network)


@pytest.mark.parametrize("options", [{"strict": True}, {"dynamic_shapes": ({0: torch.export.Dim("batch")},)}])
def test_ways_of_exporting(simple, options):
    expected = from_torch(simple, (1, 4, 4), time_steps=5)
    assert from_exported(exported(simple, (1, 4, 4), **options)).same(expected)


def test_the_exported_program_runs_the_same_spikes(simple):
    model = dn.Sequential(*simple, dn.Recurrent(dn.CubaLIF(0.5, 0.9, 0.3), nn.Linear(3, 3))).eval()
    frames = (torch.rand(2, 5, 1, 4, 4) < 0.5).float()
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(model, (frames,)).module()(frames), model(frames))


def test_facts_can_be_stated(archive):
    facts = {"input_shape": (1, 4, 4), "time_steps": 9, "coding": "direct", "readout": "mean", "dt": 1e-3}
    network = load_model(archive, **facts)
    assert (network.input.time_steps, network.input.coding, network.input.dt) == (9, "direct", 1e-3)
    assert network.output.readout == "mean"
    with pytest.raises(UsageError, match=r"takes frames of shape \(1, 4, 4\)"):
        load_model(archive, input_shape=(1, 5, 5))


def test_an_archive_named_pt_is_recognised(archive, tmp_path):
    assert load_model(archive.rename(tmp_path / "net.pt")).input.shape == (1, 4, 4)


@pytest.mark.parametrize(
    ("layer", "code"),
    [
        (nn.MaxPool2d(2), "D2E-LAYER-001"), (nn.ReLU(), "D2E-LAYER-002"), (nn.LayerNorm(4), "D2E-LAYER-003"),
        (nn.ConvTranspose2d(1, 1, 2), "D2E-LAYER-004"), (nn.GroupNorm(1, 1), "D2E-LAYER-003"),
        (nn.BatchNorm2d(1, track_running_stats=False), "D2E-LAYER-005"), (nn.Softmax(-1), "D2E-LAYER-002"),
        (nn.Hardtanh(), "D2E-LAYER-002"),
    ],
)
def test_operators_that_do_not_compile(layer, code):
    with pytest.raises(UnsupportedError) as caught:
        from_exported(exported(dn.Sequential(layer, dn.IF()).eval(), (1, 4, 4)))
    assert (caught.value.code, caught.value.node) == (code, "0")


def test_training_mode_and_other_signatures_are_refused(simple):
    with pytest.raises(UnsupportedError, match="statistics of the batch"):
        from_exported(exported(simple.train(), (1, 4, 4)))
    with pytest.raises(UnsupportedError) as caught:
        from_exported(torch.export.export(nn.Linear(3, 3), (torch.zeros(2, 3),)))
    assert caught.value.code == "D2E-TRACE-002"


def test_pickled_parts_are_refused_or_left_alone(archive, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "boom"), "w"))

    bomb = pickle.dumps(Bomb())

    def pickled(name, content):
        if name.endswith("weights_config.json"):
            config = json.loads(content)
            next(iter(config["config"].values()))["use_pickle"] = True
            return json.dumps(config).encode()
        return bomb if name.endswith(("weight_0", "sample_inputs/model.pt")) else content

    with pytest.raises(UsageError) as caught:
        load_model(rewritten(archive, tmp_path / "pickled.pt2", pickled))
    assert caught.value.code == "D2E-LOAD-006"
    samples = rewritten(
        archive, tmp_path / "samples.pt2", lambda n, c: bomb if n.endswith("sample_inputs/model.pt") else c
    )
    assert load_model(samples).same(load_model(archive))
    assert not (tmp_path / "boom").exists()


def test_other_versions_are_refused(archive, tmp_path):
    def older(name, content):
        return content.replace(b'"major": 8', b'"major": 7') if name.endswith("model.json") else content

    with pytest.raises(UsageError) as caught:
        load_model(rewritten(archive, tmp_path / "older.pt2", older))
    assert caught.value.code == "D2E-LOAD-016"


def test_damaged_archives_are_refused(archive, tmp_path):
    content, cut = archive.read_bytes(), tmp_path / "cut.pt2"
    for size in (1, 10, len(content) // 2, len(content) - 30):
        cut.write_bytes(content[:size])
        with pytest.raises(D2EError) as caught:
            load_model(cut)
        assert caught.value.code == "D2E-LOAD-005"
    for part in ("model.json", "weights_config.json", "weight_0"):
        broken = tmp_path / "broken.pt2"
        rewritten(archive, broken, lambda n, c, p=part: b"{}" if n.endswith(p) else c)
        with pytest.raises(UsageError) as caught:
            load_model(broken)
        assert caught.value.code == "D2E-LOAD-005"
