"""The HTML report: one file that shows a result, explains it, and takes the user's verdicts.

All text reaches the page as JSON or escaped, never as markup; pictures, styles and scripts are in the file, so that it
opens without a network, and its content policy forbids it to load anything.
"""

from __future__ import annotations

import base64
import html
import json
import os
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np

from deepvesicle import __version__
from deepvesicle.files.atomic import new_file
from deepvesicle.files.run_record import RunRecord
from deepvesicle.grid import Tomogram
from deepvesicle.report.changes import ELSEWHERE, REMOVED, Changes
from deepvesicle.report.page_data import (
    Agreement,
    Floats,
    Profiles,
    number,
    profile_data,
    run_facts,
    shown_rows,
    tilts_of,
    tomogram_facts,
    vesicle_rows,
)
from deepvesicle.report.page_images import (
    Limits,
    Planes,
    draw_planes,
    draw_views,
    grey_limits,
    half_field_vox,
    slab_half_vox,
)
from deepvesicle.vesicles import Vesicles

#: The file stays below this, so that it opens at once and can be mailed; what views of vesicles may take, and the share
#: of the rest for xz planes.
MOST_BYTES, VIEW_BYTES, XZ_SHARE = 11_000_000, 3_500_000, 0.3
#: In base64 three bytes become four.
_BASE64 = 4 / 3
STYLES = ("style.css",)
LIBRARIES = ("vendor/three.min.js", "vendor/plot.min.js")
SCRIPTS = (
    "core.js",
    "review.js",
    "summary.js",
    "card.js",
    "slices.js",
    "spheres.js",
    "plots.js",
    "gallery.js",
    "main.js",
)


def write_html(
    path: str | os.PathLike[str],
    tomogram: Tomogram,
    vesicles: Vesicles,
    *,
    table: str = "",
    record: RunRecord | None = None,
    profiles: Profiles | None = None,
    agreement: Agreement | None = None,
    changes: Changes | None = None,
    overwrite: bool = False,
) -> None:
    """Write a report that needs nothing but a browser.

    Parameters
    ----------
    path : path
        Of the HTML file.
    tomogram : Tomogram
    vesicles : Vesicles
        On the tomogram's grid, rejected rows too.
    table : str
        Name of the file that they are from.
    record : RunRecord, optional
        Of the run that made them.
    profiles : Profiles, optional
        Of each row.
    agreement : Agreement, optional
        With a truth.
    changes : Changes, optional
        Since an earlier table.
    overwrite : bool
        Replace a file that exists.

    Raises
    ------
    OutputExistsError, UsageError
        See `deepvesicle.files.atomic.new_file`.
    """
    data = page_data(tomogram, vesicles, table, record, profiles, agreement, changes)
    head = page(f"{data['tomogram']['name']}: vesicles", data, {})
    room = MOST_BYTES - len(head.encode("utf-8"))
    images = page_images(tomogram, data["spheres"], int(room / _BASE64))
    text = page(f"{data['tomogram']['name']}: vesicles", data, images)
    with new_file(path, overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")


def page_data(
    tomogram: Tomogram,
    vesicles: Vesicles,
    table: str,
    record: RunRecord | None,
    profiles: Profiles | None,
    agreement: Agreement | None,
    changes: Changes | None,
) -> dict[str, Any]:
    """Everything that the page tells, but the pictures.

    ``spheres`` has first the rows of the table (``kind``: ``vesicle``), then those that are not in it: ``missed`` ones
    of the truth, and ``removed`` ones of the earlier table.
    """
    rows = shown_rows(vesicles)
    spheres = [{"kind": "vesicle", **row} for row in vesicle_rows(vesicles.select(rows))]
    if agreement is not None:
        for sphere, row in zip(spheres, rows, strict=True):
            sphere["agree"] = agreement.outcomes[row]
        spheres += [{"kind": "missed", **row, "agree": "missed"} for row in vesicle_rows(agreement.missed)]
    if changes is not None:
        for sphere, row in zip(spheres, rows, strict=False):
            sphere |= {"change": changes.kinds[row], "changeNote": changes.notes[row]}
            z, y, x, radius = (number(v, 6) for v in changes.earlier[row])
            sphere["was"] = [x, y, z, radius] if changes.kinds[row] in ELSEWHERE else None
        spheres += [{"kind": "removed", **row, "change": REMOVED} for row in vesicle_rows(changes.gone)]
    (low, high), axis, source = tilts_of(record)
    return {
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "version": __version__,
        "table": table,
        "tomogram": tomogram_facts(tomogram.grid, tomogram.path, tomogram.notes, tomogram.invert),
        "tilts": {"low": low, "high": high, "axis": axis, "source": source},
        "run": run_facts(record),
        "spheres": spheres,
        "unfitted": len(vesicles) - len(rows),
        "profiles": profile_data(profiles and Profiles(profiles.offsets_nm, profiles.values[rows])),
        "agreement": None if agreement is None else {k: number(v) for k, v in agreement.figures.items()},
        "changes": None if changes is None else changes.counts(),
    }


def page_images(tomogram: Tomogram, spheres: list[dict[str, Any]], most_bytes: int) -> dict[str, Any]:
    """All pictures, base64: ``xy`` and ``xz`` planes, and ``views``, one for each sphere (empty where left out)."""
    grid = tomogram.grid
    centres = np.array([(z, y, x) for x, y, z in (sphere["at"] for sphere in spheres)], dtype=float).reshape(-1, 3)
    radii = np.array([sphere["rv"] for sphere in spheres], dtype=float)
    limits = grey_limits(tomogram)
    order = np.argsort([-sphere["doubt"] for sphere in spheres], kind="stable")
    drawn = draw_views(tomogram, centres[order], radii[order], limits, min(VIEW_BYTES, most_bytes // 2))
    views = dict(zip(order.tolist(), drawn, strict=True))
    left = most_bytes - sum(map(len, drawn))
    xz = _planes(tomogram, "xz", centres, radii, limits, int(XZ_SHARE * left))
    xy = _planes(tomogram, "xy", centres, radii, limits, left - xz.bytes)
    return {
        "xy": _plane_data(xy),
        "xz": _plane_data(xz),
        "views": [_base64(views[row]) for row in range(len(spheres))],
        "field": [number(v, 6) for v in half_field_vox(grid, radii)],
        "slab": 2 * slab_half_vox(grid) + 1,
    }


def _planes(tomogram: Tomogram, plane: str, centres: Floats, radii: Floats, limits: Limits, most_bytes: int) -> Planes:
    """Planes through the depth that holds spheres; through all of it where there are none."""
    axis = 0 if plane == "xy" else 1
    extent = (0.0, tomogram.grid.shape_zyx[axis] - 1.0)
    if len(centres):
        low, high = float((centres[:, axis] - radii).min()), float((centres[:, axis] + radii).max())
        low, high = max(low, extent[0]), min(high, extent[1])
        extent = (low, high) if low < high else extent
    return draw_planes(tomogram, plane, extent, limits, most_bytes)


def _plane_data(planes: Planes) -> dict[str, Any]:
    return {"at": list(planes.indices), "images": [_base64(jpeg) for jpeg in planes.jpegs]}


def page(title: str, data: dict[str, Any], images: dict[str, Any]) -> str:
    """The whole page as text."""
    return Template(_asset("page.html")).substitute(
        title=html.escape(title),
        style=_joined(STYLES, lambda text: text),
        libraries=_joined(LIBRARIES, _checked_script),
        script=_joined(SCRIPTS, _checked_script),
        data=script_json(data),
        images=script_json(images),
    )


def script_json(value: Any) -> str:
    """JSON that may stand in a script element: no character of it can end the element or begin markup."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _joined(names: Iterable[str], prepared: Callable[[str], str]) -> str:
    return "\n".join(prepared(_asset(name)) for name in names)


def _checked_script(text: str) -> str:
    """A script that does not end the element it stands in."""
    if "</script" in text.lower() or "<!--" in text:
        raise ValueError("a script of the report would end its own element")
    return text


def _asset(name: str) -> str:
    return files("deepvesicle.report").joinpath("assets", *name.split("/")).read_text(encoding="utf-8")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
