"""What a correction round changed, on tables that were changed on purpose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deepvesicle.corrections import removed_row, with_rows
from deepvesicle.grid import Grid
from deepvesicle.report.changes import changes_between
from deepvesicle.vesicles import Status, Vesicles

GRID = Grid((60, 100, 100), 2.0)
CENTRES = np.array([[20.0, 20, 20], [20, 60, 20], [40, 20, 60], [40, 60, 60], [30, 80, 80]])


def table() -> Vesicles:
    status = (Status.REFINED, Status.DOUBTFUL, Status.REFINED, Status.REJECTED, Status.REFINED)
    made = Vesicles.from_spheres(GRID, CENTRES, np.full(5, 9.0), status=status)
    return made.replace(ids=np.array([3, 5, 7, 8, 12]))


def test_nothing_changed():
    changes = changes_between(table(), table())
    assert set(changes.kinds) == {""} and not len(changes.gone)
    assert changes.counts() == dict.fromkeys(changes.counts(), 0)
    rounded = table().replace(centres_vox=np.float32(CENTRES + 1e-5))  # as a model file keeps it
    assert set(changes_between(table(), rounded).kinds) == {""}


def test_each_kind_of_change_is_told_with_its_amount():
    centres, radii = CENTRES.copy(), np.full(5, 9.0)
    centres[0] += [0, 3, 4]
    radii[1] = 10.5
    centres[2, 0] += 1
    radii[2] = 8.0
    after = table().replace(
        centres_vox=centres,
        radii_vox=radii,
        status=(Status.MANUAL, Status.DOUBTFUL, Status.MANUAL, Status.MANUAL, Status.MANUAL),
    )
    changes = changes_between(table(), after)
    assert changes.kinds == ("moved", "resized", "moved and resized", "added", "judged")
    assert changes.notes[0] == "centre by 10.00 nm" and changes.notes[1] == "radius 18.00 to 21.00 nm"
    assert changes.notes[2] == "centre by 2.00 nm, radius 18.00 to 16.00 nm"
    assert changes.notes[3] == "was rejected" and changes.notes[4] == "refined to manual"
    np.testing.assert_array_equal(changes.earlier[0], [20, 20, 20, 9])
    assert np.isnan(changes.earlier[3]).all()


def test_removed_ones_keep_their_row_or_are_gone():
    before = table()
    after = with_rows(before, [removed_row(before.select([0]), "deleted in 3dmod")]).select([0, 1, 2, 3])
    changes = changes_between(before, after)
    assert changes.kinds == ("removed", "", "", "") and changes.notes[0] == "deleted in 3dmod"
    assert changes.gone.ids.tolist() == [12]
    assert changes.counts()["removed"] == 2


def test_rejected_ones_that_vanish_or_come_are_no_change():
    before, after = table().select([0, 3]), table().select([0])
    assert changes_between(before, after).counts() == changes_between(after, before).counts()
    assert not any(changes_between(before, after).counts().values())


def test_other_ids_are_paired_by_place():
    after = table().replace(ids=np.array([101, 102, 103, 104, 105]), centres_vox=CENTRES + 0.5)
    changes = changes_between(table(), after)
    assert changes.kinds == ("moved", "moved", "moved", "", "moved") and not len(changes.gone)


def test_an_id_elsewhere_is_another_vesicle():
    swapped = replace(table(), ids=np.array([5, 3, 7, 8, 12]))
    assert set(changes_between(table(), swapped).kinds) == {""}
    far = table().replace(centres_vox=np.vstack([CENTRES[:4], [[10.0, 10.0, 90.0]]]))
    changes = changes_between(table(), far)
    assert changes.kinds == ("", "", "", "", "added") and changes.gone.ids.tolist() == [12]
