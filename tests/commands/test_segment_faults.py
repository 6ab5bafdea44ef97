"""`deepvesicle segment` that is killed or runs out of disk: nothing half-written, and the next run completes."""

from __future__ import annotations

import gzip
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deepvesicle.commands.main import main
from deepvesicle.files.tables import read_vesicles_csv
from deepvesicle.files.tomogram import read_tomogram, write_probability
from deepvesicle.grid import Probability
from deepvesicle.network.patches import occupancy
from deepvesicle.network.unet import UNetShape, build_unet
from deepvesicle.network.zoo import save_network

ROOT = Path(__file__).resolve().parents[2]
RESULTS = {"t_vesicles.mod", "t_labels.mrc", "t_vesicles.csv", "t_overview.png", "t_run.json", "t_probability.mrc"}

#: Runs the program, with what it needs of the network replaced by the mask, and ends it by a signal where one function
#: is called.
RUN = """
import importlib, os, sys
from pathlib import Path
from deepvesicle.commands.main import main
from deepvesicle.files.tomogram import read_probability
from deepvesicle.grid import Probability
sample, where, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
def predict(tomogram, network, *_, out, **__):
    mask = read_probability(sample / "mask.mrc")
    out[:] = (255 * mask.data).astype("u1")
    if where == "predict":
        os.kill(os.getpid(), number)
    return Probability(out, mask.grid)
importlib.import_module("deepvesicle.network.inference").predict = predict
if where not in ("", "predict"):
    module, _, name = where.rpartition(".")
    module = importlib.import_module("deepvesicle." + module)
    def stop(*_, **__):
        os.kill(os.getpid(), number)
    setattr(module, name, stop)
sys.exit(main(["segment", *sys.argv[4:]]))
"""


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom, a mask of its vesicles, and an untrained model."""
    folder = tmp_path_factory.mktemp("sample")
    arguments = ["phantom", "-o", str(folder), "--shape", "40", "72", "80", "--contrast", "1.2", "--seed", "4"]
    assert main([*arguments, "--max-tilt", "60"]) == 0
    (folder / "phantom_synapse_4.mrc").rename(folder / "t.mrc")
    tomogram = read_tomogram(folder / "t.mrc")
    truth = read_vesicles_csv(folder / "phantom_synapse_4_truth.csv", tomogram.grid)
    write_probability(folder / "mask.mrc", Probability(occupancy(truth, tomogram.grid), tomogram.grid))
    shape = UNetShape(1, 2)
    save_network(folder / "model", build_unet(shape), shape, voxel_nm=2.2, threshold=0.5, card="untrained")
    return folder


def _run(
    sample: Path, out: Path, where: str = "", number: int = 0, **options: object
) -> subprocess.CompletedProcess[str]:
    arguments = [str(sample / "t.mrc"), "-o", str(out), "--model", str(sample / "model"), "--save-probability"]
    return subprocess.run(
        [sys.executable, "-c", RUN, str(sample), where, str(int(number)), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        **options,  # type: ignore[call-overload]
    )


STAGES = [
    "predict",
    "fitting.refine.refine",
    "files.labels.header_bytes",
    "report.overview.write_overview",
    "files.run_record._now",
]


@pytest.mark.parametrize("where", STAGES)
def test_killed_at_any_stage_and_run_again(sample: Path, tmp_path: Path, where: str) -> None:
    out = tmp_path / "out"
    run = _run(sample, out, where, signal.SIGKILL)
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert not {path.name for path in out.iterdir()} & RESULTS if out.exists() else True
    again = _run(sample, out)
    assert again.returncode == 0, again.stderr
    assert {path.name for path in out.iterdir()} == RESULTS


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, 130)])
@pytest.mark.parametrize("where", ["predict", "files.tables.write_vesicles_csv"])
def test_interrupted_runs_leave_nothing(sample: Path, tmp_path: Path, where: str, number: int, code: int) -> None:
    run = _run(sample, tmp_path / "out", where, number)
    assert run.returncode == code, run.stderr
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    _run(sample, tmp_path / "out", where, number)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("most", [100_000, 300_000, 900_000])
def test_files_that_cannot_grow_further(sample: Path, tmp_path: Path, most: int) -> None:
    """As on a full disk, at the network's mask, at the labels, and at the probability that is kept."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    run = _run(sample, tmp_path / "out", preexec_fn=limit)
    assert run.returncode == 3
    assert run.stderr.splitlines()[-1].startswith("error: cannot write ") and "disk is full" in run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "out").exists()
    assert _run(sample, tmp_path / "out").returncode == 0


def test_a_disk_without_room_is_told_before_the_work(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9**9, 9**9, 1000))  # type: ignore[attr-defined]
    arguments = ["segment", str(sample / "t.mrc"), "-o", str(tmp_path / "out"), "--model", str(sample / "model")]
    assert main(arguments) == 3
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "not enough room" in told and "free" in told
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told_before_the_work(
    sample: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepvesicle.files.quality.contrast_sign", lambda volume: pytest.fail("the work has begun"))
    assert main(["segment", str(sample / "t.mrc"), "-o", "/proc/x", "--model", str(sample / "model")]) == 2
    assert "/proc/x" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["2", "10MB", "much"])
def test_budgets_that_make_no_sense(
    sample: Path, tmp_path: Path, size: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["segment", str(sample / "t.mrc"), "-o", str(tmp_path / "out"), "--memory", size]) == 2
    assert "--memory" in capsys.readouterr().err


def test_compressed_tomograms_give_the_same_without_being_loaded(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.mrc.gz").write_bytes(gzip.compress((sample / "t.mrc").read_bytes()))
    (tmp_path / "mask.mrc.gz").write_bytes(gzip.compress((sample / "mask.mrc").read_bytes()))
    maps: list[bool] = []
    from deepvesicle import pipeline

    real = pipeline.segment

    def watched(tomogram, *args, probability, **kwargs):  # type: ignore[no-untyped-def]
        maps.extend(
            isinstance(v.data.base, np.memmap) or isinstance(v.data, np.memmap) for v in (tomogram, probability)
        )
        return real(tomogram, *args, probability=probability, **kwargs)

    monkeypatch.setattr(pipeline, "segment", watched)
    for folder, ending in ((sample, ""), (tmp_path, ".gz")):
        options = ["--from-probability", str(folder / f"mask.mrc{ending}"), "--model", str(sample / "model")]
        out = tmp_path / f"out{ending}"
        assert main(["segment", str(folder / f"t.mrc{ending}"), "-o", str(out), *options, "--memory", "1GB"]) == 0
    assert maps == [True] * 4
    plain, packed = ((tmp_path / f"out{e}" / "t_vesicles.csv").read_text() for e in ("", ".gz"))
    assert plain == packed
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


def test_who_is_to_blame_for_limits(sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "settings.toml"
    base = ["segment", str(sample / "t.mrc"), "-o", str(tmp_path / "out"), "--settings", str(file)]
    file.write_text("[proposal]\nmin_radius_nm = 40\nmax_radius_nm = 30\n")
    assert main(base) == 3
    told = capsys.readouterr().err
    assert "settings.toml" in told and "proposal.min_radius_nm" in told and "--min-radius" not in told
    assert main([*base, "--max-radius", "20"]) == 2
    assert "--max-radius" in capsys.readouterr().err
    file.write_text("[proposal]\nthreshold = 0\n")
    assert main(base) == 3
    assert "settings.toml: proposal.threshold" in capsys.readouterr().err
    for value in ("0", "1"):
        assert main([*base, "--threshold", value]) == 2
        assert f"more than 0 and less than 1; got {value}" in capsys.readouterr().err
