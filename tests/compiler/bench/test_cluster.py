"""Boards as resources of a real Dask cluster on this computer; a worker that is killed loses nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
from tests.compiler.bench.conftest import spikes

import d2e
from d2e.compiler.bench import cluster
from d2e.compiler.bench.fleet import NoDevice
from d2e.ir import MissingError, UsageError

distributed = pytest.importorskip("distributed")
dask_config = pytest.importorskip("dask.config")


@pytest.fixture(scope="module")
def dask():
    """A scheduler, and two worker processes that have no boards of their own; both come back where they die."""
    with distributed.LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=":0") as made:
        yield made


def test_killing_a_worker_loses_nothing_and_repeats_nothing(digits, data, dask):
    killed: list[int] = []
    counted: list[tuple[int, int, str]] = []
    told: list[str] = []

    def listen(done: int, total: int, what: str) -> None:
        counted.append((done, total, what))
        if done == 3:
            with distributed.Client(dask) as client:
                pids = client.run(os.getpid)
            killed.append(next(iter(pids.values())))
            os.kill(killed[0], signal.SIGKILL)

    found = d2e.bench(digits, data, devices="sim:0{slow=100ms},sim:1{slow=100ms}", cluster=dask.scheduler_address, batch=4,
                      listen=listen, tell=told.append)
    assert killed
    assert any("of the cluster is gone; its batches go to others" in each for each in told)
    assert spikes(found) == spikes(d2e.bench(digits, data))
    assert counted == [(i, 24, "sim") for i in range(1, 25)]
    assert {each["name"] for each in found["devices"]} <= {f"sim:{i}@{w}" for i in (0, 1) for w in (0, 1)}
    assert sum(each["samples"] for each in found["devices"]) == 96


@pytest.mark.parametrize("how", ["cancelled", "late"])
def test_what_is_lost_on_its_way_is_run_again(how, digits, data, dask, monkeypatch):
    """A worker may die when it is done with a batch, before anybody heard what that did."""
    lost: list[Any] = []
    send, result = cluster._Run._send, distributed.Future.result

    def cancelled(self: Any, batch: Any, tries: int) -> None:
        send(self, batch, tries)
        if batch.number % 3 == 0 and tries == 0:
            lost.append(batch.number)
            self.client.cancel([list(self.flying)[-1]])

    def late(self: Any, timeout: float | None = None) -> Any:
        if len(lost) < 4:
            lost.append(self.key)
            raise TimeoutError
        return result(self, timeout)

    if how == "cancelled":
        monkeypatch.setattr(cluster._Run, "_send", cancelled)
    else:
        monkeypatch.setattr(distributed.Future, "result", late)
    counted: list[int] = []
    found = d2e.bench(digits, data, devices="sim:0", cluster=dask.scheduler_address, batch=8,
                      listen=lambda done, *_: counted.append(done))
    assert len(lost) == 4
    assert counted == list(range(1, 13))
    assert spikes(found) == spikes(d2e.bench(digits, data))


def test_batches_that_found_no_board_run_once_there_is_one(digits, data):
    """As where all workers die at once and are started again; the scheduler looks at them when a worker begins to run."""
    with distributed.LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address=":0") as made:
        late = threading.Timer(2.0, lambda: made.scale(1))
        late.start()
        found = d2e.bench(digits, data, devices="sim:0", cluster=made.scheduler_address, batch=32)
        late.join()
    assert spikes(found) == spikes(d2e.bench(digits, data))


def test_boards_fail_and_stall_there_too(digits, data, dask):
    told: list[str] = []
    found = d2e.bench(digits, data, devices="sim:0{fail=after:3},sim:1", cluster=dask.scheduler_address, batch=8,
                      tell=told.append)
    assert spikes(found) == spikes(d2e.bench(digits, data))
    assert any("failed (D2E-BENCH-008" in each for each in told)
    with pytest.raises(NoDevice, match=r"sim:0@. is dropped: D2E-BENCH-008"):
        d2e.bench(digits, data, devices="sim:0{fail=after:2}", cluster=dask.scheduler_address, batch=8)


def test_a_scheduler_that_goes_away_ends_the_run(digits, data, tmp_path, caplog):
    """Its tracebacks are none of the user's; what is done is kept."""
    told: list[str] = []
    script = ("import sys, distributed\nif __name__ == '__main__':\n    made = distributed.LocalCluster(n_workers=1, "
              "dashboard_address=':0')\n    print(made.scheduler_address, flush=True)\n    sys.stdin.read()\n")
    (tmp_path / "host.py").write_text(script)
    host = subprocess.Popen([sys.executable, tmp_path / "host.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert host.stdout is not None
    address = host.stdout.readline().strip()
    with pytest.raises(MissingError, match="went away") as caught:
        d2e.bench(digits, data, devices="sim:0{slow=100ms}", cluster=address, batch=8, resume=tmp_path / "kept",
                  listen=lambda done, *_: host.kill() if done == 2 else None, tell=told.append)
    host.communicate()
    assert (caught.value.code, caplog.text) == ("D2E-BENCH-013", "")
    assert told[-1].endswith(f"kept in {tmp_path / 'kept'}")
    rest = d2e.bench(digits, data, device="sim:0", batch=8, resume=tmp_path / "kept")
    assert spikes(rest) == spikes(d2e.bench(digits, data))


def test_local_starts_a_worker_for_each_device(digits, data):
    options: dict[str, Any] = {"devices": ["sim:a{slow=50ms}", "sim:b{slow=50ms}"], "cluster": "local", "batch": 8}
    found = d2e.bench(digits, data, **options)
    assert spikes(found) == spikes(d2e.bench(digits, data))
    assert [each["name"] for each in found["devices"]] == ["sim:a", "sim:b"]


def test_workers_name_boards_of_their_own(digits, data):
    mine = {"D2E_BOARDS": "sim:left{slow=30ms},sim:right{slow=30ms}"}
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=":0", env=mine) as made:
        found = d2e.bench(digits, data, devices="sim:0", cluster=made.scheduler_address, batch=8)
    assert spikes(found) == spikes(d2e.bench(digits, data))
    assert [each["name"] for each in found["devices"]] == ["sim:left@0", "sim:right@0"]


def test_a_cluster_without_boards_ends_the_run(digits, data, monkeypatch):
    monkeypatch.setattr(cluster, "NO_BOARDS_S", 0.2)
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=":0") as empty,
        pytest.raises(NoDevice, match="no worker of the cluster has announced 'board'"),
    ):
        d2e.bench(digits, data, devices="sim:0", cluster=empty.scheduler_address)


def test_faults_of_the_data_end_the_run(digits, data, dask):
    frames = data[0].astype(int)
    frames[20, 3] = 2
    with pytest.raises(UsageError) as caught:
        d2e.bench(digits, frames, batch=8, devices="sim:0", cluster=dask.scheduler_address)
    assert caught.value.code == "D2E-INPUT-003"


def test_recordings_go_to_boards(shapes, dask):
    from tests.compiler.bench.conftest import SHAPES

    here = d2e.bench(shapes, SHAPES / "recordings", device="sim:0", batch=3)
    there = d2e.bench(shapes, SHAPES / "recordings", devices="sim:0", cluster=dask.scheduler_address, batch=3)
    assert spikes(there) == spikes(here)
    assert np.all([row["spikes"] > 0 for row in there.rows])


def test_what_a_cluster_needs(digits, data, monkeypatch):
    with pytest.raises(UsageError, match="a cluster needs devices"):
        d2e.bench(digits, data, cluster="local")
    for address in ("", "nowhere"):
        with pytest.raises(UsageError, match="is no address of a Dask scheduler") as wrong:
            d2e.bench(digits, data, devices="sim:0", cluster=address)
        assert wrong.value.code == "D2E-BENCH-001"
    with dask_config.set({"distributed.comm.timeouts.connect": "100ms"}), pytest.raises(MissingError) as caught:
        d2e.bench(digits, data, devices="sim:0", cluster="tcp://127.0.0.1:1")
    assert caught.value.code == "D2E-BENCH-013"
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingError) as caught:
        d2e.bench(digits, data, devices="sim:0", cluster="local")
    assert caught.value.code == "D2E-BENCH-009"
