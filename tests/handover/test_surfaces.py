"""What labels touch, counted once more in the plainest way; and the radii of drawn balls."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepvesicle.fitting.rasterize import rasterize
from deepvesicle.grid import Grid
from deepvesicle.handover.balls import ball_of
from deepvesicle.handover.surfaces import GAP_VOX, LABELS, NEAR_VOX, Beside, Role, as_labels, take_census
from deepvesicle.vesicles import Status, Vesicles

ROLES = np.zeros(LABELS, dtype=np.uint8)
ROLES[[1, 2, 10, 11, 12, 7]] = (
    Role.CYTOSOL, Role.BOUNDARY, Role.VESICLE, Role.VESICLE, Role.VESICLE, Role.OTHER
)  # fmt: skip


def beside(data: NDArray[np.unsignedinteger], start: tuple[int, ...], step: tuple[int, ...]) -> Beside | None:
    """As the words of `Beside` say it."""
    found = along(data, start, step)
    if found not in (Beside.GAP, Beside.OPEN) or ROLES[data[start]] != Role.VESICLE:
        return found
    first = np.add(start, step)
    if ROLES[data[tuple(first)]] != Role.BACKGROUND:
        return found
    near = tuple(slice(max(p - NEAR_VOX, 0), p + NEAR_VOX + 1) for p in first.tolist())
    if ((ROLES[data[near]] == Role.VESICLE) & (data[near] != data[start])).any():
        return Beside.BETWEEN
    return found


def along(data: NDArray[np.unsignedinteger], start: tuple[int, ...], step: tuple[int, ...]) -> Beside | None:
    """What lies in the direction of a step."""
    own, shape = data[start], data.shape
    place = tuple(a + b for a, b in zip(start, step, strict=True))
    if not all(0 <= p < n for p, n in zip(place, shape, strict=True)):
        return Beside.FACE
    if data[place] == own:
        return None
    named = {Role.CYTOSOL: Beside.CYTOSOL, Role.BOUNDARY: Beside.BOUNDARY, Role.VESICLE: Beside.VESICLE}
    role = Role(ROLES[data[place]])
    if role != Role.BACKGROUND:
        return named.get(role, Beside.OPEN)
    if any(p in (0, n - 1) for p, n in zip(place, shape, strict=True)):
        return Beside.FACE
    for _ in range(GAP_VOX):
        place = tuple(a + b for a, b in zip(place, step, strict=True))
        if not all(0 <= p < n for p, n in zip(place, shape, strict=True)) or data[place] == own:
            return Beside.OPEN
        role = Role(ROLES[data[place]])
        if role != Role.BACKGROUND:
            return Beside.BETWEEN if role == Role.VESICLE else Beside.GAP if role in named else Beside.OPEN
    return Beside.OPEN


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 14)))
def test_census_of_random_labels(seed: int, shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(seed)
    few = rng.choice([0, 0, 0, 1, 2, 10, 11, 12, 7, 99], size=[max(1, n // 2) for n in shape])
    data = few.repeat(2, 0).repeat(2, 1).repeat(2, 2)[: shape[0], : shape[1], : shape[2]].astype(np.uint16)
    census = take_census(data, ROLES)
    shape = data.shape
    faces = np.zeros((LABELS, len(Beside)), dtype=int)
    steps = [tuple(sign * (np.arange(3) == axis)) for axis in range(3) for sign in (-1, 1)]
    for place in product(*(range(n) for n in shape)):
        if ROLES[data[place]] in (Role.VESICLE, Role.BOUNDARY):
            for step in steps:
                found = beside(data, place, step)
                if found is not None:
                    faces[data[place], found] += 1
    np.testing.assert_array_equal(census.faces, faces)
    assert census.present == tuple(int(i) for i in np.unique(data) if i)
    for number in census.present:
        where = np.argwhere(data == number)
        assert census.voxels[number] == len(where)
        np.testing.assert_array_equal(census.low[number], where.min(axis=0))
        np.testing.assert_array_equal(census.high[number], where.max(axis=0) + 1)
        for kind in np.flatnonzero(faces[number]):
            place = tuple(census.samples[number, kind])
            assert data[place] == number and any(beside(data, place, step) == kind for step in steps)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, ">u2", np.int32, np.float32, np.float16])
def test_labels_of_any_type(dtype: str) -> None:
    data = np.array([[[0, 1, 100], [7, 7, 3]]], dtype=dtype)
    found = as_labels(data)
    assert found.dtype in (np.uint8, np.uint16) and found.dtype.isnative
    np.testing.assert_array_equal(found, data.astype(int))


@pytest.mark.parametrize("radius, tolerance", [(3.0, 0.2), (5.0, 0.1), (9.0, 0.06), (16.0, 0.05)])
def test_radii_of_drawn_balls(rng: np.random.Generator, radius: float, tolerance: float) -> None:
    """Off the voxels' centres; to a fraction of the voxel that matters."""
    size = int(2 * radius) + 9
    grid = Grid((size, size + 3, size + 5), 2.0)
    for centre in (np.array(grid.shape_zyx) - 1) / 2 + rng.uniform(-0.5, 0.5, (5, 3)):
        vesicle = Vesicles(grid, [10], centre[None], [radius], status=(Status.MANUAL,))
        data = as_labels(rasterize(vesicle).data)
        ball = ball_of(data, take_census(data, ROLES), ROLES, 10)
        assert ball.radius_vox == pytest.approx(radius, abs=tolerance) and ball.is_ball
        np.testing.assert_allclose(ball.centre_vox, centre, atol=2 * tolerance)


def test_neighbours_do_not_spoil_a_radius() -> None:
    """Two balls that are cut where they overlap, one of them by a face of the volume too."""
    grid = Grid((30, 40, 50), 2.0)
    both = Vesicles(grid, [10, 11], [[15, 20, 6], [15, 20, 22]], [9, 9.5], status=(Status.MANUAL,) * 2)
    data = as_labels(rasterize(both).data)
    census = take_census(data, ROLES)
    for number, radius in ((10, 9), (11, 9.5)):
        ball = ball_of(data, census, ROLES, number)
        assert ball.radius_vox == pytest.approx(radius, abs=0.1) and ball.parts == 1
