"""`deepvesicle models`: the networks that there are, what they are, and the published one brought in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepvesicle.commands.examples import epilog
from deepvesicle.commands.options import OverwriteOption

if TYPE_CHECKING:
    from deepvesicle.network.zoo import Network

#: Name of the published network where the user gives none.
PUBLISHED_NAME = "cryovesnet"
#: Phantoms on which its scores are calibrated: a few minutes, and more change little.
CALIBRATION_PHANTOMS = 16
_REMARK_WIDTH = 60

app = typer.Typer(
    help="List the networks that there are, show what one is, and import the published one.",
    add_completion=False,
    no_args_is_help=True,
    epilog=epilog("models list", "models show", "models path", "models import"),
)
NameArgument = Annotated[str, typer.Argument(help="Name of a model, or its folder.", show_default=False)]


@app.command("list", epilog=epilog("models list"))
def list_models() -> None:
    """List your own models and the shipped ones."""
    from deepvesicle.errors import NetworkError
    from deepvesicle.network.zoo import known_models, load_network, user_models_folder

    rows = [("name", "where", "voxel", "threshold", "U-Net", "weights", "remark")]
    first: dict[str, Path] = {}
    remarks = []
    for name, folder in known_models():
        if name in first:
            remarks.append(f"{name} is there twice: {first[name]} is used, not {folder}")
        first.setdefault(name, folder)
        try:
            network = load_network(folder)
        except NetworkError as error:
            rows.append((name, _where(folder), "?", "?", "?", "?", _shortened(f"cannot be used: {error}")))
            continue
        rows.append(
            (
                name,
                _where(folder),
                f"{network.voxel_nm:g} nm",
                f"{network.threshold:g}",
                f"{network.shape.levels} levels, {network.shape.filters} filters",
                network.weights_sha256[:12],
                _shortened(_licence(network) + _first_sentence(_card(network))),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    for remark in remarks:
        print(remark)
    print(f"your own models: {user_models_folder()}")


@app.command("show", epilog=epilog("models show"))
def show(name: NameArgument = "default") -> None:
    """Tell what a model is: how it wants tomograms, its threshold, and its card."""
    from deepvesicle.network.zoo import load_network

    network = load_network(name)
    rows = {
        "folder": str(network.folder),
        "voxel size": f"{network.voxel_nm:g} nm; tomograms are rescaled to it",
        "grey values": _grey_values(network),
        "U-Net": f"{network.shape.levels} levels, {network.shape.filters} filters",
        "threshold": f"{network.threshold:g}",
        "scores": "calibrated on phantoms" if network.config.get("evidence") else "not calibrated",
        "weights": f"sha256 {network.weights_sha256}",
    }
    print(network.name)
    for title, text in rows.items():
        print(f"  {title:<12} {text}")
    card = _card(network)
    if card:
        print(f"\n{card.rstrip()}")


@app.command("path", epilog=epilog("models path"))
def path(
    name: Annotated[str | None, typer.Argument(help="Name of a model; without, the folder of your own models.")] = None,
) -> None:
    """Print the folder of a model, or of your own models."""
    from deepvesicle.network.zoo import model_folder, user_models_folder

    print(user_models_folder() if name is None else model_folder(name))


@app.command("import", epilog=epilog("models import"))
def import_model(
    file: Annotated[
        Path, typer.Argument(help="Weights of deep-prepyto or CryoVesNet (HDF5, .h5).", show_default=False)
    ],
    name: Annotated[str, typer.Option(help="What the model is to be called.")] = PUBLISHED_NAME,
    calibrate: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Phantoms on which the scores are calibrated, some seconds each; 0: not at all."
        ),
    ] = CALIBRATION_PHANTOMS,
    overwrite: OverwriteOption = False,
) -> None:
    """Bring in the published network of deep-prepyto / CryoVesNet, from its weights file."""
    from deepvesicle.commands.calibrating import calibrated
    from deepvesicle.commands.console import warn
    from deepvesicle.errors import OutputExistsError, UsageError
    from deepvesicle.network.published import import_published
    from deepvesicle.network.shipped import shipped_models_folder
    from deepvesicle.network.zoo import CONFIG_NAME, is_model_name, new_model, user_models_folder

    if not is_model_name(name):
        raise UsageError(
            "--name cannot be the name of a model",
            expected="letters, digits, dots, hyphens and underscores",
            got=repr(name),
        )
    if file.is_dir():
        raise UsageError(
            f"{file} is a folder",
            expected="a weights file (.h5)",
            remedy="A model's folder is used with --model FOLDER",
        )
    folder = user_models_folder() / name
    if folder.exists() and not overwrite:
        raise OutputExistsError(f"{folder} exists already", remedy="Give another --name, or --overwrite")
    with new_model(folder) as new:
        network = import_published(file, new)
        if calibrate:
            extra: dict[str, Any] = {}
            card = calibrated(network, calibrate, extra)
            import_published(file, new, extra=extra, calibration=card)
    if (shipped_models_folder() / name / CONFIG_NAME).is_file():
        warn(f"{name} now stands for this model, no longer for the one that comes with deepvesicle")
    print(f"wrote {folder}")
    print("These weights are under the GPL-3.0, which they keep: mind it if you pass the model on.")
    print(f"Use it with: deepvesicle segment TOMOGRAM --model {name}")


def _where(folder: Path) -> str:
    from deepvesicle.network.shipped import shipped_models_folder

    return "shipped" if folder.parent == shipped_models_folder() else "own"


def _grey_values(network: Network) -> str:
    """How the network wants its grey values prepared, in words."""
    from deepvesicle.network.normalise import Z_SCORE

    method = network.normalisation
    scaled = "mean and SD of the whole volume" if method.kind == Z_SCORE else "mean and SD, gold and rims cut off"
    return (f"blurred with SD {method.blur_vox:g} voxels; " if method.blur_vox else "") + scaled


def _card(network: Network) -> str:
    from deepvesicle.network.zoo import CARD_NAME

    try:
        return (network.folder / CARD_NAME).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _licence(network: Network) -> str:
    """The licence in brackets where a model names its own."""
    source = network.config.get("source")
    licence = source.get("licence") if isinstance(source, dict) else None
    return f"[{licence}] " if licence else ""


def _first_sentence(card: str) -> str:
    """The first words of a card below its title."""
    text = " ".join(line for line in card.split("\n\n")[1:2]).replace("\n", " ").strip()
    return text.split(". ")[0].rstrip(".")


def _shortened(text: str) -> str:
    return text if len(text) <= _REMARK_WIDTH else text[: _REMARK_WIDTH - 3].rstrip() + "..."
