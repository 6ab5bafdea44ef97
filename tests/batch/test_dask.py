"""Several tomograms at the same time on workers of dask: sharing of cores, deaths of workers, stops."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deepvesicle.batch.clusters import (
    ClusterError,
    ClusterSpec,
    _jobqueue,
    local_workers,
    parse_cluster,
    workers_of,
)
from deepvesicle.batch.dask_engine import OnCluster
from deepvesicle.batch.manifest import Manifest
from deepvesicle.batch.plan import Unit
from deepvesicle.batch.run import run_batch
from deepvesicle.batch.state import State
from deepvesicle.cores import usable_cores
from deepvesicle.errors import UsageError
from tests.batch.scenes import Watcher, make_batch, runs_of
from tests.batch.test_run import is_alive, stages, wait_for_line

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("local", ClusterSpec("local")),
        ("local:3", ClusterSpec("local", 3)),
        ("slurm:12", ClusterSpec("slurm", 12)),
        ("pbs", ClusterSpec("pbs")),
        ("tcp://10.0.0.1:8786", ClusterSpec("address", address="tcp://10.0.0.1:8786")),
    ],
)
def test_clusters_are_named_in_a_word(text: str, spec: ClusterSpec) -> None:
    assert parse_cluster(text) == spec


@pytest.mark.parametrize("text", ["", "locals", "local:0", "local:x", "slurm:", "tcp://", "http://x", "Local"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--cluster"):
        parse_cluster(text)


def test_local_workers_are_as_many_as_cores_and_memory_allow() -> None:
    assert local_workers(100, 2, 10**12, 10**9) == 1
    assert local_workers(100, 32, 10**12, 10**9) == 8
    assert local_workers(3, 32, 10**12, 10**9) == 3
    assert local_workers(100, 32, 5 * 10**9, 10**9) == 5
    assert local_workers(100, 32, 0, 10**9) == 1


def test_without_the_libraries_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=r"deepvesicle\[cluster\]"), workers_of(ClusterSpec("local"), 1):
        pass


def on_two_workers(
    manifest: Manifest, units: list[Unit], meanwhile: Callable[[], None] | None = None
) -> tuple[dict[str, State], Watcher]:
    """Run a batch on two workers of this machine, and something else beside it."""
    pytest.importorskip("distributed")
    view = Watcher()
    beside = threading.Thread(target=meanwhile or (lambda: None))
    beside.start()
    try:
        return run_batch(manifest, units, OnCluster(ClusterSpec("local", 2)), view), view
    finally:
        beside.join()


def last_run(unit: Unit) -> list[int]:
    """Process, cores and parent of the last run of a unit."""
    line = Path(unit.tomogram).with_suffix(".runs").read_text().splitlines()[-1]
    return [int(word) for word in line.split()]


def kill_worker(unit: Unit, run: int) -> None:
    """Kill the worker that works on a unit for the n-th time."""
    end = time.monotonic() + 60
    while runs_of(unit) < run:
        assert time.monotonic() < end
        time.sleep(0.02)
    os.kill(last_run(unit)[2], signal.SIGKILL)


def test_workers_share_the_cores_and_a_second_run_starts_none(tmp_path: Path) -> None:
    manifest, units = make_batch(tmp_path, {"a": "sleep 1", "b": "sleep 1", "bad": "fail", "c": "", "d": "die 1"})
    states, view = on_two_workers(manifest, units)
    assert stages(states) == {"a": "done", "b": "done", "bad": "failed", "c": "done", "d": "done"}
    assert [runs_of(unit) for unit in units] == [1, 1, 1, 1, 2]
    assert last_run(units[0])[1] == max(1, usable_cores() // 2)
    parents = {last_run(unit)[2] for unit in units}
    assert len(parents) == 2 and os.getpid() not in parents
    finished = [unit for unit in units if unit.name != "bad"]
    states, view = on_two_workers(manifest, finished)
    assert view.notes == [] and [runs_of(unit) for unit in finished] == [1, 1, 1, 2]


def test_a_worker_that_dies_is_replaced_and_its_tomogram_is_tried_once_more(tmp_path: Path) -> None:
    manifest, units = make_batch(tmp_path, {"victim": "slow 1", "twice": "slow 2", "other": ""})

    def kill() -> None:
        kill_worker(units[0], 1)
        kill_worker(units[1], 1)
        kill_worker(units[1], 2)

    states, view = on_two_workers(manifest, units, kill)
    assert stages(states) == {"victim": "done", "twice": "failed", "other": "done"}
    assert states["victim"].attempts == 2
    assert "died twice: its worker died" in states["twice"].error
    assert sum("worker was lost" in note for note in view.notes) == 2
    children = [int(line.split()[0]) for line in (tmp_path / "twice.runs").read_text().splitlines()]
    assert not any(is_alive(child) for child in children)


def test_a_stop_ends_workers_and_children_in_order(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    manifest, units = make_batch(tmp_path, {"a": "slow 1", "b": "slow 1", "c": ""})
    manifest.write()
    script = tmp_path / "batch.py"
    script.write_text(
        "import signal, sys\n"
        "from pathlib import Path\n"
        "from deepvesicle.batch.clusters import ClusterSpec\n"
        "from deepvesicle.batch.dask_engine import OnCluster\n"
        "from deepvesicle.batch.manifest import read_manifest\n"
        "from deepvesicle.batch.run import run_batch\n"
        "from tests.batch.scenes import Watcher\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "    m = read_manifest(Path(sys.argv[1]))\n"
        "    run_batch(m, m.units, OnCluster(ClusterSpec('local', 2)), Watcher())\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(script), manifest.plan.folder],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    for unit in units[:2]:
        wait_for_line(Path(unit.tomogram).with_suffix(".runs"))
    processes = [number for unit in units[:2] for number in (last_run(unit)[0], last_run(unit)[2])]
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers, too
    assert process.wait(40) != 0
    assert not any(is_alive(number) for number in processes)
    manifest.read_states()
    assert stages(manifest.states) == {"a": "stopped", "b": "stopped", "c": "waiting"}


def test_a_scheduler_of_somebody_else_is_left_running(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    manifest, units = make_batch(tmp_path, {"a": "", "b": "die 1", "c": "fail"})
    options = {"processes": False, "protocol": "tcp://", "dashboard_address": None, "host": "127.0.0.1"}
    with distributed.LocalCluster(n_workers=2, threads_per_worker=4, **options) as cluster:
        engine = OnCluster(parse_cluster(cluster.scheduler_address))
        states = run_batch(manifest, units, engine, Watcher())
        assert stages(states) == {"a": "done", "b": "done", "c": "failed"}
        assert last_run(units[0])[1] == max(1, usable_cores() // 2)  # two workers on the machine
        with distributed.Client(cluster, set_as_default=False) as client:
            assert len(client.nthreads()) == 2


def test_a_scheduler_that_is_not_there_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("deepvesicle.batch.clusters._CONNECT_SECONDS", 1)
    with pytest.raises(ClusterError, match="no dask scheduler"), workers_of(parse_cluster("tcp://127.0.0.1:9"), 1):
        pass


def test_a_scheduler_that_goes_is_told_in_a_line_and_no_state_says_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr("deepvesicle.batch.clusters._CONNECT_SECONDS", 2)
    manifest, units = make_batch(tmp_path, {"a": "slow 1"})
    options = {"processes": True, "dashboard_address": None, "host": "127.0.0.1"}
    cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=1, **options)

    def close() -> None:
        wait_for_line(tmp_path / "a.runs")
        cluster.close()

    beside = threading.Thread(target=close)
    beside.start()
    with pytest.raises(ClusterError, match="does not answer any more"):
        run_batch(manifest, units, OnCluster(parse_cluster(cluster.scheduler_address)), Watcher(), run="one")
    beside.join()
    manifest.read_states()
    assert stages(manifest.states) == {"a": "stopped"}
    assert not is_alive(last_run(units[0])[0])


STAND_INS = {
    # What a batch system does with a job, in short: run it, and say its number. LSF reads it from standard input.
    "qsub": 'script=$(mktemp); cp "$1" "$script"; setsid sh "$script" >/dev/null 2>&1 & echo "$!.server"',
    "bsub": 'script=$(mktemp); cat > "$script"; setsid sh "$script" >/dev/null 2>&1 & echo "Job <$!> is submitted"',
    "qdel": 'kill -- "-${1%.server}"',
    "bkill": 'kill -- "-$1"',
}


def needs_jobqueue() -> None:
    """Load the library, with its configuration, as the program does; skip where it is not installed."""
    if importlib.util.find_spec("dask_jobqueue") is None:
        pytest.skip("the extra 'cluster' is not installed")
    _jobqueue("slurm")


def test_the_library_of_batch_systems_does_not_take_ctrl_c() -> None:
    needs_jobqueue()
    code = (
        "import signal; from deepvesicle.batch.clusters import _jobqueue; before = signal.getsignal(signal.SIGINT); "
        "_jobqueue('slurm'); assert signal.getsignal(signal.SIGINT) is before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("kind", ["pbs", "sge", "lsf"])
def test_other_batch_systems_are_asked_for_jobs_as_the_configuration_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Their commands are replaced by ones that start the jobs on this machine."""
    dask = pytest.importorskip("dask")
    needs_jobqueue()
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, body in STAND_INS.items():
        (commands / name).write_text(f'#!/bin/sh\ncp "$1" {tmp_path}/script 2>/dev/null\n{body}\n')
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    manifest, units = make_batch(tmp_path, {"a": "", "b": "fail"})
    spec = ClusterSpec(kind, log_folder=str(tmp_path / "out"))
    settings = {"cores": 3, "memory": "1GB", "interface": "lo", "use-stdin": True, "queue": "of-mine"}
    with dask.config.set({f"jobqueue.{kind}.{name}": value for name, value in settings.items()}):
        states = run_batch(manifest, units, OnCluster(spec), Watcher())
    assert stages(states) == {"a": "done", "b": "failed"}
    assert last_run(units[0])[1] == 3  # a job has one tomogram, which gets all its cores
    if kind != "lsf":
        assert "of-mine" in (tmp_path / "script").read_text()


def test_a_batch_system_that_is_not_there_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    needs_jobqueue()
    monkeypatch.setenv("PATH", "")
    for kind, command in (("slurm", "sbatch"), ("pbs", "qsub"), ("lsf", "bsub"), ("sge", "qsub")):
        with pytest.raises(ClusterError, match=command), workers_of(ClusterSpec(kind), 1):
            pass
