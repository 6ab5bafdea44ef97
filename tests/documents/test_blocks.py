"""How the commands in documents are found."""

from __future__ import annotations

from tests.documents.blocks import PAGES, blocks_of, commands_in, reason_not_to_run

PAGE = """Text

```sh
# a comment
deepvesicle fix a.mrc \\
    b.mod   # and why
```

<!-- not run: needs a queue -->
```sh
sbatch job.sh
```

```text
as it is # here
```
"""


def test_blocks_have_commands_marks_and_places() -> None:
    first, second, third = blocks_of(PAGE)
    assert first.lines == ("deepvesicle fix a.mrc b.mod",) and first.mark == "" and first.number == 3
    assert second.lines == ("sbatch job.sh",) and second.mark == "needs a queue"
    assert third.language == "text" and third.lines == ("as it is # here",)


def test_a_hash_inside_a_word_is_no_comment() -> None:
    assert commands_in("a b#c\n\n#d\n") == ["a b#c"]


def test_what_is_not_run_has_a_reason() -> None:
    assert reason_not_to_run("deepvesicle fix --live tomo.mrc results/tomo_vesicles.mod")
    assert reason_not_to_run("3dmod tomo.mrc") and reason_not_to_run("bin/demo")
    assert reason_not_to_run("deepvesicle fix tomo.mrc live.mod") is None
    assert reason_not_to_run("deepvesicle segment tomo.mrc -o results") is None


def test_shell_blocks_are_marked_as_such() -> None:
    """A command in a block of no language would be run by nobody."""
    for name, path in PAGES.items():
        for block in blocks_of(path.read_text(encoding="utf-8")):
            assert block.language, f"{name}, line {block.number}: name the language of the block"
            assert block.language not in {"bash", "shell", "console"}, f"{name}, line {block.number}: write sh"
            if block.language == "sh":
                assert block.lines, f"{name}, line {block.number}: no command"
