"""Phantoms made while a training runs: the same ones whoever makes them, by processes that end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from deepvesicle.network.normalise import Z_SCORE, NormalisationMethod
from deepvesicle.network.phantoms import PhantomPool, random_example


def test_random_examples_are_normalised_and_repeatable() -> None:
    first = random_example(np.random.default_rng(4), 2.2, 64, "synapse")
    again = random_example(np.random.default_rng(4), 2.2, 64, "synapse")
    assert np.array_equal(first.grey, again.grey) and np.array_equal(first.mask, again.mask)
    assert first.grey.shape == first.mask.shape
    assert abs(float(first.grey.astype(np.float32).std()) - 1) < 0.25
    inside = first.mask > 127
    assert 0.001 < inside.mean() < 0.7


def test_examples_are_normalised_as_the_network_wants() -> None:
    method = NormalisationMethod(Z_SCORE, blur_vox=1.0)
    grey = random_example(np.random.default_rng(4), 2.2, 48, "synapse", method).grey.astype(np.float32)
    assert grey.mean() == pytest.approx(0, abs=1e-2) and grey.std() == pytest.approx(1, abs=1e-2)
    plain = random_example(np.random.default_rng(4), 2.2, 48, "synapse").grey.astype(np.float32)
    assert np.abs(np.diff(grey, axis=2)).mean() < 0.95 * np.abs(np.diff(plain, axis=2)).mean()


def test_what_a_pool_holds_depends_on_the_step_alone() -> None:
    def held(steps: tuple[int, ...], workers: int) -> list[np.ndarray]:
        pool = PhantomPool(4.4, 5, capacity=4, every=2, at_first=2, size_vox=24, workers=workers)
        try:
            for step in steps:
                pool.go_to(step)
            return [example.grey for example in pool.examples]
        finally:
            pool.close()

    going, late = held((0, 1, 3, 8, 9), workers=1), held((9,), workers=2)
    assert len(going) == len(late) == 4  # numbers 2 to 5: the first two have been replaced
    assert all(np.array_equal(a, b) for a, b in zip(going, late, strict=True))
    assert len({grey.tobytes() for grey in going}) == 4


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="asks /proc whether a process is there")
def test_the_simulating_process_ends_with_a_killed_parent() -> None:
    code = (
        "from deepvesicle.network.phantoms import PhantomPool\n"
        "if __name__ == '__main__':\n"
        "    pool = PhantomPool(2.2, 1, at_first=1, size_vox=40)\n"
        "    pool.go_to(0)\n"
        "    print(pool._processes[0].pid, flush=True)\n"
        "    pool.go_to(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, 0)
        parent.kill()
    for _ in range(300):
        if not Path(f"/proc/{child}").exists():
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the simulating process goes on without its parent")
