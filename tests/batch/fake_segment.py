"""A stand-in for `deepvesicle segment` that needs no network and takes no time: the tomogram's text says what it does.

Words, one a line: ``fail`` ends with an error; ``die N`` kills itself in the first N runs; ``sleep S`` takes S seconds;
``slow N`` takes a minute in the first N runs; ``half`` leaves one output out; ``warn`` records a warning. Every run
adds a line to ``<tomogram>.runs``: its process, its cores, and the process that started it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from deepvesicle.files.run_record import RunRecord
from deepvesicle.settings import read_settings

#: Names of the outputs, as a plan has them.
OUTPUTS = ("{stem}_vesicles.mod", "{stem}_vesicles.csv", "{stem}_labels.mrc", "{stem}_run.json")
#: What a process that is killed leaves behind: as `deepvesicle.files.atomic` names it, of another machine.
HALF_WRITTEN = ".0123456789ab.p1_01234567.mrc"


def main(arguments: list[str]) -> int:
    tomogram = Path(arguments[1])
    option = dict(zip(arguments[2::2], arguments[3::2], strict=True))
    folder, words = (
        Path(option["--output"]),
        dict((*line.split(), "")[:2] for line in tomogram.read_text().splitlines()),
    )
    runs = tomogram.with_suffix(".runs")
    with runs.open("a") as file:
        file.write(f"{os.getpid()} {os.environ.get('DEEPVESICLE_CORES')} {os.getppid()}\n")
    count = len(runs.read_text().splitlines())
    print("network ...", flush=True)
    if "sleep" in words:
        print("network: 40%", flush=True)
        time.sleep(float(words["sleep"]))
    if "slow" in words and count <= int(words["slow"]):
        time.sleep(60)
    if "fail" in words:
        print("error: this tomogram is bad.", file=sys.stderr, flush=True)
        return 3
    inputs = {"tomogram": tomogram, "model": Path(option["--model"])}
    inputs |= {"mask": Path(option["--mask"])} if "--mask" in option else {}
    record = RunRecord.start(
        "segment", read_settings(option["--settings"]), inputs, voxel_nm=2.0, voxel_source="header"
    )
    outputs = [folder / name.replace("{stem}", tomogram.stem) for name in OUTPUTS]
    for path in outputs[:-1][: 2 if "half" in words else None]:
        if path.exists():
            print(f"error: {path} exists", file=sys.stderr, flush=True)
            return 2
        path.write_text(f"{path.name} of {tomogram.read_text()}")
        (folder / HALF_WRITTEN).write_text("half-written")
    if "die" in words and count <= int(words["die"]):
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / HALF_WRITTEN).unlink()
    counts = {"refined": 3, "doubtful": 1, "rejected": 2, "mean_radius_nm": 20.5}
    done = record.finished(outputs=outputs, counts=counts, warnings=["look at this"] if "warn" in words else [])
    done.write(outputs[-1])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
