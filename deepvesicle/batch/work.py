"""Working on one unit, wherever that is: here, in a worker of a cluster, or in a task of a batch system's array."""

from __future__ import annotations

import platform
import shlex
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from deepvesicle.batch.child import Ending, limited_to, run_child
from deepvesicle.batch.finished import Finding, Verdict, clear, look, prints, sources
from deepvesicle.batch.plan import Plan, Resources, Unit
from deepvesicle.batch.state import Print, Stage, State, locked, print_of, read_state, utc_now, write_state
from deepvesicle.cores import usable_cores
from deepvesicle.errors import DeepVesicleError
from deepvesicle.files.run_record import read_run_record

#: A process that dies is started once more in the same run; what failed by its own word is not.
MAX_ATTEMPTS = 2
_TAIL_BYTES = 16_384

_stops: dict[str, threading.Event] = {}


def perform(
    plan: Plan,
    unit: Unit,
    run: str,
    *,
    resources: Resources | None = None,
    overwrite: bool = False,
    stop: threading.Event | None = None,
) -> State:
    """Bring one unit to its end, unless it is there already.

    Parameters
    ----------
    plan : Plan
    unit : Unit
    run : str
        Names this run of the batch: deaths are counted within it.
    resources : Resources, optional
        All cores by default.
    overwrite : bool
        See `deepvesicle.batch.finished.clear`; what the user has corrected is then worked out anew as well.
    stop : threading.Event, optional
        Ends the work when it is set.

    Returns
    -------
    State
        As it was written beside the results. The unit failed if its program did so by its own word, or died in
        `MAX_ATTEMPTS` attempts of the run.
    """
    folder = unit.folder(plan)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder) as lock:
            if lock is None:
                return State(Stage.FAILED, run, error="another run is at work on it; try again when that has ended")
            state = settled(plan, unit, overwrite=overwrite)
            if state is not None:
                return state
            return _attempts(plan, unit, run, lock, resources or Resources(), overwrite, stop or threading.Event())
    except DeepVesicleError as error:
        return State(Stage.FAILED, run, error=str(error))
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return State(Stage.FAILED, run, error=f"{error.strerror or error}{where}")


def settled(plan: Plan, unit: Unit, *, overwrite: bool = False) -> State | None:
    """The state of a unit that needs no work, or None; nothing is written but a state that was lost."""
    folder = unit.folder(plan)
    state = read_state(folder)
    finding = look(plan, unit, state)
    if finding.verdict is Verdict.CORRECTED and not overwrite:
        counted = finding.record.counts if finding.record is not None else {}
        return replace(state, stage=Stage.DONE, error="", notes=(f"kept: {finding.reason}",), counts=counted)
    if finding.verdict is not Verdict.FINISHED:
        return None
    if state.stage is Stage.DONE:
        return state
    return write_state(folder, _done(plan, unit, state, finding))


def write_failure(plan: Plan, unit: Unit, state: State, error: str) -> State:
    """Note that a unit failed."""
    return write_state(unit.folder(plan), replace(state, stage=Stage.FAILED, error=error, ended=utc_now()))


def worn_out(state: State, run: str) -> bool:
    """Whether a unit's processes have died as often as they may."""
    return state.run == run and state.attempts >= MAX_ATTEMPTS


def why_worn_out(state: State) -> str:
    """What to say of such a unit."""
    deaths = [*state.deaths, *["its worker died"] * (state.attempts - len(state.deaths))]
    times = f"{len(deaths)} times: " if len(deaths) != 2 else "twice: "
    return "died " + times + "; then ".join(dict.fromkeys(deaths))


def stop_all(run: str) -> None:
    """End what this process works on for a run; a worker of a cluster is asked to call this."""
    _stops.setdefault(run, threading.Event()).set()


def perform_in_worker(plan: Plan, unit: Unit, run: str, resources: Resources, overwrite: bool) -> State:
    """As `perform`, in a process that hears `stop_all`."""
    stop = _stops.setdefault(run, threading.Event())
    return perform(plan, unit, run, resources=resources, overwrite=overwrite, stop=stop)


def _attempts(
    plan: Plan, unit: Unit, run: str, lock: int, resources: Resources, overwrite: bool, stop: threading.Event
) -> State:
    folder = unit.folder(plan)
    state = read_state(folder)
    if state.run != run:
        state = State(run=run, inputs=state.inputs, outputs=state.outputs)
    cores = resources.cores or max(1, usable_cores() // max(1, resources.share))
    while not worn_out(state, run):
        note = clear(plan, unit, look(plan, unit, read_state(folder)), overwrite=overwrite)
        state = replace(
            state,
            stage=Stage.RUNNING,
            attempts=state.attempts + 1,
            started=utc_now(),
            ended="",
            error="",
            host=platform.node(),
            notes=(*state.notes, *([note] if note else [])),
            inputs={},
            outputs={},
        )
        write_state(folder, state)
        before = _stats(unit)
        try:
            ending, error = _one_attempt(plan, unit, state.attempts, cores, lock, stop)
        except BaseException:
            write_state(folder, replace(state, stage=Stage.STOPPED, attempts=state.attempts - 1, ended=utc_now()))
            raise
        state = replace(state, ended=utc_now(), seconds=round(ending.seconds, 2), peak_bytes=ending.peak_bytes)
        if stop.is_set():
            return write_state(folder, replace(state, stage=Stage.STOPPED, attempts=state.attempts - 1))
        if ending.died:
            state = write_state(folder, replace(state, deaths=(*state.deaths, ending.describe())))
            continue
        if ending.code:
            return write_state(folder, replace(state, stage=Stage.FAILED, error=error))
        state = replace(state, inputs=_inputs_told(plan, unit, before))
        finding = look(plan, unit, state)
        if finding.verdict is not Verdict.FINISHED:
            reason = finding.reason or "nothing was written"
            return write_state(folder, replace(state, stage=Stage.FAILED, error=f"it ended well, but {reason}"))
        return write_state(folder, _done(plan, unit, state, finding))
    return write_failure(plan, unit, state, why_worn_out(state))


def _done(plan: Plan, unit: Unit, state: State, finding: Finding) -> State:
    """The state of a unit whose result has been found to be whole."""
    record = finding.record
    assert record is not None
    known = {name: print_of(path, state.inputs.get(name)) for name, path in sources(unit).items()}
    return replace(
        state,
        stage=Stage.DONE,
        error="",
        started=state.started or record.started,
        ended=state.ended or record.ended,
        counts=record.counts,
        warnings=record.warnings,
        inputs={name: found for name, found in known.items() if found is not None},
        outputs=prints(unit.outputs(plan)),
    )


def _stats(unit: Unit) -> dict[str, tuple[int, int]]:
    """Size and time of each file that the result is made of."""
    found = {}
    for name, path in sources(unit).items():
        with suppress(OSError):
            status = path.stat()
            found[name] = (status.st_size, status.st_mtime_ns)
    return found


def _inputs_told(plan: Plan, unit: Unit, before: Mapping[str, tuple[int, int]]) -> dict[str, Print]:
    """Prints by the hashes of the run record, so that large files are not read once more; nothing if one changed."""
    if _stats(unit) != before:
        return {}
    try:
        inputs = read_run_record(unit.record(plan)).inputs
        return {name: Print(*stats, inputs[name].sha256) for name, stats in before.items()}
    except (DeepVesicleError, KeyError):
        return {}


def _one_attempt(
    plan: Plan, unit: Unit, number: int, cores: int, lock: int, stop: threading.Event
) -> tuple[Ending, str]:
    """Run the program once; gives how it ended, and the last line in which it told of an error."""
    program = list(plan.program) or [sys.executable, "-m", "deepvesicle"]
    command = [*program, *unit.arguments(plan)]
    log = unit.log(plan)
    with log.open("ab") as output:
        head = f"--- attempt {number}, {utc_now()}, {platform.node()}, {cores} cores: {shlex.join(command)}\n"
        output.write(head.encode())
    size = log.stat().st_size
    ending = run_child(command, log, environment=limited_to(cores), keep_open=[lock], stop=stop)
    with log.open("ab") as output:
        output.write(f"--- ended with {ending.code} after {ending.seconds:.1f} s\n".encode())
    with log.open("rb") as text:
        text.seek(max(size, log.stat().st_size - _TAIL_BYTES))
        return ending, _error_in(text.read().decode(errors="replace").splitlines()[:-1])


def _error_in(lines: Sequence[str]) -> str:
    """The last line that tells of an error, else the last line at all."""
    told = [line.strip() for line in lines if line.strip()]
    errors = [line.removeprefix("error:").strip() for line in told if line.startswith("error:")]
    return errors[-1] if errors else told[-1] if told else "the program failed without a word"
