"""Training and prediction under JAX, without TensorFlow and csbdeep, on two devices; the model serves here as well."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deepvesicle.network.inference import predict
from deepvesicle.network.zoo import load_network
from deepvesicle.settings import PredictionSettings
from tests.network.datasets import drawn_dataset, drawn_tomogram

ROOT = Path(__file__).resolve().parents[2]

_UNDER_JAX = """
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "csbdeep"):
            raise ImportError(f"{name} is not installed")

sys.meta_path.insert(0, Missing())
import numpy as np
from deepvesicle.commands.main import main
from deepvesicle.network.inference import predict
from deepvesicle.network.zoo import load_network
from tests.network.datasets import drawn_tomogram

if __name__ == "__main__":
    dataset, model = sys.argv[1:]
    code = main(["--debug", "train", dataset, "-o", model, "--levels", "1", "--filters", "2", "--patch", "16",
        "--steps", "12", "--learning-rate", "0.1", "--phantoms", "0", "--no-compare"])
    assert code == 0, code
    import keras
    assert keras.backend.backend() == "jax"
    print("devices", len(keras.distribution.distribution().device_mesh.devices))
    tomogram, _ = drawn_tomogram()
    np.save(Path(model) / "probability.npy", predict(tomogram, load_network(model)).data)
"""


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_a_network_is_trained_under_jax_without_tensorflow(tmp_path: Path) -> None:
    drawn_dataset(tmp_path / "set", ("one", "two"))
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "NPROC": "8",  # threads of XLA: with few, the two devices can wait for each other for ever
    }
    command = [sys.executable, "-c", _UNDER_JAX, str(tmp_path / "set"), str(tmp_path / "model")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "devices 2" in done.stdout
    network = load_network(tmp_path / "model")
    there = np.load(tmp_path / "model" / "probability.npy")
    here = predict(drawn_tomogram()[0], network, PredictionSettings(precision="fp32")).data
    assert there.std() > 0
    np.testing.assert_allclose(here.astype(int), there.astype(int), atol=1)
