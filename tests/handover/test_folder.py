"""The parameter file of Pyto: written so that plain Python runs it, read without ever running it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepvesicle.errors import BadInputError, OutputExistsError
from deepvesicle.handover.findings import Severity
from deepvesicle.handover.folder import TomoInfo, WorkFolder, read_tomo_info, write_tomo_info
from deepvesicle.handover.ids import LabelIds
from deepvesicle.handover.script import Array, read_script

#: As people write it.
HAND_MADE = '''\
"""Parameters."""
from __future__ import unicode_literals
from builtins import range
import numpy as np, numpy
import os.path, somewhere
from elsewhere import find_ids, unheard_of
image_file_name = "../3d/tomo.mrc"
labels_file_name = os.path.join("..", "viz", "labels.mrc")
labels_data_type = None
first, last = 10, 14
vesicle_ids = list(range(first, last)) + [20]  # 15 to 19 are endosomes
vesicle_ids.remove(12)
segmentation_region = 3
distance_id = 2
boundary_ids = [2] + vesicle_ids
all_ids = [segmentation_region] + boundary_ids
def change():
    all_ids = 5
'''


@pytest.fixture
def folder(tmp_path: Path) -> WorkFolder:
    folder = WorkFolder(tmp_path / "work")
    folder.tomo_info.parent.mkdir(parents=True)
    return folder


def info_of(folder: WorkFolder, vesicle_ids: Any = (10, 11, 14)) -> TomoInfo:
    return TomoInfo.of(folder.tomogram, folder.labels, LabelIds(), vesicle_ids)


def read(folder: WorkFolder, text: str) -> TomoInfo:
    folder.tomo_info.write_text(text, encoding="utf-8")
    return read_tomo_info(folder.tomo_info)


def with_line(name: str, line: str) -> str:
    """The hand-made file with the last word on one variable."""
    return HAND_MADE + f"\n{line}\n" if line else HAND_MADE.replace(f"{name} = ", "other = ")


# --- writing


@pytest.mark.parametrize("count", [1, 3, 300])
def test_plain_python_runs_what_is_written(folder: WorkFolder, count: int) -> None:
    vesicles = list(range(10, 10 + count))
    write_tomo_info(folder.tomo_info, info_of(folder, vesicles))
    values: dict[str, Any] = {}
    exec(folder.tomo_info.read_text(encoding="utf-8"), values)
    values = {name: value for name, value in values.items() if not name.startswith("__")}
    assert values == {
        "image_file_name": "../3d/tomo.mrc",
        "labels_file_name": "../3d/labels.mrc",
        "labels_data_type": None,
        "all_ids": [1, 2, *vesicles],
        "boundary_ids": [2, *vesicles],
        "vesicle_ids": vesicles,
        "segmentation_region": 1,
        "distance_id": 2,
    }
    # what layers.py does with them
    assert [values["segmentation_region"]] + values["vesicle_ids"] == [1, *vesicles]


def test_names_of_files_hold_in_every_task(folder: WorkFolder) -> None:
    """Wherever the work folder is, and seen from a program that runs inside a task."""
    write_tomo_info(folder.tomo_info, info_of(folder))
    folder.tomogram.parent.mkdir()
    folder.tomogram.write_text("voxels")
    for task in folder.tasks:
        task.mkdir()
        code = "exec(open('../common/tomo_info.py').read()); print(open(image_file_name).read())"
        done = subprocess.run([sys.executable, "-c", code], cwd=task, capture_output=True, text=True)
        assert done.stdout.strip() == "voxels", done.stderr


def test_files_outside_the_work_folder(folder: WorkFolder, tmp_path: Path) -> None:
    info = TomoInfo.of(tmp_path / "data" / "it's ours.mrc", folder.labels, LabelIds(), [10])
    write_tomo_info(folder.tomo_info, info)
    assert read_tomo_info(folder.tomo_info).image == tmp_path / "data" / "it's ours.mrc"


def test_what_is_written_is_read_again(folder: WorkFolder) -> None:
    info = info_of(folder, [40, 10, 33])
    write_tomo_info(folder.tomo_info, info)
    assert read_tomo_info(folder.tomo_info) == info
    assert info.vesicle_ids == (10, 33, 40) and info.vesicle_ids_form == "list"


def test_no_membrane(folder: WorkFolder) -> None:
    info = TomoInfo.of(folder.tomogram, folder.labels, LabelIds(cytosol=5, membrane=None), [10, 11])
    write_tomo_info(folder.tomo_info, info)
    again = read_tomo_info(folder.tomo_info)
    assert again.distance_id is None and again.boundary_ids == (10, 11) and again.all_ids == (5, 10, 11)
    assert again.problems == ()


def test_nothing_is_replaced_unasked(folder: WorkFolder) -> None:
    write_tomo_info(folder.tomo_info, info_of(folder))
    with pytest.raises(OutputExistsError):
        write_tomo_info(folder.tomo_info, info_of(folder))
    write_tomo_info(folder.tomo_info, info_of(folder, [77]), overwrite=True)
    assert read_tomo_info(folder.tomo_info).vesicle_ids == (77,)


# --- reading


def test_a_file_that_people_wrote(folder: WorkFolder) -> None:
    info = read(folder, HAND_MADE)
    assert info.problems == ()
    assert info.image == folder.root / "3d" / "tomo.mrc" and info.labels == folder.root / "viz" / "labels.mrc"
    assert info.vesicle_ids == (10, 11, 13, 20) and info.vesicle_ids_form == "list"
    assert info.boundary_ids == (2, 10, 11, 13, 20) and info.all_ids == (3, 2, 10, 11, 13, 20)
    assert (info.segmentation_region, info.distance_id, info.labels_data_type) == (3, 2, None)


@pytest.mark.parametrize(
    "value, form",
    [
        ("range(10, 13)", "range"),
        ("(10, 11, 12)", "tuple"),
        ("numpy.arange(10, 13)", "array"),
        ("np.array([10, 11, 12], dtype=int)", "array"),
        ("np.r_[10:12, 12]", "array"),
        ("{10, 11, 12}", "set"),
        ("[*range(10, 13)]", "list"),
        ("[i for i in range(10, 20) if i not in (13, 14) and i < 15]", "list"),
        ("[[10, 11], 12]", "list"),
        ("list(range(0, 20))[10:13]", "list"),
        ("np.arange(10, 13).tolist()", "list"),
        ("sorted([12, 10, 11])", "list"),
    ],
)
def test_ways_to_write_vesicle_ids(folder: WorkFolder, value: str, form: str) -> None:
    info = read(folder, with_line("vesicle_ids", f"vesicle_ids = {value}"))
    assert info.vesicle_ids == (10, 11, 12) and info.vesicle_ids_form == form and info.problems == ()


@pytest.mark.parametrize(
    "line, word",
    [
        ("all_ids = find_ids()", "find_ids() is not understood"),
        ("all_ids = [2] + somewhere.ids", "is not understood"),
        ("all_ids = [2] + unheard_of", "unheard_of is not known"),
        ("for i in range(3): all_ids = [i]", "set inside a for statement"),
        ("all_ids = np.array([1, 2]) + np.array([3, 4])", "element by element"),
        ("all_ids = list(range(10**7))", "is not understood"),
        ("all_ids = list(range(10000000))", "too long"),
        ("all_ids.pop()", "all_ids.pop()"),
        ("if os.path.exists('a'):\n    all_ids = [3]", "os.path.exists('a') is not understood"),
        ("all_ids = __import__('os').getcwd()", "is not understood"),
    ],
)
def test_what_is_not_understood_is_named_and_may_be_right(folder: WorkFolder, line: str, word: str) -> None:
    info = read(folder, with_line("all_ids", line))
    (problem,) = info.problems
    assert info.all_ids is None and info.unknown == {"all_ids"}
    assert problem.severity is Severity.WARNING
    assert "all_ids" in problem.text and word in problem.text and "line 20" in problem.text
    assert "a list of whole numbers" in problem.remedy


@pytest.mark.parametrize(
    "line, word",
    [
        ("all_ids = [2, 3] + range(9, 165)", "can only concatenate list"),
        ("all_ids = [2, 3][5]", "index out of range"),
        ("all_ids = int('x')", "invalid literal"),
        ("all_ids = [2, 'x']", "'x'"),
        ("all_ids = [2, 3.5]", "3.5"),
        ("all_ids = None", "None"),
        ("all_ids = [2] + defined_below\ndefined_below = [3]", "line 20: defined_below is not defined above"),
        ("all_ids = sorted(no_such_function())", "no_such_function is not defined above"),
        ("all_ids += never_set", "never_set is not defined above"),
        ("", "does not set all_ids"),
    ],
)
def test_what_cannot_be_right_is_an_error(folder: WorkFolder, line: str, word: str) -> None:
    info = read(folder, with_line("all_ids", line))
    (problem,) = info.problems
    assert info.all_ids is None and problem.severity is Severity.ERROR
    assert "all_ids" in problem.text and word in problem.text


@pytest.mark.parametrize(
    "line, word",
    [
        ("raise ValueError('no')", "raise ValueError('no') ends it"),
        ("raise", "ends it"),
        ("import sys\nsys.exit(1)", "sys.exit(1) ends it"),
        ("assert len(all_ids) > 1000", "fails"),
        ("helper = not_set + 1", "not_set is not defined above"),
        ("if first == 10:\n    print(not_set)", "not_set is not defined above"),
    ],
)
def test_a_file_on_which_python_fails(folder: WorkFolder, line: str, word: str) -> None:
    """Whatever it is about: none of the variables here."""
    info = read(folder, HAND_MADE + line + "\n")
    (problem,) = info.problems
    assert problem.severity is Severity.ERROR and word in problem.text and info.vesicle_ids == (10, 11, 13, 20)


@pytest.mark.parametrize(
    "line",
    [
        "if first > 10:\n    raise ValueError('no')",
        "try:\n    import nothing_of_this_name as n\nexcept ImportError as error:\n    n = 3\nm = n",
        "def f():\n    return below\nbelow = 3",
        "for i in range(3):\n    last_i = i\nx = last_i + i",
        "x = [a + b for a in range(3) for b in range(a)]",
        "x = y = 3\n(x, z) = x, y\nw = z",
        "from os.path import *\nx = join('a', 'b')",
        "assert vesicle_ids",
        "x = False and never_set",
        "x: int = 3\nx += 1",
    ],
)
def test_a_file_on_which_python_does_not_fail(folder: WorkFolder, line: str) -> None:
    assert read(folder, HAND_MADE + line + "\n").problems == ()


@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("image_file_name", "3", "the name of a file"),
        ("labels_file_name", "''", "the name of a file"),
        ("labels_data_type", "16", "None, or the name of a type"),
        ("segmentation_region", "None", "the id of the cytosol"),
        ("segmentation_region", "[1]", "the id of the cytosol"),
        ("distance_id", "True", "active-zone membrane"),
    ],
)
def test_every_variable_says_what_it_should_be(folder: WorkFolder, name: str, value: str, expected: str) -> None:
    info = read(folder, with_line(name, f"{name} = {value}"))
    (problem,) = info.problems
    assert name in problem.text and expected in problem.remedy and info.unknown == {name}


def test_nothing_is_run(folder: WorkFolder, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = f"import pathlib\nx = pathlib.Path({str(mark)!r}).touch()\n[open({str(mark)!r}, 'w') for i in range(3)]\n"
    assert read(folder, code + HAND_MADE).problems == ()
    assert not mark.exists()


@pytest.mark.parametrize(
    "text, word",
    [("print 'old'\n", "line 1"), ("a = [1,\n", "line 1"), ("\0", "not Python 3"), ("-" * 20000, "not Python 3")],
)
def test_files_that_are_no_python(folder: WorkFolder, text: str, word: str) -> None:
    with pytest.raises(BadInputError, match=word):
        read(folder, text)


def test_missing_file(folder: WorkFolder) -> None:
    with pytest.raises(BadInputError, match="cannot be read"):
        read_tomo_info(folder.tomo_info)


_lists = st.lists(st.integers(0, 99), max_size=5)
_terms = st.one_of(
    _lists.map(repr),
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 3)).map(lambda t: f"list(range{t})"),
    _lists.map(lambda x: f"sorted({x})"),
    _lists.map(lambda x: f"[i + 1 for i in {x} if i > 3 or i == 1]"),
    _lists.map(lambda x: f"[*{x}, 7][1:]"),
)


@given(st.lists(_terms, min_size=1, max_size=4))
def test_sums_of_lists_are_what_python_makes_of_them(terms: list[str]) -> None:
    source = "a = " + " + ".join(terms) + "\nb = a + [-1]\na += range(3)\nb.extend(a)\nc, d = b, len(b)\n"
    values: dict[str, Any] = {}
    exec(source, {}, values)
    assert read_script(source).values == values


def test_arrays_are_told_from_lists() -> None:
    values = read_script("import numpy as np\na = np.array([1, 2])\nb = list(a)\nc = a[0]").values
    assert values == {"a": Array((1, 2)), "b": [1, 2], "c": 1} and isinstance(values["a"], Array)
