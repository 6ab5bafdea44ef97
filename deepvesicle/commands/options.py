"""Options that several commands share, so that they are named and explained alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

TomogramArgument = Annotated[
    Path, typer.Argument(help="Tomogram: MRC file (.mrc, .rec, .nad, .map, .st, also .gz).", show_default=False)
]
VoxelSizeOption = Annotated[
    float | None,
    typer.Option("--voxel-size", metavar="NM", help="Voxel size in nm, in place of the header's.", show_default=False),
]
InvertOption = Annotated[bool, typer.Option("--invert", help="The tomogram holds dense = bright: turn its contrast.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace output files that exist.")]

# How vesicles are found: the same for one tomogram and for many.
ModelOption = Annotated[str, typer.Option(help="Network: the name of a shipped one, or the folder of your own.")]
MinRadiusOption = Annotated[float | None, typer.Option(metavar="NM", help="Smallest outer radius, by default 12.")]
MaxRadiusOption = Annotated[float | None, typer.Option(metavar="NM", help="Largest outer radius, by default 100.")]
ThresholdOption = Annotated[
    float | None, typer.Option(help="Probability from which a voxel counts; the model's own by default.")
]
ViewsOption = Annotated[
    int | None,
    typer.Option(metavar="N", help="Mirror images averaged: 1 (default), 2, 4 or 8; N times the time."),
]
PrecisionOption = Annotated[
    str | None,
    typer.Option(
        metavar="auto|fp32|bf16",
        help="What the network calculates in; auto: bf16 where that is faster, and exact.",
    ),
]
SaveProbabilityOption = Annotated[
    bool, typer.Option("--save-probability", help="Also write the network's probability (MRC).")
]
TiltRangeOption = Annotated[
    str | None,
    typer.Option(metavar="LOW,HIGH", help="Lowest and highest tilt, degrees; by default as the missing wedge shows."),
]
TiltAxisOption = Annotated[str | None, typer.Option(metavar="y|x", help="Axis of the tilt series, by default y.")]
EllipsoidOption = Annotated[
    bool, typer.Option("--ellipsoid", help="Also fit an ellipsoid to each vesicle, for the table.")
]
GapOption = Annotated[
    int | None, typer.Option(metavar="N", help="Voxels to leave between the labels of vesicles, by default 0.")
]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Most memory to use, such as 2GB; by default 2.5 GB, or three quarters of what is free if that is less.",
    ),
]
SettingsOption = Annotated[
    Path | None, typer.Option(metavar="TOML", help="File with settings; options on the command line win.")
]
