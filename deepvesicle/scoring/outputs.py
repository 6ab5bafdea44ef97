"""What an evaluation leaves on the disk: every vesicle's fate as a table, and as an IMOD model in three colours."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Union

import numpy as np

from deepvesicle.files.atomic import new_file
from deepvesicle.files.imod import empty_model, frame_on
from deepvesicle.scoring.evaluation import Evaluation
from deepvesicle.scoring.match import sphere_iou
from deepvesicle.vesicles import Vesicles
from imod_bridge.model import SCATTERED_OBJECT, Contour, Object, encode_model

#: Columns of the table. The place and the radius are those of the truth, of a false one its own. `distance_nm`, `iou`
#: and `radius_difference_nm` (prediction minus truth) are those of a pair; `nearest_nm` and `nearest_iou` tell of the
#: vesicle of the other table that lies nearest, matched or not.
COLUMNS = (
    "outcome",
    "prediction_id",
    "truth_id",
    "z_vox",
    "y_vox",
    "x_vox",
    "radius_vox",
    "x_nm",
    "y_nm",
    "z_nm",
    "radius_nm",
    "distance_nm",
    "radius_difference_nm",
    "iou",
    "nearest_nm",
    "nearest_iou",
)
FOUND, MISSED, FALSE, IGNORED = "found", "missed", "false", "ignored"
#: Colours of the model's objects, told apart with any kind of colour vision (Okabe and Ito).
COLOURS = {FOUND: (0.0, 0.62, 0.45), MISSED: (0.34, 0.71, 0.91), FALSE: (0.84, 0.37, 0.0)}
_SPHERE_QUALITY = 2

PathLike = Union[str, "os.PathLike[str]"]


def write_evaluation_csv(path: PathLike, evaluation: Evaluation, *, overwrite: bool = False) -> None:
    """Write one row for each vesicle of either table, matched ones together: the found, the missed, the false.

    What counts neither for nor against follows as ``ignored``, shapes that are no spheres with the place and radius of
    a sphere that covers them or a part of them. Matched by centres. See `COLUMNS`.

    Raises
    ------
    OutputExistsError, UsageError
        See `deepvesicle.files.atomic.new_file`.
    """
    with new_file(path, overwrite=overwrite) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in _rows(evaluation):
            writer.writerow([_text(row.get(name, "")) for name in COLUMNS])


def write_evaluation_model(path: PathLike, evaluation: Evaluation, *, overwrite: bool = False) -> None:
    """Write a model for 3dmod: vesicles of the truth that were found and that were missed, and false predictions.

    Three objects of spheres, `found`, `missed` and `false`. The surface number of a contour is the vesicle's id, in
    the truth for the first two, in the prediction for the last.

    Raises
    ------
    OutputExistsError, UsageError
        See `deepvesicle.files.atomic.new_file`.
    """
    score, truth = evaluation.by_centre, evaluation.truth
    groups = {
        FOUND: truth.select(score.pairs[:, 1]),
        MISSED: truth.select(score.fn_rows),
        FALSE: evaluation.predicted.select(score.fp_rows),
    }
    model = empty_model(truth.grid)
    frame = frame_on(path, model, truth.grid)
    objects = []
    for name, spheres in groups.items():
        points, sizes = frame.to_stored(spheres.centres_vox), frame.vox_to_sizes(spheres.radii_vox)
        contours = tuple(
            Contour(points[i : i + 1], sizes[i : i + 1], surface=int(number)) for i, number in enumerate(spheres.ids)
        )
        objects.append(
            Object(
                name=name,
                contours=contours,
                colour=COLOURS[name],
                flags=SCATTERED_OBJECT,
                point_limit=1,
                sphere_quality=_SPHERE_QUALITY,
            )
        )
    data = encode_model(replace(model, name="deepvesicle evaluation", objects=tuple(objects)))
    with new_file(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(data)


def _rows(evaluation: Evaluation) -> Iterator[dict[str, str | int | float]]:
    predicted, truth, score = evaluation.predicted, evaluation.truth, evaluation.by_centre
    for (p, t), iou in zip(score.pairs, evaluation.ious, strict=True):
        yield {
            "outcome": FOUND,
            "prediction_id": int(predicted.ids[p]),
            "truth_id": int(truth.ids[t]),
            **_place(truth, t),
            "distance_nm": float(np.linalg.norm(predicted.centres_nm[p] - truth.centres_nm[t])),
            "radius_difference_nm": float(predicted.radii_nm[p] - truth.radii_nm[t]),
            "iou": float(iou),
            **_nearest(truth, t, predicted),
        }
    for outcome, column, table, others, rows in (
        (MISSED, "truth_id", truth, predicted, score.fn_rows),
        (FALSE, "prediction_id", predicted, truth, score.fp_rows),
        (IGNORED, "prediction_id", predicted, truth, evaluation.ignored_predicted),
        (IGNORED, "truth_id", truth, predicted, evaluation.ignored_truth),
    ):
        for row in rows:
            yield {
                "outcome": outcome,
                column: int(table.ids[row]),
                **_place(table, row),
                **_nearest(table, row, others),
            }


def _place(table: Vesicles, row: int) -> dict[str, float]:
    vox = dict(zip(("z_vox", "y_vox", "x_vox"), table.centres_vox[row], strict=True))
    nm = dict(zip(("z_nm", "y_nm", "x_nm"), table.centres_nm[row], strict=True))
    return {**vox, **nm, "radius_vox": float(table.radii_vox[row]), "radius_nm": float(table.radii_nm[row])}


def _nearest(table: Vesicles, row: int, others: Vesicles) -> dict[str, float]:
    """How far the nearest vesicle of the other table is, and its IoU."""
    if not len(others):
        return {}
    distance = np.linalg.norm(others.centres_nm - table.centres_nm[row], axis=1)
    nearest = int(np.argmin(distance))
    iou = sphere_iou(distance[nearest], table.radii_nm[row], others.radii_nm[nearest])
    return {"nearest_nm": float(distance[nearest]), "nearest_iou": float(iou)}


def _text(value: str | int | float) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
