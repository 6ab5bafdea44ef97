"""The shell commands in the documents: where they stand, and which are not run, with the reason."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: README and all pages that are written by hand, by the names of their files.
PAGES = {path.name: path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
#: Lines that are never run by the tests of the documents, and why.
NOT_RUN = {
    r"3dmod ": "needs IMOD and a person; that its files are there is tested",
    r"bin/(demo|test|make-docs|make-pictures|benchmark|train-default-model|learn-looks|calibrate-scores)\b": (
        "runs as it is in a checkout, the first two at every test of the whole"
    ),
    r"(bin/test|\.venv/bin/ruff) ": "for contributors",
    r"(pip|apt|apt-get) install": "changes the computer",
    r"deepvesicle fix .*--(live|watch)\b": "waits for 3dmod or the user; tests/imod_bridge and tests/commands do",
    r"deepvesicle batch .*--cluster\b": "needs a cluster, or many cores; tests/batch and tests/cluster do",
    r"sbatch ": "needs SLURM; tests/cluster does",
    r"deepvesicle demo\b": "bin/demo is run at every test of the whole",
}
#: Packages that a line needs, and that are not always installed.
NEEDS = {r".*\.star\b": "starfile"}
_FENCE = re.compile(
    r"^(?:<!-- not run: (?P<mark>[^>]+?) -->\n)?^```(?P<language>[a-z]*)\n(?P<text>.*?)^```", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a document.

    Parameters
    ----------
    language : str
    lines : tuple of str
        Of shell blocks the commands, without comments, lines that go on joined; else the lines as they are.
    mark : str
        Why it is not run; empty: it is.
    number : int
        Line of the document.
    """

    language: str
    lines: tuple[str, ...]
    mark: str
    number: int


def blocks_of(text: str) -> list[Block]:
    """All fenced blocks of a Markdown text."""
    found = []
    for match in _FENCE.finditer(text):
        language, content = match["language"], match["text"]
        lines = tuple(commands_in(content) if language == "sh" else content.splitlines())
        found.append(Block(language, lines, match["mark"] or "", text[: match.start()].count("\n") + 1))
    return found


def commands_in(text: str) -> list[str]:
    """The commands of a shell block."""
    joined = re.sub(r"\\\n\s*", "", text)
    bare = (re.sub(r"(^|\s+)#.*", "", line).strip() for line in joined.splitlines())
    return [line for line in bare if line]


def reason_not_to_run(line: str) -> str | None:
    """Why a line is not run, or None."""
    for pattern, reason in NOT_RUN.items():
        if re.match(pattern, line):
            return reason
    for pattern, package in NEEDS.items():
        if re.match(pattern, line) and importlib.util.find_spec(package) is None:
            return f"{package} is not installed"
    return None
