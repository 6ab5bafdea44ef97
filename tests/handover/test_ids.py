"""Ids of the label volume: one id per vesicle, the same whatever is added or taken away."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepvesicle.errors import BadInputError, UsageError
from deepvesicle.grid import Grid
from deepvesicle.handover.ids import SOURCE_ID, LabelIds, numbered
from deepvesicle.vesicles import Status, Vesicles

UINT16, INT16 = 65535, 32767


def table(ids: list[int], rejected: tuple[int, ...] = ()) -> Vesicles:
    status = tuple(Status.REJECTED if i in rejected else Status.REFINED for i in ids)
    return Vesicles(
        Grid((20, 30, 40), 1.5), np.array(ids), np.full((len(ids), 3), 10.0), np.full(len(ids), 5.0), status=status
    )


def ids_of(vesicles: Vesicles) -> list[int]:
    return [int(i) for i in vesicles.ids]


def test_defaults_are_those_of_the_published_wrapper() -> None:
    assert LabelIds() == LabelIds(1, 2, 10)
    assert LabelIds().others == (1, 2) and LabelIds(membrane=None).others == (1,)


@pytest.mark.parametrize("wrong", [{"cytosol": 0}, {"membrane": -1}, {"first_vesicle": 0}])
def test_ids_are_positive(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="from 1"):
        LabelIds(**wrong)


@pytest.mark.parametrize("wrong", [{"cytosol": 2}, {"membrane": 10}, {"first_vesicle": 1}])
def test_ids_are_distinct(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="same id"):
        LabelIds(**wrong)


def test_a_table_from_1_gets_ids_from_10_in_its_order() -> None:
    result = numbered(table([1, 2, 5, 17]), LabelIds(), UINT16)
    assert ids_of(result) == [10, 11, 14, 26]
    assert result.features[SOURCE_ID].tolist() == [1, 2, 5, 17]


def test_handing_over_again_keeps_the_ids() -> None:
    once = numbered(table([1, 2, 5, 17]), LabelIds(), UINT16)
    again = numbered(once, LabelIds(), UINT16)
    assert ids_of(again) == ids_of(once)
    assert again.features[SOURCE_ID].tolist() == ids_of(once)


@given(st.sets(st.integers(1, 400), min_size=2, max_size=30), st.data())
def test_rejecting_vesicles_renumbers_no_other(numbers: set[int], data: st.DataObject) -> None:
    ids = sorted(numbers)
    gone = data.draw(st.sets(st.sampled_from(ids)))
    before = dict(zip(ids, ids_of(numbered(table(ids), LabelIds(), UINT16)), strict=True))
    after = dict(zip(ids, ids_of(numbered(table(ids, tuple(gone)), LabelIds(), UINT16)), strict=True))
    assert before == after
    assert min(after.values()) >= 10 and len(set(after.values())) == len(ids)


def test_ids_that_do_not_fit_are_refused() -> None:
    with pytest.raises(BadInputError, match="up to 32767; got 32768"):
        numbered(table([1, INT16 - 8]), LabelIds(), INT16)
    assert ids_of(numbered(table([1, INT16 - 9]), LabelIds(), INT16))[-1] == INT16
    numbered(table([1, INT16], rejected=(INT16,)), LabelIds(), INT16)


def test_ids_of_cytosol_and_membrane_are_refused() -> None:
    with pytest.raises(UsageError, match=r"vesicle 12 of the labels \(vesicle 3 of the table\)"):
        numbered(table([1, 3]), LabelIds(cytosol=12), UINT16)
    with pytest.raises(UsageError, match="vesicle 100 of the labels would"):
        numbered(table([99, 100]), LabelIds(membrane=100), UINT16)
    numbered(table([99, 100], rejected=(100,)), LabelIds(membrane=100), UINT16)


def test_no_vesicles() -> None:
    assert len(numbered(table([]), LabelIds(), UINT16)) == 0
