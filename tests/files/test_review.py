"""Reviews: read as the page writes them, and refused where they are of something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepvesicle.errors import BadInputError
from deepvesicle.files.review import read_review
from deepvesicle.grid import Grid
from deepvesicle.vesicles import Vesicles

GRID = Grid((40, 70, 90), 2.0)
TABLE = Vesicles.from_spheres(GRID, [[20.0, 30, 40], [10, 50, 20], [30, 20, 70]], [10.0, 8, 9]).replace(
    ids=np.array([4, 7, 9])
)


def content(**more: Any) -> dict[str, Any]:
    decisions = [
        {"id": 4, "decision": "keep", "centre_vox": {"x": 40.0, "y": 30.0, "z": 20.0}},
        {"id": 9, "decision": "reject", "centre_vox": {"x": 70, "y": 20, "z": 31.5}},
    ]
    return {
        "format": "deepvesicle review",
        "version": 1,
        "tomogram": {"name": "t.mrc", "shape_xyz": [90, 70, 40], "voxel_nm": 2.0},
        "table": "t_vesicles.csv",
        "decisions": decisions,
        **more,
    }


def written(folder: Path, value: Any) -> Path:
    path = folder / "t_review.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_verdicts_are_read_and_fit_their_table(tmp_path):
    review = read_review(written(tmp_path, content()))
    assert [(one.id, one.keep) for one in review.decisions] == [(4, True), (9, False)]
    assert review.decisions[1].centre_vox.tolist() == [31.5, 20, 70]
    assert review.shape_zyx == GRID.shape_zyx
    review.check(TABLE)


@pytest.mark.parametrize(
    "value, said",
    [
        ("", "no JSON"),
        ("[1, 2]", "another kind"),
        ('{"format": 1}', "another kind"),
        ("[" * 100_000, "no JSON"),
        (content(version=2), "version 2"),
        (content(tomogram=None), "TypeError"),
        (content(tomogram={"shape_xyz": [90, 70], "voxel_nm": 2}), "ValueError"),
        (content(tomogram={"shape_xyz": [90, 70, 40], "voxel_nm": "nan"}), "voxel size"),
        (content(decisions=[{"id": 4, "decision": "keep"}]), "centre_vox"),
        (content(decisions=[{"id": 4.5, "decision": "keep", "centre_vox": {"x": 1, "y": 1, "z": 1}}]), "4.5"),
        (content(decisions=[{"id": True, "decision": "keep", "centre_vox": {"x": 1, "y": 1, "z": 1}}]), "True"),
        (content(decisions=[{"id": 4, "decision": "maybe", "centre_vox": {"x": 1, "y": 1, "z": 1}}]), "none"),
        (content(decisions=2 * content()["decisions"]), "two decisions"),
        (content(decisions=[None]), "TypeError"),
    ],
)
def test_what_is_no_review_is_refused_in_one_line(tmp_path, value, said):
    with pytest.raises(BadInputError) as error:
        read_review(written(tmp_path, value))
    assert "t_review.json is not a review" in str(error.value) and said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_or_binary_file_is_named(tmp_path):
    with pytest.raises(BadInputError, match=r"nothere\.json cannot be read"):
        read_review(tmp_path / "nothere.json")
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(BadInputError, match="is not a review"):
        read_review(tmp_path / "b.json")


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=5), lambda x: st.lists(x, max_size=3)))
def test_any_value_in_any_place_is_an_error_of_ours_or_none(tmp_path_factory, value):
    folder = tmp_path_factory.mktemp("review")
    for name in ("tomogram", "decisions", "version", "format", "table"):
        path = written(folder, {**content(), name: value})
        try:
            read_review(path)
        except BadInputError as error:
            assert "is not a review" in str(error)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"tomogram": {"shape_xyz": [90, 70, 41], "voxel_nm": 2.0}}, "another tomogram; expected 90 x 70 x 40 voxels"),
        ({"tomogram": {"shape_xyz": [90, 70, 40], "voxel_nm": 2.2}}, "got 90 x 70 x 40 voxels of 2.2 nm"),
        (
            {"decisions": [{"id": n, "decision": "keep", "centre_vox": {"x": 1, "y": 1, "z": 1}} for n in (5, 6)]},
            "vesicles 5, 6 are not in the table",
        ),
        (
            {"decisions": [{"id": 4, "decision": "keep", "centre_vox": {"x": 60, "y": 30, "z": 20}}]},
            "vesicle 4 is elsewhere",
        ),
    ],
)
def test_reviews_of_something_else_are_told(tmp_path, change, said):
    review = read_review(written(tmp_path, content(**change)))
    with pytest.raises(BadInputError) as error:
        review.check(TABLE)
    assert said in str(error.value) and "t_review.json" in str(error.value)
