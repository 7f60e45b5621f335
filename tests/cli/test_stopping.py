"""Ctrl-C, a request to end and a reader who has seen enough: the exit codes of other tools, nothing left behind."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

ENDS = {signal.SIGINT: (130, "interrupted\n"), signal.SIGTERM: (143, ""), signal.SIGHUP: (129, "")}


@pytest.mark.parametrize("number", ENDS)
def test_while_a_model_is_read(compile_, number, tmp_path):
    (tmp_path / "shop.py").write_text(f"import os\ndef net(): os.kill(os.getpid(), {int(number)})\n")
    done = compile_("shop:net", PYTHONDONTWRITEBYTECODE="1")
    assert (done.code, done.err) == ENDS[number]
    assert [p.name for p in tmp_path.iterdir()] == ["shop.py"]


@pytest.mark.parametrize("number", ENDS)
def test_while_the_program_is_written(model, number, tmp_path):
    script = (
        "import os, sys, d2e.cli\nfrom d2e.backends.loihi2.targets import Loihi2Target\n"
        f"def emit(*args, **options): os.kill(os.getpid(), {int(number)})\n"
        "Loihi2Target.emit = emit\nsys.argv = ['d2e-compile', sys.argv[1], '-q', '-o', 'new/out']\n"
        "d2e.cli.compile_main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(model)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == ENDS[number]
    assert not list(tmp_path.iterdir())


def test_from_a_terminal_while_passes_are_measured(programs, model, data, tmp_path):
    command = [str(programs / "d2e-compile"), str(model), "--eval", str(data), "-o", "out"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    first = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert first.startswith("[1/")
    assert process.returncode == 130
    assert (out, err.splitlines()[-1]) == ("", "interrupted")
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_a_reader_who_closes_the_pipe(programs, program, tmp_path):
    line = f"'{programs}/d2e' inspect '{program}' | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")
