"""Finding, checking and making the Lava environment; nothing here downloads."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from d2e.backends.loihi2.lava import env
from d2e.ir import MissingError, UsageError


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with no environment in reach."""
    monkeypatch.delenv("D2E_LAVA_PYTHON", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    project = tmp_path / "project" / "sub"
    project.mkdir(parents=True)
    monkeypatch.chdir(project)
    return project


def fake_environment(folder: Path) -> Path:
    (folder / "bin").mkdir(parents=True)
    (folder / env.MARKER).write_text("{}")
    return folder / "bin" / "python"


def test_nothing_installed(nowhere: Path) -> None:
    with pytest.raises(MissingError) as caught:
        env.find()
    assert caught.value.code == "D2E-LAVA-001"
    assert "d2e lava install" in str(caught.value.hint)


def test_order_of_the_search(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = fake_environment(env.user_folder())
    assert env.find() == user
    project = fake_environment(nowhere.parent / ".lava")
    assert env.find() == project
    monkeypatch.setenv("D2E_LAVA_PYTHON", sys.executable)
    assert env.find() == Path(sys.executable)
    monkeypatch.setenv("D2E_LAVA_PYTHON", "no/such/python")
    with pytest.raises(MissingError, match="D2E-LAVA-001"):
        env.find()


def test_an_unfinished_environment_does_not_count(nowhere: Path) -> None:
    (nowhere / ".lava" / "bin").mkdir(parents=True)
    with pytest.raises(MissingError):
        env.find()


def test_a_python_without_lava(nowhere: Path) -> None:
    with pytest.raises(MissingError, match="has no lava-nc"):
        env.check(Path(sys.executable))


def test_a_foreign_folder_is_left_alone(nowhere: Path) -> None:
    (nowhere / "mine").mkdir()
    (nowhere / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(UsageError, match="D2E-LAVA-005"):
        env.install(nowhere / "mine", None, lambda line: None)
    assert (nowhere / "mine" / "notes.txt").read_text() == "keep"


def test_pythons_that_lava_does_not_run_on(nowhere: Path) -> None:
    new = nowhere / "python3.14"
    new.write_text("#!/bin/sh\necho 3 14\n")
    new.chmod(0o755)
    for python in (str(new), str(nowhere / "none")):
        with pytest.raises(MissingError, match="D2E-LAVA-002"):
            env.install(nowhere / "made", python, lambda line: None)
    assert not (nowhere / "made").exists()


def test_a_failed_step_leaves_nothing_that_counts(nowhere: Path) -> None:
    broken = nowhere / "python3.11"
    broken.write_text('#!/bin/sh\n[ "$1" = -c ] && echo 3 11 && exit 0\necho "ERROR: no disk" >&2\nexit 1\n')
    broken.chmod(0o755)
    with pytest.raises(MissingError, match="no disk"):
        env.install(nowhere / ".lava", str(broken), lambda line: None)
    with pytest.raises(MissingError, match="D2E-LAVA-001"):
        env.find()


def test_an_environment_without_lava_dl_is_completed(nowhere: Path) -> None:
    python = fake_environment(nowhere / "old")
    python.write_text(f"""#!/bin/sh
[ "$1" = -m ] && echo "$@" >> {nowhere}/calls && exit 0
[ -f {nowhere}/calls ] && echo '{{"lava-nc": "0.10.0", "lava-dl": "0.6.0", "h5py": "3"}}' && exit 0
echo '{{"lava-nc": "0.10.0"}}'
""")
    python.chmod(0o755)
    said: list[str] = []
    assert env.install(nowhere / "old", None, said.append) == python
    calls = (nowhere / "calls").read_text()
    assert "--no-deps lava-nc==0.10.0 lava-dl==0.6.0" in calls
    assert "h5py<4" in calls
    assert "torch" not in calls
    assert json.loads((nowhere / "old" / env.MARKER).read_text())["lava-dl"] == "0.6.0"
    assert said[-1].startswith("completed")
    env.install(nowhere / "old", None, said.append)
    assert (nowhere / "calls").read_text() == calls
    assert "is there already" in said[-1]


@pytest.mark.lava
def test_the_environment_runs_lava(lava_python: Path) -> None:
    versions = env.check(lava_python)
    assert versions["lava-nc"] == "0.10.0"
    assert versions["lava-dl"] == "0.6.0"
    assert versions["numpy"].startswith("1.")
    env.self_test(lava_python)
    marker = lava_python.parent.parent / env.MARKER
    assert not marker.is_file() or json.loads(marker.read_text())["lava-nc"] == "0.10.0"
