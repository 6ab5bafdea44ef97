"""What a user does in 3dmod, and what becomes of it: nothing is lost, ids stay, a second run changes nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepvesicle.corrections import is_same_table
from deepvesicle.marks import DELETED, NOT_FITTED, Form, Kind, Mark, read_mark
from deepvesicle.placing import Result
from deepvesicle.vesicles import Status, Vesicles
from imod_bridge.model import Contour, Object
from tests.drawing import GRID, TRUTH, contour, model_of, ours, run, scattered, true_fit

NOWHERE = [50.0, 20.0, 200.0]


def table_of(*rows: int, status: Status = Status.REFINED) -> Vesicles:
    """The true vesicles with these numbers, ids from 11."""
    return Vesicles(
        GRID,
        np.array(rows, dtype=int) + 11,
        TRUTH[list(rows), :3],
        TRUTH[list(rows), 3],
        sigma_centres_vox=np.full(len(rows), 0.05),
        scores=np.full(len(rows), 0.9),
        status=(status,) * len(rows),
        features={"mask_score": np.full(len(rows), 0.8)},
    )


def spheres_of(table: Vesicles) -> tuple[Contour, ...]:
    rows = zip(table.centres_vox, table.radii_vox, table.ids, strict=True)
    return tuple(contour(c, float(r), int(i)) for c, r, i in rows)


def same_again(done, **options) -> None:
    """A second run finds nothing to do."""
    again = run(done.data, done.table, **options)
    assert again.data == done.data and again.changed == ()
    assert is_same_table(again.table, done.table)


def points_on_sphere(row: int, directions) -> np.ndarray:
    directions = np.asarray(directions, dtype=float)
    return TRUTH[row, :3] + TRUTH[row, 3] * directions / np.linalg.norm(directions, axis=1)[:, None]


# --- clicks and drawings become spheres


def test_clicks_become_spheres_of_the_vesicles_object():
    table = table_of(0)
    done = run(model_of(ours("vesicles", *spheres_of(table), contour([33.0, 52, 87]), contour([20, 92, 61]))), table)
    item = done.object("vesicles")
    assert [c.surface for c in item.contours] == [11, 12, 13]
    np.testing.assert_allclose([c.sizes[0] for c in item.contours], TRUTH[:3, 3])
    np.testing.assert_allclose(done.table.centres_vox, TRUTH[:3, :3])
    assert done.row(12).sigma_radii_vox[0] == 0.2 and done.row(11).scores[0] == 0.9
    assert [fate.result for fate in done.fixed.fates] == [Result.FITTED] * 2
    same_again(done)


@pytest.mark.parametrize(
    ("item", "kind"),
    [
        (scattered("mine", contour([TRUTH[3, :3] + [0, 2, 1], TRUTH[3, :3] + [0, 2, 15.5]])), Kind.PAIR),
        (Object("mine", (contour([TRUTH[3, :3], TRUTH[3, :3] + [0, 14, 0]]),), flags=8), Kind.PAIR),
        (Object("mine", (contour(points_on_sphere(3, np.eye(3).tolist() + [[-1, -1, -1]])),), flags=8), Kind.MEMBRANE),
        (scattered("mine", contour(points_on_sphere(3, np.vstack([np.eye(3), -np.eye(3)])))), Kind.MEMBRANE),
        (
            Object(
                "mine", (contour(np.round(points_on_sphere(3, [[0, 1, 0], [0, 0, 1], [0, -1, 0], [0, 0, -1]]), 1)),)
            ),
            Kind.DISC,
        ),
    ],
    ids=["scattered pair", "open pair", "open membrane", "scattered membrane", "closed"],
)
def test_what_several_points_mean(item, kind):
    done = run(model_of(ours("vesicles"), item), table_of(), names=["mine"])
    (fate,) = done.fixed.fates
    assert (fate.kind, fate.result, fate.note) == (kind, Result.FITTED, "")
    np.testing.assert_allclose(done.table.centres_vox, TRUTH[3:4, :3])
    assert done.object("mine").contours == ()
    same_again(done, names=["mine"])


def test_many_clicks_in_one_contour_are_many_vesicles():
    done = run(model_of(scattered("vesicles", contour(TRUTH[:, :3] + [0.5, -1, 1]))), None)
    np.testing.assert_allclose(done.table.centres_vox, TRUTH[:, :3])
    assert [fate.kind for fate in done.fixed.fates] == [Kind.CLICK] * 5
    two = run(model_of(scattered("vesicles", contour(TRUTH[:2, :3]))), None)
    np.testing.assert_allclose(two.table.centres_vox, TRUTH[:2, :3])
    same_again(two)


def test_three_points_of_a_line_are_kept_with_the_reason():
    line = Object("mine", (contour([TRUTH[0, :3], TRUTH[0, :3] + 1, TRUTH[0, :3] - [1, 2, 0]]),), flags=8)
    done = run(model_of(line), table_of(1), names=["mine"])
    (fate,) = done.fixed.fates
    assert fate.result is Result.NOT_FITTED and "3 points" in fate.note
    assert len(done.object("not_fitted").contours[0].points) == 3
    same_again(done, names=["mine"])
    three = run(model_of(scattered("mine", *line.contours)), table_of(), names=["mine"])
    assert [fate.result for fate in three.fixed.fates] == [Result.FITTED, Result.MERGED, Result.MERGED]


def test_objects_that_are_not_named_are_left_alone():
    other = scattered("gold", contour(TRUTH[0, :3]))
    done = run(model_of(ours("vesicles"), other), table_of())
    assert len(done.table) == 0 and done.changed == ()
    named = run(model_of(ours("vesicles"), other), table_of(), names=["gold"])
    assert len(named.table) == 1


def test_of_two_objects_with_one_name_the_first_counts():
    first, second = ours("vesicles", contour(TRUTH[0, :3])), ours("vesicles", contour(TRUTH[1, :3]))
    done = run(model_of(first, second), table_of())
    assert len(done.table) == 1 and "first one counts" in done.drawn.notes[0]
    np.testing.assert_allclose(done.model.objects[1].contours[0].points, second.contours[0].points)
    same_again(done)


# --- clicks on what is there


def test_a_click_on_a_sphere_fits_it_anew_and_does_not_double_it():
    table = table_of(0, 1).replace(centres_vox=TRUTH[:2, :3] + [1, -2, 1])
    done = run(model_of(ours("vesicles", *spheres_of(table), contour(TRUTH[1, :3] + [2, 2, 2]))), table)
    assert done.table.ids.tolist() == [11, 12]
    np.testing.assert_allclose(done.row(12).centres_vox, TRUTH[1:2, :3])
    np.testing.assert_array_equal(done.row(11).centres_vox, table.centres_vox[:1])
    assert done.fixed.fates[0].result is Result.REFITTED
    assert done.row(12).scores[0] == 0.9
    same_again(done)


def test_a_fit_that_fails_leaves_the_sphere_and_keeps_the_click():
    table = table_of(0).replace(centres_vox=np.array([[50.0, 100.0, 200.0]]))
    done = run(model_of(ours("vesicles", *spheres_of(table), contour([50.0, 102, 203]))), table)
    np.testing.assert_array_equal(done.row(11).centres_vox, table.centres_vox)
    assert done.row(11).status == (Status.REFINED,)
    (fate,) = done.fixed.fates
    assert fate.result is Result.NOT_FITTED and "vesicle 11 stays" in fate.note
    assert len(done.object("not_fitted").contours) == 1
    same_again(done)


def test_clicks_on_the_same_vesicle_are_one():
    pair = contour([TRUTH[0, :3], TRUTH[0, :3] + [0, 0, 10]])
    done = run(model_of(ours("vesicles", contour(TRUTH[0, :3] + 3), pair, contour(TRUTH[0, :3] - 3))), table_of())
    assert len(done.table) == 1
    assert [fate.result for fate in done.fixed.fates] == [Result.MERGED, Result.FITTED, Result.MERGED]
    assert len(done.object("vesicles").contours) == 1
    same_again(done)


def test_a_click_beside_a_sphere_that_leads_to_it_does_not_double_it():
    small = table_of(1).replace(radii_vox=np.array([4.0]))
    done = run(model_of(ours("vesicles", *spheres_of(small), contour(TRUTH[1, :3] + [0, 8, 0]))), small)
    assert len(done.table) == 1 and done.fixed.fates[0].result is Result.MERGED
    np.testing.assert_array_equal(done.table.radii_vox, [4.0])


def test_one_sphere_over_two_vesicles_is_made_two():
    blob = Vesicles(GRID, [4], (TRUTH[0, :3] + TRUTH[1, :3]) / 2, [32.0], status=[Status.REFINED])
    clicks = [contour(TRUTH[0, :3]), contour(TRUTH[1, :3])]
    done = run(model_of(ours("vesicles", *spheres_of(blob), *clicks)), blob)
    assert done.table.ids.tolist() == [4, 5]
    np.testing.assert_allclose(done.table.centres_vox, TRUTH[:2, :3])


def test_a_click_on_a_rejected_sphere_brings_it_back():
    table = table_of(2, status=Status.REJECTED)
    done = run(model_of(ours("vesicles", contour(TRUTH[2, :3])), ours("rejected", *spheres_of(table))), table)
    assert (done.table.ids.tolist(), done.table.status) == ([13], (Status.REFINED,))
    assert done.object("rejected").contours == () and done.object("vesicles").contours[0].surface == 13


# --- what is changed, moved, deleted


def test_a_deleted_sphere_stays_deleted_and_its_id_is_not_used_again():
    table = table_of(0, 1)
    done = run(model_of(ours("vesicles", spheres_of(table)[0], contour(TRUTH[2, :3]))), table)
    assert done.row(12).status == (Status.REJECTED,) and done.row(12).reasons == ("deleted in 3dmod",)
    assert done.table.ids.tolist() == [11, 12, 13]
    assert [c.surface for c in done.object("vesicles").contours] == [11, 13] and "rejected" not in done.names()
    assert done.fixed.changes == {"deleted in 3dmod": 1}
    same_again(done)
    # a click there brings it back under its old id
    back = run(model_of(ours("vesicles", *done.object("vesicles").contours, contour(TRUTH[1, :3]))), done.table)
    assert back.row(12).status == (Status.REFINED,) and not back.row(12).features[DELETED][0] > 0
    same_again(back)


def test_a_sphere_whose_size_was_changed_is_manual_and_stays_where_it_is():
    table = table_of(0, 1)
    resized = contour(TRUTH[0, :3], 12.25, 11)
    done = run(model_of(ours("vesicles", resized, spheres_of(table)[1])), table)
    assert done.row(11).status == (Status.MANUAL,) and done.row(11).radii_vox[0] == 12.25
    assert np.isnan(done.row(11).sigma_centres_vox[0])
    assert [c.surface for c in done.object("manual").contours] == [11]
    assert [c.surface for c in done.object("vesicles").contours] == [12]
    same_again(done)
    fitted = run(done.data, done.table, refit=True)
    assert fitted.row(11).status == (Status.REFINED,) and fitted.row(11).radii_vox[0] == TRUTH[0, 3]
    same_again(fitted, refit=True)


def test_rounding_is_no_change(rng):
    table = table_of(0, 1, 2, 3, 4).replace(centres_vox=TRUTH[:, :3] + rng.normal(0, 0.3, (5, 3)))
    for noise in (0.0, 1e-4):
        drawn = table.replace(centres_vox=table.centres_vox + rng.uniform(-noise, noise, (5, 3)))
        done = run(model_of(ours("vesicles", *spheres_of(drawn))), table)
        assert done.changed == () and done.table is table
    moved = table.replace(centres_vox=table.centres_vox + [0, 0, 0.01])
    done = run(model_of(ours("vesicles", *spheres_of(moved))), table)
    assert set(done.table.status) == {Status.MANUAL}


def test_moving_a_sphere_to_another_object_is_a_judgement():
    table = table_of(0, 1, 2).replace(status=(Status.DOUBTFUL, Status.REJECTED, Status.REFINED))
    first, second, third = spheres_of(table)
    done = run(model_of(ours("vesicles", first, second), ours("rejected", third)), table)
    assert done.table.status == (Status.REFINED, Status.MANUAL, Status.REJECTED)
    assert done.table.reasons[1:] == ("accepted by the user", "rejected by the user")
    np.testing.assert_array_equal(done.table.centres_vox, table.centres_vox)
    same_again(done)


@pytest.mark.parametrize("name", ["remove", "Delete"])
def test_a_point_that_removes(name):
    table = table_of(0, 1)
    points = contour([TRUTH[0, :3] + [2, 2, 2], NOWHERE, TRUTH[0, :3]])
    done = run(model_of(ours("vesicles", *spheres_of(table)), scattered(name, points)), table)
    assert done.row(11).status == (Status.REJECTED,) and repr(name) in done.row(11).reasons[0]
    assert done.fixed.removed == (11, None, 11)
    assert [c.surface for c in done.object("vesicles").contours] == [12]
    np.testing.assert_allclose(done.object(name).contours[0].points, contour(NOWHERE).points)
    same_again(done)


def test_a_mark_wins_over_a_point_that_removes_where_nothing_was():
    done = run(model_of(ours("vesicles", contour(TRUTH[0, :3])), scattered("remove", contour(TRUTH[0, :3] + 1))))
    assert done.table.accepted.all() and len(done.table) == 1
    assert (done.fixed.removed, done.fixed.overruled) == ((None,), (1,))
    same_again(done)


def test_the_accepted_sphere_goes_before_a_rejected_one_that_is_nearer():
    table = table_of(0, 1)
    table = table.replace(centres_vox=np.array([TRUTH[0, :3], TRUTH[0, :3] + 1]), status=("refined", "rejected"))
    first, second = spheres_of(table)
    point = scattered("remove", contour(TRUTH[0, :3] + 1))
    done = run(model_of(ours("vesicles", first), ours("rejected", second), point), table)
    assert done.fixed.removed == (11,)


def test_without_a_table_the_model_tells():
    done = run(model_of(ours("vesicles", *spheres_of(table_of(0))), ours("rejected", *spheres_of(table_of(1)))), None)
    assert done.table.status == (Status.REFINED, Status.REJECTED)
    assert done.table.ids.tolist() == [11, 12] and done.changed == ()
    same_again(done)


def test_rows_for_spheres_that_a_stopped_run_left_in_the_model():
    """The model was written, the table was not: new spheres have ids that the table does not know."""
    table = table_of(0)
    done = run(
        model_of(ours("vesicles", *spheres_of(table_of(0, 1))), ours("doubtful", *spheres_of(table_of(2)))), table
    )
    assert done.table.ids.tolist() == [11, 12, 13]
    assert done.table.status == (Status.REFINED, Status.REFINED, Status.DOUBTFUL)
    same_again(done)


def test_copies_and_spheres_of_the_users_own():
    table = table_of(0)
    copy = contour(TRUTH[1, :3], 7.0, 11)
    done = run(model_of(ours("vesicles", copy, *spheres_of(table), contour(TRUTH[2, :3], 5.0))), table)
    assert done.table.status == (Status.REFINED, Status.MANUAL, Status.MANUAL)
    assert done.table.ids.tolist() == [11, 12, 13]
    same_again(done)


# --- what cannot be fitted


def test_a_click_on_nothing_waits_in_not_fitted():
    done = run(model_of(ours("vesicles", contour(NOWHERE))), table_of(0, 1).select([]))
    row = done.table
    assert row.status == (Status.REJECTED,) and row.reasons == ("not fitted: no membrane found",)
    assert row.features[NOT_FITTED][0] == 1
    waiting = done.object("not_fitted").contours
    np.testing.assert_allclose(waiting[0].points, contour(NOWHERE).points)
    assert waiting[0].sizes is None and waiting[0].surface == row.ids[0]
    assert done.object("vesicles").contours == ()
    same_again(done)
    same_again(done, refit=True)


def test_a_point_moved_in_not_fitted_is_tried_again():
    done = run(model_of(ours("vesicles", contour(NOWHERE))), table_of())
    number = int(done.table.ids[0])
    moved = model_of(ours("vesicles"), ours("not_fitted", contour(TRUTH[0, :3], surface=number)))
    again = run(moved, done.table)
    assert again.table.ids.tolist() == [number] and again.table.status == (Status.REFINED,)
    assert again.object("not_fitted").contours == ()
    same_again(again)
    elsewhere = run(model_of(ours("not_fitted", contour([50, 30, 200], surface=number))), done.table)
    assert elsewhere.fixed.fates[0].result is Result.NOT_FITTED
    assert len(elsewhere.table) == 1 and len(elsewhere.object("not_fitted").contours) == 1
    same_again(elsewhere)


def test_a_point_deleted_in_not_fitted_is_gone_from_the_model_alone():
    done = run(model_of(ours("vesicles", contour(NOWHERE))), table_of())
    after = run(model_of(ours("vesicles"), ours("not_fitted")), done.table)
    assert after.table.reasons == ("deleted in 3dmod",) and not after.table.features[NOT_FITTED][0] > 0
    same_again(after)


def test_a_size_given_to_a_point_in_not_fitted_makes_it_a_vesicle():
    done = run(model_of(ours("vesicles", contour(NOWHERE))), table_of())
    number = int(done.table.ids[0])
    after = run(model_of(ours("not_fitted", contour(NOWHERE, 9.0, number))), done.table)
    assert after.table.status == (Status.MANUAL,) and after.table.ids.tolist() == [number]
    assert after.object("manual").contours[0].sizes[0] == 9.0
    same_again(after)


def test_a_drawing_that_cannot_be_is_told():
    far = Object("mine", (contour([TRUTH[0, :3], TRUTH[0, :3] + [0, 100, 100]]),), flags=8)
    done = run(model_of(far), table_of(), names=["mine"])
    assert "outside the limits" in done.fixed.fates[0].note
    cloud = contour([[10, 10, 10], [10, 40, 40], [10, 25, 24], [40, 10, 30], [25, 25, 25.0], [12, 13, 30]])
    done = run(model_of(Object("mine", (cloud,), flags=8)), table_of(), names=["mine"])
    assert "do not lie on a sphere" in done.fixed.fates[0].note


def test_a_fit_away_from_what_was_drawn_is_doubtful():
    line = Object("mine", (contour([TRUTH[3, :3] + [0, 9, 9], TRUTH[3, :3] + [0, 9, 22]]),), flags=8)
    done = run(model_of(line), table_of(), names=["mine"])
    assert done.table.status == (Status.DOUBTFUL,) and "away from what was drawn" in done.table.reasons[0]


# --- geometry


@pytest.mark.parametrize("count", [4, 5, 12])
def test_the_sphere_through_points_is_exact(rng, count):
    directions = np.vstack([np.eye(3), [[-1, -1, -1]], rng.normal(size=(count - 4, 3))])
    reading = read_mark(Mark((("a", 0, 0),) * count, points_on_sphere(3, directions), Form.OPEN))
    np.testing.assert_allclose(reading.centre_vox, TRUTH[3, :3], atol=1e-9)
    assert reading.radius_vox == pytest.approx(15.0) and reading.residual_vox < 1e-9


def test_points_of_one_slice_give_its_circle(rng):
    angles = rng.uniform(0, 2 * np.pi, 9)
    points = np.column_stack([np.full(9, 30.0), 50 + 8 * np.sin(angles), 60 + 8 * np.cos(angles)])
    reading = read_mark(Mark((("a", 0, 0),) * 9, points, Form.OPEN))
    np.testing.assert_allclose(reading.centre_vox, [30, 50, 60], atol=1e-9)
    assert reading.radius_vox == pytest.approx(8.0)


def test_the_outline_of_a_shape_gives_its_centroid_and_area():
    half = [[5.0, 0, 0], [5, 0, 4], [5, 2, 4], [5, 2, 2], [5, 4, 2], [5, 4, 0]]  # an L of three squares of 4
    reading = read_mark(Mark((("a", 0, 0),) * 6, np.array(half), Form.CLOSED))
    np.testing.assert_allclose(reading.centre_vox, [5, 5 / 3, 5 / 3])
    assert math.pi * reading.radius_vox**2 == pytest.approx(12.0)
    for useless in (np.zeros((4, 3)), np.array([[1.0, 0, 0], [1, 0, 5], [1, 0, 9]])):
        assert read_mark(Mark((("a", 0, 0),) * len(useless), useless, Form.CLOSED)) is None


# --- whatever the user does


PLACES = st.one_of(
    st.tuples(st.sampled_from(range(5)), st.tuples(*[st.floats(-12, 12)] * 3)).map(lambda v: TRUTH[v[0], :3] + v[1]),
    st.tuples(st.floats(0, 59), st.floats(0, 199), st.floats(0, 219)).map(np.array),
)
CONTOURS = st.lists(PLACES, min_size=1, max_size=6).map(lambda points: contour(np.array(points)))


@settings(deadline=None, max_examples=40)
@given(
    present=st.lists(st.sampled_from(range(5)), unique=True, max_size=4),
    removed=st.sets(st.integers(0, 3)),
    resized=st.sets(st.integers(0, 3)),
    drawn=st.lists(CONTOURS, max_size=4),
    mine=st.lists(CONTOURS, max_size=3),
    flags=st.sampled_from([0, 8, 0x208]),
    removing=st.lists(PLACES, max_size=2),
    refit=st.booleans(),
)
def test_nothing_the_user_placed_is_lost(present, removed, resized, drawn, mine, flags, removing, refit):
    table = table_of(*present)
    shown = [
        contour(TRUTH[row, :3], TRUTH[row, 3] + (1.5 if i in resized else 0), row + 11)
        for i, row in enumerate(present)
        if i not in removed
    ]
    model = model_of(
        ours("vesicles", *shown, *drawn),
        Object("mine", tuple(mine), flags=flags),
        scattered("remove", *[contour(point) for point in removing]),
    )
    options = {"names": ["mine"], "refit": refit}
    done = run(model, table, **options)
    assert set(table.ids) <= set(done.table.ids)
    # every point that was drawn has one fate, and those without a sphere are in not_fitted, where they were drawn
    fates = [place for fate in done.fixed.fates for place in fate.mark.places]
    bare = [place for mark in done.drawn.marks for place in mark.places]
    assert sorted(fates) == sorted(bare)
    waiting = sorted(tuple(p) for c in _contours(done, "not_fitted") for p in c.points.astype(np.float32).tolist())
    left = [fate.mark.points_vox[:, ::-1] + [0.5, 0.5, 0] for fate in done.fixed.fates if fate.is_left]
    wanted = sorted(tuple(p) for points in left for p in points.astype(np.float32).tolist())
    np.testing.assert_allclose(np.reshape(waiting, (-1, 3)), np.reshape(wanted, (-1, 3)), atol=1e-3)
    for fate in done.fixed.fates:
        row = done.row(fate.vesicle)
        assert (fate.is_left and row.features[NOT_FITTED][0] == 1) or row.accepted[0] or not fate.mark.places
    # the model shows the table: each sphere once, in the object of its status
    spheres = {c.surface: name for name in done.names() for c in _contours(done, name) if c.sizes is not None}
    assert len(spheres) == sum(c.sizes is not None for name in done.names() for c in _contours(done, name))
    assert {i for i, name in spheres.items() if name != "rejected"} == set(done.table.ids[done.table.accepted].tolist())
    # points that removed nothing are still there
    kept = sum(len(c.points) for c in _contours(done, "remove"))
    pairs = zip(done.fixed.removed, done.fixed.overruled, strict=True)
    assert kept == sum(gone is None and there is None for gone, there in pairs)
    same_again(done, **options)


def _contours(done, name: str) -> tuple[Contour, ...]:
    return done.object(name).contours if name in done.names() else ()


def test_the_true_fit_of_these_tests_finds_and_misses():
    found = true_fit(np.array([TRUTH[0, :3] + 2, NOWHERE]), np.full(2, np.nan), Vesicles.empty(GRID))
    assert found.status == (Status.REFINED, Status.REJECTED)
