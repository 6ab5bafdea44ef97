"""Every command has help, an example that runs, and a page."""

from __future__ import annotations

import importlib.util
import re
from types import ModuleType
from typing import Any

import pytest
import typer

from deepvesicle.commands.examples import EXAMPLES, MOST_USED, first_examples
from deepvesicle.commands.main import app
from tests.documents.blocks import ROOT, blocks_of, reason_not_to_run
from tests.documents.sandbox import Sandbox


def all_commands() -> dict[str, Any]:
    """Those of groups as "group command"."""
    found = {}
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        found.update({f"{name} {key}": value for key, value in inner.items()} if inner else {name: command})
    return found


COMMANDS = all_commands()


@pytest.fixture(scope="module")
def site() -> ModuleType:
    """The hook that makes the pages."""
    spec = importlib.util.spec_from_file_location("command_pages", ROOT / "docs" / "command_pages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_an_example(name: str) -> None:
    command = COMMANDS[name]
    assert command.help and command.help.strip().endswith((".", "`."))
    for parameter in command.params:
        assert parameter.help, f"{name} {parameter.name} has no help"
    for example in EXAMPLES[name]:
        assert example.line.startswith(f"deepvesicle {name} "[: len(example.line)]) and example.does
        assert example.line in (command.epilog or ""), f"the example is not shown below the help of {name}"


def test_there_are_no_examples_of_other_commands() -> None:
    assert set(EXAMPLES) == set(COMMANDS)
    assert all(f"deepvesicle {name}" in first_examples() for name in MOST_USED)


def test_examples_run(sandbox: Sandbox) -> None:
    """In the order of the help, in one folder: what one makes the next may read."""
    printed = {example.line: sandbox.run(example.line) for name in EXAMPLES for example in EXAMPLES[name]}
    silent = [line for line, text in printed.items() if not text.strip() and reason_not_to_run(line) is None]
    assert not silent


def test_every_command_has_a_page_with_all_its_options(site: ModuleType) -> None:
    pages = site.pages()
    index = pages[site.INDEX]
    for name, command in COMMANDS.items():
        page = pages[f"commands/{name.split()[0]}.md"]
        assert f"({name.split()[0]}.md)" in index
        for parameter in command.params:
            if parameter.name != "help":
                shown = [*parameter.opts, *parameter.secondary_opts] if site.is_option(parameter) else []
                assert all(f"`{option}`" in page for option in shown), f"{name}: {shown}"
        lines = [line for block in blocks_of(page) if block.language == "sh" for line in block.lines]
        assert {example.line for example in EXAMPLES[name]} <= set(lines)


def test_tables_of_pages_are_whole(site: ModuleType) -> None:
    for path, page in site.pages().items():
        for row in re.findall(r"^\|.*$", page, re.MULTILINE):
            bare = re.sub(r"`[^`]*`", "", row.replace("\\|", ""))
            assert bare.count("|") == 3 and row.endswith("|"), f"{path}: {row}"
