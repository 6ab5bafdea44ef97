"""A hook of MkDocs: a page for every command, made from the program at every build, so that none is out of date."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Any

import typer

from deepvesicle.commands.examples import EXAMPLES
from deepvesicle.commands.main import app

#: Of a line of code in a page, characters.
_WIDTH = 80
FOLDER, INDEX, TITLE = "commands", "commands/index.md", "Commands"
#: Pages that tell more, with their titles.
MORE = {
    "segment": ("quickstart.md", "Quick start"),
    "batch": ("cluster.md", "Many tomograms"),
    "fix": ("imod.md", "Correcting in 3dmod"),
    "prepare": ("train.md", "A network of your own"),
    "train": ("train.md", "A network of your own"),
    "models": ("train.md", "A network of your own"),
    "evaluate": ("evaluate.md", "Comparing two segmentations"),
    "report": ("report.md", "The report"),
    "export": ("export.md", "Vesicles for other programs"),
    "stats": ("stats.md", "Statistics of vesicles"),
    "pyto": ("pyto.md", "Handing over to Pyto"),
    "demo": ("quickstart.md", "Quick start"),
    "phantom": ("how-it-works.md", "How it works"),
    "check": ("troubleshooting.md", "When something is wrong"),
    "info": ("troubleshooting.md", "When something is wrong"),
}


def on_config(config: Any) -> Any:
    """Put the commands into the navigation."""
    listed = [{"All commands": INDEX}, *({name: f"{FOLDER}/{name}.md"} for name in commands())]
    config.nav = [{TITLE: listed} if isinstance(item, dict) and TITLE in item else item for item in config.nav]
    return config


def on_files(files: Any, *, config: Any) -> Any:
    """Add the pages."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def commands() -> dict[str, Any]:
    """The commands by name, groups too, in the order of the help."""
    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def pages() -> dict[str, str]:
    """All pages, by their places in the documents."""
    found = {f"{FOLDER}/{name}.md": page(name, command) for name, command in commands().items()}
    return {INDEX: index(), **found}


def index() -> str:
    """The page that lists them."""
    rows = [f"| [`{name}`]({name}.md) | {summary(command)} |" for name, command in commands().items()]
    return "\n".join(
        [
            "# Commands",
            "",
            "All commands have `--help`, which says the same as these pages. `deepvesicle --version` prints the",
            "version, and `--debug`, anywhere in a command, shows where in the program an error came from.",
            "",
            "| command | what it does |",
            "|---|---|",
            *rows,
            "",
            "They end with 0 when done, 2 for wrong options or an output that cannot be written, 3 for an input that",
            "cannot be used, and 4 where some of several tomograms failed.",
            "",
        ]
    )


def page(name: str, command: Any) -> str:
    """The page of a command, with all commands of a group."""
    lines = [f"# deepvesicle {name}", ""]
    if hasattr(command, "commands"):
        lines += [command.help, ""]
        for inner, its in command.commands.items():
            lines += [f"## deepvesicle {name} {inner}", "", *body(f"{name} {inner}", its)]
    else:
        lines += body(name, command)
    more, title = MORE[name]
    return "\n".join([*lines, f"More: [{title}](../{more})", ""])


def body(name: str, command: Any) -> Iterator[str]:
    """Help, examples, arguments and options of one command."""
    arguments = [p for p in command.params if not is_option(p) and not p.hidden]
    options = [p for p in command.params if is_option(p) and not p.hidden and p.name != "help"]
    yield from (command.help, "", "```text", usage(name, arguments), "```", "")
    yield from ("Examples" if len(EXAMPLES[name]) > 1 else "Example", "", "```sh")
    for example in EXAMPLES[name]:
        yield from (f"# {example.does}", folded(example.line))
    yield from ("```", "")
    for title, rows in (("argument", arguments), ("option", options)):
        if rows:
            yield from (f"| {title} | meaning |", "|---|---|", *map(row, rows), "")


def folded(line: str) -> str:
    """A command line, broken before options where it is long."""
    parts = textwrap.wrap(
        line.replace(" -", "\0-").replace(" ", "\1").replace("\0", " "), _WIDTH - 6, break_on_hyphens=False
    )
    return " \\\n    ".join(parts).replace("\1", " ")


def usage(name: str, arguments: list[Any]) -> str:
    """How the command is called."""
    words = [metavar(p) if p.required else f"[{metavar(p)}]" for p in arguments]
    return " ".join(["deepvesicle", name, *words, "[OPTIONS]"])


def is_option(parameter: Any) -> bool:
    """Whether it begins with hyphens."""
    return bool(parameter.opts[0].startswith("-"))


def metavar(parameter: Any) -> str:
    """What stands for the value."""
    text = str(parameter.metavar or parameter.name.upper())
    return text[1:-1] if re.fullmatch(r"\[[^\[\]]*\]", text) else text


def row(parameter: Any) -> str:
    """A line of the table of arguments or of options."""
    if is_option(parameter):
        names = sorted(parameter.opts, key=lambda text: text.startswith("--")) + parameter.secondary_opts
        shown = ", ".join(f"`{name}`" for name in names)
        shown += "" if parameter.is_flag else f" `{metavar(parameter)}`"
    else:
        shown = f"`{metavar(parameter)}`"
    text = " ".join((parameter.help or "").split()).replace("|", "\\|")
    known = parameter.default if parameter.show_default is True and not parameter.required else None
    # typer.models.DefaultPlaceholder and callables are no values that a user gives.
    if isinstance(known, (int, float, str, tuple)) and not isinstance(known, bool) and str(known) not in text:
        shown_default = " ".join(map(str, known)) if isinstance(known, tuple) else str(known)
        text += f" Default: `{shown_default}`." if shown_default else ""
    if parameter.required and is_option(parameter):
        text += " Required."
    return f"| {shown} | {text} |"


def summary(command: Any) -> str:
    """The first sentence of a help text."""
    return " ".join(command.help.split("\n\n")[0].split())
