"""The run record: everything that is needed to run again, and true hashes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from deepvesicle.errors import BadInputError, OutputExistsError
from deepvesicle.files.run_record import FileRecord, RunRecord, program_versions, read_run_record
from deepvesicle.settings import OutlierSettings, Settings


def make_record(folder: Path) -> RunRecord:
    (folder / "tomo.mrc").write_bytes(b"tomogram" * 1000)
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    (folder / "model" / "weights.h5").write_bytes(b"weights")
    return RunRecord.start(
        "segment",
        Settings(outliers=OutlierSettings(doubtful_p=0.05)),
        {"tomogram": folder / "tomo.mrc", "model": folder / "model"},
        argv=["deepvesicle", "segment", "tomo.mrc", "--voxel-size", "2.1"],
        seed=7,
        voxel_nm=2.1,
        voxel_source="option",
    )


def test_round_trip(tmp_path: Path) -> None:
    record = make_record(tmp_path).finished(
        outputs=[tmp_path / "tomo_labels.mrc"], counts={"refined": np.int64(12), "median_nm": 20.5}, warnings=["odd"]
    )
    record.write(tmp_path / "tomo_run.json")
    read = read_run_record(tmp_path / "tomo_run.json")
    assert replace(read, settings={}) == replace(record, settings={})
    assert Settings.from_dict(dict(read.settings)) == Settings(outliers=OutlierSettings(doubtful_p=0.05))
    assert read.argv == ("deepvesicle", "segment", "tomo.mrc", "--voxel-size", "2.1")
    assert read.counts == {"refined": 12, "median_nm": 20.5} and read.warnings == ("odd",)
    assert datetime.fromisoformat(read.started) <= datetime.fromisoformat(read.ended)


def test_inputs_are_hashed(tmp_path: Path) -> None:
    record = make_record(tmp_path)
    assert record.inputs["tomogram"] == FileRecord(
        str(tmp_path / "tomo.mrc"), hashlib.sha256(b"tomogram" * 1000).hexdigest(), 8000
    )
    before = record.inputs["model"]
    assert before.bytes == 9
    (tmp_path / "model" / "weights.h5").write_bytes(b"weighty")
    assert FileRecord.of(tmp_path / "model").sha256 != before.sha256
    (tmp_path / "model" / "weights.h5").write_bytes(b"weights")
    assert FileRecord.of(tmp_path / "model") == before
    (tmp_path / "model" / "weights.h5").rename(tmp_path / "model" / "other.h5")
    assert FileRecord.of(tmp_path / "model").sha256 != before.sha256


def test_file_is_plain_json(tmp_path: Path) -> None:
    record = make_record(tmp_path).finished(counts={"unknown": float("nan"), "array": np.float32(1.5)})
    record.write(tmp_path / "run.json")

    def no_constants(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    content = json.loads((tmp_path / "run.json").read_text(), parse_constant=no_constants)
    assert content["counts"] == {"unknown": None, "array": 1.5}
    assert content["versions"]["python"] == ".".join(str(n) for n in sys.version_info[:3])
    assert content["versions"]["numpy"] == np.__version__
    assert content["host"]["cores"] >= 1


def test_versions_are_found_without_importing() -> None:
    code = (
        "import sys, deepvesicle.files.run_record as r; v = r.program_versions();"
        "print(sorted(m for m in ('tensorflow', 'keras', 'csbdeep', 'scipy', 'skimage') if m in sys.modules), len(v))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert output[0] == "[]" and int(output[1]) == len(program_versions())


def test_no_overwriting(tmp_path: Path) -> None:
    record = make_record(tmp_path)
    record.write(tmp_path / "run.json")
    with pytest.raises(OutputExistsError):
        record.write(tmp_path / "run.json")
    record.write(tmp_path / "run.json", overwrite=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not a run record"),
        ("[]", "not a run record of this program"),
        ('{"format": 99}', "expected format 1; got 99"),
        ('{"format": 1, "command": "segment"}', "complete"),
        ('{"format": 1, "command": "segment", "inputs": {"tomogram": {"name": 1}}}', "complete"),
    ],
)
def test_files_that_are_no_records(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(BadInputError, match=message):
        read_run_record(tmp_path / "run.json")


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="cannot be read"):
        read_run_record(tmp_path / "run.json")
    with pytest.raises(BadInputError, match="cannot read"):
        RunRecord.start("segment", {}, {"tomogram": tmp_path / "none.mrc"})
