"""A job script for SLURM: an array with a task for each tomogram, for those who prefer it to workers."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepvesicle.errors import UsageError
from deepvesicle.files.atomic import new_file

LOG_FOLDER = "jobs"
DEFAULT_CORES = 4


@dataclass(frozen=True)
class ArrayJob:
    """What is asked of SLURM.

    Parameters
    ----------
    folder : Path
        Of the batch.
    numbers : sequence of int
        Of the units.
    memory_bytes : int
        For each task.
    at_once : int
        Tasks that may run at the same time; 0: as many as SLURM lets.
    cores : int
        For each task.
    directives : sequence of str
        More lines of ``#SBATCH``, such as ``--partition=short``.
    overwrite : bool
        Handed on to the tasks.
    """

    folder: Path
    numbers: Sequence[int]
    memory_bytes: int
    at_once: int = 0
    cores: int = DEFAULT_CORES
    directives: Sequence[str] = ()
    overwrite: bool = False

    def script(self) -> str:
        """The script's text."""
        logs = str(self.folder / LOG_FOLDER).replace("%", "%%")
        lines = [
            "--job-name=deepvesicle",
            f"--array={ranges(self.numbers)}{f'%{self.at_once}' if self.at_once else ''}",
            f"--output={_quoted(f'{logs}/%A_%a.txt')}",
            f"--cpus-per-task={self.cores}",
            f"--mem={-(-self.memory_bytes // 2**20)}M",
            "--open-mode=append",
            *(directive.removeprefix("#SBATCH ").strip() for directive in self.directives),
        ]
        program = shlex.join([sys.executable, "-m", "deepvesicle", "batch", "--output", str(self.folder)])
        more = " --overwrite" if self.overwrite else ""
        return "\n".join(
            [
                "#!/bin/bash",
                *(f"#SBATCH {line}" for line in lines),
                "",
                "# A task for each tomogram; those that are finished end at once, so this may be submitted again.",
                f'exec {program} --task "$SLURM_ARRAY_TASK_ID"{more}',
                "",
            ]
        )


def write_sbatch(path: Path, job: ArrayJob, *, overwrite: bool = False) -> None:
    """Write the script, and make the folder for the output of its tasks.

    Raises
    ------
    UsageError, OutputExistsError
        A directive holds more than one line, or the script cannot be written.
    """
    for directive in job.directives:
        if "\n" in directive or not directive.removeprefix("#SBATCH ").strip().startswith("-"):
            raise UsageError(f"--sbatch {directive!r} is no option of sbatch", expected="such as --partition=short")
    with new_file(path, overwrite=overwrite) as temporary:
        temporary.write_text(job.script(), encoding="utf-8")
        os.chmod(temporary, 0o755)
    (job.folder / LOG_FOLDER).mkdir(exist_ok=True)


def ranges(numbers: Sequence[int]) -> str:
    """Numbers as SLURM lists them: 1, 2, 3, 7 -> ``1-3,7``."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ",".join("-".join(map(str, part)) for part in parts)


def _quoted(text: str) -> str:
    """A value in a directive: quotes where there are blanks."""
    return f'"{text}"' if any(character.isspace() for character in text) else text
