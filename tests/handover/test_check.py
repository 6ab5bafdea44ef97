"""Every row of what breaks Pyto is planted in a good work folder, and found with its ids; a good folder is silent."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from deepvesicle.files.tomogram import read_labels, write_tomogram
from deepvesicle.fitting.rasterize import rasterize
from deepvesicle.grid import Grid, Labels, Tomogram
from deepvesicle.handover.check import check_folder, check_labels
from deepvesicle.handover.findings import Finding, Severity, shown
from deepvesicle.handover.folder import WorkFolder, write_tomo_info
from deepvesicle.vesicles import Vesicles
from tests.handover.folders import GRID, LISTS, MEMBRANE, Made, good, labels_of, only, rewrite, shell_of, summary, truth

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE
IDS = tuple(int(number) for number in truth().ids)
REAL_IDS = (36, 48, 49, 50, 52, 58, 59, 60, 61)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return good(tmp_path / "work")


def is_near(finding: Finding, centre: Any, reach: float) -> bool:
    return bool(np.linalg.norm(finding.places - np.asarray(centre), axis=1).min() <= reach)


def middle_row() -> int:
    """The vesicle nearest to the middle of the volume."""
    return int(np.argmin(np.linalg.norm(truth().centres_vox - np.array(GRID.shape_zyx) / 2, axis=1)))


# --- nothing is wrong


def test_a_good_folder_is_silent(made: Made) -> None:
    assert made.findings() == []


def test_a_good_folder_without_a_table_is_silent(made: Made) -> None:
    """Radii are compared with the tomogram."""
    made.table = None
    assert made.findings() == []


def test_the_same_in_memory(made: Made) -> None:
    labels, tomogram = Labels(made.labels, GRID), Tomogram(made.grey, GRID)
    assert check_labels(labels, made.info, tomogram, truth()) == []
    made.labels[made.labels == IDS[0]] = 0
    assert summary(check_labels(labels, made.info)) == [("absent", ERROR, (IDS[0],))]


def test_signed_labels_are_as_good(made: Made) -> None:
    made.write()
    write_tomogram(made.folder.labels, made.labels.astype(np.int16), GRID, overwrite=True)
    assert check_folder(made.root) == []


def test_a_vesicle_beside_the_empty_rim_has_no_gap(made: Made) -> None:
    """The outermost layer of voxels holds no labels: a vesicle may touch it."""
    row = int(np.argmin(truth().centres_vox[:, 0] - truth().radii_vox))
    centre = truth().centres_vox.copy()
    centre[row] = np.rint(centre[row])
    centre[row, 0] = 0.7 + truth().radii_vox[row]
    moved = truth().replace(centres_vox=centre)
    made.labels, made.table = labels_of(moved), moved
    assert (made.labels[1] == IDS[row]).any() and not (made.labels[0] == IDS[row]).any()
    assert [f for f in made.findings() if f.kind != "touching"] == []


# --- gaps


@pytest.mark.parametrize("thickness", [1, 2, 3])
def test_gap_round_every_vesicle(made: Made, thickness: int) -> None:
    vesicles = made.labels >= 10
    made.labels[shell_of(vesicles, thickness) & (made.labels == 1)] = 0
    assert summary(made.findings()) == [("vesicle_gap", ERROR, IDS)]


def test_gap_round_one_vesicle(made: Made) -> None:
    row = middle_row()
    made.labels[shell_of(made.labels == IDS[row])] = 0
    finding = only(made.findings())
    assert summary([finding]) == [("vesicle_gap", ERROR, (IDS[row],))]
    assert "100 % of its surface" in finding.text
    np.testing.assert_allclose(finding.places, [truth().centres_vox[row]], atol=0.6)
    x, y, z = shown(truth().centres_vox[row])
    assert f"vesicle {IDS[row]} (" in finding.text and f"x {x}, y {y}, z {z}" in finding.text


@pytest.mark.parametrize("kept, severity", [(0.6, WARNING), (0.1, ERROR), (0.995, NOTE)])
def test_gap_round_a_part_of_a_vesicle(made: Made, kept: float, severity: Severity) -> None:
    row = middle_row()
    gap = shell_of(made.labels == IDS[row])
    places = np.argwhere(gap)
    places = places[np.argsort(places[:, 2])][int(kept * len(places)) :]
    made.labels[tuple(places.T)] = 0
    assert summary(made.findings()) == [("vesicle_gap", severity, (IDS[row],))]


def test_vesicle_at_the_end_of_the_outline(made: Made) -> None:
    row = middle_row()
    z, y, x = truth().centres_vox[row]
    made.labels[:, :, round(x) : round(x) + 20][made.labels[:, :, round(x) : round(x) + 20] == 1] = 0
    found = [f for f in made.findings() if IDS[row] in f.ids]
    assert summary(found)[0][0] == "vesicle_outside"
    assert only(found).severity in (ERROR, WARNING) and "outside the cytosol" in only(found).text


@pytest.mark.parametrize("share, severity", [(1.0, ERROR), (0.3, WARNING)])
def test_gap_between_membrane_and_cytosol(made: Made, share: float, severity: Severity) -> None:
    height = round(share * GRID.shape_zyx[1])
    layer = made.labels[:, 1:height, MEMBRANE.stop : MEMBRANE.stop + 1]
    layer[layer == 1] = 0
    finding = only(made.findings())
    assert summary([finding]) == [("membrane_gap", severity, (2,))]
    assert finding.places[0, 2] in range(MEMBRANE.start, MEMBRANE.stop) and finding.places[0, 1] < height


def test_membrane_far_from_the_cytosol(made: Made) -> None:
    layer = made.labels[:, :, MEMBRANE.stop : MEMBRANE.stop + 6]
    layer[layer == 1] = 0
    found = {f.kind: f for f in made.findings()}
    assert found["membrane_gap"].severity is ERROR and "nowhere" in found["membrane_gap"].text


@pytest.mark.parametrize("width, strip", [(6, 0), (20, 0), (6, 3), (20, 3)])
def test_wide_gap_between_membrane_and_cytosol(made: Made, width: int, strip: int) -> None:
    """More background than a thin gap; that they touch in a few places does not hide it."""
    layer = made.labels[:, :, MEMBRANE.stop : MEMBRANE.stop + width]
    layer[:, strip + 1 :][layer[:, strip + 1 :] == 1] = 0
    finding = only([f for f in check_labels(Labels(made.labels, GRID), made.info) if f.kind == "membrane_gap"])
    assert finding.severity is ERROR and "nowhere" in finding.text and f"{width} voxels" in finding.text


@pytest.mark.parametrize("share, severity", [(0.7, ERROR), (0.3, WARNING), (0.05, None)])
def test_wide_gap_before_a_part_of_the_membrane(made: Made, share: float, severity: Severity | None) -> None:
    height = round(share * GRID.shape_zyx[1])
    layer = made.labels[:, 1:height, MEMBRANE.stop : MEMBRANE.stop + 8]
    layer[layer == 1] = 0
    found = [f for f in check_labels(Labels(made.labels, GRID), made.info) if f.kind == "membrane_gap"]
    assert [f.severity for f in found] == ([] if severity is None else [severity])
    assert all("8 voxels, 18 nm, wide" in f.text for f in found)


@pytest.mark.parametrize("share, expected", [(1.0, [("both_sides", WARNING, (2,))]), (0.1, [])])
def test_cytosol_on_both_sides_of_the_membrane(
    made: Made, share: float, expected: list[tuple[str, Severity, tuple[int, ...]]]
) -> None:
    made.labels = np.roll(made.labels, 6, axis=2)
    made.labels[:, :, :8] = made.labels[:, :, -1:] = 0
    made.labels[1:-1, 1 : round(share * GRID.shape_zyx[1]) - 1, 2:8] = 1
    kinds = ("both_sides", "membrane_gap")
    found = [f for f in check_labels(Labels(made.labels, GRID), made.info) if f.kind in kinds]
    assert summary(found) == expected


def test_an_oblique_membrane_with_a_gap(made: Made) -> None:
    """Layers along the axes are not what a gap is."""
    z, y, x = np.ogrid[tuple(slice(0, n) for n in GRID.shape_zyx)]
    depth = (x + 0.6 * y + 0.3 * z) / np.sqrt(1 + 0.36 + 0.09)
    inner = np.zeros(GRID.shape_zyx, dtype=bool)
    inner[1:-1, 1:-1, 1:-1] = True
    for gap in (0, 2):
        made.labels[made.labels < 10] = 0
        free = inner & (made.labels == 0)
        made.labels[free & (depth > 20)] = 1
        made.labels[free & (depth > 16 - gap) & (depth <= 20 - gap)] = 2
        found = [f for f in check_labels(Labels(made.labels, GRID), made.info) if f.kind == "membrane_gap"]
        assert summary(found) == ([("membrane_gap", ERROR, (2,))] if gap else [])


# --- sizes


@pytest.mark.parametrize(
    "excess, kind, severity",
    [(-2, "too_small", ERROR), (-1, "too_small", WARNING), (1, "too_large", WARNING), (2, "too_large", WARNING)],
)
@pytest.mark.parametrize("with_table", [True, False], ids=["table", "tomogram"])
def test_all_labels_too_small_or_too_large(
    made: Made, excess: int, kind: str, severity: Severity, with_table: bool
) -> None:
    made.labels = labels_of(truth().replace(radii_vox=truth().radii_vox + excess))
    if not with_table:
        made.table = None
    found = [f for f in made.findings() if f.kind not in ("touching", "on_face", "vesicle_outside")]
    finding = only(found)
    assert (finding.kind, finding.severity) == (kind, severity)
    named = set(finding.ids)
    assert named <= set(IDS) and len(named) > (0.95 if with_table else 0.5) * len(IDS)
    told = [float(text) for text in re.findall(r"\(([+-]\d\.\d) voxel", finding.text)]
    np.testing.assert_allclose(told, excess, atol=0.7)
    assert np.median(told) == pytest.approx(excess, abs=0.25)


def test_sizes_of_some_labels_beside_the_table(made: Made) -> None:
    radii = truth().radii_vox.copy()
    radii[[2, 5]] -= 1
    radii[3] -= 2
    radii[4] += 1
    made.labels = labels_of(truth().replace(radii_vox=radii))
    found = [f for f in made.findings() if f.kind.startswith("too")]
    assert summary(found) == [
        ("too_small", ERROR, (IDS[3],)),
        ("too_small", WARNING, (IDS[2], IDS[5])),
        ("too_large", WARNING, (IDS[4],)),
    ]


def test_one_label_too_large_beside_the_tomogram(made: Made) -> None:
    radii = truth().radii_vox.copy()
    radii[6] += 2
    made.labels, made.table = labels_of(truth().replace(radii_vox=radii)), None
    found = [f for f in made.findings() if f.kind != "touching"]
    assert summary(found) == [("too_large", WARNING, (IDS[6],))]


@pytest.mark.parametrize("noise", [1.0, 1.6], ids=["as measured", "more noise"])
def test_right_labels_are_not_called_wrong(made: Made, rng: np.random.Generator, noise: float) -> None:
    """Centres off by half a voxel and radii by a third, as fits to a noisy tomogram are."""
    n = len(truth())
    shaken = truth().replace(
        centres_vox=truth().centres_vox + rng.normal(0, 0.3, (n, 3)),
        radii_vox=truth().radii_vox + rng.normal(0, 0.3, n),
    )
    made.labels, made.table = labels_of(shaken), None
    extra = (noise**2 - 1) ** 0.5
    made.grey = made.grey + rng.normal(0, extra, made.grey.shape).astype(np.float32)
    assert [f for f in made.findings() if f.kind != "touching"] == []


def test_a_table_of_other_labels(made: Made) -> None:
    made.table = truth().replace(centres_vox=np.roll(truth().centres_vox, 1, axis=0))
    assert summary(made.findings()) == [("table", WARNING, ())]


def test_a_table_that_cannot_be_read(made: Made) -> None:
    made.write().table.write_text("a,b\n1,2\n")
    assert summary(check_folder(made.root)) == [("table", WARNING, ())]


# --- shapes, contacts, faces


@pytest.mark.parametrize("voxels", [1, 19, 20])
def test_tiny_vesicles(made: Made, voxels: int) -> None:
    row = middle_row()
    own = np.argwhere(made.labels == IDS[row])
    order = np.argsort(np.linalg.norm(own - truth().centres_vox[row], axis=1))
    made.labels[tuple(own[order[voxels:]].T)] = 1
    made.table = None
    found = [f for f in made.findings() if f.kind == "tiny"]
    if voxels > 19:
        assert found == []
    else:
        assert summary(found) == [("tiny", ERROR, (IDS[row],))]
        assert f"{voxels} voxels" in found[0].text


def test_two_vesicles_with_one_id(made: Made) -> None:
    made.labels[made.labels == IDS[3]] = IDS[1]
    made.change(**{name: tuple(i for i in getattr(made.info, name) if i != IDS[3]) for name in LISTS})
    found = [f for f in made.findings() if f.kind == "pieces"]
    assert summary(found) == [("pieces", WARNING, (IDS[1],))]
    assert "2 pieces of" in found[0].text


def test_a_loose_voxel(made: Made) -> None:
    place = tuple(int(round(v)) for v in truth().centres_vox[0])
    z, y, x = place[0], place[1], int(place[2] + truth().radii_vox[0] + 3)
    assert made.labels[z, y, x] == 1
    made.labels[z, y, x] = IDS[0]
    finding = only(made.findings())
    assert summary([finding]) == [("pieces", WARNING, (IDS[0],))] and "and 1 voxels" in finding.text


@pytest.mark.parametrize("apart", [1.9, 1.7, 1.5])
def test_a_dumb_bell(made: Made, apart: float) -> None:
    """Two balls of one id that touch or overlap; nearer ones look long."""
    row = middle_row()
    radius, centre = 6.0, truth().centres_vox[row]
    ball = Vesicles.from_spheres(
        GRID, centre + np.array([[0, 0.5, 0.5], [0, -0.5, -0.5]]) * apart * radius / 2**0.5, [radius, radius]
    )
    both = rasterize(ball.replace(status=("manual", "manual"))).data > 0
    made.labels[made.labels == IDS[row]] = 1
    assert not (made.labels[both] >= 10).any()
    made.labels[both] = IDS[row]
    found = [f for f in made.findings() if IDS[row] in f.ids]
    finding = only([f for f in found if f.kind == "not_a_ball"])
    assert summary([finding]) == [("not_a_ball", WARNING, (IDS[row],))]
    assert ("2 balls" if apart > 1.6 else "times as long as wide") in finding.text
    assert is_near(finding, centre, 2)


@pytest.mark.parametrize("row", [0, 5, 9])
def test_a_disc_is_no_ball(made: Made, row: int) -> None:
    own = made.labels == IDS[row]
    middle = int(round(truth().centres_vox[row, 0]))
    own[middle] = False
    made.labels[own] = 1
    found = [f for f in made.findings() if f.kind != "too_small"]
    assert summary(found) == [("not_a_ball", WARNING, (IDS[row],))] and "flat" in found[0].text


def test_a_hollow_label_is_no_ball(made: Made) -> None:
    own = made.labels == IDS[0]
    made.labels[binary_erosion(own, iterations=2)] = 1
    assert ("not_a_ball", WARNING, (IDS[0],)) in summary(made.findings())


def test_slightly_elongated_vesicles_are_balls(made: Made) -> None:
    """As real ones are."""
    row = middle_row()
    made.labels[made.labels == IDS[row]] = 1
    offsets = np.ogrid[tuple(slice(0, n) for n in GRID.shape_zyx)]
    semi = truth().radii_vox[row] * np.array([0.92, 1.0, 1.08])
    where = sum(((a - c) / r) ** 2 for a, c, r in zip(offsets, truth().centres_vox[row], semi, strict=True)) <= 1
    made.labels[where] = IDS[row]
    assert made.findings() == []


def test_touching_vesicles(made: Made) -> None:
    """Three in a row make two pairs."""
    row = middle_row()
    radius, centre = 5.0, truth().centres_vox[row]
    three = (
        truth()
        .select([0, 1, 2])
        .replace(
            ids=[90, 91, 92],
            centres_vox=centre + np.array([[0, -9.6, 0], [0, 0, 0], [0, 9.6, 0]]),
            radii_vox=[radius] * 3,
        )
    )
    others = truth().select(np.linalg.norm(truth().centres_vox - centre, axis=1) > 32)
    balls = rasterize(three).data
    made.labels = labels_of(others)
    made.labels[balls > 0] = balls[balls > 0]
    ids = (*(int(i) for i in others.ids), 90, 91, 92)
    made.change(vesicle_ids=ids, boundary_ids=(2, *ids), all_ids=(1, 2, *ids))
    made.table = None
    finding = only([f for f in made.findings() if f.kind == "touching"])
    assert summary([finding]) == [("touching", WARNING, (90, 91, 92))]
    assert "2 pairs: 90 and 91 (" in finding.text and "91 and 92 (" in finding.text
    np.testing.assert_allclose(finding.places, centre + np.array([[0, -4.8, 0], [0, 4.8, 0]]), atol=0.6)


@pytest.mark.parametrize("gap", [1, 2])
def test_vesicles_that_nearly_touch_have_no_contact(made: Made, gap: int) -> None:
    centre = truth().centres_vox[middle_row()]
    two = (
        truth()
        .select([0, 1])
        .replace(ids=[90, 91], centres_vox=centre + np.array([[0, -5.0, 0], [0, 5.0, 0]]), radii_vox=[5.5, 5.5])
    )
    balls = rasterize(two, gap_vox=gap).data
    labels = labels_of(truth().select(np.linalg.norm(truth().centres_vox - centre, axis=1) > 32))
    labels[balls > 0] = balls[balls > 0]
    found = check_labels(Labels(labels, GRID), made.info)
    assert not [f for f in found if f.kind == "touching"]


@pytest.mark.parametrize("gap", [1, 2, 3])
@pytest.mark.parametrize("apart", [(0, 9.6, 0), (0, 7.0, 7.0), (5.7, 6.1, 5.3), (3.0, 8.1, 5.2)])
def test_what_parts_vesicles_is_no_gap_before_the_cytosol(
    made: Made, gap: int, apart: tuple[float, float, float]
) -> None:
    """Whatever the direction; but a gap on the far side of one of them is."""
    centre = np.array(GRID.shape_zyx) / 2
    places = centre + np.array([[0.5], [-0.5]]) * apart
    two = truth().select([0, 1]).replace(ids=[10, 11], centres_vox=places, radii_vox=[5.5, 5.5])
    labels, whole, parted = labels_of(truth().select([])), rasterize(two).data, rasterize(two, gap_vox=gap).data
    labels[whole > 0] = parted[whole > 0]
    made.change(vesicle_ids=(10, 11), boundary_ids=(2, 10, 11), all_ids=(1, 2, 10, 11))
    kinds = ("vesicle_gap", "vesicle_outside", "touching")
    assert not [f for f in check_labels(Labels(labels, GRID), made.info) if f.kind in kinds]
    side = (np.argwhere(np.ones(GRID.shape_zyx)) - places[0]) @ np.array(apart) > 3
    labels[shell_of(labels == 10) & side.reshape(GRID.shape_zyx) & (labels == 1)] = 0
    (finding,) = [f for f in check_labels(Labels(labels, GRID), made.info) if f.kind in kinds]
    assert summary([finding])[0][0] == "vesicle_gap" and 10 in finding.ids


def test_vesicles_that_a_face_cuts(made: Made) -> None:
    row = int(np.argmin(truth().centres_vox[:, 0]))
    centres = truth().centres_vox.copy()
    centres[row, 0] = 2.0
    cut = truth().replace(centres_vox=centres)
    made.labels, made.table = labels_of(cut), cut
    found = [f for f in made.findings() if f.kind != "touching"]
    assert summary(found) == [("on_face", WARNING, (IDS[row],))]
    assert is_near(found[0], [4.5, *centres[row, 1:]], 1)


def test_other_labels_on_a_face(made: Made) -> None:
    made.labels[0][made.labels[1] == 1] = 1
    assert summary(made.findings()) == [("on_face", NOTE, (1,))]


# --- the tomogram


def test_inverted_contrast(made: Made) -> None:
    made.grey = -made.grey
    assert summary(made.findings()) == [("contrast", ERROR, ())]


@pytest.mark.parametrize("excess", [-2, 2])
def test_inverted_contrast_with_labels_of_wrong_size(made: Made, excess: int) -> None:
    """Both are told, and dark membranes are not called bright since the labels end in their fringes."""
    made.labels, made.table = labels_of(truth().replace(radii_vox=truth().radii_vox + excess)), None
    kinds = {f.kind for f in made.findings()}
    assert "contrast" not in kinds and ("too_small" if excess < 0 else "too_large") in kinds
    again = good(made.root.with_name("inverted"))
    again.labels, again.table, again.grey = made.labels, None, -made.grey
    kinds = {f.kind for f in again.findings()}
    assert {"contrast", "too_small" if excess < 0 else "too_large"} <= kinds


def test_noise_alone_says_nothing(made: Made, rng: np.random.Generator) -> None:
    made.grey = rng.normal(size=made.grey.shape).astype(np.float32)
    assert made.findings() == []
    again = good(made.root.with_name("again"))
    again.grey, again.table = made.grey, None
    assert summary(again.findings()) == [("sizes_unknown", NOTE, ())]


# --- layers


def test_cytosol_that_does_not_reach_far(made: Made) -> None:
    """Within a nanometre of what a distance transform says."""
    far = MEMBRANE.stop - 1 + 248 / GRID.voxel_nm
    made.labels[:, :, int(far) + 1 :][made.labels[:, :, int(far) + 1 :] == 1] = 0
    made.labels[1:-1, 1:-1, -8] = 0
    finding = only([f for f in made.findings() if f.kind == "layers"])
    assert finding.severity is NOTE and tuple(finding.ids) == (1,)
    reached = np.argwhere(made.labels == 1)[:, 2].max() - (MEMBRANE.stop - 1)
    told = float(finding.text.split("reaches ")[1].split(" nm")[0])
    assert told == pytest.approx(reached * GRID.voxel_nm, abs=1.5)


def test_nothing_is_said_of_layers_where_the_volume_ends(made: Made) -> None:
    shorter = slice(0, round(200 / GRID.voxel_nm))
    made.labels = made.labels[:, :, shorter]
    made.labels[:, :, -1] = 0
    assert "layers" not in {f.kind for f in check_labels(Labels(made.labels, Grid(made.labels.shape, 2.2)), made.info)}


# --- what is told


def test_findings_as_json(made: Made) -> None:
    made.labels[shell_of(made.labels == IDS[0])] = 0
    content = json.loads(json.dumps([finding.to_json() for finding in made.findings()]))
    x, y, z = shown(truth().centres_vox[0])
    (one,) = content
    assert one["kind"] == "vesicle_gap" and one["severity"] == "error" and one["ids"] == [IDS[0]]
    (place,) = one["places"]
    assert abs(place["x"] - x) <= 1 and abs(place["y"] - y) <= 1 and abs(place["z"] - z) <= 1
    assert one["text"] and one["remedy"]


def test_the_worst_comes_first_and_every_finding_is_one_line(made: Made) -> None:
    made.labels[shell_of(made.labels == IDS[0])] = 0
    made.labels[0][made.labels[1] == 1] = 1
    made.text = "all_ids = all_ids + [0, 300]"
    found = made.findings()
    assert [f.severity.rank for f in found] == sorted(f.severity.rank for f in found) and len(found) == 4
    assert all("\n" not in str(f) and str(f).startswith(f"{f.severity.value}: ") for f in found)


# --- real labels


@pytest.fixture
def real(tmp_path: Path, shared_data: Callable[[str], Path]) -> Made:
    """Pyto's example; its tomogram is not distributed."""
    labels = read_labels(shared_data("pyto_presynaptic/labels.mrc.gz"))
    root = tmp_path / "real"
    made = good(root)
    folder = WorkFolder(root)
    folder.labels.parent.mkdir(parents=True)
    folder.tomo_info.parent.mkdir()
    others = (2, 3, 35, 47, 72, 74)
    made.change(
        vesicle_ids=REAL_IDS,
        boundary_ids=(2, *REAL_IDS),
        all_ids=(*others, *REAL_IDS),
        segmentation_region=3,
        distance_id=2,
    )
    write_tomo_info(folder.tomo_info, made.info)
    made.labels = np.array(labels.data)
    made.grid = labels.grid
    return made


def test_the_published_labels(real: Made, shared_data: Callable[[str], Path]) -> None:
    """All nine abut the cytosol, and touch neither each other nor a face; what is said of them is true."""
    real.folder.labels.write_bytes(gzip.decompress(shared_data("pyto_presynaptic/labels.mrc.gz").read_bytes()))
    found = check_folder(real.root)
    assert summary(found) == [("file_missing", ERROR, ()), ("labels_type", NOTE, ())]
    rewrite(real.folder.labels, real.labels.astype(np.uint16), real.grid)
    rewrite(real.folder.tomogram, np.random.default_rng(0).normal(size=real.labels.shape).astype(np.float32), real.grid)
    assert summary(check_folder(real.root)) == [("sizes_unknown", NOTE, ())]  # this is noise


def test_published_labels_that_are_spoilt(real: Made) -> None:
    vesicle = real.labels == 50
    real.labels[shell_of(vesicle)] = 0
    real.labels[real.labels == 61] = 60
    found = check_labels(Labels(real.labels, real.grid), real.info)
    assert ("vesicle_gap", ERROR, (50,)) in summary(found)
    assert ("absent", ERROR, (61,)) in summary(found) and ("pieces", WARNING, (60,)) in summary(found)
