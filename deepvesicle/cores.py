"""How many cores this process may use."""

from __future__ import annotations

import os

#: Says how many cores a run may use, where several share a machine: set by `deepvesicle batch`.
CORES_VARIABLE = "DEEPVESICLE_CORES"


def usable_cores() -> int:
    """Cores that this process may use: our own variable's word, else SLURM's, else the processor affinity."""
    for variable in (CORES_VARIABLE, "SLURM_CPUS_PER_TASK"):
        granted = os.environ.get(variable, "")
        if granted.isdigit() and int(granted) > 0:
            return int(granted)
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1
