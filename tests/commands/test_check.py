"""`deepvesicle check`, and the estimates behind it, on phantoms, on noise, and on files that cannot be used."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from deepvesicle.commands.main import main
from deepvesicle.files.quality import (
    START_UP_SECONDS,
    assess,
    contrast_sign,
    estimated_memory_bytes,
    estimated_seconds,
)
from deepvesicle.files.tomogram import read_tomogram, write_tomogram
from deepvesicle.grid import Grid, Tomogram

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "files"))
from test_tomogram import bad_files  # noqa: E402


def membranes(rng: np.random.Generator, shape: tuple[int, int, int], voxel_nm: float, noise: float) -> Tomogram:
    """Dark spherical membranes in noise: the simplest thing with the right sign."""
    grey = np.zeros(shape, np.float32)
    for _ in range(12):
        centre, radius = rng.uniform(0, shape), rng.uniform(15, 22)
        low = [max(0, int(c - 27 / voxel_nm)) for c in centre]
        high = [min(n, int(c + 28 / voxel_nm)) for c, n in zip(centre, shape, strict=True)]
        places = np.ogrid[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        distance = np.sqrt(sum((p - c) ** 2 for p, c in zip(places, centre, strict=True))) * voxel_nm
        grey[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] -= np.exp(-(((distance - radius) / 2.5) ** 2))
    return Tomogram(grey + noise * rng.normal(size=shape).astype(np.float32), Grid(shape, voxel_nm))


@pytest.mark.parametrize(("voxel_nm", "noise"), [(0.7, 1.5), (1.3, 1.0), (2.1, 0.3), (2.1, 0.8), (3.2, 0.3)])
def test_sign_of_membranes(rng: np.random.Generator, voxel_nm: float, noise: float) -> None:
    shape = tuple(int(n / voxel_nm) for n in (100, 180, 140))
    tomogram = membranes(rng, shape, voxel_nm, noise)  # type: ignore[arg-type]
    assert contrast_sign(tomogram).sign == "dark"
    assert contrast_sign(replace(tomogram, invert=True)).sign == "bright"
    assert contrast_sign(Tomogram(-tomogram.data, tomogram.grid)).sign == "bright"
    assert contrast_sign(Tomogram(-tomogram.data, tomogram.grid, invert=True)).sign == "dark"


@pytest.mark.parametrize("sigma", [0, 2])
def test_noise_has_no_sign(rng: np.random.Generator, sigma: float) -> None:
    grey = gaussian_filter(rng.normal(size=(60, 90, 110)), sigma).astype(np.float32)
    found = contrast_sign(Tomogram(grey, Grid(grey.shape, 2.2)))
    assert found.sign == "unsure" and abs(found.skewness) < 4 * found.standard_error


@pytest.mark.parametrize("name", ["independent/syn_a.mrc.gz", "ferritin_shells/ferritin_upper.mrc.gz"])
def test_sign_of_independent_data(shared_data: Callable[[str], Path], name: str) -> None:
    tomogram = read_tomogram(shared_data(name))
    assert contrast_sign(tomogram).sign == "dark"
    assert contrast_sign(replace(tomogram, invert=True)).sign == "bright"


def test_noise_sd_is_found_among_structure(rng: np.random.Generator) -> None:
    weak, strong = (assess(membranes(np.random.default_rng(3), (50, 90, 70), 2.0, noise)) for noise in (2.0, 0.5))
    assert weak.noise_sd == pytest.approx(2.0, rel=0.05)
    assert strong.noise_sd == pytest.approx(0.5, rel=0.15)
    assert strong.structure_snr == pytest.approx(4 * weak.structure_snr, rel=0.25)
    pure = rng.normal(0, 7, (50, 90, 70)).astype(np.float32)
    quality = assess(Tomogram(pure, Grid(pure.shape, 2.0)))
    assert quality.noise_sd == pytest.approx(7, rel=0.03) and quality.structure_snr < 0.05


@pytest.mark.parametrize(("axis", "order"), [("y", (0, 1, 2)), ("x", (0, 2, 1))])
def test_tilt_axis(rng: np.random.Generator, axis: str, order: tuple[int, int, int]) -> None:
    """Cut a wedge about the z axis in the x-z plane out of a volume's Fourier transform, as a tilt about y does."""
    tomogram = membranes(rng, (48, 80, 64), 2.0, 0.5)
    spectrum = np.fft.fftn(tomogram.data)
    kz, _, kx = np.meshgrid(*(np.fft.fftfreq(n) for n in tomogram.data.shape), indexing="ij")
    spectrum[np.abs(kz) > np.abs(kx) * np.tan(np.deg2rad(60))] = 0
    grey = np.fft.ifftn(spectrum).real.astype(np.float32).transpose(order)
    assert assess(Tomogram(grey, Grid(grey.shape, 2.0))).tilt_axis == axis
    assert assess(tomogram).tilt_axis == "unsure"


def test_statistics_follow_the_sign(rng: np.random.Generator) -> None:
    data = rng.integers(-20, 90, (12, 30, 20)).astype(np.int16)
    quality = assess(Tomogram(data, Grid(data.shape, 2.0), invert=True))
    assert (quality.minimum, quality.maximum) == (-89, 20)
    assert quality.mean == pytest.approx(-data.mean()) and quality.sd == pytest.approx(data.std())


def test_cost_grows_with_the_volume() -> None:
    small, large = (Tomogram(np.zeros(s, np.int8), Grid(s, 1.1)) for s in ((20, 40, 60), (40, 80, 120)))
    work = [estimated_seconds(grid) - START_UP_SECONDS for grid in (small.grid, large.grid, Grid((40, 80, 120), 2.2))]
    assert work[1] == pytest.approx(8 * work[0], rel=0.01)
    assert work[2] == pytest.approx(8 * work[1], rel=0.01)
    assert estimated_memory_bytes(large) - estimated_memory_bytes(small) == 3 * (40 * 80 * 120 - 20 * 40 * 60)


def test_empty_blocks_and_tiny_volumes() -> None:
    """Padding of zeros around a thin volume, and a volume smaller than any block, must not break the estimates."""
    data = np.zeros((6, 130, 150), np.float32)
    data[2:4, 60:70, 70:80] = np.arange(200).reshape(2, 10, 10)
    quality = assess(Tomogram(data, Grid(data.shape, 2.0)))
    assert np.isfinite([quality.noise_sd, quality.structure_snr, quality.contrast.skewness]).all()
    assert any("thick" in doubt for doubt in quality.doubts)
    tiny = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    assert assess(Tomogram(tiny, Grid(tiny.shape, 2.0))).contrast.sign == "unsure"


# --- the command ---


def write_phantom(path: Path) -> Path:
    tomogram = membranes(np.random.default_rng(1), (50, 84, 70), 2.0, 0.6)
    write_tomogram(path, tomogram.data, replace(tomogram.grid, origin_nm=(5.0, 0.0, -10.0)))
    return path


def test_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_phantom(tmp_path / "t.mrc")
    assert main(["check", str(path)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for part in (
        "70 x 84 x 50 voxels",
        "2 nm (from the header)",
        "-10, 0, 5 nm",
        "32-bit floats",
        "dense is dark",
        "GB",
    ):
        assert part in out, part
    assert "doubtful" not in out
    assert main(["check", str(path), "--invert", "--voxel-size", "2.2"]) == 0
    out = capsys.readouterr().out
    assert "2.2 nm (as given)" in out and "inverted" in out and "without --invert" in out
    assert [p.name for p in tmp_path.iterdir()] == ["t.mrc"]


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(write_phantom(tmp_path / "t.mrc.gz")), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["shape_zyx"] == [50, 84, 70] and content["voxel_nm"] == 2.0 and content["voxel_source"] == "header"
    assert content["contrast"]["sign"] == "dark" and content["doubts"] == []
    assert content["noise_sd"] == pytest.approx(0.6, rel=0.1)


def test_every_bad_file_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        files = bad_files(tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    wrong: dict[str, Any] = {}
    for name, (path, message) in files.items():
        code = main(["check", str(path)])
        out, err = capsys.readouterr()
        if code != 3 or out or err.count("\n") != 1 or not err.startswith("error: ") or message not in err:
            wrong[name] = (code, out, err)
    assert wrong == {}
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert len(files) > 25


def test_voxel_size_that_cannot_be_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.mrc"
    data = np.random.default_rng(0).normal(size=(10, 20, 30)).astype(np.float32)
    write_tomogram(path, data, Grid(data.shape, 0.018))
    assert main(["check", str(path)]) == 3
    err = capsys.readouterr().err
    assert "0.018 nm" in err and "--voxel-size" in err and err.count("\n") == 1
    assert main(["check", str(path), "--voxel-size", "18"]) == 2
    assert "18 angstrom would be 1.8 nm" in capsys.readouterr().err
    assert main(["check", str(path), "--voxel-size", "1.8"]) == 0
