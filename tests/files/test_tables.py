"""The table of vesicles: nothing is lost on the way, and what was edited wrongly is named with its line."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepvesicle.errors import OutputExistsError, TableError
from deepvesicle.files.tables import (
    COLUMNS,
    read_spheres_csv,
    read_vesicles_csv,
    voxel_nm_of_csv,
    write_vesicles_csv,
)
from deepvesicle.grid import Grid
from deepvesicle.vesicles import Status, Vesicles

GRID = Grid((60, 155, 140), 1.684, (12.0, 0.0, -40.0))


def example(rng: np.random.Generator, n: int = 7) -> Vesicles:
    thickness = rng.uniform(2, 4, n)
    thickness[1] = np.nan
    return Vesicles(
        GRID,
        rng.permutation(1000)[:n] + 1,
        rng.uniform(-3, 150, (n, 3)),
        rng.uniform(7, 30, n),
        membrane_radii_vox=rng.uniform(7, 30, n),
        thickness_vox=thickness,
        scores=rng.random(n),
        status=tuple(list(Status)[i] for i in rng.integers(0, len(Status), n)),
        reasons=("", 'a, "quoted"; reason', "two\nlines", "übersehen", *[""] * (n - 4)),
        features={"membrane_grey": rng.normal(size=n) * 1e-9, "chi2": np.array([np.inf, np.nan, *rng.random(n - 2)])},
    )


def assert_same(a: Vesicles, b: Vesicles) -> None:
    for name in ("ids", "centres_vox", "radii_vox", "scores"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    for name in ("membrane_radii_vox", "thickness_vox", "sigma_centres_vox", "sigma_radii_vox"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-15, err_msg=name)
    assert a.status == b.status and a.reasons == b.reasons and set(a.features) == set(b.features)
    for name, column in a.features.items():
        np.testing.assert_array_equal(column, b.features[name], err_msg=name)


def test_round_trip_is_exact(tmp_path: Path, rng: np.random.Generator) -> None:
    vesicles = example(rng)
    write_vesicles_csv(tmp_path / "v.csv", vesicles)
    assert_same(read_vesicles_csv(tmp_path / "v.csv", GRID), vesicles)


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(
        st.tuples(
            st.floats(-1e4, 1e4),
            st.floats(1e-3, 1e3),
            st.floats(allow_nan=True, allow_infinity=True),
            st.text(max_size=8),
        ),
        max_size=5,
    )
)
def test_any_numbers_and_reasons_survive(tmp_path_factory: pytest.TempPathFactory, values: list) -> None:
    path = tmp_path_factory.mktemp("any") / "v.csv"
    n = len(values)
    # The csv module cannot keep a lone carriage return apart from a line's end; reasons are single lines of text.
    reasons = tuple(" ".join(text.split()) for *_, text in values)
    vesicles = Vesicles.from_spheres(
        GRID,
        np.array([[v[0], v[0] / 3, -v[0]] for v in values]).reshape(n, 3),
        [v[1] for v in values],
        reasons=tuple(r.encode("utf-8", "ignore").decode().replace("\0", "") for r in reasons),
        features={"any": np.array([v[2] for v in values])},
    )
    write_vesicles_csv(path, vesicles)
    assert_same(read_vesicles_csv(path, GRID), vesicles)


def test_columns_are_the_contract(tmp_path: Path) -> None:
    vesicles = Vesicles(
        GRID, np.array([5]), np.array([[1.5, 20.25, 30.0]]), np.array([10.0]), membrane_radii_vox=np.array([8.5]),
        thickness_vox=np.array([3.0]), sigma_centres_vox=np.array([0.25]), sigma_radii_vox=np.array([0.5]),
        scores=np.array([0.75]), status=(Status.DOUBTFUL,), reasons=("thin",), features={"b": [2.0], "a": [1.0]},
    )  # fmt: skip
    write_vesicles_csv(tmp_path / "v.csv", vesicles)
    with open(tmp_path / "v.csv", newline="") as file:
        header, row = list(csv.reader(file))
    assert ",".join(header) == (
        "id,z_vox,y_vox,x_vox,radius_vox,x_nm,y_nm,z_nm,radius_nm,membrane_radius_nm,thickness_nm,"
        "sigma_centre_nm,sigma_radius_nm,score,status,reason,a,b"
    )
    cells = dict(zip(header, row, strict=True))
    assert cells["id"] == "5" and cells["status"] == "doubtful" and cells["reason"] == "thin"
    expected = {
        "z_vox": 1.5, "y_vox": 20.25, "x_vox": 30.0, "radius_vox": 10.0, "x_nm": 50.52, "y_nm": 34.101, "z_nm": 2.526,
        "radius_nm": 16.84, "membrane_radius_nm": 14.314, "thickness_nm": 5.052, "sigma_centre_nm": 0.421,
        "sigma_radius_nm": 0.842, "score": 0.75, "a": 1.0, "b": 2.0,
    }  # fmt: skip
    for name, value in expected.items():  # nm = voxel x voxel size; the origin is not added
        assert float(cells[name]) == pytest.approx(value, rel=1e-12), name


def test_unknown_is_empty(tmp_path: Path) -> None:
    write_vesicles_csv(tmp_path / "v.csv", Vesicles.from_spheres(GRID, [[1, 2, 3]], [9]))
    assert ",,,,,proposed,\n" in (tmp_path / "v.csv").read_text()


def test_table_without_rows(tmp_path: Path) -> None:
    write_vesicles_csv(tmp_path / "v.csv", Vesicles.empty(GRID))
    assert len(read_vesicles_csv(tmp_path / "v.csv", GRID)) == 0


def test_no_overwriting(tmp_path: Path) -> None:
    write_vesicles_csv(tmp_path / "v.csv", Vesicles.empty(GRID))
    with pytest.raises(OutputExistsError):
        write_vesicles_csv(tmp_path / "v.csv", Vesicles.empty(GRID))
    write_vesicles_csv(tmp_path / "v.csv", Vesicles.empty(GRID), overwrite=True)


def test_feature_with_the_name_of_a_column(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="score"):
        write_vesicles_csv(tmp_path / "v.csv", Vesicles.from_spheres(GRID, [[1, 2, 3]], [9], features={"score": [1.0]}))


def test_what_a_spreadsheet_does_to_a_table(tmp_path: Path, rng: np.random.Generator) -> None:
    """A mark at the beginning, other line ends, blank lines, and columns in another order."""
    vesicles = example(rng).replace(reasons=("",) * 7)
    path = tmp_path / "v.csv"
    write_vesicles_csv(path, vesicles)
    rows = [line.split(",") for line in path.read_text().splitlines()]
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n\r\n".join(",".join(row[::-1]).encode() for row in rows) + b"\r\n")
    assert_same(read_vesicles_csv(path, GRID), vesicles)


GOOD = {
    **dict.fromkeys(COLUMNS, ""), "id": "1", "z_vox": "1", "y_vox": "2", "x_vox": "3", "radius_vox": "10",
    "x_nm": "5.052", "y_nm": "3.368", "z_nm": "1.684", "radius_nm": "16.84", "status": "refined", "area": "1",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_vox": "abc"}, r"line 3: x_vox is not a number; got 'abc'"),
        ({"x_vox": "nan"}, r"line 3: x_vox is not a number"),
        ({"y_nm": ""}, r"line 3: y_nm is empty"),
        ({"radius_vox": "inf"}, r"line 3: radius_vox is not a number"),
        ({"radius_vox": "-4"}, r"line 3: radius_vox is not a radius"),
        ({"radius_vox": "0"}, r"line 3: radius_vox is not a radius"),
        ({"score": "high"}, r"line 3: score is not a number"),
        ({"area": "1,5"}, r"line 3: area is not a number"),
        ({"id": "1"}, r"line 3: the id 1 is there already; got line 2"),
        ({"id": "0"}, r"line 3: id is not valid"),
        ({"id": "2.0"}, r"line 3: id is not valid"),
        ({"id": "²"}, r"line 3: id is not valid"),
        ({"status": "Refined"}, r"line 3: unknown status; expected one of .*refined.*got 'Refined'"),
    ],
)
def test_bad_values_are_named_with_their_line(tmp_path: Path, change: dict[str, str], message: str) -> None:
    path = tmp_path / "v.csv"
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, GOOD)
        writer.writeheader()
        writer.writerows([GOOD, {**GOOD, "id": "2", **change}])
    with pytest.raises(TableError, match=message) as caught:
        read_vesicles_csv(path, GRID)
    assert str(path) in str(caught.value) and caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"x,y,z\n1,2,3\n", "columns are missing"),
        (";".join(COLUMNS).encode() + b"\n", "columns are missing"),
        (",".join((*COLUMNS, "a", "a")).encode() + b"\n", "a different name for each column; got a"),
        (",".join(COLUMNS).encode() + b"\n1,2,3\n", "line 2; expected 16 values; got 3"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", "is not a table"),
        (",".join(COLUMNS).encode() + b'\n"1,2', "is not a table"),
    ],
)
def test_files_that_are_no_tables(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "v.csv"
    path.write_bytes(content)
    with pytest.raises(TableError, match=message):
        read_vesicles_csv(path, GRID)


def test_missing_table(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="No such file"):
        read_vesicles_csv(tmp_path / "v.csv", GRID)


def test_table_of_another_voxel_size(tmp_path: Path, rng: np.random.Generator) -> None:
    write_vesicles_csv(tmp_path / "v.csv", example(rng))
    with pytest.raises(TableError, match="another tomogram; expected a voxel size of 2.2 nm; got .* 1.684 nm"):
        read_vesicles_csv(tmp_path / "v.csv", Grid((60, 155, 140), 2.2))


def test_tables_from_elsewhere_have_centres_and_radii(tmp_path: Path) -> None:
    path = tmp_path / "truth.csv"
    path.write_text("id,kind,x_vox,y_vox,z_vox,radius_outer_vox,radius_outer_nm\n7,SV,3.5,2,1,4,8\n9,DCV,6,5,4,5,10\n")
    found = read_spheres_csv(path, GRID)
    assert found.ids.tolist() == [7, 9] and found.accepted.all()
    assert found.centres_vox.tolist() == [[1, 2, 3.5], [4, 5, 6]] and found.radii_vox.tolist() == [4, 5]
    assert voxel_nm_of_csv(path) == pytest.approx(2.0)
    path.write_text("z_vox,y_vox,x_vox,radius_vox\n1,2,3,4\n")
    assert read_spheres_csv(path, GRID).ids.tolist() == [1] and voxel_nm_of_csv(path) is None
    for text, words in (
        ("z_vox,y_vox,x_vox\n1,2,3\n", "radius_vox"),
        ("id,x,y,z,radius_vox\n1,2,3,4,5\n", "z_vox, y_vox, x_vox"),
        ("z_vox,y_vox,x_vox,radius_vox\n1,2,3,-4\n", "line 2: radius_vox is not a radius"),
        ("z_vox,y_vox,x_vox,radius_vox\n1,2,,4\n", "line 2: x_vox is empty"),
    ):
        path.write_text(text)
        with pytest.raises(TableError, match=words):
            read_spheres_csv(path, GRID)


def test_any_table_reads_as_itself(tmp_path: Path) -> None:
    table = Vesicles.from_spheres(GRID, [[1, 2, 3], [4, 5, 6]], [4, 5], status=(Status.REFINED, Status.REJECTED))
    write_vesicles_csv(tmp_path / "t.csv", table)
    assert read_spheres_csv(tmp_path / "t.csv", GRID).status == table.status
    assert voxel_nm_of_csv(tmp_path / "t.csv") == pytest.approx(GRID.voxel_nm)
