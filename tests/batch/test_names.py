"""Which tomograms a batch is of, and what their folders are called."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepvesicle.batch.names import find_tomograms, known_names, mask_of, unique_names
from deepvesicle.commands.segment import stem_of
from deepvesicle.errors import BadInputError, UsageError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def test_patterns_and_paths_stand_for_files_once_each_in_the_order_of_numbers(tmp_path: Path) -> None:
    touch(tmp_path, "t/tomo_10.mrc", "t/tomo_2.mrc", "t/deep/er/tomo_1.rec", "t/notes.txt")
    (tmp_path / "t" / "link.mrc").symlink_to(tmp_path / "t" / "tomo_2.mrc")
    patterns = [f"{tmp_path}/t/tomo*.mrc", f"{tmp_path}/t/link.mrc", f"{tmp_path}/t/**/*.rec"]
    found = find_tomograms(patterns, tmp_path / "out")
    assert [path.name for path in found] == ["tomo_2.mrc", "tomo_10.mrc", "tomo_1.rec"]


def test_results_are_no_input(tmp_path: Path) -> None:
    touch(tmp_path, "a.mrc", "out/a/a_labels.mrc")
    assert find_tomograms([f"{tmp_path}/**/*.mrc"], tmp_path / "out") == [tmp_path / "a.mrc"]


def test_a_name_with_brackets_is_a_file_before_it_is_a_pattern(tmp_path: Path) -> None:
    touch(tmp_path, "tomo[1].mrc")
    assert find_tomograms([f"{tmp_path}/tomo[1].mrc"], tmp_path / "out") == [tmp_path / "tomo[1].mrc"]


@pytest.mark.parametrize("pattern", ["none.mrc", "*.none", "folder"])
def test_what_stands_for_nothing_is_an_error_that_names_it(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInputError, match=pattern.replace("*", r"\*")):
        find_tomograms([f"{tmp_path}/{pattern}"], tmp_path / "out")


def test_the_same_stem_twice_is_kept_apart() -> None:
    paths = [Path(p) for p in ("/a/one/t.mrc", "/a/two/t.mrc", "/a/two/u.mrc", "/a/two/v.rec", "/a/two/v.mrc")]
    names = unique_names(paths, stem_of)
    assert list(names.values()) == ["one_t", "two_t", "u", "v.rec", "v.mrc"]
    far = unique_names([Path("/x/g/t.mrc"), Path("/y/g/t.mrc")], stem_of)
    assert len(set(far.values())) == 2 and all(name.startswith("t-") for name in far.values())
    case = unique_names([Path("/x/T.mrc"), Path("/x/t.mrc")], stem_of)
    assert len({name.casefold() for name in case.values()}) == 2


_PART = st.text(st.characters(exclude_characters="/\x00", exclude_categories=("Cs",)), min_size=1, max_size=4)


@given(st.lists(st.tuples(_PART, _PART), min_size=1, max_size=8, unique=True))
def test_names_are_always_unique_and_safe(parts: list[tuple[str, str]]) -> None:
    paths = [Path("/root") / folder / f"{name}.mrc" for folder, name in parts]
    paths = list(dict.fromkeys(paths))
    names = unique_names(paths, stem_of)
    assert set(names) == set(paths)
    assert len({name.casefold() for name in names.values()}) == len(paths)
    assert all(name and name[0] not in ".-" and "/" not in name and " " not in name for name in names.values())


def test_names_stay_when_others_come(tmp_path: Path) -> None:
    old, new = Path("/a/one/t.mrc"), Path("/a/two/t.mrc")
    assert known_names({}, [old], stem_of) == {old: "t"}
    assert known_names({str(old): "t"}, [old, new], stem_of) == {old: "t", new: "two_t"}


def test_outlines_are_beside_the_tomogram_or_where_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "t/a_outline.mod", "masks/a.mod")
    tomogram = tmp_path / "t" / "a.mrc"
    assert mask_of("{stem}_outline.mod", tomogram, "a") == tmp_path / "t" / "a_outline.mod"
    assert mask_of("masks/{stem}.mod", tomogram, "a") == tmp_path / "masks" / "a.mod"
    assert mask_of("/x/{stem}.mod", tomogram, "a") == Path("/x/a.mod")
    assert mask_of("{stem}_none.mod", tomogram, "a") == tmp_path / "t" / "a_none.mod"
    with pytest.raises(UsageError, match="name"):
        mask_of("{name}.mod", tomogram, "a")
