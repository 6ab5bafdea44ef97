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
