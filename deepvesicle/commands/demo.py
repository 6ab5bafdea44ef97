"""`deepvesicle demo`: simulate a small synapse, segment it, and score the result against the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepvesicle.commands.options import OverwriteOption

#: The sample: a crowded synapse, tilted to 60 degrees, with the noise of a good real tomogram.
SHAPE_ZYX, VOXEL_NM, CONTRAST, MAX_TILT_DEG, SEED = (96, 176, 176), 2.2, 0.8, 60.0, 12


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("demo"),
    model: Annotated[
        str, typer.Option(help="Network: the name of a shipped one, or the folder of your own.")
    ] = "default",
    seed: Annotated[int, typer.Option(help="Another seed simulates another synapse.")] = SEED,
    overwrite: OverwriteOption = False,
) -> None:
    """Simulate a small synapse, segment it with the bundled network, and compare with the truth."""
    from deepvesicle.commands.phantom import phantom_paths, write_phantom
    from deepvesicle.commands.segment import output_paths, refuse_existing, run, summary_lines
    from deepvesicle.files.tables import read_vesicles_csv
    from deepvesicle.files.tomogram import read_tomogram
    from deepvesicle.network.zoo import load_network
    from deepvesicle.scoring.match import match
    from deepvesicle.settings import Settings

    sample = phantom_paths(output, "synapse")
    results = output_paths(output, "synapse")
    refuse_existing({**sample, **results}, overwrite)
    load_network(model)  # a wrong name should be told before the work, not after it
    print(
        f"simulating a synapse of {' x '.join(str(n) for n in SHAPE_ZYX)} voxels (z, y, x) of {VOXEL_NM} nm ...",
        flush=True,
    )
    write_phantom(
        sample,
        SHAPE_ZYX,
        VOXEL_NM,
        kind="synapse",
        contrast=CONTRAST,
        max_tilt_deg=MAX_TILT_DEG,
        seed=seed,
        overwrite=overwrite,
    )
    tomogram = read_tomogram(sample["tomogram"])
    print(f"segmenting it with the network {model!r} ...", flush=True)
    vesicles = run(tomogram, sample["tomogram"], results, Settings(), model=model, overwrite=overwrite)
    truth = read_vesicles_csv(sample["truth_table"], tomogram.grid)
    score = match(vesicles.select(vesicles.accepted), truth, counted=truth.features["inside_fraction"] > 0.999)
    for line in summary_lines(vesicles):
        print(line)
    print("against the truth (vesicles wholly in view):")
    print(score.text())
    for name, path in (
        ("tomogram", sample["tomogram"]),
        ("IMOD model", results["model"]),
        ("labels", results["labels"]),
        ("table", results["table"]),
        ("picture", results["overview"]),
        ("run record", results["record"]),
    ):
        print(f"{name + ':':12} {path}")
    print(f"to look at it in IMOD: 3dmod {sample['tomogram']} {results['model']}")
