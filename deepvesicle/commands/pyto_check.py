"""`deepvesicle pyto --check`: what Pyto could not work with in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from deepvesicle.errors import BadInputError

if TYPE_CHECKING:
    from deepvesicle.handover.findings import Finding


def check_and_tell(root: Path, *, as_json: bool) -> None:
    """Print what a check finds; an error if Pyto would not work.

    Raises
    ------
    BadInputError
        There are findings of severity ERROR, or there is no such folder.
    """
    from deepvesicle.handover.check import check_folder
    from deepvesicle.handover.findings import Severity

    if not root.is_dir():
        raise BadInputError(f"{root} is not a folder", expected="a work folder of Pyto, in which common/ lies")
    findings = check_folder(root)
    if as_json:
        print(json.dumps([finding.to_json() for finding in findings], indent=2, allow_nan=False))
    else:
        print("\n".join(checked_lines(findings)))
    errors = sum(finding.severity is Severity.ERROR for finding in findings)
    if errors:
        found = "1 finding" if errors == 1 else f"{errors} findings"
        raise BadInputError(f"{root}: with {found} of {len(findings)}, Pyto would crash or find nothing")


def checked_lines(findings: list[Finding]) -> list[str]:
    """Findings for the terminal."""
    return [str(finding) for finding in findings] or ["nothing is wrong with this folder"]
