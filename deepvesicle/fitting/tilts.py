"""Which tilts a tomogram was made from: as given, or as its own missing wedge shows.

A wedge is believed where it shows about one axis only and looks like that of a tilt series: a tomogram that was blurred
along the beam lacks power there about both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from deepvesicle.fitting.whitening import Wedge, Whitening, estimate_whitening
from deepvesicle.grid import Tomogram
from deepvesicle.settings import RefinementSettings

#: Used where nothing is given and no wedge shows, degrees.
USUAL_TILTS = (-60.0, 60.0)
#: A wedge that begins nearer to the plane of the slices is none, degrees.
LEAST_TILT = 25.0
#: About the tilt axis the power along the beam is at most this share of that about the other axis.
MAX_BEAM_POWER = 1 / 3


@dataclass(frozen=True)
class Tilts:
    """The range of tilts to reckon with.

    Parameters
    ----------
    range_deg : tuple of float
        Lowest and highest tilt.
    source : str
        Where it is from, in words.
    warning : str
        What the user should look at; empty if nothing.
    """

    range_deg: tuple[float, float]
    source: str
    warning: str = ""

    @property
    def note(self) -> str:
        """For the record of a run."""
        low, high = self.range_deg
        return f"tilt range {low:g} to {high:g} degrees, {self.source}"


def find_tilts(tomogram: Tomogram, settings: RefinementSettings, whitening: Whitening | None = None) -> Tilts:
    """The range of tilts: the one given in the settings; else that of the missing wedge; else `USUAL_TILTS`.

    Which way positive tilts go is counted as in `Whitening.tilts_deg` where it is estimated, and not known where it is
    given.

    Parameters
    ----------
    tomogram : Tomogram
        May be memory-mapped: only a few boxes are read.
    settings : RefinementSettings
    whitening : Whitening, optional
        Of the same tomogram and tilt axis, if it has been estimated already.

    Returns
    -------
    Tilts
        With a warning where the wedge evidently lies about the other axis.
    """
    whitening = whitening or estimate_whitening(tomogram, settings.tilt_axis)
    axis, other = ("y", "x") if settings.tilt_axis == "y" else ("x", "y")
    warning = ""
    if _shows(whitening.wedges, other, axis):
        warning = f"the missing wedge seems to lie about the {other} axis: give --tilt-axis {other}"
    if settings.tilt_range_deg is not None:
        return Tilts(settings.tilt_range_deg, "as given", warning)
    if _shows(whitening.wedges, axis, other):
        # Whole degrees, which the estimate is good for, so that a volume turned round gets the same.
        low, high = (float(round(tilt)) for tilt in whitening.tilts_deg)
        return Tilts((low, high), "estimated from the tomogram", warning)
    return Tilts(USUAL_TILTS, "as usual, since no missing wedge shows", warning)


def tilt_range(
    tomogram: Tomogram, settings: RefinementSettings, whitening: Whitening | None = None
) -> tuple[float, float]:
    """Lowest and highest tilt, degrees; see `find_tilts`. Where the settings give them, nothing is read."""
    if settings.tilt_range_deg is not None:
        return settings.tilt_range_deg
    return find_tilts(tomogram, settings, whitening).range_deg


def resolved(
    tomogram: Tomogram, settings: RefinementSettings, whitening: Whitening | None = None
) -> RefinementSettings:
    """The settings with the range of tilts filled in."""
    return replace(settings, tilt_range_deg=tilt_range(tomogram, settings, whitening))


def _shows(wedges: Mapping[str, Wedge], axis: str, other: str) -> bool:
    """Whether the wedge of a tilt series about `axis` shows."""
    if axis not in wedges or other not in wedges:
        return False
    low, high = wedges[axis].tilts_deg
    is_series = -90 < low <= -LEAST_TILT and LEAST_TILT <= high < 90
    return is_series and wedges[axis].beam_power <= MAX_BEAM_POWER * wedges[other].beam_power
