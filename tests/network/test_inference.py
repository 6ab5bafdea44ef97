"""Prediction with the shipped network: as one pass, without seams, in the memory given; bfloat16 where it is right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deepvesicle.errors import NetworkError
from deepvesicle.grid import Grid, Tomogram
from deepvesicle.network import backend, inference
from deepvesicle.network.grey import measure_normalisation
from deepvesicle.network.inference import choose_dtype, predict
from deepvesicle.network.stream import Stream
from deepvesicle.network.zoo import Network, load_network
from deepvesicle.settings import PredictionSettings

ROOT = Path(__file__).resolve().parents[2]
needs_bfloat16 = pytest.mark.skipif(not backend.cpu_has_bfloat16(), reason="the processor has no bfloat16")


@pytest.fixture(scope="module")
def tomogram() -> Tomogram:
    """Dark shells in noise, some across the borders of columns."""
    grid = Grid((32, 56, 64), 2.2)
    rng = np.random.default_rng(5)
    data = rng.normal(0, 1, grid.shape_zyx)
    places = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape_zyx], indexing="ij"), axis=-1)
    for centre in ((16, 16, 20), (20, 34, 30), (14, 46, 48), (12, 20, 52), (22, 42, 10)):
        away = np.linalg.norm(places - centre, axis=-1)
        data -= 3 * np.exp(-0.5 * ((away - 8) / 1.2) ** 2)
    return Tomogram(data.astype(np.float32), grid)


@pytest.fixture(scope="module")
def network() -> Network:
    return load_network("default")


@pytest.fixture(scope="module")
def one_pass(tomogram: Tomogram, network: Network) -> NDArray[np.float32]:
    """The trainable network over the whole mirrored volume at once."""
    grey = measure_normalisation(tomogram, tomogram.grid).apply(tomogram.data)
    pad = 48
    padded = np.pad(grey, [(pad, pad + (-n) % 8) for n in grey.shape], mode="symmetric")
    model = network.model()
    model.compile(jit_compile=False)
    whole = np.asarray(model.predict_on_batch(padded[None, ..., None]))[0, ..., 0]
    return whole[tuple(slice(pad, pad + n) for n in grey.shape)]


def _dice(one: NDArray[Any], other: NDArray[Any]) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def _border(shape: tuple[int, ...], edge: int) -> NDArray[np.bool_]:
    """Voxels beside the borders between columns."""
    y, x = (np.isin(np.arange(n) % edge, (0, edge - 1)) for n in shape[1:])
    return np.broadcast_to(y[:, None] | x, shape)


def test_columns_are_one_pass_over_the_volume(
    tomogram: Tomogram, network: Network, one_pass: NDArray[np.float32]
) -> None:
    told: list[tuple[str, int, int]] = []
    found = predict(
        tomogram,
        network,
        PredictionSettings(precision="fp32", tile_vox=24),
        progress=lambda *entry: told.append(entry),
    )
    assert np.abs(found.data - 255 * one_pass).max() < 0.51
    mask = one_pass >= network.threshold
    assert 0.02 < mask.mean() < 0.5
    assert _dice(found.values() >= network.threshold, mask) >= 0.9995
    stages, done, total = zip(*told, strict=True)
    assert set(stages) == {"network"} and len(set(total)) == 1
    assert list(done) == sorted(done) and done[-1] == total[0]


@needs_bfloat16
def test_bfloat16_has_no_seams_either(tomogram: Tomogram, network: Network, one_pass: NDArray[np.float32]) -> None:
    notes: list[str] = []
    found = predict(tomogram, network, PredictionSettings(precision="bf16", tile_vox=24), notify=notes.append)
    assert not notes
    assert _dice(found.values() >= network.threshold, one_pass >= network.threshold) >= 0.9985
    error = np.abs(found.data - 255 * one_pass)
    border = _border(error.shape, 24)
    assert error.max() < 8
    assert error[border].mean() < 1.2 * error[~border].mean()


@needs_bfloat16
def test_where_bfloat16_is_not_exact_enough_fp32_takes_its_place(
    tomogram: Tomogram, network: Network, one_pass: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Stream.weights

    def spoiled(self: Stream, convolutions: Any, mirrored: tuple[int, ...] = ()) -> Any:
        if self.dtype != "float32":
            convolutions = [(kernel * np.float32(1.02), bias) for kernel, bias in convolutions]
        return right(self, convolutions, mirrored)

    monkeypatch.setattr(Stream, "weights", spoiled)
    notes: list[str] = []
    found = predict(tomogram, network, PredictionSettings(tile_vox=40), notify=notes.append)
    assert len(notes) == 1 and "fp32" in notes[0]
    assert np.abs(found.data - 255 * one_pass).max() < 0.51


def _cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: str) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu avx512f {flags}\n")
    monkeypatch.setattr(backend, "_CPUINFO", tmp_path / "cpuinfo")
    backend.cpu_has_bfloat16.cache_clear()
    monkeypatch.setattr(backend, "gpu_capability", lambda: None)


@pytest.fixture(autouse=True)
def _own_cpu_again() -> Any:
    yield
    backend.cpu_has_bfloat16.cache_clear()


@pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16"])
def test_bfloat16_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flag: str) -> None:
    _cpu(monkeypatch, tmp_path, flag)
    assert [choose_dtype(p) for p in ("auto", "bf16", "fp32")] == ["bfloat16", "bfloat16", "float32"]


def test_no_bfloat16_where_the_processor_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _cpu(monkeypatch, tmp_path, "avx512_vnni")
    assert choose_dtype("auto") == "float32"
    with pytest.raises(NetworkError, match="bf16.*avx512_bf16.*fp32"):
        choose_dtype("bf16")
    monkeypatch.setattr(backend, "_CPUINFO", tmp_path / "nothing")
    backend.cpu_has_bfloat16.cache_clear()
    assert choose_dtype("auto") == "float32"


def test_a_gpu_decides_on_precision_and_width(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tomogram: Tomogram, network: Network
) -> None:
    _cpu(monkeypatch, tmp_path, "avx512_bf16")
    monkeypatch.setattr(backend, "gpu_capability", lambda: (7, 5))
    assert choose_dtype("auto") == "float32"
    monkeypatch.setattr(backend, "gpu_capability", lambda: (8, 6))
    assert choose_dtype("auto") == "bfloat16"
    monkeypatch.setattr(backend, "gpu_bytes", lambda: 8_000_000_000)
    budgets = []
    planned = inference.plan_columns

    def noted(shape: Any, unet: Any, budget: float, **more: Any) -> Any:
        budgets.append(budget)
        return planned(shape, unet, budget, **more)

    monkeypatch.setattr(inference, "plan_columns", noted)
    predict(tomogram, network, PredictionSettings(precision="fp32", tile_vox=40), memory_bytes=700_000_000)
    assert budgets == [pytest.approx(5.6e9)]


_PEAK = """
import re, sys
import numpy as np
from deepvesicle.grid import Grid, Tomogram
from deepvesicle.network.inference import predict
from deepvesicle.network.zoo import load_network
from deepvesicle.settings import PredictionSettings
folder, precision, budget = sys.argv[1], sys.argv[2], int(sys.argv[3])
grid = Grid((40, 256, 320), 2.2)
noise = np.memmap(folder + "/in.raw", np.int8, "w+", shape=grid.shape_zyx)
noise[:] = np.random.default_rng(0).integers(-99, 99, grid.shape_zyx, dtype=np.int8)
out = np.memmap(folder + "/out.raw", np.uint8, "w+", shape=grid.shape_zyx)
predict(Tomogram(noise, grid), load_network("default"), PredictionSettings(precision=precision), out=out,
    memory_bytes=budget)
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())  # its own, not what it was forked from
print("PEAK", int(peak[1]) * 1024, int(out.max()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are measured on Linux")
@pytest.mark.parametrize("budget", [1_000_000_000, 1_500_000_000])
def test_the_peak_stays_within_the_memory(tmp_path: Path, budget: int) -> None:
    command = [sys.executable, "-c", _PEAK, str(tmp_path), "fp32", str(budget)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    _, peak, brightest = run.stdout.split()
    assert int(peak) < max(budget, 1_200_000_000)
    assert int(brightest) > 0
