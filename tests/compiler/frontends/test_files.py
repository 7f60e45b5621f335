"""load_model: every kind of source, every way to fail in one sentence, and no pickle run unasked."""

import pickle
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

import d2e.nn as dn
from d2e import ir
from d2e.compiler.frontends.files import load_model
from d2e.compiler.frontends.torch_fx import from_torch
from d2e.ir import nirfile
from d2e.ir.errors import UsageError


def model():
    torch.manual_seed(0)
    return dn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), dn.IF(torch.rand(4, 1, 1) + 0.5), nn.Flatten(),
        nn.Linear(16, 5), dn.Recurrent(dn.LIF(0.9, learn_decay=True), nn.Linear(5, 5)), nn.Linear(5, 2),
        dn.LI(0.5),
    )


class Bomb:
    """A pickle of this writes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


class Custom(nn.Module):
    """A module of the user's own."""

    def __init__(self):
        super().__init__()
        self.layer, self.neuron = nn.Linear(3, 2), dn.IF()

    def forward(self, x):
        return self.neuron(self.layer(x))


def fails(code, source, **options):
    with pytest.raises(UsageError) as caught:
        load_model(source, **options)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "net.pt"
    dn.save(model(), path, input_shape=(1, 4, 4), time_steps=12, coding="direct", readout="last")
    return path


def test_a_checkpoint_says_all_there_is(saved):
    network = load_model(saved)
    assert network.same(from_torch(model(), (1, 4, 4), time_steps=12, coding="direct", readout="last"))
    stated = load_model(saved, time_steps=3, coding="spikes", max_payload=2)
    assert (stated.input.time_steps, stated.input.coding, stated.input.max_payload) == (3, "spikes", 2)
    assert [p.name for p in saved.parent.iterdir()] == ["net.pt"]


def test_saving_knows_its_facts_and_leaves_nothing_behind(tmp_path):
    with pytest.raises(TypeError, match="colour"):
        dn.save(model(), tmp_path / "net.pt", input_shape=(1, 4, 4), colour="red")
    with pytest.raises(Exception, match="pickle"):
        dn.save(nn.Sequential(nn.Identity(), Local()), tmp_path / "net.pt", input_shape=(1, 4, 4))
    with pytest.raises(UsageError, match="cannot write") as caught:
        dn.save(model(), tmp_path / "no" / "net.pt", input_shape=(1, 4, 4))
    assert caught.value.code == "D2E-FILE-001"
    assert not list(tmp_path.iterdir())


def Local():
    """A module whose class cannot be pickled."""

    class Hidden(nn.Module):
        pass

    return Hidden()


def test_a_whole_module_needs_the_shape(tmp_path):
    torch.save(model(), tmp_path / "net.pth")
    assert load_model(tmp_path / "net.pth", input_shape=[1, 4, 4]).same(from_torch(model(), (1, 4, 4)))
    assert "--input-shape 1,28,28" in fails("D2E-LOAD-011", tmp_path / "net.pth").hint


def test_every_layer_loads_under_the_allow_list(example, tmp_path):
    module, shape, _ = example
    dn.save(module, tmp_path / "net.pt", input_shape=shape)
    if any(type(m).__name__ == "Residual" for m in module.modules()):
        assert "Residual" in fails("D2E-LOAD-006", tmp_path / "net.pt").message
        return
    assert load_model(str(tmp_path / "net.pt")).same(from_torch(module, shape))


def test_a_layer_that_cannot_compile_is_named_rather_than_refused_as_a_pickle(tmp_path):
    dn.save(nn.Sequential(nn.MaxPool2d(2), nn.ReLU()), tmp_path / "net.pt", input_shape=(1, 4, 4))
    with pytest.raises(ir.UnsupportedError, match="maximum"):
        load_model(tmp_path / "net.pt")


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_runs_code_is_not_run(tmp_path, protocol, legacy):
    content = {"d2e": {"schema": 1}, "model": Bomb(tmp_path / "boom")}
    torch.save(
        content, tmp_path / "net.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy
    )
    error = fails("D2E-LOAD-006", tmp_path / "net.pt")
    assert "--allow-pickle" in error.hint
    if protocol == 2:
        assert "io.open" in error.message or "open" in error.message
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Bomb(tmp_path / "boom"), protocol))
    with pytest.raises(UsageError):
        load_model(tmp_path / "bare.pt")
    assert not (tmp_path / "boom").exists()


def test_hidden_calls_in_allowed_classes_are_not_run(tmp_path):
    layer = nn.Linear(2, 2)
    layer.extra = Bomb(tmp_path / "boom")
    torch.save(nn.Sequential(layer, dn.IF()), tmp_path / "net.pt")
    fails("D2E-LOAD-006", tmp_path / "net.pt", input_shape=(2,))
    assert not (tmp_path / "boom").exists()


def test_a_class_of_the_users_needs_permission(tmp_path):
    torch.save(Custom(), tmp_path / "net.pt")
    error = fails("D2E-LOAD-006", tmp_path / "net.pt", input_shape=(3,))
    assert "Custom" in error.message
    assert load_model(tmp_path / "net.pt", input_shape=(3,), allow_pickle=True).output.shape == (2,)


def test_a_class_that_is_not_there(tmp_path):
    script = "import torch\nclass Gone(torch.nn.Linear): pass\ntorch.save(Gone(2, 2), 'net.pt')"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    error = fails("D2E-LOAD-015", tmp_path / "net.pt", input_shape=(2,), allow_pickle=True)
    assert "Gone" in error.message


def test_files_that_are_none(tmp_path, saved):
    fails("D2E-LOAD-001", tmp_path / "absent.pt")
    fails("D2E-LOAD-001", tmp_path / "absent.nir")
    fails("D2E-LOAD-002", tmp_path)
    (tmp_path / "folder.pt").mkdir()
    fails("D2E-LOAD-002", tmp_path / "folder.pt")
    (tmp_path / "empty.pt").touch()
    fails("D2E-LOAD-003", tmp_path / "empty.pt")
    (tmp_path / "text.pt").write_text("weights: none\n")
    fails("D2E-LOAD-004", tmp_path / "text.pt")
    fails("D2E-LOAD-014", saved.rename(tmp_path / "net.onnx"))


def test_truncated_files(tmp_path, saved):
    content, cut = saved.read_bytes(), tmp_path / "cut.pt"
    for size in (4, 100, len(content) // 2, len(content) - 1):
        cut.write_bytes(content[:size])
        fails("D2E-LOAD-005", cut)
        fails("D2E-LOAD-005", cut, allow_pickle=True)


def test_what_is_not_a_model(tmp_path):
    path = tmp_path / "net.pt"
    torch.save(model().state_dict(), path)
    assert "pkg.module:factory" in fails("D2E-LOAD-007", path).hint
    torch.save({"epoch": 3, "state_dict": model().state_dict()}, path)
    fails("D2E-LOAD-007", path)
    torch.save([1, 2, 3], path)
    assert "list" in fails("D2E-LOAD-008", path).message
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), path)
    fails("D2E-LOAD-009", path)
    torch.save({"d2e": {"schema": 2}, "model": model()}, path)
    fails("D2E-LOAD-016", path)


@pytest.fixture
def factories(tmp_path, monkeypatch):
    (tmp_path / "made_here.py").write_text(textwrap.dedent("""
        from torch import nn
        import d2e.nn as dn
        from d2e.compiler.frontends.torch_fx import from_torch
        def plain(): return nn.Sequential(nn.Linear(2, 3), dn.IF())
        def with_facts(): return plain(), {"input_shape": (2,), "time_steps": 7, "accuracy": 0.9}
        def network(): return from_torch(plain(), (2,), time_steps=4)
        def broken(): raise RuntimeError("no data")
        def number(): return 3
        class space: made = staticmethod(with_facts)
        live = plain()
    """))
    (tmp_path / "made_wrong.py").write_text("import nothing_of_that_name")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield
    assert sys.path == before
    sys.modules.pop("made_here", None)


@pytest.mark.usefixtures("factories")
def test_factories():
    assert load_model("made_here:plain", input_shape=(2,)).output.shape == (3,)
    assert load_model("made_here:live", input_shape=(2,)).output.shape == (3,)
    assert load_model("made_here:with_facts").input.time_steps == 7
    assert load_model("made_here:space.made", time_steps=2).input.time_steps == 2
    assert load_model("made_here:network").input.time_steps == 4
    fails("D2E-LOAD-011", "made_here:plain")
    fails("D2E-LOAD-012", "made_nowhere:plain")
    fails("D2E-LOAD-012", "made_here:absent")
    assert "nothing_of_that_name" in fails("D2E-LOAD-012", "made_wrong:plain").message
    assert "no data" in fails("D2E-LOAD-013", "made_here:broken").message
    fails("D2E-LOAD-008", "made_here:number")


def test_nir_files_and_live_objects(tmp_path):
    network = from_torch(model(), (1, 4, 4), time_steps=6)
    nirfile.write(network, tmp_path / "net.nir")
    assert load_model(tmp_path / "net.nir").same(network)
    assert load_model(tmp_path / "net.nir", time_steps=9, readout="mean").input.time_steps == 9
    assert load_model(network).same(network)
    assert load_model(model(), input_shape=(1, 4, 4), time_steps=6).same(network)
    fails("D2E-LOAD-010", network, input_shape=(2, 4, 4))
    fails("D2E-LOAD-010", network, coding="rate")
    fails("D2E-LOAD-008", 3)
