"""``d2e bench`` and ``d2e-bench`` as users call them."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys

import numpy as np
import pytest

import d2e as package
from d2e.cli_bench import bench_command
from d2e.compiler.bench.compare import Different


@pytest.fixture
def bench(d2e, program, data):
    return lambda *args, **env: d2e("bench", program, "--data", data, "--samples", 40, "--batch", 16, *args, **env)


def test_a_screen_a_table_and_json(bench, program, data, tmp_path):
    done = bench("-o", "out")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert len(lines) <= 15
    assert lines[0].startswith(f"program    {program} on loihi2-sim (simulated, bit-exact with")
    assert re.fullmatch(r"data       40 samples of test\.npz in batches of 16", lines[1])
    assert lines[-1] == "written    out"
    assert done.err == "[loihi2-sim] 3 batches\n"
    kept = json.loads((tmp_path / "out" / "bench.json").read_text())
    told = bench("--json", "-q")
    assert (told.code, told.err) == (0, "")
    for key in ("accuracy", "activity", "done", "program", "data", "engine", "populations"):
        assert json.loads(told.out)[key] == kept[key]
    with np.load(data) as loaded:
        result = package.load(program).run(loaded["x"][:40])
        right = float((result.output.sum(axis=1).argmax(axis=1) == loaded["y"][:40]).mean())
    assert kept["accuracy"] == right
    table = (tmp_path / "out" / "samples.csv").read_text().splitlines()
    assert (len(table), table[0].split(",")[:3]) == (41, ["sample", "prediction", "label"])


def test_the_program_of_its_own(compile_, tmp_path, program, data):
    from tests.cli.conftest import call

    done = call("d2e-bench", program, "--data", data, "--samples", 4, "--devices", "sim:0,sim:1", "-q", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert f"program    {program} on sim (simulated" in done.out


def test_devices_are_listed(d2e, program):
    everywhere, here = d2e("bench", "--device", "list"), d2e("bench", program, "--device", "list")
    assert (everywhere.code, here.code) == (0, 0)
    rows = dict(line.split(maxsplit=1) for line in everywhere.out.splitlines())
    assert rows["sim:0"].startswith("ready")
    assert rows["speck2f:0"] == "missing  samna is not installed"
    assert [line.split()[0] for line in here.out.splitlines()] == ["sim:0", "loihi2:0"]
    listed = json.loads(d2e("bench", "--device", "list", "--json").out)
    assert {"name": "speck2f:0", "ready": False, "what": "samna is not installed"} in listed


def test_what_happens_to_devices_is_told(bench):
    done = bench("--devices", "sim:0{fail=after:1,back=0s},sim:1{slow=50ms}")
    assert done.code == 0
    gone = "D2E-BENCH-008: the simulated board sim:0 went away, as it was told"
    assert f"sim:0 failed ({gone}) and is opened again\n" in done.err
    done = bench("--device", "sim:0{fail=after:2}", "--resume", "kept.jsonl")
    assert (done.code, done.out) == (5, "")
    told = [line for line in done.err.splitlines() if not line.startswith("[")]
    assert told[-2:] == [
        "the run was cut off: 16 of 40 samples are done (0-15), kept in kept.jsonl",
        f"error: D2E-BENCH-007: no device is left: sim:0 is dropped: {gone}. Leave fail out of its options.",
    ]
    done = bench("--device", "sim:0", "--resume", "kept.jsonl")
    assert done.code == 0
    assert "1 batches are done already, kept in kept.jsonl\n" in done.err
    assert "data       40 samples" in done.out


def test_two_side_by_side(bench, program):
    done = bench("--compare", "loihi2-sim", "sim:0")
    assert done.code == 0, done.err
    assert done.out.splitlines()[1].split() == ["loihi2-sim", "sim:0"]
    assert "counts      equal on 40 of 40 samples, of all populations (the same spikes are promised)\n" in done.out
    assert bench("--compare", "loihi2-sim", program).code == 0


def test_a_difference_where_none_is_promised_is_exit_4(monkeypatch, program, data, capfd):
    from d2e import cli
    from d2e.compiler.bench import compare
    from d2e.compiler.bench.result import Bench

    def differ(*_, **__):
        error = Different("D2E-BENCH-010", "A (a) and B (b) promise the same spikes and differ: first in sample 3")
        error.bench = Bench({"schema": 1}, [])
        raise error

    monkeypatch.setattr(compare, "compared", differ)
    args = ["--data", str(data), "--compare", "a", "b", "--json", "-q"]
    monkeypatch.setattr("sys.argv", ["d2e", "bench", str(program), *args])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capfd.readouterr()
    assert (ended.value.code, out) == (4, '{\n "schema": 1\n}\n')
    assert err.startswith("error: D2E-BENCH-010: A (a) and B (b)")


@pytest.mark.parametrize(("code", "args"), [
    ("D2E-BENCH-001", ["--engine", "reference", "--device", "sim:0"]), ("D2E-BENCH-001", ["--cluster", "local"]),
    ("D2E-BENCH-002", ["--devices", ""]), ("D2E-BENCH-002", ["--device", ""]),
    ("D2E-BENCH-002", ["--devices", "sim:0,sim:0"]), ("D2E-BENCH-002", ["--device", "speck2f:0"]),
    ("D2E-BENCH-003", ["--batch", "0"]), ("D2E-BENCH-012", ["--compare", "loihi2-sim", "nothing"]),
    ("D2E-USE-007", ["--engine", "loihi3"]), ("D2E-FILE-010", ["-o", "/usr"]),
])
def test_refusals(code, args, refused, program, data):
    refused(2, code, "bench", program, "--data", data, *args, program="d2e")


def test_refusals_of_what_is_not_there(refused, program, data, tmp_path):
    refused(2, "D2E-BENCH-001", "bench", program, program="d2e")
    refused(2, "D2E-BENCH-001", "bench", "--data", data, program="d2e")
    refused(2, "D2E-LOAD-020", "bench", tmp_path, "--data", data, program="d2e")
    refused(2, "D2E-DATA-001", "bench", program, "--data", tmp_path / "none.npz", program="d2e")


def test_help_imports_nothing_heavy():
    script = ("import sys\nfrom d2e import cli\nsys.argv = ['d2e-bench', '--help']\n"
              "try:\n    cli.bench_main()\nexcept SystemExit:\n    pass\n"
              "print(sorted({'torch', 'numpy', 'numba', 'distributed', 'PIL'} & set(sys.modules)), file=sys.stderr)\n")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stderr, "--compare" in done.stdout) == ("[]\n", True)


def test_every_option_is_a_keyword_of_the_function():
    options = inspect.signature(bench_command).parameters
    keywords = inspect.signature(package.bench).parameters
    assert set(options) - {"as_json", "quiet"} == set(keywords) - {"listen", "tell"}
    assert {k: p.default for k, p in options.items() if k in keywords and k not in ("program", "data")} == {
        k: p.default for k, p in keywords.items() if k not in ("program", "data", "listen", "tell")}
