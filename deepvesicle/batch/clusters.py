"""Workers of dask.distributed: on this machine, in jobs of a batch system, or of a scheduler that runs already."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepvesicle.batch.sbatch import LOG_FOLDER
from deepvesicle.cores import usable_cores
from deepvesicle.errors import DeepVesicleError, UsageError
from deepvesicle.memory import USUAL_BYTES, free_bytes

if TYPE_CHECKING:
    from distributed import Client

#: Batch systems, with the class of dask_jobqueue for each and the command that it cannot do without.
BATCH_SYSTEMS = {
    "slurm": ("SLURMCluster", "sbatch"),
    "pbs": ("PBSCluster", "qsub"),
    "lsf": ("LSFCluster", "bsub"),
    "sge": ("SGECluster", "qsub"),
}
_ADDRESS = re.compile(r"(tcp|tls|ucx|ws|wss)://.+")
_SPEC = re.compile(r"([a-z]+)(?::(\d+))?")
#: Workers on this machine that one does not ask for by number: a core fewer than this is not worth one more.
_CORES_EACH, _MOST_LOCAL = 4, 16
#: Jobs that one does not ask for by number, and what each gets where neither options nor configuration say so.
_MOST_JOBS, _JOB_CORES = 20, 4
#: What the processes round a tomogram's own take.
_JOB_SPARE_BYTES = 500_000_000
_CONNECT_SECONDS = 30


class ClusterError(DeepVesicleError):
    """Workers that cannot be had."""

    exit_code = 2


@dataclass(frozen=True)
class ClusterSpec:
    """Which workers are wanted.

    Parameters
    ----------
    kind : str
        ``local``, one of `BATCH_SYSTEMS`, or ``address``.
    workers : int
        How many at the same time; 0: as many as make sense.
    address : str
        Of a scheduler.
    cores : int
        For each tomogram; 0: as the configuration has it, or all there are, divided.
    unit_bytes : int
        What a tomogram may take.
    job_bytes : int
        For each job of a batch system; 0: as the configuration has it.
    log_folder : str
        For the output of jobs where the configuration names no folder.
    """

    kind: str
    workers: int = 0
    address: str = ""
    cores: int = 0
    unit_bytes: int = USUAL_BYTES
    job_bytes: int = 0
    log_folder: str = ""


def for_job(unit_bytes: int) -> int:
    """Memory to ask of a batch system for a tomogram that may take so much: with some to spare."""
    return unit_bytes + unit_bytes // 4 + _JOB_SPARE_BYTES


def parse_cluster(text: str) -> ClusterSpec:
    """Understand ``local``, ``local:4``, ``slurm``, ``slurm:10`` (pbs, lsf, sge alike) and ``tcp://host:8786``.

    Raises
    ------
    UsageError
    """
    if _ADDRESS.fullmatch(text):
        return ClusterSpec("address", address=text)
    found = _SPEC.fullmatch(text)
    kinds = ("local", *BATCH_SYSTEMS)
    if not found or found[1] not in kinds or found[2] == "0":
        raise UsageError(
            f"--cluster {text} is not known",
            expected=f"{', '.join(kinds)}, each with :N for N tomograms at the same time, or tcp://HOST:PORT",
        )
    return ClusterSpec(found[1], int(found[2] or 0))


@dataclass
class Workers:
    """Workers that are there, or will be.

    Parameters
    ----------
    client : distributed.Client
    cluster : distributed.deploy.SpecCluster, optional
        None where the scheduler is somebody else's.
    wanted : int
        How many there should be; 0 where that is not ours to say.
    cores : int
        For each tomogram; 0: all of the worker's machine, divided among the workers there.
    """

    client: Client
    cluster: Any
    wanted: int
    cores: int

    def addresses(self) -> list[str]:
        """Addresses of the workers that are there.

        Raises
        ------
        ClusterError
            The scheduler does not answer any more.
        """
        try:
            return list(self.client.nthreads())
        except (OSError, TimeoutError) as error:
            raise ClusterError(
                "the dask scheduler does not answer any more",
                got=str(error),
                remedy="The same command goes on from here, once it runs again",
            ) from error

    def replace_lost(self) -> str:
        """Ask for as many workers as there should be: those that were lost are started anew.

        Returns
        -------
        str
            Why the batch system refused; empty where it did not.
        """
        return "" if self.cluster is None else _scale(self.cluster, self.wanted)


@contextmanager
def workers_of(spec: ClusterSpec, units: int) -> Iterator[Workers]:
    """Give workers for so many tomograms; they end with the block, but for those of somebody else's scheduler.

    Raises
    ------
    UsageError, ClusterError
        The libraries or the batch system are missing, or do not answer.
    """
    dask, distributed = _libraries()
    config = {
        "distributed.worker.daemon": False,
        "distributed.scheduler.active-memory-manager.start": False,
        # Memory is that of the processes the workers start, which the workers do not count.
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": False,
        "distributed.logging.distributed": "error",
        "distributed.comm.timeouts.connect": f"{_CONNECT_SECONDS}s",
    }
    with dask.config.set(config), _quiet("asyncio", "tornado"):
        if spec.kind == "address":
            with _client(distributed, spec.address) as client:
                yield Workers(client, None, 0, spec.cores)
            return
        cluster, wanted, cores = (_local if spec.kind == "local" else _jobs)(spec, units)
        with _closing(cluster), _client(distributed, cluster) as client:
            yield Workers(client, cluster, wanted, cores)


def _libraries() -> tuple[Any, Any]:
    try:
        import dask
        import distributed
    except ImportError as error:
        raise UsageError(
            f"--cluster needs the library {error.name}",
            remedy="pip install 'deepvesicle[cluster]'; or leave the option out: one tomogram after the other",
        ) from error
    return dask, distributed


@contextmanager
def _client(distributed: Any, where: Any) -> Iterator[Client]:
    try:
        client = distributed.Client(where, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise ClusterError(
            f"there is no dask scheduler at {where}", got=str(error), remedy="Start one with `dask scheduler`"
        ) from error
    try:
        yield client
    finally:
        with suppress(Exception):  # what it was for is done, or lost, already
            client.close(timeout=5)


@contextmanager
def _closing(cluster: Any) -> Iterator[None]:
    try:
        yield
    finally:
        with suppress(Exception):
            cluster.close(timeout=20)


def number_of_local(spec: ClusterSpec, units: int) -> int:
    """How many workers there will be on this machine."""
    return min(units, spec.workers or local_workers(units, usable_cores(), free_bytes(), spec.unit_bytes))


def local_workers(units: int, cores: int, free_bytes: float, bytes_each: float) -> int:
    """How many tomograms to work on at the same time on one machine, where nobody says."""
    by_memory = free_bytes // max(1, bytes_each)
    return int(max(1, min(units, cores // _CORES_EACH, by_memory, _MOST_LOCAL)))


def _local(spec: ClusterSpec, units: int) -> tuple[Any, int, int]:
    from distributed import LocalCluster

    wanted = number_of_local(spec, units)
    cluster = LocalCluster(
        n_workers=wanted,
        threads_per_worker=1,
        processes=True,
        memory_limit=0,
        host="127.0.0.1",
        dashboard_address=None,
        silence_logs="CRITICAL",
        preload=["deepvesicle.batch.in_worker"],
    )
    return cluster, wanted, spec.cores or max(1, usable_cores() // wanted)


def _jobqueue(kind: str) -> Any:
    """The library dask-jobqueue; as it is loaded it takes Ctrl-C for itself, which is put right again.

    Raises
    ------
    UsageError
        It is not installed.
    """
    import signal

    before = signal.getsignal(signal.SIGINT)
    try:
        import dask_jobqueue
    except ImportError as error:
        raise UsageError(
            f"--cluster {kind} needs the library dask-jobqueue", remedy="pip install 'deepvesicle[cluster]'"
        ) from error
    finally:
        if signal.getsignal(signal.SIGINT) is not before:
            signal.signal(signal.SIGINT, before)
    return dask_jobqueue


def _jobs(spec: ClusterSpec, units: int) -> tuple[Any, int, int]:
    import shutil

    import dask

    dask_jobqueue = _jobqueue(spec.kind)
    class_name, command = BATCH_SYSTEMS[spec.kind]
    if shutil.which(command) is None:
        raise ClusterError(
            f"--cluster {spec.kind} needs the command {command}, which is not here",
            remedy="Run this on a machine from which jobs can be submitted",
        )

    def configured(name: str) -> Any:
        return dask.config.get(f"jobqueue.{spec.kind}.{name}", None)

    options: dict[str, Any] = {"silence_logs": "CRITICAL"}
    options["scheduler_options"] = {"dashboard_address": None, **(configured("scheduler-options") or {})}
    if spec.cores or configured("cores") is None:
        options |= {"cores": spec.cores or _JOB_CORES, "processes": 1}
    elif configured("processes") is None:
        options["processes"] = 1  # dask's own choice would cut a job's cores into several tomograms
    if spec.job_bytes or configured("memory") is None:
        options["memory"] = f"{spec.job_bytes or for_job(spec.unit_bytes)}B"
    if spec.log_folder and configured("log-directory") is None:
        options["log_directory"] = os.path.join(spec.log_folder, LOG_FOLDER)
    wanted = min(units, spec.workers or _MOST_JOBS)
    try:
        cluster = getattr(dask_jobqueue, class_name)(**options)
        cores = cluster._dummy_job.worker_process_threads
    except (ValueError, OSError, RuntimeError) as error:
        raise ClusterError(f"no workers from {spec.kind}", got=str(error).strip().splitlines()[0]) from error
    refused = _scale(cluster, wanted)
    if refused:
        with _closing(cluster):
            raise ClusterError(f"no workers from {spec.kind}", got=refused)
    return cluster, wanted, cores


def _scale(cluster: Any, workers: int) -> str:
    """Have as many workers as wanted, once all are asked for; gives why that was refused."""

    async def asked_for() -> None:
        cluster.scale(workers)
        await cluster._correct_state()

    try:
        cluster.sync(asked_for)
    except (OSError, RuntimeError, ValueError) as error:
        for name, job in list(cluster.workers.items()):
            if getattr(job, "job_id", "") is None:  # never submitted: else it would pass for a worker to come
                del cluster.workers[name]
        told = [line.strip() for line in str(error).splitlines() if line.strip()]
        return next((line for line in told if "error" in line.lower()), told[-1] if told else repr(error))
    return ""


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Keep loggers silent whose messages are told in another way."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
