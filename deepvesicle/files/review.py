"""What a user decided on the HTML report: keep or reject, vesicle by vesicle, saved by the page as JSON."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepvesicle.errors import BadInputError
from deepvesicle.grid import Grid
from deepvesicle.vesicles import Vesicles

#: What the page calls its file, and the version that is understood.
NAME, VERSION = "deepvesicle review", 1
_MAX_VOXEL_DIFFERENCE = 0.01


@dataclass(frozen=True, eq=False)
class Decision:
    """What was decided of one vesicle.

    Parameters
    ----------
    id : int
        Of its row in the table.
    keep : bool
        It is a vesicle; otherwise it is none.
    centre_vox : float array (3,)
        z, y, x, as the report showed it.
    """

    id: int
    keep: bool
    centre_vox: np.ndarray


@dataclass(frozen=True)
class Review:
    """A file with decisions.

    Parameters
    ----------
    path : Path
    shape_zyx : tuple of int
        Of the tomogram that the report was made of.
    voxel_nm : float
    table : str
        Name of the table that was reported.
    decisions : tuple of Decision
        No id twice.
    """

    path: Path
    shape_zyx: tuple[int, int, int]
    voxel_nm: float
    table: str
    decisions: tuple[Decision, ...]

    def check(self, vesicles: Vesicles) -> None:
        """Make sure that the decisions are about this table.

        Raises
        ------
        BadInputError
            Another tomogram, ids that the table does not have, or vesicles that lie elsewhere.
        """
        self._check_grid(vesicles.grid)
        row_of_id = {int(number): row for row, number in enumerate(vesicles.ids)}
        unknown = [one.id for one in self.decisions if one.id not in row_of_id]
        if unknown:
            raise self._other(f"{_ids(unknown)} not in the table")
        moved = [
            one.id
            for one in self.decisions
            if np.linalg.norm(vesicles.centres_vox[row_of_id[one.id]] - one.centre_vox)
            > vesicles.radii_vox[row_of_id[one.id]]
        ]
        if moved:
            raise self._other(f"{_ids(moved)} elsewhere in the table")

    def _check_grid(self, grid: Grid) -> None:
        same_size = abs(self.voxel_nm / grid.voxel_nm - 1) <= _MAX_VOXEL_DIFFERENCE
        if self.shape_zyx == grid.shape_zyx and same_size:
            return
        nz, ny, nx = grid.shape_zyx
        z, y, x = self.shape_zyx
        raise BadInputError(
            f"{self.path} is the review of another tomogram",
            expected=f"{nx} x {ny} x {nz} voxels of {grid.voxel_nm:.4g} nm",
            got=f"{x} x {y} x {z} voxels of {self.voxel_nm:.4g} nm",
        )

    def _other(self, got: str) -> BadInputError:
        return BadInputError(
            f"{self.path} does not belong to this table",
            expected=f"a review of its report ({self.table or 'its table'} was reviewed)",
            got=got,
            remedy="Make a new report with `deepvesicle report` and review that",
        )


def read_review(path: str | os.PathLike[str]) -> Review:
    """Read the decisions that a report's page saved.

    Raises
    ------
    BadInputError
        No such file, or of another kind.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInputError(f"{path} cannot be read", got=error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise _unusable(path, "no JSON") from error
    if not isinstance(content, dict) or content.get("format") != NAME:
        raise _unusable(path, "JSON of another kind")
    if content.get("version") != VERSION:
        raise _unusable(path, f"version {str(content.get('version'))[:20]}")
    try:
        return _review(path, content)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _unusable(path, f"{type(error).__name__}: {error}") from error


def _review(path: Path, content: dict[str, Any]) -> Review:
    x, y, z = (_whole(n) for n in content["tomogram"]["shape_xyz"])
    decisions = tuple(_decision(item) for item in content["decisions"])
    if len({one.id for one in decisions}) < len(decisions):
        raise ValueError("two decisions on one vesicle")
    voxel_nm = float(content["tomogram"]["voxel_nm"])
    if not (math.isfinite(voxel_nm) and voxel_nm > 0):
        raise ValueError("no voxel size")
    return Review(path, (z, y, x), voxel_nm, str(content.get("table", ""))[:200], decisions)


def _decision(item: dict[str, Any]) -> Decision:
    centre = np.array([float(item["centre_vox"][axis]) for axis in "zyx"])
    if item["decision"] not in ("keep", "reject") or not np.isfinite(centre).all():
        raise ValueError("a decision that is none")
    return Decision(_whole(item["id"]), item["decision"] == "keep", centre)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{str(value)[:20]!r} is no whole number from 1")
    return value


def _unusable(path: Path, got: str) -> BadInputError:
    return BadInputError(
        f"{path} is not a review", expected="the JSON file that the page of `deepvesicle report` saves", got=got
    )


def _ids(ids: list[int]) -> str:
    """Some ids, in words."""
    shown = ", ".join(str(number) for number in ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
    return f"vesicle {shown} is" if len(ids) == 1 else f"vesicles {shown} are"
