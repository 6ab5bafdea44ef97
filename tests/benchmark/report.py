"""The page `docs/benchmarks.md`: a section for each benchmark, replaced when that one is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED_DATA = ROOT.parent / "shared" / "data"
PAGE = ROOT / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Row:
    """One line of a table: what was measured of what, our figure and that of the baseline."""

    case: str
    figure: str
    ours: str
    plain: str = ""


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown, line by line."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return [lines[0], f"|{'---|' * len(head)}", *lines[1:]]


def table(rows: Sequence[Row], baseline: str) -> list[str]:
    """The rows in Markdown."""
    return markdown(("case", "figure", "deepvesicle", baseline), [(r.case, r.figure, r.ours, r.plain) for r in rows])


def write_section(name: str, lines: Sequence[str], page: Path = PAGE) -> None:
    """Put a section into the page in place of the one of the same name, or at its end."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    text = page.read_text(encoding="utf-8") if page.exists() else "# Benchmarks\n"
    section = "\n".join([start, "", *lines, "", end])
    if start in text and end in text:
        text = text[: text.index(start)] + section + text[text.index(end) + len(end) :]
    else:
        text = f"{text.rstrip()}\n\n{section}\n"
    page.write_text(text, encoding="utf-8")
    print(f"wrote {page}: {name}")
