"""Examples of every command: they stand below its help and on its page of the documents, and the tests run them."""

from __future__ import annotations

from typing import NamedTuple


class Example(NamedTuple):
    """A command line, and what it does."""

    line: str
    does: str


#: By command, those of a group by "group command". Files are named alike everywhere in the documents.
EXAMPLES: dict[str, tuple[Example, ...]] = {
    "segment": (
        Example("deepvesicle segment tomo.mrc -o results", "find all vesicles of a tomogram"),
        Example(
            "deepvesicle segment tomo.mrc -o inside --mask drawn.mod --voxel-size 2.2",
            "only those inside an outline drawn in 3dmod, and the header's voxel size is wrong",
        ),
    ),
    "batch": (
        Example("deepvesicle batch 'tomos/*.mrc' -o all_results", "one tomogram after another; run again, it goes on"),
        Example("deepvesicle batch 'tomos/*.mrc' -o all_results --write-sbatch job.sh", "only write a job for SLURM"),
    ),
    "fix": (
        Example(
            "deepvesicle fix tomo.mrc results/tomo_vesicles.mod",
            "fit what you clicked in 3dmod, take out what you deleted",
        ),
        Example(
            "deepvesicle fix --new tomo.mrc points.mod", "a sphere at each of your points, without an earlier result"
        ),
    ),
    "prepare": (
        Example("deepvesicle prepare tomo.mrc by_hand.mod -o dataset", "a manual segmentation becomes training data"),
    ),
    "train": (
        Example("deepvesicle train dataset --init default -o my_model", "teach the shipped network your tomograms"),
        Example(
            "deepvesicle train dataset --init default -o my_model --resume", "go on after Ctrl-C or the end of a job"
        ),
    ),
    "evaluate": (
        Example(
            "deepvesicle evaluate results/tomo_vesicles.mod by_hand.mod --tomogram tomo.mrc",
            "how well a result and a manual segmentation agree",
        ),
    ),
    "report": (
        Example("deepvesicle report tomo.mrc results/tomo_vesicles.csv", "one HTML page to look through the result"),
        Example(
            "deepvesicle report tomo.mrc results/tomo_vesicles.csv --truth by_hand.mod -o compared.html",
            "with what was missed and what is false",
        ),
    ),
    "export": (
        Example("deepvesicle export results/tomo_vesicles.csv -o tomo.json", "points for copick"),
        Example("deepvesicle export results/tomo_vesicles.csv -o tomo.star --name TS_01", "a STAR file for RELION"),
    ),
    "stats": (
        Example(
            "deepvesicle stats results/tomo_vesicles.mod --tomogram tomo.mrc --active-zone drawn.mod:az -o statistics",
            "radii, neighbours and distances to the active zone, as table and figure",
        ),
    ),
    "pyto": (
        Example(
            "deepvesicle pyto tomo.mrc results/tomo_vesicles.csv "
            "--outline drawn.mod:cell --active-zone drawn.mod:az -o work",
            "make a work folder on which Pyto runs",
        ),
        Example("deepvesicle pyto --check work", "look for what Pyto would stumble over"),
    ),
    "models list": (Example("deepvesicle models list", "the networks that there are"),),
    "models show": (Example("deepvesicle models show default", "what is known of one"),),
    "models path": (Example("deepvesicle models path", "the folder in which a model's name will do"),),
    "models import": (
        Example("deepvesicle models import weights.h5 --name cryovesnet", "use the network published with CryoVesNet"),
    ),
    "demo": (Example("deepvesicle demo -o demo", "a simulated synapse, segmented and compared with the truth"),),
    "phantom": (
        Example(
            "deepvesicle phantom -o phantoms --contrast 0.6 --seed 7", "a simulated tomogram and its true vesicles"
        ),
    ),
    "check": (
        Example("deepvesicle check tomo.mrc", "is the voxel size believable, is the contrast the right way round?"),
    ),
    "info": (
        Example("deepvesicle info results/tomo_vesicles.mod", "the objects of a model, with numbers and sizes"),
        Example("deepvesicle info results/tomo_labels.mrc --json", "the labels of a volume, for another program"),
    ),
}
#: What a new user needs first: shown by `deepvesicle` alone.
MOST_USED = ("segment", "fix", "report", "pyto")


def epilog(*commands: str) -> str:
    """What stands below the help of a command, or of a group of them; a paragraph a line, as Typer wants it."""
    examples = [example for command in commands for example in EXAMPLES[command]]
    return "\n\n".join(["Examples:" if len(examples) > 1 else "Example:", *(example.line for example in examples)])


def first_examples() -> str:
    """What stands below the help of the program: the commands used most, with an example each."""
    lines = [f"{EXAMPLES[name][0].does}: {EXAMPLES[name][0].line}" for name in MOST_USED]
    return "\n\n".join(["Used most:", *lines])
