"""A conversion that was cut off goes on to the same network; a file of another conversion is refused."""

import json
import math

import numpy as np
import pytest
import torch
from tests.compiler.convert.networks import MODELS, certain

import d2e
from d2e.compiler.convert.store import Store, digest
from d2e.ir import UsageError

pytestmark = pytest.mark.usefixtures("one_core")
SEARCHES = {"rate-distortion": {"budget": 0.5, "compress": 0.2}, "paper": {"budget": 0.8, "search": "paper"}}


@pytest.fixture(scope="module")
def given():
    return certain("mlp", count=48)


def convert(given, **options):
    model, images = given
    facts = {"calibration": images, "input_shape": MODELS["mlp"][0], "time_steps": 2, "max_burst": 3, "jobs": 1, **options}
    return d2e.convert(model, **facts)


@pytest.fixture(scope="module", params=SEARCHES)
def whole(request, given, tmp_path_factory):
    """Options, the network of a run that was not cut off, and what it kept."""
    options, path = SEARCHES[request.param], tmp_path_factory.mktemp("whole") / "kept.jsonl"
    return options, convert(given, resume=str(path), **options), path.read_text()


def assert_goes_on(given, whole, path, known):
    """From ``known`` measurements to the same bits."""
    options, network, kept = whole
    measured = []
    again = convert(given, resume=str(path), listen=lambda *row: measured.append(row), **options)
    assert len(measured) == len(kept.splitlines()) - 1 - known
    assert again.same(network)
    assert path.read_text() == kept


@pytest.mark.parametrize("cut", ["half of the lines", "a line", "its end", "all but the head", "nothing"])
def test_a_run_that_was_cut_off_goes_on_to_the_same_bits(given, whole, tmp_path, cut):
    path, lines = tmp_path / "kept.jsonl", whole[2].splitlines(keepends=True)
    half = len(lines) // 2
    text, known = {
        "half of the lines": ("".join(lines[:half]), half - 1),
        "a line": ("".join(lines[:half]) + lines[half][: len(lines[half]) // 2], half - 1),
        "its end": ("".join(lines[:half]) + lines[half].rstrip("\n"), half),
        "all but the head": (lines[0], 0), "nothing": ("".join(lines), len(lines) - 1),
    }[cut]
    path.write_text(text)
    assert_goes_on(given, whole, path, known)


def test_a_run_that_is_killed_keeps_what_it_has_measured(given, whole, tmp_path):
    path = tmp_path / "kept.jsonl"

    def kill(done, total, what):
        if path.read_text().count("\n") == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(given, resume=str(path), listen=kill, **whole[0])
    assert_goes_on(given, whole, path, 3)


# --------------------------------------------------------------------------- of one conversion only


class Sixes(torch.nn.Module):
    """The same weights with another activation."""

    def __init__(self, model):
        super().__init__()
        self.fc1, self.a, self.fc2, self.b, self.fc3 = model.fc1, torch.nn.ReLU6(), model.fc2, model.b, model.fc3

    def forward(self, x):
        return self.fc3(self.b(self.fc2(self.a(self.fc1(x)))))


def changed_weight(model):
    model.fc2.weight[0, 0] += 1e-6


def changed_bias(model):
    model.fc1.bias[0] += 1e-6


def other(kind):
    """(model, images) that differ in one point."""
    model, images = certain("mlp", count=48)
    with torch.no_grad():
        if kind == "activation":
            return Sixes(model), images
        if kind in ("weight", "bias"):
            (changed_weight if kind == "weight" else changed_bias)(model)
        images[{"fit": 0, "held": -1}.get(kind, slice(0, 0))] += 1e-3
    return model, images


@pytest.fixture
def kept(given, tmp_path):
    """A file of a conversion."""
    path = tmp_path / "kept.jsonl"
    convert(given, resume=str(path))
    return path


@pytest.mark.parametrize("kind", ["weight", "bias", "activation", "fit", "held"])
def test_another_model_or_other_data_are_refused(given, kept, kind):
    before = kept.read_text()
    with pytest.raises(UsageError, match="another conversion") as caught:
        convert(other(kind), resume=str(kept))
    assert caught.value.code == "D2E-CONV-015"
    assert kept.read_text() == before
    assert convert(other(None), resume=str(kept)).same(convert(given))


@pytest.mark.parametrize("options", [
    {"time_steps": 5}, {"seed": 1}, {"calibrate": "light"}, {"calibration_samples": 30}, {"early_exit": 1.0},
], ids=lambda options: next(iter(options)))
def test_another_calibration_is_refused(given, kept, options):
    with pytest.raises(UsageError) as caught:
        convert(given, resume=str(kept), **options)
    assert caught.value.code == "D2E-CONV-015"


@pytest.mark.parametrize("options", [
    {"budget": 0.4}, {"compress": 0.1}, {"max_burst": 2, "budget": 0.5}, {"search": "paper", "compress": 0.5},
], ids=str)
def test_another_search_of_the_same_conversion_uses_what_fits(given, tmp_path, options):
    path, fresh, fewer = tmp_path / "kept.jsonl", [], []
    convert(given, resume=str(path), budget=0.6)
    alone = convert(given, listen=lambda *row: fresh.append(row), **options)
    assert convert(given, resume=str(path), listen=lambda *row: fewer.append(row), **options).same(alone)
    assert (len(fewer) < len(fresh)) == (options.keys() <= {"budget", "compress"})


# --------------------------------------------------------------------------- the file


def test_a_file_of_another_kind_stays_as_it_is(tmp_path):
    for i, text in enumerate((b"mine", b"{}", b"[1]", b"\xff\xfe", b'{"d2e": 99, "conversion": "one"}\n')):
        path = tmp_path / f"{i}.txt"
        path.write_bytes(text)
        with pytest.raises(UsageError) as caught:
            Store(str(path), "one")
        assert caught.value.code == "D2E-CONV-015"
        assert path.read_bytes() == text
    with pytest.raises(UsageError, match="no results"):
        Store(str(tmp_path), "one")


@pytest.mark.parametrize("name", ["nowhere/kept.jsonl", "file/kept.jsonl", "a" * 300])
def test_a_place_that_cannot_be_written_is_told(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError) as caught:
        Store(str(tmp_path / name), "one")
    assert caught.value.code == "D2E-FILE-011"


def test_figures_come_back_to_the_bit(tmp_path):
    path, figures = tmp_path / "kept.jsonl", [0.1, 1 / 3, 1e-300, 2.0**60, 0.0, math.inf]
    Store(str(path), "one").keep([("first", figures), ("second", [1.0])])
    assert Store(str(path), "one").known == {"first": figures, "second": [1.0]}
    assert [json.loads(line).get("name") for line in path.read_text().splitlines()] == [None, "first", "second"]


def test_digests_tell_contents_apart():
    arrays = np.zeros(6), np.zeros((2, 3)), np.zeros((3, 2)), np.zeros(6, np.float32), np.zeros(6, int)
    parts = [*([each] for each in arrays), [0.0], [None], ["0"], ["a", "b"], ["b", "a"]]
    assert len({digest(*each) for each in parts}) == len(parts)
    values = np.arange(12.0).reshape(3, 4)
    assert digest(values.T) == digest(np.ascontiguousarray(values.T)) != digest(values)
