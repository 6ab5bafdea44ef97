"""Pyto's results, joined to our table: known numbers come back at the right vesicle; what does not fit is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deepvesicle.errors import BadInputError, TableError, UsageError
from deepvesicle.grid import Grid
from deepvesicle.handover.own_table import joined_by_source
from deepvesicle.handover.results import joined, read_results
from deepvesicle.handover.tables_of_pyto import Kind, read_table
from deepvesicle.vesicles import Status, Vesicles
from tests.handover.pyto_tables import Piece, write_clusters, write_segments, write_vesicles

GRID = Grid((40, 60, 80), 1.7)
IDS = [10, 11, 12, 14]
PLACES = {i: (20.0 + 10 * k, 30.0, 15.0, 7.0 + k / 10, 30.0 + k, 20.0 + k) for k, i in enumerate(IDS)}
BOUNDARIES = [2, *IDS]
TETHERS: list[Piece] = [(54, 71, 4.0, (2, 10)), (20, 40, 6.0, (2, 10)), (21, 9, 3.0, (2, 14))]
CONNECTORS: list[Piece] = [(3, 50, 10.0, (10, 11)), (5, 60, 8.0, (10, 11)), (9, 70, 2.0, (11, 14))]


def table(ids: list[int] | None = None) -> Vesicles:
    ids = IDS if ids is None else ids
    centres = [[PLACES[i][2], PLACES[i][1], PLACES[i][0]] if i in PLACES else [5.0, 5.0, 5.0] for i in ids]
    whole = Vesicles(GRID, np.array(ids), np.array(centres), np.full(len(ids), 7.4), status=(Status.MANUAL,) * len(ids))
    return whole.with_features(source_id=np.array(ids) - 9)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A work folder in which Pyto has run."""
    write_vesicles(tmp_path / "vesicles" / "tomo_vesicles.dat", PLACES)
    write_segments(tmp_path / "connectors" / "tomo_new_tethers_good.dat", BOUNDARIES, TETHERS)
    write_segments(tmp_path / "connectors" / "tomo_new_connectors_good.dat", BOUNDARIES, CONNECTORS)
    write_clusters(tmp_path / "cluster" / "tomo_cluster-bound.dat", {10: 1, 11: 1, 12: 2, 14: 1})
    return tmp_path


def test_every_vesicle_has_its_own_numbers(folder: Path) -> None:
    found, notes = joined(table(), read_results(folder))
    assert notes == ()
    features = found.features
    assert features["pyto_connectors"].tolist() == [2, 3, 0, 1]
    assert features["pyto_connected_vesicles"].tolist() == [1, 2, 0, 1]
    assert features["pyto_tethers"].tolist() == [2, 0, 0, 1]
    np.testing.assert_allclose(features["pyto_tether_length_nm"], np.array([5.0, np.nan, np.nan, 3.0]) * 1.7)
    np.testing.assert_allclose(features["pyto_connector_length_nm"], np.array([9, 20 / 3, np.nan, 2]) * 1.7)
    np.testing.assert_allclose(features["pyto_distance_min_nm"], (20 + np.arange(4)) * 1.7)
    np.testing.assert_allclose(features["pyto_distance_mean_nm"], (30 + np.arange(4)) * 1.7)
    np.testing.assert_allclose(features["pyto_radius_nm"], (7 + np.arange(4) / 10) * 1.7)
    np.testing.assert_allclose(features["pyto_grey_lumen"], 2100.0 + np.array(IDS))
    np.testing.assert_allclose(features["pyto_grey_membrane"], 1100.0 + np.array(IDS))
    assert features["pyto_cluster"].tolist() == [1, 1, 2, 1]
    assert features["pyto_cluster_size"].tolist() == [3, 3, 1, 3]
    assert found.ids.tolist() == IDS and features["source_id"].tolist() == [1, 2, 3, 5]


def test_the_order_of_our_table_does_not_matter(folder: Path) -> None:
    found, _ = joined(table([14, 10, 12, 11]), read_results(folder))
    assert found.features["pyto_connectors"].tolist() == [1, 2, 0, 3]


def test_ids_of_only_one_side_are_named_and_have_no_zero(folder: Path) -> None:
    found, notes = joined(table([10, 11, 12, 13]), read_results(folder))
    text = "\n".join(notes)
    assert "in Pyto's results, but not in our table: vesicle 14" in text
    for where in ("the table of vesicles", "the tables of segments", "the tables of clusters"):
        assert f"in our table, but not in {where} of Pyto: vesicle 13" in text
    assert np.isnan(found.features["pyto_connectors"][3]) and np.isnan(found.features["pyto_distance_min_nm"][3])
    assert found.features["pyto_connectors"][2] == 0


def test_results_of_other_labels_are_noticed_by_their_places(folder: Path) -> None:
    ours = table()
    moved = ours.centres_vox + [[0], [0], [4], [0]]
    _, notes = joined(ours.replace(centres_vox=moved), read_results(folder))
    (note,) = [note for note in notes if "other labels" in note]
    assert note.endswith("vesicle 12")


def test_results_of_other_labels_are_refused_where_most_are_elsewhere(folder: Path) -> None:
    ours = table()
    moved = ours.centres_vox + [[0], [4], [4], [4]]
    with pytest.raises(BadInputError, match=r"3 of 4 vesicles elsewhere.*vesicles 11, 12, 14.*run again"):
        joined(ours.replace(centres_vox=moved), read_results(folder))


def test_other_classes_are_told_and_can_be_asked_for(folder: Path) -> None:
    write_segments(folder / "connectors" / "tomo_new_connectors_big.dat", BOUNDARIES, [(77, 5000, 9.0, (12, 14))])
    results = read_results(folder)
    assert any("tomo_new_connectors_big.dat" in note for note in results.notes)
    found, _ = joined(table(), results)
    assert found.features["pyto_connectors"].tolist() == [2, 3, 0, 1]
    found, notes = joined(table(), read_results(folder, classes=["good", "big"]))
    assert found.features["pyto_connectors"].tolist() == [2, 3, 1, 2] and notes == ()
    found, notes = joined(table(), read_results(folder, classes=["big"]))
    assert "pyto_tethers" not in found.features and "there is no table of tethers" in notes
    with pytest.raises(UsageError, match=r"class large.*big, connectors, good, tethers"):
        read_results(folder, classes=["large"])


def test_classes_without_tables_of_segments(folder: Path) -> None:
    for path in folder.glob("connectors/*.dat"):
        path.unlink()
    with pytest.raises(BadInputError, match=r"no segments to choose the class foo from.*leave out --segments"):
        read_results(folder, classes=["foo"])


def test_no_tether_at_all_is_none_and_not_unknown(folder: Path) -> None:
    """Pyto writes a table without rows, and without a head."""
    write_segments(folder / "connectors" / "tomo_new_tethers_good.dat", BOUNDARIES, [])
    found, notes = joined(table(), read_results(folder))
    assert found.features["pyto_tethers"].tolist() == [0, 0, 0, 0] and notes == ()


def test_a_missing_table_of_connectors_gives_no_zeros(folder: Path) -> None:
    (folder / "connectors" / "tomo_new_connectors_good.dat").unlink()
    found, notes = joined(table(), read_results(folder))
    assert "pyto_connectors" not in found.features and "pyto_tethers" in found.features
    assert "there is no table of connectors" in notes


def test_tables_of_single_thresholds_are_not_counted_again(folder: Path) -> None:
    write_segments(
        folder / "connectors" / "tomo_thr-500.000.dat", BOUNDARIES, CONNECTORS, classes=False, threshold=False
    )
    found, notes = joined(table(), read_results(folder))
    assert found.features["pyto_connectors"].tolist() == [2, 3, 0, 1] and notes == ()
    for path in folder.glob("connectors/tomo_new_*"):
        path.unlink()
    found, notes = joined(table(), read_results(folder))
    assert "pyto_connectors" not in found.features and any("single thresholds" in note for note in notes)


def test_the_same_segment_in_two_tables_counts_once_and_two_runs_are_refused(folder: Path) -> None:
    again = folder / "connectors" / "copy_new_tethers_good.dat"
    write_segments(again, BOUNDARIES, TETHERS[:2])
    found, _ = joined(table(), read_results(folder))
    assert found.features["pyto_tethers"].tolist() == [2, 0, 0, 1]
    write_segments(again, BOUNDARIES, [(54, 99, 4.0, (2, 11))])
    with pytest.raises(BadInputError, match="segment 54.*earlier run"):
        read_results(folder)


def test_two_tables_of_vesicles_must_agree(folder: Path) -> None:
    write_vesicles(folder / "old" / "tomo_vesicles.dat", {10: (1.0, 2, 3, 4, 5, 6)})
    with pytest.raises(BadInputError, match=r"vesicle 10.*earlier run"):
        read_results(folder)


def test_the_active_zone_may_be_told_by_the_folder(tmp_path: Path) -> None:
    path = write_segments(tmp_path / "connectors" / "t.dat", BOUNDARIES, TETHERS + CONNECTORS, classes=False)
    path.write_text(path.read_text().replace("#   - region(s): 2\n", ""))
    found, notes = joined(table(), read_results(tmp_path))
    assert "pyto_tethers" not in found.features and any("not told apart" in note for note in notes)
    found, _ = joined(table(), read_results(tmp_path, membrane_ids=[2]))
    assert found.features["pyto_tethers"].tolist() == [2, 0, 0, 1]
    assert found.features["pyto_connectors"].tolist() == [2, 3, 0, 1]


def own_table(ids: list[int], labels: list[int]) -> Vesicles:
    """The user's own table with the places that these labels have."""
    centres = np.array([PLACES[label][2::-1] for label in labels])
    return Vesicles(GRID, np.array(ids), centres, np.full(len(ids), 7.4))


def test_ids_of_another_table_are_refused_by_their_places(folder: Path) -> None:
    """Numbers that moved on by a row would give every vesicle the results of another one."""
    whole, _ = joined(table(), read_results(folder))
    with pytest.raises(BadInputError, match=r"not the one that was handed over: 3 of 3 .*vesicles 1, 2, 3"):
        joined_by_source(own_table([1, 2, 3], [11, 12, 14]), whole)


def test_a_vesicle_that_is_elsewhere_now_is_left_empty_and_named(folder: Path) -> None:
    whole, _ = joined(table(), read_results(folder))
    own = own_table([1, 2, 3, 5], [10, 11, 12, 14])
    refitted = own.replace(centres_vox=own.centres_vox + [[0, 0, 3.4], [0, 0, 0], [0, 5, 0], [0, 0, 0]])
    found, notes = joined_by_source(refitted, whole)
    np.testing.assert_array_equal(found.features["pyto_label"], [10, 11, np.nan, 14])
    assert notes == ("at another place in your table than in the work folder, left empty: vesicle 3",)


def test_places_in_a_cut_folder_are_those_of_the_whole(folder: Path) -> None:
    whole, _ = joined(table(), read_results(folder))
    cut = whole.replace(grid=Grid(GRID.shape_zyx, 1.7, (0.0, 17.0, 0.0)))  # begins at x, y, z = 0, 10, 0
    own = own_table([1, 2, 3, 5], [10, 11, 12, 14])
    with pytest.raises(BadInputError, match="4 of 4"):
        joined_by_source(own, cut)
    moved = own.replace(centres_vox=own.centres_vox + [0.0, 10.0, 0.0])
    np.testing.assert_array_equal(joined_by_source(moved, cut)[0].features["pyto_label"], IDS)


def test_back_to_the_users_own_table(folder: Path) -> None:
    whole, _ = joined(table(), read_results(folder))
    own = own_table([5, 1, 7, 2], [14, 10, 14, 11])
    found, notes = joined_by_source(own, whole)
    np.testing.assert_array_equal(found.features["pyto_label"], [14, 10, np.nan, 11])
    np.testing.assert_array_equal(found.features["pyto_connectors"], [1, 2, np.nan, 3])
    assert found.ids.tolist() == [5, 1, 7, 2]
    assert notes == ("in the work folder, but not in your table: source vesicle 3",)


def test_columns_of_an_earlier_import_go(folder: Path) -> None:
    whole, _ = joined(table(), read_results(folder))
    for path in folder.glob("connectors/*.dat"):
        path.unlink()
    again, _ = joined(whole, read_results(folder))
    assert "pyto_connectors" not in again.features and "pyto_radius_nm" in again.features
    assert "pyto_connectors" not in joined_by_source(whole, again)[0].features


def test_a_table_of_another_tomogram_is_noticed(folder: Path) -> None:
    whole, _ = joined(table(), read_results(folder))
    other = Vesicles(GRID, np.array([101, 102]), np.zeros((2, 3)), np.ones(2))
    assert "none of the ids" in joined_by_source(other, whole)[1][-1]


def test_lengths_and_distances_may_be_missing(tmp_path: Path) -> None:
    write_vesicles(tmp_path / "tomo_vesicles.dat", PLACES, distance_id=None)
    write_segments(tmp_path / "tomo_new.dat", BOUNDARIES, TETHERS, classes=False, length=False)
    found, _ = joined(table(), read_results(tmp_path))
    assert "pyto_distance_min_nm" not in found.features and "pyto_radius_nm" in found.features
    assert np.isnan(found.features["pyto_tether_length_nm"]).all()
    assert found.features["pyto_tethers"].tolist() == [2, 0, 0, 1]


def test_what_pyto_could_not_work_out_is_unknown(folder: Path) -> None:
    path = folder / "vesicles" / "tomo_vesicles.dat"
    path.write_text(path.read_text().replace("  31.0     21.0", "  -1.0      nan"))
    found, _ = joined(table(), read_results(folder))
    assert np.isnan(found.features["pyto_distance_mean_nm"]).tolist() == [False, True, False, False]
    assert np.isnan(found.features["pyto_distance_min_nm"]).tolist() == [False, True, False, False]


def test_many_ids_are_listed_over_several_lines(tmp_path: Path) -> None:
    ids = list(range(10, 90))
    path = write_clusters(tmp_path / "c.dat", dict.fromkeys(ids, 1))
    assert path.read_text().splitlines()[2].startswith(" ")
    found = read_table(path)
    assert found.ids == tuple(ids) and found.rows[89] == {"cluster": 1}
    touched = tuple(range(10, 60))
    (segment,) = read_table(write_segments(tmp_path / "s.dat", ids, [(1, 9, 2.0, touched)])).segments
    assert segment.contacts == touched


@pytest.mark.parametrize(
    "before, after, message",
    [
        ("    20    30    15", "    20    30", "line 15.*numbers: id, density"),
        (" 10  110.00", " ab  110.00", "line 15.*'ab'"),
        (" 11  111.00", " 10  111.00", "line 16.*vesicle 10 is there already"),
        (" 12  112.00", "1.5  112.00", "line 17.*whole number"),
    ],
)
def test_damaged_tables_name_the_line(folder: Path, before: str, after: str, message: str) -> None:
    path = folder / "vesicles" / "tomo_vesicles.dat"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(TableError, match=message):
        read_table(path)


def test_segments_without_what_they_touch_are_refused(folder: Path) -> None:
    path = folder / "connectors" / "tomo_new_tethers_good.dat"
    path.write_text(path.read_text().replace("[ 2 10]", "", 1))
    with pytest.raises(TableError, match="touches"):
        read_table(path)


def test_a_folder_without_results_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "layers").mkdir()
    (tmp_path / "layers" / "labels_layers.dat").write_text("# Id   Grey value   Volume   Num\n 1 2 3 4\n")
    with pytest.raises(BadInputError, match=r"no results of Pyto.*1 other files.*connectors\.py"):
        read_results(tmp_path)


def test_a_real_table_of_vesicles(shared_data: Callable[[str], Path]) -> None:
    found = read_table(shared_data("pyto_presynaptic/tomo_vesicles.dat"))
    assert found.kind is Kind.VESICLES
    assert found.ids == tuple(found.rows) == (36, 48, 49, 50, 52, 58, 59, 60, 61)
    assert found.distance_ids == (2,)
    row = found.rows[52]
    assert (row["x"], row["y"], row["z"], row["radius"], row["radius_max"]) == (87, 25, 27, 13.4, 13.9)
    assert (row["distance_mean"], row["distance_min"], row["volume"], row["lumen_density"]) == (
        48.5,
        35,
        11123,
        1690.08,
    )


def test_a_real_table_of_regions_is_passed_over(shared_data: Callable[[str], Path]) -> None:
    assert read_table(shared_data("pyto_presynaptic/tomo_regions.dat")).kind is Kind.OTHER
