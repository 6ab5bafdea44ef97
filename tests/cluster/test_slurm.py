"""A real SLURM of one node: `setup_slurm.sh` starts it, with daemons of its own, where its programs are installed.

One batch is run by the program itself: six phantoms, a bad file among them, a worker that is killed in the middle. The
tests look at what it left, and do more with it.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from deepvesicle.commands.phantom import phantom_paths, write_phantom
from deepvesicle.files.tables import read_vesicles_csv
from deepvesicle.files.tomogram import read_tomogram, write_tomogram
from deepvesicle.scoring.match import match

SCRIPT = Path(__file__).with_name("setup_slurm.sh")
SHAPE, VOXEL_NM = (40, 72, 80), 2.2
#: The phantom and its mirror images: other tomograms, with as many vesicles.
FLIPS = {"plain": (), "z": (0,), "y": (1,), "x": (2,), "zx": (0, 2)}


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables with which programs use the SLURM of the tests."""
    if importlib.util.find_spec("dask_jobqueue") is None:
        pytest.skip("the extra 'cluster' is not installed")
    folder = tmp_path_factory.mktemp("slurm")
    start = subprocess.run([str(SCRIPT), "start", str(folder)], capture_output=True, text=True, timeout=60)
    if start.returncode == 77:
        pytest.skip("SLURM is not installed (tests/cluster/setup_slurm.sh install)")
    assert start.returncode == 0, start.stderr
    settings = {"QUEUE": "debug", "CORES": "1", "MEMORY": "2GB", "INTERFACE": "lo", "WALLTIME": "00:20:00"}
    try:
        yield {
            **os.environ,
            **{f"DASK_JOBQUEUE__SLURM__{name}": value for name, value in settings.items()},
            "DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "2s",
            "SLURM_CONF": str(folder / "slurm.conf"),
        }
    finally:
        subprocess.run([str(SCRIPT), "stop", str(folder)], check=True, timeout=60)


@dataclass(frozen=True)
class Batch:
    """A batch that was run on SLURM."""

    tomograms: Path
    out: Path
    environment: dict[str, str]
    code: int
    said: str
    killed: str

    def program(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the program on the same tomograms and folder."""
        command = [sys.executable, "-m", "deepvesicle", "batch", f"{self.tomograms}/*.mrc", "-o", str(self.out)]
        return subprocess.run([*command, *arguments], env=self.environment, capture_output=True, text=True, timeout=300)

    def states(self) -> dict[str, str]:
        """State of each tomogram in the table."""
        with (self.out / "batch.csv").open() as file:
            return {row["name"]: row["state"] for row in csv.DictReader(file)}

    def attempts(self) -> dict[str, int]:
        """How often each tomogram was worked on, by its log."""
        logs = {path.parent.name: path.read_text() for path in self.out.glob("*/*_log.txt")}
        return {name: text.count("--- attempt ") for name, text in sorted(logs.items())}


def ask(environment: dict[str, str], *command: str) -> str:
    """What a command of SLURM says."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def batch(slurm: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Batch:
    """Six tomograms on two workers; the first worker that is at work is killed."""
    folder = tmp_path_factory.mktemp("batch")
    tomograms, out = folder / "tomos", folder / "out"
    paths = phantom_paths(folder, "plain")
    write_phantom(paths, SHAPE, VOXEL_NM, kind="synapse", contrast=1.0, max_tilt_deg=60.0, seed=2, overwrite=False)
    phantom = read_tomogram(paths["tomogram"])
    tomograms.mkdir()
    for name, axes in FLIPS.items():
        write_tomogram(tomograms / f"{name}.mrc", np.flip(np.asarray(phantom.data), axes), phantom.grid)
    (tomograms / "bad.mrc").write_bytes((tomograms / "x.mrc").read_bytes()[:5000])
    environment = {**slurm, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "deepvesicle", "batch", f"{tomograms}/*.mrc", "-o", str(out)]
    process = subprocess.Popen(
        [*command, "--cluster", "slurm:2"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until(lambda: any("network ..." in log.read_text() for log in out.glob("*/*_log.txt")), 120)
        busy = next(log.parent.name for log in out.glob("*/*_log.txt") if "network ..." in log.read_text())
        children = find_children(f"{out}/{busy}")
        # The job of the worker above that process: all of it goes, as when its machine fails.
        job = next(job for job in map(job_of, children) if job)
        ask(environment, "scancel", "--signal=KILL", "--full", job)
        said, errors = process.communicate(timeout=400)
    finally:
        process.kill()
    return Batch(tomograms, out, environment, process.returncode, said + errors, busy)


def find_children(folder: str) -> list[int]:
    """Processes that segment into a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"segment" in words and folder.encode() in words:
            found.append(int(path.parent.name))
    return found


def job_of(process: int) -> str:
    """The SLURM job of a process, by its variables."""
    try:
        variables = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    return next((line.split(b"=")[1].decode() for line in variables if line.startswith(b"SLURM_JOB_ID=")), "")


def test_all_but_the_bad_one_are_done(batch: Batch) -> None:
    assert batch.code == 4, batch.said
    assert batch.states() == {"bad": "failed", **dict.fromkeys(FLIPS, "done")}
    assert "1 of 6 tomograms failed: bad" in batch.said and "bad.mrc is truncated" in batch.said


def test_the_results_are_right(batch: Batch) -> None:
    grid = read_tomogram(batch.tomograms / "plain.mrc").grid
    truth = read_vesicles_csv(batch.tomograms.parent / "plain_truth.csv", grid)
    found = read_vesicles_csv(batch.out / "plain" / "plain_vesicles.csv", grid)
    score = match(found.select(found.accepted), truth, counted=truth.features["inside_fraction"] > 0.999)
    assert score.f1 > 0.6


def test_the_worker_that_was_killed_was_replaced_and_its_tomogram_tried_again(batch: Batch) -> None:
    assert f"{batch.killed}: its worker was lost" in batch.said
    expected = dict.fromkeys(["bad", *FLIPS], 1) | {batch.killed: 2}
    assert batch.attempts() == dict(sorted(expected.items()))
    entries = json.loads((batch.out / "batch.json").read_text())["units"]
    assert next(entry for entry in entries if entry["name"] == batch.killed)["attempts"] == 2
    logs = list((batch.out / "jobs").glob("*.out"))
    assert len(logs) == 3  # two workers, and one in place of the first


def test_no_job_and_no_process_is_left(batch: Batch) -> None:
    wait_until(lambda: ask(batch.environment, "squeue", "--noheader") == "", 30)
    assert find_children(str(batch.out)) == [] and not list(batch.out.glob("*/.0*"))


def test_a_second_run_does_nothing_twice(batch: Batch) -> None:
    before = batch.attempts()
    done = batch.program("--cluster", "slurm:2")
    assert done.returncode == 4 and done.stdout.count("done before") == 5, done.stderr
    assert batch.attempts() == before | {"bad": before["bad"] + 1}


def test_an_array_of_jobs_does_what_is_left(batch: Batch, tmp_path: Path) -> None:
    """Of the same batch: one result was lost, the bad file is mended, and four are finished."""
    before = batch.attempts()
    shutil.rmtree(batch.out / "zx")
    shutil.copy(batch.tomograms / "x.mrc", batch.tomograms / "bad.mrc")
    script = tmp_path / "job.sh"
    options = ["--write-sbatch", str(script), "--cores", "1", "--job-memory", "2GB", "--at-once", "2"]
    written = batch.program(*options)
    assert written.returncode == 0, written.stderr
    job = ask(batch.environment, "sbatch", "--parsable", str(script))
    wait_until(lambda: ask(batch.environment, "squeue", "--noheader", "--jobs", job) == "", 240)
    assert set(batch.states().values()) == {"done"}, batch.states()
    assert batch.attempts() == before | {"zx": 1, "bad": before["bad"] + 1}
    assert len(list((batch.out / "jobs").glob(f"{job}_*.txt"))) == 6
    content = json.loads((batch.out / "batch.json").read_text())
    assert content["counts"]["done"] == 6


def test_jobs_that_are_refused_are_told_in_a_line(batch: Batch, tmp_path: Path) -> None:
    elsewhere = replace(
        batch, out=tmp_path / "out", environment={**batch.environment, "DASK_JOBQUEUE__SLURM__QUEUE": "no_such"}
    )
    done = elsewhere.program("--cluster", "slurm")
    errors = [line for line in done.stderr.splitlines() if "tomograms" not in line]
    assert done.returncode == 2 and len(errors) == 1 and "invalid partition" in errors[0], done.stderr
