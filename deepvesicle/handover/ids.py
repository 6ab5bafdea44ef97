"""Which number stands for what in the label volume, so that a vesicle has one id in all files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepvesicle.errors import BadInputError, UsageError
from deepvesicle.vesicles import Vesicles

#: Feature of a vesicle of the work folder: its id in the table that was handed over.
SOURCE_ID = "source_id"
#: Ids that a message names one by one.
_NAMED = 8


@dataclass(frozen=True)
class LabelIds:
    """The ids of a label volume; 0 is background.

    Parameters
    ----------
    cytosol : int
        The region in which Pyto looks for connectors.
    membrane : int or None
        The membrane of the active zone; None where none is drawn.
    first_vesicle : int
        The lowest id that a vesicle may have.

    Raises
    ------
    UsageError
        An id that is not positive, or two that are the same.
    """

    cytosol: int = 1
    membrane: int | None = 2
    first_vesicle: int = 10

    def __post_init__(self) -> None:
        names = {"cytosol": self.cytosol, "membrane": self.membrane, "first vesicle": self.first_vesicle}
        seen: dict[int, str] = {}
        for name, number in names.items():
            if number is None:
                continue
            if number < 1:
                raise UsageError(
                    f"the id of the {name} cannot be used", expected="a whole number from 1", got=f"{number}"
                )
            if number in seen:
                raise UsageError(
                    f"the {seen[number]} and the {name} have the same id", expected="different ids", got=f"{number}"
                )
            seen[number] = name

    @property
    def others(self) -> tuple[int, ...]:
        """The ids that no vesicle may have."""
        return (self.cytosol,) if self.membrane is None else (self.cytosol, self.membrane)


def numbered(vesicles: Vesicles, ids: LabelIds, largest: int) -> Vesicles:
    """The vesicles with the ids that they have in the label volume.

    A table numbered from 1 gets ``first_vesicle - 1`` added throughout, so that vesicles that are added or taken away
    later change no other's id. A table in which no id, of rejected rows neither, is lower than `first_vesicle` keeps
    its ids: that of an earlier hand-over is such a one.

    Parameters
    ----------
    vesicles : Vesicles
        All rows, the rejected ones too: they keep the numbering the same when a vesicle is rejected.
    ids : LabelIds
    largest : int
        The highest id that the type of the labels holds.

    Returns
    -------
    Vesicles
        The same rows; the feature `SOURCE_ID` holds the former ids.

    Raises
    ------
    UsageError
        An accepted vesicle would get the id of the cytosol or the membrane.
    BadInputError
        An accepted vesicle's id does not fit into the labels.
    """
    offset = ids.first_vesicle - 1 if len(vesicles) and int(vesicles.ids.min()) < ids.first_vesicle else 0
    result = vesicles.replace(ids=vesicles.ids + offset).with_features(**{SOURCE_ID: vesicles.ids})
    drawn = result.ids[result.accepted]
    _refuse_others(drawn[np.isin(drawn, ids.others)].tolist(), offset)
    too_large = drawn[drawn > largest].tolist()
    if too_large:
        raise BadInputError(
            "ids of vesicles do not fit into the labels",
            expected=f"ids up to {largest}",
            got=_listed(too_large),
            remedy="Number the vesicles anew from 1"
            if int(vesicles.ids.max()) > len(vesicles)
            else "Choose a lower id for the first vesicle",
        )
    return result


def _refuse_others(clash: list[int], offset: int) -> None:
    if not clash:
        return
    source = f" (vesicle {_listed([number - offset for number in clash])} of the table)" if offset else ""
    raise UsageError(
        f"vesicle {_listed(clash)} of the labels{source} would have the id of the cytosol or of the membrane",
        remedy="Choose other ids for these, or a first vesicle above them",
    )


def _listed(numbers: list[int]) -> str:
    return ", ".join(str(number) for number in numbers[:_NAMED]) + (", ..." if len(numbers) > _NAMED else "")
