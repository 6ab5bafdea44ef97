"""Every command in the documents runs as it stands there, or carries a reason why not; what it prints is as shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.documents.blocks import PAGES, blocks_of
from tests.documents.sandbox import Sandbox

#: Pages whose commands other tests run: the tutorial, and what is printed after clicks.
ELSEWHERE, OTHER_OUTPUT = {"train.md"}, {"imod.md"}


def has_commands(path: Path) -> bool:
    return any(block.language == "sh" and not block.mark for block in blocks_of(path.read_text(encoding="utf-8")))


def masked(line: str) -> str:
    """A line without its numbers and its spacing."""
    return " ".join(re.sub(r"[-+]?\d+(\.\d+)?", "#", line).split())


@pytest.mark.parametrize("name", [name for name, path in PAGES.items() if has_commands(path) and name not in ELSEWHERE])
def test_commands_run_and_print_what_is_shown(name: str, sandbox: Sandbox) -> None:
    blocks = blocks_of(PAGES[name].read_text(encoding="utf-8"))
    if not any("-o results" in line for block in blocks for line in block.lines):
        sandbox.have_results()
    printed = ""
    for block in blocks:
        if block.language == "sh":
            printed = "" if block.mark else "".join(sandbox.run(line) for line in block.lines)
        elif block.language == "text" and name not in OTHER_OUTPUT and printed:
            there = {masked(line) for line in printed.splitlines()}
            missing = [line for line in block.lines if line != "..." and masked(line) not in there]
            assert not missing, f"{name}, line {block.number}: not printed any more: {missing}\n{printed}"
